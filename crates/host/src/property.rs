//! Property values and their encodings (spec: proxy-wasm-host §2.3).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A value that `proxy_get_property` answers.
#[derive(Clone, Debug, PartialEq)]
pub enum PropertyValue {
    /// A string or bytes, as they are.
    Bytes(Vec<u8>),
    /// A signed or unsigned integer: eight bytes, little-endian.
    Int(i64),
    /// One byte, 0 or 1.
    Bool(bool),
    /// Nanoseconds since the Unix epoch.
    Timestamp(SystemTime),
    /// Nanoseconds.
    Duration(Duration),
    /// A pair list.
    Map(Vec<(Vec<u8>, Vec<u8>)>),
}

impl PropertyValue {
    /// A string value.
    pub fn text(value: impl AsRef<[u8]>) -> Self {
        Self::Bytes(value.as_ref().to_vec())
    }

    /// Writes the encoding into `out`, which is cleared first.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Int(value) => out.extend_from_slice(&value.to_le_bytes()),
            Self::Bool(value) => out.push(u8::from(*value)),
            Self::Timestamp(time) => {
                let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                out.extend_from_slice(&nanoseconds(since).to_le_bytes());
            }
            Self::Duration(duration) => out.extend_from_slice(&nanoseconds(*duration).to_le_bytes()),
            Self::Map(pairs) => {
                crate::pairs::encode_pairs(out, &|each| pairs.iter().for_each(|(k, v)| each(k, v)));
            }
        }
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// The segments of a property path: joined by NUL, a trailing NUL is tolerated.
pub(crate) fn split_path(path: &[u8]) -> smallvec::SmallVec<[&[u8]; 4]> {
    let path = path.strip_suffix(b"\0").unwrap_or(path);
    path.split(|byte| *byte == 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_eight_bytes_little_endian() {
        let mut out = vec![1];
        PropertyValue::Int(8080).encode(&mut out);
        assert_eq!(out, [0x90, 0x1f, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn segments_may_contain_dots_and_end_in_nul() {
        assert_eq!(
            split_path(b"request\0headers\0x-id\0").as_slice(),
            [&b"request"[..], b"headers", b"x-id"]
        );
        assert_eq!(split_path(b"a.b").as_slice(), [b"a.b"]);
    }
}
