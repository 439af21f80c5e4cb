//! `wasmgate-smuggling`: the run that `make smuggling` starts.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the findings are what this program is for")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use wasmgate_smuggling::backend::BackendKind;
use wasmgate_smuggling::{payload, run};

/// Runs requests that try to be two through Wasmgate in front of four back ends.
///
/// The exit status is 0 when no back end saw a request that the client's framing does not contain, and nobody else got a
/// wrong answer. Everything is on 127.0.0.1.
#[derive(Debug, Parser)]
#[command(name = "wasmgate-smuggling", version)]
struct Arguments {
    /// The gateway's binary
    #[arg(long, value_name = "FILE", default_value = "target/release/wasmgate")]
    wasmgate: PathBuf,

    /// The folder of cases
    #[arg(long, value_name = "DIR", default_value = "smuggling/corpus")]
    corpus: PathBuf,

    /// The back ends: raw, nginx, apache, node
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "raw,nginx,apache,node")]
    backends: Vec<BackendKind>,

    /// Run only cases whose name contains this
    #[arg(long, value_name = "SUBSTRING", default_value = "")]
    only: String,

    /// Say of every case what the client got and what the back end saw
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("wasmgate-smuggling: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool, String> {
    let mut payloads = payload::read(&arguments.corpus)?;
    payloads.retain(|p| p.case.name.contains(&arguments.only));
    let mut is_good = !payloads.is_empty();
    for kind in &arguments.backends {
        let outcome = run::run(&arguments.wasmgate, *kind, &payloads).map_err(|e| format!("{kind}: {e}"))?;
        if arguments.verbose {
            outcome.details.iter().for_each(|line| println!("  {line}"));
        }
        println!("{outcome}");
        is_good &= outcome.findings.is_empty();
    }
    Ok(is_good)
}
