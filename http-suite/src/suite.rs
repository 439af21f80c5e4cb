//! All cases on all hosts.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use crate::agreement::Agreement;
use crate::case::{self, Case, Protocol};
use crate::endpoint::Endpoint;
use crate::host::{Host, Kind};
use crate::run::{Seen, run};

/// So often a case that went wrong is tried: a machine under load may come too late once.
const ATTEMPTS_MAX: usize = 2;

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The proxies, a column of the matrix each.
    pub hosts: Vec<Kind>,
    /// The folder of `cases/` and `agreement.yaml`.
    pub folder: PathBuf,
    /// Only cases whose name or topic contains this.
    pub filter: String,
    /// Our binary.
    pub wasmgate: PathBuf,
    /// Where Envoy is kept, or is to be downloaded to.
    pub peers_dir: PathBuf,
    /// Print everything that was seen, and take down in `agreement.yaml` where other proxies disagree.
    pub record: bool,
}

/// What came of one case on one host.
#[derive(Debug)]
struct Verdict {
    seen: Seen,
    /// As the case says.
    is_right: bool,
    /// As it is known to be instead, for this reason.
    known: Option<String>,
}

impl Verdict {
    fn word(&self) -> &'static str {
        match (self.is_right, &self.known) {
            (true, None) => "yes",
            (false, Some(_)) => "differs",
            _ => "**NO**",
        }
    }

    fn is_failure(&self) -> bool {
        self.is_right == self.known.is_some()
    }
}

/// What came of all cases.
#[derive(Debug, Default)]
pub struct Totals {
    /// Cases, by protocol.
    pub cases: BTreeMap<Protocol, usize>,
    /// What was neither as the case says nor as it is known to be instead.
    pub failures: usize,
    /// Cases in which a host differs, by host and reason.
    pub different: BTreeMap<(Kind, String), usize>,
}

/// Runs the cases and prints the matrix.
///
/// # Errors
/// A file that cannot be read, a host that does not start.
pub fn run_suite(options: &Options, out: &mut dyn Write) -> Result<Totals, String> {
    let mut cases = case::read(&options.folder.join("cases"))?;
    let agreement_file = options.folder.join("agreement.yaml");
    let mut agreement = Agreement::read(&agreement_file)?;
    let names: Vec<&str> = cases.iter().map(|c| c.id.as_str()).collect();
    let faults =
        if options.record || !options.filter.is_empty() { Vec::new() } else { agreement.faults(&names) };
    cases.retain(|c| c.id.contains(&options.filter) || c.topic.contains(&options.filter));
    let columns = std::thread::scope(|scope| {
        let threads: Vec<_> = options
            .hosts
            .iter()
            .map(|kind| scope.spawn(|| run_host(*kind, options, &cases, &agreement)))
            .collect();
        let results = threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err("a host's thread panicked".to_owned())));
        results.collect::<Result<Vec<Vec<Verdict>>, String>>()
    })?;
    let written = |e: std::io::Error| e.to_string();
    let names: Vec<String> = options.hosts.iter().map(|kind| kind.version()).collect();
    writeln!(out, "| case | RFC | {} |\n|---|---|{}", names.join(" | "), "---|".repeat(names.len()))
        .map_err(written)?;
    let mut totals = Totals::default();
    for (at, case) in cases.iter().enumerate() {
        *totals.cases.entry(case.protocol).or_default() += 1;
        let row: Vec<(Kind, &Verdict)> =
            options.hosts.iter().copied().zip(columns.iter().filter_map(|c| c.get(at))).collect();
        let words: Vec<&str> = row.iter().map(|(_, verdict)| verdict.word()).collect();
        writeln!(out, "| {} | {} | {} |", case.id, case.rfc, words.join(" | ")).map_err(written)?;
        for (kind, verdict) in row {
            totals.add(kind, verdict);
            if verdict.is_failure() || options.record {
                explain(case, kind, verdict, out).map_err(written)?;
            }
            if options.record && kind != Kind::Wasmgate {
                let seen = (!verdict.is_right).then(|| verdict.seen.summary());
                let keep = verdict.known.is_some() && !verdict.is_right;
                if !keep {
                    agreement.record(kind, &case.id, seen);
                }
            }
        }
    }
    totals.failures += faults.len();
    faults.iter().try_for_each(|fault| writeln!(out, "{fault}")).map_err(written)?;
    if options.record {
        std::fs::write(&agreement_file, agreement.text()).map_err(written)?;
    }
    totals.report(&agreement, out).map_err(written)?;
    Ok(totals)
}

/// A column.
fn run_host(
    kind: Kind,
    options: &Options,
    cases: &[Case],
    agreement: &Agreement,
) -> Result<Vec<Verdict>, String> {
    let named = |e: std::io::Error| format!("{kind}: {e}");
    let endpoint = Endpoint::start().map_err(named)?;
    let host = Host::start(kind, &options.wasmgate, &options.peers_dir, endpoint.address()).map_err(named)?;
    let attempts_max = if options.record { 1 } else { ATTEMPTS_MAX };
    let judge = |case| judge(case, kind, &host, &endpoint, agreement, attempts_max);
    cases.iter().map(judge).collect()
}

fn judge(
    case: &Case,
    kind: Kind,
    host: &Host,
    endpoint: &Endpoint,
    agreement: &Agreement,
    attempts_max: usize,
) -> Result<Verdict, String> {
    let known = match kind {
        Kind::Wasmgate => case.wasmgate.as_ref().map(|d| (&d.sees, &d.differs, false)),
        _ => agreement.of(kind, &case.id).map(|d| (&d.sees, &d.why, d.sometimes)),
    };
    let mut attempt = 1;
    loop {
        let seen = run(case, host, endpoint, known.map(|(sees, ..)| sees.as_str()))
            .map_err(|e| format!("{kind}: {e}"))?;
        let is_right = seen.is_right(case)?;
        let is_known = known.map(|(sees, ..)| seen.is(sees)).transpose()?.unwrap_or_default();
        // What is known to be wrong and is right now is a failure, too: the note must go.
        let is_stale = is_right && known.is_some_and(|(.., sometimes)| !sometimes);
        let known = known.filter(|_| is_known || is_stale).map(|(_, why, _)| why.clone());
        let verdict = Verdict { seen, is_right, known };
        if !verdict.is_failure() || attempt == attempts_max {
            return Ok(verdict);
        }
        attempt += 1;
    }
}

fn explain(case: &Case, kind: Kind, verdict: &Verdict, out: &mut dyn Write) -> std::io::Result<()> {
    let endpoint = case.endpoint.as_deref().unwrap_or("0");
    let note =
        if verdict.is_right && verdict.known.is_some() { " (is said to differ, and does not)" } else { "" };
    writeln!(out, "    {kind}{note}: {}", verdict.seen.summary())?;
    writeln!(out, "      wanted: {}; endpoint {endpoint}", case.client)?;
    for (name, text) in [("answer", &verdict.seen.answer), ("request", &verdict.seen.received)] {
        for line in text.lines().take(20) {
            writeln!(out, "      {name}: {}", line.get(..160).unwrap_or(line))?;
        }
    }
    Ok(())
}

impl Totals {
    fn add(&mut self, kind: Kind, verdict: &Verdict) {
        self.failures += usize::from(verdict.is_failure());
        if let (false, Some(why)) = (verdict.is_right, &verdict.known) {
            *self.different.entry((kind, why.clone())).or_default() += 1;
        }
    }

    fn report(&self, agreement: &Agreement, out: &mut dyn Write) -> std::io::Result<()> {
        let mut host = None;
        for ((kind, why), count) in &self.different {
            if host != Some(kind) {
                writeln!(out, "\nWhere {kind} differs:")?;
                host = Some(kind);
            }
            writeln!(out, "- {count} × {}", agreement.reasons.get(why).unwrap_or(why))?;
        }
        let count = |protocol| self.cases.get(&protocol).copied().unwrap_or_default();
        let (http1, http2) = (count(Protocol::Http1), count(Protocol::Http2));
        writeln!(out, "\n{http1} cases of HTTP/1, {http2} of HTTP/2: {} not as they should be", self.failures)
    }
}
