//! TCP listeners, and plug-ins of `type: NETWORK` on them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use wasmgate_testkit::gateway::{GatewayBuilder, PATIENCE, RunningGateway};
use wasmgate_testkit::peers::envoy::{Envoy, EnvoyOptions};
use wasmgate_testkit::peers::envoy_config::{EnvoyConfig, WasmFilter};
use wasmgate_testkit::peers::ports::PortLease;
use wasmgate_testkit::peers::process::wait_until;
use wasmgate_testkit::peers::{envoy_install, ports};
use wasmgate_testkit::upstream::{Behaviour, Upstream};
use wasmgate_testkit::{manifests, plugins};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");

/// Sends back what it gets, and closes when the client says that nothing follows.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    });
    address
}

/// A port on which nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

struct Scene {
    gateway: RunningGateway,
    address: SocketAddr,
    _lease: PortLease,
}

impl Scene {
    /// A gateway with a TCP listener before an echo server; `spec` is the plug-in's, `None` for no plug-in.
    fn new(spec: Option<&str>, auth: Option<&Upstream>) -> Self {
        Self::before(echo(), spec, auth)
    }

    fn before(endpoint: SocketAddr, spec: Option<&str>, auth: Option<&Upstream>) -> Self {
        let lease = PortLease::new().unwrap();
        let port = lease.port();
        let mut builder = GatewayBuilder::new(PROGRAM)
            .workers(1)
            .backend(endpoint)
            .manifest("tcp.yaml", manifests::tcp_gateway(port))
            .manifest("auth.yaml", manifests::auth_service(auth.map(Upstream::address)));
        if let Some(spec) = spec {
            let url = format!("file://{}", plugins::rust("crates/testkit/plugins/tcp", "tcp").display());
            let manifest = manifests::plugin("tcp", &url, &format!("  type: NETWORK\n{spec}"));
            builder = builder.manifest("plugin.yaml", manifest);
        }
        let gateway = builder.run().unwrap();
        Self { gateway, address: SocketAddr::from(([127, 0, 0, 1], port)), _lease: lease }
    }

    fn connect(&self) -> TcpStream {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            match TcpStream::connect(self.address) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    return stream;
                }
                Err(e) if Instant::now() > end => panic!("{e}: {}", self.gateway.log()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Sends a line and reads as many bytes as are expected.
    fn says(&self, stream: &mut TcpStream, text: &str, expected: &str) {
        stream.write_all(text.as_bytes()).unwrap();
        let mut got = vec![0; expected.len()];
        if let Err(e) = stream.read_exact(&mut got) {
            panic!("{text:?}: {e}: {}", self.gateway.log());
        }
        assert_eq!(String::from_utf8_lossy(&got), expected);
    }
}

fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(read) => read == 0,
        // Not a time-out: that would be a connection that hangs.
        Err(e) => matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
    }
}

#[test]
fn bytes_go_both_ways_and_either_side_may_close_first() {
    let scene = Scene::new(None, None);
    let mut client = scene.connect();
    scene.says(&mut client, "hello\n", "hello\n");
    // More than any buffer holds, while nobody reads.
    let large = "x".repeat(4 << 20);
    let mut writer = client.try_clone().unwrap();
    let sent = large.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(sent.as_bytes()).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut all = String::new();
    client.read_to_string(&mut all).unwrap();
    writing.join().unwrap();
    assert!(all == large, "{} of {} bytes", all.len(), large.len());
    let line = wait_until(Instant::now() + PATIENCE, || scene.gateway.access_log().pop()).unwrap();
    assert!(line.contains("\"route_name\":\"default/echo\""), "{line}");
    assert!(line.contains("\"protocol\":\"-\"") && line.contains("\"response_code\":\"0\""), "{line}");
    assert!(line.contains("\"bytes_received\":\"4194310\",\"bytes_sent\":\"4194310\""), "{line}");
}

#[test]
fn a_plug_in_sees_holds_and_changes_what_passes() {
    let scene = Scene::new(Some(""), None);
    let mut client = scene.connect();
    client.write_all(b"hel").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    scene.says(&mut client, "lo\n", "<HELLO\n");
    scene.says(&mut client, "http\n", "<STILL THERE\n");
    scene.gateway.wait_for_log("tcp connection from 127.0.0.1:").unwrap();
    assert!(scene.gateway.log().contains("path None"), "a connection has no request");
    client.shutdown(Shutdown::Write).unwrap();
    assert!(is_closed(&mut client));
    for line in ["tcp upstream closed, peer 0", "tcp downstream closed, peer 1", "tcp logs"] {
        scene.gateway.wait_for_log(line).unwrap();
    }
}

#[test]
fn a_plug_in_closes_a_connection_and_others_go_on() {
    let scene = Scene::new(Some(""), None);
    let (mut one, mut other) = (scene.connect(), scene.connect());
    scene.says(&mut other, "a\n", "<A\n");
    one.write_all(b"close\n").unwrap();
    assert!(is_closed(&mut one));
    scene.gateway.wait_for_log("tcp downstream closed, peer 1").unwrap();
    scene.says(&mut other, "b\n", "<B\n");
}

#[test]
fn a_connection_waits_for_the_answer_to_a_call_out() {
    let auth =
        Upstream::start(Behaviour::Answer(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes".to_vec()))
            .unwrap();
    let scene = Scene::new(Some("  pluginConfig: {mode: ask}\n"), Some(&auth));
    let mut client = scene.connect();
    scene.says(&mut client, "a\n", "<A\n");
    scene.gateway.wait_for_log("tcp is answered with 3 bytes").unwrap();
    scene.says(&mut client, "ask\n", "<ask\n");
}

#[test]
fn a_plug_in_chooses_the_cluster() {
    let other = Upstream::start(Behaviour::Answer(b"elsewhere".to_vec())).unwrap();
    let scene = Scene::before(nobody(), Some("  pluginConfig: {mode: elsewhere}\n"), Some(&other));
    let mut client = scene.connect();
    scene.says(&mut client, "get / http/1.1\r\n\r\n", "<elsewhere");
    drop(client);
    scene.gateway.wait_for_log("tcp goes elsewhere: Ok(").unwrap();
    let line = wait_until(Instant::now() + PATIENCE, || scene.gateway.access_log().pop()).unwrap();
    assert!(line.contains("\"upstream_cluster\":\"outbound|80||auth.default.svc.cluster.local\""), "{line}");
}

#[test]
fn a_plug_in_that_panics_costs_the_connections_of_its_vm_or_lets_them_pass() {
    let scene = Scene::new(Some(""), None);
    let mut client = scene.connect();
    client.write_all(b"panic\n").unwrap();
    assert!(is_closed(&mut client));
    let mut next = scene.connect();
    scene.says(&mut next, "a\n", "<A\n");

    let scene = Scene::new(Some("  failStrategy: FAIL_OPEN\n"), None);
    let mut client = scene.connect();
    scene.says(&mut client, "panic\n", "panic\n");
}

/// An HTTP gateway with the plug-in before HTTP is spoken.
fn http_gateway(endpoint: SocketAddr) -> GatewayBuilder {
    let tcp = plugins::rust("crates/testkit/plugins/tcp", "tcp");
    let url = format!("file://{}", tcp.display());
    GatewayBuilder::new(PROGRAM)
        .workers(1)
        .backend(endpoint)
        .manifest("tcp.yaml", manifests::plugin("tcp", &url, "  type: NETWORK\n"))
}

fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    let mut byte = [0];
    while !all.ends_with(end.as_bytes()) && stream.read(&mut byte).unwrap() == 1 {
        all.extend_from_slice(&byte);
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn a_plug_in_for_connections_stands_before_http() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = http_gateway(upstream.address()).run().unwrap();
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client.write_all(b"GET /x HTTP/1.1\r\nhost: test.example\r\n\r").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    client.write_all(b"\n").unwrap();
    let answer = read_until(&mut client, "fine");
    assert!(answer.starts_with("<HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(upstream.requests()[0].starts_with("GET /X HTTP/1.1\r\n"), "{:?}", upstream.requests());
    client.write_all(b"GET /y HTTP/1.1\r\nhost: test.example\r\n\r\n").unwrap();
    read_until(&mut client, "fine");
    // HTTP closes, and the client does not: the plug-in is told all the same.
    client.write_all(b"GET /z HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    for line in ["tcp upstream closed, peer 0", "tcp downstream closed, peer ", "tcp logs"] {
        gateway.wait_for_log(line).unwrap();
    }
    let lines =
        wait_until(Instant::now() + PATIENCE, || Some(gateway.access_log()).filter(|lines| lines.len() == 3));
    let lines = lines.unwrap_or_else(|| panic!("one line per request: {:?}", gateway.access_log()));
    assert!(lines[0].contains("\"path\":\"/X\"") && lines[1].contains("\"path\":\"/Y\""));
}

#[test]
fn plug_ins_for_connections_and_for_requests_share_a_listener() {
    let url = format!("file://{}", plugins::header_authorization_rust().display());
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = http_gateway(upstream.address())
        .manifest("check.yaml", manifests::plugin("check", &url, "  phase: AUTHN\n"))
        .run()
        .unwrap();
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client.write_all(b"GET /y HTTP/1.1\r\nhost: test.example\r\nallow: no\r\n\r\n").unwrap();
    let answer = read_until(&mut client, "Plugin");
    assert!(answer.starts_with("<HTTP/1.1 403 "), "{answer}");
}

#[test]
fn a_plug_in_for_connections_closes_one_that_speaks_http() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = http_gateway(upstream.address()).run().unwrap();
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client.write_all(b"close\n").unwrap();
    assert!(is_closed(&mut client));
    gateway.wait_for_log("tcp downstream closed, peer 1").unwrap();
    assert_eq!(upstream.requests(), Vec::<String>::new());
}

/// What the client sends and waits for.
type Step = (&'static str, Awaited);

enum Awaited {
    Bytes(&'static str),
    Close,
    /// Instead the client goes, with bytes unread.
    Reset,
}

#[test]
fn connections_are_as_on_envoy() {
    use Awaited::{Bytes, Close, Reset};
    let scenarios: [(&str, bool, &[Step]); 6] = [
        ("a line", true, &[("hello\n", Bytes("<HELLO\n")), ("again\n", Bytes("<AGAIN\n"))]),
        ("the plug-in closes", true, &[("hello\n", Bytes("<HELLO\n")), ("close\n", Close)]),
        ("the client resets", true, &[("hello\n", Bytes("<HELLO\n")), ("held", Reset)]),
        ("functions of HTTP", true, &[("http\n", Bytes("<STILL THERE\n"))]),
        ("before HTTP, it closes", false, &[("close\n", Close)]),
        ("before HTTP", false, &[("GET / HTTP/1.1\r\nhost: a\r\n\r\n", Bytes("<HTTP/1.1 200 OK\r\n"))]),
    ];
    let binary = envoy_install::install(&plugins::repository().join("target/peers")).unwrap();
    let module = plugins::rust("crates/testkit/plugins/tcp", "tcp");
    let upstream = Upstream::ok("fine").unwrap();
    for (name, is_tcp, steps) in scenarios {
        let endpoint = if is_tcp { echo() } else { upstream.address() };
        let mut config = EnvoyConfig::new(ports::free_port().unwrap(), ports::free_port().unwrap(), endpoint);
        config.network_filters = vec![WasmFilter::new("istio-system.tcp", &module)];
        config.is_tcp = is_tcp;
        let mut options = EnvoyOptions::new(&binary, config);
        options.component_log_level = "wasm:info".to_owned();
        let envoy = Envoy::start(&options).unwrap();
        let envoy_said =
            said(TcpStream::connect(envoy.listener()).unwrap(), steps, || envoy.child().stderr().unwrap());
        let ours_said = if is_tcp {
            let scene = Scene::before(endpoint, Some(""), None);
            said(scene.connect(), steps, || scene.gateway.log())
        } else {
            let gateway = http_gateway(endpoint).run().unwrap();
            said(TcpStream::connect(gateway.address()).unwrap(), steps, || gateway.log())
        };
        assert_eq!(ours_said, envoy_said, "{name}");
    }
}

/// Goes through the steps; what the plug-in logged of it.
fn said(mut client: TcpStream, steps: &[Step], log: impl Fn() -> String) -> Vec<String> {
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let own = format!("tcp connection from {}", client.local_addr().unwrap());
    for (sent, awaited) in steps {
        client.write_all(sent.as_bytes()).unwrap();
        match awaited {
            Awaited::Bytes(text) => assert_eq!(&read_until(&mut client, text), text, "{}", log()),
            // With a linger of zero the system sends a reset.
            Awaited::Reset => socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap(),
            Awaited::Close => assert!(is_closed(&mut client), "{}", log()),
        }
    }
    drop(client);
    let lines = wait_until(Instant::now() + PATIENCE, || {
        let log = log();
        let (_, log) = log.split_once(&own)?;
        let lines = log.lines().filter_map(|l| l.split_once(": tcp ").map(|(_, rest)| rest));
        // What Envoy adds to a line differs.
        let lines: Vec<String> = lines.map(|l| l.split('\t').next().unwrap_or(l).trim().to_owned()).collect();
        lines.iter().any(|l| l == "logs").then_some(lines)
    });
    lines.unwrap_or_else(|| panic!("no end: {}", log()))
}

#[test]
fn a_server_that_cannot_be_reached_closes_the_connection() {
    let scene = Scene::before(nobody(), Some(""), None);
    let mut client = scene.connect();
    client.write_all(b"hello\n").unwrap();
    assert!(is_closed(&mut client));
    let line = wait_until(Instant::now() + PATIENCE, || scene.gateway.access_log().pop()).unwrap();
    assert!(line.contains("\"response_flags\":\"UF\""), "{line}");
    scene.gateway.wait_for_log("tcp downstream closed, peer 1").unwrap();
}

#[test]
fn an_answer_that_is_on_its_way_outlives_its_server() {
    // It answers at once, and goes with the client's bytes unread: a reset.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Small enough to be in the system's buffers as a whole: what is not is the server's own loss.
    let answer = vec![b'x'; 20_000];
    let sent = answer.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1]);
            let _ = stream.write_all(&sent);
        }
    });
    let scene = Scene::before(address, None, None);
    let mut client = scene.connect();
    client.write_all(b"more than it reads").unwrap();
    let mut got = Vec::new();
    let _ = client.read_to_end(&mut got);
    assert!(got == answer, "{} of {} bytes", got.len(), answer.len());
}

#[test]
fn a_server_that_says_all_it_has_to_say_still_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (report, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"ready").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        report.send(all.len()).unwrap();
    });
    let scene = Scene::before(address, None, None);
    let mut client = scene.connect();
    let mut greeting = String::new();
    client.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "ready");
    let upload = vec![b'u'; 3 << 20];
    client.write_all(&upload).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(heard.recv_timeout(Duration::from_secs(10)).unwrap(), upload.len());
}
