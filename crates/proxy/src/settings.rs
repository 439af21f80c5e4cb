//! What an operator sets for the data path as a whole.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use wasmgate_stream::StreamLimits;

use crate::access_log::{AccessLogSink, LogFormat};

/// Settings that are the same for every listener and worker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where this process is controlled: no cluster may have it as an endpoint.
    pub admin: Option<SocketAddr>,
    /// Value of the `server` header on every response; `None` passes the upstream's on.
    pub server: Option<HeaderValue>,
    /// Where access log lines go; `None` for nowhere.
    pub access_log: Option<AccessLogSink>,
    /// How its lines look; `None`: a JSON object with the 25 fields of an Istio/ASM gateway, all of them strings.
    pub access_log_format: Option<Arc<LogFormat>>,
    /// Bounds of one stream.
    pub stream: StreamLimits,
    /// Proxies in front of us that are trusted: the client is whom the last of them but so many names in
    /// `x-forwarded-for`.
    pub trusted_hops: u32,
    /// HTTP/1.0 is served; otherwise it is answered with 426.
    pub accepts_http10: bool,
    /// Memory of the process, bytes. From 90 % of it on connections end after their next answer, from 95 % on further
    /// requests are answered with 503.
    pub memory_bytes_max: Option<u64>,
    /// Downstream connections of one worker at the same time. Further ones are closed at once.
    pub connections_max: u64,
    /// Size of a request head, bytes. Over it: 431.
    pub request_head_bytes_max: usize,
    /// Headers of a request. Over it: 431.
    pub request_headers_max: usize,
    /// Size of a request body, bytes; `None`: no bound. Over it: 413, or a reset once the response has begun.
    pub request_body_bytes_max: Option<u64>,
    /// Size of a response head, bytes. Over it: 502.
    pub response_head_bytes_max: usize,
    /// Size of the answer to a plug-in's call-out, bytes. Over it the plug-in gets none.
    pub call_response_bytes_max: usize,
    /// Until a request head is complete. Over it: the connection is closed.
    pub request_head_time_max: Duration,
    /// Until TLS with a client is established. Over it: the connection is closed.
    pub tls_handshake_time_max: Duration,
    /// Until a connection to an endpoint stands. Over it: 503.
    pub connect_time_max: Duration,
    /// A stream on which nothing moves, in seconds of whole; zero for no limit. Over it: 504, or a reset once the response
    /// has begun.
    pub stream_idle_max: Duration,
    /// HTTP/2 connections are asked for a sign of life this often, and closed if they give none for as long again.
    pub http2_ping_interval: Duration,
    /// An upstream connection that nobody uses is closed after this.
    pub upstream_idle_max: Duration,
    /// Upstream connections that nobody uses, per worker and endpoint.
    pub upstream_idle_connections_max: usize,
    /// Streams at the same time on one HTTP/2 connection.
    pub http2_streams_max: u32,
    /// How long a connection that we close waits for the client to close it, too; zero: not at all. Without it, a client
    /// that is still sending a body may get a reset in place of the answer that denied it.
    pub delayed_close_max: Duration,
    /// How long connections may go on after a shutdown has begun.
    pub drain_time_max: Duration,
}

impl Settings {
    fn format(&self) -> Option<&LogFormat> {
        self.access_log_format.as_deref().filter(|_| self.access_log.is_some())
    }

    /// Whether response headers must be kept for the access log.
    pub(crate) fn logs_response_headers(&self) -> bool {
        self.format().is_some_and(LogFormat::needs_response_headers)
    }

    /// Whether response trailers must be kept for the access log.
    pub(crate) fn logs_response_trailers(&self) -> bool {
        self.format().is_some_and(LogFormat::needs_response_trailers)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            admin: None,
            server: Some(HeaderValue::from_static("wasmgate")),
            access_log: None,
            access_log_format: None,
            stream: StreamLimits::default(),
            trusted_hops: 0,
            accepts_http10: false,
            memory_bytes_max: None,
            connections_max: u64::MAX,
            request_head_bytes_max: 60 << 10,
            request_headers_max: 100,
            request_body_bytes_max: None,
            response_head_bytes_max: 60 << 10,
            call_response_bytes_max: 32 << 20,
            request_head_time_max: Duration::from_secs(60),
            tls_handshake_time_max: Duration::from_secs(10),
            connect_time_max: Duration::from_secs(10),
            stream_idle_max: Duration::from_secs(300),
            http2_ping_interval: Duration::from_secs(60),
            upstream_idle_max: Duration::from_secs(60),
            upstream_idle_connections_max: 256,
            http2_streams_max: 100,
            delayed_close_max: Duration::from_secs(1),
            drain_time_max: Duration::from_secs(30),
        }
    }
}
