//! `compress` and `uncompress`: zlib streams (RFC 1950).

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use super::Outcome;
use crate::abi::Status;

pub(super) fn compress(bytes: &[u8]) -> Outcome {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).map_err(|_| Status::SerializationFailure)
}

/// A result over the limit is a failure: a kilobyte may stand for a megabyte.
pub(super) fn uncompress(bytes: &[u8], bytes_max: usize) -> Outcome {
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    let mut out = Vec::new();
    let read = ZlibDecoder::new(bytes).take(limit.saturating_add(1)).read_to_end(&mut out);
    match read {
        Ok(_) if out.len() <= bytes_max => Ok(out),
        _ => Err(Status::SerializationFailure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_and_no_further_than_the_limit() {
        let plain = vec![b'a'; 2000];
        let small = compress(&plain).unwrap();
        assert!(small.len() < 30);
        assert_eq!(uncompress(&small, 2000), Ok(plain));
        assert_eq!(uncompress(&small, 1999), Err(Status::SerializationFailure));
        let (damaged, _) = small.split_at(10);
        assert_eq!(uncompress(damaged, 2000), Err(Status::SerializationFailure));
        assert_eq!(uncompress(b"", 10), Err(Status::SerializationFailure));
        assert_eq!(uncompress(&compress(b"").unwrap(), 10), Ok(Vec::new()));
    }
}
