//! Who the client is, what it may speak, and what happens when there is too much of it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends at the first thing that is wrong"
)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use wasmgate_testkit::client::{RawClient, request};
use wasmgate_testkit::gateway::{GatewayBuilder, PATIENCE, RunningGateway};
use wasmgate_testkit::manifests;
use wasmgate_testkit::peers::process::wait_until;
use wasmgate_testkit::upstream::Upstream;

const PROGRAM: &str = env!("CARGO_BIN_EXE_wasmgate");

fn gateway(upstream: &Upstream, arguments: &[&str]) -> RunningGateway {
    let builder = GatewayBuilder::new(PROGRAM).workers(1).backend(upstream.address());
    arguments.iter().fold(builder, |builder, argument| builder.argument(*argument)).run().unwrap()
}

/// Sends bytes and reads until the connection ends.
fn talk(gateway: &RunningGateway, pieces: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(gateway.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for piece in pieces {
        // A connection that is refused may be closed already.
        let _ = stream.write_all(piece);
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn wait_for_line(gateway: &RunningGateway, text: &str) {
    let found =
        wait_until(Instant::now() + PATIENCE, || gateway.access_log().pop().filter(|l| l.contains(text)));
    assert!(found.is_some(), "never {text}: {:?}", gateway.access_log().pop());
}

#[test]
fn a_load_balancer_says_who_the_client_is() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, &[]);
    let plain = std::fs::read_to_string(gateway.config().join("gateway.yaml")).unwrap();
    let annotated = |value: &str| {
        plain.replace(
            "namespace: istio-system}",
            &format!("namespace: istio-system, annotations: {{wasmgate.dev/proxy-protocol: '{value}'}}}}"),
        )
    };
    gateway.write("gateway.yaml", &annotated("all")).unwrap();
    let get = request("GET", "/", &[("connection", "close")], "");
    let refused = wait_until(Instant::now() + PATIENCE, || talk(&gateway, &[&get]).is_empty().then_some(()));
    refused.unwrap();
    let v1 = b"PROXY TCP4 192.0.2.7 198.51.100.2 56324 443\r\n";
    let answer = talk(&gateway, &[v1, &get]);
    assert!(answer.ends_with("fine"), "{answer}");
    wait_for_line(&gateway, "\"downstream_remote_address\":\"192.0.2.7:56324\"");
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\x00\x02\x08\xc6\x33\x64\x02\x00\x07\x01\xbb";
    // In two pieces, and with the request right behind.
    assert!(talk(&gateway, &[&v2[..5], &[&v2[5..], &get].concat()]).ends_with("fine"));
    wait_for_line(&gateway, "\"downstream_remote_address\":\"192.0.2.8:7\"");
    let seen = upstream.requests().pop().unwrap();
    assert!(seen.contains("x-forwarded-for: 192.0.2.8\r\n"), "{seen}");
    // A load balancer's own health check has no client.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0";
    assert!(talk(&gateway, &[local, &get]).ends_with("fine"));
    for bad in [&b"PROXY TCP4 192.0.2.7 198.51.100.2 56324\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c"] {
        assert_eq!(talk(&gateway, &[bad, &get]), "");
    }
    let stats = gateway.admin_get("/stats?filter=proxy_proto").unwrap().text();
    assert!(!stats.ends_with(": 0\n") && !stats.is_empty(), "{stats}");
    gateway.write("gateway.yaml", &annotated("1")).unwrap();
    gateway.wait_for_log("\"1\" is no port of this Gateway: all, or some of {").unwrap();
}

#[test]
fn proxies_that_are_trusted_are_believed() {
    let upstream = Upstream::ok("fine").unwrap();
    let trusting = gateway(&upstream, &["--trusted-hops=2"]);
    let headers = [("x-forwarded-for", "9.9.9.9, 192.0.2.1, 10.0.0.1"), ("x-forwarded-proto", "https")];
    assert_eq!(trusting.get("/", &headers).unwrap().text(), "fine");
    let seen = upstream.requests().pop().unwrap();
    for line in [
        "x-forwarded-for: 9.9.9.9, 192.0.2.1, 10.0.0.1,127.0.0.1\r\n",
        "x-envoy-external-address: 192.0.2.1\r\n",
        "x-forwarded-proto: https\r\n",
    ] {
        assert!(seen.contains(line), "{line}: {seen}");
    }
    wait_for_line(&trusting, "\"downstream_remote_address\":\"192.0.2.1:0\"");
    let strict = gateway(&upstream, &[]);
    assert_eq!(strict.get("/", &headers).unwrap().text(), "fine");
    let seen = upstream.requests().pop().unwrap();
    assert!(seen.contains("x-envoy-external-address: 127.0.0.1\r\nx-request-id"), "{seen}");
    assert!(seen.contains("x-forwarded-proto: http\r\n"), "{seen}");
}

#[test]
fn old_clients_are_served_where_that_is_asked_for() {
    let upstream = Upstream::ok("fine").unwrap();
    let old = b"GET / HTTP/1.0\r\nhost: a.test\r\n\r\n";
    let strict = gateway(&upstream, &[]);
    assert!(talk(&strict, &[old]).starts_with("HTTP/1.1 426 "));
    let lenient = gateway(&upstream, &["--accept-http-10"]);
    let answer = talk(&lenient, &[old]);
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("fine"), "{answer}");
    wait_for_line(&lenient, "\"protocol\":\"HTTP/1.0\"");
    assert!(upstream.requests().pop().unwrap().starts_with("GET / HTTP/1.1\r\n"));
    assert!(talk(&lenient, &[b"GET / HTTP/1.0\r\n\r\n"]).starts_with("HTTP/1.1 400 "), "a host is needed");
}

#[test]
fn a_process_that_takes_too_much_memory_answers_and_lives() {
    let upstream = Upstream::ok("fine").unwrap();
    // Less than it takes at its start.
    let full = GatewayBuilder::new(PROGRAM)
        .manifest("route.yaml", manifests::route())
        .manifest("backend.yaml", manifests::service_entry(upstream.address()))
        .argument("--max-memory=1")
        .run()
        .unwrap();
    full.wait_for_log("MiB of 1 MiB are taken: further requests are answered with 503 (--max-memory)")
        .unwrap();
    let answer = full.get("/", &[]).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (503, "overloaded"));
    wait_for_line(&full, "\"response_flags\":\"OM\"");
    let roomy = gateway(&upstream, &["--max-memory=100000"]);
    let mut client = RawClient::connect(roomy.address()).unwrap();
    assert_eq!(client.request(&request("GET", "/", &[], "")).unwrap().header("connection"), None);
}

#[test]
fn a_body_has_a_limit_where_one_is_set() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, &["--max-request-body=1"]);
    let large = vec![b'x'; (1 << 20) + 1];
    let head =
        |framing: &str| format!("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{framing}\r\n\r\n");
    let fits = [head("content-length: 1048576").as_bytes(), &large[1..]].concat();
    assert!(talk(&gateway, &[&fits]).starts_with("HTTP/1.1 200 "));
    let sized = [head("content-length: 1048577").as_bytes(), &large].concat();
    let chunked =
        [head("transfer-encoding: chunked").as_bytes(), b"100001\r\n", &large, b"\r\n0\r\n\r\n"].concat();
    for too_large in [sized, chunked] {
        let answer = talk(&gateway, &[&too_large]);
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("Payload Too Large"), "{answer}");
        wait_for_line(&gateway, "\"response_code\":\"413\"");
    }
}

#[test]
fn what_is_no_request_has_a_line_too() {
    let upstream = Upstream::ok("fine").unwrap();
    let gateway = gateway(&upstream, &[]);
    assert!(talk(&gateway, &[b"NONSENSE\r\n\r\n"]).starts_with("HTTP/1.1 400 "));
    wait_for_line(&gateway, "\"response_code\":\"400\",\"response_flags\":\"DPE\"");
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    assert!(talk(&gateway, &[long.as_bytes()]).starts_with("HTTP/1.1 431 "));
    wait_for_line(&gateway, "\"response_code\":\"431\"");
}

#[test]
fn an_upload_that_is_larger_than_every_buffer_arrives() {
    const BYTES: usize = 96 << 20;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let received = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut total, mut bytes) = (0, vec![0; 1 << 20]);
        let mut pauses = 0;
        while total < BYTES {
            // Slower than the client, now and then.
            if total > pauses * (16 << 20) {
                pauses += 1;
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            match stream.read(&mut bytes) {
                Ok(0) | Err(_) => return total,
                Ok(read) => total += read,
            }
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine");
        total
    });
    let gateway = GatewayBuilder::new(PROGRAM).workers(1).backend(address).run().unwrap();
    let mut client = TcpStream::connect(gateway.address()).unwrap();
    client.set_write_timeout(Some(PATIENCE)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(client, "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {BYTES}\r\n\r\n")
        .unwrap();
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..BYTES >> 20 {
        client.write_all(&piece).unwrap();
    }
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("fine"), "{answer}");
    assert!(received.join().unwrap() >= BYTES);
}
