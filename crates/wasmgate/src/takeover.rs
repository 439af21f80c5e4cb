//! A new process takes over from one that runs: it gets the sockets that are listened on, with the connections that wait
//! in them, and once it serves the old one lets its own connections end. Nobody is refused in between.
//!
//! Both meet at a Unix socket. The old process sends a line of JSON, which says what sockets follow, and the sockets; the
//! new one says [`SERVING`] once it serves. A new one that ends before has changed nothing.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use wasmgate_proxy::{Gateway, InheritedSockets};

/// What a new process says once it serves.
const SERVING: &[u8] = b"serving\n";
/// Sockets of one message; the system allows 253.
const SOCKETS_PER_MESSAGE: usize = 64;
/// Sockets altogether.
const SOCKETS_MAX: usize = 65_536;
/// The line that says what follows.
const HEADER_BYTES_MAX: usize = 1 << 20;
/// How long either side waits for the other's next word, but for the one that says that it serves.
const WORD_TIME_MAX: Duration = Duration::from_secs(10);

/// What follows the header.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    /// Addresses with the number of their sockets, in the order in which these follow. The admin interface's comes first.
    admin: usize,
    listeners: Vec<(SocketAddr, usize)>,
}

const VERSION: u32 = 1;

/// What a new process has been given.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) admin: Option<TcpListener>,
    pub(crate) sockets: InheritedSockets,
    predecessor: UnixStream,
}

impl Inherited {
    /// Tells the old process that it may go.
    pub(crate) fn confirm(mut self) -> io::Result<()> {
        self.predecessor.write_all(SERVING)
    }
}

/// Asks a process that runs for its sockets. `None`: there is none.
pub(crate) fn inherit(path: &Path) -> io::Result<Option<Inherited>> {
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        // Nobody has ever been there, or whoever was is gone.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let owner = rustix::net::sockopt::socket_peercred(&stream)?.uid;
    if owner != rustix::process::geteuid() {
        return Err(io::Error::other(format!("a process of user {} is there", owner.as_raw())));
    }
    stream.set_read_timeout(Some(WORD_TIME_MAX))?;
    let begun = Instant::now();
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        // One by one: what comes behind the line carries sockets.
        stream.read_exact(&mut byte)?;
        if begun.elapsed() > WORD_TIME_MAX {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match byte {
            [b'\n'] => break,
            [other] if line.len() < HEADER_BYTES_MAX => line.push(other),
            _ => return Err(io::Error::other("the other process says too much")),
        }
    }
    let header: Header = serde_json::from_slice(&line).map_err(io::Error::other)?;
    if header.version != VERSION {
        return Err(io::Error::other(format!(
            "the other process speaks version {} of the protocol, this one {VERSION}",
            header.version
        )));
    }
    let wanted = header.listeners.iter().map(|(_, n)| *n).fold(header.admin, usize::saturating_add);
    if wanted > SOCKETS_MAX {
        return Err(io::Error::other(format!(
            "{wanted} sockets are more than the {SOCKETS_MAX} that are taken"
        )));
    }
    let mut sockets = receive(&stream, wanted)?.into_iter().map(TcpListener::from);
    let admin = sockets.by_ref().take(header.admin).last();
    let mut listeners = BTreeMap::new();
    for (address, count) in header.listeners {
        listeners.insert(address, sockets.by_ref().take(count).collect());
    }
    Ok(Some(Inherited { admin, sockets: listeners, predecessor: stream }))
}

fn receive(stream: &UnixStream, wanted: usize) -> io::Result<Vec<OwnedFd>> {
    let mut out = Vec::new();
    while out.len() < wanted {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received =
            recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                out.extend(sockets);
            }
        }
    }
    Ok(out)
}

fn send(stream: &UnixStream, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    for some in sockets.chunks(SOCKETS_PER_MESSAGE) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_PER_MESSAGE))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(some)) {
            return Err(io::Error::other("no room for so many sockets"));
        }
        sendmsg(stream, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::empty())?;
    }
    Ok(())
}

/// Waits for a successor, at a path of the file system.
#[derive(Debug)]
pub(crate) struct Succession {
    listener: UnixListener,
    /// Where it is before it takes the path's place.
    temporary: PathBuf,
    path: PathBuf,
}

impl Succession {
    /// Opens the socket beside the path.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
        let temporary = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        let _ = std::fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary)?;
        // Whoever can connect can take the sockets.
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, temporary, path: path.to_owned() })
    }

    /// Takes the path's place, from whoever had it.
    pub(crate) fn take_place(&self) -> io::Result<()> {
        std::fs::rename(&self.temporary, &self.path)
    }

    /// Serves those who want to take over until one has done it. Blocks.
    pub(crate) fn wait(&self, gateway: &Gateway, admin: &TcpListener) -> io::Result<()> {
        loop {
            let (stream, _) = self.listener.accept()?;
            let owner = rustix::net::sockopt::socket_peercred(&stream)?.uid;
            if owner != rustix::process::geteuid() {
                tracing::warn!(target: "main", "{}: a process of user {} may not take over", self.path.display(), owner.as_raw());
                continue;
            }
            tracing::info!(target: "main", "{}: another process is about to take over", self.path.display());
            match hand_over(stream, gateway, admin) {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    tracing::warn!(target: "main", "the other process has ended before it served: this one goes on");
                }
                Err(e) => tracing::warn!(target: "main", "nothing was handed over: {e}"),
            }
        }
    }
}

/// Whether the other process serves.
fn hand_over(mut stream: UnixStream, gateway: &Gateway, admin: &TcpListener) -> io::Result<bool> {
    let sockets = gateway.sockets()?;
    stream.set_write_timeout(Some(WORD_TIME_MAX))?;
    let header = Header {
        version: VERSION,
        admin: 1,
        listeners: sockets.iter().map(|(address, sockets)| (*address, sockets.len())).collect(),
    };
    let mut line = serde_json::to_vec(&header).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let all: Vec<BorrowedFd<'_>> =
        std::iter::once(admin.as_fd()).chain(sockets.values().flatten().map(|s| s.as_fd())).collect();
    send(&stream, &all)?;
    let mut word = [0; SERVING.len()];
    // As long as its plug-ins take.
    match stream.read_exact(&mut word) {
        Ok(()) => Ok(word == SERVING),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// Waits for a successor on a thread of its own: until one serves, or for ever.
pub(crate) async fn succeeded(
    succession: Option<Arc<Succession>>,
    gateway: Arc<Gateway>,
    admin: TcpListener,
) {
    let Some(succession) = succession else { return std::future::pending().await };
    let (done, ended) = tokio::sync::oneshot::channel();
    // Not a blocking task of the runtime: nobody shall wait for it at the end.
    let wait = move || {
        let _ = done.send(succession.wait(&gateway, &admin));
    };
    if let Err(e) = std::thread::Builder::new().name("takeover".to_owned()).spawn(wait) {
        tracing::error!(target: "main", "nobody can take over: {e}");
        return std::future::pending().await;
    }
    match ended.await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => {
            tracing::error!(target: "main", "nobody can take over any more: {e}");
            std::future::pending().await
        }
        Err(_) => std::future::pending().await,
    }
}
