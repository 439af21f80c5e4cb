//! Streams to endpoints that speak HTTP/2: many on one connection, with hyper's client.

mod body;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Request, Response, Uri, Version};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use wasmgate_stream::RequestHead;

use self::body::{Queue, RequestBody};
use super::connection::{Received, UpstreamError};
use super::encode::EncodeError;
use super::{OpenConnection, UpstreamSocket};
use crate::connection::LocalExecutor;

/// What an endpoint may send of one response before it is read. All streams of a connection may have as much: one whose
/// client does not read keeps no other waiting.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// HTTP/2 allows no more (RFC 9113 §6.9.1).
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;

const X_ENVOY_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// What an endpoint's connections need to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Http2Settings {
    /// Streams at the same time on one connection; then another one is opened.
    pub(crate) streams_max: u32,
    /// Streams of a connection altogether; then another one is opened.
    pub(crate) requests_max: Option<u32>,
    /// A connection that is older gets no further stream.
    pub(crate) age_max: Option<Duration>,
    /// Size of a response head, bytes.
    pub(crate) head_bytes_max: usize,
    /// How often an endpoint is asked for a sign of life while streams wait for it.
    pub(crate) ping_interval: Duration,
}

/// Connections to one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Http2Host {
    connections: RefCell<Vec<Connection>>,
    /// Held while one is made: whoever else wants one waits for it instead of making another.
    making: tokio::sync::Mutex<()>,
}

/// A connection that many streams share.
#[derive(Clone)]
struct Connection {
    sender: http2::SendRequest<RequestBody>,
    local: Option<SocketAddr>,
    opened: Instant,
    /// Streams that have not ended.
    streams: Rc<Cell<u32>>,
    /// Streams altogether.
    requests: Rc<Cell<u32>>,
    /// Since when it has been seen without any.
    idle_since: Rc<Cell<Option<Instant>>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("streams", &self.streams.get()).finish_non_exhaustive()
    }
}

/// A place on a connection for one stream.
#[derive(Debug)]
pub(crate) struct Place {
    connection: Connection,
    address: SocketAddr,
}

impl Place {
    fn on(connection: &Connection, address: SocketAddr) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.requests.set(connection.requests.get().saturating_add(1));
        connection.idle_since.set(None);
        Self { connection: connection.clone(), address }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let streams = &self.connection.streams;
        streams.set(streams.get().saturating_sub(1));
    }
}

impl Http2Settings {
    /// Whether a connection may get another stream, now or later.
    fn is_usable(&self, connection: &Connection) -> bool {
        !connection.sender.is_closed()
            && self.requests_max.is_none_or(|max| connection.requests.get() < max)
            && self.age_max.is_none_or(|max| connection.opened.elapsed() < max)
    }
}

impl Http2Host {
    /// A place on a connection that stands.
    pub(crate) fn take(&self, address: SocketAddr, settings: &Http2Settings) -> Option<Place> {
        let mut connections = self.connections.borrow_mut();
        // One that is given up goes on for as long as it has streams.
        connections.retain(|c| settings.is_usable(c));
        let free = connections.iter().find(|c| c.streams.get() < settings.streams_max)?;
        Some(Place::on(free, address))
    }

    /// A place on a connection, which is made if none has one.
    pub(crate) async fn connect<F>(
        &self,
        address: SocketAddr,
        settings: Http2Settings,
        open: impl FnOnce() -> (F, OpenConnection),
    ) -> io::Result<Place>
    where
        F: Future<Output = io::Result<UpstreamSocket>>,
    {
        let _making = self.making.lock().await;
        if let Some(place) = self.take(address, &settings) {
            return Ok(place);
        }
        let (socket, guard) = open();
        let connection = establish(socket.await?, address, settings, guard).await?;
        let place = Place::on(&connection, address);
        self.connections.borrow_mut().push(connection);
        Ok(place)
    }

    /// Forgets connections that are closed, and closes those that nobody has used for too long.
    pub(crate) fn sweep(&self, now: Instant, idle_max: Duration) {
        self.connections.borrow_mut().retain(|connection| {
            let idle = match (connection.streams.get(), connection.idle_since.get()) {
                (0, Some(since)) => now.duration_since(since),
                (0, None) => {
                    connection.idle_since.set(Some(now));
                    Duration::ZERO
                }
                _ => Duration::ZERO,
            };
            !connection.sender.is_closed() && idle < idle_max
        });
    }
}

async fn establish(
    socket: UpstreamSocket,
    address: SocketAddr,
    settings: Http2Settings,
    guard: OpenConnection,
) -> io::Result<Connection> {
    let local = socket.local();
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(settings.ping_interval)
        .keep_alive_timeout(settings.ping_interval)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(
            STREAM_WINDOW_BYTES.saturating_mul(settings.streams_max).min(WINDOW_BYTES_MAX),
        )
        .max_header_list_size(u32::try_from(settings.head_bytes_max).unwrap_or(u32::MAX));
    let (sender, driver) = builder.handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
    tokio::task::spawn_local(async move {
        let _guard = guard;
        if let Err(e) = driver.await {
            tracing::debug!(target: "upstream", "HTTP/2 connection to {address}: {e}");
        }
    });
    Ok(Connection {
        sender,
        local,
        opened: Instant::now(),
        streams: Rc::default(),
        requests: Rc::default(),
        idle_since: Rc::default(),
    })
}

type Answer = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>>>>;

/// One exchange on a connection.
pub(crate) struct Http2Stream {
    place: Place,
    queue: Rc<RefCell<Queue>>,
    answer: Option<Answer>,
    body: Option<Incoming>,
    is_response_done: bool,
}

impl std::fmt::Debug for Http2Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2Stream").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        let mut queue = self.queue.borrow_mut();
        // A request that is complete is no reason for a reset: its response may be.
        if queue.is_over && queue.frames.is_empty() {
            return;
        }
        queue.is_given_up = true;
        if let Some(taker) = queue.taker.take() {
            taker.wake();
        }
    }
}

impl Http2Stream {
    /// Begins an exchange. `end`: there is no body. `attempt`: its number for the endpoint to see.
    pub(crate) fn start(
        mut place: Place,
        request: &RequestHead,
        end: bool,
        attempt: Option<u32>,
    ) -> Result<Self, EncodeError> {
        let queue = Rc::new(RefCell::new(Queue { is_over: end, ..Queue::default() }));
        let head = head(request, attempt).ok_or(EncodeError::Incomplete)?;
        let request = head.map(|()| RequestBody(Rc::clone(&queue)));
        let answer: Answer = Box::pin(place.connection.sender.send_request(request));
        Ok(Self { place, queue, answer: Some(answer), body: None, is_response_done: false })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.place.address
    }

    pub(crate) fn local(&self) -> Option<SocketAddr> {
        self.place.connection.local
    }

    /// Queues a piece of the request body.
    pub(crate) fn queue(&mut self, bytes: Bytes, end: bool) {
        self.push(Some(Frame::data(bytes)).filter(|f| f.data_ref().is_some_and(|d| !d.is_empty())), end);
    }

    /// Ends the request with trailers.
    pub(crate) fn queue_trailers(&mut self, trailers: HeaderMap) {
        self.push(Some(Frame::trailers(trailers)), true);
    }

    fn push(&mut self, frame: Option<Frame<Bytes>>, end: bool) {
        let mut queue = self.queue.borrow_mut();
        queue.frames.extend(frame);
        queue.is_over |= end;
        if let Some(taker) = queue.taker.take() {
            taker.wake();
        }
    }

    /// Pieces that wait to be taken.
    pub(crate) fn queued(&self) -> usize {
        self.queue.borrow().frames.len()
    }

    /// Ready once there is room for more.
    pub(crate) fn poll_room(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut queue = self.queue.borrow_mut();
        if queue.frames.is_empty() {
            return Poll::Ready(());
        }
        queue.giver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The response head.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(http::StatusCode, HeaderMap), UpstreamError>> {
        let Some(answer) = &mut self.answer else { return Poll::Pending };
        let answered = ready!(answer.as_mut().poll(cx));
        self.answer = None;
        let (parts, body) = answered.map_err(UpstreamError::Http2)?.into_parts();
        self.is_response_done = body.is_end_stream();
        self.body = Some(body);
        Poll::Ready(Ok((parts.status, parts.headers)))
    }

    pub(crate) fn is_head_done(&self) -> bool {
        self.answer.is_none()
    }

    /// Whether the response has begun.
    pub(crate) fn has_head(&self) -> bool {
        self.body.is_some()
    }

    pub(crate) fn is_response_done(&self) -> bool {
        self.is_response_done
    }

    /// The next piece of the response.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, UpstreamError>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(Received::End)) };
        match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.is_response_done = body.is_end_stream();
                    Poll::Ready(Ok(Received::Data(data, self.is_response_done)))
                }
                Err(frame) => {
                    self.is_response_done = true;
                    let trailers = frame.into_trailers().unwrap_or_default();
                    Poll::Ready(Ok(Received::Trailers(trailers)))
                }
            },
            Some(Err(e)) => Poll::Ready(Err(UpstreamError::Http2(e))),
            None => {
                self.is_response_done = true;
                Poll::Ready(Ok(Received::End))
            }
        }
    }
}

/// The head as hyper wants it. `None`: a filter has removed something that it needs.
fn head(request: &RequestHead, attempt: Option<u32>) -> Option<Request<()>> {
    let authority = request.authority.as_ref().filter(|a| !a.is_empty())?;
    let scheme = request.scheme.to_str().ok().filter(|s| matches!(*s, "http" | "https")).unwrap_or("http");
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(authority.as_bytes())
        .path_and_query(request.path()?)
        .build()
        .ok()?;
    let mut out = Request::new(());
    *out.method_mut() = request.method.clone().filter(|m| *m != http::Method::CONNECT)?;
    *out.version_mut() = Version::HTTP_2;
    *out.uri_mut() = uri;
    let headers = out.headers_mut();
    headers.reserve(request.headers.len() + 1);
    for (name, value) in &request.headers {
        match *name {
            HOST | CONNECTION | TRANSFER_ENCODING | UPGRADE | EXPECT => continue,
            TE if value.as_bytes() != b"trailers" => continue,
            // Two lengths are two readings.
            CONTENT_LENGTH if headers.contains_key(CONTENT_LENGTH) => continue,
            _ if matches!(name.as_str(), "keep-alive" | "proxy-connection") => continue,
            _ => {}
        }
        let _ = headers.try_append(name.clone(), value.clone());
    }
    if let Some(attempt) = attempt {
        let _ = headers.try_insert(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(attempt));
    }
    Some(out)
}
