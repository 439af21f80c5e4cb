//! How the endpoints of a cluster are treated: who gets a request, what happens when one fails, and what connections
//! begin with.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

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
fn more_than_a_cluster_may_have_is_refused_at_once() {
    let slow = Upstream::start(Behaviour::Script(|_| {
        std::thread::sleep(Duration::from_millis(700));
        Some("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow".to_owned())
    }));
    let slow = slow.unwrap();
    let limits = "{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}}";
    let gateway = gateway(&[slow.address()], &[("rule.yaml", rule(limits))]);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let one = |n: u64| {
            std::thread::sleep(Duration::from_millis(n * 100));
            gateway.get("/", &[]).unwrap().status
        };
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || one(n))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    // One has the connection, one waits for it, the others are told at once.
    assert_eq!(statuses, [200, 200, 503, 503]);
    let lines = gateway.access_log();
    let refused: Vec<&String> = lines.iter().filter(|l| l.contains("\"response_flags\":\"UO\"")).collect();
    assert_eq!(refused.len(), 2, "{lines:?}");
    assert_eq!(stat(&gateway, "upstream_rq_pending_overflow"), 2);
    assert_eq!(stat(&gateway, "upstream_cx_total"), 1);
    let requests = "{connectionPool: {http: {http2MaxRequests: 1}}}";
    gateway.write("rule.yaml", &rule(requests)).unwrap();
    let overflow = wait_until(Instant::now() + PATIENCE, || {
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| gateway.get("/", &[]).unwrap().status);
            std::thread::sleep(Duration::from_millis(200));
            let second = gateway.get("/", &[]).unwrap();
            (first.join().unwrap(), second)
        });
        let text = second.text();
        (first == 200 && second.status == 503).then_some(text)
    });
    assert!(overflow.unwrap().ends_with("reset reason: overflow"));
}

#[test]
fn a_connection_serves_no_more_requests_than_it_may() {
    let upstream = named("x");
    let limits = "{connectionPool: {http: {maxRequestsPerConnection: 2}}}";
    let gateway = gateway(&[upstream.address()], &[("rule.yaml", rule(limits))]);
    for _ in 0..6 {
        assert_eq!(body(&gateway, &[]), "x");
    }
    assert_eq!(stat(&gateway, "upstream_cx_total"), 3);
}

#[test]
fn an_endpoint_whose_answers_are_bad_gets_nothing_for_a_while() {
    let bad = Upstream::start(Behaviour::Answer(
        b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 3\r\n\r\nbad".to_vec(),
    ));
    let (bad, good) = (bad.unwrap(), named("good"));
    let policy = "{loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 2, baseEjectionTime: 2s, maxEjectionPercent: 100}}";
    let gateway = gateway(&[bad.address(), good.address()], &[("rule.yaml", rule(policy))]);
    for _ in 0..20 {
        body(&gateway, &[]);
    }
    assert_eq!(bad.requests().len(), 2, "after that it gets none");
    let clusters = gateway.admin_get("/clusters").unwrap().text();
    let flags = |state: &str| format!("{CLUSTER}::{}::health_flags::{state}\n", bad.address());
    assert!(clusters.contains(&flags("/failed_outlier_check")), "{clusters}");
    let json = gateway.admin_get("/clusters?format=json").unwrap().text();
    assert!(json.contains("\"failed_outlier_check\": true"), "{json}");
    assert_eq!(stat(&gateway, "outlier_detection.ejections_active"), 1);
    gateway.wait_for_log("gets nothing for 2s: its answers were bad").unwrap();
    let back = wait_until(Instant::now() + PATIENCE, || {
        let clusters = gateway.admin_get("/clusters").ok()?.text();
        clusters.contains(&flags("healthy")).then_some(())
    });
    back.unwrap();
    for _ in 0..2 {
        body(&gateway, &[]);
    }
    assert_eq!(bad.requests().len(), 3);
}

#[test]
fn endpoints_that_fail_their_health_checks_get_nothing() {
    let moody = |request: &str| {
        let is_check = request.contains("user-agent: wasmgate-health-check");
        let status = if is_check && request.starts_with("GET /bad") { "500 No" } else { "200 OK" };
        Some(format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\nmoody"))
    };
    let moody = Upstream::start(Behaviour::Script(moody)).unwrap();
    let check = |path: &str| {
        let annotations = format!(
            "{{wasmgate.dev/health-check: http, wasmgate.dev/health-check-path: {path}, wasmgate.dev/health-check-interval: 100ms, wasmgate.dev/unhealthy-threshold: '2'}}"
        );
        annotated_rule(&annotations, "{}")
    };
    let gateway = gateway(&[moody.address()], &[("rule.yaml", check("/good"))]);
    assert_eq!(body(&gateway, &[]), "moody", "the first check was waited for");
    gateway.write("rule.yaml", &check("/bad")).unwrap();
    let answer = gateway.wait_for_answer("/", &[], |a| a.status == 503).unwrap();
    assert_eq!(answer.text(), "no healthy upstream");
    wait_for_line(&gateway, "\"response_flags\":\"UH\"");
    gateway.wait_for_log("it fails its health checks: status 500").unwrap();
    let clusters = gateway.admin_get("/clusters").unwrap().text();
    assert!(clusters.contains("health_flags::/failed_active_hc"), "{clusters}");
    gateway.write("rule.yaml", &check("/good")).unwrap();
    gateway.wait_for_answer("/", &[], |a| a.status == 200).unwrap();
    let dead = nobody();
    let tcp = annotated_rule(
        "{wasmgate.dev/health-check: tcp, wasmgate.dev/health-check-interval: 100ms}",
        "{loadBalancer: {simple: ROUND_ROBIN}}",
    );
    gateway.write("rule.yaml", &tcp).unwrap();
    gateway.write("backend.yaml", &entry(&[(moody.address(), ""), (dead, "")])).unwrap();
    gateway.wait_for_log(&format!("endpoint {dead} gets nothing, it fails its health checks")).unwrap();
    let before = stat(&gateway, "upstream_cx_connect_fail");
    assert!((0..10).all(|_| body(&gateway, &[]) == "moody"));
    assert_eq!(stat(&gateway, "upstream_cx_connect_fail"), before, "nobody tries the dead one");
    gateway.write("rule.yaml", &annotated_rule("{wasmgate.dev/health-check: ping}", "{}")).unwrap();
    gateway.wait_for_log("\"ping\" is not one of http, tcp and grpc").unwrap();
}

#[test]
fn one_key_goes_to_one_endpoint() {
    let upstreams = ["a", "b", "c"].map(named);
    let addresses: Vec<_> = upstreams.iter().map(Upstream::address).collect();
    for table in ["ringHash: {minimumRingSize: 1024}", "maglev: {tableSize: 997}"] {
        let hash = format!("{{loadBalancer: {{consistentHash: {{httpHeaderName: x-user, {table}}}}}}}");
        let gateway = gateway(&addresses, &[("rule.yaml", rule(&hash))]);
        let mut seen = std::collections::BTreeSet::new();
        for user in 0..12 {
            let user = user.to_string();
            let first = body(&gateway, &[("x-user", &user)]);
            assert!((0..3).all(|_| body(&gateway, &[("x-user", &user)]) == first), "{user}");
            seen.insert(first);
        }
        assert!(seen.len() > 1, "not all users have one endpoint");
    }
    let cookie = "{loadBalancer: {consistentHash: {httpCookie: {name: user, ttl: 60s}}}}";
    let gateway = gateway(&addresses, &[("rule.yaml", rule(cookie))]);
    let first = gateway.get("/", &[]).unwrap();
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    for _ in 0..5 {
        let next = gateway.get("/", &[("cookie", &cookie)]).unwrap();
        assert_eq!((next.text(), next.header("set-cookie")), (first.text(), None));
    }
}

#[test]
fn what_is_near_comes_first() {
    let (near, far) = (named("near"), named("far"));
    let endpoints = [(near.address(), ", locality: eu/a"), (far.address(), ", locality: us/b")];
    let watched = annotated_rule(
        "{wasmgate.dev/health-check: tcp, wasmgate.dev/health-check-interval: 100ms, wasmgate.dev/unhealthy-threshold: '1'}",
        "{loadBalancer: {simple: ROUND_ROBIN}}",
    );
    let gateway = built(&endpoints, &[("rule.yaml", watched)]).argument("--locality=eu/a/1").run().unwrap();
    assert!((0..10).all(|_| body(&gateway, &[]) == "near"));
    drop(near);
    gateway.wait_for_answer("/", &[], |a| a.text() == "far").unwrap();
    assert!((0..10).all(|_| body(&gateway, &[]) == "far"));
}

#[test]
fn names_are_looked_up_and_followed() {
    let dns = DnsServer::start().unwrap();
    // One port on two addresses of loopback.
    let listeners = |ip: [u8; 4], port| std::net::TcpListener::bind(SocketAddr::from((ip, port)));
    let first = listeners([127, 0, 0, 1], 0).unwrap();
    let port = first.local_addr().unwrap().port();
    let second = listeners([127, 0, 0, 2], port).unwrap();
    for (listener, name) in [(first, "one"), (second, "two")] {
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let answer =
                    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\n{name}");
                let mut request = [0; 4096];
                let _ = std::io::Read::read(&mut stream, &mut request);
                let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
            }
        });
    }
    dns.set("backend.test", &[[127, 0, 0, 1].into()]);
    let entry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: httpbin, namespace: default}}\nspec:\n  hosts: [httpbin.default.svc.cluster.local]\n  resolution: DNS\n  ports: [{{number: 8000, name: http, protocol: HTTP, targetPort: {port}}}]\n  endpoints: [{{address: backend.test}}]\n"
    );
    let gateway = GatewayBuilder::new(PROGRAM)
        .manifest("route.yaml", manifests::route())
        .manifest("backend.yaml", entry)
        .argument(format!("--dns-server={}", dns.address()))
        .run()
        .unwrap();
    assert_eq!(body(&gateway, &[]), "one", "the name was looked up before anything was served");
    dns.set("backend.test", &[[127, 0, 0, 2].into()]);
    gateway.wait_for_answer("/", &[], |a| a.text() == "two").unwrap();
    // What cannot be looked up keeps its addresses.
    dns.hang("backend.test");
    gateway.wait_for_log("backend.test cannot be looked up: ").unwrap();
    assert_eq!(body(&gateway, &[]), "two");
    dns.set("backend.test", &[]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(body(&gateway, &[]), "two");
    dns.set("backend.test", &[[127, 0, 0, 1].into(), [127, 0, 0, 2].into()]);
    gateway.wait_for_log("backend.test has addresses again").unwrap();
    let clusters = gateway.admin_get("/clusters").unwrap().text();
    assert_eq!(clusters.matches("::weight::1\n").count(), 2, "{clusters}");
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

#[test]
fn a_limit_of_connections_is_shared_by_all_endpoints() {
    let (a, b) = (named("a"), named("b"));
    let policy = "{loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {tcp: {maxConnections: 1}}}";
    let gateway = gateway(&[a.address(), b.address()], &[("rule.yaml", rule(policy))]);
    let begun = Instant::now();
    let mut answers: Vec<String> = (0..6).map(|_| body(&gateway, &[])).collect();
    answers.sort();
    assert_eq!(answers, ["a", "a", "a", "b", "b", "b"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "nobody waits for what nobody uses");
    assert_eq!(stat(&gateway, "upstream_cx_active"), 1);
}

#[test]
fn connections_survive_a_change_of_the_endpoints() {
    let (stays, comes) = (named("x"), named("x"));
    let gateway =
        gateway(&[stays.address()], &[("rule.yaml", rule("{loadBalancer: {simple: ROUND_ROBIN}}"))]);
    body(&gateway, &[]);
    assert_eq!(stat(&gateway, "upstream_cx_total"), 1);
    gateway.write("backend.yaml", &entry(&[(stays.address(), ""), (comes.address(), "")])).unwrap();
    let both = wait_until(Instant::now() + PATIENCE, || {
        body(&gateway, &[]);
        (!comes.requests().is_empty()).then_some(())
    });
    both.unwrap();
    body(&gateway, &[]);
    assert_eq!(stat(&gateway, "upstream_cx_total"), 2, "one more for the one that came");
}

#[test]
fn no_endpoint_is_the_admin_interface() {
    let good = named("good");
    let dns = DnsServer::start().unwrap();
    dns.set("admin.test", &[[127, 0, 0, 1].into()]);
    let gateway = built(&[(good.address(), "")], &[])
        .argument(format!("--dns-server={}", dns.address()))
        .run()
        .unwrap();
    let port = gateway.admin().port();
    assert_eq!(body(&gateway, &[]), "good");
    // Each of them is one way to say it; whoever may write a ServiceEntry is not who may stop the gateway.
    for ip in ["127.0.0.1", "0.0.0.0", "\"::ffff:127.0.0.1\"", "admin.test"] {
        let text = entry(&[(good.address(), "")])
            .replace(&format!("address: {}", good.address().ip()), &format!("address: {ip}"))
            .replace(&format!("{{http: {}}}", good.address().port()), &format!("{{http: {port}}}"))
            .replace("STATIC", if ip == "admin.test" { "DNS" } else { "STATIC" });
        gateway.write("backend.yaml", &text).unwrap();
        gateway
            .wait_for_answer("/ready", &[], |a| a.status == 503 && a.text() == "no healthy upstream")
            .unwrap();
        gateway.write("backend.yaml", &entry(&[(good.address(), "")])).unwrap();
        gateway.wait_for_answer("/ready", &[], |a| a.text() == "good").unwrap();
    }
    let log = gateway.log();
    let told = format!(
        "{CLUSTER}: 127.0.0.1:{port} is the admin interface of this gateway: no endpoint of a cluster may be"
    );
    assert_eq!(log.matches(&told).count(), 2, "by its address, and by its name: {log}");
}
