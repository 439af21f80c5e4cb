//! Runs the cases on hosts and prints what each did.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use wasmgate_conformance::campaign::Campaign;
use wasmgate_conformance::language::Language;
use wasmgate_conformance::suite::{Column, Kind, Options, run_suite};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    Wasmgate,
    InProcess,
    Envoy,
    /// Wasmgate and Envoy
    Both,
    All,
}

/// Runs Proxy-Wasm behaviours on Wasmgate and on Envoy.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which host.
    #[arg(long, value_enum, default_value = "both")]
    host: Which,
    /// The languages of the interpreter plug-in, one or more of them
    #[arg(long, value_enum, value_delimiter = ',', default_value = "rust")]
    language: Vec<Language>,
    /// The folder with the cases.
    #[arg(long, default_value = "conformance/cases")]
    cases: PathBuf,
    /// A build of the interpreter plug-in, instead of building one
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    filter: String,
    /// Our binary.
    #[arg(long, default_value = "target/release/wasmgate")]
    wasmgate: PathBuf,
    /// Where Envoy is kept, or is to be downloaded to.
    #[arg(long, default_value = "target/peers")]
    peers_dir: PathBuf,
    /// Print everything that was seen, for writing cases.
    #[arg(long)]
    record: bool,
    /// Instead of the cases, run so many random ones on both hosts and print those on which they disagree
    #[arg(long, value_name = "COUNT")]
    fuzz: Option<u64>,
    /// The first seed of --fuzz
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also run on Envoy what is known to end its process.
    #[arg(long)]
    crashes: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout();
    let result = match arguments.fuzz {
        Some(count) => fuzz(arguments, count, &mut out),
        None => suite(arguments, &mut out),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Where the report would have stood.
            let _ = std::io::Write::write_all(&mut out, format!("{error}\n").as_bytes());
            ExitCode::from(2)
        }
    }
}

fn suite(arguments: Arguments, out: &mut dyn Write) -> Result<bool, String> {
    let Arguments { host, language, cases, module, filter, wasmgate, peers_dir, record, crashes, .. } =
        arguments;
    let hosts: &[Kind] = match host {
        Which::Wasmgate => &[Kind::Wasmgate],
        Which::InProcess => &[Kind::InProcess],
        Which::Envoy => &[Kind::Envoy],
        Which::Both => &[Kind::Wasmgate, Kind::Envoy],
        Which::All => &[Kind::InProcess, Kind::Wasmgate, Kind::Envoy],
    };
    let columns = language
        .iter()
        .flat_map(|language| hosts.iter().map(|kind| Column { kind: *kind, language: *language }));
    let columns = columns.collect();
    let options = Options { columns, cases, module, filter, wasmgate, peers_dir, record, crashes };
    Ok(run_suite(&options, out)?.failures == 0)
}

fn fuzz(arguments: Arguments, count: u64, out: &mut dyn Write) -> Result<bool, String> {
    let Arguments { language, cases, module, wasmgate, peers_dir, seed, .. } = arguments;
    let mut agree = true;
    for language in language {
        let module = match &module {
            Some(path) => std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()))?,
            None => language.build(),
        };
        let (cases, wasmgate, peers_dir) = (cases.clone(), wasmgate.clone(), peers_dir.clone());
        let campaign = Campaign { seed, count, cases, module, wasmgate, peers_dir };
        agree &= campaign.run(out)? == 0;
    }
    Ok(agree)
}
