//! The strictest reader of requests: what can be understood in two ways is none.

/// What a buffer begins with.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A request.
    Request {
        /// `METHOD TARGET`
        line: String,
        /// The target.
        target: String,
        /// Where it ends.
        end: usize,
    },
    /// The beginning of one, with the request line once the head is there.
    Partial(Option<String>),
    /// Something that somebody else could read in another way, and why.
    Ambiguous(String),
}

/// The first request of a buffer.
#[must_use]
pub fn parse(buffer: &[u8]) -> Parsed {
    let Some(head) = buffer.windows(4).position(|w| w == b"\r\n\r\n") else { return Parsed::Partial(None) };
    match head_of(buffer.get(..head).unwrap_or_default()) {
        Err(what) => Parsed::Ambiguous(what),
        Ok(head_says) => {
            let begin = head + 4;
            let body = buffer.get(begin..).unwrap_or_default();
            let length = match head_says.framing {
                Framing::Length(length) => Ok((body.len() >= length).then_some(length)),
                Framing::Chunked => chunks(body),
            };
            match length {
                Err(what) => Parsed::Ambiguous(what),
                Ok(None) => Parsed::Partial(Some(head_says.line)),
                Ok(Some(length)) => {
                    Parsed::Request { line: head_says.line, target: head_says.target, end: begin + length }
                }
            }
        }
    }
}

struct Head {
    line: String,
    target: String,
    framing: Framing,
}

enum Framing {
    Length(usize),
    Chunked,
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// What Envoy takes for a host, too: the characters of an authority.
fn is_host(text: &[u8]) -> bool {
    text.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@[]".contains(b))
}

fn head_of(head: &[u8]) -> Result<Head, String> {
    if head.contains(&0) {
        return Err("a NUL in a head".to_owned());
    }
    let mut lines = Vec::new();
    for line in split(head) {
        if line.contains(&b'\r') || line.contains(&b'\n') {
            return Err("a bare CR or LF in a head".to_owned());
        }
        lines.push(line);
    }
    let mut lines = lines.into_iter();
    let request_line = lines.next().unwrap_or_default();
    let words: Vec<&[u8]> = request_line.split(|b| *b == b' ').collect();
    let &[method, target, b"HTTP/1.1"] = words.as_slice() else {
        return Err("a request line that is none".to_owned());
    };
    if !is_token(method) || target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err("a method or a target that is none".to_owned());
    }
    let (mut lengths, mut codings, mut hosts) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        let at = line.iter().position(|b| *b == b':').ok_or("a header without a colon")?;
        let (name, value) = line.split_at(at);
        if !is_token(name) {
            return Err("a header whose name is none".to_owned());
        }
        let value =
            String::from_utf8_lossy(value.get(1..).unwrap_or_default()).trim_matches([' ', '\t']).to_owned();
        match name.to_ascii_lowercase().as_slice() {
            b"content-length" => lengths.push(value),
            b"transfer-encoding" => codings.push(value),
            b"host" if !is_host(value.as_bytes()) => return Err("a host that is none".to_owned()),
            b"host" => hosts += 1,
            _ => {}
        }
    }
    if hosts != 1 {
        return Err(format!("{hosts} hosts"));
    }
    let framing = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Framing::Length(0),
        ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => {
            Framing::Length(length.parse().map_err(|_| "a length that is too large or none".to_owned())?)
        }
        ([], [coding]) if coding == "chunked" => Framing::Chunked,
        _ => return Err(format!("lengths {lengths:?} and codings {codings:?}")),
    };
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(Head { line: format!("{} {}", text(method), text(target)), target: text(target), framing })
}

/// The parts between CRLFs.
fn split(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut out = Vec::new();
    while let Some(at) = rest.windows(2).position(|w| w == b"\r\n") {
        out.push(rest.get(..at).unwrap_or_default());
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    out.push(rest);
    out
}

/// Where a chunked body ends. Extensions are not passed on, so there are none.
fn chunks(body: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let rest = body.get(at..).unwrap_or_default();
        let Some(line) = rest.windows(2).position(|w| w == b"\r\n") else { return Ok(None) };
        let digits = rest.get(..line).unwrap_or_default();
        if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(format!("the size of a chunk {:?}", String::from_utf8_lossy(digits)));
        }
        let size = usize::from_str_radix(&String::from_utf8_lossy(digits), 16).map_err(|e| e.to_string())?;
        at += line + 2;
        if size == 0 {
            return trailers(body, at);
        }
        match body.get(at + size..at + size + 2) {
            None => return Ok(None),
            Some(b"\r\n") => at += size + 2,
            Some(_) => return Err("a chunk without its end".to_owned()),
        }
    }
}

fn trailers(body: &[u8], mut at: usize) -> Result<Option<usize>, String> {
    loop {
        let rest = body.get(at..).unwrap_or_default();
        let Some(end) = rest.windows(2).position(|w| w == b"\r\n") else { return Ok(None) };
        let line = rest.get(..end).unwrap_or_default();
        at += end + 2;
        if line.is_empty() {
            return Ok(Some(at));
        }
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        let lower = name.to_ascii_lowercase();
        if !is_token(name) || name.len() == line.len() || line.contains(&b'\n') || line.contains(&b'\r') {
            return Err("a trailer that is none".to_owned());
        }
        if matches!(lower.as_slice(), b"content-length" | b"transfer-encoding" | b"host") {
            return Err("a trailer that frames".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(head: &str, body: &str) -> Parsed {
        parse(format!("POST /a HTTP/1.1\r\nhost: b\r\n{head}\r\n{body}").as_bytes())
    }

    fn whole(parsed: &Parsed) -> bool {
        matches!(parsed, Parsed::Request { line, .. } if line == "POST /a")
    }

    #[test]
    fn what_has_one_reading_is_read() {
        assert!(whole(&request("", "")));
        assert!(whole(&request("content-length: 2\r\n", "hi")));
        assert!(whole(&request("transfer-encoding: chunked\r\n", "2\r\nhi\r\n0\r\nx: y\r\n\r\n")));
        assert_eq!(request("content-length: 3\r\n", "hi"), Parsed::Partial(Some("POST /a".to_owned())));
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Parsed::Partial(None));
    }

    #[test]
    fn what_has_two_readings_is_told() {
        for (head, body) in [
            ("content-length: 2\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
            ("content-length: 2\r\ncontent-length: 2\r\n", "hi"),
            ("content-length: +2\r\n", "hi"),
            ("transfer-encoding: Chunked\r\n", "0\r\n\r\n"),
            ("x : y\r\n", ""),
            ("x: y\r\n z\r\n", ""),
            ("x: y\nz: a\r\n", ""),
            ("x: y\0\r\n", ""),
            ("host: c\r\n", ""),
            ("host: c/d\r\n", ""),
            ("transfer-encoding: chunked\r\n", "2;a\r\nhi\r\n0\r\n\r\n"),
            ("transfer-encoding: chunked\r\n", "2\r\nhi!\r\n0\r\n\r\n"),
            ("transfer-encoding: chunked\r\n", "0\r\ncontent-length: 5\r\n\r\n"),
        ] {
            assert!(matches!(request(head, body), Parsed::Ambiguous(_)), "{head:?} {body:?}");
        }
        for line in
            ["GET  / HTTP/1.1", "GET / HTTP/1.0", "GET / HTTP/1.1 ", "GET /\u{e9} HTTP/1.1", "G:T / HTTP/1.1"]
        {
            let parsed = parse(format!("{line}\r\nhost: a\r\n\r\n").as_bytes());
            assert!(matches!(parsed, Parsed::Ambiguous(_)), "{line}");
        }
    }
}
