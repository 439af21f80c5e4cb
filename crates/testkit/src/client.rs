//! Clients that show what is on the wire.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

/// How long an answer may take.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// An answer as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawAnswer {
    /// The status.
    pub status: u16,
    /// From the status line to the empty line, both included.
    pub head: String,
    /// The body, chunks undone.
    pub body: Vec<u8>,
}

impl RawAnswer {
    /// The value of a header, the name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|l| l.split_once(':'))
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v.trim())
    }

    /// The names of all headers in order.
    #[must_use]
    pub fn header_names(&self) -> Vec<&str> {
        self.head.lines().skip(1).filter_map(|l| l.split_once(':')).map(|(n, _)| n).collect()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A keep-alive connection over which requests are sent as bytes.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl RawClient {
    /// Connects.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, ANSWER_TIME_MAX)?;
        stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The system's.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// The system's, or an answer that is not HTTP.
    pub fn request(&mut self, bytes: &[u8]) -> io::Result<RawAnswer> {
        self.send(bytes)?;
        self.answer(bytes.starts_with(b"HEAD "))
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// The system's, or an answer that is not HTTP.
    pub fn answer(&mut self, to_head: bool) -> io::Result<RawAnswer> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&self.buffer.drain(..end).collect::<Vec<_>>()).into_owned();
        let status = head.get(9..12).and_then(|s| s.parse().ok()).ok_or_else(|| invalid(&head))?;
        let mut answer = RawAnswer { status, head, body: Vec::new() };
        if to_head || matches!(status, 204 | 304) {
            return Ok(answer);
        }
        answer.body = if answer.header("transfer-encoding") == Some("chunked") {
            self.chunks()?
        } else if let Some(length) = answer.header("content-length").and_then(|l| l.parse().ok()) {
            self.take(length)?
        } else {
            while self.fill().is_ok() {}
            std::mem::take(&mut self.buffer)
        };
        Ok(answer)
    }

    /// Whether the other side closes within a while; anything that it still sends makes it false.
    pub fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && matches!(self.stream.read(&mut [0]), Ok(0))
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 << 10];
        let read = self.stream.read(&mut chunk)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(chunk.get(..read).unwrap_or_default());
        Ok(())
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = self.take(at + 2)?;
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.fill()?;
        }
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(&line, 16).map_err(|_| invalid(&line))?;
            let mut chunk = self.take(size + 2)?;
            if size == 0 {
                return Ok(body);
            }
            chunk.truncate(size);
            body.append(&mut chunk);
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {text:?}"))
}

/// A request over a connection of its own.
///
/// # Errors
/// As [`RawClient::request`].
pub fn once(address: SocketAddr, bytes: &[u8]) -> io::Result<RawAnswer> {
    RawClient::connect(address)?.request(bytes)
}

/// A request as curl sends it.
#[must_use]
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text =
        format!("{method} {path} HTTP/1.1\r\nHost: test.example\r\nUser-Agent: test\r\nAccept: */*\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// A GET over HTTP/2 with prior knowledge: status, header pairs in order, body.
///
/// # Errors
/// hyper's, as text.
pub fn http2(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Http2Answer, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let mut request = http::Request::builder().uri(format!("http://test.example{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::new())).map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let pairs = response.headers().iter();
        let headers =
            pairs.map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect();
        let whole = response.into_body().collect().await.map_err(|e| e.to_string())?;
        let trailers = whole.trailers().into_iter().flatten();
        let trailers = trailers
            .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
            .collect();
        Ok(Http2Answer { status, headers, body: whole.to_bytes().to_vec(), trailers })
    })
}

/// An answer over HTTP/2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Answer {
    /// The status.
    pub status: u16,
    /// Headers in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Trailers in order.
    pub trailers: Vec<(String, String)>,
}
