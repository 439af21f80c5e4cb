//! The half of an exchange that faces the client's request: its body, for as long as it comes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Body as _;

use super::Exchange;
use crate::reason::Reason;

impl Exchange {
    /// Client → chain.
    pub(super) fn pull_request(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.stream.wants_request() {
            return false;
        }
        let Some(body) = &mut self.request_body else { return false };
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Pending => return false,
            Poll::Ready(Some(Ok(frame))) => {
                self.body_started = true;
                match frame.into_data() {
                    Ok(bytes) => {
                        let end = body.is_end_stream();
                        if self.is_too_much(bytes.len()) {
                            self.refuse_body("request_payload_too_large", Reason::BodyTooLarge);
                            return true;
                        }
                        if end {
                            self.request_over();
                        }
                        self.stream.request_data(bytes, end);
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.request_over();
                            self.stream.request_trailers(trailers);
                        }
                    }
                }
            }
            Poll::Ready(None) => {
                self.body_started = true;
                self.request_over();
                self.stream.request_data(Bytes::new(), true);
            }
            Poll::Ready(Some(Err(error))) => {
                self.request_body = None;
                if is_malformed(&error) {
                    self.stream.data_mut().info.response_flags = "DPE";
                    self.refuse_body("http1.codec_error", Reason::RequestBody);
                } else {
                    // The client broke off: there is nobody to answer.
                    self.stream.data_mut().info.response_flags = "DC";
                    self.stream.reset("downstream_remote_disconnect");
                }
            }
        }
        true
    }

    /// The body cannot be taken: answers if that is still possible. Where the next request begins is not known.
    fn refuse_body(&mut self, details: &'static str, reason: Reason) {
        self.broken_request = true;
        self.request_body = None;
        if self.stream.data().response_sent {
            self.give_up();
            self.stream.reset(details);
        } else {
            self.fail(reason);
        }
    }

    /// Whether the request's body gets longer than it may be.
    fn is_too_much(&mut self, more: usize) -> bool {
        let Some(max) = self.downstream.worker.settings.request_body_bytes_max else { return false };
        self.request_bytes = self.request_bytes.saturating_add(more as u64);
        self.request_bytes > max
    }

    /// The client has sent all of its request.
    fn request_over(&mut self) {
        self.request_body = None;
        let received = self.started.elapsed();
        self.stream.data_mut().info.request_received = Some(received);
    }
}

/// Whether a body's framing is wrong, as opposed to a client that has left.
fn is_malformed(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|e| e.downcast_ref::<io::Error>());
    source.is_some_and(|e| matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
}
