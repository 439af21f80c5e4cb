//! The frames of one HTTP/2 request, without anybody who would refuse to write them.

use crate::payload::Http2Request;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Everything that a client sends for one request on a connection of its own.
pub fn connection(request: &Http2Request, bytes: impl Fn(&str) -> Vec<u8>) -> Vec<u8> {
    let block = |pairs: &[(String, String)]| -> Vec<u8> {
        pairs.iter().flat_map(|(name, value)| literal(&bytes(name), &bytes(value))).collect()
    };
    let mut out = PREFACE.to_vec();
    out.extend(frame(SETTINGS, 0, 0, &[]));
    out.extend(frame(SETTINGS, ACK, 0, &[]));
    let (has_data, has_trailers) = (!request.data.is_empty(), !request.trailers.is_empty());
    let ends = |last: bool| if last { END_STREAM } else { 0 };
    out.extend(frame(HEADERS, END_HEADERS | ends(!has_data && !has_trailers), 1, &block(&request.headers)));
    for (i, data) in request.data.iter().enumerate() {
        let last = i + 1 == request.data.len() && !has_trailers;
        out.extend(frame(DATA, ends(last), 1, &bytes(data)));
    }
    if has_trailers {
        out.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&request.trailers)));
    }
    out
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut out = length.get(1..).unwrap_or_default().to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// RFC 7541 6.2.2 without Huffman: the bytes go over as they are.
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        integer(text.len(), &mut out);
        out.extend(text);
    }
    out
}

/// RFC 7541 5.1 with a prefix of seven bits.
fn integer(number: usize, out: &mut Vec<u8>) {
    const PREFIX_MAX: usize = 127;
    let low = |n: usize| u8::try_from(n & 0x7f).unwrap_or_default();
    if number < PREFIX_MAX {
        out.push(low(number));
        return;
    }
    out.push(low(PREFIX_MAX));
    let mut rest = number - PREFIX_MAX;
    while rest >= 128 {
        out.push(low(rest) | 0x80);
        rest >>= 7;
    }
    out.push(low(rest));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_frames_and_the_last_one_ends_the_stream() {
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        let request = Http2Request {
            headers: vec![pair("a", "b\r\n")],
            data: vec!["x".to_owned(), "y".to_owned()],
            trailers: Vec::new(),
        };
        let wire = connection(&request, |t| t.as_bytes().to_vec());
        let frames = wire.get(PREFACE.len() + 18..).unwrap();
        assert_eq!(
            frames,
            b"\0\0\x07\x01\x04\0\0\0\x01\0\x01a\x03b\r\n\0\0\x01\0\0\0\0\0\x01x\0\0\x01\0\x01\0\0\0\x01y"
        );
    }

    #[test]
    fn long_texts_have_long_lengths() {
        let mut out = Vec::new();
        integer(126, &mut out);
        integer(127, &mut out);
        integer(1337 + 127 - 31, &mut out);
        assert_eq!(out, [126, 127, 0, 127, 0x9a, 0x0a]);
    }
}
