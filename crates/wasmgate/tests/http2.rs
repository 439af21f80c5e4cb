//! Endpoints that speak HTTP/2: streams, trailers, gRPC, and what goes wrong with connections that are shared.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::net::SocketAddr;
use std::time::Instant;

use wasmgate_testkit::client::{RawClient, request};
use wasmgate_testkit::gateway::{GatewayBuilder, PATIENCE};
use wasmgate_testkit::grpc::GrpcServer;
use wasmgate_testkit::http2::{Http2Client, Http2Endpoint};
use wasmgate_testkit::peers::process::wait_until;
use wasmgate_testkit::upstream::{Behaviour, Upstream};
use wasmgate_testkit::{manifests, plugins};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");

/// A gateway before an endpoint that speaks HTTP/2.
fn gateway(endpoint: SocketAddr, protocol: &str) -> GatewayBuilder {
    let entry =
        manifests::service_entry(endpoint).replace("protocol: HTTP", &format!("protocol: {protocol}"));
    GatewayBuilder::new(PROGRAM)
        .workers(1)
        .manifest("route.yaml", manifests::route())
        .manifest("backend.yaml", entry)
}

#[test]
fn streams_bodies_and_trailers_go_through() {
    let endpoint = Http2Endpoint::start().unwrap();
    let gateway = gateway(endpoint.address(), "HTTP2").run().unwrap();
    let client = Http2Client::connect(gateway.address()).unwrap();
    // Both directions at the same time: an answer to each piece before the next one is sent.
    let mut exchange = client.begin("POST", "/chat", &[("te", "trailers"), ("connection-x", "1")]).unwrap();
    exchange.send("one");
    let (head, mut body) = exchange.head().unwrap();
    assert_eq!(
        (head.status().as_u16(), &head.headers()["x-request"]),
        (200, &http::HeaderValue::from_static("POST /chat test.example"))
    );
    assert_eq!(head.headers()["x-seen"], "trailers");
    assert_eq!(body.piece().unwrap().unwrap(), "one");
    drop(body);
    let mut exchange = client.begin("POST", "/chat", &[("te", "trailers")]).unwrap();
    let large = vec![b'x'; 3 << 20];
    exchange.send(large.clone());
    exchange.send_trailers("x-checksum", "abc");
    let (_, body) = exchange.head().unwrap();
    let (whole, trailers) = body.rest().unwrap();
    assert!(whole == large, "{} of {} bytes", whole.len(), large.len());
    assert_eq!(trailers["x-checksum"], "abc");
    // Many streams, one connection.
    let mut exchanges: Vec<_> = (0..50).map(|_| client.begin("POST", "/many", &[]).unwrap()).collect();
    for (i, exchange) in exchanges.iter_mut().enumerate() {
        exchange.send(i.to_string());
        exchange.end();
    }
    for (i, exchange) in exchanges.iter_mut().enumerate() {
        assert_eq!(exchange.head().unwrap().1.rest().unwrap().0, i.to_string().into_bytes());
    }
    assert_eq!(endpoint.connections(), 1);
    let stats = gateway.admin_get("/stats").unwrap().text();
    assert!(stats.contains("httpbin.default.svc.cluster.local.upstream_cx_total: 1\n"), "{stats}");
}

#[test]
fn clients_that_speak_http1_get_what_they_understand() {
    let endpoint = Http2Endpoint::start().unwrap();
    let gateway = gateway(endpoint.address(), "HTTP2").run().unwrap();
    let mut client = RawClient::connect(gateway.address()).unwrap();
    for text in ["", "a body"] {
        let answer =
            client.request(&request("POST", "/x", &[("X-A", "seen"), ("Keep-Alive", "5")], text)).unwrap();
        assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", answer.head);
        assert_eq!((answer.text().as_str(), answer.header("x-seen")), (text, Some("seen")));
        assert_eq!(answer.header("x-request"), Some("POST /x test.example"));
    }
    let line = wait_until(Instant::now() + PATIENCE, || gateway.access_log().pop()).unwrap();
    assert!(line.contains(&format!("\"upstream_host\":\"{}\"", endpoint.address())), "{line}");
}

#[test]
fn a_connection_that_the_endpoint_closes_costs_no_request() {
    let endpoint = Http2Endpoint::start().unwrap();
    let gateway = gateway(endpoint.address(), "HTTP2").run().unwrap();
    let client = Http2Client::connect(gateway.address()).unwrap();
    for round in 1..=5 {
        let mut exchange = client.begin("GET", "/close", &[]).unwrap();
        exchange.end();
        let (head, body) = exchange.head().unwrap();
        assert_eq!(head.status().as_u16(), 200, "round {round}");
        body.rest().unwrap();
    }
    assert!(endpoint.connections() > 1);
    // One that it breaks off is broken off for the client, and the next one is served.
    let mut exchange = client.begin("GET", "/reset", &[]).unwrap();
    exchange.end();
    let (_, mut body) = exchange.head().unwrap();
    assert_eq!(body.piece().unwrap().unwrap(), "half");
    let mut exchange = client.begin("GET", "/", &[]).unwrap();
    exchange.end();
    assert_eq!(exchange.head().unwrap().0.status().as_u16(), 200);
}

#[test]
fn an_endpoint_that_is_not_there_or_speaks_something_else_is_a_503() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = gateway(nobody, "HTTP2").run().unwrap();
    let answer = refused.get("/", &[]).unwrap();
    assert_eq!(
        (answer.status, answer.text().contains("connection failure")),
        (503, true),
        "{}",
        answer.text()
    );
    let http1 = wasmgate_testkit::upstream::Upstream::ok("fine").unwrap();
    let wrong = gateway(http1.address(), "HTTP2").run().unwrap();
    let answer = wrong.get("/", &[]).unwrap();
    assert!(matches!(answer.status, 502 | 503), "{}: {}", answer.status, answer.text());
}

#[test]
fn grpc_passes_with_a_plug_in_and_is_denied_in_its_own_words() {
    let server = GrpcServer::start().unwrap();
    let url = format!("file://{}", plugins::header_authorization_rust().display());
    let gateway = gateway(server.address(), "GRPC")
        .manifest("check.yaml", manifests::plugin("check", &url, "  phase: AUTHN\n"))
        .run()
        .unwrap();
    let client = Http2Client::connect(gateway.address()).unwrap();
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("allow", "true")];
    let mut exchange = client.begin("POST", "/test.Service/Echo", &headers).unwrap();
    exchange.send("\0\0\0\0\u{5}hello");
    exchange.end();
    let (head, body) = exchange.head().unwrap();
    let (whole, trailers) = body.rest().unwrap();
    assert_eq!(head.status().as_u16(), 200);
    assert_eq!(
        (whole.as_slice(), &trailers["grpc-status"]),
        (&b"\0\0\0\0\x05hello"[..], &http::HeaderValue::from_static("0"))
    );
    // A chat: each message is answered before the next.
    let mut exchange = client.begin("POST", "/test.Service/Chat", &headers).unwrap();
    exchange.send("\0\0\0\0\u{2}hi");
    let (_, mut body) = exchange.head().unwrap();
    assert_eq!(body.piece().unwrap().unwrap(), "\0\0\0\0\u{5}heard");
    drop(body);
    let mut exchange = client.begin("POST", "/test.Service/Echo", &headers[..2]).unwrap();
    exchange.end();
    let (head, _) = exchange.head().unwrap();
    assert_eq!(
        (head.status().as_u16(), &head.headers()["grpc-status"]),
        (200, &http::HeaderValue::from_static("7"))
    );
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn plug_ins_call_endpoints_that_speak_http2() {
    let endpoint = Http2Endpoint::start().unwrap();
    let script = "script call\nrequest_headers http_call outbound|8000||httpbin.default.svc.cluster.local :method=POST,:path=/call,:authority=a,x-a=1 ask 2000\nrequest_headers return 1\nhttp_call_response get 6 x-request\nhttp_call_response body 4 0 100\nhttp_call_response effective self\nhttp_call_response continue 0\n";
    let module = plugins::rust("conformance/plugins/script", "script");
    let config = serde_json::json!({ "script": script });
    let url = format!("file://{}", module.display());
    let spec = format!("  phase: AUTHN\n  pluginConfig: {config}\n");
    let gateway = gateway(endpoint.address(), "HTTP2")
        .manifest("script.yaml", manifests::plugin("script", &url, &spec))
        .run()
        .unwrap();
    for run in 1..=2 {
        let answer = gateway.get("/", &[("x-script", "call"), ("x-case", &format!("call.{run}"))]).unwrap();
        assert_eq!(answer.status, 200, "{}", gateway.log());
        let trace = format!("trace call.{run}: request_headers(1) http_call=0");
        gateway.wait_for_log(&trace).unwrap();
    }
    let log = gateway.log();
    assert!(
        log.contains("http_call_response(1,3,0) get=0:POST%20/call%20a body=0:ask effective=0 continue=0"),
        "{log}"
    );
    assert_eq!(endpoint.connections(), 1);
}

#[test]
fn a_client_that_leaves_ends_its_stream_at_the_endpoint() {
    let endpoint = Http2Endpoint::start().unwrap();
    let gateway = gateway(endpoint.address(), "HTTP2").run().unwrap();
    for _ in 0..3 {
        let client = Http2Client::connect(gateway.address()).unwrap();
        let mut exchange = client.begin("POST", "/chat", &[]).unwrap();
        exchange.send("one");
        let (_, mut body) = exchange.head().unwrap();
        assert_eq!(body.piece().unwrap().unwrap(), "one");
        drop(body);
    }
    let ended = wait_until(Instant::now() + PATIENCE, || (endpoint.active() == 0).then_some(()));
    assert!(ended.is_some(), "{} go on", endpoint.active());
}

#[test]
fn clients_that_do_not_read_keep_no_others_waiting() {
    let endpoint = Http2Endpoint::start().unwrap();
    let gateway = gateway(endpoint.address(), "HTTP2").run().unwrap();
    let mut slow: Vec<RawClient> = (0..10).map(|_| RawClient::connect(gateway.address()).unwrap()).collect();
    for client in &mut slow {
        client.send(&request("GET", "/large", &[], "")).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    for _ in 0..5 {
        assert_eq!(gateway.get("/", &[]).unwrap().status, 200);
    }
    assert_eq!(endpoint.connections(), 1);
}

#[test]
fn a_client_that_opens_no_window_is_given_up() {
    let large = format!("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{}", "x".repeat(1_000_000));
    let upstream = Upstream::start(Behaviour::Answer(large.into_bytes())).unwrap();
    let gateway = GatewayBuilder::new(PROGRAM)
        .workers(1)
        .backend(upstream.address())
        .argument("--stream-idle-timeout=1")
        .run()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
        let (client, connection) = h2::client::Builder::new()
            .initial_window_size(10)
            .handshake::<_, bytes::Bytes>(stream)
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let get = http::Request::get("http://test.example/").body(()).unwrap();
        let (answer, _) = client.ready().await.unwrap().send_request(get, true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        // The body is kept and not read: no window is opened.
        let ended = tokio::time::timeout(PATIENCE, connection).await;
        assert!(ended.is_ok(), "the connection goes on");
        drop(answer);
    });
    let line = wait_until(Instant::now() + PATIENCE, || gateway.access_log().pop());
    assert!(line.as_ref().is_some_and(|l| l.contains("\"response_flags\":\"SI\"")), "{line:?}");
}
