//! Answers that the proxy or a filter gives itself (spec: proxy-wasm-host §8, wasmplugin-and-routing §3.17).

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{HeaderName, Method, StatusCode};

use crate::head::{RequestHead, ResponseHead, append, insert};

/// An answer that does not come from the upstream.
#[derive(Clone, Debug)]
pub struct LocalReply {
    /// The status.
    pub status: StatusCode,
    /// Response code details; empty when there are none.
    pub details: Cow<'static, str>,
    /// Envoy's response flag; empty for answers of plug-ins.
    pub flags: &'static str,
    /// Added before the framing headers, in this order.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// May be empty.
    pub body: Bytes,
    /// For gRPC requests.
    pub grpc_status: Option<u32>,
}

impl LocalReply {
    /// An answer of the proxy itself.
    pub fn new(
        status: StatusCode,
        flags: &'static str,
        details: impl Into<Cow<'static, str>>,
        body: &'static str,
    ) -> Self {
        let body = Bytes::from_static(body.as_bytes());
        Self { status, details: details.into(), flags, headers: Vec::new(), body, grpc_status: None }
    }

    /// The head and body that go out; a gRPC request gets a trailers-only response.
    pub(crate) fn into_response(self, request: &RequestHead) -> (ResponseHead, Bytes) {
        if is_grpc(request) {
            return (self.grpc_head(), Bytes::new());
        }
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 4);
        for (name, value) in self.headers.iter().filter(|(name, _)| !is_framing(name)) {
            // Names and values were checked where they came in; one that HTTP cannot carry is left out.
            let _ = append(&mut headers, name, value);
        }
        if self.body.is_empty() {
            headers.remove(CONTENT_LENGTH);
            headers.remove(CONTENT_TYPE);
        } else {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(self.body.len()));
            if !headers.contains_key(CONTENT_TYPE) {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
        }
        // The answer to HEAD has the head of the answer to GET and nothing else.
        let body = if request.method == Some(Method::HEAD) { Bytes::new() } else { self.body };
        (ResponseHead::new(self.status, headers), body)
    }

    fn grpc_head(&self) -> ResponseHead {
        const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let status = self.grpc_status.filter(|s| *s <= 16).unwrap_or_else(|| grpc_status(self.status));
        headers.insert(GRPC_STATUS, HeaderValue::from(status));
        for (name, value) in self.headers.iter().filter(|(name, _)| !is_framing(name)) {
            // The answer's own, and of the others there is one of each.
            if is_any(name, &["content-type", "content-length"]) {
                continue;
            }
            let _ = match is_any(name, &["grpc-status", "grpc-message"]) {
                true => insert(&mut headers, name, value),
                false => append(&mut headers, name, value),
            };
        }
        if !self.body.is_empty() {
            let _ = insert(&mut headers, b"grpc-message", percent_encode(&self.body).as_bytes());
        }
        ResponseHead::new(StatusCode::OK, headers)
    }
}

fn is_any(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|n| n.as_bytes().eq_ignore_ascii_case(name))
}

/// Of the connection to the client and not of the answer.
fn is_framing(name: &[u8]) -> bool {
    const NAMES: [&str; 7] =
        ["transfer-encoding", "connection", "keep-alive", "proxy-connection", "upgrade", "te", "trailer"];
    is_any(name, &NAMES)
}

fn is_grpc(request: &RequestHead) -> bool {
    request.headers.get(CONTENT_TYPE).is_some_and(|v| {
        matches!(v.as_bytes().strip_prefix(b"application/grpc"), Some([] | [b'+' | b';', ..]))
    })
}

/// The gRPC status that stands for an HTTP status (spec: proxy-wasm-host §8).
#[must_use]
pub fn grpc_status(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

fn percent_encode(text: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(content_type: Option<&'static str>) -> RequestHead {
        let mut headers = HeaderMap::new();
        if let Some(value) = content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
        }
        RequestHead::new(Method::POST, "/".parse().unwrap(), None, headers)
    }

    #[test]
    fn the_order_of_a_denial_is_envoys() {
        let mut reply = LocalReply::new(StatusCode::FORBIDDEN, "", "", "no");
        reply.headers.push((b"content-type".to_vec(), b"text/html".to_vec()));
        let (head, body) = reply.into_response(&request(None));
        let names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-type", "content-length"]);
        assert_eq!(body, "no");
    }

    #[test]
    fn an_empty_body_has_no_type() {
        let mut reply = LocalReply::new(StatusCode::NO_CONTENT, "", "", "");
        reply.headers.push((b"content-type".to_vec(), b"text/html".to_vec()));
        assert!(reply.into_response(&request(None)).0.headers.is_empty());
    }

    #[test]
    fn a_grpc_request_gets_trailers_only() {
        let mut reply = LocalReply::new(StatusCode::FORBIDDEN, "", "", "nö 100%");
        let (head, body) = reply.clone().into_response(&request(Some("application/grpc+proto")));
        assert_eq!(head.status, Some(StatusCode::OK));
        assert_eq!(head.headers["grpc-status"], "7");
        assert_eq!(head.headers["grpc-message"], "n%C3%B6 100%25");
        assert!(body.is_empty());
        for name in ["set-cookie", "set-cookie", "Upgrade", "Content-Type"] {
            reply.headers.push((name.as_bytes().to_vec(), b"x".to_vec()));
        }
        let (head, _) = reply.clone().into_response(&request(Some("application/grpc")));
        assert_eq!(head.headers.get_all("set-cookie").iter().count(), 2);
        assert!(!head.headers.contains_key("upgrade"));
        assert_eq!(head.headers.get_all(CONTENT_TYPE).iter().count(), 1);
        reply.grpc_status = Some(16);
        assert_eq!(reply.into_response(&request(Some("application/grpc"))).0.headers["grpc-status"], "16");
        assert!(!is_grpc(&request(Some("application/grpc-web"))));
    }
}
