//! The far end of a stream: what has passed its filters, with a length that is right.

use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};

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
        let mut end = self.response.headers.take()?;
        if self.is_bodiless() {
            // Whatever a filter or the endpoint has given it (spec: proxy-wasm-host §7.6).
            self.response.discard_body();
            end = true;
        } else {
            self.settle_length(Direction::Response, end);
        }
        self.response.headers_taken = true;
        self.data_mut().response_sent = true;
        Some(end)
    }

    /// Whether no body may follow the response's head (RFC 9110 §6.4.1). Takes away a length that must not be there.
    fn is_bodiless(&mut self) -> bool {
        let is_to_head = self.data().is_to_head;
        let Some(response) = &mut self.data_mut().response else { return is_to_head };
        let status = response.status.unwrap_or_default();
        let never_has_one = status == StatusCode::NO_CONTENT
            || (status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS);
        if never_has_one {
            response.headers.remove(CONTENT_LENGTH);
        }
        never_has_one || is_to_head || status == StatusCode::NOT_MODIFIED
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

    /// The headers of a direction's message.
    fn headers_mut(&mut self, direction: Direction) -> Option<&mut HeaderMap> {
        let data = self.data_mut();
        match direction {
            Direction::Request => Some(&mut data.request.headers),
            Direction::Response => data.response.as_mut().map(|r| &mut r.headers),
        }
    }

    /// Whether a direction's head announces a length.
    fn announces_length(&self, direction: Direction) -> bool {
        let data = self.data();
        match direction {
            Direction::Request => data.request.headers.contains_key(CONTENT_LENGTH),
            Direction::Response => {
                data.response.as_ref().is_some_and(|r| r.headers.contains_key(CONTENT_LENGTH))
            }
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
            && self.announces_length(direction)
    }

    /// Makes the announced length right, or takes it away, while the head is still here; and notes what it promises.
    fn settle_length(&mut self, direction: Direction, end: bool) {
        if self.slots.is_empty() {
            // The codecs on both sides keep the length by themselves.
            return;
        }
        let out = self.out(direction);
        let (is_complete, queued) = (out.is_complete(), out.queued_bytes as u64);
        let (is_edited, original) = (out.edited, out.original_length);
        let Some(headers) = self.headers_mut(direction) else { return };
        if !headers.contains_key(CONTENT_LENGTH) {
            return;
        }
        let announced = length(headers);
        let settled = match (end, is_complete) {
            // A request without a body need not say so.
            (true, _) if direction == Direction::Request => announced.filter(|length| *length == 0),
            (true, _) => Some(0),
            (false, true) => Some(queued),
            // Who is to know whether a length that a filter has set will be right.
            (false, false) => announced.filter(|_| !is_edited && announced == original),
        };
        if settled != announced || settled.is_none() {
            // In the place where it was, once: the name exists.
            match settled {
                Some(length) => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(length))),
                None => drop(headers.remove(CONTENT_LENGTH)),
            }
        }
        if !end {
            self.output(direction).promised = settled;
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

/// The length that headers announce: digits, once. Anything else has more than one reading.
pub(crate) fn length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let (only, None) = (values.next()?, values.next()) else { return None };
    let digits = only.as_bytes();
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    only.to_str().ok().filter(|_| is_number)?.parse().ok()
}
