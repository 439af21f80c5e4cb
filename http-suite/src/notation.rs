//! Bytes as they are written in case files.
//!
//! Text stands for itself; `\r`, `\n`, `\t`, `\0`, `\\`, `\"` and `\xNN` for one byte; `%{300*abc}` for 300 times `abc`.

/// The bytes that a text stands for.
///
/// # Errors
/// An escape that is none of the above.
pub fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if let Some(inner) = rest.strip_prefix("%{") {
            let (inner, after) = inner.split_once('}').ok_or_else(|| format!("{text:?}: %{{ has no end"))?;
            let (count, what) = inner.split_once('*').ok_or_else(|| format!("{inner:?} is no COUNT*TEXT"))?;
            let count: usize = count.parse().map_err(|e| format!("{count:?}: {e}"))?;
            out.extend(bytes(what)?.repeat(count));
            rest = after;
            continue;
        }
        rest = rest.get(next.len_utf8()..).unwrap_or_default();
        if next != '\\' {
            out.extend(next.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = rest.chars().next().ok_or_else(|| format!("{text:?} ends in a backslash"))?;
        rest = rest.get(escape.len_utf8()..).unwrap_or_default();
        match escape {
            'r' => out.push(b'\r'),
            'n' => out.push(b'\n'),
            't' => out.push(b'\t'),
            '0' => out.push(0),
            '\\' | '"' => out.extend(escape.encode_utf8(&mut [0; 4]).as_bytes()),
            'x' => {
                let digits = rest.get(..2).ok_or_else(|| format!("{text:?}: \\x wants two digits"))?;
                out.push(u8::from_str_radix(digits, 16).map_err(|e| format!("\\x{digits}: {e}"))?);
                rest = rest.get(2..).unwrap_or_default();
            }
            _ => return Err(format!("{text:?}: \\{escape} is no escape")),
        }
    }
    Ok(out)
}

/// Bytes as text for reading and for patterns: what is no printable ASCII is escaped, line ends are not.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\n' | b' '..=b'~' => out.push(char::from(*byte)),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_repetitions_stand_for_bytes() {
        assert_eq!(bytes("a\\r\\n\\0\\xff\\\\\\\"é").unwrap(), b"a\r\n\0\xff\\\"\xc3\xa9");
        assert_eq!(bytes("<%{3*a\\n}>").unwrap(), b"<a\na\na\n>");
        assert_eq!(bytes("100%").unwrap(), b"100%");
        for wrong in ["\\", "\\q", "\\x1", "\\xgg", "%{3*a", "%{3a}", "%{x*a}"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_is_printable() {
        assert_eq!(shown(b"a\r\n\t\x00\xff"), "a\\r\n\\t\\x00\\xff");
    }
}
