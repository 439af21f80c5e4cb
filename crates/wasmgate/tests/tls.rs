//! TLS: names, certificates, clients' certificates, and what happens when they change.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wasmgate_testkit::gateway::{GatewayBuilder, PATIENCE, RunningGateway};
use wasmgate_testkit::peers::ports::PortLease;
use wasmgate_testkit::peers::process::wait_until;
use wasmgate_testkit::tls::{Authority, Identity, TlsClient, der};
use wasmgate_testkit::upstream::Upstream;
use wasmgate_testkit::{manifests, plugins};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");

/// A Gateway `tls` whose listeners are given as YAML flow maps, with `PORT` for the port; `more` goes behind its spec.
fn listeners(port: u16, listeners: &[&str]) -> String {
    let items: String =
        listeners.iter().map(|l| format!("  - {}\n", l.replace("PORT", &port.to_string()))).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: tls, namespace: istio-system}}\nspec:\n  gatewayClassName: istio\n  addresses: [{{type: IPAddress, value: 127.0.0.1}}]\n  listeners:\n{items}"
    )
}

/// The route of every test, on this Gateway, too.
fn route() -> String {
    manifests::route().replace(
        "parentRefs: [{name: ingress, namespace: istio-system}]",
        "parentRefs: [{name: ingress, namespace: istio-system}, {name: tls, namespace: istio-system}]",
    )
}

struct Scene {
    gateway: RunningGateway,
    address: SocketAddr,
    upstream: Upstream,
    lease: PortLease,
}

impl Scene {
    fn new(items: &[&str], more: &[(&str, String)]) -> Self {
        let upstream = Upstream::ok("fine").unwrap();
        let lease = PortLease::new().unwrap();
        let mut builder = GatewayBuilder::new(PROGRAM)
            .workers(1)
            .backend(upstream.address())
            .manifest("route.yaml", route())
            .manifest("tls.yaml", listeners(lease.port(), items));
        for (name, text) in more {
            builder = builder.manifest(name, text.clone());
        }
        let address = SocketAddr::from(([127, 0, 0, 1], lease.port()));
        Self { gateway: builder.run().unwrap(), address, upstream, lease }
    }
}

const ONE: &str = "{name: https, port: PORT, protocol: HTTPS, allowedRoutes: {namespaces: {from: All}}, tls: {certificateRefs: [{name: cert}]}}";

#[test]
fn the_name_chooses_the_certificate() {
    let authority = Authority::new().unwrap();
    let exact = authority.issue(&["a.example.com"]).unwrap();
    let wildcard = authority.issue(&["*.example.com"]).unwrap();
    let listener = |name: &str, hostname: &str, secret: &str| {
        format!(
            "{{name: {name}, hostname: '{hostname}', port: PORT, protocol: HTTPS, allowedRoutes: {{namespaces: {{from: All}}}}, tls: {{certificateRefs: [{{name: {secret}}}]}}}}"
        )
    };
    let items = [listener("a", "a.example.com", "exact"), listener("w", "*.example.com", "wildcard")];
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    let secrets = [("a.yaml", exact.secret("exact", &[])), ("b.yaml", wildcard.secret("wildcard", &[]))];
    let scene = Scene::new(&items, &secrets);
    let client = TlsClient::new(&authority, None, &[]).unwrap();
    for (name, identity) in [("a.example.com", &exact), ("b.example.com", &wildcard)] {
        let answer = client.get(scene.address, name, "").unwrap();
        assert!(
            answer.text.starts_with("HTTP/1.1 200 OK") && answer.text.ends_with("fine"),
            "{}",
            answer.text
        );
        assert_eq!(answer.certificate, der(&identity.certificate).unwrap(), "{name}");
    }
    let refused = client.get(scene.address, "other.org", "").unwrap_err().to_string();
    assert!(refused.contains("UnrecognisedName"), "{refused}");
    // The endpoint and the log know that it was TLS.
    let request = &scene.upstream.requests()[0];
    assert!(request.to_ascii_lowercase().contains("x-forwarded-proto: https"), "{request}");
    let line = wait_until(Instant::now() + PATIENCE, || scene.gateway.access_log().first().cloned()).unwrap();
    assert!(line.contains("\"requested_server_name\":\"a.example.com\""), "{line}");
    // A connection for one name is not for the other: it may ask its clients for certificates.
    let (status, _) = TlsClient::new(&authority, None, &["h2"])
        .unwrap()
        .http2(scene.address, "a.example.com", "b.example.com")
        .unwrap();
    assert_eq!(status, 421);
}

#[test]
fn clients_choose_the_protocol_and_the_version() {
    let authority = Authority::new().unwrap();
    let identity = authority.issue(&["test.example"]).unwrap();
    let scene = Scene::new(&[ONE], &[("cert.yaml", identity.secret("cert", &[]))]);
    let http2 = TlsClient::new(&authority, None, &["h2", "http/1.1"]).unwrap();
    assert_eq!(http2.http2(scene.address, "test.example", "test.example").unwrap(), (200, "fine".to_owned()));
    let http1 = TlsClient::new(&authority, None, &["http/1.1"]).unwrap();
    let answer = http1.get(scene.address, "test.example", "").unwrap();
    assert_eq!(answer.alpn.as_deref(), Some("http/1.1"));
    assert!(TlsClient::old(&authority).unwrap().get(scene.address, "test.example", "").is_ok());
    let certs = scene.gateway.admin_get("/certs").unwrap().text();
    let days = "\"days_until_expiration\": \"";
    assert!(certs.contains("\"dns\": \"test.example\"") && certs.contains(days), "{certs}");
    let dump = scene.gateway.admin_get("/config_dump").unwrap().text();
    assert!(dump.contains("\"mode\": \"Terminate\""), "{dump}");
    // A listener may want the newest version only.
    let newest = ONE.replace("tls: {", "tls: {options: {wasmgate.dev/tls-min-version: '1.3'}, ");
    scene.gateway.write("tls.yaml", &listeners(scene.lease.port(), &[&newest])).unwrap();
    let refused = wait_until(Instant::now() + PATIENCE, || {
        TlsClient::old(&authority).ok()?.get(scene.address, "test.example", "").err()
    });
    assert!(refused.unwrap().to_string().contains("ProtocolVersion"));
    assert!(http1.get(scene.address, "test.example", "").is_ok());
}

#[test]
fn clients_show_certificates() {
    let authority = Authority::new().unwrap();
    let identity = authority.issue(&["test.example"]).unwrap();
    let known = authority.issue(&["client.example"]).unwrap();
    let revoked = authority.issue(&["revoked.example"]).unwrap();
    let stranger = Authority::new().unwrap().issue(&["client.example"]).unwrap();
    let list = authority.revoke(&[revoked.serial]).unwrap();
    let (pem, mutual) = (authority.pem(), "tls: {options: {gateway.istio.io/tls-terminate-mode: MUTUAL}, ");
    let scene = Scene::new(
        &[&ONE.replace("tls: {", mutual)],
        &[("cert.yaml", identity.secret("cert", &[("ca.crt", &pem), ("ca.crl", &list)]))],
    );
    let get = |identity: Option<&Identity>, headers: &str| {
        TlsClient::new(&authority, identity, &[]).unwrap().get(scene.address, "test.example", headers)
    };
    let claim = "x-forwarded-client-cert: Hash=beef;Subject=\"CN=root\"\r\n";
    let answer = get(Some(&known), claim).unwrap();
    assert!(answer.text.starts_with("HTTP/1.1 200"), "{}", answer.text);
    let request = scene.upstream.requests()[0].clone();
    let shown: Vec<&str> = request.lines().filter(|l| l.starts_with("x-forwarded-client-cert")).collect();
    assert_eq!(shown.len(), 1, "{request}");
    assert!(shown[0].contains(";Subject=\"O=tests,CN=client.example\";DNS=client.example"), "{request}");
    for (who, identity) in [("nobody", None), ("revoked", Some(&revoked)), ("a stranger", Some(&stranger))] {
        let refused = get(identity, "");
        let text = refused.map(|answer| answer.text);
        assert!(text.is_err() || text.as_deref().unwrap() == "", "{who}: {text:?}");
    }
    assert_eq!(scene.upstream.requests().len(), 1);
    let stats = scene.gateway.admin_get("/stats").unwrap().text();
    assert!(stats.contains("listener.ssl.connection_error: "), "{stats}");
}

#[test]
fn a_session_lives_no_longer_than_its_clients_certificate() {
    let authority = Authority::new().unwrap();
    let identity = authority.issue(&["test.example"]).unwrap();
    let (pem, mutual) = (authority.pem(), "tls: {options: {gateway.istio.io/tls-terminate-mode: MUTUAL}, ");
    let scene = Scene::new(
        &[&ONE.replace("tls: {", mutual)],
        &[("cert.yaml", identity.secret("cert", &[("ca.crt", &pem)]))],
    );
    // X.509 counts whole seconds.
    let validity = Duration::from_secs(5);
    let brief = authority.issue_for(&["client.example"], validity).unwrap();
    let over = Instant::now() + validity;
    let client = TlsClient::new(&authority, Some(&brief), &[]).unwrap();
    assert!(!client.get(scene.address, "test.example", "").unwrap().resumed);
    assert!(client.get(scene.address, "test.example", "").unwrap().resumed);
    let served = scene.upstream.requests().len();
    std::thread::sleep(over.saturating_duration_since(Instant::now()) + Duration::from_secs(1));
    let refused = client.get(scene.address, "test.example", "").map(|answer| answer.text);
    assert!(refused.is_err() || refused.as_deref().unwrap() == "", "{refused:?}");
    assert_eq!(scene.upstream.requests().len(), served);
}

#[test]
fn authorities_may_stand_in_a_config_map() {
    let authority = Authority::new().unwrap();
    let identity = authority.issue(&["test.example"]).unwrap();
    let indented: String = authority.pem().lines().map(|l| format!("    {l}\n")).collect();
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: clients, namespace: istio-system}}\ndata:\n  ca.crt: |\n{indented}"
    );
    let item = ONE.replace(
        "tls: {",
        "tls: {frontendValidation: {caCertificateRefs: [{kind: ConfigMap, group: '', name: clients}]}, ",
    );
    let scene = Scene::new(&[&item], &[("cert.yaml", identity.secret("cert", &[])), ("map.yaml", map)]);
    let client = TlsClient::new(&authority, Some(&identity), &[]).unwrap();
    assert!(client.get(scene.address, "test.example", "").unwrap().text.ends_with("fine"));
    let nobody = TlsClient::new(&authority, None, &[]).unwrap().get(scene.address, "test.example", "");
    assert!(nobody.is_err() || nobody.unwrap().text.is_empty());
}

#[test]
fn a_new_certificate_takes_over_and_open_connections_go_on() {
    let authority = Authority::new().unwrap();
    let (first, second) =
        (authority.issue(&["test.example"]).unwrap(), authority.issue(&["test.example"]).unwrap());
    let scene = Scene::new(&[ONE], &[("cert.yaml", first.secret("cert", &[]))]);
    let client = TlsClient::new(&authority, None, &[]).unwrap();
    let shown = || {
        TlsClient::new(&authority, None, &[])
            .unwrap()
            .get(scene.address, "test.example", "")
            .unwrap()
            .certificate
    };
    assert_eq!(shown(), der(&first.certificate).unwrap());
    let mut open = client.connect(scene.address, "test.example").unwrap();
    let request = "GET / HTTP/1.1\r\nhost: test.example\r\n\r\n";
    open.send(request).unwrap();
    open.read_until("fine").unwrap();
    scene.gateway.write("cert.yaml", &second.secret("cert", &[])).unwrap();
    let taken = wait_until(Instant::now() + PATIENCE, || {
        (shown() == der(&second.certificate).unwrap()).then_some(())
    });
    assert!(taken.is_some(), "{}", scene.gateway.log());
    open.send(request).unwrap();
    assert!(open.read_until("fine").unwrap().starts_with("HTTP/1.1 200"));
    // A secret that is broken changes nothing, and says what is wrong with it.
    let broken = second.secret("cert", &[]).replace("tls.key: ", "tls.key: AAAA");
    scene.gateway.write("cert.yaml", &broken).unwrap();
    scene.gateway.wait_for_log("Secret/istio-system/cert: data: tls.key").unwrap();
    assert_eq!(shown(), der(&second.certificate).unwrap());
}

#[test]
fn tickets_outlive_a_change_that_is_not_theirs() {
    let authority = Authority::new().unwrap();
    let identity = authority.issue(&["test.example"]).unwrap();
    let scene = Scene::new(&[ONE], &[("cert.yaml", identity.secret("cert", &[]))]);
    let client = TlsClient::new(&authority, None, &[]).unwrap();
    assert!(!client.get(scene.address, "test.example", "").unwrap().resumed);
    assert!(client.get(scene.address, "test.example", "").unwrap().resumed);
    scene.gateway.write("route.yaml", &route().replace("name: httpbin\n", "name: renamed\n")).unwrap();
    let changed = wait_until(Instant::now() + PATIENCE, || {
        client.get(scene.address, "test.example", "").ok()?;
        scene.gateway.access_log().last()?.contains("renamed").then_some(())
    });
    assert!(changed.is_some(), "{:?}", scene.gateway.access_log());
    assert!(client.get(scene.address, "test.example", "").unwrap().resumed);
}

const TLS_ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TLSRoute
metadata: {name: NAME, namespace: default}
spec:
  parentRefs: [{name: tls, namespace: istio-system, sectionName: SECTION}]
  hostnames: [HOST]
  rules:
  - backendRefs:
    - {group: networking.istio.io, kind: Hostname, name: BACKEND.default.svc.cluster.local, port: 8000}
";

fn tls_route(name: &str, section: &str, host: &str, backend: &str) -> String {
    TLS_ROUTE
        .replace("NAME", name)
        .replace("SECTION", section)
        .replace("HOST", host)
        .replace("BACKEND", backend)
}

#[test]
fn connections_are_passed_on_by_name_or_decrypted() {
    let authority = Authority::new().unwrap();
    let (own, behind) =
        (authority.issue(&["here.example"]).unwrap(), authority.issue(&["there.example"]).unwrap());
    let there = behind.serve("from there").unwrap();
    let entry =
        manifests::service_entry(there).replace("name: httpbin", "name: there").replace("httpbin.", "there.");
    let items = [
        "{name: here, hostname: here.example, port: PORT, protocol: TLS, allowedRoutes: {namespaces: {from: All}}, tls: {certificateRefs: [{name: cert}]}}",
        "{name: there, port: PORT, protocol: TLS, allowedRoutes: {namespaces: {from: All}}, tls: {mode: Passthrough}}",
    ];
    let scene = Scene::new(
        &items,
        &[
            ("cert.yaml", own.secret("cert", &[])),
            ("there.yaml", entry),
            ("one.yaml", tls_route("here", "here", "here.example", "httpbin")),
            ("two.yaml", tls_route("there", "there", "there.example", "there")),
        ],
    );
    let client = TlsClient::new(&authority, None, &[]).unwrap();
    // Passed on: the endpoint's certificate and its words.
    let answer = client.connect(scene.address, "there.example").unwrap().finish().unwrap();
    assert_eq!(
        (answer.text.as_str(), &answer.certificate),
        ("from there", &der(&behind.certificate).unwrap())
    );
    // Decrypted: ours, and what an endpoint without TLS says.
    let mut here = client.connect(scene.address, "here.example").unwrap();
    here.send("GET / HTTP/1.1\r\nhost: here.example\r\n\r\n").unwrap();
    assert!(here.read_until("fine").unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(here.certificate(), der(&own.certificate).unwrap());
    drop(here);
    assert!(client.connect(scene.address, "elsewhere.example").is_err());
    let lines = wait_until(Instant::now() + PATIENCE, || {
        Some(scene.gateway.access_log()).filter(|lines| lines.len() == 2)
    });
    let lines = lines.unwrap_or_else(|| panic!("{:?}", scene.gateway.access_log()));
    assert!(lines.iter().any(|l| l.contains("\"requested_server_name\":\"there.example\"") && l.contains("default/there")));
}

#[test]
fn plug_ins_see_what_was_encrypted() {
    let authority = Authority::new().unwrap();
    let identity = authority.issue(&["test.example"]).unwrap();
    let url = |name: &str| {
        format!("file://{}", plugins::rust(&format!("crates/testkit/plugins/{name}"), name).display())
    };
    let check = format!("file://{}", plugins::header_authorization_rust().display());
    let scene = Scene::new(
        &[ONE],
        &[
            ("cert.yaml", identity.secret("cert", &[])),
            ("check.yaml", manifests::plugin("check", &check, "  phase: AUTHN\n")),
            ("tcp.yaml", manifests::plugin("tcp", &url("tcp"), "  type: NETWORK\n")),
        ],
    );
    let client = TlsClient::new(&authority, None, &[]).unwrap();
    let answer = client.get(scene.address, "test.example", "allow: no\r\n").unwrap();
    // Both: the one in front of HTTP has put its mark before the other one's answer.
    assert!(answer.text.starts_with("<HTTP/1.1 403"), "{}", answer.text);
}

#[test]
fn what_is_wrong_with_certificates_is_said() {
    let authority = Authority::new().unwrap();
    let identity = authority.issue(&["test.example"]).unwrap();
    let scene = Scene::new(
        &[
            &ONE.replace("name: cert", "name: nowhere"),
            "{name: other, hostname: b.example, port: PORT, protocol: HTTPS, tls: {certificateRefs: [{name: cert, namespace: default}]}}",
        ],
        &[("cert.yaml", identity.secret("cert", &[]))],
    );
    for text in [
        "Gateway/istio-system/tls: spec.listeners[0].tls.certificateRefs[0].name: InvalidCertificateRef: Secret istio-system/nowhere not found",
        "spec.listeners[1].tls.certificateRefs[0].name: RefNotPermitted: Secret default/cert is in another namespace",
    ] {
        scene.gateway.wait_for_log(text).unwrap();
    }
    // Not in plain text instead.
    assert!(std::net::TcpStream::connect(scene.address).is_err());
    // Once the secret is there, so is the listener.
    scene.gateway.write("late.yaml", &identity.secret("nowhere", &[])).unwrap();
    let client = TlsClient::new(&authority, None, &[]).unwrap();
    let served = wait_until(Instant::now() + PATIENCE, || client.get(scene.address, "test.example", "").ok());
    assert!(served.unwrap().text.ends_with("fine"));
}

#[test]
fn a_certificate_that_has_expired_is_pointed_out() {
    let authority = Authority::new().unwrap();
    let identity = authority.issue_until(&["test.example"], 2020).unwrap();
    let scene = Scene::new(&[ONE], &[("cert.yaml", identity.secret("cert", &[]))]);
    scene
        .gateway
        .wait_for_log(
            "the certificate O=tests,CN=test.example (test.example) expired on 2020-01-01T00:00:00Z",
        )
        .unwrap();
    let stats = scene.gateway.admin_get("/stats").unwrap().text();
    assert!(stats.contains("server.days_until_first_cert_expiring: 0"), "{stats}");
}

/// One name for everybody, and one whose clients show certificates.
fn public_and_admin(validation: &str) -> [String; 2] {
    let listener = |name: &str, rest: &str| {
        format!(
            "{{name: {name}, port: PORT, protocol: HTTPS, allowedRoutes: {{namespaces: {{from: All}}}}, {rest}}}"
        )
    };
    [
        listener("public", "tls: {certificateRefs: [{name: cert}]}"),
        listener(
            "admin",
            &format!("hostname: '*.example.com', tls: {{certificateRefs: [{{name: cert}}], {validation}}}"),
        ),
    ]
}

const VALIDATION: &str =
    "frontendValidation: {caCertificateRefs: [{kind: ConfigMap, group: '', name: clients}]}";

#[test]
fn a_listener_that_cannot_check_its_clients_serves_nobody() {
    let authority = Authority::new().unwrap();
    let identity = authority.issue(&["admin.example.com", "test.example"]).unwrap();
    // The ConfigMap is missing.
    let items = public_and_admin(VALIDATION);
    let scene = Scene::new(&[&items[0], &items[1]], &[("cert.yaml", identity.secret("cert", &[]))]);
    scene.gateway.wait_for_log("InvalidCertificateRef: ConfigMap istio-system/clients not found").unwrap();
    let client = TlsClient::new(&authority, None, &[]).unwrap();
    assert!(client.get(scene.address, "test.example", "").unwrap().text.starts_with("HTTP/1.1 200"));
    // Neither under its name nor through the door of the other one.
    assert!(client.connect(scene.address, "admin.example.com").is_err());
    for host in ["admin.example.com", "ADMIN.example.com:443"] {
        let mut connection = client.connect(scene.address, "test.example").unwrap();
        connection.send(&format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).unwrap();
        let answer = connection.finish().unwrap().text;
        assert!(answer.starts_with("HTTP/1.1 421"), "{host}: {answer}");
    }
    // A host that is a part of the name and no name.
    let mut connection = client.connect(scene.address, "test.example").unwrap();
    connection.send("GET / HTTP/1.1\r\nhost: .example.com\r\nconnection: close\r\n\r\n").unwrap();
    assert!(connection.finish().unwrap().text.starts_with("HTTP/1.1 400"));
    scene
        .gateway
        .write(
            "tls.yaml",
            &listeners(scene.lease.port(), &[&items[0], &public_and_admin("frontendValidation: {}")[1]]),
        )
        .unwrap();
    scene.gateway.wait_for_log("frontendValidation.caCertificateRefs: must have at least one item").unwrap();
}

#[test]
fn open_connections_are_not_served_under_rules_that_nobody_checked_them_by() {
    let authority = Authority::new().unwrap();
    let identity = authority.issue(&["test.example"]).unwrap();
    let pem = authority.pem();
    let scene = Scene::new(&[ONE], &[("cert.yaml", identity.secret("cert", &[("ca.crt", &pem)]))]);
    let client = TlsClient::new(&authority, None, &[]).unwrap();
    let mut open = client.connect(scene.address, "test.example").unwrap();
    let get = "GET / HTTP/1.1\r\nhost: test.example\r\n\r\n";
    open.send(get).unwrap();
    open.read_until("fine").unwrap();
    let mutual = ONE.replace("tls: {", "tls: {options: {gateway.istio.io/tls-terminate-mode: MUTUAL}, ");
    scene.gateway.write("tls.yaml", &listeners(scene.lease.port(), &[&mutual])).unwrap();
    let known = TlsClient::new(&authority, Some(&identity), &[]).unwrap();
    let asks = wait_until(Instant::now() + PATIENCE, || {
        let nobody = TlsClient::new(&authority, None, &[]).ok()?.get(scene.address, "test.example", "");
        nobody.map_or(Some(()), |answer| answer.text.is_empty().then_some(()))
    });
    assert!(asks.is_some());
    open.send(get).unwrap();
    assert!(open.read_until("Misdirected Request").unwrap().starts_with("HTTP/1.1 421"));
    assert!(known.get(scene.address, "test.example", "").unwrap().text.starts_with("HTTP/1.1 200"));
}
