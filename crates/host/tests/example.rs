//! The example does what it says.

#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that is wrong")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use http_body_util::{BodyExt as _, Full};
use tower::{Layer as _, ServiceExt as _};

#[path = "../examples/hyper.rs"]
mod hyper_example;
#[path = "../examples/tower.rs"]
mod tower_example;

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

#[tokio::test]
async fn a_tower_service_behind_one_plug_in() {
    let hello = tower::service_fn(|request: hyper::Request<()>| async move {
        let seen = request.headers().len();
        Ok::<_, std::convert::Infallible>(hyper::Response::new(Full::from(format!("{seen} headers"))))
    });
    let service = tower_example::PluginLayer::new(DEMO).unwrap().layer(hello);
    let ask = |allow: &str| {
        let request = hyper::Request::get("/").header("allow", allow).body(()).unwrap();
        let service = service.clone();
        async move {
            let response = service.oneshot(request).await.unwrap();
            let (status, kind) =
                (response.status().as_u16(), response.headers().get("content-type").cloned());
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status, kind, String::from_utf8_lossy(&body).into_owned())
        }
    };
    let (status, kind, body) = ask("no").await;
    assert_eq!((status, body.as_str()), (403, "Forbidden by ASM Wasm Plugin"));
    assert_eq!(kind.unwrap(), "text/plain");
    assert_eq!(ask("true").await, (200, None, "1 headers".to_owned()));
}
