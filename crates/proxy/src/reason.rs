//! Why a request was answered as it was: one closed list for response code details, flags and metric labels, and the
//! reason phrases that Envoy puts on the wire.

use http::StatusCode;
use wasmgate_stream::LocalReply;

/// Answers of the proxy itself (spec: wasmplugin-and-routing §3.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// HTTP/1.0 is not served.
    LowVersion,
    /// HTTP/1.1 without `host`.
    MissingHost,
    /// It is no HTTP.
    Malformed,
    /// The body is larger than it may be.
    BodyTooLarge,
    /// The head is larger than it may be.
    HeadTooLarge,
    /// `host` is none.
    InvalidHost,
    /// The request's target is neither a path nor a URL.
    InvalidTarget,
    /// The body has a coding that nobody undoes.
    TransferCoding,
    /// The client's body is no body.
    RequestBody,
    /// The process has too little memory.
    Overloaded,
    /// No route matches.
    RouteNotFound,
    /// The route's backend reference is broken.
    BackendInvalid,
    /// The cluster has no endpoint.
    NoHealthyUpstream,
    /// The endpoint does not take the connection.
    ConnectionFailure,
    /// The endpoint does not take the connection in time.
    ConnectionTimeout,
    /// The endpoint closed before it answered.
    ConnectionTermination,
    /// The endpoint's answer is no HTTP.
    UpstreamProtocolError,
    /// Nothing moved on the stream for too long.
    StreamIdle,
    /// The route gives its requests no more time.
    RequestTimeout,
    /// The route gives its attempts no more time, and there is no other one.
    AttemptTimeout,
    /// A limit of the cluster is reached.
    Overflow,
    /// A filter took away what a request needs.
    RequestHeadersRemoved,
    /// The request's target has no form that everybody reads alike.
    PathNotNormal,
    /// The host is not one that the connection's certificate is for.
    Misdirected,
    /// The endpoint did not switch, and has not refused to either.
    NotSwitched,
    /// CONNECT is not served.
    ConnectUnsupported,
}

impl Reason {
    /// The answer.
    pub(crate) fn reply(self) -> LocalReply {
        let (status, flags, details, body) = match self {
            Self::LowVersion => (426, "DPE", "low_version", "Upgrade Required"),
            Self::MissingHost => (400, "", "missing_host_header", ""),
            Self::Malformed => (400, "DPE", "http1.codec_error", ""),
            Self::BodyTooLarge => (413, "", "request_payload_too_large", "Payload Too Large"),
            Self::HeadTooLarge => (431, "DPE", "request_headers_too_large", ""),
            Self::InvalidHost => (400, "DPE", "http.invalid_authority", ""),
            Self::InvalidTarget => (400, "DPE", "http.invalid_target", ""),
            Self::TransferCoding => (501, "DPE", "http1.invalid_transfer_encoding", "Not Implemented"),
            Self::RequestBody => (400, "DPE", "http1.codec_error", "Bad Request"),
            Self::Overloaded => (503, "OM", "overload", "overloaded"),
            Self::RouteNotFound => (404, "NR", "route_not_found", ""),
            Self::BackendInvalid => (500, "NC", "cluster_not_found", ""),
            Self::NoHealthyUpstream => (503, "UH", "no_healthy_upstream", "no healthy upstream"),
            Self::ConnectionFailure => (
                503,
                "UF",
                "upstream_reset_before_response_started{remote_connection_failure}",
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
            ),
            Self::ConnectionTimeout => (
                503,
                "UF",
                "upstream_reset_before_response_started{connection_timeout}",
                "upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
            ),
            Self::ConnectionTermination => (
                503,
                "UC",
                "upstream_reset_before_response_started{connection_termination}",
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
            ),
            Self::UpstreamProtocolError => (
                502,
                "UPE",
                "upstream_reset_before_response_started{protocol_error}",
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
            ),
            Self::StreamIdle => (504, "SI", "stream_idle_timeout", "stream timeout"),
            Self::RequestTimeout => (504, "UT", "response_timeout", "upstream request timeout"),
            Self::AttemptTimeout => (504, "UT", "upstream_per_try_timeout", "upstream request timeout"),
            Self::Overflow => (
                503,
                "UO",
                "upstream_reset_before_response_started{overflow}",
                "upstream connect error or disconnect/reset before headers. reset reason: overflow",
            ),
            Self::RequestHeadersRemoved => (
                503,
                "DPE",
                "filter_removed_required_request_headers{missing_required_header}",
                "missing required header: :method",
            ),
            Self::PathNotNormal => (400, "", "path_normalization_failed", ""),
            Self::Misdirected => (421, "", "misdirected_request", "Misdirected Request"),
            Self::NotSwitched => (502, "UPE", "upgrade_failed", ""),
            Self::ConnectUnsupported => (405, "", "connect_unsupported", ""),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut reply = LocalReply::new(status, flags, details, body);
        if !body.is_empty() {
            // Envoy's own texts begin with these two, in this order.
            reply.headers.push((b"content-length".to_vec(), body.len().to_string().into_bytes()));
            reply.headers.push((b"content-type".to_vec(), b"text/plain".to_vec()));
        }
        reply
    }
}

/// The flags of an attempt that was the last one because there had been so many.
pub(crate) fn with_retry_limit(flags: &'static str) -> &'static str {
    match flags {
        "" => "URX",
        "UF" => "UF,URX",
        "UC" => "UC,URX",
        "UT" => "UT,URX",
        "UPE" => "UPE,URX",
        other => other,
    }
}

/// The phrase that Envoy sends with a status; `None` where the HTTP library's own is the same.
pub(crate) fn phrase(status: StatusCode) -> Option<&'static [u8]> {
    match status.as_u16() {
        // Statuses that Envoy has no words for.
        209..=225 | 227..=299 | 306 | 309..=399 | 418..=420 | 427 | 430 | 432..=499 | 509 | 512..=598 => {
            Some(b"Unknown")
        }
        203 => Some(b"Non-Authoritative Information"),
        599 => Some(b"Last Unassigned Server Error Code"),
        _ => None,
    }
}
