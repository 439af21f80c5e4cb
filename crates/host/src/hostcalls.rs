//! What the functions of module `env` do, by topic (spec: proxy-wasm-host §4).

pub(crate) mod buffers;
pub(crate) mod calls;
pub(crate) mod control;
pub(crate) mod foreign;
pub(crate) mod general;
pub(crate) mod grpc;
pub(crate) mod headers;
pub(crate) mod metrics;
pub(crate) mod redis;
pub(crate) mod shared;

use crate::abi::{LogLevel, Status};
use crate::effects::HeaderPairs;
use crate::pairs::decode_pairs;
use crate::state::VmState;

/// What a hostcall returns: a status for the guest, or a trap.
pub(crate) type Answer = wasmtime::Result<u32>;

pub(crate) fn status(status: Status) -> Answer {
    Ok(status as u32)
}

/// The bytes of an HTTP token.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        let mark = matches!(
            byte,
            b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        );
        if let Some(entry) = table.split_at_mut(byte as usize).1.first_mut() {
            *entry = mark || byte.is_ascii_alphanumeric();
        }
        byte += 1;
    }
    table
};

/// Whether a header name from a guest is an HTTP token or a pseudo header.
pub(crate) fn is_header_name(name: &[u8]) -> bool {
    let token = name.strip_prefix(b":").unwrap_or(name);
    !token.is_empty() && token.iter().all(|b| TOKEN.get(usize::from(*b)).is_some_and(|t| *t))
}

/// Whether a header value from a guest can be sent without ending the header early.
pub(crate) fn is_header_value(value: &[u8]) -> bool {
    !value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0))
}

/// Header pairs that a guest sends with a call-out: names in lower case, without what would corrupt the message.
///
/// # Errors
/// [`Status::BadArgument`] when the list is malformed or too long.
fn outgoing_pairs<S>(state: &mut VmState<S>, function: &str, encoded: &[u8]) -> Result<HeaderPairs, Status> {
    let pairs = decode_pairs(encoded, state.limits.pairs).map_err(|e| {
        state.log(LogLevel::Warn, format!("{function} refused: {e}").as_bytes());
        Status::BadArgument
    })?;
    let mut kept = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let name = name.to_ascii_lowercase();
        if is_header_name(&name) && is_header_value(value) {
            kept.push((name, value.to_vec()));
        } else {
            let text =
                format!("{function}: header left out, it would corrupt the message: {}", name.escape_ascii());
            state.log(LogLevel::Warn, text.as_bytes());
        }
    }
    Ok(kept)
}

/// A name that a guest gave: bytes, of which only UTF-8 can be the name of anything.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
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
