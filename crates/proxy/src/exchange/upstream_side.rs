//! The half of an exchange that faces the endpoint: connecting, sending the request, reading the answer.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use tokio::net::TcpStream;
use wasmgate_config::UpstreamProtocol;
use wasmgate_stream::{ResponseHead, StreamState};

use super::Exchange;
use crate::reason::Reason;
use crate::upstream::{
    ActiveUpstream, Http2Settings, Http2Stream, Place, Received, UpstreamConnection, UpstreamError,
};
use crate::worker::WorkerContext;

const X_ENVOY_UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// Sends over fresh connections when an idle one turned out to be closed.
const ATTEMPTS_MAX: u32 = 2;

/// Pieces of request body that one write takes.
const QUEUED_PIECES_MAX: usize = 8;

/// A connection for one exchange, or a place on one that is shared.
pub(super) enum Connected {
    Http1(TcpStream),
    Http2(Place),
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<Connected>>>>;

/// Where the upstream side stands.
pub(super) enum Upstream {
    /// The request has not left the chain.
    Waiting,
    Connecting(Connecting, SocketAddr, Instant),
    Active(ActiveUpstream),
    /// Complete, failed, or not needed.
    Over,
}

impl Exchange {
    /// Chain → a connection to an endpoint.
    pub(super) fn start_upstream(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.upstream {
            Upstream::Waiting => match self.stream.take_request_headers() {
                Some(end) => {
                    self.forward(end);
                    true
                }
                None => false,
            },
            Upstream::Connecting(future, address, since) => {
                if self.stream.state() != StreamState::Open {
                    self.upstream = Upstream::Over;
                    return true;
                }
                let (address, since) = (*address, *since);
                match future.as_mut().poll(cx) {
                    Poll::Pending => return false,
                    Poll::Ready(Ok(connected)) => {
                        let now = Instant::now();
                        self.stream.data_mut().info.upstream_ready = Some(now.duration_since(since));
                        match connected {
                            Connected::Http1(stream) => {
                                self.begin(Box::new(UpstreamConnection::new(stream, address, now)));
                            }
                            Connected::Http2(place) => self.begin_http2(place),
                        }
                    }
                    Poll::Ready(Err(e)) => {
                        self.counters(|c| c.connect_failures.increment());
                        let reason = if e.kind() == io::ErrorKind::TimedOut {
                            Reason::ConnectionTimeout
                        } else {
                            Reason::ConnectionFailure
                        };
                        self.fail(reason);
                    }
                }
                true
            }
            Upstream::Active(_) | Upstream::Over => false,
        }
    }

    /// The request head has left the chain: chooses an endpoint and a connection to it.
    fn forward(&mut self, end: bool) {
        if self.stream.data().route_stale {
            self.resolve_route();
        }
        let request = &self.stream.data().request;
        if request.method.is_none() {
            return self.fail(Reason::RequestHeadersRemoved);
        }
        if request.path().is_none() || self.route.is_none() {
            return self.fail(Reason::RouteNotFound);
        }
        let Some(cluster) = &self.cluster else { return self.fail(Reason::BackendInvalid) };
        let is_endpoint = |a: &SocketAddr| cluster.endpoints.iter().any(|e| e.address == *a);
        let chosen = self.stream.data().upstream_override.filter(is_endpoint);
        let Some(address) = chosen.or_else(|| self.generation.endpoint(cluster)) else {
            return self.fail(Reason::NoHealthyUpstream);
        };
        self.counters(|c| c.requests.increment());
        self.connect(address, true);
        // A head without body is complete on the wire; otherwise the pieces follow through the chain.
        debug_assert!(
            end || self.request_body.is_some() || self.body_started || self.switches,
            "a request that goes on has a body"
        );
    }

    fn connect(&mut self, address: SocketAddr, may_reuse: bool) {
        self.deadlines.begin_attempt();
        let worker = Rc::clone(&self.downstream.worker);
        let speaks_http2 = self.cluster.as_ref().is_some_and(|c| c.protocol == UpstreamProtocol::Http2);
        // Only HTTP/1.1 has what a request to switch asks for.
        if speaks_http2 && !self.switches {
            return self.connect_http2(address, &worker);
        }
        let idle = if may_reuse { worker.pool.borrow_mut().take(address) } else { None };
        if let Some(connection) = idle {
            self.stream.data_mut().info.upstream_ready = Some(Duration::ZERO);
            return self.begin(connection);
        }
        self.counters(|c| c.connections.increment());
        let time_max = worker.settings.connect_time_max;
        let connect = async move {
            match tokio::time::timeout(time_max, TcpStream::connect(address)).await {
                Ok(connected) => connected.and_then(|s| s.set_nodelay(true).map(|()| Connected::Http1(s))),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        };
        self.upstream = Upstream::Connecting(Box::pin(connect), address, Instant::now());
        self.stream.data_mut().info.upstream_host = Some(address);
    }

    fn connect_http2(&mut self, address: SocketAddr, worker: &Rc<WorkerContext>) {
        let streams_max = worker.settings.http2_streams_max;
        self.stream.data_mut().info.upstream_host = Some(address);
        if let Some(place) = worker.http2_pool.take(address, streams_max) {
            self.stream.data_mut().info.upstream_ready = Some(Duration::ZERO);
            return self.begin_http2(place);
        }
        let connect = worker.http2_pool.connect(address, Http2Settings::of(&worker.settings));
        let (generation, cluster) = (Rc::clone(&self.generation), self.cluster.clone());
        let connect = async move {
            let (place, is_new) = connect.await?;
            if let Some(cluster) = cluster.filter(|_| is_new) {
                generation.count(&cluster, |c| c.connections.increment());
            }
            Ok(Connected::Http2(place))
        };
        self.upstream = Upstream::Connecting(Box::pin(connect), address, Instant::now());
    }

    /// Whether the request has no body, and none that is still to come.
    fn is_bodiless(&self) -> bool {
        self.request_body.is_none() && !self.body_started && !self.stream.has_request_output()
    }

    fn begin_http2(&mut self, place: Place) {
        self.attempts += 1;
        let end = self.is_bodiless();
        match Http2Stream::start(place, &self.stream.data().request, end, Some(self.attempts)) {
            Ok(stream) => {
                let info = &mut self.stream.data_mut().info;
                info.upstream_host = Some(stream.address());
                info.upstream_local = stream.local();
                info.upstream_attempts = self.attempts;
                self.sent = Some(Instant::now());
                self.upstream = Upstream::Active(ActiveUpstream::Http2(Box::new(stream)));
            }
            Err(_) => self.fail(Reason::RequestHeadersRemoved),
        }
    }

    fn begin(&mut self, mut connection: Box<UpstreamConnection>) {
        self.attempts += 1;
        let end = self.is_bodiless();
        let data = self.stream.data_mut();
        data.info.upstream_host = Some(connection.address);
        data.info.upstream_local = connection.local;
        data.info.upstream_attempts = self.attempts;
        let started = if self.switches {
            connection.start_switch(&data.request, self.attempts)
        } else {
            connection.start(&data.request, end, self.attempts)
        };
        if started.is_err() {
            return self.fail(Reason::RequestHeadersRemoved);
        }
        self.sent = Some(Instant::now());
        self.upstream = Upstream::Active(ActiveUpstream::Http1(connection));
    }

    /// Chain → endpoint.
    pub(super) fn push_upstream(&mut self, cx: &mut Context<'_>) -> bool {
        let Upstream::Active(connection) = &mut self.upstream else { return false };
        let mut moved = false;
        loop {
            // Several pieces go out in one write.
            let mut queued = false;
            while connection.queued() < QUEUED_PIECES_MAX {
                let piece = match self.stream.pop_request_data() {
                    Some(data) => connection.queue(data.bytes, data.end),
                    None => match self.stream.take_request_trailers() {
                        Some(trailers) => connection.queue_trailers(trailers),
                        None => break,
                    },
                };
                queued = true;
                if piece.is_err() {
                    tracing::warn!(target: "http", "request body and content-length disagree after a plug-in has changed one of them: the request is given up");
                    self.upstream = Upstream::Over;
                    self.stream.data_mut().info.response_flags = "UPE";
                    self.stream.reset("request_body_length_mismatch");
                    return true;
                }
            }
            moved |= queued;
            match connection.poll_flush(cx) {
                Poll::Ready(Ok(())) if queued => {}
                // After an error the answer may be there all the same: reading tells.
                Poll::Ready(_) | Poll::Pending => return moved,
            }
        }
    }

    /// Endpoint → chain.
    pub(super) fn pull_response(&mut self, cx: &mut Context<'_>) -> bool {
        let Upstream::Active(connection) = &mut self.upstream else { return false };
        if self.stream.state() != StreamState::Open {
            // A local reply or a reset: what the endpoint says interests nobody any more.
            self.upstream = Upstream::Over;
            return true;
        }
        if !connection.is_head_done() {
            let method = self.stream.data().request.method.clone().unwrap_or(Method::GET);
            let bytes_max = self.downstream.worker.settings.response_head_bytes_max;
            return match connection.poll_head(cx, &method, bytes_max) {
                Poll::Pending => false,
                Poll::Ready(Ok((status, headers))) => {
                    let end = connection.is_response_done();
                    self.receive_head(status, headers, end);
                    true
                }
                Poll::Ready(Err(error)) => {
                    self.upstream_failed(&error);
                    true
                }
            };
        }
        if !self.stream.wants_response() {
            return false;
        }
        match connection.poll_data(cx) {
            Poll::Pending => false,
            Poll::Ready(Ok(received)) => {
                let (bytes, end) = match received {
                    Received::Data(bytes, end) => (bytes, end),
                    Received::End => (Bytes::new(), true),
                    Received::Trailers(trailers) => {
                        self.release();
                        self.stream.response_trailers(trailers);
                        return true;
                    }
                };
                if end {
                    self.release();
                }
                self.stream.response_data(bytes, end);
                true
            }
            Poll::Ready(Err(error)) => {
                self.upstream_failed(&error);
                true
            }
        }
    }

    fn receive_head(&mut self, status: http::StatusCode, mut headers: HeaderMap, end: bool) {
        let now = Instant::now();
        let ms = self
            .sent
            .map_or(0, |sent| u64::try_from(now.duration_since(sent).as_millis()).unwrap_or(u64::MAX));
        let value = if ms == 0 { HeaderValue::from_static("0") } else { HeaderValue::from(ms) };
        let _ = headers.try_insert(X_ENVOY_UPSTREAM_SERVICE_TIME, value);
        let info = &mut self.stream.data_mut().info;
        info.upstream_service_time_ms = Some(ms);
        info.response_code_details = "via_upstream".into();
        self.counters(|c| c.count_response(status.as_u16()));
        if end {
            self.release();
        }
        self.stream.response_headers(ResponseHead::new(status, headers), end);
    }

    /// The endpoint's answer is complete: its connection is free for the next request.
    fn release(&mut self) {
        if let Upstream::Active(connection) = std::mem::replace(&mut self.upstream, Upstream::Over) {
            let now = Instant::now();
            self.stream.data_mut().info.backend_latency = self.sent.map(|sent| now.duration_since(sent));
            if let ActiveUpstream::Http1(connection) = connection
                && connection.is_reusable()
            {
                self.downstream.worker.pool.borrow_mut().put(connection, now);
            }
        }
    }

    fn upstream_failed(&mut self, error: &UpstreamError) {
        let Upstream::Active(connection) = std::mem::replace(&mut self.upstream, Upstream::Over) else {
            return;
        };
        // The endpoint closed an idle connection while our request was on its way: it has not seen the request.
        let unseen = connection.is_unseen(error);
        let method = self.stream.data().request.method.as_ref();
        let may_repeat =
            (connection.is_sure() || method.is_some_and(Method::is_idempotent)) && !self.body_started;
        if unseen && may_repeat && self.attempts < ATTEMPTS_MAX {
            self.counters(|c| c.retries.increment());
            return self.connect(connection.address(), false);
        }
        self.counters(|c| c.resets.increment());
        let is_protocol = matches!(error, UpstreamError::Head(_) | UpstreamError::Chunk(_));
        if is_protocol {
            tracing::debug!(target: "http", "endpoint {}: {error}", connection.address());
        }
        if self.stream.data().response.is_some() {
            let info = &mut self.stream.data_mut().info;
            info.response_flags = if is_protocol { "UPE" } else { "UC" };
            let details = if is_protocol {
                "upstream_reset_after_response_started{protocol_error}"
            } else {
                "upstream_reset_after_response_started{connection_termination}"
            };
            return self.stream.reset(details);
        }
        self.fail(if is_protocol { Reason::UpstreamProtocolError } else { Reason::ConnectionTermination });
    }

    fn fail(&mut self, reason: Reason) {
        self.upstream = Upstream::Over;
        self.stream.local_reply(reason.reply());
    }

    pub(super) fn counters(&self, count: impl FnOnce(&crate::stats::ClusterCounters)) {
        if let Some(cluster) = &self.cluster {
            self.generation.count(cluster, count);
        }
    }
}
