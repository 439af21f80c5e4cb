//! Routes that give their requests a limited time.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is wrong")]

use std::time::{Duration, Instant};

use wasmgate_testkit::client::{RawClient, request};
use wasmgate_testkit::gateway::{GatewayBuilder, PATIENCE, RunningGateway};
use wasmgate_testkit::manifests;
use wasmgate_testkit::peers::process::wait_until;
use wasmgate_testkit::upstream::{Behaviour, Upstream};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");

fn gateway(upstream: &Upstream, timeouts: &str) -> RunningGateway {
    let route = manifests::route()
        .replace("    backendRefs:", &format!("    timeouts: {timeouts}\n    backendRefs:"));
    GatewayBuilder::new(PROGRAM)
        .workers(1)
        .manifest("backend.yaml", manifests::service_entry(upstream.address()))
        .manifest("route.yaml", route)
        .run()
        .unwrap()
}

fn log_line(gateway: &RunningGateway) -> String {
    wait_until(Instant::now() + PATIENCE, || gateway.access_log().pop()).unwrap()
}

#[test]
fn a_request_that_takes_longer_than_its_route_lets_it_is_answered_with_504() {
    let silent = Upstream::start(Behaviour::Script(|_| None)).unwrap();
    for timeouts in ["{request: 200ms}", "{backendRequest: 200ms}", "{request: 10s, backendRequest: 200ms}"] {
        let gateway = gateway(&silent, timeouts);
        let answer = gateway.get("/", &[]).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (504, "upstream request timeout"), "{timeouts}");
        let line = log_line(&gateway);
        assert!(line.contains("\"response_flags\":\"UT\""), "{line}");
        let stats = gateway.admin_get("/stats").unwrap().text();
        assert!(stats.contains("httpbin.default.svc.cluster.local.upstream_rq_timeout: 1\n"), "{stats}");
    }
}

#[test]
fn an_answer_that_stalls_is_broken_off_and_a_quick_one_is_not() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234".to_vec();
    let stalls = Upstream::start(Behaviour::Pieces(vec![head, b"56789".to_vec()], Duration::from_secs(3)));
    let stalls = stalls.unwrap();
    let cut = gateway(&stalls, "{request: 300ms}");
    let mut client = RawClient::connect(cut.address()).unwrap();
    assert!(client.request(&request("GET", "/", &[], "")).is_err());
    assert!(log_line(&cut).contains("\"response_flags\":\"UT\""));
    let quick = Upstream::ok("fine").unwrap();
    for timeouts in ["{request: 5s, backendRequest: 5s}", "{request: 0s}"] {
        let gateway = gateway(&quick, timeouts);
        let mut client = RawClient::connect(gateway.address()).unwrap();
        for _ in 0..3 {
            assert_eq!(client.request(&request("GET", "/", &[], "")).unwrap().text(), "fine");
        }
    }
}

#[test]
fn times_that_make_no_sense_are_refused() {
    let upstream = Upstream::ok("fine").unwrap();
    for (timeouts, text) in [
        ("{request: 5}", "spec.rules[0].timeouts.request"),
        ("{request: 1 minute}", "is no duration: one like 10s, 500ms or 1m30s"),
        ("{request: 1s, backendRequest: 2s}", "backendRequest timeout cannot be longer than request timeout"),
    ] {
        let gateway = gateway(&upstream, timeouts);
        gateway.wait_for_log(text).unwrap();
    }
}
