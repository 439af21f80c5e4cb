//! Decoding chunked bodies (RFC 9112 §7.1).

use bytes::{Buf as _, Bytes, BytesMut};

/// A chunk-size line, extensions included, bytes.
const SIZE_LINE_BYTES_MAX: usize = 4096;
/// All trailers together, bytes.
const TRAILER_BYTES_MAX: usize = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailers { seen: usize },
    Done,
}

/// Takes chunks apart.
#[derive(Debug)]
pub(crate) struct ChunkedDecoder {
    state: State,
}

/// A step of the decoder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Body bytes.
    Data(Bytes),
    /// The body is over. Trailers have been skipped: like Envoy we do not pass HTTP/1 trailers on.
    End,
    /// More input is needed.
    Incomplete,
}

/// What is not chunked coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChunkError {
    #[error("a chunk size is not hexadecimal, or too large")]
    Size,
    #[error("a chunk-size line is longer than {SIZE_LINE_BYTES_MAX} bytes")]
    SizeLine,
    #[error("a line does not end with CR LF")]
    LineEnd,
    #[error("the trailers are larger than {TRAILER_BYTES_MAX} bytes")]
    Trailers,
}

impl ChunkedDecoder {
    pub(crate) fn new() -> Self {
        Self { state: State::Size }
    }

    /// Takes what it can from the input.
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Result<Chunk, ChunkError> {
        loop {
            match self.state {
                State::Size => {
                    let Some(line) = take_line(input, SIZE_LINE_BYTES_MAX, ChunkError::SizeLine)? else {
                        return Ok(Chunk::Incomplete);
                    };
                    let size = parse_size(&line)?;
                    self.state = if size == 0 { State::Trailers { seen: 0 } } else { State::Data(size) };
                }
                State::Data(_) if input.is_empty() => return Ok(Chunk::Incomplete),
                State::Data(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let rest = left - take as u64;
                    self.state = if rest == 0 { State::DataEnd } else { State::Data(rest) };
                    return Ok(Chunk::Data(input.split_to(take).freeze()));
                }
                State::DataEnd => match input.get(..2) {
                    Some(b"\r\n") => {
                        input.advance(2);
                        self.state = State::Size;
                    }
                    Some(_) => return Err(ChunkError::LineEnd),
                    None if matches!(input.first(), None | Some(b'\r')) => return Ok(Chunk::Incomplete),
                    None => return Err(ChunkError::LineEnd),
                },
                State::Trailers { seen } => {
                    let left = TRAILER_BYTES_MAX.saturating_sub(seen);
                    let Some(line) = take_line(input, left, ChunkError::Trailers)? else {
                        return Ok(Chunk::Incomplete);
                    };
                    self.state = if line.is_empty() {
                        State::Done
                    } else {
                        State::Trailers { seen: seen + line.len() + 2 }
                    };
                }
                State::Done => return Ok(Chunk::End),
            }
        }
    }
}

/// A line without its end. Only CR LF ends one: a bare LF is where two parsers disagree.
fn take_line(
    input: &mut BytesMut,
    bytes_max: usize,
    too_long: ChunkError,
) -> Result<Option<BytesMut>, ChunkError> {
    let Some(at) = memchr::memchr(b'\n', input) else {
        return if input.len() > bytes_max { Err(too_long) } else { Ok(None) };
    };
    if at > bytes_max {
        return Err(too_long);
    }
    let mut line = input.split_to(at + 1);
    if !line.ends_with(b"\r\n") {
        return Err(ChunkError::LineEnd);
    }
    line.truncate(at - 1);
    if line.contains(&b'\r') {
        return Err(ChunkError::LineEnd);
    }
    Ok(Some(line))
}

fn parse_size(line: &[u8]) -> Result<u64, ChunkError> {
    let end = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let digits = line.get(..end).unwrap_or_default();
    // Behind the digits: nothing, white space, or an extension.
    if digits.is_empty() || digits.len() > 15 || !matches!(line.get(end), None | Some(b';' | b' ' | b'\t')) {
        return Err(ChunkError::Size);
    }
    let text = std::str::from_utf8(digits).map_err(|_| ChunkError::Size)?;
    u64::from_str_radix(text, 16).map_err(|_| ChunkError::Size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A body and what is left behind it; `None` when it is not complete.
    type Decoded = Option<(Vec<u8>, Vec<u8>)>;

    /// Feeds input in pieces.
    fn decode(input: &[u8], piece: usize) -> Result<Decoded, ChunkError> {
        let mut decoder = ChunkedDecoder::new();
        let (mut buffer, mut body) = (BytesMut::new(), Vec::new());
        let mut pieces = input.chunks(piece.max(1));
        loop {
            match decoder.decode(&mut buffer)? {
                Chunk::Data(bytes) => body.extend_from_slice(&bytes),
                Chunk::End => {
                    buffer.extend(pieces.flatten());
                    return Ok(Some((body, buffer.to_vec())));
                }
                Chunk::Incomplete => match pieces.next() {
                    Some(more) => buffer.extend_from_slice(more),
                    None => return Ok(None),
                },
            }
        }
    }

    #[test]
    fn chunks_extensions_and_trailers() {
        let input = b"4\r\nWiki\r\n5;a=\"b\"\r\npedia\r\nA \r\n in chunks\r\n0\r\nx-trailer: 1\r\n\r\nNEXT";
        for piece in 1..input.len() {
            assert_eq!(
                decode(input, piece),
                Ok(Some((b"Wikipedia in chunks".to_vec(), b"NEXT".to_vec()))),
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_an_error() {
        for (input, error) in [
            (&b"4\nWiki\r\n0\r\n\r\n"[..], ChunkError::LineEnd),
            (b"4\r\nWikiX\r\n0\r\n\r\n", ChunkError::LineEnd),
            (b"+4\r\nWiki\r\n", ChunkError::Size),
            (b"0x4\r\nWiki\r\n", ChunkError::Size),
            (b"-1\r\n", ChunkError::Size),
            (b"\r\n", ChunkError::Size),
            (b"4_\r\nWiki\r\n", ChunkError::Size),
            (b"ffffffffffffffffff\r\n", ChunkError::Size),
            (b"4\r;\r\nWiki\r\n", ChunkError::LineEnd),
            (b"0\r\nx: 1\n\r\n", ChunkError::LineEnd),
        ] {
            for piece in [1, input.len()] {
                assert_eq!(decode(input, piece), Err(error), "{:?}", input.escape_ascii().to_string());
            }
        }
    }

    #[test]
    fn endless_lines_are_stopped() {
        let line = [b"1;".as_slice(), &[b'x'; 5000]].concat();
        assert_eq!(decode(&line, 100), Err(ChunkError::SizeLine));
        let trailers = [b"0\r\n".as_slice(), &b"a: b\r\n".repeat(4000)].concat();
        assert_eq!(decode(&trailers, 1000), Err(ChunkError::Trailers));
    }

    proptest! {
        #[test]
        fn whatever_was_encoded_comes_out_again(body in prop::collection::vec(any::<u8>(), 0..2000), sizes in prop::collection::vec(1_usize..300, 1..20), piece in 1_usize..100) {
            let mut encoded = Vec::new();
            let mut rest = &body[..];
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*size).min(rest.len()));
                encoded.extend_from_slice(format!("{:x}\r\n", now.len()).as_bytes());
                encoded.extend_from_slice(now);
                encoded.extend_from_slice(b"\r\n");
                rest = later;
            }
            encoded.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decode(&encoded, piece), Ok(Some((body, vec![]))));
        }

        #[test]
        fn arbitrary_input_never_panics(input in prop::collection::vec(any::<u8>(), 0..500), piece in 1_usize..50) {
            let _ = decode(&input, piece);
        }
    }
}
