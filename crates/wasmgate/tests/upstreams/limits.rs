//! What a cluster may have at the same time.

use super::*;

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
