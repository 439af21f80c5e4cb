//! Endpoints that get nothing because they are, or seem to be, ill.

use super::*;

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
