//! Versions change under load, and a broken one never takes the place of one that works.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use wasmgate_artifact::{Image, ImageKind, Reference, RegistryCredential, push};
use wasmgate_sandbox::{Authentication, Fault, FaultTarget, Registry, RegistryOptions};
use wasmgate_testkit::client::{RawClient, once, request};
use wasmgate_testkit::gateway::{GatewayBuilder, PATIENCE, RunningGateway};
use wasmgate_testkit::load::Load;
use wasmgate_testkit::peers::process::wait_until;
use wasmgate_testkit::upstream::{Behaviour, Upstream};
use wasmgate_testkit::{manifests, plugins};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");
const NAME: &str = "istio-system.header-authorization";
const DENIED: &str = "Forbidden by ASM Wasm Plugin";

struct Scene {
    runtime: tokio::runtime::Runtime,
    registry: Registry,
    upstream: Upstream,
}

impl Scene {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let authentication = Authentication::Bearer { username: "u".to_owned(), password: "p".to_owned() };
        let registry = runtime
            .block_on(Registry::start(([127, 0, 0, 1], 0).into(), RegistryOptions { authentication }))
            .unwrap();
        Self { runtime, registry, upstream: Upstream::ok("fine").unwrap() }
    }

    fn name(&self) -> String {
        format!("localhost:{}", self.registry.address().port())
    }

    fn reference(&self, tag: &str) -> String {
        format!("{}/team/header-authorization:{tag}", self.name())
    }

    fn push(&self, tag: &str, bytes: &[u8]) {
        let image = Image::package(bytes, ImageKind::Artifact).unwrap();
        let credential = RegistryCredential::Basic { username: "u".to_owned(), password: "p".to_owned() };
        let reference = Reference::parse(&self.reference(tag)).unwrap();
        self.runtime.block_on(push(&image, &reference, credential, false)).unwrap();
    }

    fn secret(&self, password: &str) -> String {
        manifests::pull_secret("wasm-secret", &self.name(), "u", password)
    }

    fn plugin(&self, tag: &str, spec: &str) -> String {
        let spec = format!("  imagePullSecret: wasm-secret\n{spec}");
        manifests::plugin("header-authorization", &format!("oci://{}", self.reference(tag)), &spec)
    }

    fn gateway(&self) -> RunningGateway {
        self.push("v0.0.1", &module(plugins::header_authorization_rust().into()));
        GatewayBuilder::new(PROGRAM)
            .backend(self.upstream.address())
            .manifest("secret.yaml", self.secret("p"))
            .manifest("plugin.yaml", self.plugin("v0.0.1", ""))
            .run()
            .unwrap()
    }
}

fn module(path: PathBuf) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// The same module with another answer: a version of its own.
fn changed(bytes: &[u8], body: &str) -> Vec<u8> {
    assert_eq!(body.len(), DENIED.len());
    let at = bytes.windows(DENIED.len()).position(|w| w == DENIED.as_bytes()).unwrap();
    let mut out = bytes.to_vec();
    out[at..at + body.len()].copy_from_slice(body.as_bytes());
    out
}

#[test]
fn a_new_version_takes_over_under_load_without_a_failed_request() {
    let scene = Scene::new();
    let gateway = scene.gateway();
    let second = "Forbidden by version 0.0.2!!";
    scene.push("v0.0.2", &changed(&module(plugins::header_authorization_rust().into()), second));
    let load = Load::start(gateway.address(), 4, "/", &[]);
    for round in 0..6 {
        let (tag, body) = if round % 2 == 0 { ("v0.0.2", second) } else { ("v0.0.1", DENIED) };
        gateway.write("plugin.yaml", &scene.plugin(tag, "")).unwrap();
        gateway.wait_for_answer("/", &[], |a| a.text() == body).unwrap();
    }
    let report = load.stop();
    assert_eq!(report.failures, Vec::<String>::new());
    let answers: Vec<_> = report.answers.keys().cloned().collect();
    assert_eq!(answers, [(403, DENIED.to_owned()), (403, second.to_owned())], "{report:?}");
    assert_eq!(gateway.plugin(NAME).unwrap()["state"], "ready");
}

#[test]
fn a_stream_finishes_on_the_version_that_it_began_with() {
    let scene = Scene::new();
    let gateway = scene.gateway();
    let edge = format!("file://{}", plugins::edge().display());
    gateway
        .write("plugin.yaml", &manifests::plugin("header-authorization", &edge, "  pluginConfig: {v: 1}\n"))
        .unwrap();
    gateway.wait_for_answer("/", &[("x-edge", "property")], |a| a.text().contains("{\"v\":1}")).unwrap();
    // Half a body: the stream is inside the first version.
    let mut client = RawClient::connect(gateway.address()).unwrap();
    client
        .send(b"POST / HTTP/1.1\r\nHost: a\r\nx-edge: buffer-body\r\nContent-Length: 6\r\n\r\nabc")
        .unwrap();
    gateway
        .write("plugin.yaml", &manifests::plugin("header-authorization", &edge, "  pluginConfig: {v: 2}\n"))
        .unwrap();
    gateway.wait_for_answer("/", &[("x-edge", "property")], |a| a.text().contains("{\"v\":2}")).unwrap();
    client.send(b"def").unwrap();
    assert_eq!(client.answer(false).unwrap().text(), "6 bytes");
    // Once it is over, the old VMs go: one per worker is left.
    let settled = wait_until(Instant::now() + PATIENCE, || {
        let plugin = gateway.plugin(NAME)?;
        plugin["workers"].as_array()?.iter().all(|w| w["vms"] == 1).then_some(())
    });
    assert!(settled.is_some(), "{:?}", gateway.plugin(NAME));
}

#[test]
fn deleting_the_manifest_removes_the_plug_in() {
    let scene = Scene::new();
    let gateway = scene.gateway();
    assert_eq!(gateway.get("/", &[]).unwrap().status, 403);
    gateway.remove("plugin.yaml").unwrap();
    gateway.wait_for_answer("/", &[], |a| a.text() == "fine").unwrap();
    assert_eq!(gateway.plugin(NAME), None);
    gateway.wait_for_log("plugin istio-system.header-authorization removed").unwrap();
}

/// Breaks the manifest in one way; the old version must serve, and everybody must be told.
fn breaks(gateway: &RunningGateway, manifest: &str, reason: &str, message: &str) {
    gateway.write("plugin.yaml", manifest).unwrap();
    // The reason alone may still be that of the manifest before.
    let status = wait_until(Instant::now() + PATIENCE, || {
        gateway.plugin(NAME).filter(|p| p["message"].as_str().is_some_and(|m| m.contains(message)))
    });
    let status = status.unwrap_or_else(|| panic!("{message}: {}", gateway.log()));
    assert_eq!((status["reason"].as_str(), status["state"].as_str()), (Some(reason), Some("degraded")));
    let url = manifest.lines().position(|l| l.trim_start().starts_with("url:")).unwrap() + 1;
    let place = format!("plugin.yaml:{url}:8");
    let told = |line: &str| [message, &place, "goes on serving"].iter().all(|part| line.contains(part));
    let line = wait_until(Instant::now() + PATIENCE, || gateway.log().lines().any(told).then_some(()));
    assert!(line.is_some(), "{message}: {}", gateway.log());
    let denied = gateway.get("/", &[]).unwrap();
    assert_eq!((denied.status, denied.text().as_str()), (403, DENIED), "the old version goes on serving");
    // And the same is said before anything is deployed.
    let output = std::process::Command::new(PROGRAM)
        .args(["check", "--config"])
        .arg(gateway.config())
        .arg("--cache-dir")
        .arg(gateway.config().join("../check-cache"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(message) && text.contains(&place), "{text}");
}

#[test]
fn a_version_that_cannot_be_had_or_started_never_replaces_one_that_works() {
    let scene = Scene::new();
    let gateway = scene.gateway();
    breaks(&gateway, &scene.plugin("v9.9.9", ""), "ManifestNotFound", "MANIFEST_UNKNOWN");
    scene.push("text", b"this is no WebAssembly at all, but text");
    breaks(&gateway, &scene.plugin("text", ""), "InvalidModule", "is invalid: it does not begin with");
    scene.push("broken", b"\0asm\x01\0\0\0\xff\xff\xff");
    breaks(&gateway, &scene.plugin("broken", ""), "InvalidModule", "does not compile");
    scene.push("no-abi", &wat::parse_str("(module (memory (export \"memory\") 1))").unwrap());
    breaks(
        &gateway,
        &scene.plugin("no-abi", ""),
        "UnsupportedABI",
        "missing or unknown Proxy-Wasm ABI version",
    );
    let import = "(module (import \"env\" \"no_such_function\" (func)) (memory (export \"memory\") 1) (func (export \"proxy_abi_version_0_2_1\")) (func (export \"malloc\") (param i32) (result i32) i32.const 8))";
    scene.push("import", &wat::parse_str(import).unwrap());
    breaks(
        &gateway,
        &scene.plugin("import", ""),
        "UnsupportedImport",
        "missing import: env.no_such_function",
    );
    let pin = format!("  sha256: {}\n", "ab".repeat(32));
    breaks(&gateway, &scene.plugin("v0.0.1", &pin), "DigestMismatch", "which does not match");
    let edge = format!("file://{}", plugins::edge().display());
    let rejects = manifests::plugin("header-authorization", &edge, "  pluginConfig: {mood: reject}\n");
    breaks(&gateway, &rejects, "ConfigureFailed", "edge does not like its configuration");
    let panics = manifests::plugin("header-authorization", &edge, "  pluginConfig: {mood: panic-at-start}\n");
    breaks(&gateway, &panics, "StartFailed", "edge panics while it starts");
    // A callback that is spelt wrong would leave the plug-in enforcing nothing.
    let allow = |names: &str| {
        let list = format!("{{wasmgate.dev/allowed-capabilities: \"{names}\"}}");
        let namespace = "  namespace: istio-system\n";
        scene.plugin("v0.0.1", "").replace(namespace, &format!("{namespace}  annotations: {list}\n"))
    };
    let misspelt = "there is no function proxy_on_request_header; did you mean proxy_on_request_headers?";
    breaks(&gateway, &allow("proxy_on_request_header"), "UnknownCapability", misspelt);
    // And back: whatever was broken, a good manifest serves at once.
    gateway.write("plugin.yaml", &scene.plugin("v0.0.1", "")).unwrap();
    gateway.wait_for_plugin(NAME, "state", "ready").unwrap();
    // Leaving a callback out is a choice, and is told.
    gateway.write("plugin.yaml", &allow("proxy_log")).unwrap();
    gateway.wait_for_log("which are never called: ").unwrap();
}

#[test]
fn wrong_credentials_and_missing_secrets_say_so() {
    let scene = Scene::new();
    let gateway = scene.gateway();
    scene.push("v0.0.2", &module(plugins::header_authorization_rust().into()));
    gateway.write("secret.yaml", &scene.secret("wrong")).unwrap();
    gateway.wait_for_plugin(NAME, "state", "degraded").unwrap();
    breaks(
        &gateway,
        &scene.plugin("v0.0.2", ""),
        "Unauthorized",
        "incorrect username or password); asked as user \"u\"",
    );
    gateway.remove("secret.yaml").unwrap();
    let status = gateway.wait_for_plugin(NAME, "reason", "SecretNotFound").unwrap();
    assert!(
        status["message"].as_str().unwrap().contains("secret istio-system/wasm-secret not found"),
        "{status}"
    );
    gateway.write("secret.yaml", &scene.secret("p")).unwrap();
    gateway.wait_for_plugin(NAME, "state", "ready").unwrap();
}

#[test]
fn a_manifest_that_is_wrong_is_reported_with_its_place_and_changes_nothing() {
    let scene = Scene::new();
    let gateway = scene.gateway();
    let good = scene.plugin("v0.0.1", "");
    for (manifest, message) in [
        (format!("{good}  bad: [unclosed\n"), "plugin.yaml:"),
        (good.replace("url: oci", "url: ftp"), "url contains unsupported scheme: ftp"),
        (format!("{good}  sha256: short\n"), "spec.sha256: sha256 field must be 64 characters long"),
        (
            good.replace("extensions.istio.io/v1alpha1", "extensions.istio.io/v1"),
            "apiVersion: \"v1\" of WasmPlugin is not supported; supported: v1alpha1",
        ),
        (format!("{good}  phase: LATER\n"), "spec.phase: Unsupported value: \"LATER\""),
        (format!("{good}  pluginConfig: [1]\n"), "spec.pluginConfig: must be of type object, but is a list"),
    ] {
        gateway.write("plugin.yaml", &manifest).unwrap();
        let line = gateway.wait_for_log(message).unwrap();
        assert!(line.contains("plugin.yaml:") && line.contains(": error: "), "{line}");
        assert_eq!(gateway.get("/", &[]).unwrap().text(), DENIED);
        let dump = gateway.admin_get("/config_dump").unwrap().text();
        assert!(dump.contains("plugin.yaml:"), "{dump}");
        let status = gateway.wait_for_plugin(NAME, "reason", "InvalidManifest").unwrap();
        assert_eq!(status["state"], "degraded");
        assert!(status["message"].as_str().unwrap().contains("plugin.yaml:"), "{status}");
        gateway.write("plugin.yaml", &good).unwrap();
        gateway.wait_for_plugin(NAME, "state", "ready").unwrap();
        wait_until(Instant::now() + PATIENCE, || {
            gateway.admin_get("/stats?filter=manifest_errors").ok().filter(|a| a.text().ends_with(": 0\n"))
        })
        .unwrap();
    }
}

#[test]
fn a_start_without_a_valid_plug_in_manifest_serves_nothing_until_it_is_repaired() {
    let scene = Scene::new();
    scene.push("v0.0.1", &module(plugins::header_authorization_rust().into()));
    let good = scene.plugin("v0.0.1", "");
    let nameless = good.replace("  name: header-authorization\n", "");
    assert_ne!(nameless, good);
    let another_version = good.replace("istio.io/v1alpha1", "istio.io/v1");
    assert_ne!(another_version, good);
    let schema = format!("{good}  phase: AUTHNN\n");
    for broken in [schema, format!("{good}  bad: [unclosed\n"), nameless, another_version] {
        let gateway = GatewayBuilder::new(PROGRAM)
            .backend(scene.upstream.address())
            .manifest("secret.yaml", scene.secret("p"))
            .manifest("plugin.yaml", &broken)
            .spawn()
            .unwrap();
        let line = gateway.wait_for_log("nothing is served until it is repaired or removed").unwrap();
        assert!(line.contains("plugin.yaml"), "{line}");
        assert_eq!(gateway.admin_get("/ready").unwrap().status, 503);
        assert!(RawClient::connect(gateway.address()).is_err(), "no listener is open");
        if broken.contains("AUTHNN") {
            assert_eq!(gateway.plugin(NAME).unwrap()["reason"], "InvalidManifest");
        }
        gateway.write("plugin.yaml", &good).unwrap();
        let first = wait_until(Instant::now() + PATIENCE, || gateway.get("/", &[]).ok());
        assert_eq!(first.unwrap().text(), DENIED);
        let ready = || gateway.admin_get("/ready").ok().filter(|a| a.status == 200);
        assert!(wait_until(Instant::now() + PATIENCE, ready).is_some());
    }
}

#[test]
fn a_second_gateway_on_the_same_port_does_not_share_its_traffic() {
    let scene = Scene::new();
    let first = scene.gateway();
    let second = GatewayBuilder::new(PROGRAM)
        .backend(scene.upstream.address())
        .manifest("gateway.yaml", manifests::gateway(first.address().port()))
        .spawn()
        .unwrap();
    second.wait_for_log(&format!("cannot listen on {}: Address already in use", first.address())).unwrap();
    for _ in 0..20 {
        assert_eq!(first.get("/", &[]).unwrap().text(), DENIED);
    }
}

#[test]
fn a_listener_whose_port_becomes_free_opens_without_a_change() {
    let scene = Scene::new();
    let gateway = scene.gateway();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    gateway.write("gateway.yaml", &manifests::gateway(address.port())).unwrap();
    gateway.wait_for_log(&format!("cannot listen on {address}: Address already in use")).unwrap();
    drop(taken);
    gateway.wait_for_log(&format!("listening on {address}")).unwrap();
    assert_eq!(once(address, &request("GET", "/", &[], "")).unwrap().text(), DENIED);
    let said = gateway.log().matches("Address already in use").count();
    assert_eq!(said, 1, "{}", gateway.log());
}

#[test]
fn a_listener_that_cannot_take_anothers_place_leaves_it_open() {
    let scene = Scene::new();
    let gateway = scene.gateway();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let load = Load::start(gateway.address(), 2, "/", &[]);
    gateway.write("gateway.yaml", &manifests::gateway(taken.local_addr().unwrap().port())).unwrap();
    let line = gateway.wait_for_log("Address already in use").unwrap();
    assert!(line.contains("what is open goes on serving until then"), "{line}");
    // An address that this machine does not have is called by its name.
    let elsewhere = manifests::gateway(gateway.address().port()).replace("127.0.0.1", "192.0.2.1");
    gateway.write("gateway.yaml", &elsewhere).unwrap();
    gateway.wait_for_log("Cannot assign requested address").unwrap();
    assert_eq!(gateway.get("/", &[]).unwrap().text(), DENIED);
    let listeners = gateway.admin_get("/listeners").unwrap().text();
    assert!(listeners.contains("cannot be opened, see the log"), "{listeners}");
    let left = format!("{} (removed, serves until the new ones are open)", gateway.address());
    assert!(listeners.contains(&left), "{listeners}");
    let report = load.stop();
    assert_eq!(report.failures, Vec::<String>::new());
    assert_eq!(report.answers.into_keys().collect::<Vec<_>>(), [(403, DENIED.to_owned())]);
}

#[test]
fn connections_of_a_listener_that_moves_end_with_the_request_at_hand() {
    let scene = Scene::new();
    let pieces = vec![b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsl".to_vec(), b"ow".to_vec()];
    let slow = Upstream::start(Behaviour::Pieces(pieces, Duration::from_millis(700))).unwrap();
    let gateway = scene.gateway();
    gateway
        .write(
            "backend.yaml",
            &format!("{}---\n{}", manifests::service_entry(slow.address()), manifests::route()),
        )
        .unwrap();
    let mut busy = RawClient::connect(gateway.address()).unwrap();
    let mut idle = RawClient::connect(gateway.address()).unwrap();
    assert_eq!(idle.request(&request("GET", "/", &[], "")).unwrap().text(), DENIED);
    gateway.wait_for_answer("/", &[("allow", "true")], |a| a.text() == "slow").unwrap();
    let before = slow.requests().len();
    busy.send(&request("GET", "/", &[("allow", "true")], "")).unwrap();
    wait_until(Instant::now() + PATIENCE, || (slow.requests().len() > before).then_some(())).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    gateway.write("gateway.yaml", &manifests::gateway(free.port())).unwrap();
    gateway.wait_for_log(&format!("listening on {free}")).unwrap();
    assert!(idle.is_closed(), "an idle connection is closed and told nothing wrong");
    let answer = busy.answer(false).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "slow"));
    assert!(busy.is_closed());
    assert_eq!(once(free, &request("GET", "/", &[], "")).unwrap().text(), DENIED);
}

#[test]
fn whatever_changes_in_a_manifest_asks_again_under_always() {
    let scene = Scene::new();
    scene.push("moving", &module(plugins::header_authorization_rust().into()));
    let gateway = scene.gateway();
    gateway.write("plugin.yaml", &scene.plugin("moving", "  imagePullPolicy: Always\n")).unwrap();
    gateway.wait_for_plugin(NAME, "state", "ready").unwrap();
    let second = "Forbidden by version 0.0.2!!";
    scene.push("moving", &changed(&module(plugins::header_authorization_rust().into()), second));
    let touched = scene
        .plugin("moving", "  imagePullPolicy: Always\n")
        .replace("  namespace: istio-system\n", "  namespace: istio-system\n  annotations: {rollout: now}\n");
    gateway.write("plugin.yaml", &touched).unwrap();
    gateway.wait_for_answer("/", &[], |a| a.text() == second).unwrap();
}

#[test]
fn a_registry_that_comes_back_is_noticed() {
    let scene = Scene::new();
    let gateway = scene.gateway();
    scene.push(
        "v0.0.2",
        &changed(&module(plugins::header_authorization_rust().into()), "Forbidden by version 0.0.2!!"),
    );
    scene.registry.set_fault(Some((FaultTarget::Manifest, Fault::Status(503, None))));
    gateway.write("plugin.yaml", &scene.plugin("v0.0.2", "")).unwrap();
    gateway.wait_for_plugin(NAME, "reason", "RegistryUnreachable").unwrap();
    assert_eq!(gateway.get("/", &[]).unwrap().text(), DENIED);
    scene.registry.set_fault(None);
    gateway.wait_for_answer("/", &[], |a| a.text() == "Forbidden by version 0.0.2!!").unwrap();
}

#[test]
fn a_plug_in_that_was_never_there_follows_its_fail_strategy() {
    let scene = Scene::new();
    for (strategy, status) in [("FAIL_CLOSE", 503), ("FAIL_OPEN", 200)] {
        let gateway = GatewayBuilder::new(PROGRAM)
            .backend(scene.upstream.address())
            .manifest("secret.yaml", scene.secret("p"))
            .manifest("plugin.yaml", scene.plugin("never", &format!("  failStrategy: {strategy}\n")))
            .run()
            .unwrap();
        let answer = gateway.get("/", &[]).unwrap();
        assert_eq!(answer.status, status, "{strategy}");
        if status == 503 {
            assert_eq!(answer.header("retry-after"), Some("5"));
            let stats = gateway.admin_get("/stats").unwrap().text();
            assert!(stats.contains("wasm_module_unavailable{istio-system.header-authorization}"), "{stats}");
        }
        assert_eq!(gateway.plugin(NAME).unwrap()["state"], "failed");
    }
}

#[test]
fn a_restart_without_the_registry_serves_from_the_store() {
    let scene = Scene::new();
    let cache = tempfile::tempdir().unwrap();
    let start = |scene: &Scene| {
        GatewayBuilder::new(PROGRAM)
            .backend(scene.upstream.address())
            .manifest("secret.yaml", scene.secret("p"))
            .manifest("plugin.yaml", scene.plugin("v0.0.1", "  imagePullPolicy: IfNotPresent\n"))
            .argument("--cache-dir")
            .argument(cache.path().display().to_string())
            .run()
            .unwrap()
    };
    scene.push("v0.0.1", &module(plugins::header_authorization_rust().into()));
    drop(start(&scene));
    let before = scene.registry.requests().len();
    let gateway = start(&scene);
    assert_eq!(gateway.get("/", &[]).unwrap().text(), DENIED);
    assert_eq!(scene.registry.requests().len(), before, "nothing was asked of the registry");
    let cached = gateway.wait_for_log("plugin istio-system.header-authorization ready").unwrap();
    assert!(cached.contains("sha256:"), "{cached}");
}

#[test]
fn a_plug_in_that_is_still_loading_does_not_deny() {
    let scene = Scene::new();
    scene.push("v0.0.1", &module(plugins::header_authorization_rust().into()));
    let gateway = GatewayBuilder::new(PROGRAM)
        .backend(scene.upstream.address())
        .manifest("secret.yaml", scene.secret("p"))
        .run()
        .unwrap();
    assert_eq!(gateway.get("/", &[]).unwrap().text(), "fine");
    scene.registry.set_fault(Some((FaultTarget::Manifest, Fault::Slow(std::time::Duration::from_secs(2)))));
    let load = Load::start(gateway.address(), 2, "/", &[]);
    gateway.write("plugin.yaml", &scene.plugin("v0.0.1", "")).unwrap();
    gateway.wait_for_plugin(NAME, "state", "pending").unwrap();
    // Something else changes meanwhile.
    gateway.write("route.yaml", &format!("# changed\n{}", manifests::route())).unwrap();
    gateway.wait_for_plugin(NAME, "state", "ready").unwrap();
    gateway.wait_for_answer("/", &[], |a| a.status == 403).unwrap();
    let report = load.stop();
    let answers: Vec<u16> = report.answers.keys().map(|(status, _)| *status).collect();
    assert_eq!(
        (report.failures.len(), answers),
        (0, vec![200, 403]),
        "from passing to enforcing, nothing between"
    );
}

#[test]
fn a_listener_that_comes_back_enforces_at_once() {
    let scene = Scene::new();
    let gateway = scene.gateway();
    let manifest = std::fs::read_to_string(gateway.config().join("gateway.yaml")).unwrap();
    for _ in 0..3 {
        gateway.remove("gateway.yaml").unwrap();
        wait_until(Instant::now() + PATIENCE, || RawClient::connect(gateway.address()).err()).unwrap();
        gateway.write("gateway.yaml", &manifest).unwrap();
        wait_until(Instant::now() + PATIENCE, || RawClient::connect(gateway.address()).ok()).unwrap();
        for _ in 0..10 {
            assert_eq!(gateway.get("/", &[]).unwrap().status, 403);
        }
    }
}

#[test]
fn a_folder_that_is_replaced_as_a_whole_is_noticed() {
    let scene = Scene::new();
    let gateway = scene.gateway();
    let config = gateway.config();
    let (gone, new) = (config.with_extension("old"), config.with_extension("new"));
    std::fs::create_dir(&new).unwrap();
    for name in ["gateway.yaml", "route.yaml", "backend.yaml"] {
        std::fs::copy(config.join(name), new.join(name)).unwrap();
    }
    std::fs::rename(config, gone).unwrap();
    std::fs::rename(new, config).unwrap();
    gateway.wait_for_answer("/", &[], |a| a.text() == "fine").unwrap();
}

#[test]
fn a_damaged_module_in_the_store_is_fetched_again() {
    let scene = Scene::new();
    let cache = tempfile::tempdir().unwrap();
    scene.push("v0.0.1", &module(plugins::header_authorization_rust().into()));
    let start = || {
        GatewayBuilder::new(PROGRAM)
            .backend(scene.upstream.address())
            .manifest("secret.yaml", scene.secret("p"))
            .manifest("plugin.yaml", scene.plugin("v0.0.1", ""))
            .argument("--cache-dir")
            .argument(cache.path().display().to_string())
            .run()
            .unwrap()
    };
    drop(start());
    for file in std::fs::read_dir(cache.path().join("blobs")).unwrap().flatten() {
        std::fs::write(file.path(), b"\0asm damaged").unwrap();
    }
    let gateway = start();
    gateway.wait_for_plugin(NAME, "state", "ready").unwrap();
    assert_eq!(gateway.get("/", &[]).unwrap().text(), DENIED);
}
