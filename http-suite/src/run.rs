//! One case on one host.

use std::time::{Duration, Instant};

use regex::Regex;

use crate::case::{Case, Protocol, Step};
use crate::client::{Client, Received};
use crate::endpoint::{Endpoint, Script};
use crate::frame_log::FrameLog;
use crate::host::Host;
use crate::message::Answers;
use crate::{frames, notation, pattern};

/// How long a step may wait for bytes.
const AWAIT_TIME_MAX: Duration = Duration::from_secs(1);
/// After this nothing more is expected to come, when what has come is right.
const QUIET: Duration = Duration::from_millis(30);
/// The same when nothing at all has come, or something else than it should be.
const SILENCE: Duration = Duration::from_millis(150);
/// The same when the connection has been closed: only the endpoint may hear of it later.
const CLOSED: Duration = Duration::from_millis(8);
/// How long what should come is waited for after the last that came.
const PATIENCE: Duration = Duration::from_secs(1);
/// Until connections of the case before have been seen to be closed.
const SETTLING: Duration = Duration::from_millis(3);
/// The first stream that `$` stands for: above those that cases give by number.
const FIRST_NEW_STREAM: u32 = 101;

/// What was seen of one case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// By the client: [`Answers::summary`] or [`FrameLog::summary`]; `left` when it did not stay to see.
    pub client: String,
    /// By the client, as text.
    pub answer: String,
    /// By the endpoint: [`crate::message::Requests::summary`].
    pub endpoint: String,
    /// By the endpoint, as text.
    pub received: String,
    /// What the texts lack or have against the case.
    pub failed: Vec<String>,
}

impl Seen {
    /// All of it in a line.
    #[must_use]
    pub fn summary(&self) -> String {
        let failed: String = self.failed.iter().map(|f| format!("; {f}")).collect();
        format!("{}; endpoint {}{failed}", self.client, self.endpoint)
    }

    /// Whether a line describes it, as itself or as a [`pattern`].
    ///
    /// # Errors
    /// The pattern's.
    pub fn is(&self, line: &str) -> Result<bool, String> {
        let summary = self.summary();
        Ok(summary == line || pattern::matches(line, &summary)?)
    }

    /// Whether it is what the case demands.
    ///
    /// # Errors
    /// A pattern's.
    pub fn is_right(&self, case: &Case) -> Result<bool, String> {
        let endpoint = case.endpoint.as_deref().unwrap_or("0");
        Ok(self.failed.is_empty()
            && pattern::matches(&case.client, &self.client)?
            && pattern::matches(endpoint, &self.endpoint)?)
    }
}

/// The expressions of a case.
struct Checks {
    answer: Vec<(Regex, bool)>,
    received: Vec<(Regex, bool)>,
}

impl Checks {
    fn new(case: &Case) -> Result<Self, String> {
        let compiled = |must: &[String], must_not: &[String]| {
            let all = must.iter().map(|e| (e, true)).chain(must_not.iter().map(|e| (e, false)));
            all.map(|(expression, must)| {
                let regex =
                    Regex::new(&format!("(?m){expression}")).map_err(|e| format!("{}: {e}", case.id))?;
                Ok((regex, must))
            })
            .collect::<Result<Vec<_>, String>>()
        };
        Ok(Self {
            answer: compiled(&case.answer, &case.answer_not)?,
            received: compiled(&case.received, &case.received_not)?,
        })
    }

    fn failed(&self, seen: &Seen) -> Vec<String> {
        let mut failed = Vec::new();
        for (name, text, checks) in
            [("answer", &seen.answer, &self.answer), ("request", &seen.received, &self.received)]
        {
            for (regex, must) in checks {
                if regex.is_match(text) != *must {
                    let expression = regex.as_str().trim_start_matches("(?m)");
                    failed.push(format!("{name} {} /{expression}/", if *must { "lacks" } else { "has" }));
                }
            }
        }
        failed
    }
}

/// Runs a case. `recorded` is what the host is known to do instead.
///
/// # Errors
/// A case that cannot be understood, a host that takes no connection.
pub fn run(case: &Case, host: &Host, endpoint: &Endpoint, recorded: Option<&str>) -> Result<Seen, String> {
    let named = |e: String| format!("{}: {e}", case.id);
    let checks = Checks::new(case)?;
    let reply = case.reply.as_ref().map(crate::case::Steps::list);
    endpoint.begin(Script { reply, early: case.early });
    std::thread::sleep(SETTLING);
    let address =
        host.address(case.protocol).ok_or_else(|| named("the host has no such listener".to_owned()))?;
    let mut client = Client::connect(address).map_err(|e| named(e.to_string()))?;
    let mut sender = Sender { protocol: case.protocol, next_stream: FIRST_NEW_STREAM };
    if case.protocol == Protocol::Http2 && !case.bare {
        client.write(&[frames::PREFACE, &frames::encode("SETTINGS", 0)?].concat());
        client.wait(AWAIT_TIME_MAX, |r| log(r).text.contains("SETTINGS 0"));
        client.write(&frames::encode("SETTINGS ACK", 0)?);
    }
    for step in case.send.list() {
        sender.step(&mut client, &step).map_err(named)?;
    }
    let mut last = Seen::default();
    let mut changed = Instant::now();
    loop {
        let seen = observe(case, &client, endpoint, &checks);
        if seen != last {
            (last, changed) = (seen, Instant::now());
        }
        let is_right = last.is_right(case).map_err(named)?;
        let is_known = recorded.map(|line| last.is(line)).transpose().map_err(named)?.unwrap_or_default();
        let enough = match (is_right, is_known) {
            _ if (is_right || is_known) && last.client.ends_with("close") => CLOSED,
            (true, _) if !last.client.starts_with("silence") => QUIET,
            (true, _) | (_, true) => SILENCE,
            _ => PATIENCE,
        };
        if changed.elapsed() >= enough {
            return Ok(last);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn log(received: &Received) -> FrameLog {
    FrameLog::read(&received.bytes, received.is_closed)
}

fn observe(case: &Case, client: &Client, endpoint: &Endpoint, checks: &Checks) -> Seen {
    let (client, answer) = match (client.received(), case.protocol) {
        (None, _) => ("left".to_owned(), String::new()),
        (Some(r), Protocol::Http1) => {
            let answers = Answers::read(&r.bytes, r.is_closed, case.head);
            (answers.summary, answers.text)
        }
        (Some(r), Protocol::Http2) => {
            let log = log(&r);
            (log.summary, log.text)
        }
    };
    let requests = endpoint.requests();
    let mut seen =
        Seen { client, answer, endpoint: requests.summary, received: requests.text, failed: Vec::new() };
    seen.failed = checks.failed(&seen);
    seen
}

/// Makes bytes of steps.
struct Sender {
    protocol: Protocol,
    next_stream: u32,
}

impl Sender {
    fn step(&mut self, client: &mut Client, step: &Step) -> Result<(), String> {
        match step {
            Step::Write(text) => client.write(&self.encode(std::slice::from_ref(text))?),
            Step::Repeat { times, frames } => {
                let mut all = Vec::new();
                for _ in 0..*times {
                    all.extend(self.encode(frames)?);
                }
                client.write(&all);
            }
            Step::Wait { wait_ms } => std::thread::sleep(Duration::from_millis(*wait_ms)),
            Step::Await { r#await } => client.wait(AWAIT_TIME_MAX, |received| match self.protocol {
                Protocol::Http1 => notation::shown(&received.bytes).contains(r#await.as_str()),
                Protocol::Http2 => log(received).text.contains(r#await.as_str()),
            }),
            Step::Do { r#do } => client.end(*r#do).map_err(|e| e.to_string())?,
        }
        Ok(())
    }

    fn encode(&mut self, texts: &[String]) -> Result<Vec<u8>, String> {
        let stream = self.next_stream;
        let mut out = Vec::new();
        for text in texts {
            out.extend(match self.protocol {
                Protocol::Http1 => notation::bytes(text)?,
                Protocol::Http2 => frames::encode(text, stream)?,
            });
        }
        if texts.iter().any(|t| t.contains('$')) {
            self.next_stream += 2;
        }
        Ok(out)
    }
}
