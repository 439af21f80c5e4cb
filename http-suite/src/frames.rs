//! HTTP/2 frames as they are written in case files: `TYPE [stream] [flag…] [payload…]`, words between spaces.
//!
//! A type is a frame's name, `0xNN`, `RAW` (no frame at all: what follows are bytes) or `PREFACE`. A word of digits is the
//! stream, `$` a new one; `ES`, `EH`, `ACK` and `flags=0xNN` are flags, which add up.
//!
//! | payload | is |
//! |---|---|
//! | `"name: value"` in HEADERS, CONTINUATION, PUSH_PROMISE | a header, as a literal that is not indexed; `":path: /"` as well |
//! | `GET`, `POST`, … | the four pseudo headers of a request for `/` at `a.test` |
//! | `"bytes"` elsewhere or without a colon and a space, `hex:82` | bytes ([`crate::notation`]) |
//! | `NAME=1` in SETTINGS, `0x9=1` | a setting |
//! | `+5` | the increment of a WINDOW_UPDATE |
//! | `code=CANCEL`, `last=1` | of RST_STREAM and GOAWAY |
//! | `prio=3:15` | the five bytes of a priority, with its flag in HEADERS |
//! | `pad=4`, `padlen=9` | padding with its flag; a pad length that is not true |
//! | `promise=2` | the promised stream |
//! | `len=9` | another length than the payload's |
//! | `reserved` | the reserved bit before the stream's number is set |
//! | `cut=3` | only so many bytes of the frame are sent |

use crate::notation;

/// How a connection begins.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The names of types, by number.
pub const TYPES: [&str; 10] = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
];

/// The names of errors, by number.
pub const ERRORS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// The names of settings, from number 1 on.
pub const SETTINGS: [&str; 6] = [
    "HEADER_TABLE_SIZE",
    "ENABLE_PUSH",
    "MAX_CONCURRENT_STREAMS",
    "INITIAL_WINDOW_SIZE",
    "MAX_FRAME_SIZE",
    "MAX_HEADER_LIST_SIZE",
];

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"];

const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;

#[derive(Debug, Default)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    prefix: Vec<u8>,
    payload: Vec<u8>,
    padding: Option<(u8, usize)>,
    length: Option<usize>,
    cut: Option<usize>,
}

/// The bytes of a frame. `stream` is what `$` stands for.
///
/// # Errors
/// A word that is not understood.
pub fn encode(text: &str, stream: u32) -> Result<Vec<u8>, String> {
    let named = |e: String| format!("{text:?}: {e}");
    let words = words(text).map_err(named)?;
    let mut words = words.iter();
    let name = words.next().ok_or_else(|| named("there is no frame".to_owned()))?;
    if name == "PREFACE" {
        return Ok(PREFACE.to_vec());
    }
    let mut frame = Frame::default();
    let is_raw = name == "RAW";
    if !is_raw {
        frame.kind =
            u8::try_from(number(name, &TYPES, 0).map_err(named)?).map_err(|e| named(e.to_string()))?;
    }
    for word in words {
        frame.add(word, stream, is_raw).map_err(named)?;
    }
    Ok(if is_raw { frame.payload } else { frame.bytes() })
}

impl Frame {
    fn add(&mut self, word: &str, stream: u32, is_raw: bool) -> Result<(), String> {
        let value = |text: &str| text.parse::<u32>().map_err(|e| format!("{word:?}: {e}"));
        if let Some(quoted) = word.strip_prefix('"') {
            let text = quoted.strip_suffix('"').ok_or_else(|| format!("{word} has no end"))?;
            let bytes = notation::bytes(text)?;
            let has_headers = matches!(self.kind, 1 | 5 | 9) && !is_raw;
            let header = has_headers.then(|| literal(&bytes)).flatten();
            self.payload.extend(header.unwrap_or(bytes));
            return Ok(());
        }
        match word.split_once('=') {
            Some(("flags", flags)) => {
                self.flags |= u8::try_from(number(flags, &[], 0)?).map_err(|e| e.to_string())?
            }
            Some(("code", code)) => self.payload.extend(number(code, &ERRORS, 0)?.to_be_bytes()),
            Some(("last", last)) => self.payload.extend(value(last)?.to_be_bytes()),
            Some(("promise", promised)) => self.prefix.extend(value(promised)?.to_be_bytes()),
            Some(("len", length)) => self.length = length.parse().ok(),
            Some(("cut", cut)) => self.cut = cut.parse().ok(),
            Some(("pad", pad)) => {
                let pad = pad.parse::<u8>().map_err(|e| e.to_string())?;
                self.padding = Some((pad, pad.into()));
            }
            Some(("padlen", pad)) => {
                let pad = pad.parse::<u8>().map_err(|e| e.to_string())?;
                self.padding = Some((pad, self.padding.map_or(0, |(_, length)| length)));
            }
            Some(("prio", priority)) => {
                let (on, weight) =
                    priority.split_once(':').ok_or_else(|| format!("{word:?} wants a weight"))?;
                let weight = weight.parse::<u8>().map_err(|e| e.to_string())?;
                let on = if on == "$" { stream } else { value(on)? };
                self.prefix.extend(on.to_be_bytes());
                self.prefix.push(weight);
                self.flags |= if self.kind == 1 { FLAG_PRIORITY } else { 0 };
            }
            Some((setting, to)) => {
                let id = u16::try_from(number(setting, &SETTINGS, 1)?).map_err(|e| e.to_string())?;
                self.payload.extend(id.to_be_bytes());
                self.payload.extend(value(to)?.to_be_bytes());
            }
            None => self.add_word(word, stream)?,
        }
        Ok(())
    }

    fn add_word(&mut self, word: &str, stream: u32) -> Result<(), String> {
        match word {
            "ES" | "ACK" => self.flags |= 1,
            "EH" => self.flags |= 4,
            "reserved" => self.stream |= 1 << 31,
            "$" => self.stream |= stream,
            _ if METHODS.contains(&word) => {
                for field in [&format!(":method: {word}"), ":scheme: http", ":path: /", ":authority: a.test"]
                {
                    self.payload.extend(literal(field.as_bytes()).unwrap_or_default());
                }
            }
            _ => {
                if let Some(digits) = word.strip_prefix("hex:") {
                    for at in (0..digits.len()).step_by(2) {
                        let digits = digits.get(at..at + 2).ok_or_else(|| format!("{word:?} wants pairs"))?;
                        self.payload
                            .push(u8::from_str_radix(digits, 16).map_err(|e| format!("{word:?}: {e}"))?);
                    }
                } else if let Some(increment) = word.strip_prefix('+') {
                    let increment: u32 = increment.parse().map_err(|e| format!("{word:?}: {e}"))?;
                    self.payload.extend(increment.to_be_bytes());
                } else {
                    self.stream |= word.parse::<u32>().map_err(|_| format!("{word:?} is not understood"))?;
                }
            }
        }
        Ok(())
    }

    fn bytes(mut self) -> Vec<u8> {
        let mut payload = Vec::new();
        if let Some((said, _)) = self.padding {
            self.flags |= FLAG_PADDED;
            payload.push(said);
        }
        payload.extend(self.prefix);
        payload.extend(self.payload);
        payload.resize(payload.len() + self.padding.map_or(0, |(_, length)| length), 0);
        let length = u32::try_from(self.length.unwrap_or(payload.len())).unwrap_or(u32::MAX);
        let mut out = length.to_be_bytes().get(1..).unwrap_or_default().to_vec();
        out.extend([self.kind, self.flags]);
        out.extend(self.stream.to_be_bytes());
        out.extend(payload);
        out.truncate(self.cut.unwrap_or(usize::MAX));
        out
    }
}

/// Words between spaces; what is in quotes is one, with them.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut escaped = false;
                let end = quoted.find(|c| match (c, escaped) {
                    ('"', false) => true,
                    _ => {
                        escaped = c == '\\' && !escaped;
                        false
                    }
                });
                end.ok_or("a quote has no end")? + 2
            }
            None => rest.find(' ').unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(end);
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    Ok(words)
}

/// A name's number, or `0xNN`, or digits.
fn number(text: &str, names: &[&str], first: u32) -> Result<u32, String> {
    if let Some(at) = names.iter().position(|name| *name == text) {
        return Ok(first + u32::try_from(at).unwrap_or_default());
    }
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text:?} is not known"))
}

/// A header that is not indexed (RFC 7541 §6.2.2); `None` for what has no colon and space after its name.
fn literal(field: &[u8]) -> Option<Vec<u8>> {
    // A pseudo header's name begins with a colon.
    let at = field.windows(2).skip(1).position(|w| w == b": ")? + 1;
    let (name, value) = field.split_at_checked(at)?;
    let value = value.strip_prefix(b": ")?;
    let mut out = vec![0];
    for part in [name, value] {
        out.extend(integer(part.len()));
        out.extend(part);
    }
    Some(out)
}

/// With a prefix of seven bits (RFC 7541 §5.1).
fn integer(value: usize) -> Vec<u8> {
    let Some(mut rest) = value.checked_sub(127) else { return vec![u8::try_from(value).unwrap_or_default()] };
    let mut out = vec![127];
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap_or_default() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_written_as_they_are_said() {
        for (text, wanted) in [
            ("RAW \"ab\" hex:ff00", &b"ab\xff\x00"[..]),
            ("PING ACK \"12345678\"", b"\0\0\x08\x06\x01\0\0\0\x0012345678"),
            ("SETTINGS MAX_FRAME_SIZE=16384", b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0"),
            ("SETTINGS 0x9=1", b"\0\0\x06\x04\0\0\0\0\0\0\x09\0\0\0\x01"),
            ("WINDOW_UPDATE 3 +1", b"\0\0\x04\x08\0\0\0\0\x03\0\0\0\x01"),
            ("RST_STREAM $ code=CANCEL", b"\0\0\x04\x03\0\0\0\0\x07\0\0\0\x08"),
            ("DATA 1 ES pad=2 \"x\"", b"\0\0\x04\0\x09\0\0\0\x01\x02x\0\0"),
            ("DATA 1 padlen=9 \"x\"", b"\0\0\x02\0\x08\0\0\0\x01\x09x"),
            ("HEADERS 1 EH prio=3:15 hex:82", b"\0\0\x06\x01\x24\0\0\0\x01\0\0\0\x03\x0f\x82"),
            ("HEADERS 1 \":path: /a b\" \"x: \"", b"\0\0\x10\x01\0\0\0\0\x01\0\x05:path\x04/a b\0\x01x\0"),
            ("HEADERS 1 hex:00 \"x:\"", b"\0\0\x03\x01\0\0\0\0\x01\0x:"),
            ("0xfe reserved 1 len=5 cut=4", b"\0\0\x05\xfe"),
        ] {
            assert_eq!(encode(text, 7).unwrap(), wanted, "{text}");
        }
        for wrong in ["", "NOPE 1", "DATA 1 what", "HEADERS 1 \"x", "SETTINGS X=1"] {
            assert!(encode(wrong, 1).is_err(), "{wrong}");
        }
    }

    #[test]
    fn integers_go_on_after_seven_bits() {
        assert_eq!(integer(126), [126]);
        assert_eq!(integer(127), [127, 0]);
        assert_eq!(integer(127 + 300), [127, 0x80 | 44, 2]);
    }
}
