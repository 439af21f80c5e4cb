//! The corpus on one back end.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use wasmgate_testkit::client::{once, request};
use wasmgate_testkit::gateway::GatewayBuilder;
use wasmgate_testkit::peers::process::wait_until;

use crate::backend::{Backend, BackendKind};
use crate::client::{exchange, status};
use crate::judge::judge;
use crate::payload::Payload;

/// How long a back end may take to log what it has answered.
const LOG_TIME_MAX: Duration = Duration::from_secs(20);

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The back end.
    pub backend: BackendKind,
    /// How many cases were run.
    pub cases: usize,
    /// What the clients of HTTP/1.1 cases were answered first, by status; 0 is no answer.
    pub answers: BTreeMap<u16, usize>,
    /// How many requests of cases the back end has seen.
    pub passed_on: usize,
    /// What should not have happened; empty for a good run.
    pub findings: Vec<String>,
    /// What should not have happened either, and is known.
    pub known: Vec<String>,
    /// Case by case: its name, what the client got, what the back end saw.
    pub details: Vec<String>,
}

/// Runs every case on the gateway in front of a back end of its own. After each one somebody else sends a request over the
/// same connection to the back end, and must get the answer to it.
///
/// # Errors
/// When something does not start. What a case does is in the outcome.
pub fn run(wasmgate: &Path, kind: BackendKind, payloads: &[Payload]) -> std::io::Result<Outcome> {
    let backend = Backend::start(kind)?;
    // One worker has one pool: the next request takes the connection that the case has used.
    let gateway =
        GatewayBuilder::new(&wasmgate.to_string_lossy()).workers(1).backend(backend.address()).run()?;
    let mut outcome = drive(gateway.address(), &backend, payloads)?;
    if let Some(line) = gateway.log().lines().find(|l| l.contains("panicked")) {
        outcome.findings.push(line.to_owned());
    }
    Ok(outcome)
}

/// Runs every case on whatever listens there.
fn drive(front: SocketAddr, backend: &Backend, payloads: &[Payload]) -> std::io::Result<Outcome> {
    let mut outcome = Outcome {
        backend: backend.kind(),
        cases: payloads.len(),
        answers: BTreeMap::new(),
        passed_on: 0,
        findings: Vec::new(),
        known: Vec::new(),
        details: Vec::new(),
    };
    let mut statuses = Vec::new();
    for payload in payloads {
        let answer = exchange(front, &payload.bytes())?;
        let code = status(&answer);
        if payload.case.http2.is_none() {
            *outcome.answers.entry(code.unwrap_or_default()).or_default() += 1;
        }
        if contains(&answer, b"/smuggled-") && code == Some(200) && !echoes_allowed(payload, &answer) {
            outcome.findings.push(format!("{}: the client got the second answer", payload.case.name));
        }
        statuses.push(code);
        if let Err(what) = victim(front, payload) {
            outcome.findings.push(format!("{}: somebody else {what}", payload.case.name));
        }
    }
    let last = payloads.last().map(|p| format!("GET {}", p.victim())).unwrap_or_default();
    // A log may lag behind the answers.
    let _ = wait_until(Instant::now() + LOG_TIME_MAX, || backend.seen().ok()?.contains(&last).then_some(()));
    let seen = backend.seen()?;
    outcome.passed_on = seen.iter().filter(|line| !line.contains("/victim-")).count();
    let verdict = judge(payloads, &seen);
    outcome.findings.extend(verdict.findings);
    outcome.known = verdict.known;
    for (payload, code) in payloads.iter().zip(statuses) {
        let number = format!("-{:03}", payload.number);
        let lines: Vec<&String> =
            seen.iter().filter(|l| l.contains(&number) && !l.contains("/victim-")).collect();
        let code = code.map_or("-".to_owned(), |c| c.to_string());
        outcome.details.push(format!("{} {code} {lines:?}", payload.case.name));
    }
    Ok(outcome)
}

/// Somebody else's request: it gets its own answer and no other.
fn victim(front: SocketAddr, payload: &Payload) -> Result<(), String> {
    let path = payload.victim();
    let answer = once(front, &request("GET", &path, &[("connection", "close")], ""))
        .map_err(|e| format!("got no answer: {e}"))?;
    if answer.text().trim() != path {
        return Err(format!("got {} {:?} for {path}", answer.status, answer.text()));
    }
    Ok(())
}

/// Whether the words of the answer are a target that the client may ask for, with the marker in its query.
fn echoes_allowed(payload: &Payload, answer: &[u8]) -> bool {
    payload
        .allowed()
        .iter()
        .filter_map(|a| a.split_once(' '))
        .any(|(_, target)| contains(answer, target.as_bytes()))
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers: Vec<String> = self
            .answers
            .iter()
            .map(|(status, count)| match status {
                0 => format!("none {count}"),
                status => format!("{status} {count}"),
            })
            .collect();
        let verdict = match self.findings.len() {
            0 => "it saw nothing that no client sent".to_owned(),
            count => format!("{count} FINDINGS"),
        };
        writeln!(
            f,
            "{}: {} cases, {} requests passed on, answers: {}; {verdict}",
            self.backend,
            self.cases,
            self.passed_on,
            answers.join(", ")
        )?;
        self.known.iter().try_for_each(|known| writeln!(f, "- known: {known}"))?;
        self.findings.iter().try_for_each(|finding| writeln!(f, "- {finding}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::read;

    #[test]
    fn without_a_gateway_in_between_the_corpus_is_seen() {
        let mut payloads = read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus"))).unwrap();
        payloads.retain(|p| p.case.http2.is_none());
        let backend = Backend::start(BackendKind::Raw).unwrap();
        let outcome = drive(backend.address(), &backend, &payloads).unwrap();
        // Nearly all of it has a second reading.
        assert!(outcome.findings.len() > 200, "{outcome}");
        for case in
            ["cl-te: ", "te-cl: ", "te-cl-vertical-tab: ", "length-twice: ", "chunk-extension-lf-only: "]
        {
            assert!(outcome.findings.iter().any(|f| f.starts_with(case)), "{case}{outcome}");
        }
    }
}
