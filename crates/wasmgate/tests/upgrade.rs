//! Connections that switch to WebSocket: what passes, who may close, and what plug-ins see.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use wasmgate_testkit::gateway::{GatewayBuilder, PATIENCE, RunningGateway};
use wasmgate_testkit::peers::envoy::{Envoy, EnvoyOptions};
use wasmgate_testkit::peers::envoy_config::EnvoyConfig;
use wasmgate_testkit::peers::process::wait_until;
use wasmgate_testkit::peers::{envoy_install, ports};
use wasmgate_testkit::{manifests, plugins};

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");

const REQUEST: &str = "GET /chat HTTP/1.1\r\nHost: test.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
const ACCEPT: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches, says hello, and sends back what it gets; `bye` makes it close. Other requests are answered with 200.
fn endpoint() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) {
    let head = read_head(&mut stream).to_ascii_lowercase();
    let switches = head.contains("upgrade: websocket")
        && head.lines().any(|l| l.starts_with("connection: ") && l.contains("upgrade"));
    if !switches || head.starts_with("get /refused") {
        let text = if switches { "no" } else { "plain" };
        let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        return;
    }
    stream.write_all(ACCEPT.as_bytes()).unwrap();
    stream.write_all(b"hello").unwrap();
    let mut bytes = vec![0; 64 << 10];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(read) if &bytes[..read] == b"bye" => return,
            // More than any buffer holds, whether somebody reads or not.
            Ok(read) if &bytes[..read] == b"flood" => {
                let _ = stream.write_all(&vec![b'x'; 24 << 20]);
                return;
            }
            Ok(read) => {
                if stream.write_all(&bytes[..read]).is_err() {
                    return;
                }
            }
        }
    }
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// A client that has switched, and the head that it got.
fn switched(address: SocketAddr, headers: &str) -> (TcpStream, String) {
    let mut client = connect(address);
    client.write_all(format!("{REQUEST}{headers}\r\n").as_bytes()).unwrap();
    let head = read_head(&mut client);
    assert!(head.starts_with("HTTP/1.1 101 "), "{address}: {head}");
    assert_eq!(read(&mut client, 5), "hello");
    (client, head)
}

fn read(stream: &mut TcpStream, count: usize) -> String {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn says(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    assert_eq!(read(stream, text.len()), text);
}

fn gateway() -> GatewayBuilder {
    GatewayBuilder::new(PROGRAM).workers(1).backend(endpoint())
}

fn log_line(gateway: &RunningGateway) -> String {
    let line = wait_until(Instant::now() + PATIENCE, || gateway.access_log().pop());
    line.unwrap_or_else(|| panic!("no access log: {}", gateway.log()))
}

#[test]
fn bytes_go_both_ways_until_either_side_closes() {
    let gateway = gateway().run().unwrap();
    let (mut client, head) = switched(gateway.address(), "");
    let head = head.to_ascii_lowercase();
    for line in ["\r\nupgrade: websocket\r\n", "\r\nconnection: upgrade\r\n", "\r\nsec-websocket-accept: s3"]
    {
        assert!(head.contains(line), "{head}");
    }
    says(&mut client, "one");
    // More than any buffer holds, while nobody reads.
    let large = "x".repeat(3 << 20);
    let mut writer = client.try_clone().unwrap();
    let sent = large.clone();
    let writing = std::thread::spawn(move || writer.write_all(sent.as_bytes()).unwrap());
    assert!(read(&mut client, large.len()) == large);
    writing.join().unwrap();
    // The endpoint closes.
    client.write_all(b"bye").unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    let line = log_line(&gateway);
    assert!(line.contains("\"response_code\":\"101\"") && line.contains("\"path\":\"/chat\""), "{line}");
    assert!(line.contains("\"bytes_received\":\"3145734\",\"bytes_sent\":\"3145736\""), "{line}");
    // The client closes.
    let (mut client, _) = switched(gateway.address(), "");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    let stats = gateway.admin_get("/stats").unwrap().text();
    assert!(stats.contains("http.downstream_rq_active: 0"), "{stats}");
}

#[test]
fn what_is_no_switch_stays_http() {
    let gateway = gateway().run().unwrap();
    let mut client = connect(gateway.address());
    // The endpoint does not want to.
    client.write_all(format!("{REQUEST}\r\n").replace("/chat", "/refused").as_bytes()).unwrap();
    let head = read_head(&mut client);
    assert!(head.starts_with("HTTP/1.1 200 OK") && read(&mut client, 2) == "no", "{head}");
    // The connection goes on, and so does one that wants another protocol, or does not say so in both places.
    for wish in ["Upgrade: h2c\r\nConnection: Upgrade\r\n", "Upgrade: websocket\r\n"] {
        client.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\n{wish}\r\n").as_bytes()).unwrap();
        let head = read_head(&mut client);
        assert!(head.starts_with("HTTP/1.1 200 OK") && read(&mut client, 5) == "plain", "{wish}: {head}");
    }
}

#[test]
fn a_plug_in_denies_or_lets_pass() {
    let url = format!("file://{}", plugins::header_authorization_rust().display());
    let gateway =
        gateway().manifest("check.yaml", manifests::plugin("check", &url, "  phase: AUTHN\n")).run().unwrap();
    let mut client = connect(gateway.address());
    client.write_all(format!("{REQUEST}allow: no\r\n\r\n").as_bytes()).unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 403 "));
    let (mut client, _) = switched(gateway.address(), "allow: true\r\n");
    says(&mut client, "message");
}

#[test]
fn a_plug_in_sees_what_passes_as_bodies() {
    let script = "script ws\nrequest_body set_body 0 0 0 <\nresponse_body set_body 1 0 0 >\n";
    let module = plugins::rust("conformance/plugins/script", "script");
    let config = serde_json::json!({ "script": script });
    let spec = format!("  phase: AUTHN\n  pluginConfig: {config}\n");
    let url = format!("file://{}", module.display());
    let gateway = gateway().manifest("script.yaml", manifests::plugin("script", &url, &spec)).run().unwrap();
    let mut client = connect(gateway.address());
    client.write_all(format!("{REQUEST}x-script: ws\r\nx-case: ws.1\r\n\r\n").as_bytes()).unwrap();
    assert!(read_head(&mut client).starts_with("HTTP/1.1 101 "));
    assert_eq!(read(&mut client, 6), ">hello");
    client.write_all(b"abc").unwrap();
    assert_eq!(read(&mut client, 5), "><abc");
    drop(client);
    gateway.wait_for_log("trace ws.1: request_headers(0) response_headers(0) response_body(5,0)").unwrap();
}

#[test]
fn a_switched_connection_outlives_a_reload_and_a_shutdown_waits_for_it() {
    let mut gateway = gateway().run().unwrap();
    let (mut client, _) = switched(gateway.address(), "");
    gateway.write("route.yaml", &manifests::route().replace("name: httpbin\n", "name: renamed\n")).unwrap();
    let renamed = wait_until(Instant::now() + PATIENCE, || {
        gateway.get("/", &[]).ok()?;
        gateway.access_log().last()?.contains("renamed").then_some(())
    });
    assert!(renamed.is_some());
    says(&mut client, "still here");
    let address = gateway.address();
    let speaking = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        says(&mut client, "last words");
        assert!(TcpStream::connect(address).is_err(), "nobody new is let in");
        client.write_all(b"bye").unwrap();
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    });
    let status = gateway.terminate().unwrap();
    speaking.join().unwrap();
    assert!(status.success());
}

#[test]
fn a_client_that_reads_nothing_is_given_up() {
    let gateway = gateway().argument("--stream-idle-timeout").argument("1").run().unwrap();
    let (mut client, _) = switched(gateway.address(), "");
    client.write_all(b"flood").unwrap();
    let line = log_line(&gateway);
    assert!(line.contains("\"path\":\"/chat\"") && line.contains("\"response_flags\":\"SI\""), "{line}");
    let stats = gateway.admin_get("/stats").unwrap().text();
    assert!(stats.contains("http.downstream_rq_active: 0"), "{stats}");
}

#[test]
fn the_answer_is_envoys() {
    let endpoint = endpoint();
    let binary = envoy_install::install(&plugins::repository().join("target/peers")).unwrap();
    let mut config = EnvoyConfig::new(ports::free_port().unwrap(), ports::free_port().unwrap(), endpoint);
    config.server_name = "wasmgate".to_owned();
    let envoy = Envoy::start(&EnvoyOptions::new(binary, config)).unwrap();
    let gateway = GatewayBuilder::new(PROGRAM).backend(endpoint).run().unwrap();
    let [theirs, ours] = [envoy.listener(), gateway.address()].map(|address| {
        let (_, head) = switched(address, "");
        let mut lines: Vec<String> = head
            .lines()
            .filter(|l| !l.starts_with("date: ") && !l.starts_with("x-envoy-upstream-service-time: "))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    });
    assert_eq!(ours, theirs);
}

#[test]
fn a_stream_of_http2_can_switch_too() {
    let gateway = gateway().run().unwrap();
    let address = gateway.address();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        // The server says that it can with its settings, which may take a moment.
        while !client.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let connect = |path: &str| {
            let mut request = http::Request::builder()
                .method("CONNECT")
                .uri(format!("http://test.example{path}"))
                .version(http::Version::HTTP_2)
                .header("sec-websocket-version", "13")
                .body(())
                .unwrap();
            request.extensions_mut().insert(h2::ext::Protocol::from("websocket"));
            request
        };
        let (answer, mut sending) = client.send_request(connect("/chat"), false).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        for name in ["upgrade", "connection", "sec-websocket-accept"] {
            assert_eq!(answer.headers().get(name), None, "{name}");
        }
        let mut body = answer.into_body();
        let mut heard = Vec::new();
        sending.send_data("ping".into(), false).unwrap();
        while heard != b"helloping" {
            let data = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            heard.extend_from_slice(&data);
        }
        sending.send_data("bye".into(), false).unwrap();
        assert!(body.data().await.is_none_or(|d| d.is_ok_and(|d| d.is_empty())), "it says nothing more");
        // An answer that is no consent is not taken for one.
        let (answer, _sending) = client.send_request(connect("/refused"), false).unwrap();
        assert_eq!(answer.await.unwrap().status(), 502);
        // Other requests of the connection go on.
        let get = http::Request::get("http://test.example/").body(()).unwrap();
        let (answer, _) = client.send_request(get, true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    });
    let line = wait_until(Instant::now() + PATIENCE, || {
        gateway.access_log().into_iter().find(|l| l.contains("\"path\":\"/chat\""))
    });
    let line = line.unwrap();
    assert!(line.contains("\"protocol\":\"HTTP/2\"") && line.contains("\"response_code\":\"101\""), "{line}");
}
