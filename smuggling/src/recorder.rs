//! The back end that is a raw socket: it records each request as the strictest reader understands it, and says of
//! everything that another reader could understand differently.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::reader::{Parsed, parse};

/// A recorder that runs. Ends when it is dropped.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    /// Starts one on a port that the system chooses.
    ///
    /// # Errors
    /// The system's.
    pub fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let (stop, lines) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&lines));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || serve(stream, &seen));
            }
        });
        Ok(Self { address, stop, lines })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The request lines so far, and what was ambiguous.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for a connection.
        drop(TcpStream::connect(self.address));
    }
}

fn lock(lines: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut stream: TcpStream, lines: &Mutex<Vec<String>>) {
    let mut buffer = Vec::new();
    let mut announced = false;
    loop {
        match parse(&buffer) {
            Parsed::Request { line, target, end } => {
                if !announced {
                    lock(lines).push(line);
                }
                announced = false;
                buffer.drain(..end);
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{target}", target.len());
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
            Parsed::Ambiguous(what) => {
                let line = buffer.split(|b| *b == b'\r').next().unwrap_or_default();
                let line =
                    String::from_utf8_lossy(line.strip_suffix(b" HTTP/1.1").unwrap_or(line)).into_owned();
                lock(lines).push(format!("AMBIGUOUS {what}: {line}"));
                return;
            }
            Parsed::Partial(head) => {
                // A request whose body never ends has been seen all the same.
                if let Some(line) = head.filter(|_| !announced) {
                    lock(lines).push(line);
                    announced = true;
                }
                let mut chunk = [0; 16 << 10];
                let Ok(read @ 1..) = stream.read(&mut chunk) else { return };
                buffer.extend_from_slice(chunk.get(..read).unwrap_or_default());
            }
        }
    }
}
