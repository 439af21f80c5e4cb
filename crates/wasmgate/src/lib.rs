//! The `wasmgate` binary as a library: command line, wiring, admin interface, demo.
//!
//! Everything below this crate takes its settings as values; the environment, the command line and signals are read
//! here. Where to start reading: `run` wires a gateway together, `controller` is the loop that keeps it configured.

mod admin;
mod check;
mod cli;
mod controller;
mod convert;
mod demo;
mod error;
mod logging;
mod metrics;
mod own_metrics;
mod run;
mod settings;
mod shared;
mod takeover;

pub use cli::main;
