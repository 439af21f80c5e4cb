//! How the endpoints of a cluster are treated: who gets a request, what happens when one fails, and what connections
//! begin with.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

mod endpoints;
mod health;
mod limits;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wasmgate_testkit::client::{RawClient, request};
use wasmgate_testkit::dns::DnsServer;
use wasmgate_testkit::gateway::{GatewayBuilder, PATIENCE, RunningGateway};
use wasmgate_testkit::manifests;
use wasmgate_testkit::peers::ports::free_port;
use wasmgate_testkit::peers::process::wait_until;
use wasmgate_testkit::tls::Authority;
use wasmgate_testkit::tls_endpoint::TlsEndpoint;
use wasmgate_testkit::upstream::{Behaviour, Upstream};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");
const CLUSTER: &str = "outbound|8000||httpbin.default.svc.cluster.local";

/// The host of the route, at several endpoints; each may have more fields, as of a flow map.
fn entry(endpoints: &[(SocketAddr, &str)]) -> String {
    let item = |(address, more): &(SocketAddr, &str)| {
        format!("  - {{address: {}, ports: {{http: {}}}{more}}}\n", address.ip(), address.port())
    };
    let items: String = endpoints.iter().map(item).collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: httpbin, namespace: default}}\nspec:\n  hosts: [httpbin.default.svc.cluster.local]\n  resolution: STATIC\n  ports: [{{number: 8000, name: http, protocol: HTTP}}]\n  endpoints:\n{items}"
    )
}

/// A rule for it; `policy` is YAML in flow style.
fn rule(policy: &str) -> String {
    annotated_rule("{}", policy)
}

fn annotated_rule(annotations: &str, policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: httpbin, namespace: default, annotations: {annotations}}}\nspec:\n  host: httpbin.default.svc.cluster.local\n  trafficPolicy: {policy}\n"
    )
}

fn gateway(endpoints: &[SocketAddr], more: &[(&str, String)]) -> RunningGateway {
    let endpoints: Vec<_> = endpoints.iter().map(|address| (*address, "")).collect();
    built(&endpoints, more).run().unwrap()
}

fn built(endpoints: &[(SocketAddr, &str)], more: &[(&str, String)]) -> GatewayBuilder {
    let mut builder = GatewayBuilder::new(PROGRAM)
        .workers(1)
        .manifest("route.yaml", manifests::route())
        .manifest("backend.yaml", entry(endpoints));
    for (name, text) in more {
        builder = builder.manifest(name, text.clone());
    }
    builder
}

/// The route with further fields in its rule, YAML in flow style.
fn route_with(fields: &str) -> String {
    manifests::route().replace("    backendRefs:", &format!("    {fields}\n    backendRefs:"))
}

fn named(name: &str) -> Upstream {
    Upstream::ok(name).unwrap()
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()))
}

fn body(gateway: &RunningGateway, headers: &[(&str, &str)]) -> String {
    gateway.get("/", headers).unwrap().text()
}

/// Waits until the last line of the access log has a text.
fn wait_for_line(gateway: &RunningGateway, text: &str) {
    let found =
        wait_until(Instant::now() + PATIENCE, || gateway.access_log().pop().filter(|l| l.contains(text)));
    assert!(found.is_some(), "never {text}: {:?}", gateway.access_log().pop());
}

fn stat(gateway: &RunningGateway, name: &str) -> u64 {
    let stats = gateway.admin_get("/stats").unwrap().text();
    let prefix = format!("cluster.{CLUSTER}.{name}: ");
    stats.lines().find_map(|l| l.strip_prefix(&prefix)).unwrap().parse().unwrap()
}

#[test]
fn an_endpoint_that_is_not_there_costs_no_request() {
    let here = named("here");
    let gateway = gateway(&[nobody(), here.address()], &[]);
    for _ in 0..20 {
        assert_eq!(body(&gateway, &[]), "here");
        let post = request("POST", "/", &[("content-length", "4")], "abcd");
        let answer = RawClient::connect(gateway.address()).unwrap().request(&post).unwrap();
        assert_eq!(answer.text(), "here");
    }
    assert!(stat(&gateway, "upstream_rq_retry") > 0);
    assert_eq!(stat(&gateway, "upstream_rq_retry"), stat(&gateway, "upstream_rq_retry_success"));
    assert!(
        here.requests().iter().any(|r| r.contains("x-envoy-attempt-count: 1\r\n") && r.ends_with("abcd"))
    );
}

#[test]
fn when_all_attempts_fail_the_last_failure_is_the_answer() {
    let gateway = gateway(&[nobody(), nobody()], &[]);
    let answer = gateway.get("/", &[]).unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.text().ends_with("reset reason: remote connection failure"), "{}", answer.text());
    wait_for_line(&gateway, "\"response_flags\":\"UF,URX\"");
    assert_eq!(stat(&gateway, "upstream_rq_retry"), 2);
    assert_eq!(stat(&gateway, "upstream_cx_connect_fail"), 3);
}

#[test]
fn answers_that_are_not_good_enough_are_asked_for_again_with_the_body() {
    let bad = Upstream::start(Behaviour::Answer(
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nbad".to_vec(),
    ));
    let (bad, good) = (bad.unwrap(), named("good"));
    let retry = route_with("retry: {attempts: 3, codes: [503], backoff: 1ms}");
    let gateway = gateway(&[bad.address(), good.address()], &[("route.yaml", retry)]);
    for _ in 0..10 {
        let post = request("POST", "/", &[("content-length", "4")], "abcd");
        let answer = RawClient::connect(gateway.address()).unwrap().request(&post).unwrap();
        assert_eq!(answer.text(), "good");
    }
    assert!(bad.requests().iter().chain(&good.requests()).all(|r| r.ends_with("abcd")));
    assert!(!bad.requests().is_empty(), "it was tried");
    // Without the other one the bad answer is all there is.
    gateway.write("backend.yaml", &entry(&[(bad.address(), "")])).unwrap();
    let answer = gateway.wait_for_answer("/", &[], |a| a.status == 503).unwrap();
    assert_eq!(answer.text(), "bad");
    wait_for_line(&gateway, "\"response_flags\":\"URX\"");
}

#[test]
fn a_broken_exchange_is_repeated_only_where_the_route_says_so() {
    let broken = Upstream::start(Behaviour::Close).unwrap();
    let good = named("good");
    let endpoints = [broken.address(), good.address()];
    let careful = gateway(&endpoints, &[]);
    let status = |gateway: &RunningGateway| gateway.get("/", &[]).unwrap().status;
    let mut statuses: Vec<u16> = (0..30).map(|_| status(&careful)).collect();
    statuses.sort_unstable();
    statuses.dedup();
    assert_eq!(statuses, [200, 503], "it may have had its effect");
    let retry = route_with("retry: {attempts: 2, backoff: 1ms}");
    let bold = gateway(&endpoints, &[("route.yaml", retry)]);
    assert!((0..30).all(|_| status(&bold) == 200));
    let slow = Upstream::start(Behaviour::Script(|_| None)).unwrap();
    let retry = route_with("timeouts: {backendRequest: 100ms}\n    retry: {attempts: 2, backoff: 1ms}");
    let impatient = gateway(&[slow.address(), good.address()], &[("route.yaml", retry)]);
    assert!((0..10).all(|_| status(&impatient) == 200));
    impatient.write("backend.yaml", &entry(&[(slow.address(), "")])).unwrap();
    let answer = impatient.wait_for_answer("/", &[], |a| a.status == 504).unwrap();
    assert_eq!(answer.text(), "upstream request timeout");
    wait_for_line(&impatient, "\"response_flags\":\"UT,URX\"");
}

#[test]
fn endpoints_are_spoken_to_in_tls() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    let identity = authority.issue(&["httpbin.default.svc.cluster.local"]).unwrap();
    let own = authority.issue(&["gateway.test"]).unwrap();
    let secret = |name: &str, authority: &Authority| {
        own.secret(name, &[("ca.crt", &authority.pem())])
            .replace("namespace: istio-system", "namespace: default")
    };
    let plain = TlsEndpoint::start(&identity, None, &["h2", "http/1.1"]).unwrap();
    let simple = rule("{tls: {mode: SIMPLE, credentialName: trust}}");
    let manifests = [("secret.yaml", secret("trust", &authority)), ("rule.yaml", simple)];
    let gateway = gateway(&[plain.address()], &manifests);
    let wanted = |version: &str, name: &str, shown: bool| format!("{version} test.example {name} {shown}");
    let name = "httpbin.default.svc.cluster.local";
    for _ in 0..3 {
        assert_eq!(body(&gateway, &[]), wanted("HTTP/1.1", name, false));
    }
    assert_eq!(stat(&gateway, "upstream_cx_total"), 1, "the connection is used again");
    let mutual = TlsEndpoint::start(&identity, Some(&authority), &["h2", "http/1.1"]).unwrap();
    gateway.write("rule.yaml", &rule("{tls: {mode: MUTUAL, credentialName: trust}}")).unwrap();
    gateway.write("backend.yaml", &entry(&[(mutual.address(), "")])).unwrap();
    gateway.wait_for_answer("/", &[], |a| a.text() == wanted("HTTP/1.1", name, true)).unwrap();
    // Another name is asked for, and the certificate is for one that the rule names.
    let sans = format!(
        "{{connectionPool: {{http: {{h2UpgradePolicy: UPGRADE}}}}, tls: {{mode: MUTUAL, credentialName: trust, sni: other.test, subjectAltNames: [{name}]}}}}"
    );
    gateway.write("rule.yaml", &rule(&sans)).unwrap();
    gateway.wait_for_answer("/", &[], |a| a.text() == wanted("HTTP/2.0", "other.test", true)).unwrap();
    // Who is not trusted gets no request, and the log says why; the client is not told.
    gateway.write("secret.yaml", &secret("trust", &stranger)).unwrap();
    let answer = gateway.wait_for_answer("/", &[], |a| a.status == 503).unwrap();
    assert!(answer.text().ends_with("reset reason: remote connection failure"), "{}", answer.text());
    wait_for_line(
        &gateway,
        "\"upstream_transport_failure_reason\":\"TLS_error:invalid peer certificate: BadSignature\"",
    );
    gateway.write("rule.yaml", &rule("{tls: {mode: SIMPLE, insecureSkipVerify: true}}")).unwrap();
    gateway.write("backend.yaml", &entry(&[(plain.address(), "")])).unwrap();
    gateway.wait_for_answer("/", &[], |a| a.text() == wanted("HTTP/1.1", name, false)).unwrap();
    gateway.write("rule.yaml", &rule("{tls: {mode: SIMPLE, credentialName: gone}}")).unwrap();
    gateway.wait_for_log("spec.trafficPolicy.tls.credentialName: secret default/gone not found; no connection to httpbin.default.svc.cluster.local is made").unwrap();
    gateway.wait_for_answer("/", &[], |a| a.status == 503).unwrap();
}

#[test]
fn endpoints_are_told_of_the_client_by_the_proxy_protocol() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, seen) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = [0; 4096];
            let read = std::io::Read::read(&mut stream, &mut bytes).unwrap_or(0);
            let _ = sender.send(bytes[..read].to_vec());
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let gateway = gateway(&[address], &[("rule.yaml", rule("{proxyProtocol: {version: V1}}"))]);
    for _ in 0..2 {
        assert_eq!(gateway.get("/", &[]).unwrap().status, 200);
        // The header may come alone.
        let text = String::from_utf8(seen.recv_timeout(PATIENCE).unwrap()).unwrap();
        assert!(text.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "), "{text}");
        let port = gateway.address().port();
        assert!(text.lines().next().unwrap().ends_with(&format!(" {port}")), "{text}");
    }
}

#[test]
fn what_a_rule_asks_for_in_vain_is_said() {
    let upstream = named("x");
    let rules = "{loadBalancer: {consistentHash: {useSourceIp: true, httpHeaderName: x}}, connectionPool: {tcp: {maxConnections: 0}}, outlierDetection: {interval: soon}, tls: {mode: ISTIO_MUTUAL, caCertificates: /etc/ca.pem}, tunnel: {targetHost: x}}";
    let unused = rule("{}")
        .replace("host: httpbin.default", "host: typo.default")
        .replace("name: httpbin,", "name: typo,");
    let gateway = gateway(&[upstream.address()], &[("rule.yaml", rule(rules)), ("unused.yaml", unused)]);
    for text in [
        "spec.trafficPolicy.loadBalancer.consistentHash: exactly one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName is required",
        "spec.trafficPolicy.connectionPool.tcp.maxConnections: 0 is out of range: 1 to 2147483647",
        "spec.trafficPolicy.outlierDetection.interval: \"soon\" is no duration",
        "spec.trafficPolicy.tls.mode: ISTIO_MUTUAL needs the certificates of a mesh",
        "spec.trafficPolicy.tls.caCertificates: files are not supported: put them into a Secret",
        "warning: DestinationRule/default/httpbin: spec.trafficPolicy.tunnel: is not supported, it has no effect",
        "no Service and no ServiceEntry has the host \"typo.default.svc.cluster.local\": the rule has no effect",
    ] {
        gateway.wait_for_log(text).unwrap();
    }
    assert_eq!(body(&gateway, &[]), "x");
}

#[test]
fn an_attempt_on_a_connection_that_was_used_before_has_its_time_too() {
    let once = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = once.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in once.incoming().flatten() {
            let mut bytes = [0; 4096];
            let _ = std::io::Read::read(&mut stream, &mut bytes);
            let _ =
                std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine");
            // The connection stands, and nothing more comes of it.
            std::thread::spawn(
                move || while std::io::Read::read(&mut stream, &mut bytes).is_ok_and(|n| n > 0) {},
            );
        }
    });
    let limits = route_with("timeouts: {request: 10s, backendRequest: 300ms}\n    retry: {attempts: 0}");
    let quick = gateway(&[address], &[("route.yaml", limits)]);
    assert_eq!(body(&quick, &[]), "fine");
    let begun = Instant::now();
    let answer = quick.get("/", &[]).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (504, "upstream request timeout"));
    assert!(begun.elapsed() < Duration::from_secs(8));
}
