//! What an operator does with a gateway that runs: its log, its health, its listeners, its end.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use wasmgate_testkit::client::{RawClient, request};
use wasmgate_testkit::gateway::{GatewayBuilder, PATIENCE, RunningGateway};
use wasmgate_testkit::load::Load;
use wasmgate_testkit::peers::process::wait_until;
use wasmgate_testkit::upstream::{Behaviour, Upstream};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");

fn gateway(upstream: &Upstream, arguments: &[&str]) -> RunningGateway {
    let builder = GatewayBuilder::new(PROGRAM).workers(1).backend(upstream.address());
    arguments.iter().fold(builder, |builder, argument| builder.argument(*argument)).run().unwrap()
}

fn signal(gateway: &RunningGateway, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(gateway.child().pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn line(gateway: &RunningGateway) -> String {
    wait_until(Instant::now() + PATIENCE, || gateway.access_log().pop()).unwrap()
}

#[test]
fn the_access_log_looks_as_it_is_asked_to() {
    let upstream = Upstream::start(Behaviour::Answer(
        b"HTTP/1.1 200 OK\r\nx-kind: tea\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec(),
    ));
    let upstream = upstream.unwrap();
    let text = gateway(
        &upstream,
        &["--access-log-format=%REQ(:METHOD)% %RESP(X-KIND)% %RESPONSE_CODE% %BYTES_SENT% %UPSTREAM_HOST%"],
    );
    text.get("/", &[]).unwrap();
    assert_eq!(line(&text), format!("GET tea 200 2 {}", upstream.address()));
    let json = gateway(
        &upstream,
        &["--access-log-format={\"code\": \"%RESPONSE_CODE%\", \"user\": \"%REQ(x-user)%\"}"],
    );
    json.get("/", &[("x-user", "\"anna\"")]).unwrap();
    assert_eq!(line(&json), r#"{"code":200,"user":"\"anna\""}"#);
    let istio = gateway(&upstream, &["--access-log-format=istio"]);
    istio.get("/a?b", &[]).unwrap();
    let istio = line(&istio);
    assert!(istio.contains("] \"GET /a?b HTTP/1.1\" 200 - via_upstream - \"-\" 0 2 "), "{istio}");
    let output = std::process::Command::new(PROGRAM)
        .args(["run", "--config", ".", "--access-log-format", "%NO_SUCH%"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("error: --access-log-format: access log format: %NO_SUCH% is no operator; "),
        "{error}"
    );
}

#[test]
fn a_log_that_was_renamed_is_opened_anew() {
    let upstream = Upstream::ok("fine").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let argument = format!("--access-log={}", path.display());
    let gateway = gateway(&upstream, &[&argument]);
    let lines = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    let written = |path, n| wait_until(Instant::now() + PATIENCE, || (lines(path) == n).then_some(()));
    gateway.get("/", &[]).unwrap();
    written(path.as_path(), 1).unwrap();
    std::fs::rename(&path, &old).unwrap();
    signal(&gateway, rustix::process::Signal::USR1);
    gateway.wait_for_log("access.log was opened anew").unwrap();
    gateway.get("/", &[]).unwrap();
    written(path.as_path(), 1).unwrap();
    assert_eq!(lines(&old), 1);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(gateway.admin_post("/reopen_logs").unwrap().status, 200);
    gateway.get("/", &[]).unwrap();
    written(path.as_path(), 1).unwrap();
}

#[test]
fn a_gateway_whose_health_check_fails_asks_its_clients_to_leave() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, &[]);
    assert_eq!(gateway.admin_get("/healthcheck/fail").unwrap().status, 405, "it changes something");
    let mut client = RawClient::connect(gateway.address()).unwrap();
    let get = request("GET", "/", &[], "");
    assert_eq!(client.request(&get).unwrap().header("connection"), None);
    assert_eq!(gateway.admin_post("/healthcheck/fail").unwrap().text(), "OK\n");
    assert_eq!(gateway.admin_get("/ready").unwrap().status, 503);
    let asked = wait_until(Instant::now() + PATIENCE, || {
        let answer = gateway.get("/", &[]).ok()?;
        assert_eq!(answer.text(), "fine", "nobody loses anything");
        (answer.header("connection") == Some("close")).then_some(())
    });
    asked.unwrap();
    assert_eq!(client.request(&get).unwrap().header("connection"), Some("close"));
    assert_eq!(gateway.admin_post("/healthcheck/ok").unwrap().text(), "OK\n");
    assert_eq!(gateway.admin_get("/ready").unwrap().status, 200);
    gateway.wait_for_answer("/", &[], |a| a.header("connection").is_none()).unwrap();
}

#[test]
fn listeners_can_be_closed_while_the_process_goes_on() {
    let slow = Upstream::start(Behaviour::Script(|_| {
        std::thread::sleep(Duration::from_millis(500));
        Some("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow".to_owned())
    }));
    let slow = slow.unwrap();
    let gateway = gateway(&slow, &[]);
    let address = gateway.address();
    let last = std::thread::spawn(move || {
        RawClient::connect(address).unwrap().request(&request("GET", "/", &[], "")).unwrap()
    });
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(gateway.admin_post("/drain_listeners").unwrap().text(), "OK\n");
    let refused =
        wait_until(Instant::now() + PATIENCE, || TcpStream::connect(address).is_err().then_some(()));
    refused.unwrap();
    assert_eq!(last.join().unwrap().text(), "slow", "the request at hand is answered");
    let listeners = gateway.admin_get("/listeners").unwrap().text();
    assert!(listeners.ends_with(" (drained)\n"), "{listeners}");
    let json = gateway.admin_get("/listeners?format=json").unwrap().text();
    assert!(json.contains("\"is_open\": false"), "{json}");
    // A change of the configuration opens nothing.
    gateway.write("other.yaml", "# nothing\n").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn the_end_can_be_announced() {
    let upstream = Upstream::ok("fine").unwrap();
    let mut gateway = gateway(&upstream, &["--drain-delay=2"]);
    let begun = Instant::now();
    assert_eq!(gateway.admin_post("/quitquitquit").unwrap().text(), "OK\n");
    gateway.wait_for_log("/quitquitquit: clients are asked to leave; draining begins in 2s").unwrap();
    assert_eq!(gateway.admin_get("/ready").unwrap().text(), "DRAINING\n");
    let answer = gateway.get("/", &[]).unwrap();
    assert_eq!((answer.text().as_str(), answer.header("connection")), ("fine", Some("close")));
    assert!(gateway.child_mut().wait(Instant::now() + PATIENCE).unwrap().success());
    assert!(begun.elapsed() >= Duration::from_secs(2));
}

#[test]
fn what_the_process_is_made_of_can_be_asked() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, &[]);
    gateway.get("/", &[]).unwrap();
    let json = |path: &str| -> serde_json::Value {
        let answer = gateway.admin_get(path).unwrap();
        assert_eq!(answer.status, 200, "{path}");
        serde_json::from_slice(&answer.body).unwrap()
    };
    let memory = json("/memory");
    assert!(memory["allocated"].as_str().unwrap().parse::<u64>().unwrap() > 100_000, "{memory}");
    assert_eq!(json("/runtime")["entries"]["drain_time"]["final_value"], "5");
    let stats = json("/stats?format=json&filter=downstream_rq_total");
    assert_eq!(stats["stats"][0]["name"], "http.downstream_rq_total");
    assert_eq!(stats["stats"][0]["value"], 1);
    for path in ["/quitquitquit", "/drain_listeners", "/reopen_logs", "/logging"] {
        assert_eq!(gateway.admin_get(path).unwrap().status, 405, "{path}");
    }
}

#[test]
fn requests_that_are_none_are_refused_by_name() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, &[]);
    let body = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: ";
    for (bytes, status, details) in [
        ("GET / HTTP/1.1\r\nhost: a/b\r\n\r\n".to_owned(), 400, "http.invalid_authority"),
        ("GET / HTTP/1.1\r\nhost: a b\r\n\r\n".to_owned(), 400, "http.invalid_authority"),
        ("GET / HTTP/1.1\r\nhost: a, b\r\n\r\n".to_owned(), 400, "http.invalid_authority"),
        ("GET / HTTP/1.1\r\nhost: user@a\r\n\r\n".to_owned(), 400, "http.invalid_authority"),
        ("GET first HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), 400, "http.invalid_target"),
        ("GET gopher://a/ HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), 400, "http.invalid_target"),
        (format!("{body}gzip, chunked\r\n\r\n0\r\n\r\n"), 501, "http1.invalid_transfer_encoding"),
        (format!("{body}chunked, chunked\r\n\r\n0\r\n\r\n"), 501, "http1.invalid_transfer_encoding"),
        (format!("{body}chunked\r\n\r\nxx\r\nhi\r\n0\r\n\r\n"), 400, "http1.codec_error"),
    ] {
        let mut stream = TcpStream::connect(gateway.address()).unwrap();
        std::io::Write::write_all(&mut stream, bytes.as_bytes()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:?}: {answer:?}");
        let stats = gateway.admin_get("/stats").unwrap().text();
        assert!(stats.contains(details), "{details}: {stats}");
    }
    for host in ["a.test:80", "[::1]:80", "127.0.0.1", "a_b.test"] {
        let get = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
        let answer = RawClient::connect(gateway.address()).unwrap().request(get.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{host}");
    }
}

#[test]
fn another_process_takes_over_without_refusing_anybody() {
    let upstream = Upstream::ok("fine").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = format!("--takeover={}", folder.path().join("takeover").display());
    let mut gateway = gateway(&upstream, &[&path]);
    let (kept, closed) = (
        Load::start(gateway.address(), 4, "/", &[]),
        Load::start(gateway.address(), 2, "/", &[("connection", "close")]),
    );
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(300));
        let mut before = gateway.start_another(&[]).unwrap();
        gateway.wait_for_log("taking over from the process that serves").unwrap();
        gateway.wait_for_log("listening on").unwrap();
        assert!(before.wait(Instant::now() + PATIENCE).unwrap().success());
        let last = before.stderr().unwrap();
        assert!(last.contains("another process has taken over"), "{last}");
        assert_eq!(gateway.admin_get("/ready").unwrap().text(), "LIVE\n");
    }
    for load in [kept, closed] {
        let report = load.stop();
        assert_eq!(report.failures, Vec::<String>::new());
        assert_eq!(report.answers.keys().cloned().collect::<Vec<_>>(), [(200, "fine".to_owned())]);
        assert!(report.answers.values().sum::<u64>() > 100, "{report:?}");
    }
    // One that cannot serve changes nothing.
    let mut still = gateway.start_another(&["--access-log-format=nonsense"]).unwrap();
    assert!(!gateway.child_mut().wait(Instant::now() + PATIENCE).unwrap().success());
    assert_eq!(gateway.get("/", &[]).unwrap().text(), "fine");
    std::fs::write(
        gateway.config().join("broken.yaml"),
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\n",
    )
    .unwrap();
    drop(gateway.start_another(&[]).unwrap());
    gateway.wait_for_log("nothing is served until it is repaired or removed").unwrap();
    drop(gateway.start_another(&["--help"]).unwrap());
    let goes_on = wait_until(Instant::now() + PATIENCE, || {
        still.stderr().ok().filter(|log| log.contains("the other process has ended before it served"))
    });
    goes_on.unwrap();
    assert_eq!(gateway.get("/", &[]).unwrap().text(), "fine");
    assert!(still.exited().unwrap().is_none());
}
