//! Cases as they stand in files.

use std::path::Path;

use serde::Deserialize;

/// What stands for a case's number in the files, behind a hyphen: three digits, so that no length changes.
const NUMBER: &str = "000";

/// One case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// A word of its own.
    pub name: String,
    /// What is wrong with it, or what is right, and by which rule.
    pub why: String,
    /// What a client sends over HTTP/1.1. A character stands for the byte of its number.
    #[serde(default)]
    pub send: Vec<Piece>,
    /// What a client sends over HTTP/2, instead.
    #[serde(default)]
    pub http2: Option<Http2Request>,
    /// The requests that the client's framing contains in the strictest reading, `METHOD TARGET`: a back end may see these,
    /// each once, or fewer. A case in which there are several ways to say the same target lists them all.
    pub allowed: Vec<String>,
    /// What back ends see besides though they should not. It is printed, and fails no run: a defect that is known.
    #[serde(default)]
    pub known_wrong: Vec<String>,
}

/// A piece of what is sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Piece {
    /// As it stands.
    Text(String),
    /// Many times.
    Repeated {
        /// What.
        repeat: String,
        /// How often.
        times: usize,
    },
}

/// A request over HTTP/2, whether it may be sent or not.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http2Request {
    /// Headers in order, pseudo-headers among them.
    pub headers: Vec<(String, String)>,
    /// DATA frames.
    #[serde(default)]
    pub data: Vec<String>,
    /// Trailers.
    #[serde(default)]
    pub trailers: Vec<(String, String)>,
}

/// A case with its number, as it is sent.
#[derive(Clone, Debug)]
pub struct Payload {
    /// The case.
    pub case: Case,
    /// Its number, which is in every path of it.
    pub number: usize,
}

impl Payload {
    /// The bytes that are sent, whichever the protocol.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match &self.case.http2 {
            Some(request) => crate::http2::connection(request, |text| self.numbered(text)),
            None => self.case.send.iter().flat_map(|piece| self.piece(piece)).collect(),
        }
    }

    /// The requests that may be seen.
    #[must_use]
    pub fn allowed(&self) -> Vec<String> {
        self.lines(&self.case.allowed)
    }

    /// The requests that are seen though they should not be.
    #[must_use]
    pub fn known_wrong(&self) -> Vec<String> {
        self.lines(&self.case.known_wrong)
    }

    fn lines(&self, texts: &[String]) -> Vec<String> {
        texts.iter().map(|text| text.replace(&mark(NUMBER), &mark(&self.digits()))).collect()
    }

    /// The target of the request that is sent afterwards by somebody else.
    #[must_use]
    pub fn victim(&self) -> String {
        format!("/victim-{}", self.digits())
    }

    fn piece(&self, piece: &Piece) -> Vec<u8> {
        match piece {
            Piece::Text(text) => self.numbered(text),
            Piece::Repeated { repeat, times } => self.numbered(repeat).repeat(*times),
        }
    }

    fn numbered(&self, text: &str) -> Vec<u8> {
        let text = text.replace(&mark(NUMBER), &mark(&self.digits()));
        text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
    }

    fn digits(&self) -> String {
        format!("{:03}", self.number)
    }
}

fn mark(digits: &str) -> String {
    format!("-{digits}")
}

/// Reads every file of a folder, in order of their names, and numbers the cases.
///
/// # Errors
/// A file that cannot be read or holds something else, a name that stands twice.
pub fn read(folder: &Path) -> Result<Vec<Payload>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<_> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    let mut payloads: Vec<Payload> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let cases: Vec<Case> =
            serde_saphyr::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))?;
        for case in cases {
            if payloads.iter().any(|p| p.case.name == case.name) {
                return Err(format!("{}: there are two cases {}", file.display(), case.name));
            }
            let number = payloads.len() + 1;
            payloads.push(Payload { case, number });
        }
    }
    Ok(payloads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_number_and_says_why() {
        let payloads = read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus"))).unwrap();
        assert!(payloads.len() >= 300 && payloads.len() < 1000, "{} cases", payloads.len());
        for payload in &payloads {
            let (case, bytes) = (&payload.case, payload.bytes());
            assert!(!case.why.is_empty() && !bytes.is_empty(), "{}", case.name);
            assert!(case.send.is_empty() == case.http2.is_some(), "{}: one protocol", case.name);
            assert!(!bytes.windows(4).any(|w| w == b"-000"), "{}: an old number", case.name);
        }
    }

    #[test]
    fn a_character_is_a_byte_and_the_number_changes_no_length() {
        let text = "- {name: a, why: b, send: [\"GET /first-000\\r\\n\\0\\xff\", {repeat: ab, times: 2}], allowed: [GET /first-000]}";
        let case = serde_saphyr::from_str::<Vec<Case>>(text).unwrap().remove(0);
        let payload = Payload { case, number: 7 };
        assert_eq!(payload.bytes(), b"GET /first-007\r\n\0\xffabab");
        assert_eq!(
            (payload.allowed(), payload.victim()),
            (vec!["GET /first-007".to_owned()], "/victim-007".to_owned())
        );
    }
}
