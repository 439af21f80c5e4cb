//! The pair-list encoding of header maps (spec: proxy-wasm-host §2.1).

/// Bounds for decoding a list that a guest passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PairLimits {
    /// Bytes of the whole encoding.
    pub bytes_max: usize,
    /// Number of pairs.
    pub count_max: usize,
}

impl Default for PairLimits {
    fn default() -> Self {
        Self { bytes_max: 1 << 20, count_max: 1024 }
    }
}

/// Why an encoded list was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// Larger than [`PairLimits::bytes_max`].
    #[error("pair list is larger than {0} bytes")]
    TooLarge(usize),
    /// More than [`PairLimits::count_max`].
    #[error("pair list has more than {0} pairs")]
    TooMany(usize),
    /// The lengths inside do not add up, or a terminator is missing.
    #[error("pair list is malformed")]
    Malformed,
}

/// A key and a value.
pub type Pair<'p> = (&'p [u8], &'p [u8]);

/// Takes the pairs of a list one by one.
pub type EachPair<'e> = &'e mut dyn FnMut(&[u8], &[u8]);

/// Decodes a list. Empty input, one NUL byte and a zero count all mean the empty list.
///
/// # Errors
/// [`PairError`]; unlike Envoy, which takes a malformed list for an empty one and so wipes all headers.
pub fn decode_pairs(input: &[u8], limits: PairLimits) -> Result<Vec<Pair<'_>>, PairError> {
    if input.len() > limits.bytes_max {
        return Err(PairError::TooLarge(limits.bytes_max));
    }
    if input.is_empty() || input == [0] {
        return Ok(Vec::new());
    }
    let (count, mut lengths) = split_u32(input).ok_or(PairError::Malformed)?;
    let count = count as usize;
    if count > limits.count_max {
        return Err(PairError::TooMany(limits.count_max));
    }
    let mut data = lengths.get(count * 8..).ok_or(PairError::Malformed)?;
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        let (key_len, rest) = split_u32(lengths).ok_or(PairError::Malformed)?;
        let (value_len, rest) = split_u32(rest).ok_or(PairError::Malformed)?;
        lengths = rest;
        let (key, rest) = split_terminated(data, key_len).ok_or(PairError::Malformed)?;
        let (value, rest) = split_terminated(rest, value_len).ok_or(PairError::Malformed)?;
        data = rest;
        pairs.push((key, value));
    }
    if data.is_empty() { Ok(pairs) } else { Err(PairError::Malformed) }
}

fn split_u32(input: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = input.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*head), rest))
}

fn split_terminated(input: &[u8], len: u32) -> Option<(&[u8], &[u8])> {
    let (text, rest) = input.split_at_checked(len as usize)?;
    let (0, rest) = rest.split_first()? else { return None };
    Some((text, rest))
}

/// Encodes a list into `out`, which is cleared first. The empty list is zero bytes.
///
/// `for_each` calls its argument once per pair; it is run twice and must give the same pairs both times.
pub fn encode_pairs(out: &mut Vec<u8>, for_each: &dyn Fn(EachPair<'_>)) {
    out.clear();
    let mut count = 0_u32;
    out.extend_from_slice(&[0; 4]);
    for_each(&mut |key, value| {
        count += 1;
        out.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
    });
    if count == 0 {
        out.clear();
        return;
    }
    if let Some(head) = out.first_chunk_mut::<4>() {
        *head = count.to_le_bytes();
    }
    for_each(&mut |key, value| {
        out.extend_from_slice(key);
        out.push(0);
        out.extend_from_slice(value);
        out.push(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_pairs(&mut out, &|each| pairs.iter().for_each(|(k, v)| each(k, v)));
        out
    }

    #[test]
    fn the_worked_examples_of_the_specification() {
        let bytes = encode(&[(b"a", b"1"), (b"b", b"22")]);
        assert_eq!(
            bytes, b"\x02\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x02\0\0\0a\x001\0b\x0022\0",
            "spec: proxy-wasm-host §2.1, first row"
        );
        assert_eq!(encode(&[(b":path", b"/"), (b"x", b"")]).len(), 31);
        assert_eq!(encode(&[(b"k", b"v1"), (b"k", b"v2")]).len(), 30);
        assert!(encode(&[]).is_empty());
    }

    #[test]
    fn three_spellings_of_the_empty_list() {
        for empty in [&b""[..], b"\0", b"\0\0\0\0"] {
            assert_eq!(decode_pairs(empty, PairLimits::default()), Ok(vec![]));
        }
    }

    #[test]
    fn a_malformed_list_is_an_error_and_not_an_empty_one() {
        let limits = PairLimits::default();
        for bad in [&b"\x01"[..], b"\x01\0\0\0", b"\xff\0\0\0\0\0\0\0", b"\x01\0\0\0\x01\0\0\0\x01\0\0\0a\0b"]
        {
            assert_eq!(decode_pairs(bad, limits), Err(PairError::Malformed), "{bad:?}");
        }
        let mut trailing = encode(&[(b"a", b"1")]);
        trailing.push(7);
        assert_eq!(decode_pairs(&trailing, limits), Err(PairError::Malformed));
    }

    #[test]
    fn limits_are_errors() {
        let limits = PairLimits { bytes_max: 64, count_max: 1 };
        assert_eq!(decode_pairs(&[0; 65], limits), Err(PairError::TooLarge(64)));
        let two = encode(&[(b"a", b"1"), (b"b", b"2")]);
        assert_eq!(decode_pairs(&two, limits), Err(PairError::TooMany(1)));
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_itself(pairs in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let borrowed: Vec<(&[u8], &[u8])> = pairs.iter().map(|(k, v)| (&k[..], &v[..])).collect();
            let bytes = encode(&borrowed);
            prop_assert_eq!(decode_pairs(&bytes, PairLimits::default()), Ok(borrowed));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_pairs(&bytes, PairLimits::default());
        }
    }
}
