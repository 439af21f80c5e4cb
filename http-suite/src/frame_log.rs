//! What an HTTP/2 client received, as a summary and as a log.
//!
//! The log has a line for each frame, such as `SETTINGS 0 ACK`, `DATA 1 ES "ok"`, `RST_STREAM 1 CANCEL`, `HEADERS 1 ES EH`, and after
//! the latter a line for each header, such as `1 :status: 200`.

use std::collections::BTreeMap;

use crate::frames::{ERRORS, SETTINGS, TYPES};
use crate::notation::shown;

const HEADER_BYTES: usize = 9;
/// So many streams are listed one by one.
const LISTED_MAX: usize = 4;

/// What an HTTP/2 client received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameLog {
    /// The streams in their order, such as `1:200`: statuses, then `+` if its end is missing, then `/rst(CODE)`. More than
    /// four streams are counted: `7×200`. Then `goaway(CODE)`, then `open` or `close`. `http1` is an answer in HTTP/1,
    /// `silence` that nothing of all this has come.
    pub summary: String,
    /// The log.
    pub text: String,
}

#[derive(Debug, Default)]
struct Stream {
    statuses: Vec<String>,
    ended: bool,
    reset: Option<String>,
}

impl Stream {
    fn outcome(&self) -> String {
        let mut out = self.statuses.join(",");
        if !self.ended && self.reset.is_none() && !out.is_empty() {
            out.push('+');
        }
        if let Some(code) = &self.reset {
            let before = if out.is_empty() {
                ""
            } else if self.ended {
                "/"
            } else {
                "+/"
            };
            out.push_str(&format!("{before}rst({code})"));
        }
        out
    }
}

#[derive(Default)]
struct Reader {
    streams: BTreeMap<u32, Stream>,
    goaway: Vec<String>,
    log: Vec<String>,
    block: Vec<u8>,
    decoder: loona_hpack::Decoder<'static>,
}

impl FrameLog {
    /// Of one connection.
    #[must_use]
    pub fn read(bytes: &[u8], is_closed: bool) -> Self {
        let end = if is_closed { "close" } else { "open" };
        if bytes.starts_with(b"HTTP/1.") {
            return Self { summary: format!("http1 {end}"), text: shown(bytes) };
        }
        let mut reader = Reader::default();
        let mut rest = bytes;
        while let Some((header, after)) = rest.split_at_checked(HEADER_BYTES) {
            let &[a, b, c, kind, flags, s, t, u, v] = header else { break };
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let Some((payload, next)) = after.split_at_checked(length) else { break };
            reader.frame(kind, flags, u32::from_be_bytes([s & 0x7f, t, u, v]), payload);
            rest = next;
        }
        if !rest.is_empty() {
            reader.log.push(format!("rest {}", shown(rest)));
        }
        reader.finish(end)
    }
}

impl Reader {
    fn frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let name =
            TYPES.get(usize::from(kind)).map_or_else(|| format!("{kind:#x}"), |name| (*name).to_owned());
        let mut line = format!("{name} {id}");
        let (es, eh) = (flags & 1 != 0, flags & 4 != 0);
        if es {
            line.push_str(if matches!(kind, 4 | 6) { " ACK" } else { " ES" });
        }
        let word = |at: usize| {
            let bytes: Option<[u8; 4]> = payload.get(at..at + 4).and_then(|b| b.try_into().ok());
            bytes.map(u32::from_be_bytes).unwrap_or_default()
        };
        match kind {
            0 => line.push_str(&format!(" \"{}\"", shown(unpadded(flags, payload)))),
            1 | 9 => line.push_str(if eh { " EH" } else { "" }),
            3 => line.push_str(&format!(" {}", error(word(0)))),
            4 => {
                for setting in payload.chunks_exact(6) {
                    let &[i, j, a, b, c, d] = setting else { continue };
                    let id = usize::from(u16::from_be_bytes([i, j]));
                    let name =
                        SETTINGS.get(id.wrapping_sub(1)).map_or_else(|| id.to_string(), |n| (*n).to_owned());
                    line.push_str(&format!(" {name}={}", u32::from_be_bytes([a, b, c, d])));
                }
            }
            6 => line.push_str(&format!(" \"{}\"", shown(payload))),
            7 => line.push_str(&format!(
                " last={} {} \"{}\"",
                word(0),
                error(word(4)),
                shown(payload.get(8..).unwrap_or_default())
            )),
            8 => line.push_str(&format!(" +{}", word(0))),
            _ => {}
        }
        self.log.push(line);
        match kind {
            0 | 1 => self.streams.entry(id).or_default().ended |= es,
            3 => self.streams.entry(id).or_default().reset = Some(error(word(0))),
            7 => self.goaway.push(error(word(4))),
            _ => {}
        }
        if matches!(kind, 1 | 9) {
            let block = unpadded(flags, payload);
            self.block.extend_from_slice(if flags & 0x20 != 0 {
                block.get(5..).unwrap_or_default()
            } else {
                block
            });
            if eh {
                self.headers(id);
            }
        }
    }

    fn headers(&mut self, id: u32) {
        let block = std::mem::take(&mut self.block);
        match self.decoder.decode(&block) {
            Ok(headers) => {
                for (name, value) in headers {
                    let (name, value) = (shown(&name), shown(&value));
                    if name == ":status" {
                        self.streams.entry(id).or_default().statuses.push(value.clone());
                    }
                    self.log.push(format!("{id} {name}: {value}"));
                }
            }
            Err(e) => self.log.push(format!("{id} cannot be decoded: {e:?}")),
        }
    }

    fn finish(self, end: &str) -> FrameLog {
        let mut words = Vec::new();
        if self.streams.len() > LISTED_MAX {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for stream in self.streams.values() {
                *counts.entry(stream.outcome()).or_default() += 1;
            }
            words.extend(counts.iter().map(|(outcome, count)| format!("{count}×{outcome}")));
        } else {
            words.extend(self.streams.iter().map(|(id, stream)| format!("{id}:{}", stream.outcome())));
        }
        words.extend(self.goaway.last().map(|code| format!("goaway({code})")));
        if words.is_empty() && end == "open" {
            words.push("silence".to_owned());
        }
        words.push(end.to_owned());
        FrameLog { summary: words.join(" "), text: self.log.join("\n") }
    }
}

fn unpadded(flags: u8, payload: &[u8]) -> &[u8] {
    match payload.split_first() {
        Some((padding, rest)) if flags & 8 != 0 => {
            rest.get(..rest.len().saturating_sub(usize::from(*padding))).unwrap_or_default()
        }
        _ => payload,
    }
}

fn error(code: u32) -> String {
    usize::try_from(code)
        .ok()
        .and_then(|c| ERRORS.get(c))
        .map_or_else(|| format!("{code:#x}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::encode;

    fn summary(frames: &[&str], is_closed: bool) -> String {
        let bytes: Vec<u8> = frames.iter().flat_map(|f| encode(f, 0).unwrap()).collect();
        FrameLog::read(&bytes, is_closed).summary
    }

    #[test]
    fn streams_are_summed_up() {
        let status = "HEADERS 1 EH \":status: 200\"";
        for (frames, is_closed, wanted) in [
            (&["SETTINGS", "SETTINGS ACK"][..], false, "silence open"),
            (&[status, "DATA 1 ES \"ok\""], false, "1:200 open"),
            (&[status], false, "1:200+ open"),
            (&[status, "RST_STREAM 1 code=CANCEL"], false, "1:200+/rst(CANCEL) open"),
            (&["RST_STREAM 1 code=CANCEL"], false, "1:rst(CANCEL) open"),
            (&["GOAWAY 0 last=0 code=PROTOCOL_ERROR"], true, "goaway(PROTOCOL_ERROR) close"),
            (&["HEADERS 1 \":status: 200\"", "CONTINUATION 1 EH \"a: b\""], false, "1:200+ open"),
        ] {
            assert_eq!(summary(frames, is_closed), wanted, "{frames:?}");
        }
        let many: Vec<String> = (0..6).map(|i| format!("RST_STREAM {} code=CANCEL", 2 * i + 1)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(summary(&many, false), "6×rst(CANCEL) open");
    }

    #[test]
    fn the_log_has_headers_and_data() {
        let bytes = [
            encode("HEADERS 1 EH pad=3 \":status: 200\" \"a: b\"", 0).unwrap(),
            encode("DATA 1 ES \"ok\"", 0).unwrap(),
        ];
        let log = FrameLog::read(&bytes.concat(), false).text;
        assert_eq!(log, "HEADERS 1 EH\n1 :status: 200\n1 a: b\nDATA 1 ES \"ok\"");
    }
}
