//! The conformance kit on the real binary and on real Envoy.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is wrong")]

use std::path::PathBuf;

use wasmgate_conformance::campaign::Campaign;
use wasmgate_conformance::language::Language;
use wasmgate_conformance::suite::{Column, Kind, Options, run_suite};
use wasmgate_testkit::plugins;

#[test]
fn every_behaviour_is_as_it_should_be_and_every_difference_from_envoy_has_its_reason() {
    // Every language on ours, and one beside it on Envoy.
    let ours = Language::ALL.into_iter().map(|language| Column { kind: Kind::Wasmgate, language });
    let columns = ours.chain([
        Column { kind: Kind::InProcess, language: Language::Rust },
        Column { kind: Kind::Envoy, language: Language::Rust },
    ]);
    let options = Options {
        columns: columns.collect(),
        cases: plugins::repository().join("conformance/cases"),
        module: None,
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
    assert!(totals.all >= 1100, "{} behaviours", totals.all);
}

#[test]
fn random_scripts_do_the_same_here_and_on_envoy() {
    let campaign = Campaign {
        seed: 1,
        count: 120,
        cases: plugins::repository().join("conformance/cases"),
        module: Language::Rust.build(),
        wasmgate: PathBuf::from(env!("CARGO_BIN_EXE_wasmgate")),
        peers_dir: plugins::repository().join("target/peers"),
    };
    let mut report = Vec::new();
    let disagreements = campaign.run(&mut report).unwrap();
    assert_eq!(disagreements, 0, "{}", String::from_utf8_lossy(&report));
}
