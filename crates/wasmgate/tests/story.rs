//! The story that must always work: a plug-in, an image, a registry with credentials, a gateway that enforces it.
//! Answers are those of spec: envoy-observed §2, byte for byte but for `server`, `date` and ids.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::path::Path;

use wasmgate_testkit::client::{RawClient, http2, once, request};
use wasmgate_testkit::docker_registry::{DockerRegistry, PASSWORD, USERNAME};
use wasmgate_testkit::gateway::{GatewayBuilder, RunningGateway};
use wasmgate_testkit::{manifests, plugins};

use wasmgate_artifact::{Image, ImageKind, Reference, RegistryCredential, push};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");
const NAME: &str = "istio-system.header-authorization";
const CLUSTER: &str = "outbound|8000||httpbin.default.svc.cluster.local";
const DENIED: &str = "Forbidden by ASM Wasm Plugin";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn backend(runtime: &tokio::runtime::Runtime) -> wasmgate_sandbox::Backend {
    runtime.block_on(wasmgate_sandbox::Backend::start(([127, 0, 0, 1], 0).into())).unwrap()
}

fn push_module(runtime: &tokio::runtime::Runtime, reference: &str, module: &Path, kind: ImageKind) {
    let image = Image::package(&std::fs::read(module).unwrap(), kind).unwrap();
    let credential =
        RegistryCredential::Basic { username: USERNAME.to_owned(), password: PASSWORD.to_owned() };
    runtime.block_on(push(&image, &Reference::parse(reference).unwrap(), credential, false)).unwrap();
}

/// A gateway that enforces a build of the plug-in from a file.
fn enforcing(
    runtime: &tokio::runtime::Runtime,
    module: &Path,
) -> (RunningGateway, wasmgate_sandbox::Backend) {
    let backend = backend(runtime);
    let url = format!("file://{}", module.display());
    let gateway = GatewayBuilder::new(PROGRAM)
        .backend(backend.address())
        .manifest("plugin.yaml", manifests::plugin("header-authorization", &url, "  phase: AUTHN\n"))
        .run()
        .unwrap();
    (gateway, backend)
}

#[test]
fn a_go_plug_in_from_a_private_registry_is_enforced() {
    let runtime = runtime();
    let registry = DockerRegistry::start().unwrap();
    let backend = backend(&runtime);
    let reference = format!("{}/test-oci/header-authorization:v0.0.1", registry.name());
    push_module(&runtime, &reference, plugins::header_authorization_go(), ImageKind::Docker);
    let plugin = manifests::plugin(
        "header-authorization",
        &format!("oci://{reference}"),
        "  imagePullPolicy: IfNotPresent\n  imagePullSecret: wasm-secret\n  phase: AUTHN\n",
    );
    let gateway = GatewayBuilder::new(PROGRAM)
        .backend(backend.address())
        .manifest("secret.yaml", manifests::pull_secret("wasm-secret", &registry.name(), USERNAME, PASSWORD))
        .manifest("plugin.yaml", plugin)
        .run()
        .unwrap();
    let denied = gateway.get("/status/418", &[]).unwrap();
    assert_eq!((denied.status, denied.text().as_str()), (403, DENIED));
    assert_eq!(gateway.get("/status/418", &[("allow", "true")]).unwrap().status, 418);

    let status = gateway.plugin(NAME).unwrap();
    assert_eq!(status["state"], "ready");
    assert_eq!(status["abi"], "0.2.0");
    assert_eq!(status["layout"], "docker");
    assert!(status["digest"].as_str().unwrap().starts_with("sha256:"), "{status}");
    assert_eq!(status["module_sha256"].as_str().unwrap().len(), 64);
    assert_eq!(status["workers"].as_array().unwrap().len(), 2);
    assert!(status["workers"][0]["memory_bytes"].as_u64().unwrap() > 1 << 20, "{status}");
    assert_eq!(status["faults"]["total"], 0);

    // At the usual level the plug-in's debug line is not there; after one POST it is, in Istio's format.
    assert!(!gateway.log().contains("only true can passthrough"));
    let list = gateway.admin_post("/logging?wasm=debug").unwrap();
    assert_eq!(list.status, 200);
    assert!(
        list.text().starts_with("active loggers:\n") && list.text().contains("\n  wasm: debug\n"),
        "{}",
        list.text()
    );
    assert_eq!(list.header("content-type"), Some("text/plain; charset=UTF-8"));
    assert_eq!(list.header("cache-control"), Some("no-cache, max-age=0"));
    gateway.get("/status/418", &[("allow", "false")]).unwrap();
    let line = gateway
        .wait_for_log(&format!(
            "wasm log {NAME}: request header: 'allow' is false, only true can passthrough"
        ))
        .unwrap();
    let parts: Vec<&str> = line.split('\t').collect();
    assert_eq!(parts.len(), 5, "{line}");
    assert!(
        parts[0].ends_with('Z')
            && parts[0].len() == 27
            && parts[1] == "debug"
            && parts[4].starts_with("thread="),
        "{line}"
    );
}

/// What every build of the plug-in answers.
fn check_answers(gateway: &RunningGateway) {
    let get = |headers: &[(&str, &str)]| gateway.get("/status/418", headers).unwrap();
    let denied = get(&[]);
    assert!(denied.head.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{}", denied.head);
    assert_eq!(denied.header_names(), ["content-type", "content-length", "date", "server"]);
    assert_eq!(
        (denied.header("content-type"), denied.header("content-length")),
        (Some("text/plain"), Some("28"))
    );
    assert_eq!(denied.text(), DENIED);

    let allowed = get(&[("allow", "true")]);
    assert!(allowed.head.starts_with("HTTP/1.1 418 Unknown\r\n"), "{}", allowed.head);
    assert_eq!(allowed.body.len(), 135);
    assert_eq!(allowed.header("server"), Some("wasmgate"));
    assert_eq!(allowed.header_names().last(), Some(&"x-envoy-upstream-service-time"));
    assert!(!allowed.head.contains("connection:"), "{}", allowed.head);

    for (headers, status) in [
        (&[("allow", "false")][..], 403),
        (&[("allow", "TRUE")], 403),
        (&[("allow", "")], 403),
        (&[("ALLOW", "true")], 418),
        (&[("allow", "   true  ")], 418),
        (&[("allow", "true"), ("allow", "no")], 418),
        (&[("allow", "no"), ("allow", "true")], 403),
        (&[("allow", "true,true")], 403),
    ] {
        assert_eq!(get(headers).status, status, "{headers:?}");
    }
}

fn check_framing(gateway: &RunningGateway) {
    let address = gateway.address();
    let mut client = RawClient::connect(address).unwrap();
    let head = client.request(&request("HEAD", "/status/418", &[], "")).unwrap();
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (403, Some("28"), 0));
    // A denial keeps the connection; one before the body has been read does not.
    let again = client.request(&request("GET", "/status/418", &[], "")).unwrap();
    assert_eq!((again.status, again.header("connection")), (403, None));
    let post = client.request(&request("POST", "/post", &[], "hello=world")).unwrap();
    assert_eq!(post.header_names(), ["content-type", "content-length", "date", "server", "connection"]);
    assert_eq!(post.header("connection"), Some("close"));
    assert!(client.is_closed());

    let close = once(address, &request("GET", "/status/418", &[("connection", "close")], "")).unwrap();
    assert_eq!(close.header_names(), ["content-type", "content-length", "date", "server", "connection"]);

    let old = once(address, b"GET /status/418 HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
    assert!(old.head.starts_with("HTTP/1.1 426 Upgrade Required\r\n"), "{}", old.head);
    assert_eq!(old.header_names(), ["content-length", "content-type", "date", "server", "connection"]);
    assert_eq!(old.text(), "Upgrade Required");

    let no_host = once(address, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(no_host.head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{}", no_host.head);

    let posted = once(address, &request("POST", "/anything", &[("allow", "true")], "hello=world")).unwrap();
    assert!(posted.text().contains("\"data\": \"hello=world\""), "{}", posted.text());
    let chunked = b"POST /anything HTTP/1.1\r\nHost: a\r\nallow: true\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert!(once(address, chunked).unwrap().text().contains("\"data\": \"hello\""));
}

fn check_http2(gateway: &RunningGateway) {
    let denied = http2(gateway.address(), "/status/418", &[]).unwrap();
    let names: Vec<&str> = denied.headers.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!((denied.status, names), (403, vec!["content-type", "content-length", "date", "server"]));
    assert_eq!(denied.body, DENIED.as_bytes());
    let allowed = http2(gateway.address(), "/status/418", &[("allow", "true")]).unwrap();
    assert_eq!((allowed.status, allowed.body.len()), (418, 135));
}

#[test]
fn the_go_and_the_rust_build_give_envoys_answers() {
    let runtime = runtime();
    for module in [plugins::header_authorization_go(), plugins::header_authorization_rust()] {
        let (gateway, _backend) = enforcing(&runtime, module);
        check_answers(&gateway);
        check_framing(&gateway);
        check_http2(&gateway);
    }
}

#[test]
fn the_committed_plug_in_behaves_as_its_source() {
    let committed =
        plugins::repository().join("examples/plugins/rust/header-authorization/header-authorization.wasm");
    assert!(
        std::fs::metadata(&committed).unwrap().len() < 200 << 10,
        "the demo's plug-in stays under 200 KiB"
    );
    let runtime = runtime();
    let answers = [committed.as_path(), plugins::header_authorization_rust()].map(|module| {
        let (gateway, _backend) = enforcing(&runtime, module);
        check_answers(&gateway);
        // What is a time of its own in every answer: the header's presence counts, not its value.
        let times = ["date:", "x-envoy-upstream-service-time:"];
        let comparable = |line: &str| {
            times.iter().find(|t| line.starts_with(**t)).map_or_else(|| line.to_owned(), |t| (*t).to_owned())
        };
        let strip = |text: String| text.lines().map(comparable).collect::<Vec<_>>().join("\n");
        [&[][..], &[("allow", "x")], &[("allow", "true")]]
            .map(|h| strip(gateway.get("/status/200", h).unwrap().head))
    });
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn the_access_log_has_the_fields_of_an_istio_gateway_in_order() {
    let runtime = runtime();
    let (gateway, backend) = enforcing(&runtime, plugins::header_authorization_rust());
    gateway.get("/status/418", &[]).unwrap();
    let line = |n: usize| {
        let lines = wasmgate_testkit::peers::process::wait_until(
            std::time::Instant::now() + wasmgate_testkit::gateway::PATIENCE,
            || Some(gateway.access_log()).filter(|l| l.len() > n),
        );
        serde_json::from_str::<serde_json::Value>(&lines.unwrap()[n]).unwrap()
    };
    // Workers hand over their lines independently: the second request waits for the first one's.
    let denied = line(0);
    gateway.get("/status/418", &[("allow", "true")]).unwrap();
    let keys: Vec<&str> = denied.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "bytes_received",
            "bytes_sent",
            "downstream_local_address",
            "downstream_remote_address",
            "duration",
            "istio_policy_status",
            "method",
            "path",
            "protocol",
            "request_id",
            "requested_server_name",
            "response_code",
            "response_flags",
            "route_name",
            "start_time",
            "trace_id",
            "upstream_cluster",
            "upstream_host",
            "upstream_local_address",
            "upstream_service_time",
            "upstream_response_time",
            "upstream_transport_failure_reason",
            "user_agent",
            "x_forwarded_for",
            "authority_for",
        ]
    );
    assert!(denied.as_object().unwrap().values().all(serde_json::Value::is_string));
    for (key, value) in [
        ("response_code", "403"),
        ("response_flags", "-"),
        ("bytes_sent", "28"),
        ("route_name", "httpbin"),
        ("upstream_cluster", CLUSTER),
        ("upstream_host", "-"),
        ("method", "GET"),
        ("path", "/status/418"),
        ("protocol", "HTTP/1.1"),
        ("authority_for", "test.example"),
    ] {
        assert_eq!(denied[key], value, "{key}: {denied}");
    }
    let allowed = line(1);
    let endpoint = backend.address().to_string();
    for (key, value) in [
        ("response_code", "418"),
        ("bytes_sent", "135"),
        ("upstream_host", endpoint.as_str()),
        ("upstream_cluster", CLUSTER),
    ] {
        assert_eq!(allowed[key], value, "{key}: {allowed}");
    }
}

#[test]
fn every_admin_endpoint_answers() {
    let runtime = runtime();
    let (gateway, _backend) = enforcing(&runtime, plugins::header_authorization_rust());
    gateway.get("/status/418", &[]).unwrap();
    for (path, text) in [
        ("/ready", "LIVE"),
        ("/help", "/plugins"),
        ("/", "/plugins"),
        ("/listeners", "127.0.0.1_"),
        ("/clusters", &format!("{CLUSTER}::")),
        ("/config_dump", "\"istio-system.header-authorization\""),
        ("/config_dump", "\"type\": \"PathPrefix\""),
        ("/server_info", "\"state\": \"LIVE\""),
        ("/server_info", "\"namespace\": \"istio-system\""),
        ("/stats", "http.downstream_rq_total: 1"),
        ("/stats?filter=downstream_rq_4xx", "http.downstream_rq_4xx: 1"),
        ("/stats/prometheus", "wasmgate_responses_total{class=\"4xx\"} 1"),
        ("/stats?format=prometheus", "# TYPE wasmgate_plugin_ready gauge"),
        ("/plugins", "\"state\": \"ready\""),
    ] {
        let answer = gateway.admin_get(path).unwrap();
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
    }
    let prometheus = gateway.admin_get("/stats/prometheus").unwrap();
    assert_eq!(
        prometheus.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "the format that has counters named without _total in their types"
    );
    assert!(prometheus.text().ends_with("# EOF\n"));
    let filtered = gateway.admin_get("/stats?filter=downstream_rq_4xx").unwrap().text();
    assert!(filtered.lines().all(|line| line.contains("downstream_rq_4xx")), "{filtered}");
    assert_eq!(filtered.lines().count(), 2, "of the gateway, and of its listener: {filtered}");
    let anchored = gateway.admin_get("/stats?filter=^http.downstream_rq_4xx$").unwrap().text();
    assert_eq!(anchored, "http.downstream_rq_4xx: 1\n");
    for (path, status, text) in [
        ("/nothing", 404, "invalid path"),
        ("/logging", 405, "POST required"),
        ("/stats?filter=(", 400, "Invalid re2 regex"),
    ] {
        let answer = gateway.admin_get(path).unwrap();
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
    }
    for (query, text) in [("wasm=loud", "unknown logger level"), ("nope=debug", "unknown logger")] {
        let answer = gateway.admin_post(&format!("/logging?{query}")).unwrap();
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains(text), "{}", answer.text());
    }
}

#[test]
fn sigterm_ends_the_gateway_with_the_last_answer_given() {
    let runtime = runtime();
    let (mut gateway, _backend) = enforcing(&runtime, plugins::header_authorization_rust());
    let address = gateway.address();
    let slow =
        std::thread::spawn(move || once(address, &request("GET", "/delay/1", &[("allow", "true")], "")));
    // The request must be on its way before the signal.
    gateway.wait_for_answer("/status/200", &[("allow", "true")], |a| a.status == 200).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let status = gateway.terminate().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(slow.join().unwrap().unwrap().status, 200, "a request in progress is finished");
    assert!(gateway.log().contains("draining") && gateway.log().contains("stopped"), "{}", gateway.log());
}

#[test]
fn a_denied_upload_reads_its_answer_while_it_is_still_sending() {
    let runtime = runtime();
    let (gateway, _backend) = enforcing(&runtime, plugins::header_authorization_rust());
    let mut client = RawClient::connect(gateway.address()).unwrap();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").unwrap();
    // The answer is on its way, and the connection closed, before these arrive.
    for _ in 0..3 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        client.send(b"5\r\nhello\r\n").unwrap();
    }
    let answer = client.answer(false).unwrap();
    assert_eq!((answer.status, answer.header("connection")), (403, Some("close")));
    assert!(client.is_closed());
}

#[test]
fn a_plug_in_that_a_denied_request_never_reached_logs_it_all_the_same() {
    let runtime = runtime();
    let backend = backend(&runtime);
    let url = |module: &Path| format!("file://{}", module.display());
    let denies = manifests::plugin("denies", &url(plugins::header_authorization_rust()), "  phase: AUTHN\n");
    let gateway = GatewayBuilder::new(PROGRAM)
        .backend(backend.address())
        .manifest("denies.yaml", denies)
        .manifest("later.yaml", manifests::plugin("later", &url(plugins::edge()), ""))
        .run()
        .unwrap();
    assert_eq!(gateway.get("/denied", &[("x-edge", "say-end")]).unwrap().status, 403);
    gateway.wait_for_log("istio-system.later: edge sees the end of /denied").unwrap();
}
