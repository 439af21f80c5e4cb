//! The back end: it answers what the strictest reader understands with the request's target, and keeps what that reader
//! does not understand.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use wasmgate_smuggling::reader::{Parsed, parse};

use super::lock;

/// What has been seen.
#[derive(Default)]
struct Seen {
    findings: Mutex<Vec<String>>,
    requests: AtomicU64,
}

/// A back end that runs for as long as the process does.
pub(super) struct Backend {
    address: SocketAddr,
    seen: Arc<Seen>,
}

impl Backend {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("its address");
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &seen));
            }
        });
        Self { address, seen }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn take_findings(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.seen.findings))
    }

    pub(super) fn requests(&self) -> u64 {
        self.seen.requests.load(Ordering::Relaxed)
    }
}

fn serve(mut stream: TcpStream, seen: &Seen) {
    let mut buffer = Vec::new();
    loop {
        match parse(&buffer) {
            Parsed::Request { line, target, end } => {
                seen.requests.fetch_add(1, Ordering::Relaxed);
                buffer.drain(..end);
                let body = if line.starts_with("HEAD ") { "" } else { &target };
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", target.len());
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
            Parsed::Ambiguous(what) => {
                lock(&seen.findings).push(format!("{what}: {}", buffer.escape_ascii()));
                return;
            }
            Parsed::Partial(_) => {
                let mut chunk = [0; 16 << 10];
                // Cut off, or at its end: both are ways in which a connection may close.
                let Ok(read @ 1..) = stream.read(&mut chunk) else { return };
                buffer.extend_from_slice(chunk.get(..read).unwrap_or_default());
            }
        }
    }
}
