//! Frames at the HTTP/2 door.

use arbitrary::{Result, Unstructured};

use crate::front::Front;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const FIELDS: &[(&str, &str)] = &[
    ("content-length", "5"),
    ("content-length", "0"),
    ("content-length", "6"),
    ("content-length", "5, 5"),
    ("transfer-encoding", "chunked"),
    ("connection", "close"),
    ("te", "trailers"),
    ("te", "gzip"),
    ("host", "b.test"),
    ("host", "a.test"),
    ("x-a", "b"),
    ("X-A", "b"),
    ("x a", "b"),
    ("x:a", "b"),
    ("", "b"),
    ("x-a", "b\r\nhost: c"),
    ("x-a", "b\0"),
    ("x-a", " b "),
    ("cookie", "a=b"),
    ("cookie", "c=d"),
    ("upgrade", "websocket"),
    ("expect", "100-continue"),
    ("trailer", "x-a"),
    (":path", "/b"),
    (":path", "/b HTTP/1.1\r\nhost: c\r\n\r\n"),
    (":path", "*"),
    (":path", ""),
    (":path", "/../\\x"),
    (":authority", "b.test"),
    (":authority", "a b"),
    (":authority", "u@b"),
    (":protocol", "websocket"),
    (":protocol", "other"),
    (":status", "200"),
    (":method", "CONNECT"),
    (":method", "GET / HTTP/1.1\r\n"),
    (":scheme", "ftp"),
    (":x", "y"),
];
const HARMLESS: &[(&str, &str)] = &[
    ("x-a", "b"),
    ("cookie", "a=b"),
    ("te", "trailers"),
    ("x-forwarded-for", "1.2.3.4, a"),
    ("content-length", "5"),
    ("trailer", "x-a"),
    ("x-b", ""),
];
const TEXTS: &[&str] =
    &["", "hello", "h", "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n", "0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"];

/// Behind the preface the bytes as they are, or the frames that they choose.
pub fn http2(data: &[u8]) {
    run(data);
}

/// The same; how many requests have come through.
pub(crate) fn run(data: &[u8]) -> u64 {
    let mut bytes = Unstructured::new(data);
    let mode = bytes.arbitrary::<u8>().unwrap_or_default();
    let mut sent = PREFACE.to_vec();
    if mode & 1 == 0 {
        sent.extend(data.get(1..).unwrap_or_default());
    } else {
        sent.extend(frame(SETTINGS, 0, 0, &[]));
        sent.extend(frames(&mut bytes));
    }
    Front::get().run(&sent, mode & 2 == 0)
}

/// Frames of valid and less valid parts.
pub(crate) fn frames(bytes: &mut Unstructured<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut stream = 1;
    for _ in 0..12 {
        if bytes.is_empty() || next(bytes, &mut stream, &mut out).is_err() {
            break;
        }
    }
    out
}

/// What a client could do next: a request with its body and trailers, or any frame.
fn next(bytes: &mut Unstructured<'_>, stream: &mut u32, out: &mut Vec<u8>) -> Result<()> {
    if bytes.ratio(1, 12)? {
        let id = if bytes.arbitrary()? { *stream } else { bytes.int_in_range(0..=9)? };
        let (kind, flags) = (bytes.int_in_range(0..=12)?, bytes.arbitrary()?);
        let length = bytes.int_in_range(0..=24)?;
        out.extend(frame(kind, flags, id, bytes.bytes(length.min(bytes.len()))?));
    }
    let mut block = head(bytes)?;
    fields(bytes, &mut block)?;
    let (pieces, has_trailers) = (bytes.int_in_range(0..=2)?, bytes.ratio(1, 4)?);
    let end = |is_last: bool| if is_last { END_STREAM } else { 0 };
    headers(bytes, *stream, end(pieces == 0 && !has_trailers), &block, out)?;
    for piece in 1..=pieces {
        let text = if bytes.ratio(3, 4)? { "hello" } else { bytes.choose(TEXTS)? };
        // Now and then the body ends before it does, or does not.
        let is_last = (piece == pieces && !has_trailers) ^ bytes.ratio(1, 24)?;
        out.extend(frame(DATA, end(is_last), *stream, text.as_bytes()));
    }
    if has_trailers {
        let mut trailers = Vec::new();
        fields(bytes, &mut trailers)?;
        headers(bytes, *stream, END_STREAM, &trailers, out)?;
    }
    if !bytes.ratio(1, 24)? {
        *stream += 2;
    }
    Ok(())
}

/// The pseudo-headers of a request, of which any may be missing.
fn head(bytes: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    const METHODS: &[&str] = &["GET", "POST", "POST", "POST", "PUT", "OPTIONS", "HEAD", "CONNECT"];
    let method = *bytes.choose(METHODS)?;
    let mut out = Vec::new();
    for (name, value) in [(":method", method), (":scheme", "http"), (":authority", "a.test"), (":path", "/a")]
    {
        if !bytes.ratio(1, 48)? {
            literal(name.as_bytes(), value.as_bytes(), &mut out);
        }
    }
    Ok(out)
}

fn fields(bytes: &mut Unstructured<'_>, out: &mut Vec<u8>) -> Result<()> {
    for _ in 0..bytes.int_in_range(0..=3)? {
        let is_wild = bytes.ratio(1, 6)?;
        let (name, value) = *bytes.choose(if is_wild { FIELDS } else { HARMLESS })?;
        match bytes.int_in_range(0..=31)? {
            // An index, or whatever else a byte is.
            0 => out.push(bytes.arbitrary()?),
            1 => {
                let length = bytes.int_in_range(0..=12)?;
                literal(name.as_bytes(), bytes.bytes(length.min(bytes.len()))?, out);
            }
            _ => literal(name.as_bytes(), value.as_bytes(), out),
        }
    }
    Ok(())
}

/// A block in one frame or in two.
fn headers(
    bytes: &mut Unstructured<'_>,
    stream: u32,
    flags: u8,
    block: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    if bytes.ratio(1, 8)? {
        let (first, second) = block.split_at(block.len() / 2);
        out.extend(frame(HEADERS, flags, stream, first));
        out.extend(frame(CONTINUATION, END_HEADERS, stream, second));
    } else {
        out.extend(frame(HEADERS, flags | END_HEADERS, stream, block));
    }
    Ok(())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut out = length.get(1..).unwrap_or_default().to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// RFC 7541 6.2.2 without Huffman. Nothing here is longer than a prefix of seven bits can say.
fn literal(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.push(0);
    for text in [name, value] {
        out.push(u8::try_from(text.len().min(126)).unwrap_or_default());
        out.extend(text);
    }
}
