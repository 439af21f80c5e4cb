//! The smuggling corpus on the real binary: no back end sees a request that the client's framing did not contain.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is wrong")]

use std::path::Path;

use wasmgate_smuggling::backend::BackendKind;
use wasmgate_smuggling::payload;
use wasmgate_smuggling::run::run;
use wasmgate_testkit::plugins;

fn is_safe(kind: BackendKind) {
    assert!(kind.is_installed(), "{kind} is missing; scripts/test-deps installs it");
    let payloads = payload::read(&plugins::repository().join("smuggling/corpus")).unwrap();
    let outcome = run(Path::new(env!("CARGO_BIN_EXE_wasmgate")), kind, &payloads).unwrap();
    assert!(outcome.findings.is_empty(), "{outcome}");
    // A gateway that refuses everything would be safe, too.
    assert!(outcome.passed_on >= 100, "{outcome}");
}

#[test]
fn a_raw_socket_sees_no_request_that_was_not_sent_and_none_with_two_readings() {
    is_safe(BackendKind::Raw);
}

#[test]
fn nginx_sees_no_request_that_was_not_sent() {
    is_safe(BackendKind::Nginx);
}

#[test]
fn apache_sees_no_request_that_was_not_sent() {
    is_safe(BackendKind::Apache);
}

#[test]
fn node_sees_no_request_that_was_not_sent() {
    is_safe(BackendKind::Node);
}
