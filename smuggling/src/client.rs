//! A client that says what it has to say at once, and listens until nothing more comes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long the first byte of an answer is waited for. A request whose body never ends gets none.
const FIRST_BYTE_TIME_MAX: Duration = Duration::from_millis(400);
/// How long nothing may come after it before the client leaves.
const QUIET: Duration = Duration::from_millis(30);
/// What an answer may hold: none of the back ends says more.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Sends bytes; gives what comes back until the connection closes or falls silent.
///
/// # Errors
/// When there is no connection to be had. One that breaks is an answer.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(QUIET))?;
    // Who refuses the beginning may not read the rest: the write must not wait for it.
    stream.set_write_timeout(Some(FIRST_BYTE_TIME_MAX))?;
    let _ = stream.write_all(bytes);
    let began = Instant::now();
    let mut answer = Vec::new();
    let mut chunk = [0; 16 << 10];
    while answer.len() < ANSWER_BYTES_MAX {
        match stream.read(&mut chunk) {
            Ok(read @ 1..) => answer.extend_from_slice(chunk.get(..read).unwrap_or_default()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if !answer.is_empty() || began.elapsed() > FIRST_BYTE_TIME_MAX {
                    break;
                }
            }
            Ok(0) | Err(_) => break,
        }
    }
    Ok(answer)
}

/// The status of an answer in HTTP/1.1.
#[must_use]
pub fn status(answer: &[u8]) -> Option<u16> {
    let text = answer.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    std::str::from_utf8(text).ok()?.parse().ok()
}
