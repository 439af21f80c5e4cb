//! Redis call-outs (Higress; spec: proxy-wasm-host §9.5): one connection per cluster and worker, requests in a row.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Mutex;
use wasmgate_plugin::calls::RedisOptions;

use super::Target;
use crate::upstream::{OpenConnection, Spoken, UpstreamSocket};
use crate::worker::WorkerContext;

/// Without `redis_init`.
const TIMEOUT: Duration = Duration::from_secs(1);
/// A reply may not be larger.
const REPLY_BYTES_MAX: usize = 16 << 20;
/// Arrays in arrays.
const DEPTH_MAX: usize = 32;

/// A connection and what has been read of the next reply.
#[derive(Debug)]
struct Connection {
    stream: UpstreamSocket,
    _open: OpenConnection,
    input: BytesMut,
}

#[derive(Debug)]
struct Client {
    options: RedisOptions,
    /// Held for one request and its reply.
    connection: Mutex<Option<Connection>>,
}

/// A plug-in and a cluster.
type Key = (Arc<str>, String);

/// The Redis clusters that a worker talks to, by plug-in and cluster: unlike in Higress, nobody uses the connection that
/// another plug-in has logged in on, or takes its credentials away.
#[derive(Debug, Default)]
pub(super) struct Clients(RefCell<HashMap<Key, Rc<Client>>>);

impl Clients {
    /// New credentials close the connection that there may be.
    pub(super) fn init(&self, plugin: Arc<str>, options: RedisOptions) {
        let key = (plugin, options.cluster.clone());
        self.0.borrow_mut().insert(key, Rc::new(Client { options, connection: Mutex::default() }));
    }

    fn client(&self, plugin: Arc<str>, cluster: &str) -> Rc<Client> {
        let mut clients = self.0.borrow_mut();
        let client = clients.entry((plugin, cluster.to_owned())).or_insert_with(|| {
            let options = RedisOptions {
                cluster: cluster.to_owned(),
                user: String::new(),
                password: String::new(),
                database: 0,
                timeout: TIMEOUT,
            };
            Rc::new(Client { options, connection: Mutex::default() })
        });
        Rc::clone(client)
    }

    /// Sends a complete request; the bytes of its reply, or `None`.
    pub(super) async fn call(
        &self,
        worker: &Weak<WorkerContext>,
        plugin: Arc<str>,
        cluster: &str,
        query: Bytes,
    ) -> Option<Bytes> {
        let client = self.client(plugin, cluster);
        let time = client.options.timeout;
        tokio::time::timeout(time, client.call(worker, query)).await.ok().flatten()
    }
}

impl Client {
    async fn call(&self, worker: &Weak<WorkerContext>, query: Bytes) -> Option<Bytes> {
        let mut slot = self.connection.lock().await;
        // Taken out: if this call is given up half-way, the connection goes with it and no reply meets a stranger.
        let connection = slot.take();
        let mut connection = match connection {
            Some(connection) => connection,
            None => self.open(worker).await?,
        };
        let reply = connection.exchange(&query).await?;
        *slot = Some(connection);
        Some(reply)
    }

    async fn open(&self, worker: &Weak<WorkerContext>) -> Option<Connection> {
        let target = Target::find(worker, &self.options.cluster).ok()?;
        let (stream, open) = target.connect(Spoken::Tcp).await.ok()?;
        let mut connection = Connection { stream, _open: open, input: BytesMut::new() };
        let RedisOptions { user, password, database, .. } = &self.options;
        if !password.is_empty() {
            let login: Vec<&[u8]> = if user.is_empty() {
                vec![b"AUTH", password.as_bytes()]
            } else {
                vec![b"AUTH", user.as_bytes(), password.as_bytes()]
            };
            connection.command(&login).await?;
        }
        if *database > 0 {
            connection.command(&[b"SELECT", database.to_string().as_bytes()]).await?;
        }
        Some(connection)
    }
}

impl Connection {
    /// A command whose reply must not be an error.
    async fn command(&mut self, words: &[&[u8]]) -> Option<()> {
        let mut query = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            query.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            query.extend_from_slice(word);
            query.extend_from_slice(b"\r\n");
        }
        let reply = self.exchange(&query).await?;
        if reply.starts_with(b"-") {
            tracing::warn!(target: "upstream", "redis: {}", String::from_utf8_lossy(&reply).trim_end());
            return None;
        }
        Some(())
    }

    async fn exchange(&mut self, query: &[u8]) -> Option<Bytes> {
        self.stream.write_all(query).await.ok()?;
        let mut scan = ReplyScan::default();
        loop {
            match scan.length(&self.input) {
                Ok(Some(len)) => return Some(self.input.split_to(len).freeze()),
                Ok(None) if self.input.len() < REPLY_BYTES_MAX => {}
                Ok(None) | Err(NotResp) => return None,
            }
            if self.stream.read_buf(&mut self.input).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// The bytes are not Redis' protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NotResp;

/// How far a reply has been looked through: bytes that have been seen are not looked at again, however many pieces it
/// comes in.
#[derive(Debug, Default)]
struct ReplyScan {
    /// Where the next element begins.
    at: usize,
    /// Up to here there is no end of that element's line.
    searched: usize,
    /// Elements that are still to come in each array that is open, the innermost last.
    open: Vec<usize>,
}

impl ReplyScan {
    /// The length of the reply at the beginning of `input`, which has grown since the last call; `None` while it is not
    /// complete.
    fn length(&mut self, input: &[u8]) -> Result<Option<usize>, NotResp> {
        loop {
            let unseen = input.get(self.searched..).unwrap_or_default();
            let Some(found) = unseen.windows(2).position(|w| w == b"\r\n") else {
                self.searched = input.len().saturating_sub(1).max(self.at);
                return Ok(None);
            };
            let end = self.searched + found;
            let line = input.get(self.at..end).unwrap_or_default();
            let (kind, line) = line.split_first().ok_or(NotResp)?;
            let mut after = end + 2;
            match kind {
                b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
                b'$' | b'!' | b'=' => {
                    if let Some(len) = count(line)? {
                        after = after.checked_add(len).and_then(|t| t.checked_add(2)).ok_or(NotResp)?;
                    }
                    if input.len() < after {
                        self.searched = end;
                        return Ok(None);
                    }
                }
                b'*' | b'~' | b'>' | b'%' => {
                    let items = count(line)?.unwrap_or(0);
                    let items = if *kind == b'%' { items.checked_mul(2).ok_or(NotResp)? } else { items };
                    if self.open.len() >= DEPTH_MAX {
                        return Err(NotResp);
                    }
                    // One more for itself: it ends with its last element.
                    self.open.push(items.saturating_add(1));
                }
                _ => return Err(NotResp),
            }
            (self.at, self.searched) = (after, after);
            if self.is_over() {
                return Ok(Some(after));
            }
        }
    }

    /// An element is over, and with it every array whose last one it is; whether the reply is.
    fn is_over(&mut self) -> bool {
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left > 0 {
                return false;
            }
            self.open.pop();
        }
        true
    }
}

/// A count in an element's line; -1 is null.
fn count(line: &[u8]) -> Result<Option<usize>, NotResp> {
    let text = std::str::from_utf8(line).map_err(|_| NotResp)?;
    let number: i64 = text.parse().map_err(|_| NotResp)?;
    Ok(usize::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plug_in_does_not_use_what_another_has_logged_in_on() {
        let clients = Clients::default();
        let options = RedisOptions {
            cluster: "redis".to_owned(),
            user: String::new(),
            password: "secret".to_owned(),
            database: 1,
            timeout: TIMEOUT,
        };
        clients.init("a.one".into(), options);
        assert_eq!(clients.client("a.one".into(), "redis").options.password, "secret");
        assert_eq!(clients.client("b.two".into(), "redis").options.password, "");
    }

    fn reply_len(input: &[u8]) -> Result<Option<usize>, NotResp> {
        ReplyScan::default().length(input)
    }

    #[test]
    fn replies_end_where_they_end() {
        for whole in [
            "+OK\r\n",
            "-ERR x\r\n",
            ":12\r\n",
            "$5\r\nhello\r\n",
            "$-1\r\n",
            "*2\r\n$1\r\na\r\n:1\r\n",
            "*-1\r\n",
            "*0\r\n",
            "%1\r\n+k\r\n+v\r\n",
            "*1\r\n*1\r\n$0\r\n\r\n",
        ] {
            let followed = format!("{whole}+next\r\n");
            assert_eq!(reply_len(followed.as_bytes()), Ok(Some(whole.len())), "{whole:?}");
            for cut in 1..whole.len() {
                let part = whole.as_bytes().split_at(cut).0;
                assert_eq!(reply_len(part), Ok(None), "{whole:?} cut at {cut}");
            }
        }
        for bad in ["x\r\n", "$a\r\n", "*x\r\n", "HTTP/1.1 400 Bad Request\r\n"] {
            assert_eq!(reply_len(bad.as_bytes()), Err(NotResp), "{bad:?}");
        }
        let deep = "*1\r\n".repeat(100);
        assert_eq!(reply_len(deep.as_bytes()), Err(NotResp));
    }

    proptest! {
        #[test]
        fn pieces_are_as_the_whole(bytes in "[*$+:%~0-9\\-]{0,3}(\r\n)?[*$+%]?[0-3a]?(\r\n){0,2}([+$][0-2]?\r\n){0,4}") {
            let bytes = bytes.as_bytes();
            let whole = reply_len(bytes);
            let mut scan = ReplyScan::default();
            let mut pieces = Ok(None);
            for end in 0..=bytes.len() {
                pieces = scan.length(bytes.get(..end).unwrap_or_default());
                if pieces != Ok(None) {
                    break;
                }
            }
            prop_assert_eq!(pieces, whole);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = reply_len(&bytes);
        }
    }
}
