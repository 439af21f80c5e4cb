//! Bytes at the HTTP/1 door.

use arbitrary::{Result, Unstructured};

use crate::front::Front;

const METHODS: &[&str] =
    &["GET", "POST", "HEAD", "OPTIONS", "CONNECT", "PUT", "TRACE", "get", "PRI", "G:T", "DELETE", "GET "];
const TARGETS: &[&str] = &[
    "/",
    "/a?b=c",
    "*",
    "http://b.test/x",
    "//b",
    "/a/../b",
    "/%2e%2e/x",
    "/\\..\\",
    "/%00",
    "/#x",
    "a:80",
    "",
    "/a b",
    "https://u:p@b.test",
    "/é",
    "?",
    "http:///",
    "/x HTTP/1.1\r\nhost: c\r\n\r\n",
];
const VERSIONS: &[&str] =
    &["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "http/1.1", ""];
const NAMES: &[&str] = &[
    "content-length",
    "transfer-encoding",
    "connection",
    "host",
    "expect",
    "upgrade",
    "te",
    "trailer",
    "x-a",
    "Content-Length",
    "Transfer-Encoding",
    "keep-alive",
    "proxy-connection",
    "content-length ",
    " x",
    "x\tb",
    "transfer_encoding",
    "sec-websocket-key",
    "http2-settings",
    "x-forwarded-for",
    "",
    ":authority",
    "cookie",
];
const VALUES: &[&str] = &[
    "0",
    "1",
    "5",
    "+5",
    "5, 5",
    "0x5",
    "18446744073709551616",
    "-1",
    "chunked",
    "gzip, chunked",
    "identity",
    "Chunked",
    "chunked, chunked",
    "close",
    "keep-alive",
    "upgrade",
    "websocket",
    "h2c",
    "100-continue",
    "trailers",
    "content-length",
    "transfer-encoding",
    "host",
    "a.test",
    "b:80",
    "a, b",
    "a b",
    ".a",
    "\u{b}chunked",
    "\0",
    "a\rb",
    "a\nhost: c",
    "",
    "\"",
    "x-a, te",
    "[::1]:1",
    "user@a",
];
const BETWEEN: &[&str] = &[": ", ": ", ": ", ":", " : ", ":\t", "", ": \t"];
const ENDS: &[&str] = &["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n ", "\r\n\t"];
const CHUNKS: &[&str] = &[
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "5\r\nhello\r\n",
    "1\r\nx\r\n",
    "5;a=b\r\nhello\r\n",
    "05\r\nhello\r\n",
    "0x1\r\nx\r\n",
    "1\r\nxy\r\n",
    "1\nx\n",
    "0\r\nx-a: b\r\n\r\n",
    "0\r\ncontent-length: 5\r\n\r\n",
    "fffffffffffffffff\r\n",
    "-1\r\n",
    "0\r\n",
    "5 \r\nhello\r\n",
    "000\r\n\r\n",
    "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
    "hello",
];

/// Framings with the bodies that they say.
const BODIES: &[(&str, &[&str])] = &[
    ("", &[]),
    ("content-length: 5\r\n", &["hello"]),
    ("content-length: 0\r\n", &[]),
    ("Content-Length: 10\r\nContent-Length: 10\r\n", &["hello", "hello"]),
    ("transfer-encoding: chunked\r\n", &["5\r\nhello\r\n", "1\r\nx\r\n", "0\r\n\r\n"]),
    ("Transfer-Encoding: chunked\r\n", &["5\r\nhello\r\n", "0\r\n", "x-a: b\r\n\r\n"]),
    ("connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: eA==\r\n", &[]),
    ("expect: 100-continue\r\ncontent-length: 5\r\n", &["hello"]),
];
const HARMLESS: &[&str] = &[
    "x-a: b\r\n",
    "cookie: a=b\r\n",
    "te: trailers\r\n",
    "connection: keep-alive\r\n",
    "connection: x-a, te\r\n",
    "connection: content-length, transfer-encoding, host\r\n",
    "x-forwarded-for: 1.2.3.4, a\r\n",
    "upgrade: h2c\r\n",
    "keep-alive: 5\r\n",
    "x-a:é\r\n",
    "trailer: content-length\r\n",
    "content-encoding: chunked\r\n",
];

/// The bytes as they are, or the requests that they choose.
pub fn http1(data: &[u8]) {
    run(data);
}

/// The same; how many requests have come through.
pub(crate) fn run(data: &[u8]) -> u64 {
    let mut bytes = Unstructured::new(data);
    let mode = bytes.arbitrary::<u8>().unwrap_or_default();
    let sent = if mode & 1 == 0 { data.get(1..).unwrap_or_default().to_vec() } else { requests(&mut bytes) };
    Front::get().run(&sent, mode & 2 == 0)
}

/// Requests of valid and less valid parts.
pub(crate) fn requests(bytes: &mut Unstructured<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..4 {
        // Input that is used up ends the last one where it is.
        if bytes.is_empty() || request(bytes, &mut out).is_err() {
            break;
        }
    }
    out
}

/// Mostly right: one fault in a request gets further than five.
fn request(bytes: &mut Unstructured<'_>, out: &mut Vec<u8>) -> Result<()> {
    usual(bytes, out, "POST", METHODS)?;
    out.push(b' ');
    usual(bytes, out, "/", TARGETS)?;
    out.push(b' ');
    usual(bytes, out, "HTTP/1.1", VERSIONS)?;
    out.extend(b"\r\n");
    if !bytes.ratio(1, 32)? {
        out.extend(b"host: a.test\r\n");
    }
    let (header, body): (_, &[&str]) = *bytes.choose(BODIES)?;
    out.extend(header.bytes());
    for _ in 0..bytes.int_in_range(0..=3)? {
        match bytes.int_in_range(0..=7)? {
            0 => wild(bytes, out)?,
            _ => out.extend(bytes.choose(HARMLESS)?.bytes()),
        }
    }
    out.extend(b"\r\n");
    for piece in body {
        usual(bytes, out, piece, CHUNKS)?;
    }
    if bytes.ratio(1, 32)? {
        rubbish(bytes, out)?;
    }
    Ok(())
}

/// A header that is not meant for anything.
fn wild(bytes: &mut Unstructured<'_>, out: &mut Vec<u8>) -> Result<()> {
    out.extend(bytes.choose(NAMES)?.bytes());
    usual(bytes, out, ": ", BETWEEN)?;
    if bytes.ratio(1, 16)? {
        rubbish(bytes, out)?;
    } else {
        out.extend(bytes.choose(VALUES)?.bytes());
    }
    usual(bytes, out, "\r\n", ENDS)
}

/// What is right, or in one case of eight any of the others.
fn usual(bytes: &mut Unstructured<'_>, out: &mut Vec<u8>, right: &str, others: &[&str]) -> Result<()> {
    match bytes.int_in_range(0..=31)? {
        0 => rubbish(bytes, out)?,
        1..=3 => out.extend(bytes.choose(others)?.bytes()),
        _ => out.extend(right.bytes()),
    }
    Ok(())
}

fn rubbish(bytes: &mut Unstructured<'_>, out: &mut Vec<u8>) -> Result<()> {
    let count = bytes.int_in_range(0..=12)?;
    out.extend(bytes.bytes(count.min(bytes.len()))?);
    Ok(())
}
