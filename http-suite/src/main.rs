//! Runs the cases on hosts and prints who agrees.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use wasmgate_http_suite::agreement::Agreement;
use wasmgate_http_suite::host::Kind;
use wasmgate_http_suite::suite::{Options, run_suite};
use wasmgate_http_suite::{case, markdown};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    Wasmgate,
    Nginx,
    Haproxy,
    Envoy,
    All,
}

/// Runs HTTP on the wire on Wasmgate, nginx, HAProxy and Envoy.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which host.
    #[arg(long, value_enum, default_value = "all")]
    host: Which,
    /// The folder with `cases` and `agreement.yaml`.
    #[arg(long, default_value = "http-suite")]
    folder: PathBuf,
    /// Only cases whose name or topic contains this.
    #[arg(long, default_value = "")]
    filter: String,
    /// Our binary.
    #[arg(long, default_value = "target/release/wasmgate")]
    wasmgate: PathBuf,
    /// Where Envoy is kept, or is to be downloaded to.
    #[arg(long, default_value = "target/peers")]
    peers_dir: PathBuf,
    /// Print everything that was seen, and take down in `agreement.yaml` where other proxies disagree.
    #[arg(long)]
    record: bool,
    /// Run nothing; print the disagreements as they are known, for `docs/http.md`.
    #[arg(long)]
    markdown: bool,
}

fn main() -> ExitCode {
    let mut out = std::io::stdout();
    match start(Arguments::parse(), &mut out) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Where the report would have stood.
            let _ = out.write_all(format!("{error}\n").as_bytes());
            ExitCode::from(2)
        }
    }
}

fn start(arguments: Arguments, out: &mut dyn Write) -> Result<bool, String> {
    let Arguments { host, folder, filter, wasmgate, peers_dir, record, markdown } = arguments;
    if markdown {
        let cases = case::read(&folder.join("cases"))?;
        let agreement = Agreement::read(&folder.join("agreement.yaml"))?;
        out.write_all(markdown::tables(&cases, &agreement).as_bytes()).map_err(|e| e.to_string())?;
        return Ok(true);
    }
    let hosts = match host {
        Which::Wasmgate => vec![Kind::Wasmgate],
        Which::Nginx => vec![Kind::Nginx],
        Which::Haproxy => vec![Kind::Haproxy],
        Which::Envoy => vec![Kind::Envoy],
        Which::All => Kind::ALL.to_vec(),
    };
    let options = Options { hosts, folder, filter, wasmgate, peers_dir, record };
    Ok(run_suite(&options, out)?.failures == 0)
}
