//! A client over HTTP/2 (RFC 8441): every case is a stream of one connection.

use std::net::SocketAddr;
use std::time::Duration;

use crate::PATIENCE;
use crate::cases::Case;
use bytes::Bytes;
use h2::client::SendRequest;

pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    requests: SendRequest<Bytes>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let requests = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (requests, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let requests = requests.ready().await.unwrap();
            // The server says that it can with its settings, which may take a moment.
            while !requests.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            requests
        });
        Self { runtime, requests }
    }

    pub(crate) fn exchange(&self, case: &Case) -> Result<Vec<u8>, String> {
        let exchange = async { tokio::time::timeout(PATIENCE, self.stream(case)).await };
        self.runtime.block_on(exchange).unwrap_or_else(|_| Err("it does not end".to_owned()))
    }

    async fn stream(&self, case: &Case) -> Result<Vec<u8>, String> {
        let mut request = http::Request::builder()
            .method("CONNECT")
            .uri(format!("http://test.example{}", case.path))
            .version(http::Version::HTTP_2)
            .header("sec-websocket-version", "13")
            .header("allow", "true")
            .header("x-case", &case.id);
        if let Some(extensions) = case.extensions {
            request = request.header("sec-websocket-extensions", extensions);
        }
        let mut request = request.body(()).map_err(|e| e.to_string())?;
        request.extensions_mut().insert(h2::ext::Protocol::from("websocket"));
        let mut requests = self.requests.clone().ready().await.map_err(|e| e.to_string())?;
        let (answer, mut sending) = requests.send_request(request, false).map_err(|e| e.to_string())?;
        let answer = answer.await.map_err(|e| e.to_string())?;
        let agreed = answer.headers().get("sec-websocket-extensions").map(http::HeaderValue::as_bytes);
        if answer.status() != 200 || agreed != case.extensions.map(str::as_bytes) {
            return Err(format!("{answer:?}"));
        }
        let pieces: Vec<&[u8]> = case.sent.chunks(case.chop.unwrap_or(usize::MAX)).collect();
        for (i, piece) in pieces.iter().enumerate() {
            let ends = case.half_closes && i + 1 == pieces.len();
            // An endpoint that has had enough may end the stream before all is written.
            if sending.send_data(Bytes::copy_from_slice(piece), ends).is_err() {
                break;
            }
        }
        if case.half_closes && pieces.is_empty() {
            let _ = sending.send_data(Bytes::new(), true);
        }
        let mut body = answer.into_body();
        let mut got = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(|e| e.to_string())?;
            let _ = body.flow_control().release_capacity(data.len());
            got.extend_from_slice(&data);
        }
        Ok(got)
    }
}
