//! The example does what it says.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is wrong")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[path = "../examples/hyper.rs"]
mod hyper_example;

const DEMO: &[u8] =
    include_bytes!("../../../examples/plugins/rust/header-authorization/header-authorization.wasm");

async fn ask(address: std::net::SocketAddr, headers: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_hyper_server_with_one_plug_in() {
    let test = async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::task::spawn_local(async { hyper_example::serve(listener, DEMO).await.unwrap() });
        let denied = ask(address, "").await;
        assert!(
            denied.starts_with("HTTP/1.1 403") && denied.ends_with("Forbidden by ASM Wasm Plugin"),
            "{denied}"
        );
        let allowed = ask(address, "allow: true\r\n").await;
        assert!(
            allowed.starts_with("HTTP/1.1 200") && allowed.ends_with("passed with 3 headers\n"),
            "{allowed}"
        );
        server.abort();
    };
    tokio::task::LocalSet::new().run_until(test).await;
}
