//! Writing requests (RFC 9112 §3, §6).

use bytes::{BufMut as _, Bytes, BytesMut};
use http::Method;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use wasmgate_stream::RequestHead;

use super::head::parse_length;

/// How the request's body is framed on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFraming {
    /// There is none.
    Empty,
    /// So many bytes are still to come.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Bytes of another protocol, once the endpoint has switched to it.
    Raw,
}

/// What keeps a head from being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EncodeError {
    /// No method, no path: a filter removed it.
    Incomplete,
}

/// Writes the head. `end`: there is no body. `attempt`: its number for the endpoint to see. `switches`: it asks for the
/// protocol that its `upgrade` header names.
pub(crate) fn head(
    out: &mut BytesMut,
    request: &RequestHead,
    end: bool,
    attempt: Option<u32>,
    switches: bool,
) -> Result<BodyFraming, EncodeError> {
    let (Some(method), Some(path)) = (&request.method, request.path()) else {
        return Err(EncodeError::Incomplete);
    };
    // What follows the answer to it is no HTTP, and the connection could not be used again.
    if *method == Method::CONNECT {
        return Err(EncodeError::Incomplete);
    }
    out.reserve(512);
    out.put_slice(method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(path);
    out.put_slice(b" HTTP/1.1\r\n");
    if let Some(authority) = &request.authority {
        line(out, b"host", authority.as_bytes());
    }
    let mut length = None;
    for (name, value) in &request.headers {
        match *name {
            HOST | CONNECTION | TRANSFER_ENCODING | UPGRADE | EXPECT => continue,
            CONTENT_LENGTH => {
                // Several lengths never get this far from a client; from a filter the first counts.
                if length.is_some() {
                    continue;
                }
                // A length without a body would make the endpoint wait for one.
                length = parse_length(value.as_bytes()).filter(|l| !end || *l == 0);
                if length.is_none() {
                    continue;
                }
            }
            TE if value.as_bytes() != b"trailers" => continue,
            _ if matches!(name.as_str(), "keep-alive" | "proxy-connection") => continue,
            _ => {}
        }
        line(out, name.as_str().as_bytes(), value.as_bytes());
    }
    if let Some(attempt) = attempt {
        line(out, b"x-envoy-attempt-count", itoa(attempt).as_bytes());
    }
    if switches && let Some(protocol) = request.headers.get(UPGRADE) {
        line(out, b"connection", b"Upgrade");
        line(out, b"upgrade", protocol.as_bytes());
        out.put_slice(b"\r\n");
        return Ok(BodyFraming::Raw);
    }
    let framing = match (end, length) {
        // Without it an endpoint might wait for a body (RFC 9110 §8.6).
        (true, None) if may_have_body(method) => {
            out.put_slice(b"content-length: 0\r\n");
            BodyFraming::Empty
        }
        (true, _) => BodyFraming::Empty,
        (false, Some(length)) => BodyFraming::Length(length),
        (false, None) => {
            out.put_slice(b"transfer-encoding: chunked\r\n");
            BodyFraming::Chunked
        }
    };
    out.put_slice(b"\r\n");
    Ok(framing)
}

fn may_have_body(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT | Method::TRACE)
}

fn line(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn itoa(n: u32) -> std::borrow::Cow<'static, str> {
    // Nearly every request is sent once.
    if n == 1 { "1".into() } else { n.to_string().into() }
}

/// A chunk around data: the line before it. The line behind it is [`CHUNK_END`].
pub(crate) fn chunk_start(len: usize) -> Bytes {
    Bytes::from(format!("{len:x}\r\n"))
}

/// Ends a chunk.
pub(crate) const CHUNK_END: Bytes = Bytes::from_static(b"\r\n");
/// Ends a chunked body.
pub(crate) const LAST_CHUNK: Bytes = Bytes::from_static(b"0\r\n\r\n");

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    fn encode(method: Method, headers: &[(&'static str, &'static str)], end: bool) -> (String, BodyFraming) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let request = RequestHead::new(
            method,
            "/p?q=1".parse().unwrap(),
            Some(HeaderValue::from_static("a.test")),
            map,
        );
        let mut out = BytesMut::new();
        let framing = head(&mut out, &request, end, Some(1), false).unwrap();
        (String::from_utf8(out.to_vec()).unwrap(), framing)
    }

    #[test]
    fn a_request_as_envoy_sends_it() {
        let (text, framing) = encode(
            Method::GET,
            &[
                ("host", "other"),
                ("accept", "*/*"),
                ("connection", "keep-alive"),
                ("keep-alive", "5"),
                ("te", "gzip"),
            ],
            true,
        );
        assert_eq!(
            text,
            "GET /p?q=1 HTTP/1.1\r\nhost: a.test\r\naccept: */*\r\nx-envoy-attempt-count: 1\r\n\r\n"
        );
        assert_eq!(framing, BodyFraming::Empty);
    }

    #[test]
    fn a_body_has_a_length_or_chunks() {
        assert_eq!(encode(Method::POST, &[("content-length", "3")], false).1, BodyFraming::Length(3));
        let (text, framing) = encode(Method::POST, &[], false);
        assert!(text.ends_with("transfer-encoding: chunked\r\n\r\n"), "{text}");
        assert_eq!(framing, BodyFraming::Chunked);
        let (text, framing) = encode(Method::POST, &[("content-length", "nonsense")], false);
        assert!(!text.contains("nonsense"));
        assert_eq!(framing, BodyFraming::Chunked);
        assert_eq!(encode(Method::POST, &[("content-length", "0")], true).1, BodyFraming::Empty);
        let (text, framing) = encode(Method::GET, &[("content-length", "5")], true);
        assert!(!text.contains("content-length"), "a filter's length without a body: {text}");
        assert_eq!(framing, BodyFraming::Empty);
    }

    #[test]
    fn without_a_path_nothing_is_sent() {
        let mut request = RequestHead::new(Method::GET, "/".parse().unwrap(), None, HeaderMap::new());
        request.remove(b":path");
        assert_eq!(head(&mut BytesMut::new(), &request, true, Some(1), false), Err(EncodeError::Incomplete));
    }
}
