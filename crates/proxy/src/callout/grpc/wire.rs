//! gRPC on the wire: frames and the status that ends an answer.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use wasmgate_plugin::calls::{GrpcStatus, HeaderPairs};
use wasmgate_stream::grpc_status;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

// spec: proxy-wasm-host §3.2
pub(super) const OK: u32 = 0;
const UNKNOWN: u32 = 2;
const RESOURCE_EXHAUSTED: u32 = 8;
pub(super) const INTERNAL: u32 = 13;
pub(super) const UNAVAILABLE: u32 = 14;

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A message in its frame.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX + message.len());
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.freeze()
}

/// A status of ours.
pub(super) fn status(code: u32, message: impl AsRef<[u8]>) -> GrpcStatus {
    GrpcStatus { code, message: message.as_ref().to_vec() }
}

/// Whether an answer is gRPC at all.
pub(super) fn check_head(code: StatusCode, headers: &HeaderMap) -> Result<(), GrpcStatus> {
    if code != StatusCode::OK {
        return Err(status(grpc_status(code), format!("HTTP status {}", code.as_u16())));
    }
    let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    if is_grpc { Ok(()) } else { Err(status(UNKNOWN, "the response is not gRPC")) }
}

/// The status in trailers, or in the head of a response that has nothing else.
pub(super) fn end_status(map: &HeaderMap) -> GrpcStatus {
    let code = map.get(GRPC_STATUS).and_then(|v| v.to_str().ok()?.parse().ok());
    let Some(code) = code else { return status(UNKNOWN, "the response has no grpc-status") };
    GrpcStatus {
        code,
        message: map.get(GRPC_MESSAGE).map(|v| percent_decode(v.as_bytes())).unwrap_or_default(),
    }
}

fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()).filter(|_| *byte == b'%') {
            Some(decoded) => {
                out.push(decoded);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    out
}

/// A header map for a guest.
pub(super) fn pairs(map: &HeaderMap) -> HeaderPairs {
    map.iter().map(|(name, value)| (name.as_str().as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// Takes messages out of a response body.
pub(super) struct Decoder {
    input: BytesMut,
    message_bytes_max: usize,
}

impl Decoder {
    pub(super) fn new(message_bytes_max: usize) -> Self {
        Self { input: BytesMut::new(), message_bytes_max }
    }

    pub(super) fn push(&mut self, data: &[u8]) -> Result<(), GrpcStatus> {
        self.input.extend_from_slice(data);
        self.check()
    }

    /// As early as the prefix is there: nobody collects what is refused in the end.
    fn check(&self) -> Result<(), GrpcStatus> {
        match self.prefix() {
            Some((0, len)) if len <= self.message_bytes_max => Ok(()),
            Some((0, _)) => Err(status(RESOURCE_EXHAUSTED, "message larger than it may be")),
            Some(_) => Err(status(INTERNAL, "compressed messages are not supported")),
            None => Ok(()),
        }
    }

    fn prefix(&self) -> Option<(u8, usize)> {
        let prefix = self.input.first_chunk::<PREFIX>()?;
        let [compressed, a, b, c, d] = *prefix;
        Some((compressed, u32::from_be_bytes([a, b, c, d]) as usize))
    }

    pub(super) fn next(&mut self) -> Result<Option<Bytes>, GrpcStatus> {
        self.check()?;
        let Some((_, len)) = self.prefix().filter(|(_, len)| self.input.len() >= PREFIX + len) else {
            return Ok(None);
        };
        self.input.advance(PREFIX);
        Ok(Some(self.input.split_to(len).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn messages_come_out_of_pieces() {
        let mut wire = framed(b"hello").to_vec();
        wire.extend_from_slice(&framed(b""));
        wire.extend_from_slice(&framed(b"x"));
        for size in 1..wire.len() {
            let (mut decoder, mut out) = (Decoder::new(100), Vec::new());
            for piece in wire.chunks(size) {
                decoder.push(piece).unwrap();
                while let Some(message) = decoder.next().unwrap() {
                    out.push(message);
                }
            }
            assert_eq!(out, [&b"hello"[..], b"", b"x"]);
        }
        assert_eq!(Decoder::new(4).push(&framed(b"hello")).unwrap_err().code, RESOURCE_EXHAUSTED);
        assert_eq!(Decoder::new(4).push(b"\x01\0\0\0\0").unwrap_err().code, INTERNAL);
    }

    #[test]
    fn a_status_has_its_number_and_its_words() {
        let mut map = HeaderMap::new();
        assert_eq!(end_status(&map).code, UNKNOWN);
        map.insert(GRPC_STATUS, HeaderValue::from_static("7"));
        map.insert(GRPC_MESSAGE, HeaderValue::from_static("n%C3%B6 100%25 %zz%"));
        assert_eq!(end_status(&map), status(7, "nö 100% %zz%"));
    }
}
