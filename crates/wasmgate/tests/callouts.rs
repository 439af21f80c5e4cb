//! What plug-ins do beyond the stream at hand: call-outs, timers, shared data and queues, metrics, foreign functions.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::net::SocketAddr;
use std::time::Instant;

use wasmgate_testkit::client::{RawClient, http2, once, request};
use wasmgate_testkit::gateway::{GatewayBuilder, PATIENCE, RunningGateway};
use wasmgate_testkit::grpc::GrpcServer;
use wasmgate_testkit::peers::process::wait_until;
use wasmgate_testkit::upstream::{Behaviour, Upstream};
use wasmgate_testkit::{manifests, plugins};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");

fn response(status: &str, body: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nx-auth: yes\r\n\r\n{body}", body.len()))
}

/// An authorisation service that knows some paths.
fn auth() -> Upstream {
    let answer = |request: &str| match request.split(' ').nth(1).unwrap() {
        "/auth" => response("200 OK", "alice"),
        "/deny" => response("401 Unauthorized", "who are you"),
        "/slow" => None,
        "/half" => Some("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_owned()),
        "/chunked" => Some(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nali\r\n2\r\nce\r\n0\r\n\r\n"
                .to_owned(),
        ),
        "/nothing" => Some("HTTP/1.1 204 No Content\r\n\r\n".to_owned()),
        path => response("200 OK", path),
    };
    Upstream::start(Behaviour::Script(answer)).unwrap()
}

fn gateway(upstream: &Upstream, auth: Option<SocketAddr>, spec: &str) -> RunningGateway {
    let url = format!("file://{}", plugins::caller().display());
    GatewayBuilder::new(PROGRAM)
        .workers(1)
        .backend(upstream.address())
        .manifest("auth.yaml", manifests::auth_service(auth))
        .manifest("plugin.yaml", manifests::plugin("caller", &url, spec))
        .run()
        .unwrap()
}

fn order(gateway: &RunningGateway, headers: &[(&str, &str)]) -> (u16, String) {
    let answer = gateway.get("/x", headers).unwrap();
    (answer.status, answer.text())
}

#[test]
fn a_request_waits_for_an_authorisation_and_goes_on_with_what_it_said() {
    let (upstream, auth) = (Upstream::ok("fine").unwrap(), auth());
    let gateway = gateway(&upstream, Some(auth.address()), "");
    let call = ("x-call", "auth");
    assert_eq!(order(&gateway, &[call]), (200, "fine".to_owned()));
    assert!(upstream.requests().last().unwrap().contains("x-user: alice\r\n"));
    let asked = auth.requests().pop().unwrap();
    assert_eq!(
        asked, "POST /auth HTTP/1.1\r\nhost: auth.test\r\nx-from: caller\r\ncontent-length: 3\r\n\r\nask",
        "nothing is added to what the plug-in sends"
    );
    assert_eq!(
        order(&gateway, &[call, ("x-auth-path", "/deny")]),
        (403, "auth says 401 who are you".to_owned())
    );
    assert_eq!(upstream.requests().len(), 1, "what is denied goes nowhere");
    // Over HTTP/2 as well, and with a body that waits meanwhile.
    let answer = http2(gateway.address(), "/h2", &[call]).unwrap();
    assert_eq!(answer.status, 200);
    let post = request("POST", "/body", &[("x-call", "auth-body")], "a body");
    assert_eq!(once(gateway.address(), &post).unwrap().text(), "fine");
    let seen = upstream.requests().pop().unwrap();
    assert!(seen.contains("x-user: alice") && seen.ends_with("a body"), "{seen}");
    // And a response that waits.
    let answer = gateway.get("/", &[("x-call", "response")]).unwrap();
    assert_eq!((answer.header("x-called"), answer.text().as_str()), (Some("200"), "fine"));
}

#[test]
fn answers_of_every_form_arrive_and_failures_look_as_on_envoy() {
    let (upstream, auth) = (Upstream::ok("fine").unwrap(), auth());
    let gateway = gateway(&upstream, Some(auth.address()), "");
    let show = |path: &str| order(&gateway, &[("x-call", "show"), ("x-auth-path", path)]).1;
    assert_eq!(show("/chunked"), "200 1 5 alice");
    assert_eq!(show("/nothing"), "204 1 0 ");
    assert_eq!(order(&gateway, &[("x-call", "slow")]).1, "504 3 24 upstream request timeout");
    assert_eq!(order(&gateway, &[("x-call", "many")]).1, "10 answers");
    assert_eq!(order(&gateway, &[("x-call", "unknown")]).1, "Err(BadArgument)");
    gateway.wait_for_log("there is no cluster \"no-such-cluster\"").unwrap();
    let closing = Upstream::start(Behaviour::Close).unwrap();
    gateway.write("auth.yaml", &manifests::auth_service(Some(closing.address()))).unwrap();
    let reset = "503 3 95 upstream connect error or disconnect/reset before headers. reset reason: connection termination";
    wait_until(Instant::now() + PATIENCE, || (show("/auth") == reset).then_some(())).unwrap();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    gateway.write("auth.yaml", &manifests::auth_service(Some(gone))).unwrap();
    wait_until(Instant::now() + PATIENCE, || {
        show("/auth").contains("remote connection failure").then_some(())
    })
    .unwrap();
    // Without an endpoint the call is refused at once.
    gateway.write("auth.yaml", &manifests::auth_service(None)).unwrap();
    wait_until(Instant::now() + PATIENCE, || show("/auth").contains("InternalFailure").then_some(()))
        .unwrap();
    assert_eq!(gateway.plugin("istio-system.caller").unwrap()["faults"]["total"], 0);
}

#[test]
fn an_answer_that_breaks_off_is_a_failed_call() {
    let upstream = Upstream::ok("fine").unwrap();
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    let auth = Upstream::start(Behaviour::AnswerAndClose(half.as_bytes().to_vec())).unwrap();
    let gateway = gateway(&upstream, Some(auth.address()), "");
    assert_eq!(order(&gateway, &[("x-call", "show")]).1, " 0 0 ");
}

#[test]
fn a_panic_in_an_answer_costs_the_streams_of_its_vm_that_wait_and_no_others() {
    let (upstream, auth) = (Upstream::ok("fine").unwrap(), auth());
    let gateway = gateway(&upstream, Some(auth.address()), "");
    // One waits for an answer that never comes, on the VM that is going to fail.
    let mut waiting = RawClient::connect(gateway.address()).unwrap();
    let slow = request("GET", "/", &[("x-call", "auth"), ("x-auth-path", "/slow")], "");
    waiting.send(&slow).unwrap();
    wait_until(Instant::now() + PATIENCE, || {
        auth.requests().iter().any(|r| r.contains("/slow")).then_some(())
    })
    .unwrap();
    assert_eq!(order(&gateway, &[("x-call", "panic")]).0, 503);
    assert_eq!(waiting.answer(false).unwrap().status, 503, "at once: nothing could resume it");
    assert_eq!(order(&gateway, &[("x-call", "auth")]), (200, "fine".to_owned()));
    assert_eq!(gateway.plugin("istio-system.caller").unwrap()["faults"]["by_reason"]["trap"], 1);
    let stats = gateway.admin_get("/stats").unwrap().text();
    for details in ["wasm_fail_stream", "wasm_vm_failed"] {
        assert!(stats.contains(&format!("http.local_reply.{details}: 1")), "{stats}");
    }
}

#[test]
fn an_optional_plug_in_that_fails_lets_what_it_held_go() {
    let (upstream, auth) = (Upstream::ok("fine").unwrap(), auth());
    let gateway = gateway(&upstream, Some(auth.address()), "  failStrategy: FAIL_OPEN\n");
    let mut waiting = RawClient::connect(gateway.address()).unwrap();
    waiting.send(&request("GET", "/", &[("x-call", "auth"), ("x-auth-path", "/slow")], "")).unwrap();
    wait_until(Instant::now() + PATIENCE, || {
        auth.requests().iter().any(|r| r.contains("/slow")).then_some(())
    })
    .unwrap();
    assert_eq!(order(&gateway, &[("x-call", "panic")]), (200, "fine".to_owned()));
    assert_eq!(waiting.answer(false).unwrap().text(), "fine");
}

#[test]
fn a_timer_resumes_streams_and_a_client_that_left_is_no_danger() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, None, "  pluginConfig: {do: tick}\n");
    let mut leaves = RawClient::connect(gateway.address()).unwrap();
    leaves.send(&request("GET", "/gone", &[("x-call", "tick")], "")).unwrap();
    drop(leaves);
    assert_eq!(order(&gateway, &[("x-call", "tick")]), (200, "fine".to_owned()));
    assert!(upstream.requests().last().unwrap().contains("x-ticked: yes\r\n"));
    assert_eq!(gateway.plugin("istio-system.caller").unwrap()["faults"]["total"], 0);
}

#[test]
fn shared_data_counts_over_all_workers() {
    let upstream = Upstream::ok("fine").unwrap();
    let url = format!("file://{}", plugins::caller().display());
    let gateway = GatewayBuilder::new(PROGRAM)
        .workers(2)
        .backend(upstream.address())
        .manifest("plugin.yaml", manifests::plugin("caller", &url, ""))
        .run()
        .unwrap();
    let mut counts: Vec<u32> =
        (0..20).map(|_| order(&gateway, &[("x-call", "count")]).1.parse().unwrap()).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=20).collect::<Vec<_>>());
}

#[test]
fn a_queue_tells_the_vm_that_registered_last() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, None, "  pluginConfig: {do: queue}\n");
    assert_eq!(order(&gateway, &[("x-call", "enqueue")]).1, "queued");
    gateway.wait_for_log("queue gave an item").unwrap();
}

#[test]
fn metrics_are_shown_under_their_names() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, None, "");
    assert_eq!(order(&gateway, &[("x-call", "metric")]).1, "3");
    assert_eq!(order(&gateway, &[("x-call", "metric")]).1, "6");
    let stats = gateway.admin_get("/stats?filter=wasmcustom").unwrap().text();
    assert_eq!(
        stats,
        "wasmcustom.caller-level: -4\nwasmcustom.caller.requests: 6\nwasmcustom.caller.size: count=2 sum=80\n"
    );
    let shown = gateway.admin_get("/stats/prometheus").unwrap().text();
    for line in [
        "\ncaller_requests 6\n",
        "\ncaller_level -4\n",
        "\ncaller_size_sum 80.0\n",
        "\ncaller_size_bucket{le=\"50.0\"} 2\n",
        "\ncaller_size_bucket{le=\"+Inf\"} 2\n",
    ] {
        assert!(shown.contains(line), "{line:?} in {shown}");
    }
}

#[test]
fn foreign_functions_compress_and_evaluate() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, None, "");
    assert_eq!(order(&gateway, &[("x-call", "foreign")]).1, "true 2000 Ok(Some([1]))");
}

#[test]
fn grpc_calls_and_streams() {
    let upstream = Upstream::ok("fine").unwrap();
    let server = GrpcServer::start().unwrap();
    let gateway = gateway(&upstream, Some(server.address()), "");
    assert_eq!(order(&gateway, &[("x-call", "grpc")]).1, "grpc 0 hello");
    let seen = server.requests().pop().unwrap();
    assert_eq!(
        (&seen["x-meta"], &seen["te"], &seen["grpc-timeout"]),
        (&"m".parse().unwrap(), &"trailers".parse().unwrap(), &"5000m".parse().unwrap())
    );
    assert_eq!(order(&gateway, &[("x-call", "grpc-fail")]).1, "grpc 5 no such method");
    assert_eq!(order(&gateway, &[("x-call", "grpc-stream")]).1, "stream ended with 0 after 2");
    assert_eq!(gateway.plugin("istio-system.caller").unwrap()["faults"]["total"], 0);
}

#[test]
fn a_call_while_configuring_is_made_by_the_vm_that_serves() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, None, "  pluginConfig: {do: call}\n");
    gateway.wait_for_log("root call answered 200").unwrap();
    assert_eq!(
        upstream.requests().iter().filter(|r| r.starts_with("GET /configure ")).count(),
        1,
        "spares wait"
    );
}

#[test]
fn a_plug_in_that_is_replaced_finishes_what_it_has_to() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, None, "  pluginConfig: {do: last-words}\n");
    assert_eq!(order(&gateway, &[]).1, "fine");
    let url = format!("file://{}", plugins::caller().display());
    gateway
        .write("plugin.yaml", &manifests::plugin("caller", &url, "  pluginConfig: {do: nothing}\n"))
        .unwrap();
    gateway.wait_for_log("root is told to end, last call: Ok(").unwrap();
    gateway.wait_for_log("root is done").unwrap();
    wait_until(Instant::now() + PATIENCE, || {
        upstream.requests().iter().any(|r| r.starts_with("POST /last-words ")).then_some(())
    })
    .unwrap();
}

#[test]
fn trailers_and_pieces_of_its_own() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, None, "");
    let answer = http2(gateway.address(), "/", &[("x-call", "trailers")]).unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"fine"[..]));
    assert_eq!(answer.trailers, [("x-trailer".to_owned(), "added".to_owned())]);
    let text = order(&gateway, &[("x-call", "inject")]).1;
    assert!(text.ends_with("injected"), "{text}");
}

#[test]
fn a_plug_in_chooses_among_the_endpoints_of_the_cluster_and_no_others() {
    let endpoints = [Upstream::ok("first").unwrap(), Upstream::ok("second").unwrap()];
    let stranger = Upstream::ok("stranger").unwrap();
    let gateway = gateway(&endpoints[0], None, "");
    let [a, b] = endpoints.each_ref().map(Upstream::address);
    let entry = manifests::service_entry(a).replace(
        "  endpoints: [{address: 127.0.0.1}]",
        &format!(
            "  endpoints: [{{address: 127.0.0.1, ports: {{http: {}}}}}, {{address: 127.0.0.1, ports: {{http: {}}}}}]",
            a.port(),
            b.port()
        ),
    );
    gateway.write("backend.yaml", &entry).unwrap();
    gateway.wait_for_answer("/", &[], |answer| answer.text() == "second").unwrap();
    let pin = |address: SocketAddr| order(&gateway, &[("x-call", "pin"), ("x-pin", &address.to_string())]).1;
    for _ in 0..5 {
        assert_eq!((pin(a), pin(b)), ("first".to_owned(), "second".to_owned()));
    }
    let seen = endpoints[1].requests();
    assert!(seen.last().unwrap().contains("x-known: yes"), "{seen:?}");
    assert_ne!(pin(stranger.address()), "stranger");
    assert_ne!(order(&gateway, &[("x-call", "pin"), ("x-pin", "nonsense")]).1, "");
    gateway.wait_for_log("upstream override refused").unwrap();
}

#[test]
fn a_plug_in_raises_its_body_limit_and_keeps_its_route() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, None, "");
    let post = |limit: &str, size: usize| {
        let (headers, body) = ([("x-call", "big-body"), ("x-limit", limit)], "x".repeat(size));
        once(gateway.address(), &request("POST", "/x", &headers, &body)).unwrap().status
    };
    assert_eq!(post("nonsense", 2_000_000), 413, "over 1 MiB");
    assert_eq!(post("3000000", 2_000_000), 200);
    assert_eq!(post("3000000", 3_100_000), 413, "over what it asked for");
    assert_eq!(post("0", 2_000_000), 200, "as far as it may");
    let name = "  - name: httpbin\n";
    let only_x = manifests::route()
        .replace(name, &format!("{name}    matches: [{{path: {{type: PathPrefix, value: /x}}}}]\n"));
    gateway.write("route.yaml", &only_x).unwrap();
    gateway.wait_for_answer("/other", &[], |answer| answer.status == 404).unwrap();
    assert_eq!(order(&gateway, &[("x-call", "change-route")]).0, 404);
    assert_eq!(order(&gateway, &[("x-call", "keep-route")]), (200, "fine".to_owned()));
    assert!(upstream.requests().last().unwrap().starts_with("GET /nowhere "));
    let memory: u64 = order(&gateway, &[("x-call", "memory")]).1.parse().unwrap();
    assert!(memory > 1 << 20 && memory.is_multiple_of(65536), "{memory}");
}
