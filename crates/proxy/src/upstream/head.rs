//! Response heads (RFC 9112 §4–§6).

use bytes::BytesMut;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, StatusCode};
use smallvec::SmallVec;

use super::chunked::ChunkedDecoder;

/// Headers of one response.
const HEADERS_MAX: usize = 128;

/// How a response's body ends.
#[derive(Debug)]
pub(crate) enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes.
    Length(u64),
    /// As the chunks say.
    Chunked(ChunkedDecoder),
    /// With the connection.
    UntilClose,
}

/// A response head taken from the input.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) framing: Framing,
    pub(crate) keep_alive: bool,
}

/// What is no response head.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("malformed response head: {0}")]
    Malformed(httparse::Error),
    #[error("the response head is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the response has no status that HTTP knows")]
    Status,
    #[error(
        "the response has content-length and transfer-encoding, several different lengths, or one that is no number"
    )]
    Framing,
    #[error("the upstream switches protocols, which was not asked for")]
    Upgrade,
}

/// Takes one head from the input; informational responses before it are dropped.
pub(crate) fn take(
    input: &mut BytesMut,
    method: &Method,
    bytes_max: usize,
    may_switch: bool,
) -> Result<Option<Head>, HeadError> {
    loop {
        let Some(head) = take_one(input, method, bytes_max, may_switch)? else { return Ok(None) };
        match head.status.as_u16() {
            101 if may_switch && is_to_websocket(&head.headers) => return Ok(Some(head)),
            101 => return Err(HeadError::Upgrade),
            100..=199 => {}
            200..=599 => return Ok(Some(head)),
            _ => return Err(HeadError::Status),
        }
    }
}

/// Whether an endpoint switches to what it was asked for.
fn is_to_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|v| v.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

fn take_one(
    input: &mut BytesMut,
    method: &Method,
    bytes_max: usize,
    may_switch: bool,
) -> Result<Option<Head>, HeadError> {
    type Span = (u32, u32);
    let mut storage = [const { std::mem::MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        input,
        &mut storage,
    );
    let end = match parsed.map_err(HeadError::Malformed)? {
        httparse::Status::Complete(end) if end <= bytes_max => end,
        httparse::Status::Partial if input.len() <= bytes_max => return Ok(None),
        _ => return Err(HeadError::TooLarge(bytes_max)),
    };
    let status = response.code.and_then(|c| StatusCode::from_u16(c).ok()).ok_or(HeadError::Status)?;
    let is_http11 = response.version == Some(1);
    let base = input.as_ptr() as usize;
    let span = |part: &[u8]| -> Span {
        let start = (part.as_ptr() as usize).wrapping_sub(base);
        (u32::try_from(start).unwrap_or(u32::MAX), u32::try_from(start + part.len()).unwrap_or(u32::MAX))
    };
    let spans: SmallVec<[(Span, Span); 32]> =
        response.headers.iter().map(|h| (span(h.name.as_bytes()), span(h.value))).collect();
    let bytes = input.split_to(end).freeze();
    let part = |span: Span| bytes.get(span.0 as usize..span.1 as usize).unwrap_or_default();
    let headers = HeaderMap::with_capacity(spans.len() + 4);
    let may_switch = may_switch && status == StatusCode::SWITCHING_PROTOCOLS;
    let mut head = Collected { headers, keep_alive: is_http11, may_switch, ..Collected::default() };
    // First of all: it says which of the others are not for us to pass on.
    for (_, value) in spans.iter().filter(|(name, _)| part(*name).eq_ignore_ascii_case(b"connection")) {
        head.connection(part(*value));
    }
    for (name, value) in spans {
        let name = HeaderName::from_bytes(part(name))
            .map_err(|_| HeadError::Malformed(httparse::Error::HeaderName))?;
        let value = bytes.slice(value.0 as usize..value.1 as usize);
        let value = HeaderValue::from_maybe_shared(value)
            .map_err(|_| HeadError::Malformed(httparse::Error::HeaderValue))?;
        head.add(name, value)?;
    }
    head.finish(status, method).map(Some)
}

/// A head on its way: hop-by-hop headers are understood and left out.
#[derive(Default)]
struct Collected {
    headers: HeaderMap,
    keep_alive: bool,
    length: Option<u64>,
    chunked: bool,
    /// To the protocol that its `upgrade` header names.
    may_switch: bool,
    hop_by_hop: SmallVec<[HeaderName; 1]>,
}

impl Collected {
    fn connection(&mut self, value: &[u8]) {
        for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                self.keep_alive = false;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if let Ok(name) = HeaderName::from_bytes(token)
                && name != CONTENT_LENGTH
                && name != TRANSFER_ENCODING
            {
                self.hop_by_hop.push(name);
            }
        }
    }

    fn add(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), HeadError> {
        match name {
            CONTENT_LENGTH if self.may_switch => {}
            CONTENT_LENGTH => {
                let length = parse_length(value.as_bytes()).ok_or(HeadError::Framing)?;
                if self.length.is_some_and(|other| other != length) {
                    return Err(HeadError::Framing);
                }
                if self.length.replace(length).is_none() {
                    let _ = self.headers.try_insert(name, value);
                }
            }
            TRANSFER_ENCODING => {
                // Anything but chunked, once, has two readings.
                if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::Framing);
                }
                self.chunked = true;
            }
            CONNECTION => {}
            UPGRADE if self.may_switch => drop(self.headers.try_insert(name, value)),
            _ if self.hop_by_hop.contains(&name) => {}
            _ if matches!(name.as_str(), "keep-alive" | "proxy-connection" | "upgrade" | "te") => {}
            _ => drop(self.headers.try_append(name, value)),
        }
        Ok(())
    }

    fn finish(self, status: StatusCode, method: &Method) -> Result<Head, HeadError> {
        if self.chunked && self.length.is_some() {
            return Err(HeadError::Framing);
        }
        let bodiless = *method == Method::HEAD || matches!(status.as_u16(), 100..=199 | 204 | 304);
        let framing = match (bodiless, self.chunked, self.length) {
            _ if self.may_switch => Framing::UntilClose,
            (true, ..) | (_, false, Some(0)) => Framing::Empty,
            (_, true, _) => Framing::Chunked(ChunkedDecoder::new()),
            (_, _, Some(length)) => Framing::Length(length),
            (_, _, None) => Framing::UntilClose,
        };
        let keep_alive = self.keep_alive && !matches!(framing, Framing::UntilClose);
        Ok(Head { status, headers: self.headers, framing, keep_alive })
    }
}

/// Digits only: no sign, no list, no white space.
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Option<Head>, HeadError> {
        take(&mut BytesMut::from(text), &Method::GET, 4096, false)
    }

    fn framing(text: &str) -> String {
        match parse(text) {
            Ok(Some(head)) => format!("{:?} {}", head.framing, head.keep_alive)
                .replace("ChunkedDecoder { state: Size }", ""),
            Ok(None) => "incomplete".to_owned(),
            Err(e) => format!("{e:?}"),
        }
    }

    #[test]
    fn framing_has_one_reading_or_is_an_error() {
        for (headers, wanted) in [
            ("content-length: 5\r\n", "Length(5) true"),
            ("content-length: 5\r\ncontent-length: 5\r\n", "Length(5) true"),
            ("content-length: 0\r\n", "Empty true"),
            ("transfer-encoding: chunked\r\n", "Chunked() true"),
            ("", "UntilClose false"),
            ("content-length: 5\r\nconnection: close\r\n", "Length(5) false"),
            ("content-length: 5\r\ncontent-length: 6\r\n", "Framing"),
            ("content-length: +5\r\n", "Framing"),
            ("content-length: 5, 5\r\n", "Framing"),
            ("content-length: 5\r\ntransfer-encoding: chunked\r\n", "Framing"),
            ("transfer-encoding: gzip, chunked\r\n", "Framing"),
            ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "Framing"),
        ] {
            assert_eq!(framing(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n")), wanted, "{headers:?}");
        }
        assert_eq!(framing("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n"), "Empty true");
        assert_eq!(framing("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n"), "Length(5) false");
        assert_eq!(framing("HTTP/1.1 200 O"), "incomplete");
    }

    #[test]
    fn hop_by_hop_headers_stay_here() {
        let head = parse("HTTP/1.1 200 OK\r\nServer: a\r\nConnection: keep-alive, X-Hop\r\nx-hop: 1\r\nKeep-Alive: timeout=5\r\nX-A: 1\r\nx-a: 2\r\ncontent-length: 1\r\n\r\nx").unwrap().unwrap();
        let names: Vec<_> =
            head.headers.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        assert_eq!(names, ["server=a", "x-a=1", "x-a=2", "content-length=1"]);
    }

    #[test]
    fn informational_responses_are_skipped_and_switching_is_refused() {
        let mut input = BytesMut::from(
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxREST",
        );
        let head = take(&mut input, &Method::GET, 4096, false).unwrap().unwrap();
        assert_eq!((head.status, head.headers.len(), &input[..]), (StatusCode::OK, 1, &b"xREST"[..]));
        let switching =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nraw";
        assert_eq!(parse(switching).unwrap_err(), HeadError::Upgrade);
        let mut input = BytesMut::from(switching);
        let head = take(&mut input, &Method::GET, 4096, true).unwrap().unwrap();
        assert_eq!(
            (head.status.as_u16(), &head.headers[UPGRADE], &input[..]),
            (101, &HeaderValue::from_static("websocket"), &b"raw"[..])
        );
        assert!(matches!(head.framing, Framing::UntilClose) && !head.keep_alive);
    }

    #[test]
    fn garbage_and_endless_heads_are_errors() {
        for garbage in [
            "\u{16}\u{3}\u{1}",
            "HTTP/1.1 200 OK\r\n x: folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx y: 1\r\n\r\n",
            "HTTP/1.1 999 X\r\n\r\n",
            "SSH-2.0-x\r\n",
        ] {
            assert!(parse(garbage).is_err(), "{garbage:?}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(5000));
        assert_eq!(parse(&endless).unwrap_err(), HeadError::TooLarge(4096));
    }

    proptest! {
        #[test]
        fn arbitrary_input_never_panics(input in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = BytesMut::from(&[b"HTTP/1.1 200 OK\r\n".as_slice(), &input].concat()[..]);
            let _ = take(&mut bytes, &Method::GET, 200, false);
        }
    }
}
