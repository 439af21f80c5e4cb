//! From what the client sent to what filters and the upstream see.

mod authority;

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{Method, Uri, Version};
use http_body::Body as _;
use hyper::Request;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use wasmgate_stream::RequestHead;

use self::authority::{authority, is_authority};
use crate::reason::Reason;
use crate::tls::Tls;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_ENVOY_EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
const X_ENVOY_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const HTTPS: HeaderValue = HeaderValue::from_static("https");
const X_ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");

/// A request that may enter the chain.
pub(crate) struct Accepted {
    pub(crate) head: RequestHead,
    pub(crate) body: Option<Incoming>,
    /// It asks for another protocol, whose bytes follow once it has been agreed on.
    pub(crate) switches: bool,
    /// The client, if a proxy that is trusted has named another one than the connection's.
    pub(crate) client: Option<SocketAddr>,
}

/// What is known of who sends a request.
pub(crate) struct Edge<'e> {
    /// The connection's client as a header value.
    pub(crate) peer: &'e HeaderValue,
    pub(crate) tls: Option<&'e Tls>,
    /// Proxies in front of us whose word counts.
    pub(crate) trusted_hops: u32,
    pub(crate) accepts_http10: bool,
    /// Size of a head, bytes.
    pub(crate) head_bytes_max: usize,
    /// Size of a body, bytes.
    pub(crate) body_bytes_max: Option<u64>,
}

/// The protocol that can be switched to.
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Whether a request asks to switch to WebSocket (RFC 6455 §4.1). Every other wish to switch is passed over, as RFC 9110
/// §7.8 allows.
pub(crate) fn wants_switch(request: &Request<Incoming>) -> bool {
    let names = |name: HeaderName, token: &[u8]| {
        let values = request.headers().get_all(name);
        let mut tokens = values.iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
        tokens.any(|t| t.trim_ascii().eq_ignore_ascii_case(token))
    };
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && request.headers().contains_key(UPGRADE)
        && names(UPGRADE, b"websocket")
        && names(CONNECTION, b"upgrade")
        && request.body().is_end_stream()
}

/// Makes an extended CONNECT for WebSocket (RFC 8441) the request to switch that it stands for, as Envoy does: filters and
/// endpoints see HTTP/1.1's. Whether it was one.
pub(crate) fn take_extended_connect(request: &mut Request<Incoming>) -> bool {
    const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
    let protocol =
        request.extensions().get::<Protocol>().map(|p| p.as_str().eq_ignore_ascii_case("websocket"));
    if *request.method() != Method::CONNECT || protocol != Some(true) {
        return false;
    }
    request.extensions_mut().remove::<Protocol>();
    *request.method_mut() = Method::GET;
    let headers = request.headers_mut();
    // HTTP/2 needs none; whoever speaks HTTP/1.1 does.
    let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
    if let Ok(key) = HeaderValue::from_str(&key) {
        let _ = headers.try_insert(KEY, key);
    }
    true
}

/// Checks a request and makes its head canonical.
pub(crate) fn accept(
    request: Request<Incoming>,
    edge: &Edge<'_>,
    switches: bool,
) -> Result<Accepted, Reason> {
    let (parts, body) = request.into_parts();
    let is_old = parts.version == Version::HTTP_10 && !edge.accepts_http10;
    if is_old || parts.version == Version::HTTP_09 {
        return Err(Reason::LowVersion);
    }
    if parts.method == Method::CONNECT {
        return Err(Reason::ConnectUnsupported);
    }
    let mut headers = parts.headers;
    if head_bytes(&parts.uri, &headers) > edge.head_bytes_max {
        return Err(Reason::HeadTooLarge);
    }
    if parts.version == Version::HTTP_2 {
        if parts.uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err(Reason::InvalidHost);
        }
        let is_length = |v: &HeaderValue| !v.is_empty() && v.as_bytes().iter().all(u8::is_ascii_digit);
        if !headers.get_all(CONTENT_LENGTH).iter().all(is_length) {
            return Err(Reason::RequestBody);
        }
        join_cookies(&mut headers);
    }
    let authority = authority(&parts.uri, &headers).ok_or(Reason::MissingHost)?;
    // No name begins with a dot: what it is a part of would be matched by some and not by others.
    if !is_authority(authority.as_bytes()) || authority.as_bytes().starts_with(b".") {
        return Err(Reason::InvalidHost);
    }
    if !is_target(&parts.uri) {
        return Err(Reason::InvalidTarget);
    }
    if !is_plainly_chunked(&headers) {
        return Err(Reason::TransferCoding);
    }
    let has_body = !body.is_end_stream();
    if edge.body_bytes_max.is_some_and(|max| body.size_hint().exact().is_some_and(|length| length > max)) {
        return Err(Reason::BodyTooLarge);
    }
    remove_hop_by_hop(&mut headers);
    if switches {
        // Of no others, and no protocol beside it.
        headers.insert(UPGRADE, WEBSOCKET);
        // What follows has no length.
        headers.remove(CONTENT_LENGTH);
    }
    // The codec has decided where the body ends; a length that it did not use must not be read by anybody else.
    if has_body && body.size_hint().exact().is_none() {
        headers.remove(CONTENT_LENGTH);
    }
    let client = add_forwarding(&mut headers, edge);
    let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    // Of the server as a whole (RFC 9112 §3.2.4): it is no path, and goes on as it is.
    let is_asterisk = target == "*" && parts.method == Method::OPTIONS;
    let normalised = if is_asterisk { Ok(None) } else { normalise(target) };
    let normalised = normalised.map_err(|NotNormal| Reason::PathNotNormal)?;
    let mut head = RequestHead::new(parts.method, parts.uri, Some(authority), headers);
    if edge.tls.is_some() {
        head.scheme = HTTPS;
    }
    if let Some(path) = normalised.and_then(|p| HeaderValue::from_str(&p).ok()) {
        head.set_path(path);
    }
    Ok(Accepted { head, body: has_body.then_some(body), switches, client })
}

/// Whether a target is a path, `*`, or a URL of ours: a bare name, which only CONNECT may ask for, would be taken for one.
fn is_target(uri: &Uri) -> bool {
    match uri.scheme_str() {
        Some(scheme) => matches!(scheme, "http" | "https"),
        None => uri.authority().is_none(),
    }
}

/// Bytes of a head as they came, nearly.
fn head_bytes(uri: &Uri, headers: &HeaderMap) -> usize {
    let target = uri.path_and_query().map_or(0, |p| p.as_str().len());
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() + target
}

/// Several of them are one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        let _ = headers.try_insert(COOKIE, joined);
    }
}

/// Whether a body has no coding but its chunks, which are undone here: nobody would undo another one (RFC 9112 §6.1).
fn is_plainly_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    codings.next().is_none_or(|v| v.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
        && codings.next().is_none()
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        // The usual words name nothing that would be passed on; only others need the map searched.
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|b| *b == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|t| !t.eq_ignore_ascii_case(b"close") && !t.eq_ignore_ascii_case(b"keep-alive"))
            .filter_map(|t| HeaderName::from_bytes(t).ok())
            // These two carry the request itself and cannot be hop-by-hop.
            .filter(|n| *n != HOST && *n != CONTENT_LENGTH)
            .collect();
        headers.remove(CONNECTION);
        for name in named {
            headers.remove(name);
        }
    }
    for name in [TRANSFER_ENCODING, EXPECT, UPGRADE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
}

/// What Envoy adds at the edge, in its order; the client, if it is not the connection's.
fn add_forwarding(headers: &mut HeaderMap, edge: &Edge<'_>) -> Option<SocketAddr> {
    let Edge { peer, tls, .. } = edge;
    let client = trusted_client(headers, edge.trusted_hops);
    let before: Vec<&[u8]> = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    let forwarded_for = if before.is_empty() {
        HeaderValue::clone(peer)
    } else {
        // Several of them are one list.
        let all = [&before[..], &[peer.as_bytes()]].concat().join(&b","[..]);
        HeaderValue::from_bytes(&all).unwrap_or_else(|_| HeaderValue::clone(peer))
    };
    // A proxy that is trusted knows better what its client spoke.
    let said = headers.get(X_FORWARDED_PROTO).filter(|_| edge.trusted_hops > 0);
    let said = said.filter(|v| matches!(v.as_bytes(), b"http" | b"https")).cloned();
    let own = || if tls.is_some() { HTTPS } else { HeaderValue::from_static("http") };
    let proto = said.unwrap_or_else(own);
    let external = client.and_then(|c| HeaderValue::from_str(&c.ip().to_string()).ok());
    let mut set = |name: HeaderName, value: HeaderValue| drop(headers.try_insert(name, value));
    set(X_FORWARDED_FOR, forwarded_for);
    set(X_FORWARDED_PROTO, proto);
    set(X_ENVOY_EXTERNAL_ADDRESS, external.unwrap_or_else(|| HeaderValue::clone(peer)));
    // A client outside must not choose the id under which others find its request.
    set(X_REQUEST_ID, request_id());
    headers.remove(X_ENVOY_ATTEMPT_COUNT);
    headers.remove(X_ENVOY_INTERNAL);
    // Who claims to have a certificate has one only if it was shown here.
    headers.remove(X_FORWARDED_CLIENT_CERT);
    if let Some(value) = tls.and_then(|tls| tls.client_certificate.as_ref()) {
        let _ = headers.try_insert(X_FORWARDED_CLIENT_CERT, value.clone());
    }
    client
}

/// Whom the last but so many of `x-forwarded-for` names. `None`: nobody is trusted, or it names nobody there.
fn trusted_client(headers: &HeaderMap, trusted_hops: u32) -> Option<SocketAddr> {
    let before = usize::try_from(trusted_hops.checked_sub(1)?).ok()?;
    let values = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
    let all: Vec<&[u8]> = values.flat_map(|v| v.split(|b| *b == b',')).collect();
    let text = std::str::from_utf8(all.iter().rev().nth(before)?).ok()?.trim();
    // Some write a port, too.
    let ip = text.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip()))?;
    Some(SocketAddr::new(ip, 0))
}

/// A version 4 UUID. It is a name, not a secret: a fast generator will do.
fn request_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    const VARIANTS: &[u8; 4] = b"89ab";
    let mut random = fastrand::u128(..);
    let mut text = [b'-'; 36];
    for (i, byte) in text.iter_mut().enumerate() {
        let nibble = (random & 0xf) as usize;
        *byte = match i {
            8 | 13 | 18 | 23 => continue,
            14 => b'4',
            19 => VARIANTS.get(nibble & 3).copied().unwrap_or(b'8'),
            _ => DIGITS.get(nibble).copied().unwrap_or(b'0'),
        };
        random >>= 4;
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// The path has no form that everybody reads alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotNormal;

/// Envoy's `normalize_path`: `\` is `/`, escapes of characters that need none are taken away, characters that need one get
/// it, and dot segments are resolved (RFC 3986 §5.2.4, §6.2.2). `None`: nothing to change.
///
/// # Errors
/// An escaped NUL; a target that is no path.
pub(crate) fn normalise(path_and_query: &str) -> Result<Option<String>, NotNormal> {
    let end = path_and_query.find(['?', '#']).unwrap_or(path_and_query.len());
    let (path, query) = path_and_query.split_at(end);
    if !path.starts_with('/') {
        return Err(NotNormal);
    }
    let is_usual = |byte: u8| {
        !matches!(byte, b'%' | b'\\' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
            && byte.is_ascii()
    };
    if path.bytes().all(is_usual) && !path.contains("/.") {
        return Ok(None);
    }
    let plain = unescape(path)?;
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = plain.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    let out = format!("/{}{query}", kept.join("/"));
    Ok((out != path_and_query).then_some(out))
}

/// One form for every character of a path.
fn unescape(path: &str) -> Result<String, NotNormal> {
    let mut out = String::with_capacity(path.len() + 8);
    // Where the last per cent sign stands that begins no escape.
    let mut stray: Option<usize> = None;
    let mut rest = path.as_bytes().iter();
    while let Some(&byte) = rest.next() {
        let digit = |byte: Option<&u8>| {
            byte.and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok())
        };
        let next = rest.as_slice();
        match byte {
            b'\\' => out.push('/'),
            b'%' => match (digit(next.first()), digit(next.get(1))) {
                (Some(high), Some(low)) => match high << 4 | low {
                    0 => return Err(NotNormal),
                    plain if plain.is_ascii_alphanumeric() || matches!(plain, b'-' | b'.' | b'_' | b'~') => {
                        out.push(char::from(plain));
                        rest.nth(1);
                        if let Some(at) = stray.filter(|at| begins_escape(&out, *at, rest.as_slice())) {
                            out.insert_str(at + 1, "25");
                            stray = None;
                        }
                    }
                    _ => out.push('%'),
                },
                _ => {
                    stray = Some(out.len());
                    out.push('%');
                }
            },
            b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => {
                out.push_str(&format!("%{byte:02X}"))
            }
            _ => out.push(char::from(byte)),
        }
    }
    Ok(out)
}

/// Whether a per cent sign that began no escape does now: `%6%66` would become `%6f`, and that somebody else's `o`. As
/// Envoy's library for URLs, we escape the sign then.
fn begins_escape(out: &str, at: usize, follows: &[u8]) -> bool {
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    match out.as_bytes().get(at + 1..) {
        Some([one]) => is_hex(Some(one)) && is_hex(follows.first()),
        Some([one, two]) => is_hex(Some(one)) && is_hex(Some(two)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dot_segments_are_resolved() {
        for (path, wanted) in [
            ("/a/../b", Some("/b")),
            ("/a/./b?x=/../y", Some("/a/b?x=/../y")),
            ("/../../etc/passwd", Some("/etc/passwd")),
            ("/a/..", Some("/")),
            ("/a/b/.", Some("/a/b/")),
            ("/a\\..\\b", Some("/b")),
            ("/a/%2e%2E/b", Some("/b")),
            ("/a//b", None),
            ("/.well-known/x", None),
            ("/a/..b", None),
            ("/%41%7e?%41", Some("/A~?%41")),
            ("/a%2Fb%zz%", None),
            ("/%252e%252e/x", None),
            ("/x/%2e%2E/%41", Some("/A")),
            ("/{a|b}", Some("/%7Ba%7Cb%7D")),
            // What is unescaped makes no escape of what was none.
            ("/%6%66", Some("/%256f")),
            ("/%%36f", Some("/%256f")),
            ("/%%36%66", Some("/%256f")),
            ("/a/%2%65%2%65/b", Some("/a/%252e%252e/b")),
            ("/%%32%66x", Some("/%252fx")),
            ("/%6%67", Some("/%6g")),
        ] {
            assert_eq!(normalise(path).unwrap().as_deref(), wanted, "{path}");
        }
        for none in ["/%00", "*", "x"] {
            assert_eq!(normalise(none), Err(NotNormal), "{none}");
        }
    }

    proptest! {
        #[test]
        fn what_is_normal_stays_so(path in "/[a-c./%26eE45\\\\{|?#é]{0,24}") {
            if let Ok(normal) = normalise(&path) {
                let normal = normal.unwrap_or(path);
                prop_assert_eq!(normalise(&normal), Ok(None), "{}", normal);
                let (path, _) = normal.split_at(normal.find(['?', '#']).unwrap_or(normal.len()));
                prop_assert!(path.starts_with('/') && !path.split('/').any(|s| s == "." || s == ".."), "{}", path);
            }
        }
    }

    #[test]
    fn a_request_id_is_a_version_4_uuid() {
        let id = request_id();
        let text = id.to_str().unwrap();
        assert_eq!((text.len(), &text[14..15]), (36, "4"));
        assert!("89ab".contains(&text[19..20]));
        assert_ne!(id, request_id());
    }

    #[test]
    fn headers_that_connection_names_go_no_further() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-hop, content-length"),
            ("x-hop", "1"),
            ("content-length", "3"),
            ("keep-alive", "5"),
            ("expect", "100-continue"),
            ("x-a", "1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "x-a"]);
    }

    #[test]
    fn forwarding_headers_in_envoys_order() {
        let mut headers = HeaderMap::new();
        headers.insert("accept", HeaderValue::from_static("*/*"));
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_static("1.2.3.4"));
        headers.append(X_FORWARDED_FOR, HeaderValue::from_static("5.6.7.8"));
        let peer = HeaderValue::from_static("127.0.0.1");
        let edge = |trusted_hops| Edge {
            peer: &peer,
            tls: None,
            trusted_hops,
            accepts_http10: false,
            head_bytes_max: 1 << 16,
            body_bytes_max: None,
        };
        let mut trusting = headers.clone();
        assert_eq!(add_forwarding(&mut headers, &edge(0)), None);
        assert_eq!(headers[X_FORWARDED_FOR], "1.2.3.4,5.6.7.8,127.0.0.1");
        assert_eq!(headers[X_ENVOY_EXTERNAL_ADDRESS], "127.0.0.1");
        trusting.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        assert_eq!(add_forwarding(&mut trusting.clone(), &edge(1)), Some("5.6.7.8:0".parse().unwrap()));
        assert_eq!(add_forwarding(&mut trusting.clone(), &edge(3)), None, "it names nobody there");
        assert_eq!(add_forwarding(&mut trusting, &edge(2)), Some("1.2.3.4:0".parse().unwrap()));
        assert_eq!(trusting[X_ENVOY_EXTERNAL_ADDRESS], "1.2.3.4");
        assert_eq!(trusting[X_FORWARDED_PROTO], "https");
        let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(
            names,
            ["accept", "x-forwarded-for", "x-forwarded-proto", "x-envoy-external-address", "x-request-id"]
        );
    }
}
