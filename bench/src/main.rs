//! What a request costs Wasmgate and its peers, measured in turn on one machine.
//!
//! Each proxy runs alone with one worker on one core; the load generator and the backend share another core, so that
//! nothing they do is counted. The figure that matters is CPU time of the proxy per request: it says what a machine
//! is needed for, whichever of the two cores is the busier one. Requests per second and latencies are those of this
//! set-up, with the generator's core often the limit.
//!
//! Start reading at [`bench::Bench::measure`], which is one row; [`case::Case::all`] is the list of rows. What is no
//! row is a [`part::Part`], and [`bars::judge`] says what all of it is held against.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table is what this program is for")]

mod arguments;
mod bars;
mod bench;
mod bodies;
mod calls;
mod case;
mod disturbance;
mod handshakes;
mod idle;
mod interrupt;
mod latency;
mod load;
mod machine;
mod manifests;
mod many_routes;
mod messages;
mod part;
mod pinned;
mod proxy;
mod reading;
mod report;
mod stage;
mod startup;
mod streaming;
mod table;
mod transfer;
mod workers;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use crate::arguments::Arguments;
use crate::bench::Bench;
use crate::case::Case;
use crate::machine::Machine;
use crate::part::Part;
use crate::reading::Reading;
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
    let startup =
        if arguments.runs(Part::Startup) { startup::measure(&bench, arguments) } else { Vec::new() };
    interrupt::check()?;
    let (go, rust) = (arguments.go_plugin.as_deref(), arguments.rust_plugin.as_deref());
    let calls_plugin = |part| arguments.calls_plugin.as_deref().filter(|_| arguments.runs(part));
    let calls = calls_plugin(Part::Calls).map(|path| calls::measure(path, go, rust)).transpose()?;
    let streamed = calls_plugin(Part::Streaming).filter(|_| !arguments.skip_wasmgate);
    let streaming = streamed.map(|path| streaming::measure(&bench, path)).transpose()?;
    let readings = readings(&bench, arguments)?;
    let report = Report::new(machine, rows, startup, calls.unwrap_or_default(), streaming, readings);
    let markdown = table::markdown(&report);
    println!("{markdown}");
    std::fs::create_dir_all(&arguments.out)?;
    std::fs::write(arguments.out.join("report.md"), markdown)?;
    std::fs::write(arguments.out.join("report.json"), serde_json::to_string_pretty(&report)?)?;
    Ok(report.is_good())
}

/// What the parts say that are measured proxy by proxy.
fn readings(bench: &Bench, arguments: &Arguments) -> io::Result<Vec<Reading>> {
    let mut readings = Vec::new();
    for (part, measure) in PARTS {
        if arguments.runs(part) {
            // Two workers need both cores, and whatever this thread starts would inherit its one.
            readings.extend(match part {
                Part::Workers => measure(bench),
                _ => pinned::on_core(bench.cores().load, || Ok(measure(bench)))?,
            });
            interrupt::check()?;
        }
    }
    Ok(readings)
}

/// A part that is measured proxy by proxy.
type Measure = fn(&Bench) -> Vec<Reading>;

/// Those parts, in their order.
const PARTS: [(Part, Measure); 8] = [
    (Part::Tls, handshakes::measure),
    (Part::Bodies, bodies::measure),
    (Part::Idle, idle::measure),
    (Part::Routes, many_routes::measure),
    (Part::Workers, workers::measure),
    (Part::Grpc, messages::grpc),
    (Part::Websocket, messages::websocket),
    (Part::Latency, latency::measure),
];
