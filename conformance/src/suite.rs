//! All cases on all hosts.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use crate::case::{self, Case};
use crate::endpoint::Endpoint;
use crate::host::Host;
use crate::in_process::InProcess;
use crate::language::Language;
use crate::matrix;
use crate::modules::{self, Hosts};
use crate::run::{Seen, run, run_in_process};

/// What runs the plug-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Our gateway, over sockets.
    Wasmgate,
    /// Our host as a library, in this process.
    InProcess,
    /// Envoy, over sockets.
    Envoy,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Wasmgate => "wasmgate",
            Self::InProcess => "in process",
            Self::Envoy => "envoy",
        }
    }
}

/// A host with the interpreter in one language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The host.
    pub kind: Kind,
    /// The interpreter's.
    pub language: Language,
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.kind.name(), self.language)
    }
}

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is compared, a column of the matrix each.
    pub columns: Vec<Column>,
    /// The folder with the cases.
    pub cases: PathBuf,
    /// Another build of the interpreter plug-in than that of a column's language.
    pub module: Option<PathBuf>,
    /// Only cases whose name contains this.
    pub filter: String,
    /// Our binary.
    pub wasmgate: PathBuf,
    /// Where Envoy is kept, or is to be downloaded to.
    pub peers_dir: PathBuf,
    /// Print everything that was seen.
    pub record: bool,
    /// Also run on Envoy what is known to end its process.
    pub crashes: bool,
}

/// A running host.
enum Running {
    Gateway(Host),
    InProcess(Box<InProcess>),
}

impl Running {
    /// `None`: its process has ended.
    fn run(&mut self, case: &Case, endpoint: &Endpoint) -> std::io::Result<Option<Seen>> {
        match self {
            Self::Gateway(host) => {
                let seen = run(case, host, endpoint)?;
                Ok((seen.answer.is_some() || host.is_alive()).then_some(seen))
            }
            Self::InProcess(host) => run_in_process(case, host).map(Some),
        }
    }
}

/// Runs the cases and prints the matrix.
///
/// # Errors
/// A case file that cannot be read, a host that does not start.
pub fn run_suite(arguments: &Options, out: &mut dyn Write) -> Result<Totals, String> {
    let mut cases = case::read(&arguments.cases)?;
    cases.retain(|c| c.id.contains(&arguments.filter));
    let mut cells = matrix::read(&arguments.cases.join("statuses.txt"))?;
    cells.retain(|c| c.case.id.contains(&arguments.filter));
    let all: Vec<Case> = cases.iter().chain(cells.iter().map(|c| &c.case)).cloned().collect();
    let endpoint = Endpoint::start(&all).map_err(|e| e.to_string())?;
    let configuration = case::configuration(&all);
    let start = |column: Column| {
        let module = match &arguments.module {
            Some(path) => std::path::absolute(path)?,
            None => column.language.build(),
        };
        let address = endpoint.address();
        match column.kind {
            Kind::Envoy => {
                Host::envoy(&arguments.peers_dir, &module, &configuration, address).map(Running::Gateway)
            }
            Kind::InProcess => InProcess::start(&module, &configuration, address)
                .map(|host| Running::InProcess(Box::new(host))),
            Kind::Wasmgate => {
                let program = std::path::absolute(&arguments.wasmgate)?.display().to_string();
                Host::wasmgate(&program, &module, &configuration, address).map(Running::Gateway)
            }
        }
    };
    let mut hosts = Vec::new();
    for column in &arguments.columns {
        hosts.push((*column, start(*column).map_err(|e| format!("{column}: {e}"))?));
    }
    // A host that does not answer any more has crashed: another takes its place.
    let observe = |case: &Case, column: Column, host: &mut Running| -> Result<Option<Seen>, String> {
        let error = |e: std::io::Error| format!("{}: {column}: {e}", case.id);
        let seen = host.run(case, &endpoint).map_err(error)?;
        if seen.is_none() {
            *host = start(column).map_err(error)?;
        }
        Ok(seen)
    };
    let names: Vec<String> = arguments.columns.iter().map(ToString::to_string).collect();
    let written = |e: std::io::Error| e.to_string();
    let columns = "---|".repeat(hosts.len());
    writeln!(out, "| behaviour | spec | checklist | {} |\n|---|---|---|{columns}", names.join(" | "))
        .map_err(written)?;
    let has_envoy = arguments.columns.iter().any(|c| c.kind == Kind::Envoy);
    let mut totals = Totals { has_envoy, ..Totals::default() };
    for case in &cases {
        let mut verdicts = Vec::new();
        let mut notes = Vec::new();
        for (column, host) in &mut hosts {
            let is_envoy = column.kind == Kind::Envoy;
            let expected = case.expected(is_envoy);
            if expected.trim() == CRASH && !arguments.crashes {
                verdicts.push(CRASH);
                continue;
            }
            let (missing, lines) = match observe(case, *column, host)? {
                Some(seen) => (seen.differences(expected), seen.lines()),
                None if expected.trim() == CRASH => (Vec::new(), Vec::new()),
                None => (vec!["an answer: the process has ended".to_owned()], Vec::new()),
            };
            verdicts.push(totals.verdict(missing.is_empty(), is_envoy && case.envoy.is_some()));
            if arguments.record || !missing.is_empty() {
                notes.push(format!("{column}: {missing:?}"));
                notes.extend(lines);
            }
        }
        totals.print(out, case, &case.id, &verdicts, &notes).map_err(written)?;
    }
    for cell in &cells {
        let mut verdicts = Vec::new();
        let mut notes = Vec::new();
        for (column, host) in &mut hosts {
            let is_envoy = column.kind == Kind::Envoy;
            let wanted = if is_envoy { &cell.envoy } else { &cell.ours };
            if wanted == CRASH && !arguments.crashes {
                verdicts.push(CRASH);
                continue;
            }
            let seen = observe(&cell.case, *column, host)?;
            let crashed = seen.is_none();
            let trace = seen.and_then(|s| s.trace).unwrap_or_default();
            let status =
                cell.status(&trace).unwrap_or_else(|| if crashed { CRASH } else { "none" }.to_owned());
            verdicts.push(totals.verdict(status == *wanted, is_envoy && cell.envoy != cell.ours));
            if status != *wanted || arguments.record {
                notes.push(format!("{column}: {status} instead of {wanted}: {trace}"));
            }
        }
        let name = format!(
            "{} in {}",
            cell.case.script.trim_end().replacen(&format!("{}@1 ", cell.callback), "", 1),
            cell.callback
        );
        totals.print(out, &cell.case, &name, &verdicts, &notes).map_err(written)?;
    }
    run_modules(arguments, &endpoint, &mut totals, out)?;
    totals.report(out).map_err(written)?;
    Ok(totals)
}

/// Modules that no language's tool chain makes: a table of its own, whose columns have no language.
fn run_modules(
    arguments: &Options,
    endpoint: &Endpoint,
    totals: &mut Totals,
    out: &mut dyn Write,
) -> Result<(), String> {
    let written = |e: std::io::Error| e.to_string();
    let mut modules = modules::read(&arguments.cases.with_file_name("modules.yaml"))?;
    modules.retain(|m| m.id.contains(&arguments.filter));
    let mut kinds: Vec<Kind> = arguments.columns.iter().map(|c| c.kind).collect();
    kinds.dedup();
    if modules.is_empty() || kinds.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = kinds.iter().map(|k| k.name()).collect();
    let columns = "---|".repeat(kinds.len());
    writeln!(out, "\n| module | spec | checklist | {} |\n|---|---|---|{columns}", names.join(" | "))
        .map_err(written)?;
    let folder = tempfile::tempdir().map_err(written)?;
    let wasmgate = std::path::absolute(&arguments.wasmgate).map_err(written)?.display().to_string();
    let hosts = Hosts { wasmgate: &wasmgate, peers: &arguments.peers_dir, folder: folder.path(), endpoint };
    for module in &modules {
        let mut verdicts = Vec::new();
        let mut notes = Vec::new();
        for kind in &kinds {
            let (seen, wanted) = (module.run(*kind, &hosts)?, module.expected(*kind));
            verdicts.push(totals.verdict(seen == wanted, *kind == Kind::Envoy && module.envoy.is_some()));
            if seen != wanted || arguments.record {
                notes.push(format!("{}: {seen} instead of {wanted}", kind.name()));
            }
        }
        let case = Case {
            spec: module.spec.clone(),
            checklist: module.checklist.clone(),
            envoy: module.envoy.clone(),
            why: module.why.clone(),
            ..Case::default()
        };
        totals.print(out, &case, &module.id, &verdicts, &notes).map_err(written)?;
    }
    Ok(())
}

/// What is seen of a host whose process has ended.
const CRASH: &str = "crash";

/// What came of all cases.
#[derive(Debug, Default)]
pub struct Totals {
    /// Envoy is one of the hosts.
    has_envoy: bool,
    /// Behaviours.
    pub all: usize,
    /// Behaviours that were not as they should be, by host.
    pub failures: usize,
    /// Behaviours where Envoy differs, by reason.
    pub different: BTreeMap<String, usize>,
}

impl Totals {
    fn verdict(&mut self, holds: bool, differs: bool) -> &'static str {
        match (holds, differs) {
            (true, false) => "yes",
            (true, true) => "differs",
            (false, _) => {
                self.failures += 1;
                "**NO**"
            }
        }
    }

    fn print(
        &mut self,
        out: &mut dyn Write,
        case: &Case,
        name: &str,
        verdicts: &[&str],
        notes: &[String],
    ) -> std::io::Result<()> {
        self.all += 1;
        if case.envoy.is_some() {
            *self.different.entry(case.why.clone()).or_default() += 1;
        }
        let checklist: Vec<String> = case.checklist.iter().map(ToString::to_string).collect();
        writeln!(out, "| {name} | {} | {} | {} |", case.spec, checklist.join(", "), verdicts.join(" | "))?;
        notes.iter().try_for_each(|note| writeln!(out, "      {note}"))
    }

    fn report(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let (all, failures) = (self.all, self.failures);
        if !self.has_envoy {
            return writeln!(out, "\n{all} behaviours: {failures} not as they should be");
        }
        if !self.different.is_empty() {
            writeln!(out, "\nWhere Envoy differs:")?;
        }
        for (why, count) in &self.different {
            writeln!(out, "- {count} × {}", if why.is_empty() { "WITHOUT A REASON" } else { why })?;
        }
        let different: usize = self.different.values().sum();
        writeln!(
            out,
            "\n{all} behaviours: {} as on Envoy, {different} where Envoy differs, {failures} not as they should be",
            all - different
        )
    }
}
