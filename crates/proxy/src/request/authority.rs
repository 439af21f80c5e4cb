//! The host that a request is for.

use std::net::Ipv6Addr;

use http::Uri;
use http::header::{HOST, HeaderMap, HeaderValue};

/// The target's authority wins over `host` (RFC 9112 §3.2.2).
pub(super) fn authority(uri: &Uri, headers: &HeaderMap) -> Option<HeaderValue> {
    if let Some(authority) = uri.authority() {
        // Without user information, which is for nobody behind us.
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        return HeaderValue::from_str(host).ok();
    }
    let mut hosts = headers.get_all(HOST).iter();
    let first = hosts.next().filter(|v| !v.is_empty())?;
    // Two hosts are two readings.
    hosts.next().is_none().then(|| first.clone())
}

/// Whether a host is one: a name or an address, and maybe a port (RFC 3986 §3.2).
pub(super) fn is_authority(host: &[u8]) -> bool {
    if host.contains(&b'[') || host.contains(&b']') {
        let end = host.iter().position(|b| *b == b']');
        let (ip, port) = host.split_at(end.map_or(0, |end| end + 1));
        let ip = ip.strip_prefix(b"[").and_then(|ip| ip.strip_suffix(b"]"));
        let ip = ip.and_then(|ip| std::str::from_utf8(ip).ok());
        return ip.is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok())
            && (port.is_empty() || port.strip_prefix(b":").is_some_and(is_port));
    }
    let mut parts = host.splitn(2, |b| *b == b':');
    parts.next().is_some_and(is_name) && parts.next().is_none_or(is_port)
}

/// A registered name. No comma: a list of two hosts is two hosts.
fn is_name(name: &[u8]) -> bool {
    let is_plain = |b: &u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') || b"!$&'()*+;=".contains(b)
    };
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        rest = match first {
            b'%' if tail.get(..2).is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit)) => {
                tail.get(2..).unwrap_or_default()
            }
            b if is_plain(b) => tail,
            _ => return false,
        };
    }
    true
}

fn is_port(port: &[u8]) -> bool {
    // An empty one is the default one.
    let text = std::str::from_utf8(port).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()));
    text.is_some_and(|t| t.is_empty() || t.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_rfc_3986() {
        for good in ["a.test", "a.test:80", "a.test:", "127.0.0.1", "[::1]", "[::1]:443", "a_b", "a%2Fb", ""]
        {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a@b",
            "a,b",
            "a:b",
            "a:80:80",
            "a:65536",
            "[::1",
            "::1]",
            "[x]",
            "[::1]x",
            "a%zz",
            "a%2",
            "t\u{e9}st",
            "a\\b",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }
}
