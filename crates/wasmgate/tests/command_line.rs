//! What a user types, and what it says.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use wasmgate_testkit::client::{once, request};
use wasmgate_testkit::gateway::PATIENCE;
use wasmgate_testkit::peers::ports::free_port;
use wasmgate_testkit::{manifests, plugins};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");

fn wasmgate(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn check(folder: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut arguments = vec!["check", "--config", folder.to_str().unwrap()];
    arguments.extend(more);
    let output = wasmgate(&arguments);
    (output.status.code(), stdout(&output))
}

#[test]
fn help_teaches_and_completions_complete() {
    for command in ["run", "check", "demo", "completions"] {
        let help = stdout(&wasmgate(&[command, "--help"]));
        assert!(help.contains("Usage: wasmgate"), "{help}");
    }
    let run = stdout(&wasmgate(&["run", "--help"]));
    for flag in [
        "--config",
        "--admin",
        "--workers",
        "--namespace",
        "--labels",
        "--log-level",
        "--log-format",
        "--server-header",
    ] {
        assert!(run.contains(flag), "{flag}: {run}");
    }
    assert!(stdout(&wasmgate(&["completions", "bash"])).contains("_wasmgate"));
    assert!(stdout(&wasmgate(&["--version"])).starts_with("wasmgate "));
}

#[test]
fn a_folder_that_is_not_there_is_an_error_with_its_name() {
    for command in ["run", "check"] {
        let output = wasmgate(&[command, "--config", "/no/such/folder"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            stderr(&output).contains("cannot read manifests from /no/such/folder"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn check_tells_all_at_once_with_places() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("gateway.yaml", &manifests::gateway(8080));
    write("route.yaml", &manifests::route());
    write(
        "a.yaml",
        &manifests::plugin(
            "a",
            "ftp://x/y",
            "  phase: NEVER\n  priority: high\n  vmConfig: {env: [{name: A}, {name: A}]}\n",
        ),
    );
    write(
        "b.yaml",
        "kind: Deployment\napiVersion: apps/v1\nmetadata: {name: x}\n---\nnot a resource\n---\n# only a comment\n",
    );
    write("c.yaml", "a: [1,\n");
    write("ignored.txt", "not read");
    let (status, text) = check(dir.path(), &["--offline"]);
    assert_eq!(status, Some(1), "{text}");
    for line in [
        "a.yaml:8:8: error: WasmPlugin/istio-system/a: spec.url: url contains unsupported scheme: ftp",
        "a.yaml:9:10: error: WasmPlugin/istio-system/a: spec.phase: Unsupported value: \"NEVER\": supported values:",
        "a.yaml:10:13: error: WasmPlugin/istio-system/a: spec.priority: must be of type integer, but is a string",
        "error: WasmPlugin/istio-system/a: spec.vmConfig.env[1].name: duplicate env",
        "b.yaml:1:7: warning: kind \"Deployment\" of apiVersion \"apps/v1\" is not supported, the resource is skipped",
        "b.yaml:5:1: error: must be of type object, but is a string",
        "c.yaml:",
        "YAML error:",
        "route.yaml:",
        "BackendNotFound: no ServiceEntry has the host httpbin.default.svc.cluster.local with port 8000",
        "6 errors, 2 warnings",
    ] {
        assert!(text.contains(line), "{line}\nin:\n{text}");
    }
}

#[test]
fn check_is_content_with_the_example() {
    let example = plugins::repository().join("examples/header-authorization");
    let (status, text) = check(&example, &["--offline"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("3 files, 1 listener, 1 route, 1 cluster, 1 plug-in: 0 errors, 0 warnings"),
        "{text}"
    );
}

#[test]
fn a_port_that_is_taken_ends_the_gateway_with_the_reason() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("gateway.yaml"), manifests::gateway(port)).unwrap();
    let admin = format!("127.0.0.1:{}", free_port().unwrap());
    let config = dir.path().to_str().unwrap();
    let output = wasmgate(&["run", "--config", config, "--admin", &admin, "--cache-dir", config]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains(&format!("cannot listen on 127.0.0.1:{port}: Address already in use")),
        "{}",
        stderr(&output)
    );
    let admin = format!("127.0.0.1:{port}");
    let output = wasmgate(&["run", "--config", config, "--admin", &admin, "--cache-dir", config]);
    assert!(
        stderr(&output).contains(&format!("admin interface: cannot listen on {admin}")),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_demo_shows_the_story_and_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let [listen, admin, registry, backend] =
        std::array::from_fn(|_| SocketAddr::from(([127, 0, 0, 1], free_port().unwrap())));
    let mut child = Command::new(PROGRAM)
        .arg("demo")
        .args(["--listen", &listen.to_string(), "--admin", &admin.to_string()])
        .args(["--registry", &registry.to_string(), "--backend", &backend.to_string()])
        .env("TMPDIR", scratch.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = String::new();
    for line in lines.map_while(Result::ok) {
        said.push_str(&line);
        said.push('\n');
        if line.contains("Ctrl-C") {
            break;
        }
    }
    assert!(said.contains(&format!("curl -i http://{listen}/status/418")), "{said}");
    assert_eq!(once(listen, &request("GET", "/status/418", &[], "")).unwrap().status, 403);
    assert_eq!(once(listen, &request("GET", "/status/418", &[("allow", "true")], "")).unwrap().status, 418);
    let plugins = once(admin, &request("GET", "/plugins", &[("connection", "close")], "")).unwrap().text();
    assert!(plugins.contains("\"state\": \"ready\"") && plugins.contains("oci://localhost:"), "{plugins}");
    assert_eq!(
        once(registry, &request("GET", "/v2/", &[], "")).unwrap().status,
        401,
        "the registry asks for credentials"
    );
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status =
        wasmgate_testkit::peers::process::wait_until(Instant::now() + PATIENCE, || child.try_wait().unwrap())
            .unwrap();
    assert!(status.success(), "{status}");
    let left: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn check_takes_warnings_for_errors_when_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("gateway.yaml", &manifests::gateway(8080));
    write("plugin.yaml", &manifests::plugin("a", "file:///x.wasm", "  failStratgy: FAIL_OPEN\n"));
    let (status, text) = check(dir.path(), &["--offline"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("spec.failStratgy: unknown field, it is ignored; did you mean failStrategy?"),
        "{text}"
    );
    assert_eq!(check(dir.path(), &["--offline", "--strict"]).0, Some(1));
    write("plugin.yaml", &manifests::plugin("a", "file:///x.wasm", "  failStrategy: FAIL_OPEN\n"));
    assert_eq!(check(dir.path(), &["--offline", "--strict"]).0, Some(0));
}

#[test]
fn check_counts_routes_of_connections() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tcp.yaml"), manifests::tcp_gateway(8080)).unwrap();
    let endpoint = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    std::fs::write(dir.path().join("host.yaml"), manifests::service_entry(endpoint)).unwrap();
    let (status, text) = check(dir.path(), &["--offline"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("2 files, 1 listener, 1 route, 1 cluster, 0 plug-ins: 0 errors, 0 warnings"),
        "{text}"
    );
}
