//! Where the endpoints of a cluster come from, and which of them a request gets.

use super::*;

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
