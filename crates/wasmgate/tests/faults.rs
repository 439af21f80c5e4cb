//! A plug-in that crashes, loops or leaks hurts nobody else.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use wasmgate_testkit::client::{RawClient, once, request};
use wasmgate_testkit::gateway::{GatewayBuilder, PATIENCE, RunningGateway};
use wasmgate_testkit::load::{Load, LoadReport};
use wasmgate_testkit::peers::process::wait_until;
use wasmgate_testkit::upstream::{Behaviour, Upstream};
use wasmgate_testkit::{manifests, plugins};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");
const NAME: &str = "istio-system.edge";

/// One worker, so that whatever happens to it happens to everybody.
fn gateway(upstream: &Upstream, spec: &str) -> RunningGateway {
    let url = format!("file://{}", plugins::edge().display());
    GatewayBuilder::new(PROGRAM)
        .workers(1)
        .backend(upstream.address())
        .manifest("plugin.yaml", plugin(&url, spec))
        .run()
        .unwrap()
}

/// The plug-in with short limits, which annotations set.
fn plugin(url: &str, spec: &str) -> String {
    manifests::plugin("edge", url, spec).replace(
        "  namespace: istio-system\n",
        "  namespace: istio-system\n  annotations:\n    wasmgate.dev/callback-time-max: 200ms\n    wasmgate.dev/memory-max: 16Mi\n",
    )
}

fn order(gateway: &RunningGateway, order: &str) -> wasmgate_testkit::client::RawAnswer {
    gateway.get("/x?y=1", &[("x-edge", order)]).unwrap()
}

fn faults(gateway: &RunningGateway, reason: &str) -> u64 {
    gateway.plugin(NAME).unwrap()["faults"]["by_reason"][reason].as_u64().unwrap()
}

#[test]
fn a_panic_costs_one_request_and_the_next_one_gets_a_fresh_vm() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, "");
    for _ in 0..3 {
        let failed = order(&gateway, "request:panic");
        assert_eq!(failed.status, 503);
        assert_eq!(failed.header_names(), ["date", "server", "content-length"]);
        assert_eq!(order(&gateway, "").text(), "fine");
    }
    assert_eq!(faults(&gateway, "trap"), 3);
    let stats = gateway.admin_get("/stats").unwrap().text();
    assert!(stats.contains("http.local_reply.wasm_fail_stream: 3"), "{stats}");
    let last = &gateway.plugin(NAME).unwrap()["faults"]["last"];
    assert_eq!(last["function"], "proxy_on_request_headers");
    assert!(!last["frames"].as_array().unwrap().is_empty(), "{last}");
    let log = gateway.wait_for_log("Function: proxy_on_request_headers failed:").unwrap();
    assert!(log.contains("wasm log istio-system.edge"), "{log}");
    gateway.wait_for_log("edge panics in request").unwrap();
}

#[test]
fn an_optional_plug_in_that_panics_is_left_out_of_that_request() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, "  failStrategy: FAIL_OPEN\n");
    assert_eq!(order(&gateway, "request:panic").text(), "fine");
    assert_eq!(order(&gateway, "response:panic").text(), "fine");
    assert_eq!(order(&gateway, "response-body:panic").status, 200);
    assert_eq!(faults(&gateway, "trap"), 3);
    // It is back for the next one, not off for ever as in Envoy.
    assert_eq!(order(&gateway, "response-header").header("x-edge-seen"), Some("1"));
}

#[test]
fn panics_in_later_callbacks_are_contained_too() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, "");
    let post = request("POST", "/x", &[("x-edge", "request-body:panic")], "hello");
    assert_eq!(once(gateway.address(), &post).unwrap().status, 503);
    assert_eq!(order(&gateway, "response:panic").status, 503);
    assert_eq!(order(&gateway, "log:panic").text(), "fine", "the response is complete before on_log");
    assert_eq!(order(&gateway, "").text(), "fine");
    assert_eq!(faults(&gateway, "trap"), 3);
    assert_eq!(order(&gateway, "request:exit").status, 503);
    assert_eq!(faults(&gateway, "exit"), 1);
}

#[test]
fn a_loop_is_interrupted_and_the_worker_goes_on() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, "");
    let address = gateway.address();
    let mut looping = RawClient::connect(address).unwrap();
    looping.send(&request("GET", "/", &[("x-edge", "request:loop")], "")).unwrap();
    // The worker is idle otherwise: by now it is inside the loop.
    std::thread::sleep(std::time::Duration::from_millis(50));
    // On the same worker: it waits for the loop to be interrupted, and not longer.
    let mut others = RawClient::connect(address).unwrap();
    for _ in 0..5 {
        assert_eq!(others.request(&request("GET", "/", &[], "")).unwrap().text(), "fine");
    }
    assert_eq!(looping.answer(false).unwrap().status, 503);
    assert_eq!(faults(&gateway, "cpu"), 1);
    let stats = gateway.admin_get("/stats").unwrap().text();
    assert!(stats.contains("http.local_reply.wasm_limit_exceeded{cpu}: 1"), "{stats}");
    gateway.wait_for_log("limit: cpu, the callback ran longer than 200ms").unwrap();
}

#[test]
fn a_leak_ends_at_the_memory_limit() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, "");
    assert_eq!(order(&gateway, "request:leak").status, 503);
    assert_eq!(faults(&gateway, "memory"), 1);
    assert_eq!(order(&gateway, "").text(), "fine");
    let memory = gateway.plugin(NAME).unwrap()["workers"][0]["memory_bytes"].as_u64().unwrap();
    assert!(memory < 16 << 20, "the fresh VM is small again: {memory}");
}

#[test]
fn a_storm_of_panics_leaves_the_others_their_turn_and_the_log_readable() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, "");
    let load = Load::start(gateway.address(), 1, "/", &[]);
    let mut client = RawClient::connect(gateway.address()).unwrap();
    let count = |report: &LoadReport, status| {
        report.answers.iter().filter(|((s, _), _)| *s == status).map(|(_, n)| *n).sum::<u64>()
    };
    for _ in 0..60 {
        let before = count(&load.so_far(), 200);
        let answer = client.request(&request("GET", "/", &[("x-edge", "request:panic")], "")).unwrap();
        assert_eq!(answer.status, 503);
        let their_turn = || (count(&load.so_far(), 200) > before + 12).then_some(());
        wait_until(Instant::now() + PATIENCE, their_turn).unwrap();
    }
    let report = load.stop();
    // A stream whose VM fails in the middle shares its fate; the others wait for the next VM.
    assert!(count(&report, 503) <= 60 && report.failures.is_empty(), "{report:?}");
    assert_eq!(faults(&gateway, "trap"), 60, "each got a VM");
    let stats = gateway.admin_get("/stats").unwrap().text();
    assert!(!stats.contains("wasm_restarting"), "{stats}");
    assert_eq!(gateway.log().matches("Function: proxy_on_request_headers failed").count(), 10);
    assert_eq!(order(&gateway, "").text(), "fine");
}

#[test]
fn a_stream_that_needs_a_vm_that_failed_in_another_says_so() {
    let slow = Upstream::start(Behaviour::Script(|request| {
        (!request.contains("/slow")).then(|| "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine".to_owned())
    }));
    let slow = slow.unwrap();
    let gateway = gateway(&slow, "");
    let mut paused = RawClient::connect(gateway.address()).unwrap();
    paused.send(&request("GET", "/", &[("x-edge", "pause")], "")).unwrap();
    let log = "edge pauses";
    gateway.wait_for_log(log).unwrap();
    assert_eq!(order(&gateway, "request:panic").status, 503);
    assert_eq!(paused.answer(false).unwrap().status, 503, "nothing could resume it");
    let stats = gateway.admin_get("/stats").unwrap().text();
    assert!(stats.contains("http.local_reply.wasm_fail_stream: 1"), "{stats}");
    assert!(stats.contains("http.local_reply.wasm_vm_failed: 1"), "{stats}");
}

#[test]
fn what_a_plug_in_says_cannot_corrupt_a_message_or_the_log() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, "");
    assert_eq!(order(&gateway, "inject-request").text(), "fine");
    assert!(upstream.requests().iter().all(|r| !r.contains("x-injected")), "{:?}", upstream.requests());
    let answer = order(&gateway, "inject-response");
    assert!(!answer.head.contains("x-injected") && answer.header("x-b") == Some("2"), "{}", answer.head);
    assert_eq!(order(&gateway, "status-1000").status, 500);
    order(&gateway, "log-injection");
    let line = gateway.wait_for_log("wasm log istio-system.edge: one").unwrap();
    assert!(line.contains("one\\n2026-01-01") && !line.contains('\u{1b}'), "{line}");
}

#[test]
fn a_body_of_another_length_is_announced_as_what_it_is_or_given_up() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, "");
    let longer = "much longer than what the client has sent";
    let post = request("POST", "/x", &[("x-edge", "grow-body")], "abc");
    assert_eq!(once(gateway.address(), &post).unwrap().text(), "fine");
    let seen = upstream.requests();
    let seen = seen.last().unwrap();
    assert!(
        seen.contains(&format!("content-length: {}\r\n", longer.len())) && seen.ends_with(longer),
        "{seen}"
    );
    // The first piece is on its way, with the length, before the plug-in changes the second one.
    let mut client = RawClient::connect(gateway.address()).unwrap();
    client.send(b"POST /y HTTP/1.1\r\nhost: a\r\nx-edge: grow-body\r\ncontent-length: 6\r\n\r\nabc").unwrap();
    let stat = format!("cluster.{}.upstream_rq_total: 2", "outbound|8000||httpbin.default.svc.cluster.local");
    let sent = || gateway.admin_get("/stats").unwrap().text().contains(&stat).then_some(());
    wait_until(Instant::now() + PATIENCE, sent).unwrap();
    client.send(b"def").unwrap();
    assert!(client.answer(false).is_err(), "the stream is reset");
    assert!(
        upstream.requests().iter().all(|r| !(r.contains("POST /y") && r.contains("longer"))),
        "{:?}",
        upstream.requests()
    );
    assert_eq!(order(&gateway, "").text(), "fine");
}

#[test]
fn edits_take_effect_where_they_can() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(
        &upstream,
        "  pluginName: root\n  pluginConfig: {word: hello}\n  vmConfig: {env: [{name: EDGE, value: env-value}]}\n",
    );
    order(&gateway, "path");
    assert!(upstream.requests().last().unwrap().starts_with("GET /rewritten?by=edge HTTP/1.1\r\n"));
    let answer = order(&gateway, "response-header");
    assert_eq!((answer.header("x-edge-seen"), answer.header("server")), (Some("1"), Some("wasmgate")));
    let property = order(&gateway, "property").text();
    assert_eq!(
        property,
        "httpbin outbound|8000||httpbin.default.svc.cluster.local istio-system.edge env-value {\"word\":\"hello\"}"
    );
    assert_eq!(order(&gateway, "set-property").text(), "kept");
    let rechunked = order(&gateway, "rechunk");
    assert_eq!(
        (rechunked.header("transfer-encoding"), rechunked.text().as_str()),
        (Some("chunked"), "a body of another length")
    );
    assert_eq!(order(&gateway, "replace-response").text(), "replaced");
    assert_eq!(order(&gateway, "drop-status").status, 502);
    let big = request("POST", "/x", &[("x-edge", "buffer-body")], &"z".repeat(300_000));
    assert_eq!(once(gateway.address(), &big).unwrap().text(), "300000 bytes");
    let too_big = request("POST", "/x", &[("x-edge", "buffer-body")], &"z".repeat(1_200_000));
    let refused = once(gateway.address(), &too_big).unwrap();
    assert_eq!((refused.status, refused.text().as_str()), (413, "Payload Too Large"));
    order(&gateway, "say-end");
    gateway.wait_for_log("edge sees the end of /x?y=1").unwrap();
}

#[test]
fn a_plug_in_that_fails_on_an_answer_of_the_proxy_itself_does_not_hold_it() {
    let upstream = Upstream::start(Behaviour::Close).unwrap();
    let gateway = gateway(&upstream, "");
    let failed = order(&gateway, "response:panic");
    assert_eq!((failed.status, failed.text().as_str()), (503, ""));
    let replaced = order(&gateway, "replace-response");
    assert_eq!((replaced.status, replaced.text().as_str()), (511, "replaced"));
    // Nothing of the answer was sent yet when its body failed: it is replaced whole.
    let failed = order(&gateway, "response-body:panic");
    assert_eq!((failed.status, failed.text().as_str()), (503, ""));
    let plain = order(&gateway, "");
    assert!(plain.text().contains("connection termination"), "{}", plain.text());
}

#[test]
fn a_stream_that_nothing_moves_is_ended() {
    let upstream = Upstream::ok("fine").unwrap();
    let url = format!("file://{}", plugins::edge().display());
    let gateway = GatewayBuilder::new(PROGRAM)
        .backend(upstream.address())
        .manifest("plugin.yaml", plugin(&url, ""))
        .argument("--stream-idle-timeout")
        .argument("1")
        .run()
        .unwrap();
    let paused = order(&gateway, "pause");
    assert_eq!((paused.status, paused.text().as_str()), (504, "stream timeout"));
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    gateway.write("backend.yaml", &manifests::service_entry(silent.local_addr().unwrap())).unwrap();
    gateway.wait_for_answer("/", &[], |a| a.status == 504).unwrap();
    let half = b"POST / HTTP/1.1\r\nHost: a\r\nx-edge: buffer-body\r\nContent-Length: 100\r\n\r\nx";
    assert_eq!(once(gateway.address(), half).unwrap().status, 504);
}

#[test]
fn a_client_that_reads_nothing_is_given_up() {
    // More than any buffer holds.
    let upstream = Upstream::ok(&"x".repeat(24 << 20)).unwrap();
    let gateway = GatewayBuilder::new(PROGRAM)
        .backend(upstream.address())
        .argument("--stream-idle-timeout")
        .argument("1")
        .run()
        .unwrap();
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let line = wait_until(Instant::now() + PATIENCE, || gateway.access_log().pop());
    let line = line.unwrap_or_else(|| panic!("no access log: {}", gateway.log()));
    assert!(line.contains("\"path\":\"/large\"") && line.contains("\"response_flags\":\"SI\""), "{line}");
    // What it still gets is what the system has for it.
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
    assert!(rest.len() < 24 << 20, "{} bytes", rest.len());
}

#[test]
fn sigterm_ends_the_process_whatever_plug_ins_do() {
    let upstream = Upstream::ok("fine").unwrap();
    // A configure that never ends; the gateway itself is ready after the wait.
    let url = format!("file://{}", plugins::edge().display());
    let mut gateway = GatewayBuilder::new(PROGRAM)
        .backend(upstream.address())
        .manifest(
            "plugin.yaml",
            manifests::plugin(
                "edge",
                &url,
                "  failStrategy: FAIL_OPEN\n  pluginConfig: {mood: loop-at-start}\n",
            ),
        )
        .argument("--startup-wait")
        .argument("1")
        .run()
        .unwrap();
    assert_eq!(order(&gateway, "").text(), "fine");
    assert!(gateway.terminate().unwrap().success());
}

#[test]
fn a_request_that_an_endpoint_may_have_seen_is_not_sent_twice() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
    let upstream = Upstream::start(Behaviour::AnswerOnce(answer)).unwrap();
    let gateway = GatewayBuilder::new(PROGRAM).workers(1).backend(upstream.address()).run().unwrap();
    let charges = |method: &str| {
        assert_eq!(gateway.get("/", &[]).unwrap().status, 200);
        let before = upstream.requests().len();
        let status = once(gateway.address(), &request(method, "/charge", &[("content-length", "0")], ""))
            .unwrap()
            .status;
        (status, upstream.requests().len() - before)
    };
    assert_eq!(charges("POST"), (503, 1));
    assert_eq!(charges("GET"), (200, 2), "one that may be repeated is");
}

#[test]
fn an_empty_chunked_body_is_a_body() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, "");
    let bytes = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(once(gateway.address(), bytes).unwrap().text(), "fine");
}

#[test]
fn what_a_plug_in_adds_to_a_message_has_a_size() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, "");
    assert_eq!(order(&gateway, "huge-header").text(), "fine");
    assert!(upstream.requests().iter().all(|r| r.len() < 100_000), "the header was refused");
    gateway.wait_for_log("larger than a message may be").unwrap();
}

#[test]
fn a_plug_in_that_says_too_much_is_cut_off_and_counted() {
    let upstream =
        Upstream::start(Behaviour::Answer(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()))
            .unwrap();
    let url = format!("file://{}", plugins::edge().display());
    let gateway = GatewayBuilder::new(PROGRAM)
        .workers(1)
        .backend(upstream.address())
        .manifest("plugin.yaml", plugin(&url, ""))
        .argument("--plugin-log-limit=1")
        .run()
        .unwrap();
    // About 1 KiB each; 4 KiB may be said at once.
    let path = format!("/{}", "x".repeat(1000));
    let say = || assert_eq!(gateway.get(&path, &[("x-edge", "say-end")]).unwrap().status, 200);
    (0..20).for_each(|_| say());
    let said = |log: &str| log.matches("edge sees the end of").count();
    assert!((3..15).contains(&said(&gateway.log())), "{}", said(&gateway.log()));
    std::thread::sleep(Duration::from_millis(1500));
    say();
    gateway.wait_for_log("log lines were left out, it logs more than it may").unwrap();
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once_and_the_others_go_on() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = GatewayBuilder::new(PROGRAM)
        .workers(1)
        .backend(upstream.address())
        .argument("--max-connections=3")
        .run()
        .unwrap();
    let get = request("GET", "/", &[], "");
    let mut open: Vec<RawClient> = (0..3).map(|_| RawClient::connect(gateway.address()).unwrap()).collect();
    for client in &mut open {
        assert_eq!(client.request(&get).unwrap().status, 200);
    }
    for _ in 0..5 {
        let mut refused = RawClient::connect(gateway.address()).unwrap();
        assert!(refused.request(&get).is_err());
    }
    gateway.wait_for_log("3 connections are open, no more are let in on").unwrap();
    for client in &mut open {
        assert_eq!(client.request(&get).unwrap().status, 200);
    }
    open.pop();
    let served = wait_until(Instant::now() + PATIENCE, || {
        RawClient::connect(gateway.address()).ok()?.request(&get).ok()
    });
    assert_eq!(served.unwrap().status, 200);
    let stats = gateway.admin_get("/stats").unwrap().text();
    assert!(!stats.contains("http.downstream_cx_overload_reject: 0\n"), "{stats}");
}
