//! The one loop of a stream: client, filter chain, endpoint.
//!
//! An exchange is polled by hyper, first for the response head and then, as the response's body, for its frames. Every
//! poll drives all parts as far as they go: request body → chain → endpoint, endpoint → chain → client. Not polling it
//! is back-pressure. When it is dropped before its end, the client has left.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, DATE, HeaderValue, SEC_WEBSOCKET_ACCEPT, SERVER, UPGRADE};
use http::{HeaderMap, Response, StatusCode, Version};
use http_body::Frame;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use wasmgate_config::{RequestKey, Route};
use wasmgate_plugin::StreamPort;
use wasmgate_stream::{Stream, StreamData, StreamInfo, StreamState};

use crate::access_log::Entry;
use crate::body::ProxyBody;
use crate::chain::ChainFilter;
use crate::connection::Downstream;
use crate::idle::IdleKey;
use crate::reason::{self, Reason};
use crate::request::Accepted;
use crate::stats::Overload;
use crate::upstream::{Outcome, WorkerCluster};
use crate::worker_generation::WorkerGeneration;

mod attempt;
mod deadlines;
mod request_side;
mod tunnel;
mod upstream_side;

use attempt::{Attempts, Failure};
use deadlines::{Deadlines, Expired};
use upstream_side::Upstream;

/// One stream, from the request head to the end of the response.
pub(crate) struct Exchange {
    downstream: Rc<Downstream>,
    generation: Rc<WorkerGeneration>,
    listener: Option<usize>,
    stream: Stream<ChainFilter>,
    /// Where the stream's data lies between two polls, if its chain has plug-ins.
    port: Option<Rc<StreamPort>>,
    route: Option<Arc<Route>>,
    cluster: Option<Rc<WorkerCluster>>,
    request_body: Option<Incoming>,
    upstream: Upstream,
    attempts: Attempts,
    /// The request asks for another protocol: what is its body comes once that has been agreed on.
    switches: bool,
    /// The request's framing is wrong: where the next one begins is not known.
    broken_request: bool,
    /// Of the body, where that has a limit.
    request_bytes: u64,
    /// The endpoint's response has broken off; flags and details. What came before goes to the client first.
    broken_response: Option<(&'static str, &'static str)>,
    /// Nothing more comes of it, and hyper has had a turn to send what there is.
    is_last_turn: bool,
    /// A piece of the request body has been taken from the client: the request cannot be sent again.
    body_started: bool,
    started: Instant,
    sent: Option<Instant>,
    status: u16,
    finished: bool,
    /// When the whole request must be over, and when the attempt must be, if their route says so.
    deadlines: Deadlines,
    /// From the first time on that the stream has to wait.
    idle: Option<IdleKey>,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange")
            .field("status", &self.status)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

impl Exchange {
    /// Resolves the route and runs the request headers through the chain.
    pub(crate) fn start(downstream: Rc<Downstream>, accepted: Accepted, protocol: Version) -> Self {
        let worker = &downstream.worker;
        worker.stats.requests.increment();
        worker.stats.requests_active.increment();
        let (generation, listener) = downstream.generation();
        let info = StreamInfo {
            protocol,
            tls: downstream.tls.as_ref().map(|tls| Arc::clone(&tls.info)),
            ..StreamInfo::new(
                std::time::SystemTime::now(),
                downstream.id,
                (accepted.client.unwrap_or(downstream.remote), downstream.local),
                &worker.no_name(),
            )
        };
        let data = Box::new(StreamData::new(accepted.head, info));
        let (filters, port) = listener.map(|l| generation.filters(l)).unwrap_or_default();
        let stream = Stream::new(data, filters, worker.settings.stream);
        let end = accepted.body.is_none() && !accepted.switches;
        let mut exchange = Self {
            generation,
            listener,
            stream,
            port,
            route: None,
            cluster: None,
            request_body: accepted.body,
            upstream: Upstream::Waiting,
            attempts: Attempts::default(),
            switches: accepted.switches,
            broken_request: false,
            request_bytes: 0,
            broken_response: None,
            is_last_turn: false,
            body_started: false,
            started: Instant::now(),
            sent: None,
            status: 0,
            finished: false,
            idle: None,
            deadlines: Deadlines::default(),
            downstream,
        };
        // Before the chain runs: a denial still logs route and cluster.
        exchange.resolve_route();
        let timeouts = exchange.route.as_ref().map(|route| route.timeouts).unwrap_or_default();
        exchange.deadlines = Deadlines::new(timeouts);
        exchange.stream.request_headers(end);
        exchange
    }

    /// Looks the route up; again when a filter has changed what it depends on.
    fn resolve_route(&mut self) {
        let data = self.stream.data_mut();
        data.route_stale = false;
        let request = &data.request;
        let (Some(path), Some(method)) =
            (request.path().and_then(|p| std::str::from_utf8(p).ok()), &request.method)
        else {
            self.route = None;
            self.cluster = None;
            return;
        };
        let authority = request.authority.as_ref().and_then(|a| a.to_str().ok()).unwrap_or_default();
        let key = RequestKey { authority, path, method, headers: &request.headers };
        let route =
            self.listener.and_then(|l| self.generation.routes(l)).and_then(|table| table.find(&key)).cloned();
        let random = route.as_ref().filter(|r| r.backends.len() > 1).map_or(0, |_| fastrand::u64(..));
        let cluster = route.as_ref().and_then(|r| r.backend(random)).and_then(|b| b.cluster.as_ref());
        let cluster = cluster.and_then(|c| self.generation.cluster(c));
        let no_name = self.downstream.worker.no_name();
        data.info.virtual_host_name =
            route.as_ref().map_or_else(|| Arc::clone(&no_name), |r| Arc::clone(&r.virtual_host));
        data.info.route_name = route.as_ref().map_or_else(|| Arc::clone(&no_name), |r| Arc::clone(&r.name));
        data.info.cluster_name = cluster.as_ref().map_or(no_name, |c| Arc::clone(&c.config.name));
        data.info.upstream_endpoints =
            cluster.as_ref().map_or(0, |c| u32::try_from(c.len()).unwrap_or(u32::MAX));
        (self.route, self.cluster) = (route, cluster);
    }

    /// Drives the exchange until the response head is there.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<ResponseParts>> {
        self.unpark();
        self.drive(cx);
        let mut polled = self.try_head();
        if polled.is_pending()
            && let Some((flags, details)) = self.broken_response.take()
        {
            // Nothing of it has left the chain.
            self.stream.data_mut().info.response_flags = flags;
            self.stream.reset(details);
            polled = self.try_head();
        }
        if polled.is_pending() {
            self.park(cx);
        }
        polled
    }

    /// Others may reach the stream while it waits.
    fn park(&mut self, cx: &Context<'_>) {
        if let Some(port) = &self.port {
            port.park(&mut self.stream, cx.waker());
        }
    }

    /// Takes the stream's data back, and what others have asked of it.
    fn unpark(&mut self) {
        if let Some(port) = &self.port {
            port.unpark(&mut self.stream);
        }
    }

    fn try_head(&mut self) -> Poll<io::Result<ResponseParts>> {
        if self.stream.state() == StreamState::Reset {
            return Poll::Ready(Err(self.reset_error()));
        }
        match self.stream.take_response_headers() {
            Some(end) => Poll::Ready(self.response_parts(end)),
            None => Poll::Pending,
        }
    }

    /// The response for hyper. When all of it is here the exchange ends now and costs nothing more.
    pub(crate) fn into_response(mut self, parts: ResponseParts) -> Response<ProxyBody> {
        let body = if parts.end {
            self.finish();
            ProxyBody::Empty
        } else {
            match self.take_whole_body() {
                Some(bytes) => {
                    self.finish();
                    ProxyBody::Full(Some(bytes))
                }
                None => ProxyBody::Streaming(Box::new(self)),
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = parts.status;
        *response.headers_mut() = parts.headers;
        if let Some(phrase) = reason::phrase(parts.status) {
            response.extensions_mut().insert(ReasonPhrase::from_static(phrase));
        }
        response
    }

    /// The body, if it is one piece and has passed the chain.
    fn take_whole_body(&mut self) -> Option<Bytes> {
        if !self.stream.has_whole_response_body() {
            return None;
        }
        self.stream.pop_response_data().map(|data| data.bytes)
    }

    /// The next frame of the response body.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.finished {
            return Poll::Ready(None);
        }
        self.unpark();
        self.drive(cx);
        let mut polled = self.try_frame();
        if polled.is_pending()
            && let Some((flags, details)) = self.broken_response.take()
        {
            // hyper gives up what it has not sent yet when the body fails: it gets another turn.
            if std::mem::replace(&mut self.is_last_turn, true) {
                self.stream.data_mut().info.response_flags = flags;
                self.stream.reset(details);
                polled = self.try_frame();
            } else {
                self.broken_response = Some((flags, details));
                cx.waker().wake_by_ref();
            }
        }
        if !self.finished {
            self.park(cx);
        }
        polled
    }

    fn try_frame(&mut self) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.stream.state() == StreamState::Reset {
            let error = self.reset_error();
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(data) = self.stream.pop_response_data() {
            if data.end {
                self.finish();
                if data.bytes.is_empty() {
                    return Poll::Ready(None);
                }
            }
            return Poll::Ready(Some(Ok(Frame::data(data.bytes))));
        }
        if let Some(trailers) = self.stream.take_response_trailers() {
            if self.downstream.worker.settings.logs_response_trailers() {
                self.stream.data_mut().response_trailers = Some(trailers.clone());
            }
            self.finish();
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Poll::Pending
    }

    /// The endpoint has not switched, and the client is told so in place of what it said.
    pub(crate) fn end_unswitched(&mut self, reason: Reason) {
        let reply = reason.reply();
        let info = &mut self.stream.data_mut().info;
        (info.response_flags, info.response_code_details) = (reply.flags, reply.details);
        self.status = reply.status.as_u16();
        self.give_up();
        self.finish();
    }

    pub(crate) fn downstream(&self) -> &Rc<Downstream> {
        &self.downstream
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Moves every part as far as it goes.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if self.idle.is_some_and(|key| self.downstream.worker.idle.is_expired(key)) {
            return self.expire();
        }
        if let Some(expired) = self.deadlines.poll(cx) {
            self.time_out(expired);
        }
        let mut any = false;
        loop {
            let mut moved = self.pull_request(cx);
            moved |= self.start_upstream(cx);
            moved |= self.push_upstream(cx);
            moved |= self.pull_response(cx);
            if !moved {
                break;
            }
            any = true;
        }
        // An attempt that has just begun has a time of its own, which nobody has asked for yet.
        if let Some(expired) = self.deadlines.poll(cx) {
            self.time_out(expired);
            // Another attempt may follow, which nobody has asked for either.
            cx.waker().wake_by_ref();
        }
        match self.idle {
            Some(key) => self.downstream.worker.idle.wait(key, any, cx.waker()),
            // Locally answered and quickly answered streams never get here twice.
            None if self.stream.is_waiting() => {
                let give_up = self.downstream.give_up.clone();
                self.idle = Some(self.downstream.worker.idle.insert(cx.waker(), give_up));
            }
            None => {}
        }
    }

    /// The route's time is over: tries again, or answers if that is still possible.
    fn time_out(&mut self, expired: Expired) {
        if !matches!(self.stream.state(), StreamState::Open) || matches!(self.upstream, Upstream::Over) {
            return;
        }
        self.counters(|c| c.timeouts.increment());
        self.observe(Outcome::TimedOut);
        let is_attempt = expired == Expired::Attempt;
        // Another attempt may do better, as long as nothing of this one's answer has gone anywhere.
        if is_attempt && self.stream.data().response.is_none() && self.retry(Failure::Reset) {
            return;
        }
        let data = self.stream.data_mut();
        if data.response_sent {
            data.info.response_flags = "UT";
            self.give_up();
            return self.stream.reset("response_timeout");
        }
        self.fail(if is_attempt { Reason::AttemptTimeout } else { Reason::RequestTimeout });
    }

    /// Nothing has moved for too long: answers if that is still possible, and waits no longer.
    fn expire(&mut self) {
        if let Some(key) = self.idle.take() {
            self.downstream.worker.idle.remove(key);
        }
        self.give_up();
        let data = self.stream.data_mut();
        data.info.response_flags = "SI";
        if !data.response_sent {
            self.stream.local_reply(Reason::StreamIdle.reply());
        }
        if self.stream.is_waiting() {
            // The client has the head already, or a filter holds even this answer.
            self.stream.reset("stream_idle_timeout");
        }
    }

    /// The head that goes to the client: the proxy's own headers are added in Envoy's places.
    fn response_parts(&mut self, end: bool) -> io::Result<ResponseParts> {
        let worker = Rc::clone(&self.downstream.worker);
        let has_filters = self.generation.has_filters(self.listener);
        let date = worker.date.header(std::time::SystemTime::now());
        let is_http1 = self.stream.data().info.protocol != Version::HTTP_2;
        // Before the whole request has been read, the connection cannot carry another one.
        let is_cut = self.stream.state() == StreamState::Replied
            && (self.request_body.is_some() || self.broken_request);
        let must_close = is_http1
            && (is_cut || worker.is_leaving.get() || worker.gateway_stats.overload() != Overload::None);
        let Some(response) = &mut self.stream.data_mut().response else {
            return Err(io::Error::other("a response without a head"));
        };
        let Some(status) = response.status else {
            return Err(io::Error::other("a response without a status"));
        };
        // Filters read the head again in later callbacks; without filters at most the log does.
        let mut headers = if has_filters || worker.settings.logs_response_headers() {
            response.headers.clone()
        } else {
            std::mem::take(&mut response.headers)
        };
        if !headers.contains_key(DATE) {
            let _ = headers.try_insert(DATE, date);
        }
        if let Some(server) = &worker.settings.server {
            let _ = headers.try_insert(SERVER, server.clone());
        }
        if status == StatusCode::SWITCHING_PROTOCOLS && self.switches {
            let _ = headers.try_insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        // A connection that switches is closed by nobody before it is used.
        if must_close && !(status == StatusCode::SWITCHING_PROTOCOLS && self.switches) {
            let _ = headers.try_insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.status = status.as_u16();
        Ok(ResponseParts { status, headers, end })
    }

    fn reset_error(&mut self) -> io::Error {
        let details = self.stream.reset_details();
        self.finish();
        io::Error::new(io::ErrorKind::ConnectionReset, details)
    }

    /// There is nobody to answer any more: the client has left, or was given up.
    fn note_client_gone(&mut self) {
        self.unpark();
        let is_stalled = self.downstream.is_stalled();
        let info = &mut self.stream.data_mut().info;
        (info.response_flags, info.response_code_details) = match is_stalled {
            true => ("SI", "stream_idle_timeout".into()),
            false => ("DC", "downstream_remote_disconnect".into()),
        };
    }

    /// The end, once: filters, counters, access log.
    fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let worker = &self.downstream.worker;
        if let Some(key) = self.idle.take() {
            worker.idle.remove(key);
        }
        let duration = self.started.elapsed();
        let was_reply = self.stream.state() == StreamState::Replied;
        let was_reset = self.stream.state() == StreamState::Reset;
        self.stream.data_mut().info.duration = Some(duration);
        self.stream.end();
        worker.stats.requests_active.decrement();
        worker.stats.count_response(self.status);
        self.generation.count(self.listener, self.route.as_ref(), self.status);
        if was_reset {
            worker.stats.resets.increment();
        }
        let data = self.stream.data();
        if was_reply {
            worker.gateway_stats.count_reply(&data.info.response_code_details);
        }
        worker.log(&Entry {
            data: Some(data),
            downstream_local: data.info.downstream_local,
            downstream_remote: data.info.downstream_remote,
            start: data.info.start,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            status: self.status,
            flags: data.info.response_flags,
            details: "",
            bytes_sent: 0,
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.finished {
            self.note_client_gone();
            self.downstream.worker.stats.resets.increment();
            self.finish();
        }
    }
}

/// A response head on its way to hyper.
pub(crate) struct ResponseParts {
    pub(crate) status: http::StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) end: bool,
}

impl ResponseParts {
    /// The same over HTTP/2, where a stream is given away and not the connection (RFC 8441 §5).
    pub(crate) fn into_consent(self) -> Response<ProxyBody> {
        let mut response = Response::new(ProxyBody::Empty);
        *response.headers_mut() = self.headers;
        for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
            response.headers_mut().remove(name);
        }
        response
    }

    /// The answer that ends HTTP on a connection.
    pub(crate) fn into_switch(self) -> Response<ProxyBody> {
        let mut response = Response::new(ProxyBody::Empty);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}
