//! A gRPC server for tests: one service with a unary method that echoes, one that fails, and a stream that answers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

use crate::http2::Frames;

/// A server on a thread of its own. Ends when it is dropped.
#[derive(Debug)]
pub struct GrpcServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<HeaderMap>>>,
    _runtime: tokio::runtime::Runtime,
}

fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.freeze()
}

fn trailers(status: &'static str, message: &'static str) -> Frame<Bytes> {
    let mut map = HeaderMap::new();
    map.insert("grpc-status", HeaderValue::from_static(status));
    map.insert("grpc-message", HeaderValue::from_static(message));
    Frame::trailers(map)
}

impl GrpcServer {
    /// Starts one on a port that the system chooses.
    ///
    /// # Errors
    /// The system's.
    pub fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                let service = service_fn(move |request| answer(request, Arc::clone(&seen)));
                tokio::spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Ok(Self { address, requests, _runtime: runtime })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The headers of the requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<HeaderMap> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: Arc<Mutex<Vec<HeaderMap>>>,
) -> Result<Response<Frames>, Infallible> {
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.headers().clone());
    let (sender, frames) = mpsc::unbounded_channel();
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    tokio::spawn(async move {
        match path.as_str() {
            "/test.Service/Echo" => {
                let whole = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                let _ = sender.send(Frame::data(whole));
                let _ = sender.send(trailers("0", ""));
            }
            "/test.Service/Chat" => {
                // Each piece that comes is answered, until the client says that nothing follows.
                while let Some(Ok(frame)) = body.frame().await {
                    // The end of the request may come as an empty piece of its own.
                    if frame.data_ref().is_some_and(|data| !data.is_empty()) {
                        let _ = sender.send(Frame::data(framed(b"heard")));
                    }
                }
                let _ = sender.send(trailers("0", "bye"));
            }
            _ => {
                let _ = sender.send(trailers("5", "no%20such%20method"));
            }
        }
    });
    let mut response = Response::new(Frames(frames));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}
