//! The half of an exchange that faces the endpoint: sending the request, reading the answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use tokio::time::Sleep;
use wasmgate_stream::{ResponseHead, StreamState};

use super::Exchange;
use super::attempt::{Connecting, Failure};
use crate::reason::Reason;
use crate::upstream::{ActiveUpstream, Outcome, Received, UpstreamError};

const X_ENVOY_UPSTREAM_SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// Pieces of request body that one write takes.
const QUEUED_PIECES_MAX: usize = 8;

/// Where the upstream side stands.
pub(super) enum Upstream {
    /// The request has not left the chain.
    Waiting,
    /// Another attempt follows.
    Pausing(Pin<Box<Sleep>>),
    /// Since when.
    Connecting(Connecting, Instant),
    Active(ActiveUpstream),
    /// Complete, failed, or not needed.
    Over,
}

impl Exchange {
    /// Chain → a connection to an endpoint.
    pub(super) fn start_upstream(&mut self, cx: &mut Context<'_>) -> bool {
        let is_open = self.stream.state() == StreamState::Open;
        match &mut self.upstream {
            Upstream::Waiting => match self.stream.take_request_headers() {
                Some(end) => {
                    // A head without body is complete on the wire; otherwise the pieces follow through the chain.
                    debug_assert!(
                        end || self.request_body.is_some() || self.body_started || self.switches,
                        "a request that goes on has a body"
                    );
                    self.forward();
                    true
                }
                None => false,
            },
            Upstream::Pausing(_) | Upstream::Connecting(..) if !is_open => {
                self.give_up();
                true
            }
            Upstream::Pausing(pause) => {
                let over = pause.as_mut().poll(cx).is_ready();
                if over {
                    self.attempt();
                }
                over
            }
            Upstream::Connecting(future, since) => {
                let since = *since;
                match future.as_mut().poll(cx) {
                    Poll::Pending => false,
                    Poll::Ready(connected) => {
                        self.connected(connected, since);
                        true
                    }
                }
            }
            Upstream::Active(_) | Upstream::Over => false,
        }
    }

    /// What the endpoint would say interests nobody any more.
    pub(super) fn give_up(&mut self) {
        self.upstream = Upstream::Over;
        self.end_attempt();
    }

    /// Chain → endpoint.
    pub(super) fn push_upstream(&mut self, cx: &mut Context<'_>) -> bool {
        if !matches!(self.upstream, Upstream::Active(_)) {
            return false;
        }
        let mut moved = false;
        loop {
            // Several pieces go out in one write.
            let mut queued = false;
            loop {
                let Upstream::Active(connection) = &mut self.upstream else { return true };
                if connection.queued() >= QUEUED_PIECES_MAX {
                    break;
                }
                let piece = if let Some(data) = self.stream.pop_request_data() {
                    let piece = connection.queue(data.bytes.clone(), data.end);
                    self.keep(&data.bytes, data.end);
                    piece
                } else if let Some(trailers) = self.stream.take_request_trailers() {
                    self.keep_trailers(&trailers);
                    let Upstream::Active(connection) = &mut self.upstream else { return true };
                    connection.queue_trailers(trailers)
                } else {
                    break;
                };
                queued = true;
                if piece.is_err() {
                    self.body_mismatch();
                    return true;
                }
            }
            moved |= queued;
            let Upstream::Active(connection) = &mut self.upstream else { return true };
            // What did not fit before may wait behind a queue that is written now: nobody else would come back for it.
            let waited = connection.queued() > 0;
            match connection.poll_flush(cx) {
                Poll::Ready(Ok(())) if queued || waited => {}
                // After an error the answer may be there all the same: reading tells.
                Poll::Ready(_) | Poll::Pending => return moved,
            }
        }
    }

    /// Endpoint → chain.
    pub(super) fn pull_response(&mut self, cx: &mut Context<'_>) -> bool {
        let Upstream::Active(connection) = &mut self.upstream else { return false };
        if self.stream.state() != StreamState::Open {
            // A local reply or a reset.
            self.give_up();
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
        self.counters(|c| c.count_response(status.as_u16()));
        self.observe(Outcome::Status(status.as_u16()));
        if self.is_bad_answer(status, &headers) && self.retry(Failure::Answer) {
            return;
        }
        let now = Instant::now();
        let ms = self
            .sent
            .map_or(0, |sent| u64::try_from(now.duration_since(sent).as_millis()).unwrap_or(u64::MAX));
        let value = if ms == 0 { HeaderValue::from_static("0") } else { HeaderValue::from(ms) };
        let _ = headers.try_insert(X_ENVOY_UPSTREAM_SERVICE_TIME, value);
        self.settle(&mut headers);
        let begun = now.duration_since(self.started);
        let info = &mut self.stream.data_mut().info;
        info.upstream_service_time_ms = Some(ms);
        info.response_begun = Some(begun);
        info.response_code_details = "via_upstream".into();
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
            if let (ActiveUpstream::Http1(connection), Some(cluster), Some(host)) =
                (connection, &self.cluster, self.host())
                && connection.is_reusable()
            {
                cluster.release(host, connection, now);
            }
        }
        self.end_attempt();
    }

    fn upstream_failed(&mut self, error: &UpstreamError) {
        let Upstream::Active(connection) = std::mem::replace(&mut self.upstream, Upstream::Over) else {
            return;
        };
        if self.send_afresh(&connection, error) {
            return;
        }
        self.counters(|c| c.resets.increment());
        self.observe(Outcome::Failed);
        let is_protocol = matches!(error, UpstreamError::Head(_) | UpstreamError::Chunk(_));
        if is_protocol {
            tracing::debug!(target: "http", "endpoint {}: {error}", connection.address());
        }
        if self.stream.data().response.is_some() {
            self.end_attempt();
            let (flags, details) = if is_protocol {
                ("UPE", "upstream_reset_after_response_started{protocol_error}")
            } else {
                ("UC", "upstream_reset_after_response_started{connection_termination}")
            };
            if !self.switches {
                self.broken_response = Some((flags, details));
                return;
            }
            self.stream.data_mut().info.response_flags = flags;
            return self.stream.reset(details);
        }
        let failure = if error.is_refused_unseen() { Failure::Unsent } else { Failure::Reset };
        let reason = if is_protocol { Reason::UpstreamProtocolError } else { Reason::ConnectionTermination };
        self.attempt_failed(failure, reason);
    }

    pub(super) fn counters(&self, count: impl FnOnce(&crate::ClusterCounters)) {
        if let Some(cluster) = &self.cluster {
            cluster.count(count);
        }
    }
}
