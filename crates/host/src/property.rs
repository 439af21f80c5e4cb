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
    /// Eight bytes, little-endian.
    Double(f64),
    /// A pair list of encoded values.
    Map(Vec<(Vec<u8>, PropertyValue)>),
    /// A pair list with the values where a map has its keys.
    List(Vec<PropertyValue>),
    /// A value that exists and cannot be encoded.
    Null,
}

impl PropertyValue {
    /// A string value.
    pub fn text(value: impl AsRef<[u8]>) -> Self {
        Self::Bytes(value.as_ref().to_vec())
    }

    /// What a path leads to from here: keys of maps, decimal indexes of lists. An empty path is the value itself.
    pub fn get(&self, path: &[&[u8]]) -> Option<&Self> {
        let Some((first, rest)) = path.split_first() else { return Some(self) };
        let inner = match self {
            Self::Map(pairs) => pairs.iter().find(|(key, _)| key == first).map(|(_, value)| value),
            Self::List(values) => {
                std::str::from_utf8(first).ok()?.parse::<usize>().ok().and_then(|index| values.get(index))
            }
            _ => None,
        };
        inner?.get(rest)
    }

    /// Writes the encoding into `out`, which is cleared first. False when there is none, as for null.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) -> bool {
        out.clear();
        match self {
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Int(value) => out.extend_from_slice(&value.to_le_bytes()),
            Self::Double(value) => out.extend_from_slice(&value.to_le_bytes()),
            Self::Bool(value) => out.push(u8::from(*value)),
            Self::Timestamp(time) => {
                let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                out.extend_from_slice(&nanoseconds(since).to_le_bytes());
            }
            Self::Duration(duration) => out.extend_from_slice(&nanoseconds(*duration).to_le_bytes()),
            Self::Map(pairs) => {
                let mut encoded = Vec::with_capacity(pairs.len());
                for (key, value) in pairs {
                    let mut bytes = Vec::new();
                    if !value.encode(&mut bytes) {
                        return false;
                    }
                    encoded.push((key, bytes));
                }
                encode_all(out, encoded.len(), &|each| encoded.iter().for_each(|(k, v)| each(k, v)));
            }
            Self::List(values) => {
                let mut encoded = Vec::with_capacity(values.len());
                for value in values {
                    let mut bytes = Vec::new();
                    if !value.encode(&mut bytes) {
                        return false;
                    }
                    encoded.push(bytes);
                }
                encode_all(out, encoded.len(), &|each| encoded.iter().for_each(|v| each(v, b"")));
            }
            Self::Null => return false,
        }
        true
    }
}

/// A pair list; one without pairs is the count alone, unlike that of a header map.
fn encode_all(out: &mut Vec<u8>, count: usize, pairs: &dyn Fn(crate::pairs::EachPair<'_>)) {
    if count == 0 {
        out.extend_from_slice(&0_u32.to_le_bytes());
    } else {
        crate::pairs::encode_pairs(out, pairs);
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
    fn lists_and_maps_nest_and_null_cannot_be_encoded() {
        let mut out = Vec::new();
        let text = PropertyValue::text;
        assert!(PropertyValue::List(vec![text("a"), text("bc")]).encode(&mut out));
        assert_eq!(
            out, b"\x02\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0a\0\0bc\0\0",
            "spec: proxy-wasm-host §2.1"
        );
        let map = vec![(b"n".to_vec(), PropertyValue::Double(1.5)), (b"s".to_vec(), text("x"))];
        assert!(PropertyValue::Map(map).encode(&mut out));
        assert_eq!(out.len(), 35, "spec: proxy-wasm-host §2.1");
        assert!(!PropertyValue::Null.encode(&mut out));
        assert!(!PropertyValue::List(vec![PropertyValue::Null]).encode(&mut out));
    }

    #[test]
    fn a_path_leads_through_maps_and_lists() {
        let text = PropertyValue::text;
        let list = PropertyValue::List(vec![text("zero"), text("one")]);
        let map = PropertyValue::Map(vec![(b"list".to_vec(), list)]);
        assert_eq!(map.get(&[b"list", b"1"]), Some(&text("one")));
        for nowhere in [&[&b"list"[..], b"2"][..], &[b"list", b"x"], &[b"none"], &[b"list", b"1", b"x"]] {
            assert_eq!(map.get(nowhere), None);
        }
        assert_eq!(map.get(&[]), Some(&map));
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
