//! A DNS server that says what a test wants, or nothing.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What is known of names; `None`: no answer is given at all.
type Names = Arc<Mutex<HashMap<String, Option<Vec<Ipv4Addr>>>>>;

/// A server for IPv4 addresses over UDP on loopback, whose answers are good for a second. Ends when it is dropped.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    names: Names,
    questions: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

const TTL_SECONDS: u32 = 1;
const TYPE_A: [u8; 2] = [0, 1];
const NXDOMAIN: u8 = 3;

impl DnsServer {
    /// Starts one that knows no name.
    ///
    /// # Errors
    /// The system's.
    pub fn start() -> std::io::Result<Self> {
        let socket = UdpSocket::bind(("127.0.0.1", 0))?;
        let address = socket.local_addr()?;
        let (names, questions, stop) = (Names::default(), Arc::<AtomicUsize>::default(), Arc::default());
        let (known, counted, stopped) = (Arc::clone(&names), Arc::clone(&questions), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((read, client)) = socket.recv_from(&mut query) {
                if AtomicBool::load(&stopped, Ordering::Relaxed) {
                    return;
                }
                counted.fetch_add(1, Ordering::Relaxed);
                if let Some(answer) = query.get(..read).and_then(|query| answer(query, &known)) {
                    // A client that is gone asks no more.
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        Ok(Self { address, names, questions, stop })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Questions so far.
    #[must_use]
    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::Relaxed)
    }

    /// Gives a name addresses; without any it has none, and does not exist.
    pub fn set(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.names
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), Some(addresses.to_vec()));
    }

    /// Gives no answer for a name from now on.
    pub fn hang(&self, name: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), None);
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for a question.
        if let Ok(socket) = UdpSocket::bind(("127.0.0.1", 0)) {
            let _ = socket.send_to(&[0], self.address);
        }
    }
}

/// The answer to a query (RFC 1035 §4).
fn answer(query: &[u8], names: &Names) -> Option<Vec<u8>> {
    let (id, question) = (query.get(..2)?, query.get(12..)?);
    let (mut name, mut at) = (String::new(), 0);
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(question.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = question.get(at..at + 2)?;
    let question = question.get(..at + 4)?;
    let known = names.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
    let addresses = match known {
        Some(None) => return None,
        Some(Some(addresses)) => addresses,
        None => Vec::new(),
    };
    let code = if addresses.is_empty() { NXDOMAIN } else { 0 };
    let addresses = if kind == TYPE_A { addresses } else { Vec::new() };
    let mut out = id.to_vec();
    // A response, recursion desired and available; one question.
    out.extend([0x81, 0x80 | code, 0, 1]);
    out.extend(u16::try_from(addresses.len()).ok()?.to_be_bytes());
    out.extend([0, 0, 0, 0]);
    out.extend(question);
    for address in addresses {
        // The name of the question, class IN.
        out.extend([0xc0, 12, 0, 1, 0, 1]);
        out.extend(TTL_SECONDS.to_be_bytes());
        out.extend([0, 4]);
        out.extend(address.octets());
    }
    Some(out)
}
