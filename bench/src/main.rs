//! What a request costs Wasmgate and its peers, measured in turn on one machine.
//!
//! Each proxy runs alone with one worker on one core; the load generator and the backend share another core, so that
//! nothing they do is counted. The figure that matters is CPU time of the proxy per request: it says what a machine
//! is needed for, whichever of the two cores is the busier one. Requests per second and latencies are those of this
//! set-up, with the generator's core often the limit.
//!
//! Start reading at [`bench::Bench::measure`], which is one row; [`case::Case::all`] is the list of rows.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is what this program is for")]

mod arguments;
mod bench;
mod calls;
mod case;
mod disturbance;
mod interrupt;
mod load;
mod machine;
mod manifests;
mod proxy;
mod report;
mod startup;
mod streaming;
mod table;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Arguments;
use crate::bench::Bench;
use crate::case::Case;
use crate::machine::Machine;
use crate::report::{Report, Row};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("wasmgate-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// True when every row was measured and every bar that could be judged was met.
fn run(arguments: &Arguments) -> io::Result<bool> {
    let cases: Vec<Case> = Case::all().into_iter().filter(|case| arguments.selects(case)).collect();
    interrupt::listen()?;
    let bench = Bench::new(arguments)?;
    let machine = Machine::inspect(&bench);
    let mut rows: Vec<_> = cases.iter().map(|case| Row::new(*case)).collect();
    for round in 1..=arguments.rounds {
        for (case, row) in cases.iter().zip(&mut rows) {
            eprintln!("round {round}/{}: {case}", arguments.rounds);
            let sample = bench.measure(*case);
            interrupt::check()?;
            match sample {
                Ok(sample) => row.add(sample),
                Err(error) => {
                    eprintln!("  failed: {error}");
                    row.error = Some(error.to_string());
                }
            }
        }
    }
    let startup = if arguments.skip_startup { Vec::new() } else { startup::measure(&bench, arguments) };
    interrupt::check()?;
    let (go, rust) = (arguments.go_plugin.as_deref(), arguments.rust_plugin.as_deref());
    let calls = arguments.calls_plugin.as_deref().map(|path| calls::measure(path, go, rust)).transpose()?;
    let streams = !arguments.skip_wasmgate && !arguments.skip_startup;
    let streamed = arguments.calls_plugin.as_deref().filter(|_| streams);
    let streaming = streamed.map(|path| streaming::measure(&bench, path)).transpose()?;
    let report = Report::new(machine, rows, startup, calls.unwrap_or_default(), streaming);
    let markdown = table::markdown(&report);
    println!("{markdown}");
    std::fs::create_dir_all(&arguments.out)?;
    std::fs::write(arguments.out.join("report.md"), markdown)?;
    std::fs::write(arguments.out.join("report.json"), serde_json::to_string_pretty(&report)?)?;
    Ok(report.is_good())
}
