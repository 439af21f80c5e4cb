//! The far end of a stream: what has passed its filters, with a length that is right.

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use crate::direction::Direction;
use crate::filter::Filter;
use crate::machine::{Stream, StreamState, looks_at_body};
use crate::output::{DataOut, LengthMismatch};

impl<F: Filter> Stream<F> {
    /// Request headers that may go upstream, once; the value tells whether they end the request.
    pub fn take_request_headers(&mut self) -> Option<bool> {
        if self.must_wait_for_body(Direction::Request) {
            return None;
        }
        let end = self.request.headers.take()?;
        self.settle_length(Direction::Request, end);
        self.request.headers_taken = true;
        self.data_mut().request_sent = true;
        Some(end)
    }

    /// Response headers that may go downstream, once; the value tells whether they end the response.
    pub fn take_response_headers(&mut self) -> Option<bool> {
        if self.must_wait_for_body(Direction::Response) {
            return None;
        }
        // A callback for the body may have come in between.
        self.refuse_without_status();
        let end = self.response.headers.take()?;
        self.settle_length(Direction::Response, end);
        self.response.headers_taken = true;
        self.data_mut().response_sent = true;
        Some(end)
    }

    /// A piece of request body that may go upstream.
    pub fn pop_request_data(&mut self) -> Option<DataOut> {
        match self.request.pop() {
            Ok(out) => out,
            Err(LengthMismatch) => {
                self.reset("request_body_length_mismatch");
                None
            }
        }
    }

    /// A piece of response body that may go downstream.
    pub fn pop_response_data(&mut self) -> Option<DataOut> {
        match self.response.pop() {
            Ok(out) => {
                let out = out?;
                self.data_mut().info.bytes_sent += out.bytes.len() as u64;
                Some(out)
            }
            Err(LengthMismatch) => {
                self.reset("response_body_length_mismatch");
                None
            }
        }
    }

    /// The length that a direction's head announces.
    fn announced_length(&self, direction: Direction) -> Option<&HeaderValue> {
        let data = self.data();
        match direction {
            Direction::Request => data.request.headers.get(CONTENT_LENGTH),
            Direction::Response => data.response.as_ref()?.headers.get(CONTENT_LENGTH),
        }
    }

    /// Whether a head with a length waits until the first piece of its body has passed the filters: a filter may still
    /// change the body, and Envoy, which does not wait, then sends a message that is longer than its head says
    /// (spec: envoy-observed §1.7).
    fn must_wait_for_body(&self, direction: Direction) -> bool {
        let out = self.out(direction);
        out.headers == Some(false)
            && !out.has_data()
            && !out.trailers
            && self.is_live(direction)
            && self.slots.iter().any(|s| s.started && !s.bypassed && looks_at_body(&s.filter, direction))
            && self.announced_length(direction).is_some()
    }

    /// Makes the announced length right, or takes it away, while the head is still here; and notes what it promises.
    fn settle_length(&mut self, direction: Direction, end: bool) {
        if self.slots.is_empty() {
            // The codecs on both sides keep the length by themselves.
            return;
        }
        let Some(announced) = self.announced_length(direction) else { return };
        let length = announced.to_str().ok().and_then(|t| t.parse::<u64>().ok());
        let data = self.data();
        // Heads that may carry a length without a body.
        let bodiless = direction == Direction::Response
            && (data.request.method == Some(Method::HEAD)
                || data.response.as_ref().and_then(|r| r.status) == Some(StatusCode::NOT_MODIFIED));
        if end || bodiless {
            return;
        }
        let out = self.out(direction);
        let settled = match (out.is_complete(), out.edited) {
            (true, _) => Some(out.queued_bytes as u64),
            (false, true) => None,
            (false, false) => length,
        };
        self.output(direction).promised = settled;
        if settled == length {
            return;
        }
        let data = self.data_mut();
        let headers = match (direction, &mut data.response) {
            (Direction::Request, _) => &mut data.request.headers,
            (Direction::Response, Some(response)) => &mut response.headers,
            (Direction::Response, None) => return,
        };
        match settled {
            // In the place where it was: the name exists.
            Some(length) => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(length))),
            None => drop(headers.remove(CONTENT_LENGTH)),
        }
    }

    /// Request trailers that may go upstream: after all data, once.
    pub fn take_request_trailers(&mut self) -> Option<HeaderMap> {
        if self.request.has_data() || !std::mem::take(&mut self.request.trailers) {
            return None;
        }
        self.data().request_trailers.clone()
    }

    /// Response trailers that may go downstream: after all data, once.
    pub fn take_response_trailers(&mut self) -> Option<HeaderMap> {
        if self.response.has_data() || !std::mem::take(&mut self.response.trailers) {
            return None;
        }
        self.data().response_trailers.clone()
    }

    /// Whether neither response headers nor a piece of the response can be taken now.
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, StreamState::Open | StreamState::Replied)
            && (self.response.headers.is_none() || self.must_wait_for_body(Direction::Response))
            && !self.response.has_data()
            && !self.response.trailers
    }
}
