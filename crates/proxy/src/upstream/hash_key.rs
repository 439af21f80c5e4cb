//! What of a request decides who gets it, as a number.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};
use twox_hash::XxHash64;
use wasmgate_config::HashKey;
use wasmgate_stream::RequestHead;

/// Of the client's address.
pub(crate) fn source_key(ip: IpAddr) -> u64 {
    XxHash64::oneshot(0, ip.to_string().as_bytes())
}

/// Of a request; and the cookie that the client is to be given, if one is made. `None`: it has nothing that decides.
pub(crate) fn key(
    rule: &HashKey,
    request: &RequestHead,
    client: SocketAddr,
) -> (Option<u64>, Option<HeaderValue>) {
    let hash = |bytes: &[u8]| Some(XxHash64::oneshot(0, bytes));
    match rule {
        HashKey::SourceIp => (Some(source_key(client.ip())), None),
        HashKey::Header(name) => (request.headers.get(name).and_then(|v| hash(v.as_bytes())), None),
        HashKey::QueryParameter(name) => {
            let path = request.path().unwrap_or_default();
            let query = path.split(|b| *b == b'?').nth(1).unwrap_or_default();
            let value = query.split(|b| *b == b'&').find_map(|pair| {
                let mut parts = pair.splitn(2, |b| *b == b'=');
                (parts.next() == Some(name.as_bytes())).then(|| parts.next().unwrap_or_default())
            });
            (value.and_then(hash), None)
        }
        HashKey::Cookie { name, path, ttl } => {
            if let Some(value) = cookie(&request.headers, name) {
                return (hash(value), None);
            }
            let Some(ttl) = ttl else { return (None, None) };
            let value = format!("{:016x}", fastrand::u64(..));
            let mut text = format!("{name}=\"{value}\"");
            if !ttl.is_zero() {
                text.push_str(&format!("; Max-Age={}", ttl.as_secs()));
            }
            if !path.is_empty() {
                text.push_str(&format!("; Path={path}"));
            }
            text.push_str("; HttpOnly");
            (hash(value.as_bytes()), HeaderValue::from_str(&text).ok())
        }
    }
}

/// The value of a cookie, without its quotes.
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|v| v.as_bytes().split(|b| *b == b';'));
    for pair in pairs {
        let mut parts = pair.trim_ascii().splitn(2, |b| *b == b'=');
        if parts.next() == Some(name.as_bytes()) {
            let value = parts.next().unwrap_or_default();
            return Some(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderName, Method, Uri};

    use super::*;

    fn request(path: &str, headers: &[(&str, &str)]) -> RequestHead {
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        });
        let authority = Some(HeaderValue::from_static("a.test"));
        let mut head = RequestHead::new(Method::GET, Uri::default(), authority, headers.collect());
        head.set_path(HeaderValue::from_str(path).unwrap());
        head
    }

    #[test]
    fn the_same_value_is_the_same_key_wherever_it_stands() {
        let client = SocketAddr::from(([10, 0, 0, 1], 4321));
        let of =
            |rule: &HashKey, path, headers: &[(&str, &str)]| key(rule, &request(path, headers), client).0;
        let header = HashKey::Header(HeaderName::from_static("x-user"));
        let query = HashKey::QueryParameter("u".to_owned());
        let cookie = HashKey::Cookie { name: "u".to_owned(), path: String::new(), ttl: None };
        let wanted = of(&header, "/", &[("x-user", "anna")]);
        assert!(wanted.is_some());
        assert_eq!(of(&query, "/?v=1&u=anna", &[]), wanted);
        assert_eq!(of(&cookie, "/", &[("cookie", "a=b; u=anna")]), wanted);
        assert_eq!(of(&cookie, "/", &[("cookie", "a=b"), ("cookie", "u=\"anna\"")]), wanted);
        for rule in [&header, &query, &cookie] {
            assert_eq!(of(rule, "/", &[]), None, "{rule:?}");
        }
        assert_eq!(of(&query, "/?uu=anna", &[]), None);
        assert_eq!(of(&HashKey::SourceIp, "/", &[]), Some(source_key(client.ip())));
    }

    #[test]
    fn a_client_without_the_cookie_gets_one_that_leads_to_the_same_endpoint() {
        let client = SocketAddr::from(([10, 0, 0, 1], 4321));
        let ttl = Some(Duration::from_secs(60));
        let rule = HashKey::Cookie { name: "user".to_owned(), path: "/a".to_owned(), ttl };
        let (made, cookie) = key(&rule, &request("/", &[]), client);
        let cookie = cookie.unwrap();
        let cookie = cookie.to_str().unwrap();
        assert!(cookie.ends_with("; Max-Age=60; Path=/a; HttpOnly"), "{cookie}");
        let pair = cookie.split(';').next().unwrap();
        assert_eq!(key(&rule, &request("/", &[("cookie", pair)]), client), (made, None));
    }
}
