//! The conformance kit on the real binary and on real Envoy.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is wrong")]

use std::path::PathBuf;

use wasmgate_conformance::suite::{Options, run_suite};
use wasmgate_testkit::plugins;

#[test]
fn every_behaviour_is_as_it_should_be_and_every_difference_from_envoy_has_its_reason() {
    let options = Options {
        hosts: vec!["wasmgate", "envoy"],
        cases: plugins::repository().join("conformance/cases"),
        filter: String::new(),
        wasmgate: PathBuf::from(env!("CARGO_BIN_EXE_wasmgate")),
        peers_dir: plugins::repository().join("target/peers"),
        record: false,
        crashes: false,
    };
    let mut report = Vec::new();
    let totals = run_suite(&options, &mut report).unwrap();
    let report = String::from_utf8_lossy(&report);
    assert_eq!(totals.failures, 0, "{report}");
    assert!(totals.different.keys().all(|why| !why.is_empty()), "{report}");
    assert!(totals.all >= 900, "{} behaviours", totals.all);
}
