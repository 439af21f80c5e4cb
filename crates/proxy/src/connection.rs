//! Downstream connections: from accept to the last request.

mod requests;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::HeaderValue;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};

use self::requests::{handle, log_refused};
use crate::exchange::Exchange;
use crate::io::{ConnectionNotes, DownstreamIo, detect};
use crate::phase::{Phase, PhaseReceiver, drained};
use crate::proxy_protocol;
use crate::reason::Reason;
use crate::stats::{Traffic, WorkerStats};
use crate::tcp;
use crate::tls::{Accepted as TlsAccepted, Alpn, Tls};
use crate::transport::Transport;
use crate::worker::WorkerContext;
use crate::worker_generation::WorkerGeneration;

/// Bytes between plug-ins of connections and HTTP, in each direction.
const FILTERED_BYTES_MAX: usize = 64 << 10;

/// What all streams of a connection share.
#[derive(Debug)]
pub(crate) struct Downstream {
    pub(crate) worker: Rc<WorkerContext>,
    pub(crate) id: u64,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) tls: Option<Tls>,
    /// The client's address as `x-forwarded-for` wants it.
    peer: HeaderValue,
    notes: Arc<ConnectionNotes>,
    /// Ends an HTTP/2 connection one of whose streams nobody polls.
    pub(crate) give_up: Option<Rc<Notify>>,
    /// The last exchange of the connection, once it has switched to another protocol.
    tunnel: RefCell<Option<(Box<Exchange>, OnUpgrade)>>,
    /// The last generation that had the connection's listener.
    last: RefCell<Rc<WorkerGeneration>>,
}

impl Downstream {
    /// Whether the client has read nothing for so long that the connection was given up.
    pub(crate) fn is_stalled(&self) -> bool {
        self.notes.is_stalled.load(Ordering::Relaxed)
    }

    /// The generation for a new stream, and the connection's listener in it. A connection whose listener is gone finishes
    /// what it is at with the last generation that had it.
    pub(crate) fn generation(&self) -> (Rc<WorkerGeneration>, Option<usize>) {
        let current = self.worker.generation();
        // One that speaks TCP now, or TLS, or no TLS any more, is another listener.
        let is_same =
            |l: &usize| current.tcp(*l).is_none() && current.tls(*l).is_some() == self.tls.is_some();
        let listener = current.listener(self.local).filter(is_same);
        if let Some(listener) = listener {
            let mut last = self.last.borrow_mut();
            if !Rc::ptr_eq(&last, &current) {
                *last = Rc::clone(&current);
            }
            return (current, Some(listener));
        }
        let last = Rc::clone(&self.last.borrow());
        let listener = last.listener(self.local);
        (last, listener)
    }
}

/// Runs hyper's HTTP/2 tasks on this worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move { drop(future.await) });
    }
}

/// What is known of a connection before anything is read from it in plain text.
#[derive(Clone, Debug)]
struct Client {
    remote: SocketAddr,
    local: SocketAddr,
    tls: Option<Tls>,
}

/// Serves a connection until it ends or the worker drains.
pub(crate) async fn serve(
    worker: Rc<WorkerContext>,
    mut stream: TcpStream,
    remote: SocketAddr,
    local: SocketAddr,
    mut drain: PhaseReceiver,
) {
    let stats = Arc::clone(&worker.stats);
    stats.downstream_connections.increment();
    let _active = Active::new(&stats);
    let generation = worker.generation();
    let mut client = Client { remote, local, tls: None };
    let Some(listener) = generation.listener(local) else {
        return serve_http(worker, Transport::Tcp(stream), client, drain).await;
    };
    let _of_listener = generation.traffic(listener).map(|traffic| OfListener::new(traffic, worker.index));
    if generation.has_proxy_header(listener) {
        let limit = worker.settings.request_head_time_max;
        let read = tokio::select! {
            read = tokio::time::timeout(limit, proxy_protocol::read(&mut stream)) => read,
            () = drained(&mut drain) => return,
        };
        match read {
            Ok(Ok(said)) => client.remote = said.unwrap_or(remote),
            failed => {
                stats.proxy_header_failures.increment();
                let e = failed.map_or_else(
                    |_| "none comes".to_owned(),
                    |e| e.map_or_else(|e| e.to_string(), |_| String::new()),
                );
                return tracing::debug!(target: "http", "connection from {remote} on {local}: {e}");
            }
        }
    }
    let remote = client.remote;
    let (transport, target) = match generation.tls(listener) {
        None => (Transport::Tcp(stream), generation.tcp(listener).cloned()),
        Some(tls) => {
            let time_max = worker.settings.tls_handshake_time_max;
            let accepted = tokio::select! {
                accepted = tls.accept(stream, time_max) => accepted,
                () = drained(&mut drain) => return,
            };
            match accepted {
                Ok(TlsAccepted { transport, info, entry, alpn }) => {
                    stats.tls_handshakes.increment();
                    let target = entry.target.clone();
                    client.tls = Some(Tls::new(info, entry, alpn));
                    (transport, target)
                }
                Err(e) => {
                    stats.tls_failures.increment();
                    return tracing::debug!(target: "http", "TLS with {remote} on {local}: {e}");
                }
            }
        }
    };
    if let Some(target) = target {
        let tls = client.tls.map(|tls| tls.info);
        let addresses = (remote, local);
        return tcp::serve(&worker, &generation, (listener, &target), (transport, tls), addresses, drain)
            .await;
    }
    if generation.has_network_filters(listener) {
        let (filtered, server) = tokio::io::duplex(FILTERED_BYTES_MAX);
        let (http_over, is_http_over) = oneshot::channel();
        let sides = (transport, server, is_http_over);
        let tls = client.tls.as_ref().map(|tls| Arc::clone(&tls.info));
        let filters = tcp::filter(&worker, &generation, listener, sides, ((remote, local), tls));
        let http = async {
            serve_http(Rc::clone(&worker), Transport::Filtered(filtered), client, drain).await;
            drop(http_over);
        };
        tokio::join!(http, filters);
        return;
    }
    drop(generation);
    serve_http(worker, transport, client, drain).await;
}

/// Serves HTTP until the connection ends or the worker drains.
async fn serve_http(
    worker: Rc<WorkerContext>,
    mut stream: Transport,
    client: Client,
    mut drain: PhaseReceiver,
) {
    let Client { remote, local, tls } = client;
    // A client that sends nothing gets as long as one that sends half a head.
    let limit = worker.settings.request_head_time_max;
    let agreed = tls.as_ref().and_then(|tls| tls.alpn);
    let detect = async {
        match agreed {
            // A prefix that is not there: it is read with the rest.
            Some(alpn) => Ok((alpn == Alpn::Http2, Bytes::new())),
            None => detect(&mut stream).await,
        }
    };
    let detected = tokio::select! {
        detected = tokio::time::timeout(limit, detect) => detected,
        () = drained(&mut drain) => Ok(Err(std::io::ErrorKind::Interrupted.into())),
    };
    if let Ok(Ok((is_h2, prefix))) = detected {
        let notes = Arc::<ConnectionNotes>::default();
        let io = DownstreamIo::new(stream, prefix, Arc::clone(&notes), &worker.settings);
        let peer = HeaderValue::from_str(&remote.ip().to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        let id = worker.next_connection_id();
        let last = RefCell::new(worker.generation());
        let give_up = is_h2.then(Rc::default);
        let tunnel = RefCell::default();
        let downstream = Downstream { worker, id, remote, local, tls, peer, notes, give_up, tunnel, last };
        let downstream = Rc::new(downstream);
        if is_h2 {
            serve_h2(downstream, io, drain).await;
        } else {
            serve_h1(downstream, io, drain).await;
        }
    }
}

/// Counts a connection for as long as it lives, however it ends.
struct Active<'s>(&'s WorkerStats);

impl<'s> Active<'s> {
    fn new(stats: &'s WorkerStats) -> Self {
        stats.downstream_connections_active.increment();
        Self(stats)
    }
}

/// The same for its listener.
struct OfListener(Arc<Traffic>, usize);

impl OfListener {
    fn new(traffic: Arc<Traffic>, worker: usize) -> Self {
        if let Some(shard) = traffic.shards.get(worker) {
            shard.connections.increment();
            shard.connections_active.increment();
        }
        Self(traffic, worker)
    }
}

impl Drop for OfListener {
    fn drop(&mut self) {
        if let Some(shard) = self.0.shards.get(self.1) {
            shard.connections_active.decrement();
        }
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.downstream_connections_active.decrement();
    }
}

async fn serve_h1(downstream: Rc<Downstream>, io: DownstreamIo, mut drain: PhaseReceiver) {
    let settings = &downstream.worker.settings;
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(settings.request_head_time_max)
        .max_headers(settings.request_headers_max)
        .max_buf_size(settings.request_head_bytes_max.max(8192))
        .auto_date_header(false);
    let service = service_fn({
        let downstream = Rc::clone(&downstream);
        move |request| handle(Rc::clone(&downstream), request)
    });
    let mut connection = pin!(builder.serve_connection(io, service).with_upgrades());
    let result = tokio::select! {
        biased;
        result = connection.as_mut() => result,
        () = drained(&mut drain) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    note(&downstream, result);
    let tunnel = downstream.tunnel.borrow_mut().take();
    if let Some((exchange, upgrade)) = tunnel {
        // Nothing tells where it could be cut: it may go on for as long as a drain takes.
        let cut_off = async {
            drained(&mut drain).await;
            tokio::time::sleep(settings.drain_time_max).await;
        };
        tokio::select! {
            () = exchange.tunnel(upgrade) => {}
            () = cut_off => {}
        }
    }
}

async fn serve_h2(downstream: Rc<Downstream>, io: DownstreamIo, mut drain: PhaseReceiver) {
    let settings = &downstream.worker.settings;
    let mut builder = hyper::server::conn::http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(settings.http2_ping_interval)
        .keep_alive_timeout(settings.http2_ping_interval)
        .max_concurrent_streams(settings.http2_streams_max)
        .max_header_list_size(u32::try_from(settings.request_head_bytes_max).unwrap_or(u32::MAX))
        .enable_connect_protocol()
        .auto_date_header(false);
    let service = service_fn({
        let downstream = Rc::clone(&downstream);
        move |request| handle(Rc::clone(&downstream), request)
    });
    let mut connection = pin!(builder.serve_connection(io, service));
    // A client that comes while others are asked to leave has nowhere else to go.
    let last = if *drain.borrow() == Phase::Serve { Phase::Leave } else { Phase::Drain };
    let given_up = async {
        match &downstream.give_up {
            Some(give_up) => give_up.notified().await,
            None => std::future::pending().await,
        }
    };
    let ended = async {
        tokio::select! {
            biased;
            result = connection.as_mut() => return result,
            _ = drain.wait_for(|phase| *phase >= last) => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    tokio::select! {
        result = ended => note(&downstream, result),
        // Its streams end with it, each with its line.
        () = given_up => downstream.notes.is_stalled.store(true, Ordering::Relaxed),
    }
}

/// A connection that ends badly is the client's affair; it is said at debug.
fn note(downstream: &Downstream, result: Result<(), hyper::Error>) {
    if let Err(e) = result {
        tracing::debug!(target: "http", "connection {} from {}: {e}", downstream.id, downstream.remote);
        // The codec has answered what is no request by itself; its line is missing still.
        if e.is_parse_too_large() {
            log_refused(downstream, Reason::HeadTooLarge);
        } else if e.is_parse() && downstream.give_up.is_none() {
            log_refused(downstream, Reason::Malformed);
        }
    }
}
