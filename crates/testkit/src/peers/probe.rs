//! One HTTP/1.1 request on a connection of its own: enough to ask whether a proxy is up and answers as it should.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The most that an answer may hold: an admin page fits, an endless body does not.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// An answer, with its body as it is after transfer decoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head as it came, from the status line up to and including the empty line.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first value of a header, whose name is given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as text, with anything that is not UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends `GET path` and waits for the whole answer for `time_max` at most.
///
/// # Errors
/// Whatever the connection answers, [`io::ErrorKind::TimedOut`], or [`io::ErrorKind::InvalidData`] for something that
/// is not HTTP/1.1.
pub fn get(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    time_max: Duration,
) -> io::Result<Answer> {
    let mut request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    let deadline = Instant::now() + time_max;
    let mut stream = TcpStream::connect_timeout(&address, time_max)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(time_max))?;
    stream.write_all(request.as_bytes())?;
    let mut received = Vec::new();
    let mut chunk = [0_u8; 16 << 10];
    loop {
        if let Some(answer) = parse(&received, false)? {
            return Ok(answer);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || received.len() > ANSWER_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the answer does not end"));
        }
        stream.set_read_timeout(Some(left))?;
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return parse(&received, true)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
}

/// The answer in `received` when it is complete; `closed` says that nothing will follow.
fn parse(received: &[u8], closed: bool) -> io::Result<Option<Answer>> {
    let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let (head, rest) = received.split_at(end + 4);
    let head = String::from_utf8_lossy(head).into_owned();
    let status = head
        .strip_prefix("HTTP/1.1 ")
        .and_then(|line| line.get(..3))
        .and_then(|code| code.parse::<u16>().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("not an answer: {head:?}")))?;
    let mut answer = Answer { status, head, body: Vec::new() };
    let length = answer.header("content-length").and_then(|length| length.parse::<usize>().ok());
    let body = if answer.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        dechunk(rest)
    } else if let Some(length) = length {
        rest.get(..length).map(<[u8]>::to_vec)
    } else {
        closed.then(|| rest.to_vec())
    };
    Ok(body.map(|body| {
        answer.body = body;
        answer
    }))
}

/// The body of a chunked message that is complete; trailers are not looked for.
fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let line = std::str::from_utf8(rest.get(..end)?).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        rest = rest.get(end + 2..)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size.checked_add(2)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_when_its_length_says_so() {
        let wire = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nstop";
        assert_eq!(parse(wire.get(..wire.len() - 1).unwrap(), false).unwrap(), None);
        let answer = parse(wire, false).unwrap().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (403, "stop"));
        assert_eq!(answer.header("content-length"), Some("4"));
    }

    #[test]
    fn a_chunked_answer_is_put_together() {
        let wire =
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(wire, false).unwrap().unwrap().text(), "abcde");
        assert_eq!(parse(wire.get(..wire.len() - 8).unwrap(), false).unwrap(), None);
    }

    #[test]
    fn an_answer_without_length_ends_with_the_connection() {
        let wire = b"HTTP/1.1 200 OK\r\n\r\nall";
        assert_eq!(parse(wire, false).unwrap(), None);
        assert_eq!(parse(wire, true).unwrap().unwrap().text(), "all");
        assert!(parse(b"SSH-2.0\r\n\r\n", false).is_err());
    }
}
