//! The same plug-in and requests through real Envoy and through us: what a client and an endpoint see is compared, byte
//! for byte but for `server`, `date` and ids.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::net::SocketAddr;
use std::path::Path;

use wasmgate_testkit::client::{RawAnswer, RawClient, http2, request};
use wasmgate_testkit::gateway::{GatewayBuilder, RunningGateway};
use wasmgate_testkit::peers::envoy::{Envoy, EnvoyOptions};
use wasmgate_testkit::peers::envoy_config::{EnvoyConfig, WasmFilter};
use wasmgate_testkit::peers::{envoy_install, ports};
use wasmgate_testkit::upstream::{Behaviour, Upstream};
use wasmgate_testkit::{manifests, plugins};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");

/// Both gateways in front of one endpoint, with one plug-in.
struct Pair {
    envoy: Envoy,
    ours: RunningGateway,
}

impl Pair {
    fn start(upstream: SocketAddr, plugin: Option<&Path>) -> Self {
        let binary = envoy_install::install(&plugins::repository().join("target/peers")).unwrap();
        let mut config = EnvoyConfig::new(ports::free_port().unwrap(), ports::free_port().unwrap(), upstream);
        config.server_name = "wasmgate".to_owned();
        config.wasm_filters =
            plugin.iter().map(|module| WasmFilter::new("istio-system.x", *module)).collect();
        let envoy = Envoy::start(&EnvoyOptions::new(binary, config)).unwrap();
        let mut builder = GatewayBuilder::new(PROGRAM).backend(upstream);
        if let Some(module) = plugin {
            let url = format!("file://{}", module.display());
            builder = builder.manifest("plugin.yaml", manifests::plugin("x", &url, "  phase: AUTHN\n"));
        }
        Self { envoy, ours: builder.run().unwrap() }
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        [self.envoy.listener(), self.ours.address()]
    }

    /// Sends the same bytes to both and compares the answers.
    fn compare(&self, name: &str, bytes: &[u8]) -> RawAnswer {
        let [envoy, ours] = self.addresses().map(|address| {
            let mut client = RawClient::connect(address).unwrap();
            client.request(bytes).unwrap_or_else(|e| panic!("{name}: {address}: {e}"))
        });
        assert_eq!(comparable(&ours.head), comparable(&envoy.head), "{name}");
        assert_eq!(ours.text(), envoy.text(), "{name}");
        ours
    }
}

/// A head without what may differ: the time, and how long the endpoint took.
fn comparable(head: &str) -> Vec<String> {
    head.lines()
        .map(|line| match line.split_once(": ") {
            Some((name @ ("date" | "x-envoy-upstream-service-time"), _)) => format!("{name}: …"),
            _ => line.to_owned(),
        })
        .collect()
}

const TEAPOT: &[u8] = b"HTTP/1.1 418 I'M A TEAPOT\r\nServer: gunicorn/19.9.0\r\nDate: Sun, 22 Nov 2026 07:29:20 GMT\r\nConnection: keep-alive\r\nX-More-Info: http://tools.ietf.org/html/rfc2324\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 5\r\n\r\nshort";

#[test]
fn the_header_check_answers_as_on_envoy() {
    let upstream = Upstream::start(Behaviour::Answer(TEAPOT.to_vec())).unwrap();
    for module in [plugins::header_authorization_go(), plugins::header_authorization_rust()] {
        let pair = Pair::start(upstream.address(), Some(module));
        for (name, headers) in [
            ("deny", &[][..]),
            ("allow", &[("allow", "true")]),
            ("false", &[("allow", "false")]),
            ("TRUE", &[("allow", "TRUE")]),
            ("upper-case name", &[("ALLOW", "true")]),
            ("twice", &[("allow", "true"), ("allow", "true")]),
            ("first counts", &[("allow", "no"), ("allow", "true")]),
            ("empty", &[("allow", "")]),
            ("spaces", &[("allow", "   true  ")]),
            ("close", &[("connection", "close")]),
            ("close, allowed", &[("connection", "close"), ("allow", "true")]),
        ] {
            pair.compare(name, &request("GET", "/status/418", headers, ""));
        }
        pair.compare("HEAD", &request("HEAD", "/status/418", &[], ""));
        pair.compare("POST, denied", &request("POST", "/post", &[], "hello=world"));
        pair.compare("POST, allowed", &request("POST", "/post", &[("allow", "true")], "hello=world"));
        pair.compare("HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\n\r\n");
        pair.compare("no host", b"GET / HTTP/1.1\r\n\r\n");
        for headers in [&[][..], &[("allow", "true")]] {
            let [envoy, ours] = pair.addresses().map(|address| {
                let mut answer = http2(address, "/status/418", headers).unwrap();
                answer
                    .headers
                    .iter_mut()
                    .filter(|(n, _)| n == "date" || n == "x-envoy-upstream-service-time")
                    .for_each(|h| h.1 = String::new());
                answer
            });
            assert_eq!(ours, envoy, "HTTP/2");
        }
    }
}

#[test]
fn the_endpoint_gets_what_envoy_would_send() {
    let upstream = Upstream::ok("x").unwrap();
    let pair = Pair::start(upstream.address(), None);
    for (name, bytes) in [
        ("plain", request("GET", "/a?b=c", &[("x-a", "1"), ("x-a", "2")], "")),
        ("hop-by-hop", request("GET", "/", &[("connection", "close, x-hop"), ("x-hop", "1"), ("keep-alive", "5"), ("te", "trailers")], "")),
        ("forwarded", request("GET", "/", &[("x-forwarded-for", "1.2.3.4"), ("x-request-id", "mine"), ("x-forwarded-proto", "https")], "")),
        ("dots", request("GET", "/a/../b/./c", &[], "")),
        ("body", request("POST", "/", &[("content-type", "text/plain")], "hello")),
        ("chunks", b"POST / HTTP/1.1\r\nHost: test.example\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec()),
        ("empty body", b"POST / HTTP/1.1\r\nHost: test.example\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ("expect", request("POST", "/", &[("x-b", "1")], "hi")),
    ] {
        let sent: Vec<Vec<String>> = pair
            .addresses()
            .into_iter()
            .map(|address| {
                RawClient::connect(address).unwrap().request(&bytes).unwrap();
                endpoint_view(upstream.requests().last().unwrap())
            })
            .collect();
        assert_eq!(sent[1], sent[0], "{name}");
    }
}

#[test]
fn paths_are_what_envoy_makes_of_them() {
    let upstream = Upstream::ok("x").unwrap();
    let pair = Pair::start(upstream.address(), None);
    let mut differ = Vec::new();
    // Not among them: a grave accent, which the HTTP library here refuses.
    for path in [
        "/%41",
        "/%7Euser",
        "/A%2DZ%5f",
        "/a%2Fb",
        "/a%2fb",
        "/a%5cb",
        "/a\\b",
        "/a\\..\\b",
        "/%2e%2e/x",
        "/a/%2E/b",
        "/a/..%2fb",
        "/a%20b",
        "/a%C3%A9",
        "/a//b",
        "/.",
        "/..",
        "/a/b/..",
        "/a/b/../",
        "/a;b=../c",
        "/%zz",
        "/%",
        "/a%2",
        "/%00",
        "/a%0d%0ab",
        "/a?x=%41/../y",
        "/a%3Fb",
        "/a%23b",
        "/a|b",
        "/{x}",
        "/a^b",
        "/[x]",
        "/a\"b",
        "/%c0%ae%c0%ae/x",
        "/%252e%252e/x",
        "/x/%2e%2E/%41",
        "/%6%66/%%36f",
        "/%2%65%2%65/x",
        "*",
        "//",
        "///a",
        "/a/./../b/%2e",
    ] {
        let [envoy, ours] = pair.addresses().map(|address| {
            let before = upstream.requests().len();
            let answer = RawClient::connect(address)
                .and_then(|mut client| client.request(&request("GET", path, &[], "")))
                .map_or(0, |answer| answer.status);
            let sent =
                upstream.requests().get(before).map(|r| r.lines().next().unwrap_or_default().to_owned());
            format!("{answer} {}", sent.unwrap_or_default())
        });
        if ours != envoy {
            differ.push(format!("{path}: envoy {envoy}, ours {ours}"));
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
}

/// A request without what must differ: ids, and the peer's address (Envoy takes the machine's own for loopback). The
/// order of headers is the library's where one was removed; their values are compared.
fn endpoint_view(request: &str) -> Vec<String> {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let first = lines.next().unwrap().to_owned();
    let mut headers: Vec<String> = lines
        .map(|line| match line.split_once(": ") {
            Some(("x-request-id", id)) => format!("x-request-id: {} characters", id.len()),
            Some(("x-forwarded-for", list)) => {
                format!("x-forwarded-for: {} entries", list.split(',').count())
            }
            _ => line.to_owned(),
        })
        .collect();
    headers.sort();
    [vec![first], headers, vec![body.to_owned()]].concat()
}

#[test]
fn answers_of_the_proxy_itself_are_envoys() {
    // Nobody listens here any more.
    let gone = SocketAddr::from(([127, 0, 0, 1], ports::free_port().unwrap()));
    Pair::start(gone, None).compare("refused", &request("GET", "/", &[], ""));
    let closes = Upstream::start(Behaviour::Close).unwrap();
    Pair::start(closes.address(), None).compare("closes", &request("GET", "/", &[], ""));
    let edge = plugins::edge();
    let upstream = Upstream::ok("fine").unwrap();
    let pair = Pair::start(upstream.address(), Some(edge));
    for order in ["", "inject-request-not", "replace-response", "path", "property-not", "response-header"] {
        pair.compare(order, &request("GET", "/x", &[("x-edge", order)], ""));
    }
    // Last: Envoy never recovers from it.
    pair.compare("panic", &request("GET", "/x", &[("x-edge", "request:panic")], ""));
}

#[test]
fn every_status_has_envoys_reason_phrase() {
    let statuses: Vec<u16> = (200..=599).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let backend = runtime.block_on(wasmgate_sandbox::Backend::start(([127, 0, 0, 1], 0).into())).unwrap();
    let pair = Pair::start(backend.address(), None);
    let [mut envoy, mut ours] = pair.addresses().map(|a| RawClient::connect(a).unwrap());
    let mut different = Vec::new();
    for status in statuses {
        let bytes = request("GET", &format!("/status/{status}"), &[], "");
        let line =
            |client: &mut RawClient| client.request(&bytes).unwrap().head.lines().next().unwrap().to_owned();
        let (ours, envoy) = (line(&mut ours), line(&mut envoy));
        if ours != envoy {
            different.push((ours, envoy));
        }
    }
    assert_eq!(different, []);
}
