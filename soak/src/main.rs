//! `wasmgate-soak`: the run that `make soak` starts.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is what this program is for")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use wasmgate_soak::soak::Soak;

/// Runs mixed load on Wasmgate, with a reload every second and a plug-in swap every ten.
///
/// The exit status is 0 when no request failed, every change was seen by clients, and neither memory nor descriptors
/// grew. Everything is on 127.0.0.1.
#[derive(Debug, Parser)]
#[command(name = "wasmgate-soak", version)]
struct Arguments {
    /// The gateway's binary
    #[arg(long, value_name = "FILE", default_value = "target/release/wasmgate")]
    wasmgate: PathBuf,

    /// The header-authorization plug-in built from Rust
    #[arg(
        long,
        value_name = "FILE",
        default_value = "examples/plugins/rust/header-authorization/header-authorization.wasm"
    )]
    plugin: PathBuf,

    /// How long the load lasts; less than 20 is too short for every kind of change
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(8..=86_400))]
    seconds: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let duration = Duration::from_secs(arguments.seconds);
    let soak = Soak { wasmgate: arguments.wasmgate, plugin: arguments.plugin, duration };
    match soak.run() {
        Ok(report) => {
            println!("{report}");
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("wasmgate-soak: {error}");
            ExitCode::FAILURE
        }
    }
}
