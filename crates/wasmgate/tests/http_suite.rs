//! HTTP on the wire: every case of `http-suite` on the real binary.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is wrong")]

use std::path::PathBuf;

use wasmgate_http_suite::case::Protocol;
use wasmgate_http_suite::host::Kind;
use wasmgate_http_suite::suite::{Options, run_suite};
use wasmgate_testkit::plugins;

#[test]
fn every_case_of_http_is_as_the_rfcs_demand_or_known_not_to_be() {
    let options = Options {
        hosts: vec![Kind::Wasmgate],
        folder: plugins::repository().join("http-suite"),
        filter: String::new(),
        wasmgate: PathBuf::from(env!("CARGO_BIN_EXE_wasmgate")),
        peers_dir: plugins::repository().join("target/peers"),
        record: false,
    };
    let mut report = Vec::new();
    let totals = run_suite(&options, &mut report).unwrap();
    let report = String::from_utf8_lossy(&report);
    assert_eq!(totals.failures, 0, "{report}");
    let count = |protocol| totals.cases.get(&protocol).copied().unwrap_or_default();
    assert!(count(Protocol::Http1) >= 250 && count(Protocol::Http2) >= 150, "{:?}", totals.cases);
}
