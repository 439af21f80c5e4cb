//! TCP listeners, and plug-ins of `type: NETWORK` on them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first thing that is wrong")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use wasmgate_testkit::gateway::{GatewayBuilder, PATIENCE, RunningGateway};
use wasmgate_testkit::peers::ports::PortLease;
use wasmgate_testkit::peers::process::wait_until;
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
    for line in ["tcp upstream closed, peer 0", "tcp downstream closed, peer 2", "tcp logs"] {
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

#[test]
fn a_plug_in_for_connections_says_that_it_does_not_guard_http() {
    let url = format!("file://{}", plugins::rust("crates/testkit/plugins/tcp", "tcp").display());
    let gateway = GatewayBuilder::new(PROGRAM)
        .backend(echo())
        .manifest("plugin.yaml", manifests::plugin("tcp", &url, "  type: NETWORK\n"))
        .run()
        .unwrap();
    gateway.wait_for_log("NETWORK plug-ins run on TCP listeners only").unwrap();
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
