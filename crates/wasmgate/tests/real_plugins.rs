//! Plug-ins that nobody here wrote do their work.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::time::Duration;

use wasmgate_testkit::client::{RawAnswer, once, request};
use wasmgate_testkit::gateway::{GatewayBuilder, RunningGateway};
use wasmgate_testkit::upstream::{Behaviour, Upstream};
use wasmgate_testkit::{manifests, plugins};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");
/// A debug build compiles 25 MB of rules slowly.
const START: Duration = Duration::from_secs(300);

/// Says what it got; on `/leak` it says what no backend should.
fn backend() -> Upstream {
    Upstream::start(Behaviour::Script(|request| {
        let body = if request.contains("/leak") {
            "You have an error in your SQL syntax; check the manual that corresponds to your MySQL server version"
                .to_owned()
        } else {
            request.replace("\r\n", "\n")
        };
        Some(format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    }))
    .unwrap()
}

fn gateway(upstream: &Upstream, name: &str, module: &str, config: &str) -> RunningGateway {
    let url = format!("file://{}", plugins::real().join(module).display());
    let annotation = "  namespace: istio-system\n  annotations: {wasmgate.dev/callback-time-max: 5s}\n";
    let plugin = manifests::plugin(name, &url, &format!("  pluginConfig:\n{config}"));
    GatewayBuilder::new(PROGRAM)
        .workers(1)
        .backend(upstream.address())
        .manifest("auth.yaml", manifests::auth_service(Some(upstream.address())))
        .manifest("plugin.yaml", plugin.replace("  namespace: istio-system\n", annotation))
        .patience(START)
        .argument("--startup-wait=300")
        .run()
        .unwrap()
}

fn get(gateway: &RunningGateway, path: &str, headers: &[(&str, &str)]) -> RawAnswer {
    once(gateway.address(), &request("GET", path, headers, "")).unwrap()
}

#[test]
fn coraza_blocks_attacks_and_lets_clean_traffic_pass() {
    let upstream = backend();
    let config = "    directives_map:
      default:
      - Include @recommended-conf
      - Include @crs-setup-conf
      - SecRuleEngine On
      - SecResponseBodyAccess On
      - Include @owasp_crs/*.conf
    default_directives: default
";
    let gateway = gateway(&upstream, "waf", "coraza.wasm", config);
    assert_eq!(get(&gateway, "/?q=hello", &[]).status, 200);
    assert_eq!(get(&gateway, "/?id=1%27%20OR%20%271%27=%271", &[]).status, 403, "SQL injection in a query");
    assert_eq!(get(&gateway, "/?x=%3Cscript%3Ealert(1)%3C/script%3E", &[]).status, 403, "script in a query");
    let form = [("user-agent", "test"), ("content-type", "application/x-www-form-urlencoded")];
    let post = |body: &str| once(gateway.address(), &request("POST", "/form", &form, body)).unwrap();
    assert_eq!(post("q=1' UNION SELECT password FROM users--").status, 403, "SQL injection in a body");
    // Without a body this plug-in looks at the arguments when the response comes.
    let bodies = upstream.requests().iter().filter(|r| r.starts_with("POST")).count();
    assert_eq!(bodies, 0, "the body did not get to the backend");
    assert_eq!(post("q=hello").status, 200);
    let leak = get(&gateway, "/leak", &[]);
    assert!(!leak.text().contains("SQL syntax"), "a database error in a response: {}", leak.text());
    let status = gateway.plugin("istio-system.waf").unwrap();
    assert_eq!((&status["faults"]["total"], &status["abi"]), (&0.into(), &"0.2.0".into()));
}

#[test]
fn every_plug_in_of_the_catalogue_starts_or_says_what_its_configuration_lacks() {
    let upstream = backend();
    let mut names: Vec<String> = std::fs::read_dir(plugins::real().join("higress"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 14);
    let mut manifests = String::new();
    for name in &names {
        let url = format!("file://{}", plugins::real().join("higress").join(name).display());
        manifests.push_str("---\n");
        manifests.push_str(&manifests::plugin(
            name.trim_end_matches(".wasm"),
            &url,
            "  failStrategy: FAIL_OPEN\n",
        ));
    }
    let gateway = GatewayBuilder::new(PROGRAM)
        .workers(1)
        .backend(upstream.address())
        .manifest("plugins.yaml", manifests)
        .patience(START)
        .argument("--startup-wait=300")
        .run()
        .unwrap();
    for name in &names {
        let plugin = gateway.plugin(&format!("istio-system.{}", name.trim_end_matches(".wasm"))).unwrap();
        let reason = plugin["reason"].as_str().unwrap();
        assert!(["", "ConfigureFailed"].contains(&reason), "{name}: {reason}: {}", plugin["message"]);
        if reason.is_empty() {
            assert_eq!(plugin["abi"], "0.2.100", "{name}");
        }
    }
    let log = gateway.log();
    assert!(!log.contains("is not provided"), "{log}");
}

#[test]
fn the_catalogues_transformer_changes_requests_and_responses() {
    let upstream = backend();
    let config = "    reqRules:
    - operate: add
      headers: [{key: x-added, value: yes-it-is}]
    - operate: remove
      headers: [{key: x-secret}]
    - operate: add
      querys: [{key: added, value: query}]
    respRules:
    - operate: add
      headers: [{key: x-response, value: seen}]
";
    let gateway = gateway(&upstream, "transformer", "higress/transformer.wasm", config);
    let answer = get(&gateway, "/a?b=c", &[("x-secret", "1")]);
    let seen = answer.text();
    assert!(seen.contains("x-added: yes-it-is") && !seen.contains("x-secret"), "{seen}");
    assert!(seen.starts_with("GET /a?") && seen.contains("added=query"), "{seen}");
    assert_eq!(answer.header("x-response"), Some("seen"));
}

#[test]
fn the_catalogues_masking_denies_words_in_bodies() {
    let upstream = backend();
    let config = "    deny_raw: true
    deny_openai: false
    deny_code: 451
    deny_raw_message: not here
    deny_words: [forbidden-word]
    replace_roles: []
";
    let gateway = gateway(&upstream, "masking", "higress/ai-data-masking.wasm", config);
    let headers = [("content-type", "text/plain"), ("user-agent", "test")];
    let post = |body: &str| once(gateway.address(), &request("POST", "/x", &headers, body)).unwrap();
    assert_eq!(post("something clean").status, 200);
    let denied = post("this has a forbidden-word in it");
    assert_eq!((denied.status, denied.text().contains("not here")), (451, true), "{}", denied.text());
}

#[test]
fn examples_of_the_rust_sdk_do_what_they_say() {
    let upstream = backend();
    for version in ["0.1.4", "0.2.0"] {
        let start = |name: &str| {
            gateway(&upstream, "example", &format!("rust-sdk/{version}/{name}.wasm"), "    a: b\n")
        };
        let headers = start("http_headers");
        let hello = get(&headers, "/hello", &[]);
        assert_eq!(
            (hello.text().as_str(), hello.header("powered-by")),
            ("Hello, World!\n", Some("proxy-wasm"))
        );
        assert!(get(&headers, "/other", &[]).text().starts_with("GET /other"), "{version}");
        let body = start("http_body");
        let redacted = get(&body, "/a-secret", &[]).text();
        assert!(
            redacted.starts_with("Original message body (") && redacted.ends_with("redacted."),
            "{redacted}"
        );
        assert!(get(&body, "/nothing", &[]).text().starts_with("GET /nothing"), "{version}");
        let config = get(&start("http_config"), "/", &[]);
        assert_eq!(config.header("custom-header"), Some("{\"a\":\"b\"}"), "{version}");
        start("hello_world").wait_for_log("Hello, World!").unwrap();
        // It calls a cluster that it alone knows, and takes no for no answer.
        let random = start("http_auth_random");
        assert_eq!(get(&random, "/", &[]).status, 503, "{version}");
        random.wait_for_log("there is no cluster \"httpbin\"").unwrap();
    }
}
