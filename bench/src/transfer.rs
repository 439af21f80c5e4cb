//! Large bodies, down and up: a backend that sends and takes them, and a client's side of it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What is read and written at once.
const PIECE_BYTES: usize = 64 << 10;
/// How long nothing may move.
const STALL_TIME_MAX: Duration = Duration::from_secs(10);
/// The longest head of a message.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// A backend: `GET /N` is answered with N zeroes, any other request once its body has come. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Source {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
}

impl Source {
    /// Starts one, on a thread of its own.
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                // A proxy that breaks a body off shows at the client.
                std::thread::spawn(move || serve(stream));
            }
        });
        Ok(Self { address, is_over })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

/// A connection that gives up when nothing moves for long.
pub(crate) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, STALL_TIME_MAX)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL_TIME_MAX))?;
    stream.set_write_timeout(Some(STALL_TIME_MAX))?;
    Ok(stream)
}

/// A small request on a connection that stays open, and the body of its answer, which must be of status 200.
pub(crate) fn get(stream: &mut TcpStream, host: &str) -> io::Result<Vec<u8>> {
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nuser-agent: bench\r\nallow: true\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let (head, mut body) = read_head(stream)?;
    expect_ok(&head)?;
    let rest = content_length(&head).saturating_sub(body.len() as u64);
    stream.take(rest).read_to_end(&mut body)?;
    Ok(body)
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    let (head, rest) = read_head(&mut stream)?;
    let mut words = head.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if method == "GET" {
        let bytes = path.trim_start_matches('/').parse::<u64>().unwrap_or(0);
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n")?;
        return write_zeroes(&mut stream, bytes, &mut || Ok(()));
    }
    let mut left = content_length(&head).saturating_sub(rest.len() as u64);
    let mut piece = vec![0; PIECE_BYTES];
    while left > 0 {
        match stream.read(&mut piece)? as u64 {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => left = left.saturating_sub(read),
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

/// Fetches N bytes through a proxy; `each` is called from time to time.
pub(crate) fn download(
    stream: &mut (impl Read + Write),
    bytes: u64,
    each: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<()> {
    write!(stream, "GET /{bytes} HTTP/1.1\r\nhost: bench.example\r\n\r\n")?;
    stream.flush()?;
    let (head, rest) = read_head(stream)?;
    expect_ok(&head)?;
    let mut received = rest.len() as u64;
    let mut piece = vec![0; PIECE_BYTES];
    let mut next = 0;
    while received < bytes {
        let read = stream.read(&mut piece)? as u64;
        if read == 0 {
            return Err(io::Error::other(format!("{received} of {bytes} bytes came")));
        }
        received += read;
        if received >= next {
            each()?;
            next = received + (bytes >> 7);
        }
    }
    Ok(())
}

/// Sends N bytes through a proxy and waits for the answer; `each` is called from time to time.
pub(crate) fn upload(
    stream: &mut (impl Read + Write),
    bytes: u64,
    each: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<()> {
    write!(stream, "POST / HTTP/1.1\r\nhost: bench.example\r\ncontent-length: {bytes}\r\n\r\n")?;
    write_zeroes(stream, bytes, each)?;
    expect_ok(&read_head(stream)?.0)
}

fn write_zeroes(
    stream: &mut impl Write,
    bytes: u64,
    each: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let piece = [0; PIECE_BYTES];
    for count in 0..bytes / PIECE_BYTES as u64 {
        stream.write_all(&piece)?;
        if count % 128 == 0 {
            each()?;
        }
    }
    let rest = usize::try_from(bytes % PIECE_BYTES as u64).unwrap_or(0);
    stream.write_all(piece.get(..rest).unwrap_or_default())?;
    stream.flush()
}

/// A head, and what of the body came with it.
pub(crate) fn read_head(stream: &mut impl Read) -> io::Result<(String, Vec<u8>)> {
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let read = stream.read(&mut piece)?;
        if read == 0 || received.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(piece.get(..read).unwrap_or_default());
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(received.get(..end).unwrap_or_default()).into_owned();
            return Ok((head, received.split_off(end + 4)));
        }
    }
}

fn content_length(head: &str) -> u64 {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

fn expect_ok(head: &str) -> io::Result<()> {
    if head.starts_with("HTTP/1.1 200") {
        return Ok(());
    }
    Err(io::Error::other(format!("expected 200, got {head:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_whole_both_ways() {
        let source = Source::start().unwrap();
        let connect = || TcpStream::connect(source.address()).unwrap();
        let mut calls = 0;
        let mut each = || {
            calls += 1;
            Ok(())
        };
        download(&mut connect(), 300_001, &mut each).unwrap();
        upload(&mut connect(), 300_001, &mut each).unwrap();
        assert!(calls > 1);
    }
}
