//! HTTP/1 messages in what was received: read leniently where that does no harm, and called garbage where it would.

use crate::notation::shown;

/// A head of which nothing is missing.
#[derive(Clone, Debug, Default)]
struct Head {
    start: String,
    /// Names in lower case.
    fields: Vec<(String, String)>,
    length: usize,
}

impl Head {
    /// `None`: its end is not there.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let length = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let text = shown(bytes.get(..length)?).replace("\\r\n", "\n");
        let mut lines = text.trim_end_matches('\n').split('\n');
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines.map(|line| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        Some(Self { start, fields: fields.collect(), length })
    }

    fn values(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }

    fn is_chunked(&self) -> bool {
        self.values("transfer-encoding").last().is_some_and(|v| v.to_ascii_lowercase().ends_with("chunked"))
    }

    /// Two who read it may not agree where its body ends.
    fn is_ambiguous(&self) -> bool {
        let (lengths, codings) = (self.values("content-length"), self.values("transfer-encoding"));
        lengths.len() + codings.len() > 1
            || lengths.iter().any(|l| l.parse::<u64>().is_err() || l.starts_with('+'))
    }

    fn text(&self) -> String {
        let fields: String = self.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        format!("{}\n{fields}\n", self.start)
    }
}

/// What was found of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All of it.
    Complete,
    /// A part.
    Missing,
    /// Chunks that are none.
    Garbage,
}

#[derive(Debug)]
struct Body {
    /// Decoded, with its trailers.
    text: String,
    length: usize,
    end: End,
}

impl Body {
    fn empty() -> Self {
        Self { text: String::new(), length: 0, end: End::Complete }
    }

    fn sized(bytes: &[u8], size: usize) -> Self {
        let length = size.min(bytes.len());
        let end = if length == size { End::Complete } else { End::Missing };
        Self { text: shown(bytes.get(..length).unwrap_or_default()), length, end }
    }

    fn until_close(bytes: &[u8], is_closed: bool) -> Self {
        let end = if is_closed { End::Complete } else { End::Missing };
        Self { text: shown(bytes), length: bytes.len(), end }
    }

    fn chunked(bytes: &[u8]) -> Self {
        let mut body = Self::empty();
        let line = |from: usize| {
            let rest = bytes.get(from..)?;
            let end = rest.windows(2).position(|w| w == b"\r\n")?;
            Some((shown(rest.get(..end)?), from + end + 2))
        };
        loop {
            let Some((size, next)) = line(body.length) else { return body.ending(End::Missing) };
            let digits = size.split(';').next().unwrap_or_default();
            let Ok(size) = usize::from_str_radix(digits.trim_end(), 16) else {
                return body.ending(End::Garbage);
            };
            body.length = next;
            if size == 0 {
                break;
            }
            let Some(data) = bytes.get(next..next.saturating_add(size)) else {
                body.text.push_str(&shown(bytes.get(next..).unwrap_or_default()));
                body.length = bytes.len();
                return body.ending(End::Missing);
            };
            body.text.push_str(&shown(data));
            match bytes.get(next + size..next + size + 2) {
                Some(b"\r\n") => body.length = next + size + 2,
                None => return body.ending(End::Missing),
                Some(_) => return body.ending(End::Garbage),
            }
        }
        loop {
            let Some((trailer, next)) = line(body.length) else { return body.ending(End::Missing) };
            body.length = next;
            if trailer.is_empty() {
                return body;
            }
            body.text.push_str(&format!("\ntrailer {trailer}"));
        }
    }

    fn ending(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

/// The length that a request's head gives its body.
fn request_body(head: &Head, bytes: &[u8]) -> Body {
    if head.is_chunked() {
        return Body::chunked(bytes);
    }
    match head.values("content-length").last().and_then(|l| l.parse().ok()) {
        Some(size) => Body::sized(bytes, size),
        None => Body::empty(),
    }
}

/// A request at the start of what an endpoint has received.
#[derive(Debug)]
pub struct FirstRequest {
    /// Bytes of its head.
    pub head_length: usize,
    /// Bytes of all of it; `None` while some are missing, or for ever if its body is garbage.
    pub length: Option<usize>,
    /// It wants to be told to go on before it sends its body.
    pub expects_continue: bool,
    /// It is a HEAD.
    pub is_head: bool,
    /// It is a CONNECT.
    pub is_connect: bool,
}

impl FirstRequest {
    /// `None`: there is no whole head.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let head = Head::parse(bytes)?;
        let body = request_body(&head, bytes.get(head.length..).unwrap_or_default());
        Some(Self {
            head_length: head.length,
            length: (body.end == End::Complete).then_some(head.length + body.length),
            expects_continue: head.values("expect").iter().any(|v| v.eq_ignore_ascii_case("100-continue")),
            is_head: head.start.starts_with("HEAD "),
            is_connect: head.start.starts_with("CONNECT "),
        })
    }
}

/// What the endpoint received on one connection.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// All bytes.
    pub bytes: Vec<u8>,
    /// From here on they are no HTTP any more: a switch of protocols was answered.
    pub tunnel_from: Option<usize>,
}

/// What the endpoint received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// The number of whole requests; then ` cut` if there is one with a part missing, ` ambiguous` if two could read one
    /// differently, ` garbage` if there is something that is no request.
    pub summary: String,
    /// Each request: its line, its headers with names in lower case, an empty line, its body without the chunks, and trailers
    /// as `trailer name: value`. Bytes after a switch of protocols stand after `tunnel `.
    pub text: String,
}

impl Requests {
    /// Of several connections.
    #[must_use]
    pub fn read(records: &[Record]) -> Self {
        let (mut whole, mut cut, mut ambiguous, mut garbage) = (0, false, false, false);
        let mut text = String::new();
        for record in records {
            let mut rest =
                record.bytes.get(..record.tunnel_from.unwrap_or(usize::MAX)).unwrap_or(&record.bytes);
            while !rest.is_empty() {
                let Some(head) = Head::parse(rest) else {
                    // Blank lines between requests are no request.
                    cut |= rest.iter().any(|b| !b.is_ascii_whitespace());
                    text.push_str(&shown(rest));
                    break;
                };
                garbage |= head.start.split(' ').count() != 3 || !head.start.contains(" HTTP/1.");
                ambiguous |= head.is_ambiguous();
                let after = rest.get(head.length..).unwrap_or_default();
                let body = request_body(&head, after);
                text.push_str(&format!("{}{}\n", head.text(), body.text));
                match body.end {
                    End::Complete => whole += 1,
                    End::Missing => cut = true,
                    End::Garbage => garbage = true,
                }
                if body.end != End::Complete {
                    break;
                }
                rest = after.get(body.length..).unwrap_or_default();
            }
            if let Some(tunnelled) = record.tunnel_from.and_then(|from| record.bytes.get(from..)) {
                text.push_str(&format!("tunnel {}\n", shown(tunnelled)));
            }
        }
        let mut summary = whole.to_string();
        for (is, word) in [(cut, " cut"), (ambiguous, " ambiguous"), (garbage, " garbage")] {
            summary.push_str(if is { word } else { "" });
        }
        Self { summary, text }
    }
}

/// What an HTTP/1 client received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// The statuses, then `open` or `close`. A status whose body is not complete has `+` after it while the connection is
    /// open, `!` when it was closed; `101 tunnel`; `garbage` is what is no answer; `silence` is none at all. More than four of the same are `200×5`.
    pub summary: String,
    /// Each answer, in the form of [`Requests::text`].
    pub text: String,
}

impl Answers {
    /// Of one connection.
    #[must_use]
    pub fn read(bytes: &[u8], is_closed: bool, is_head: bool) -> Self {
        let (mut words, mut text) = (Vec::new(), String::new());
        let (mut rest, mut closes) = (bytes, is_closed);
        while !rest.is_empty() {
            let Some(head) = Head::parse(rest) else {
                words.push(if rest.starts_with(b"HTTP/1.") { "part" } else { "garbage" }.to_owned());
                text.push_str(&shown(rest));
                break;
            };
            let mut words_of_start = head.start.splitn(3, ' ');
            let is_http1 = words_of_start.next().is_some_and(|version| version.starts_with("HTTP/1."));
            let status = words_of_start.next().filter(|status| is_http1 && status.len() == 3);
            let status: Option<u16> = status.and_then(|status| status.parse().ok());
            let Some(status) = status else {
                words.push("garbage".to_owned());
                text.push_str(&shown(rest));
                break;
            };
            let after = rest.get(head.length..).unwrap_or_default();
            if status == 101 {
                words.push("101 tunnel".to_owned());
                text.push_str(&format!("{}tunnel {}\n", head.text(), shown(after)));
                break;
            }
            let body = match head.values("content-length").first().and_then(|l| l.parse().ok()) {
                _ if is_head || matches!(status, 100..200 | 204 | 304) => Body::empty(),
                _ if head.is_chunked() => Body::chunked(after),
                Some(size) => Body::sized(after, size),
                None => Body::until_close(after, is_closed),
            };
            let mark = match (body.end, is_closed) {
                (End::Complete, _) => "",
                (End::Garbage, _) => "?",
                (End::Missing, false) => "+",
                (End::Missing, true) => "!",
            };
            words.push(format!("{status}{mark}"));
            text.push_str(&format!("{}{}\n", head.text(), body.text));
            if body.end != End::Complete {
                break;
            }
            // Who says so closes, though it may first wait for the client to do it.
            closes |= head.values("connection").iter().any(|v| v.eq_ignore_ascii_case("close"));
            rest = after.get(body.length..).unwrap_or_default();
        }
        if words.is_empty() && !closes {
            words.push("silence".to_owned());
        }
        words.push(if closes { "close" } else { "open" }.to_owned());
        Self { summary: counted(&words).join(" "), text }
    }
}

/// More than four of the same are counted: `102×1000`.
fn counted(words: &[String]) -> Vec<String> {
    let runs = words.chunk_by(|a, b| a == b);
    runs.flat_map(|run| match run {
        [word, _, _, _, _, ..] => vec![format!("{word}×{}", run.len())],
        _ => run.to_vec(),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(bytes: &str) -> (String, String) {
        let record = Record { bytes: bytes.as_bytes().to_vec(), tunnel_from: None };
        let requests = Requests::read(&[record]);
        (requests.summary, requests.text)
    }

    #[test]
    fn requests_are_counted_and_shown_without_their_chunks() {
        let (summary, text) = requests(
            "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x=1\r\nab\r\n1\r\nc\r\n0\r\nt: 1\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
        );
        assert_eq!(summary, "2");
        assert_eq!(
            text,
            "POST /a HTTP/1.1\ntransfer-encoding: chunked\n\nabc\ntrailer t: 1\nGET /b HTTP/1.1\n\n\n"
        );
    }

    #[test]
    fn what_is_wrong_with_requests_is_said() {
        for (bytes, wanted) in [
            ("", "0"),
            ("\r\n", "0"),
            ("GET / HTTP/1.1\r\n", "0 cut"),
            ("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nabc", "0 cut"),
            (
                "POST / HTTP/1.1\r\ncontent-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                "1 ambiguous",
            ),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nx\r\n", "0 garbage"),
            ("abc\r\n\r\n", "1 garbage"),
        ] {
            assert_eq!(requests(bytes).0, wanted, "{bytes:?}");
        }
    }

    #[test]
    fn answers_are_summed_up() {
        for (bytes, is_closed, wanted) in [
            ("", false, "silence open"),
            ("", true, "close"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", false, "200 open"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", false, "200+ open"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", true, "200! close"),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 \r\n\r\n", false, "100 204 open"),
            ("HTTP/1.1 400 Bad\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", false, "400 close"),
            ("HTTP/1.1 200 OK\r\n\r\nuntil", true, "200 close"),
            ("HTTP/1.1 101 Switching\r\n\r\nraw", false, "101 tunnel open"),
            ("<html>", true, "garbage close"),
            ("HTTP/1.1 2000 OK\r\n\r\n", false, "garbage open"),
            (&"HTTP/1.1 204 X\r\n\r\n".repeat(5), false, "204×5 open"),
        ] {
            assert_eq!(Answers::read(bytes.as_bytes(), is_closed, false).summary, wanted, "{bytes:?}");
        }
    }
}
