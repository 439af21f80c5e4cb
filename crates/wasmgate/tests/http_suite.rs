//! HTTP on the wire: every case of `http-suite` on the real binary.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is wrong")]

use std::path::{Path, PathBuf};

use wasmgate_http_suite::agreement::Agreement;
use wasmgate_http_suite::case::{self, Protocol};
use wasmgate_http_suite::host::Kind;
use wasmgate_http_suite::markdown;
use wasmgate_http_suite::suite::{Options, run_suite};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_case_is_as_the_rfcs_demand_or_is_known_not_to_be() {
    let options = Options {
        hosts: vec![Kind::Wasmgate],
        folder: repository().join("http-suite"),
        filter: String::new(),
        wasmgate: PathBuf::from(env!("CARGO_BIN_EXE_wasmgate")),
        peers_dir: repository().join("target/peers"),
        record: false,
    };
    let mut report = Vec::new();
    let totals = run_suite(&options, &mut report).unwrap();
    let report = String::from_utf8_lossy(&report);
    assert_eq!(totals.failures, 0, "{report}");
    let count = |protocol| totals.cases.get(&protocol).copied().unwrap_or_default();
    assert!(count(Protocol::Http1) >= 450 && count(Protocol::Http2) >= 250, "{:?}", totals.cases);
}

#[test]
fn the_documentation_has_every_disagreement() {
    let folder = repository().join("http-suite");
    let cases = case::read(&folder.join("cases")).unwrap();
    let tables = markdown::tables(&cases, &Agreement::read(&folder.join("agreement.yaml")).unwrap());
    let document = std::fs::read_to_string(repository().join("docs/http.md")).unwrap();
    let shown = document.split_once(markdown::BEGIN).and_then(|(_, rest)| rest.split_once(markdown::END));
    let (shown, _) = shown.unwrap();
    assert!(shown == tables, "docs/http.md wants what wasmgate-http-suite --markdown prints:\n{tables}");
}
