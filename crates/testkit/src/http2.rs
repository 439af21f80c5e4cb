//! HTTP/2 with prior knowledge: an endpoint that sends back what it gets, and a client that sees every frame.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A body: frames from a channel, until the sender is gone.
#[derive(Debug)]
pub struct Frames(pub(crate) mpsc::UnboundedReceiver<Frame<Bytes>>);

impl Frames {
    /// A body and where its frames go in.
    #[must_use]
    pub fn channel() -> (mpsc::UnboundedSender<Frame<Bytes>>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self(receiver))
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// An endpoint: the body and the trailers of a request are those of its response, frame by frame; `x-request` tells its
/// method, path and authority. `/close` ends the connection after the answer, `/reset` breaks the response off, `/large` is 8 MiB.
#[derive(Debug)]
pub struct Http2Endpoint {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    active: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Http2Endpoint {
    /// Starts one on a port that the system chooses.
    ///
    /// # Errors
    /// The system's.
    pub fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicUsize::new(0));
        let active = Arc::new(AtomicUsize::new(0));
        let (counted, streams) = (Arc::clone(&connections), Arc::clone(&active));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, Arc::clone(&streams)));
            }
        });
        Ok(Self { address, connections, active, _runtime: runtime })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests whose end has not come.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(stream: tokio::net::TcpStream, active: Arc<AtomicUsize>) {
    let (close, mut closing) = mpsc::unbounded_channel();
    let service = service_fn(move |request| answer(request, close.clone(), Arc::clone(&active)));
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            Some(()) = closing.recv() => connection.as_mut().graceful_shutdown(),
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    close: mpsc::UnboundedSender<()>,
    active: Arc<AtomicUsize>,
) -> Result<Response<Frames>, Infallible> {
    let (sender, frames) = mpsc::unbounded_channel();
    let (parts, mut body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let authority = parts.uri.authority().map_or("", |a| a.as_str());
    let seen = format!("{} {path} {authority}", parts.method);
    let mut response = Response::new(Frames(frames));
    for name in ["te", "x-a"] {
        if let Some(value) = parts.headers.get(name) {
            response.headers_mut().insert(HeaderName::from_static("x-seen"), value.clone());
        }
    }
    if let Ok(value) = HeaderValue::try_from(seen) {
        response.headers_mut().insert("x-request", value);
    }
    if path == "/close" {
        // Nobody listens any more once the connection is gone.
        let _ = close.send(());
    }
    tokio::spawn(async move {
        if path == "/reset" {
            let _ = sender.send(Frame::data(Bytes::from_static(b"half")));
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            // A frame that may not follow: hyper resets the stream.
            let _ = sender.send(Frame::trailers(HeaderMap::new()));
            let _ = sender.send(Frame::data(Bytes::from_static(b"never")));
            return;
        }
        if path == "/large" {
            let _ = sender.send(Frame::data(vec![b'x'; 8 << 20].into()));
            return;
        }
        active.fetch_add(1, Ordering::Relaxed);
        while let Some(Ok(frame)) = body.frame().await {
            let _ = sender.send(frame);
        }
        active.fetch_sub(1, Ordering::Relaxed);
    });
    Ok(response)
}

/// A client's connection.
#[derive(Debug)]
pub struct Http2Client {
    runtime: tokio::runtime::Runtime,
    sender: SendRequest<Frames>,
}

/// A request that is under way, of which each frame can be sent when its time has come.
#[derive(Debug)]
pub struct Http2Exchange<'c> {
    client: &'c Http2Client,
    /// What is still to be sent goes here; `None`: nothing more.
    frames: Option<mpsc::UnboundedSender<Frame<Bytes>>>,
    answer: Option<tokio::task::JoinHandle<hyper::Result<Response<Incoming>>>>,
}

impl Http2Client {
    /// Connects with prior knowledge.
    ///
    /// # Errors
    /// The system's, hyper's.
    pub fn connect(address: SocketAddr) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let sender = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await?;
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok::<_, Error>(sender)
        })?;
        Ok(Self { runtime, sender })
    }

    /// Begins a request.
    ///
    /// # Errors
    /// A path or header that is none.
    pub fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Http2Exchange<'_>, Error> {
        let (frames, body) = mpsc::unbounded_channel();
        let mut request = Request::builder().method(method).uri(format!("http://test.example{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Frames(body))?;
        let mut sender = self.sender.clone();
        let answer = self.runtime.spawn(async move { sender.send_request(request).await });
        Ok(Http2Exchange { client: self, frames: Some(frames), answer: Some(answer) })
    }
}

impl<'c> Http2Exchange<'c> {
    /// Sends a piece of the body.
    pub fn send(&self, bytes: impl Into<Bytes>) {
        if let Some(frames) = &self.frames {
            // A stream that is over has nobody who listens; the answer tells.
            let _ = frames.send(Frame::data(bytes.into()));
        }
    }

    /// Ends the request with trailers.
    pub fn send_trailers(&mut self, name: &'static str, value: &'static str) {
        let mut map = HeaderMap::new();
        map.insert(name, HeaderValue::from_static(value));
        if let Some(frames) = self.frames.take() {
            let _ = frames.send(Frame::trailers(map));
        }
    }

    /// Ends the request.
    pub fn end(&mut self) {
        self.frames = None;
    }

    /// The response's head; its body follows.
    ///
    /// # Errors
    /// hyper's.
    pub fn head(&mut self) -> Result<(Response<()>, Http2Body<'c>), Error> {
        let answer = self.answer.take().ok_or("the head has been read")?;
        let response = self.client.runtime.block_on(answer)??;
        let (parts, body) = response.into_parts();
        Ok((Response::from_parts(parts, ()), Http2Body { client: self.client, body }))
    }
}

/// The body of a response.
#[derive(Debug)]
pub struct Http2Body<'c> {
    client: &'c Http2Client,
    body: Incoming,
}

impl Http2Body<'_> {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// hyper's, when the response is broken off.
    pub fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        let body = &mut self.body;
        let frame = self.client.runtime.block_on(async { body.frame().await }).transpose()?;
        Ok(frame.and_then(|f| f.into_data().ok()))
    }

    /// What is left, and the trailers.
    ///
    /// # Errors
    /// As above.
    pub fn rest(self) -> Result<(Vec<u8>, HeaderMap), Error> {
        let Self { client, body } = self;
        let whole = client.runtime.block_on(body.collect())?;
        let trailers = whole.trailers().cloned().unwrap_or_default();
        Ok((whole.to_bytes().to_vec(), trailers))
    }
}
