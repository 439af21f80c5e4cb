//! The services behind the gateway: HTTP/1.1 or HTTP/2 with bodies of every kind, WebSocket, TCP.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use wasmgate_testkit::http2::Frames;

use crate::pattern;

/// The pieces of a chunked body.
const PIECE_BYTES: usize = 8 << 10;
/// The pieces of a slow body, and the pause before each.
const SLOW_PIECES: usize = 5;
const SLOW_PAUSE: Duration = Duration::from_millis(300);

type Body = BoxBody<Bytes, Infallible>;

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// HTTP/1.1, and WebSocket.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Sends back what it gets.
    Echo,
}

/// Starts an endpoint on a port of loopback that the system chooses; it ends with the runtime.
///
/// Paths, in front of which `/h2` may stand: `/sized/LENGTH/SEED`, `/chunked/LENGTH/SEED`, `/slow/LENGTH/SEED` answer with
/// that body; `/upload/LENGTH/SEED` says whether it got it; `/chat` switches to WebSocket; all others answer with `name`.
///
/// # Errors
/// The system's.
pub async fn start(name: &'static str, speech: Speech) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve(stream, name, speech));
        }
    });
    Ok(address)
}

async fn serve(stream: TcpStream, name: &'static str, speech: Speech) {
    let service = service_fn(move |request| answer(request, name));
    // A peer that goes away is no event here: the clients notice what they miss.
    match speech {
        Speech::Http1 => {
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        }
        Speech::Http2 => {
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        }
        Speech::Echo => echo(stream).await,
    }
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(read @ 1..) = stream.read(&mut bytes).await {
        let Some(read) = bytes.get(..read) else { break };
        if stream.write_all(read).await.is_err() {
            return;
        }
    }
    // The other side is done; whether it still reads does not matter.
    let _ = stream.shutdown().await;
}

async fn answer(request: Request<Incoming>, name: &'static str) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let path = path.strip_prefix("/h2").unwrap_or(&path);
    let mut parts = path.split('/').skip(1);
    let what = parts.next().unwrap_or_default().to_owned();
    let mut number = || parts.next().and_then(|n| n.parse::<usize>().ok()).unwrap_or_default();
    let (length, seed) = (number(), number());
    Ok(match what.as_str() {
        "sized" => Response::new(full(pattern::body(seed, length))),
        "chunked" => Response::new(pieces(pattern::body(seed, length), PIECE_BYTES, Duration::ZERO)),
        "slow" => {
            let pieces = pieces(pattern::body(seed, length), length.div_ceil(SLOW_PIECES), SLOW_PAUSE);
            Response::new(pieces)
        }
        "upload" => Response::new(full(match request.into_body().collect().await {
            Ok(got) => match pattern::compare(&got.to_bytes(), &pattern::body(seed, length)) {
                Ok(()) => uploaded(length).into(),
                Err(e) => e.into(),
            },
            Err(e) => format!("the upload broke off: {e}").into(),
        })),
        "chat" => switch(request),
        _ => Response::new(full(Bytes::from_static(name.as_bytes()))),
    })
}

/// What is said of an upload that came as it was sent.
#[must_use]
pub fn uploaded(length: usize) -> String {
    format!("{length} bytes as they should be")
}

fn switch(request: Request<Incoming>) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            echo(TokioIo::new(upgraded)).await;
        }
    });
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).boxed()
}

/// A body without a length.
fn pieces(mut bytes: Bytes, piece: usize, pause: Duration) -> Body {
    let (sender, body) = Frames::channel();
    tokio::spawn(async move {
        while !bytes.is_empty() {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let next = bytes.split_to(piece.clamp(1, bytes.len()));
            if sender.send(Frame::data(next)).is_err() {
                return;
            }
        }
    });
    body.boxed()
}
