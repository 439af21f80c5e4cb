//! An endpoint that does as it is told: answers with given bytes and keeps what it was sent.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How an endpoint treats a request.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Sends these bytes and keeps the connection.
    Answer(Vec<u8>),
    /// Sends these bytes and closes.
    AnswerAndClose(Vec<u8>),
    /// Sends the pieces with pauses between them.
    Pieces(Vec<Vec<u8>>, Duration),
    /// Sends these bytes to the first request of a connection, and closes without an answer on the second.
    AnswerOnce(Vec<u8>),
    /// Closes without an answer.
    Close,
    /// Sends what the function makes of the request; with `None` it never answers.
    Script(fn(&str) -> Option<String>),
}

/// A scripted endpoint. Ends when it is dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Upstream {
    /// Starts one that treats every request alike.
    ///
    /// # Errors
    /// The system's.
    pub fn start(behaviour: Behaviour) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (behaviour, seen) = (behaviour.clone(), Arc::clone(&seen));
                std::thread::spawn(move || serve(stream, &behaviour, &seen));
            }
        });
        Ok(Self { address, stop, requests })
    }

    /// An endpoint that answers 200 with a body.
    ///
    /// # Errors
    /// The system's.
    pub fn ok(body: &str) -> std::io::Result<Self> {
        Self::start(Behaviour::Answer(
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes(),
        ))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests so far, head and body as they came.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        lock(&self.requests).iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for a connection.
        drop(TcpStream::connect(self.address));
    }
}

fn lock(seen: &Mutex<Vec<Vec<u8>>>) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
    seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn serve(mut stream: TcpStream, behaviour: &Behaviour, seen: &Mutex<Vec<Vec<u8>>>) {
    let mut buffer = Vec::new();
    let mut answered = false;
    loop {
        let Some(request) = read_request(&mut stream, &mut buffer) else { return };
        let text = String::from_utf8_lossy(&request).into_owned();
        lock(seen).push(request);
        let sent = match behaviour {
            Behaviour::Answer(bytes) => stream.write_all(bytes),
            Behaviour::AnswerAndClose(bytes) => {
                let _ = stream.write_all(bytes);
                return;
            }
            Behaviour::Pieces(pieces, pause) => pieces.iter().try_for_each(|piece| {
                stream.write_all(piece)?;
                std::thread::sleep(*pause);
                Ok(())
            }),
            Behaviour::AnswerOnce(_) if answered => return,
            Behaviour::AnswerOnce(bytes) => {
                answered = true;
                stream.write_all(bytes)
            }
            Behaviour::Close => return,
            Behaviour::Script(answer) => match answer(&text) {
                Some(text) => stream.write_all(text.as_bytes()),
                None => Ok(()),
            },
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Reads a head and the body that its framing promises.
fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut chunk = [0; 16 << 10];
    loop {
        if let Some(end) = complete(buffer) {
            return Some(buffer.drain(..end).collect());
        }
        let read = stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
        buffer.extend_from_slice(chunk.get(..read)?);
    }
}

fn complete(buffer: &[u8]) -> Option<usize> {
    let head = buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(buffer.get(..head)?).to_ascii_lowercase();
    if text.contains("transfer-encoding: chunked") {
        let body = buffer.get(head..)?;
        return body.windows(5).position(|w| w == b"0\r\n\r\n").map(|at| head + at + 5);
    }
    let length = text
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "))
        .and_then(|l| l.trim().parse::<usize>().ok());
    let end = head + length.unwrap_or(0);
    (buffer.len() >= end).then_some(end)
}
