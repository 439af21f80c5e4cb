//! What one client does: requests whose answers are known beforehand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Frame;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use wasmgate_testkit::http2::Frames;

use crate::client::{Answer, Connection, Protocol, RequestBody, Target};
use crate::endpoint::uploaded;
use crate::kind::Kind;
use crate::pattern::{self, BODY_BYTES_MAX, SEEDS};
use crate::scene::HOST;
use crate::session;
use crate::tally::Tally;

/// What all clients share.
#[derive(Debug)]
pub struct World {
    /// HTTP/1.1 without TLS.
    pub plain: Target,
    /// HTTP/1.1 over TLS.
    pub tls: Target,
    /// The TCP listener.
    pub tcp: SocketAddr,
    /// What the versions of the plug-in say when they deny.
    pub denials: [String; 2],
    /// Where outcomes go.
    pub tally: Tally,
    /// Set when the time is over.
    pub over: AtomicBool,
}

impl World {
    /// Whether nothing more is to begin.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// A request and what has to come back.
#[derive(Clone, Debug)]
struct Job {
    method: &'static str,
    path: String,
    allow: bool,
    body: Body,
    expected: Expected,
}

#[derive(Clone, Debug)]
enum Body {
    None,
    Sized(Bytes),
    Chunked(Bytes),
}

#[derive(Clone, Debug)]
enum Expected {
    Ok(Bytes),
    Denied,
}

impl Job {
    /// A body from either endpoint.
    fn get(what: &str, length: usize) -> Self {
        let seed = fastrand::usize(..SEEDS);
        Self {
            method: "GET",
            path: format!("{}/{what}/{length}/{seed}", endpoint()),
            allow: true,
            body: Body::None,
            expected: Expected::Ok(pattern::body(seed, length)),
        }
    }

    fn any() -> Self {
        if fastrand::bool() {
            Self::get("sized", fastrand::usize(..32 << 10))
        } else {
            Self::get("chunked", fastrand::usize(..128 << 10))
        }
    }

    fn upload(allow: bool) -> Self {
        let (length, seed) = (fastrand::usize(1..256 << 10), fastrand::usize(..SEEDS));
        let bytes = pattern::body(seed, length);
        Self {
            method: "POST",
            path: format!("{}/upload/{length}/{seed}", endpoint()),
            allow,
            body: if fastrand::bool() { Body::Sized(bytes) } else { Body::Chunked(bytes) },
            expected: if allow { Expected::Ok(uploaded(length).into()) } else { Expected::Denied },
        }
    }

    fn request(&self, protocol: Protocol) -> Result<Request<RequestBody>, String> {
        let mut request = Request::builder().method(self.method);
        request = match protocol {
            Protocol::Http1 => request.uri(&self.path).header("host", HOST),
            Protocol::Http2 => request.uri(format!("http://{HOST}{}", self.path)),
        };
        if self.allow {
            request = request.header("allow", "true");
        }
        let body = match &self.body {
            Body::None => Empty::new().map_err(|never| match never {}).boxed(),
            Body::Sized(bytes) => Full::new(bytes.clone()).map_err(|never| match never {}).boxed(),
            Body::Chunked(bytes) => {
                let (sender, frames) = Frames::channel();
                for piece in bytes.chunks(8 << 10) {
                    let _ = sender.send(Frame::data(bytes.slice_ref(piece)));
                }
                frames.map_err(|never| match never {}).boxed()
            }
        };
        request.body(body).map_err(|e| e.to_string())
    }

    fn check(&self, answer: &Answer, world: &World) -> Result<(), String> {
        let wrong = |what: String| {
            let text = String::from_utf8_lossy(answer.body.get(..200).unwrap_or(&answer.body)).into_owned();
            format!("{} {}: {} with {what}: {text:?}", self.method, self.path, answer.status)
        };
        match &self.expected {
            Expected::Ok(_) if answer.status != 200 => Err(wrong("a wrong status".to_owned())),
            Expected::Ok(body) => pattern::compare(&answer.body, body).map_err(wrong),
            Expected::Denied if answer.status != 403 => Err(wrong("a wrong status".to_owned())),
            Expected::Denied if world.denials.iter().any(|d| d.as_bytes() == answer.body) => Ok(()),
            Expected::Denied => Err(wrong("another body".to_owned())),
        }
    }

    async fn run(&self, on: &mut Connection, protocol: Protocol, world: &World) -> Result<(), String> {
        let answer = on.exchange(self.request(protocol)?).await;
        self.check(&answer.map_err(|e| format!("{} {}: {e}", self.method, self.path))?, world)
    }
}

/// The first part of a path: which of the endpoints gets it.
fn endpoint() -> &'static str {
    if fastrand::bool() { "" } else { "/h2" }
}

/// A client of a kind, until the time is over.
pub async fn client(kind: Kind, world: Arc<World>) {
    let mut kept = None;
    // Not all at the same instant.
    tokio::time::sleep(kind.pace().mul_f32(fastrand::f32())).await;
    while !world.is_over() {
        let began = Instant::now();
        let outcome = exchange(kind, &world, &mut kept).await;
        if outcome.is_err() {
            kept = None;
        }
        world.tally.add(kind, began, outcome);
        tokio::time::sleep(kind.pace().saturating_sub(began.elapsed())).await;
    }
}

async fn exchange(kind: Kind, world: &World, kept: &mut Option<Connection>) -> Result<(), String> {
    let protocol = match kind {
        Kind::Http2 | Kind::TlsHttp2 => Protocol::Http2,
        Kind::Denied if fastrand::u8(..4) == 0 => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let over = match kind {
        Kind::TlsResumed | Kind::TlsFull | Kind::TlsHttp2 => &world.tls,
        _ => &world.plain,
    };
    let target = Target { protocol, ..over.clone() };
    match kind {
        Kind::KeepAlive | Kind::TlsHttp2 => {
            let mut connection = keep(kept, &target).await?;
            Job::any().run(&mut connection, protocol, world).await?;
            *kept = Some(connection);
        }
        Kind::Http2 => {
            let mut connection = keep(kept, &target).await?;
            four_at_once(&mut connection, world).await?;
            *kept = Some(connection);
        }
        Kind::Upload => {
            let mut connection = keep(kept, &target).await?;
            Job::upload(true).run(&mut connection, protocol, world).await?;
            *kept = Some(connection);
        }
        Kind::Download => {
            let mut connection = keep(kept, &target).await?;
            let what = if fastrand::bool() { "sized" } else { "chunked" };
            Job::get(what, BODY_BYTES_MAX).run(&mut connection, protocol, world).await?;
            *kept = Some(connection);
        }
        Kind::Slow => {
            let mut connection = keep(kept, &target).await?;
            Job::get("slow", 10_000).run(&mut connection, protocol, world).await?;
            *kept = Some(connection);
        }
        Kind::Connection => Job::any().run(&mut Connection::open(&target).await?, protocol, world).await?,
        Kind::Denied => denied(&target, world).await?,
        Kind::TlsResumed | Kind::TlsFull => {
            let mut target = target;
            if kind == Kind::TlsFull {
                target.tls = target.tls.as_deref().map(without_tickets);
            }
            let mut connection = Connection::open(&target).await?;
            Job::any().run(&mut connection, protocol, world).await?;
            if connection.resumed {
                world.tally.add_resumed(kind);
            }
        }
        Kind::WebSocket => session::web_socket(target.address, world).await?,
        Kind::Tcp => session::tcp(world.tcp, world).await?,
        Kind::Leaving => leave(&target, world).await?,
    }
    Ok(())
}

/// The same client without a memory of sessions.
#[must_use]
pub fn without_tickets(config: &rustls::ClientConfig) -> Arc<rustls::ClientConfig> {
    let mut config = config.clone();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// The connection of the exchange before, or a new one. One that the gateway has closed in between is no failure.
async fn keep(kept: &mut Option<Connection>, target: &Target) -> Result<Connection, String> {
    match kept.take().filter(|c| !c.is_closed()) {
        Some(connection) => Ok(connection),
        None => Connection::open(target).await,
    }
}

async fn four_at_once(connection: &mut Connection, world: &World) -> Result<(), String> {
    let shared = || connection.share().ok_or("not an HTTP/2 connection");
    let (mut a, mut b, mut c) = (shared()?, shared()?, shared()?);
    let jobs = [Job::any(), Job::any(), Job::any(), Job::upload(true)];
    let [one, two, three, four] = &jobs;
    let outcomes = tokio::join!(
        one.run(&mut a, Protocol::Http2, world),
        two.run(&mut b, Protocol::Http2, world),
        three.run(&mut c, Protocol::Http2, world),
        four.run(connection, Protocol::Http2, world),
    );
    outcomes.0.and(outcomes.1).and(outcomes.2).and(outcomes.3)
}

async fn denied(target: &Target, world: &World) -> Result<(), String> {
    let mut connection = Connection::open(target).await?;
    let get = Job { allow: false, expected: Expected::Denied, ..Job::any() };
    get.run(&mut connection, target.protocol, world).await?;
    // A denied upload is answered before its body is read, and ends an HTTP/1.1 connection: the last one.
    if fastrand::bool() { Job::upload(false) } else { get }.run(&mut connection, target.protocol, world).await
}

/// How long somebody stays who is about to leave.
const STAY: Duration = Duration::from_millis(100);

async fn leave(target: &Target, world: &World) -> Result<(), String> {
    match fastrand::u8(..6) {
        // Without a word, or in the middle of one.
        0 => drop(TcpStream::connect(target.address).await.map_err(|e| e.to_string())?),
        1 => {
            let mut stream = TcpStream::connect(world.tls.address).await.map_err(|e| e.to_string())?;
            // The beginning of a client's hello. Whether it arrives does not matter.
            let _ = stream.write_all(b"\x16\x03\x01\x02\x00\x01").await;
            tokio::time::sleep(STAY).await;
        }
        // In the middle of an upload.
        2 => {
            let (sender, frames) = Frames::channel();
            let _ = sender.send(Frame::data(pattern::body(0, 10_000)));
            let request = Request::post("/upload/20000/0").header("host", HOST).header("allow", "true");
            let body = frames.map_err(|never| match never {}).boxed();
            let mut connection = Connection::open(target).await?;
            let request = request.body(body).map_err(|e| e.to_string())?;
            let _ = tokio::time::timeout(STAY, connection.begin(request)).await;
        }
        // Before the answer's first byte.
        3 => {
            let mut connection = Connection::open(target).await?;
            let request = Job::get("slow", 10_000).request(target.protocol)?;
            let _ = tokio::time::timeout(STAY, connection.begin(request)).await;
        }
        // In the middle of the answer.
        4 => {
            let mut connection = Connection::open(target).await?;
            let mut answer =
                connection.begin(Job::get("sized", BODY_BYTES_MAX).request(target.protocol)?).await?;
            let _ = tokio::time::timeout(STAY, answer.body_mut().frame()).await;
        }
        // A stream of HTTP/2 only: the next one on the same connection is answered.
        _ => {
            let target = Target { protocol: Protocol::Http2, ..target.clone() };
            let mut connection = Connection::open(&target).await?;
            let answer =
                connection.begin(Job::get("sized", BODY_BYTES_MAX).request(target.protocol)?).await?;
            drop(answer);
            Job::any().run(&mut connection, target.protocol, world).await?;
        }
    }
    Ok(())
}
