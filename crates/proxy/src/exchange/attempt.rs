//! Attempts: to which endpoint a request goes, over which connection, and when it is sent once more.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HeaderValue;
use http::{HeaderMap, Method, StatusCode};
use smallvec::SmallVec;
use wasmgate_config::{LoadBalancer, RetryPolicy, UpstreamProtocol};
use wasmgate_stream::StreamState;

use super::Exchange;
use super::upstream_side::Upstream;
use crate::reason::{Reason, with_retry_limit};
use crate::upstream::{
    Acquired, ActiveRequest, ActiveRetry, ActiveUpstream, Host, Http2Stream, Outcome, Place, TlsFailure,
    UpstreamConnection, UpstreamError, hash_key,
};

/// Of the pauses between retries the longest, relative to the first one.
const BACKOFF_FACTOR_MAX: u32 = 10;

/// What keeping a piece of a body costs beside its bytes: a client may send them one by one.
const PIECE_COST_BYTES: usize = 64;

/// A connection for one exchange, or a place on one that is shared.
pub(super) enum Connected {
    Http1(Acquired),
    Http2(Place),
}

pub(super) type Connecting = Pin<Box<dyn Future<Output = io::Result<Connected>>>>;

/// What has been tried, and what it would take to try again.
#[derive(Default)]
pub(super) struct Attempts {
    /// Requests that were sent, or would have been.
    pub(super) count: u32,
    /// Of them those that were sent again because the route wants it.
    retries: u32,
    /// Counts it, if it is one.
    retry: Option<ActiveRetry>,
    /// The attempt under way.
    active: Option<ActiveRequest>,
    /// Endpoints that have failed.
    tried: SmallVec<[SocketAddr; 2]>,
    /// There would have been another one, had there not been so many.
    is_used_up: bool,
    /// A connection that was idle turned out to be closed: the next one is made.
    wants_fresh: bool,
    body: Replay,
    /// What leads the client to the same endpoint next time.
    cookie: Option<HeaderValue>,
}

/// What has been sent of a request's body, for as long as it may have to be sent again.
#[derive(Default)]
struct Replay {
    pieces: Vec<(Bytes, bool)>,
    trailers: Option<Box<HeaderMap>>,
    bytes: usize,
    /// It was too long to be kept, or is not needed any more.
    is_given_up: bool,
}

/// Why an attempt has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The endpoint has not seen the request.
    Unsent,
    /// It may have seen it, and has not begun with an answer.
    Reset,
    /// Its answer is not good enough.
    Answer,
}

impl Exchange {
    /// The request head has left the chain: chooses an endpoint and a connection to it.
    pub(super) fn forward(&mut self) {
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
        if self.cluster.is_none() {
            return self.fail(Reason::BackendInvalid);
        }
        self.attempt();
    }

    /// Sends the request to an endpoint that has not been tried.
    pub(super) fn attempt(&mut self) {
        let Some(cluster) = self.cluster.clone() else { return self.fail(Reason::BackendInvalid) };
        self.attempts.wants_fresh = false;
        let chosen = self.stream.data().upstream_override;
        let chosen = chosen.filter(|address| !self.attempts.tried.contains(address));
        let chosen = chosen.and_then(|address| cluster.host(address));
        let host = chosen.or_else(|| {
            let key = match &cluster.config.policy.balance {
                LoadBalancer::Hash(rule, _) => {
                    let data = self.stream.data();
                    let (key, cookie) = hash_key::key(rule, &data.request, data.info.downstream_remote);
                    self.attempts.cookie = cookie;
                    key
                }
                _ => None,
            };
            cluster.pick(key, &self.attempts.tried)
        });
        let Some(host) = host else {
            cluster.count(|c| c.unhealthy.increment());
            return self.fail(Reason::NoHealthyUpstream);
        };
        if !cluster.admits_request() {
            cluster.count(|c| c.pending_overflow.increment());
            return self.fail(Reason::Overflow);
        }
        self.attempts.active = Some(ActiveRequest::new(&cluster, &host));
        self.connect(&host, true);
    }

    pub(super) fn connect(&mut self, host: &Rc<Host>, may_reuse: bool) {
        self.deadlines.begin_attempt();
        let Some(cluster) = self.cluster.clone() else { return self.fail(Reason::BackendInvalid) };
        let client = (self.downstream.remote, self.downstream.local);
        self.stream.data_mut().info.upstream_host = Some(host.address());
        // Only HTTP/1.1 has what a request to switch asks for.
        let connecting: Connecting = if cluster.config.protocol == UpstreamProtocol::Http2 && !self.switches {
            if let Some(place) = cluster.take_place(host) {
                self.stream.data_mut().info.upstream_ready = Some(Duration::ZERO);
                return self.begin_http2(place);
            }
            match cluster.acquire_place(host, Some(client)) {
                Ok(place) => Box::pin(async { place.await.map(Connected::Http2) }),
                Err(_) => return self.fail(Reason::Overflow),
            }
        } else {
            if may_reuse && let Some(connection) = host.take_idle() {
                self.stream.data_mut().info.upstream_ready = Some(Duration::ZERO);
                return self.begin(connection);
            }
            match cluster.acquire(host, client) {
                Ok(acquired) => Box::pin(async { acquired.await.map(Connected::Http1) }),
                Err(_) => return self.fail(Reason::Overflow),
            }
        };
        self.upstream = Upstream::Connecting(connecting, Instant::now());
    }

    /// What waiting for a connection has led to.
    pub(super) fn connected(&mut self, connected: io::Result<Connected>, since: Instant) {
        match connected {
            Ok(connected) => {
                self.stream.data_mut().info.upstream_ready = Some(since.elapsed());
                match connected {
                    Connected::Http1(Acquired::Fresh(connection) | Acquired::Pooled(connection)) => {
                        self.begin(connection);
                    }
                    Connected::Http2(place) => self.begin_http2(place),
                }
            }
            Err(e) => {
                self.observe(Outcome::Failed);
                self.stream.data_mut().info.upstream_failure = TlsFailure::of(&e);
                let reason = if e.kind() == io::ErrorKind::TimedOut {
                    Reason::ConnectionTimeout
                } else {
                    Reason::ConnectionFailure
                };
                self.attempt_failed(Failure::Unsent, reason);
            }
        }
    }

    /// Whether the request has no body, and none that is still to come.
    fn is_bodiless(&self) -> bool {
        self.request_body.is_none()
            && !self.body_started
            && !self.stream.has_request_output()
            // What a plug-in has put in is sent again, too.
            && self.attempts.body.pieces.is_empty()
    }

    fn begin_http2(&mut self, place: Place) {
        self.attempts.count += 1;
        let (end, attempt) = (self.is_bodiless(), self.attempts.count);
        match Http2Stream::start(place, &self.stream.data().request, end, Some(attempt)) {
            Ok(stream) => {
                let info = &mut self.stream.data_mut().info;
                info.upstream_host = Some(stream.address());
                info.upstream_local = stream.local();
                info.upstream_attempts = attempt;
                self.begun(ActiveUpstream::Http2(Box::new(stream)));
            }
            Err(_) => self.fail(Reason::RequestHeadersRemoved),
        }
    }

    fn begin(&mut self, mut connection: Box<UpstreamConnection>) {
        self.attempts.count += 1;
        let (end, attempt) = (self.is_bodiless(), self.attempts.count);
        let data = self.stream.data_mut();
        data.info.upstream_host = Some(connection.address);
        data.info.upstream_local = connection.local;
        data.info.upstream_attempts = attempt;
        let started = if self.switches {
            connection.start_switch(&data.request, attempt)
        } else {
            connection.start(&data.request, end, attempt)
        };
        match started {
            Ok(()) => self.begun(ActiveUpstream::Http1(connection)),
            Err(_) => self.fail(Reason::RequestHeadersRemoved),
        }
    }

    /// What was sent of the body before is sent again.
    fn begun(&mut self, mut upstream: ActiveUpstream) {
        self.sent = Some(Instant::now());
        let body = &self.attempts.body;
        let mut queued = Ok(());
        for (bytes, end) in &body.pieces {
            queued = queued.and_then(|()| upstream.queue(bytes.clone(), *end));
        }
        if let Some(trailers) = &body.trailers {
            queued = queued.and_then(|()| upstream.queue_trailers(HeaderMap::clone(trailers)));
        }
        self.upstream = Upstream::Active(upstream);
        if queued.is_err() {
            self.body_mismatch();
        }
    }

    /// The body and the head disagree.
    pub(super) fn body_mismatch(&mut self) {
        tracing::warn!(target: "http", "request body and content-length disagree after a plug-in has changed one of them: the request is given up");
        self.upstream = Upstream::Over;
        self.stream.data_mut().info.response_flags = "UPE";
        self.stream.reset("request_body_length_mismatch");
    }

    /// Keeps a piece of the body for as long as it may have to be sent again.
    pub(super) fn keep(&mut self, bytes: &Bytes, end: bool) {
        let max = self.downstream.worker.settings.stream.buffer_bytes_max;
        let body = &mut self.attempts.body;
        if body.is_given_up {
            return;
        }
        body.bytes = body.bytes.saturating_add(bytes.len() + PIECE_COST_BYTES);
        if body.bytes > max || self.switches {
            *body = Replay { is_given_up: true, ..Replay::default() };
        } else {
            body.pieces.push((bytes.clone(), end));
        }
    }

    pub(super) fn keep_trailers(&mut self, trailers: &HeaderMap) {
        if !self.attempts.body.is_given_up {
            self.attempts.body.trailers = Some(Box::new(trailers.clone()));
        }
    }

    /// An answer is accepted: nothing is sent again any more.
    pub(super) fn settle(&mut self, headers: &mut HeaderMap) {
        self.attempts.body = Replay { is_given_up: true, ..Replay::default() };
        if self.attempts.retries > 0 {
            self.counters(|c| c.retries_success.increment());
        }
        if let Some(cookie) = self.attempts.cookie.take() {
            let _ = headers.try_append(http::header::SET_COOKIE, cookie);
        }
    }

    /// The attempt is over.
    pub(super) fn end_attempt(&mut self) {
        (self.attempts.active, self.attempts.retry) = (None, None);
    }

    pub(super) fn host(&self) -> Option<&Rc<Host>> {
        self.attempts.active.as_ref().map(ActiveRequest::host)
    }

    pub(super) fn observe(&self, outcome: Outcome) {
        if let Some(active) = &self.attempts.active {
            active.observe(outcome);
        }
    }

    fn retry_policy(&self) -> Option<&RetryPolicy> {
        self.route.as_ref().map(|route| &route.retry).filter(|retry| retry.retries > 0)
    }

    /// Whether an answer is one that the route wants another attempt for.
    pub(super) fn is_bad_answer(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let Some(policy) = self.retry_policy() else { return false };
        // CANCELLED and UNAVAILABLE of an answer without a body (spec: wasmplugin-and-routing §3.10).
        let is_grpc = || headers.get("grpc-status").is_some_and(|s| matches!(s.as_bytes(), b"1" | b"14"));
        policy.statuses.contains(&status.as_u16()) || is_grpc()
    }

    /// Sends the request again after a pause, if the route, the limits and the request let it; whether it does.
    pub(super) fn retry(&mut self, failure: Failure) -> bool {
        let Some(policy) = self.retry_policy() else { return false };
        let wants = failure != Failure::Reset || policy.on_reset;
        let (retries, backoff) = (policy.retries, policy.backoff);
        if !wants || self.switches && failure != Failure::Unsent || self.stream.state() != StreamState::Open {
            return false;
        }
        if self.attempts.retries >= retries {
            let info = &mut self.stream.data_mut().info;
            info.response_flags = with_retry_limit(info.response_flags);
            self.attempts.is_used_up = true;
            return false;
        }
        if self.attempts.body.is_given_up {
            return false;
        }
        if !self.cluster.as_ref().is_some_and(|c| c.admits_retry()) {
            self.counters(|c| c.retries_overflow.increment());
            return false;
        }
        self.attempts.retry = self.cluster.as_ref().map(|c| c.begin_retry());
        self.counters(|c| c.retries.increment());
        self.attempts.tried.extend(self.attempts.active.take().map(|active| active.host().address()));
        self.attempts.retries += 1;
        let factor = 1_u32.checked_shl(self.attempts.retries - 1).unwrap_or(u32::MAX).min(BACKOFF_FACTOR_MAX);
        let pause = backoff.saturating_mul(factor).mul_f64(fastrand::f64());
        self.deadlines.end_attempt();
        self.upstream = Upstream::Pausing(Box::pin(tokio::time::sleep(pause)));
        true
    }

    /// Tries again, or answers for the endpoint.
    pub(super) fn attempt_failed(&mut self, failure: Failure, reason: Reason) {
        if !self.retry(failure) {
            self.fail(reason);
        }
    }

    /// The endpoint closed an idle connection while our request was on its way, or says that it has not begun with it:
    /// that is no failure, and the same endpoint gets it over another connection. Whether it does.
    pub(super) fn send_afresh(&mut self, upstream: &ActiveUpstream, error: &UpstreamError) -> bool {
        let method = self.stream.data().request.method.as_ref();
        let may_repeat = upstream.is_sure() || method.is_some_and(Method::is_idempotent);
        let is_whole = !self.attempts.body.is_given_up;
        if !upstream.is_unseen(error) || !may_repeat || !is_whole || self.attempts.wants_fresh {
            return false;
        }
        let Some(host) = self.host().cloned() else { return false };
        self.attempts.wants_fresh = true;
        self.counters(|c| c.retries.increment());
        self.connect(&host, false);
        true
    }

    pub(super) fn fail(&mut self, reason: Reason) {
        self.upstream = Upstream::Over;
        self.end_attempt();
        let mut reply = reason.reply();
        if self.attempts.is_used_up {
            reply.flags = with_retry_limit(reply.flags);
        }
        self.stream.local_reply(reply);
    }
}
