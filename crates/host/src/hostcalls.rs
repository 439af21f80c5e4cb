//! What the functions of module `env` do, by topic (spec: proxy-wasm-host §4).

pub(crate) mod buffers;
pub(crate) mod control;
pub(crate) mod general;
pub(crate) mod headers;

use crate::abi::Status;

/// What a hostcall returns: a status for the guest, or a trap.
pub(crate) type Answer = wasmtime::Result<u32>;

pub(crate) fn status(status: Status) -> Answer {
    Ok(status as u32)
}

/// Whether a header name from a guest is an HTTP token or a pseudo header.
pub(crate) fn is_header_name(name: &[u8]) -> bool {
    let token = name.strip_prefix(b":").unwrap_or(name);
    !token.is_empty()
        && token.iter().all(|b| {
            matches!(
                b,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            ) || b.is_ascii_alphanumeric()
        })
}

/// Whether a header value from a guest can be sent without ending the header early.
pub(crate) fn is_header_value(value: &[u8]) -> bool {
    !value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_end_a_header_are_refused() {
        assert!(is_header_name(b"x-a") && is_header_name(b":path"));
        for bad in [&b""[..], b":", b"x a", b"x\r\ny", b"x:y", b"\0", "ü".as_bytes()] {
            assert!(!is_header_name(bad), "{bad:?}");
        }
        assert!(is_header_value(b"any text \xff") && !is_header_value(b"a\r\nb") && !is_header_value(b"\0"));
    }
}
