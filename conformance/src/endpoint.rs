//! The endpoint behind the gateways: answers as the case says that a request belongs to, and keeps what it got.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::case::{Case, Message};

/// Between the pieces of a body, so that each arrives by itself.
pub(crate) const PAUSE: Duration = Duration::from_millis(40);

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Arrived {
    /// The request line.
    pub line: String,
    /// Headers in lower case; values of a name that is there twice are joined by `|`.
    pub headers: BTreeMap<String, String>,
    /// The body without its framing.
    pub body: String,
}

#[derive(Debug, Default)]
struct State {
    responses: HashMap<String, Message>,
    arrived: Mutex<HashMap<String, Arrived>>,
}

/// A server on loopback. Ends when it is dropped.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    state: Arc<State>,
}

impl Endpoint {
    /// Starts one that knows the responses of all cases.
    ///
    /// # Errors
    /// The system's.
    pub fn start(cases: &[Case]) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let responses = cases.iter().map(|c| (c.id.clone(), c.response.clone())).collect();
        let state = Arc::new(State { responses, arrived: Mutex::default() });
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&state));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Ok(Self { address, stop, state })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes the request of a run of a case, if it has arrived.
    #[must_use]
    pub fn take(&self, run: &str) -> Option<Arrived> {
        self.state.arrived.lock().unwrap_or_else(PoisonError::into_inner).remove(run)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

fn serve(mut stream: TcpStream, state: &State) {
    let mut buffer = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut buffer) {
        let mut arrived = parse(&head);
        let run = arrived.headers.get("x-case").cloned().unwrap_or_default();
        let case = run.split_once('.').map_or(run.as_str(), |(case, _)| case).to_owned();
        arrived.body = read_body(&mut stream, &mut buffer, &arrived);
        let call = arrived.line.contains(" /call");
        if !call {
            state.arrived.lock().unwrap_or_else(PoisonError::into_inner).insert(run, arrived.clone());
        }
        let message = state.responses.get(&case).cloned().unwrap_or_default();
        let answered = match () {
            () if call => stream.write_all(called(&arrived).as_bytes()).is_ok(),
            () if message.closes => false,
            () => answer(&mut stream, &message, arrived.line.starts_with("HEAD ")).is_ok(),
        };
        if !answered {
            return;
        }
    }
}

/// What call-outs get, by their path.
fn called(arrived: &Arrived) -> String {
    let text = format!("{} {}", arrived.line.trim_end_matches(" HTTP/1.1"), arrived.body);
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-called: yes\r\n\r\n{text}", text.len())
}

fn answer(stream: &mut TcpStream, message: &Message, to_head: bool) -> std::io::Result<()> {
    let status = if message.status.is_empty() { "200 OK" } else { &message.status };
    let mut head = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in &message.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if message.chunks.is_empty() {
        let body = if message.body.is_empty() { "fine" } else { &message.body };
        let bodiless = status.starts_with("204") || status.starts_with("304");
        if !bodiless {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        if !bodiless && !to_head {
            head.push_str(body);
        }
        return stream.write_all(head.as_bytes());
    }
    head.push_str("transfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    for chunk in &message.chunks {
        std::thread::sleep(PAUSE);
        stream.write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes())?;
    }
    std::thread::sleep(PAUSE);
    stream.write_all(b"0\r\n\r\n")
}

fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut chunk = [0; 16 << 10];
    let read = stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
    buffer.extend_from_slice(chunk.get(..read)?);
    Some(())
}

fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            return Some(String::from_utf8_lossy(&head).into_owned());
        }
        fill(stream, buffer)?;
    }
}

fn parse(head: &str) -> Arrived {
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default().to_owned();
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in lines.filter_map(|l| l.split_once(':')) {
        let (name, value) = (name.to_ascii_lowercase(), value.trim());
        headers
            .entry(name)
            .and_modify(|all| *all = format!("{all}|{value}"))
            .or_insert_with(|| value.to_owned());
    }
    Arrived { line, headers, body: String::new() }
}

fn read_body(stream: &mut TcpStream, buffer: &mut Vec<u8>, head: &Arrived) -> String {
    let mut body = Vec::new();
    if head.headers.contains_key("transfer-encoding") {
        loop {
            let Some(end) = buffer.windows(2).position(|w| w == b"\r\n") else {
                if fill(stream, buffer).is_none() {
                    break;
                }
                continue;
            };
            let size = String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).into_owned();
            let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
            while buffer.len() < end + 2 + size + 2 {
                if fill(stream, buffer).is_none() {
                    break;
                }
            }
            body.extend_from_slice(buffer.get(end + 2..end + 2 + size).unwrap_or_default());
            buffer.drain(..(end + 2 + size + 2).min(buffer.len()));
            if size == 0 {
                break;
            }
        }
    } else {
        let length = head.headers.get("content-length").and_then(|l| l.parse::<usize>().ok()).unwrap_or(0);
        while buffer.len() < length {
            if fill(stream, buffer).is_none() {
                break;
            }
        }
        body = buffer.drain(..length.min(buffer.len())).collect();
    }
    String::from_utf8_lossy(&body).into_owned()
}
