//! Redis call-outs (Higress; spec: proxy-wasm-host §9.5): one connection per cluster and worker, requests in a row.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use wasmgate_plugin::calls::RedisOptions;

use super::Target;
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
    stream: TcpStream,
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
        let stream = target.connect().await.ok()?;
        let mut connection = Connection { stream, input: BytesMut::new() };
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
        loop {
            match reply_len(&self.input, 0) {
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

/// The length of the reply at the beginning of `input`; `None` while it is not complete.
fn reply_len(input: &[u8], depth: usize) -> Result<Option<usize>, NotResp> {
    let Some(end) = input.windows(2).position(|w| w == b"\r\n") else { return Ok(None) };
    let line = input.get(1..end).unwrap_or_default();
    let after = end + 2;
    let count = || -> Result<Option<usize>, NotResp> {
        let text = std::str::from_utf8(line).map_err(|_| NotResp)?;
        // -1 is null.
        let number: i64 = text.parse().map_err(|_| NotResp)?;
        Ok(usize::try_from(number).ok())
    };
    match input.first() {
        Some(b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(') => Ok(Some(after)),
        Some(b'$' | b'!' | b'=') => {
            let Some(len) = count()? else { return Ok(Some(after)) };
            let total = after.checked_add(len).and_then(|t| t.checked_add(2)).ok_or(NotResp)?;
            Ok((input.len() >= total).then_some(total))
        }
        Some(kind @ (b'*' | b'~' | b'>' | b'%')) => {
            if depth >= DEPTH_MAX {
                return Err(NotResp);
            }
            let items = count()?.unwrap_or(0);
            let items = if *kind == b'%' { items.checked_mul(2).ok_or(NotResp)? } else { items };
            let mut rest = input;
            rest.advance(after);
            let mut total = after;
            for _ in 0..items {
                let Some(len) = reply_len(rest, depth + 1)? else { return Ok(None) };
                rest.advance(len);
                total += len;
            }
            Ok(Some(total))
        }
        _ => Err(NotResp),
    }
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
            assert_eq!(reply_len(followed.as_bytes(), 0), Ok(Some(whole.len())), "{whole:?}");
            for cut in 1..whole.len() {
                let part = whole.as_bytes().split_at(cut).0;
                assert_eq!(reply_len(part, 0), Ok(None), "{whole:?} cut at {cut}");
            }
        }
        for bad in ["x\r\n", "$a\r\n", "*x\r\n", "HTTP/1.1 400 Bad Request\r\n"] {
            assert_eq!(reply_len(bad.as_bytes(), 0), Err(NotResp), "{bad:?}");
        }
        let deep = "*1\r\n".repeat(100);
        assert_eq!(reply_len(deep.as_bytes(), 0), Err(NotResp));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = reply_len(&bytes, 0);
        }
    }
}
