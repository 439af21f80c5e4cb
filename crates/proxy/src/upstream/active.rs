//! An exchange with an endpoint, whatever the version of HTTP.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use super::connection::{Received, UpstreamConnection, UpstreamError};
use super::http2::Http2Stream;

/// An exchange that is under way.
#[derive(Debug)]
pub(crate) enum ActiveUpstream {
    /// It has the connection for itself.
    Http1(Box<UpstreamConnection>),
    /// It shares the connection.
    Http2(Box<Http2Stream>),
}

impl ActiveUpstream {
    /// Queues a piece of the request body.
    pub(crate) fn queue(&mut self, bytes: Bytes, end: bool) -> Result<(), UpstreamError> {
        match self {
            Self::Http1(connection) => connection.queue(bytes, end),
            Self::Http2(stream) => {
                stream.queue(bytes, end);
                Ok(())
            }
        }
    }

    /// Ends the request with trailers; endpoints that speak HTTP/1 get none, like Envoy's by default.
    pub(crate) fn queue_trailers(&mut self, trailers: HeaderMap) -> Result<(), UpstreamError> {
        match self {
            Self::Http1(connection) => connection.queue(Bytes::new(), true),
            Self::Http2(stream) => {
                stream.queue_trailers(trailers);
                Ok(())
            }
        }
    }

    /// Pieces of the request body that wait.
    pub(crate) fn queued(&self) -> usize {
        match self {
            Self::Http1(connection) => connection.queued(),
            Self::Http2(stream) => stream.queued(),
        }
    }

    /// Ready once all that was queued is on its way.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(connection) => connection.poll_flush(cx),
            Self::Http2(stream) => stream.poll_room(cx).map(Ok),
        }
    }

    /// The response head.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        bytes_max: usize,
    ) -> Poll<Result<(StatusCode, HeaderMap), UpstreamError>> {
        match self {
            Self::Http1(connection) => {
                connection.poll_head(cx, method, bytes_max).map_ok(|head| (head.status, head.headers))
            }
            Self::Http2(stream) => stream.poll_head(cx),
        }
    }

    pub(crate) fn is_head_done(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_head_done(),
            Self::Http2(stream) => stream.is_head_done(),
        }
    }

    pub(crate) fn is_response_done(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_response_done(),
            Self::Http2(stream) => stream.is_response_done(),
        }
    }

    /// The next piece of the response.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, UpstreamError>> {
        match self {
            Self::Http1(connection) => connection.poll_data(cx),
            Self::Http2(stream) => stream.poll_data(cx),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Self::Http1(connection) => connection.address,
            Self::Http2(stream) => stream.address(),
        }
    }

    /// Whether the endpoint has not seen the request: it closed a connection that was idle, or says so.
    pub(crate) fn is_unseen(&self, error: &UpstreamError) -> bool {
        match self {
            Self::Http1(connection) => {
                let is_broken_off = matches!(error, UpstreamError::Closed | UpstreamError::Io(_));
                connection.reused && !connection.answered && is_broken_off
            }
            Self::Http2(stream) => !stream.has_head() && error.is_refused_unseen(),
        }
    }

    /// Whether [`ActiveUpstream::is_unseen`] is certain, so that any request may be sent again.
    pub(crate) fn is_sure(&self) -> bool {
        matches!(self, Self::Http2(_))
    }
}
