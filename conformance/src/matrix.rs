//! The table of statuses: what one hostcall answers in each callback.
//!
//! A line is `OPERATION | STATUS STATUS … | WHY`, a status for each of [`CALLBACKS`]. `0!2` says that ours answers 0 and
//! Envoy 2; `?` that it is not looked at. Lines that begin with `#` say something to the reader.

use std::path::Path;

use crate::case::{Case, Message};

/// The callbacks, in the order of the columns.
pub const CALLBACKS: [&str; 5] =
    ["request_headers", "request_body", "response_headers", "response_body", "log"];

/// One cell of the table, as a case.
#[derive(Clone, Debug)]
pub struct Cell {
    /// What is run.
    pub case: Case,
    /// The callback.
    pub callback: &'static str,
    /// The operation's name in the trace.
    pub word: String,
    /// What ours answers.
    pub ours: String,
    /// What Envoy answers.
    pub envoy: String,
}

impl Cell {
    /// The status in a trace: `None` when the operation was not reached.
    #[must_use]
    pub fn status(&self, trace: &str) -> Option<String> {
        let mut here = false;
        for word in trace.split(' ') {
            let callback = word.split('(').next().unwrap_or_default();
            if CALLBACKS.contains(&callback) {
                here = callback == self.callback;
            } else if here
                && let Some(answer) = word.strip_prefix(&self.word).and_then(|w| w.strip_prefix('='))
            {
                let status = answer.split([':', '/']).next().unwrap_or_default();
                return Some(status.to_owned());
            }
        }
        None
    }
}

/// Reads the table.
///
/// # Errors
/// The line that cannot be read.
pub fn read(path: &Path) -> Result<Vec<Cell>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut out = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = || format!("{}:{}: {line:?} is no row", path.display(), number + 1);
        // Names of clusters have bars without blanks.
        let mut columns = line.split(" | ").map(str::trim);
        let (operation, statuses) = (columns.next().ok_or_else(bad)?, columns.next().ok_or_else(bad)?);
        let why = columns.next().unwrap_or_default();
        let statuses: Vec<&str> = statuses.split_whitespace().collect();
        if statuses.len() != CALLBACKS.len() {
            return Err(bad());
        }
        for (callback, status) in CALLBACKS.into_iter().zip(statuses) {
            if status == "?" {
                continue;
            }
            let (ours, envoy) = status.split_once('!').unwrap_or((status, status));
            if ours != envoy && why.is_empty() {
                return Err(format!("{}: it does not say why Envoy differs", bad()));
            }
            out.push(cell(operation, callback, number + 1, (ours, envoy), why));
        }
    }
    Ok(out)
}

fn cell(
    operation: &str,
    callback: &'static str,
    line: usize,
    (ours, envoy): (&str, &str),
    why: &str,
) -> Cell {
    let mut words = operation.split_whitespace();
    let first = words.next().unwrap_or_default();
    let word = match first {
        "raw" => words.next().unwrap_or_default().to_owned(),
        "foreign" => format!("foreign.{}", words.next().unwrap_or_default()),
        other => other.to_owned(),
    };
    let case = Case {
        id: format!("statuses-{line}-{callback}"),
        spec: "4".to_owned(),
        checklist: Vec::new(),
        script: format!("{callback}@1 {operation}\n"),
        request: Message { method: "POST".to_owned(), body: "hello".to_owned(), ..Message::default() },
        response: Message::default(),
        expect: String::new(),
        envoy: (ours != envoy).then(String::new),
        why: why.to_owned(),
    };
    Cell { case, callback, word, ours: ours.to_owned(), envoy: envoy.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_found_in_its_callback() {
        let cell = cell("raw proxy_log 2 0 1", "log", 1, ("0", "0"), "");
        assert_eq!(cell.status("request_headers(1) proxy_log=6 log proxy_log=0"), Some("0".to_owned()));
        assert_eq!(cell.status("request_headers(1) proxy_log=6 log"), None);
        let cell = super::cell("get 0 a", "request_body", 1, ("0", "0"), "");
        assert_eq!(cell.status("request_body(5,1) get=0:x"), Some("0".to_owned()));
    }
}
