//! One case through one host.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use wasmgate_testkit::client::{RawAnswer, RawClient};

use crate::case::{Case, Message};
use crate::endpoint::{Arrived, Endpoint, PAUSE};
use crate::host::Host;
use crate::in_process::InProcess;

/// What could be seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Status, headers and body; `None` when the connection broke off.
    pub answer: Option<Answer>,
    /// What the endpoint got; `None` when nothing arrived.
    pub arrived: Option<Arrived>,
    /// What the plug-in logged; `None` when it never came to that.
    pub trace: Option<String>,
}

/// Headers that each proxy sets in its own way.
const OWN: [&str; 10] = [
    "date",
    "server",
    "x-request-id",
    "x-forwarded-for",
    "x-envoy-upstream-service-time",
    "x-case",
    "x-script",
    "x-forwarded-proto",
    "x-envoy-attempt-count",
    "x-envoy-external-address",
];

impl Seen {
    /// What was seen, a line each: `trace …`, `client STATUS BODY` or `client reset`, `client-header NAME: VALUE`,
    /// `upstream LINE` or `upstream nothing`, `upstream-header NAME: VALUE`, `upstream-body TEXT`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut out = Vec::new();
        out.push(format!("trace {}", self.trace.as_deref().unwrap_or("none")));
        match &self.answer {
            Some((status, headers, body)) => {
                out.push(format!("client {status} {body}").trim_end().to_owned());
                let own = headers.iter().filter(|(n, _)| !OWN.contains(&n.as_str()));
                out.extend(own.map(|(n, v)| format!("client-header {n}: {v}")));
            }
            None => out.push("client reset".to_owned()),
        }
        match &self.arrived {
            Some(arrived) => {
                out.push(format!("upstream {}", arrived.line));
                let is_usual = |n: &str, v: &str| OWN.contains(&n) || (n == "host" && v == "test.example");
                let own = arrived.headers.iter().filter(|(n, v)| !is_usual(n, v));
                out.extend(own.map(|(n, v)| format!("upstream-header {n}: {v}")));
                if !arrived.body.is_empty() {
                    out.push(format!("upstream-body {}", arrived.body));
                }
            }
            None => out.push("upstream nothing".to_owned()),
        }
        out.iter_mut().for_each(|line| line.truncate(line.trim_end().len()));
        out
    }

    /// What differs: expected lines that are not there, and others that are. With a line `…` others may be there.
    #[must_use]
    pub fn differences(&self, expected: &str) -> Vec<String> {
        let seen = self.lines();
        let expected: Vec<&str> = expected.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let missing = expected.iter().filter(|l| **l != "…" && !seen.iter().any(|s| s == *l));
        let others = seen.iter().filter(|s| !expected.contains(&"…") && !expected.contains(&s.as_str()));
        missing.map(|l| format!("not seen: {l}")).chain(others.map(|l| format!("seen: {l}"))).collect()
    }
}

/// Runs a case.
///
/// # Errors
/// The system's.
pub fn run(case: &Case, host: &mut Host, endpoint: &Endpoint) -> std::io::Result<Seen> {
    let (run, answer) = exchange(case, host);
    if answer.is_none() && !host.is_alive() {
        return Ok(Seen::default());
    }
    Ok(seen(&run, answer, host, endpoint))
}

/// Runs a case beside others.
#[must_use]
pub fn run_beside(case: &Case, host: &Host, endpoint: &Endpoint) -> Seen {
    let (run, answer) = exchange(case, host);
    seen(&run, answer, host, endpoint)
}

/// Runs a case without sockets.
///
/// # Errors
/// A request that cannot be expressed.
pub fn run_in_process(case: &Case, host: &InProcess) -> std::io::Result<Seen> {
    let run = name(case);
    let mut seen = host.run(case, &run)?;
    let log = host.log();
    let trace = log.split_once(&format!("trace {run}:")).and_then(|(_, rest)| rest.lines().next());
    seen.trace = trace.map(|trace| without_empty_ends(trace.trim()));
    Ok(seen)
}

/// The name of a run, which no other one has.
fn name(case: &Case) -> String {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    format!("{}.{}", case.id, RUNS.fetch_add(1, Ordering::Relaxed))
}

/// Status, headers and body.
type Answer = (u16, BTreeMap<String, String>, String);

/// Sends the request; the name of this run, and the answer if there was one.
fn exchange(case: &Case, host: &Host) -> (String, Option<Answer>) {
    let run = name(case);
    let answer = RawClient::connect(host.address())
        .and_then(|mut client| {
            send(&mut client, &case.request, &case.id, &run)?;
            client.answer(case.request.method == "HEAD")
        })
        .ok()
        .map(|answer| (answer.status, headers(&answer), answer.text()));
    (run, answer)
}

fn seen(run: &str, answer: Option<Answer>, host: &Host, endpoint: &Endpoint) -> Seen {
    let trace = host.trace(run).map(|trace| without_empty_ends(&trace));
    Seen { answer, arrived: endpoint.take(run), trace }
}

fn headers(answer: &RawAnswer) -> BTreeMap<String, String> {
    let mut out: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in answer.head.lines().skip(1).filter_map(|l| l.split_once(": ")) {
        let name = name.to_ascii_lowercase();
        out.entry(name).and_modify(|all| *all = format!("{all}|{value}")).or_insert_with(|| value.to_owned());
    }
    out
}

fn send(client: &mut RawClient, request: &Message, script: &str, run: &str) -> std::io::Result<()> {
    let method = if request.method.is_empty() { "GET" } else { &request.method };
    let path = if request.path.is_empty() { "/" } else { &request.path };
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nhost: test.example\r\nx-script: {script}\r\nx-case: {run}\r\n");
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !request.chunks.is_empty() {
        head.push_str("transfer-encoding: chunked\r\n\r\n");
        client.send(head.as_bytes())?;
        for chunk in &request.chunks {
            std::thread::sleep(PAUSE);
            client.send(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes())?;
        }
        std::thread::sleep(PAUSE);
        return client.send(b"0\r\n\r\n");
    }
    if !request.body.is_empty() {
        head.push_str(&format!("content-length: {}\r\n", request.body.len()));
    }
    head.push_str("\r\n");
    head.push_str(&request.body);
    client.send(head.as_bytes())
}

/// Envoy tells the end of a body in a callback of its own, without data; hosts may as well tell it with the last piece.
/// Where the plug-in did nothing in the former, both are the same.
fn without_empty_ends(trace: &str) -> String {
    let words: Vec<&str> = trace.split(' ').filter(|w| !w.is_empty()).collect();
    let mut out: Vec<String> = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let is_operation = |w: &str| w.contains('=') || w.starts_with("no-such");
        let is_idle = !words.get(i + 1).is_some_and(|next| is_operation(next));
        let name = word.strip_suffix("(0,1)").filter(|name| name.ends_with("_body") && is_idle);
        let before = name.and_then(|name| {
            let last = out.iter_mut().rev().find(|w| !is_operation(w))?;
            let size = last.strip_prefix(name)?.strip_suffix(",0)")?.to_owned();
            *last = format!("{name}{size},1)");
            Some(())
        });
        if before.is_none() {
            out.push((*word).to_owned());
        }
    }
    out.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_of_its_own_is_the_same_as_one_with_the_data() {
        assert_eq!(
            without_empty_ends("a request_body(5,0) request_body(0,1) log"),
            "a request_body(5,1) log"
        );
        assert_eq!(
            without_empty_ends("request_body(5,0) body=0 request_body(0,1)"),
            "request_body(5,1) body=0"
        );
        let both = "request_body(5,0) body=0 request_body(0,1) body=0";
        assert_eq!(without_empty_ends(both), both);
    }

    #[test]
    fn what_is_missing_and_what_is_too_much_is_told() {
        let seen = Seen { answer: Some((200, BTreeMap::new(), "x".to_owned())), arrived: None, trace: None };
        assert_eq!(seen.differences("trace none\nclient 200 x\nupstream nothing"), Vec::<String>::new());
        assert_eq!(seen.differences("client 200 y\n…"), ["not seen: client 200 y"]);
        assert_eq!(seen.differences("trace none\nclient 200 x"), ["seen: upstream nothing"]);
    }
}
