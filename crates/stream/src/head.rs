//! Request and response heads, with pseudo headers as ordinary entries (spec: proxy-wasm-host §4.4).

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, StatusCode, Uri};

/// Why a header was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditError {
    /// The name or value is not one that HTTP can carry.
    Invalid,
    /// The map holds no more headers.
    Full,
}

/// Where the path comes from: unchanged it costs nothing.
#[derive(Clone, Debug)]
enum Path {
    Uri,
    Edited(HeaderValue),
    Removed,
}

/// A request's head. The authority stands here and not as `host` among the headers, whatever the protocol.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// `:method`; `None` once a filter has removed it.
    pub method: Option<Method>,
    /// `:authority`; empty or missing only when a filter has removed it.
    pub authority: Option<HeaderValue>,
    /// `:scheme`.
    pub scheme: HeaderValue,
    uri: Uri,
    path: Path,
    /// Everything else. A `host` entry may be here; it is never shown and never sent.
    pub headers: HeaderMap,
}

impl RequestHead {
    /// A head as it came in.
    pub fn new(method: Method, uri: Uri, authority: Option<HeaderValue>, headers: HeaderMap) -> Self {
        let scheme = HeaderValue::from_static("http");
        Self { method: Some(method), authority, scheme, uri, path: Path::Uri, headers }
    }

    /// `:path`, query included; `None` once a filter has removed it.
    pub fn path(&self) -> Option<&[u8]> {
        match &self.path {
            Path::Uri => Some(self.uri.path_and_query().map_or(b"/", |p| p.as_str().as_bytes())),
            Path::Edited(value) => Some(value.as_bytes()),
            Path::Removed => None,
        }
    }

    /// Replaces `:path`.
    pub fn set_path(&mut self, path: HeaderValue) {
        self.path = Path::Edited(path);
    }

    /// Number of pairs, pseudo headers included.
    pub fn count(&self) -> usize {
        let pseudo = usize::from(self.method.is_some())
            + usize::from(self.authority.is_some())
            + usize::from(self.path().is_some())
            + 1;
        pseudo + self.headers.len() - self.headers.get_all(HOST).iter().count()
    }

    /// The first value of a name in lower case.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        match name {
            b":method" => self.method.as_ref().map(|m| m.as_str().as_bytes()),
            b":path" => self.path(),
            // `host` is not among the pairs, and is found all the same, as in Envoy.
            b":authority" | b"host" => self.authority.as_ref().map(HeaderValue::as_bytes),
            b":scheme" => Some(self.scheme.as_bytes()),
            _ => get(&self.headers, name),
        }
    }

    /// Every pair in Envoy's order: pseudo headers first.
    pub fn for_each(&self, each: &mut dyn FnMut(&[u8], &[u8])) {
        if let Some(authority) = &self.authority {
            each(b":authority", authority.as_bytes());
        }
        if let Some(path) = self.path() {
            each(b":path", path);
        }
        if let Some(method) = &self.method {
            each(b":method", method.as_str().as_bytes());
        }
        each(b":scheme", self.scheme.as_bytes());
        for (name, value) in &self.headers {
            if name != HOST {
                each(name.as_str().as_bytes(), value.as_bytes());
            }
        }
    }

    /// Adds a value; for a pseudo header the same as [`RequestHead::replace`].
    ///
    /// # Errors
    /// [`EditError`]; nothing has changed.
    pub fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), EditError> {
        if name.starts_with(b":") || name == b"host" {
            self.replace(name, value)
        } else {
            append(&mut self.headers, name, value)
        }
    }

    /// Replaces all values of a name.
    ///
    /// # Errors
    /// [`EditError`]; nothing has changed.
    pub fn replace(&mut self, name: &[u8], value: &[u8]) -> Result<(), EditError> {
        let text = || HeaderValue::from_bytes(value).map_err(|_| EditError::Invalid);
        match name {
            b":method" => self.method = Some(method(value)?),
            b":path" => self.path = Path::Edited(path_value(value)?),
            b":authority" | b"host" => self.authority = Some(authority(value)?),
            b":scheme" => self.scheme = text()?,
            _ if name.starts_with(b":") => return Err(EditError::Invalid),
            _ => return insert(&mut self.headers, name, value),
        }
        Ok(())
    }

    /// Removes all values of a name.
    pub fn remove(&mut self, name: &[u8]) {
        match name {
            b":method" => self.method = None,
            b":path" => self.path = Path::Removed,
            b":authority" | b"host" => self.authority = None,
            b":scheme" => {}
            _ => remove(&mut self.headers, name),
        }
    }

    /// Removes everything, pseudo headers included.
    pub fn clear(&mut self) {
        self.method = None;
        self.path = Path::Removed;
        self.authority = None;
        self.headers.clear();
    }
}

/// A tunnel's bytes would follow a CONNECT where the next request does.
fn method(value: &[u8]) -> Result<Method, EditError> {
    let method = Method::from_bytes(value).map_err(|_| EditError::Invalid)?;
    if method == Method::CONNECT { Err(EditError::Invalid) } else { Ok(method) }
}

/// A host and a port, or nothing: whatever else a `host` header holds, each reader would make something of its own of it.
fn authority(value: &[u8]) -> Result<HeaderValue, EditError> {
    let is_one = |text: &str| {
        Authority::try_from(text).is_ok_and(|a| !a.as_str().contains('@') && !a.host().starts_with('.'))
    };
    let valid = value.is_empty() || std::str::from_utf8(value).is_ok_and(is_one);
    HeaderValue::from_bytes(value).ok().filter(|_| valid).ok_or(EditError::Invalid)
}

/// A request target goes on the wire between two spaces: nothing in it may be one, nor end the line.
fn path_value(value: &[u8]) -> Result<HeaderValue, EditError> {
    if value.is_empty() || value.iter().any(|b| *b <= b' ' || *b == 0x7f) {
        return Err(EditError::Invalid);
    }
    HeaderValue::from_bytes(value).map_err(|_| EditError::Invalid)
}

/// A response's head.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// `:status`; `None` once a filter has removed it or given one that is no status.
    pub status: Option<StatusCode>,
    /// Everything else.
    pub headers: HeaderMap,
}

impl ResponseHead {
    /// A head.
    pub fn new(status: StatusCode, headers: HeaderMap) -> Self {
        Self { status: Some(status), headers }
    }

    /// Number of pairs, `:status` included.
    pub fn count(&self) -> usize {
        usize::from(self.status.is_some()) + self.headers.len()
    }

    /// The first value of a name in lower case, copied by `each` because a status has no bytes of its own.
    pub fn with<R>(&self, name: &[u8], each: impl FnOnce(&[u8]) -> R) -> Option<R> {
        if name == b":status" {
            return self.status.as_ref().map(|s| each(s.as_str().as_bytes()));
        }
        get(&self.headers, name).map(each)
    }

    /// Every pair, `:status` first.
    pub fn for_each(&self, each: &mut dyn FnMut(&[u8], &[u8])) {
        if let Some(status) = &self.status {
            each(b":status", status.as_str().as_bytes());
        }
        for_each_header(&self.headers, each);
    }

    /// Adds a value; for `:status` the same as [`ResponseHead::replace`].
    ///
    /// # Errors
    /// [`EditError`]; nothing has changed.
    pub fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), EditError> {
        if name.starts_with(b":") {
            self.replace(name, value)
        } else {
            append(&mut self.headers, name, value)
        }
    }

    /// Replaces all values of a name.
    ///
    /// # Errors
    /// [`EditError`]; nothing has changed.
    pub fn replace(&mut self, name: &[u8], value: &[u8]) -> Result<(), EditError> {
        match name {
            // An answer with a status that HTTP does not know would desynchronise the client.
            b":status" => {
                self.status =
                    StatusCode::from_bytes(value).ok().filter(|s| s.as_u16() >= 200 && s.as_u16() < 600)
            }
            _ if name.starts_with(b":") => return Err(EditError::Invalid),
            _ => return insert(&mut self.headers, name, value),
        }
        Ok(())
    }

    /// Removes all values of a name.
    pub fn remove(&mut self, name: &[u8]) {
        if name == b":status" { self.status = None } else { remove(&mut self.headers, name) }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.status = None;
        self.headers.clear();
    }
}

/// Whether bytes can be a header value.
pub fn is_header_text(value: &[u8]) -> bool {
    HeaderValue::from_bytes(value).is_ok()
}

pub(crate) fn get<'m>(map: &'m HeaderMap, name: &[u8]) -> Option<&'m [u8]> {
    map.get(std::str::from_utf8(name).ok()?).map(HeaderValue::as_bytes)
}

pub(crate) fn for_each_header(map: &HeaderMap, each: &mut dyn FnMut(&[u8], &[u8])) {
    for (name, value) in map {
        each(name.as_str().as_bytes(), value.as_bytes());
    }
}

pub(crate) fn append(map: &mut HeaderMap, name: &[u8], value: &[u8]) -> Result<(), EditError> {
    let (name, value) = pair(name, value)?;
    map.try_append(name, value).map(|_| ()).map_err(|_| EditError::Full)
}

pub(crate) fn insert(map: &mut HeaderMap, name: &[u8], value: &[u8]) -> Result<(), EditError> {
    let (name, value) = pair(name, value)?;
    map.try_insert(name, value).map(|_| ()).map_err(|_| EditError::Full)
}

pub(crate) fn remove(map: &mut HeaderMap, name: &[u8]) {
    if let Ok(name) = std::str::from_utf8(name) {
        map.remove(name);
    }
}

fn pair(name: &[u8], value: &[u8]) -> Result<(HeaderName, HeaderValue), EditError> {
    let name = HeaderName::from_bytes(name).map_err(|_| EditError::Invalid)?;
    let value = HeaderValue::from_bytes(value).map_err(|_| EditError::Invalid)?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> RequestHead {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("a.test"));
        headers.insert("x-a", HeaderValue::from_static("1"));
        RequestHead::new(
            Method::GET,
            "/p?q".parse().unwrap(),
            Some(HeaderValue::from_static("a.test")),
            headers,
        )
    }

    #[test]
    fn pseudo_headers_are_ordinary_entries_and_host_is_the_authority() {
        let head = head();
        let mut seen = Vec::new();
        head.for_each(&mut |k, v| seen.push(format!("{}={}", k.escape_ascii(), v.escape_ascii())));
        assert_eq!(seen, [":authority=a.test", ":path=/p?q", ":method=GET", ":scheme=http", "x-a=1"]);
        assert_eq!(head.count(), seen.len());
        assert_eq!(head.get(b"host"), Some(&b"a.test"[..]));
    }

    #[test]
    fn adding_a_pseudo_header_replaces_it() {
        let mut head = head();
        head.add(b":path", b"/new").unwrap();
        head.add(b"x-a", b"2").unwrap();
        assert_eq!(head.get(b":path"), Some(&b"/new"[..]));
        assert_eq!(head.headers.get_all("x-a").iter().count(), 2);
    }

    #[test]
    fn a_path_that_would_end_the_request_line_is_refused() {
        let mut head = head();
        for bad in [&b""[..], b"/a b", b"/a\r\nx: y", b"/\0", b"/\x7f"] {
            assert_eq!(head.replace(b":path", bad), Err(EditError::Invalid), "{bad:?}");
        }
        assert_eq!(head.get(b":path"), Some(&b"/p?q"[..]));
    }

    #[test]
    fn a_method_or_authority_with_a_second_reading_is_refused() {
        let mut head = head();
        assert_eq!(head.replace(b":method", b"CONNECT"), Err(EditError::Invalid));
        for bad in [&b"a b/c@d"[..], b"user@a.test", b"a.test/x", b"a, b", b"a:80:90"] {
            assert_eq!(head.replace(b":authority", bad), Err(EditError::Invalid), "{bad:?}");
        }
        for good in [&b"b.test:8080"[..], b"[::1]:80", b"a_b.test", b""] {
            assert_eq!(head.replace(b":authority", good), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn a_status_outside_http_counts_as_removed() {
        let mut head = ResponseHead::new(StatusCode::OK, HeaderMap::new());
        head.replace(b":status", b"1000").unwrap();
        assert_eq!(head.status, None);
        head.replace(b":status", b"201").unwrap();
        assert_eq!(head.status, Some(StatusCode::CREATED));
    }
}
