//! Runs the cases on hosts and prints what each did.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use wasmgate_conformance::suite::{Options, run_suite};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    Wasmgate,
    Envoy,
    Both,
}

/// Runs Proxy-Wasm behaviours on Wasmgate and on Envoy.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which host.
    #[arg(long, value_enum, default_value = "both")]
    host: Which,
    /// The folder with the cases.
    #[arg(long, default_value = "conformance/cases")]
    cases: PathBuf,
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
    /// Also run on Envoy what is known to end its process.
    #[arg(long)]
    crashes: bool,
}

fn main() -> ExitCode {
    let Arguments { host, cases, filter, wasmgate, peers_dir, record, crashes } = Arguments::parse();
    let hosts = match host {
        Which::Wasmgate => vec!["wasmgate"],
        Which::Envoy => vec!["envoy"],
        Which::Both => vec!["wasmgate", "envoy"],
    };
    let options = Options { hosts, cases, filter, wasmgate, peers_dir, record, crashes };
    match run_suite(&options, &mut std::io::stdout().lock()) {
        Ok(totals) if totals.failures == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            // Where the report would have stood.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("{error}\n").as_bytes());
            ExitCode::from(2)
        }
    }
}
