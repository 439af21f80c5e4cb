//! Command operators: what each stands for.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use wasmgate_stream::{PeerCertificate, StreamInfo, TlsInfo};

use super::super::{Entry, protocol};
use super::time::TimeFormat;

/// What operators ask of the process.
#[derive(Clone, Debug, Default)]
pub struct LogContext {
    /// `%HOSTNAME%`
    pub hostname: String,
    /// `%ENVIRONMENT(X)%`: variables that a format may name.
    pub environment: Vec<(String, String)>,
}

/// An operator with what belongs to it.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    kind: Kind,
    length_max: Option<usize>,
}

#[derive(Clone, Debug)]
enum Kind {
    Fixed(Option<String>),
    StartTime(TimeFormat),
    Request(Header, Option<Header>),
    Response(Header, Option<Header>),
    Trailer(Header, Option<Header>),
    FilterState(String),
    /// Of the trailers, or of the head of an answer that has nothing else.
    GrpcStatus,
    Simple(Simple),
}

/// A header, or a pseudo-header, which begins with a colon.
#[derive(Clone, Debug)]
enum Header {
    Named(HeaderName),
    Pseudo(Vec<u8>),
}

/// What an entry has of itself.
pub(super) enum Value<'e> {
    Absent,
    Bytes(&'e [u8]),
    Number(u64),
    Address(SocketAddr),
    Ip(IpAddr),
    Time(&'e TimeFormat),
}

macro_rules! simple {
    ($($name:literal => $variant:ident),+ $(,)?) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Simple { $($variant),+ }

        const SIMPLE: &[(&str, Simple)] = &[$(($name, Simple::$variant)),+];
    };
}

simple! {
    "BYTES_RECEIVED" => BytesReceived,
    "BYTES_SENT" => BytesSent,
    "CONNECTION_ID" => ConnectionId,
    "CONNECTION_TERMINATION_DETAILS" => ConnectionTerminationDetails,
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => DownstreamDirectRemoteAddress,
    "DOWNSTREAM_LOCAL_ADDRESS" => DownstreamLocalAddress,
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => DownstreamLocalAddressWithoutPort,
    "DOWNSTREAM_LOCAL_PORT" => DownstreamLocalPort,
    "DOWNSTREAM_LOCAL_SUBJECT" => DownstreamLocalSubject,
    "DOWNSTREAM_LOCAL_URI_SAN" => DownstreamLocalUriSan,
    "DOWNSTREAM_PEER_FINGERPRINT_256" => DownstreamPeerFingerprint,
    "DOWNSTREAM_PEER_SUBJECT" => DownstreamPeerSubject,
    "DOWNSTREAM_PEER_URI_SAN" => DownstreamPeerUriSan,
    "DOWNSTREAM_PEER_DNS_SAN" => DownstreamPeerDnsSan,
    "DOWNSTREAM_REMOTE_ADDRESS" => DownstreamRemoteAddress,
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => DownstreamRemoteAddressWithoutPort,
    "DOWNSTREAM_REMOTE_PORT" => DownstreamRemotePort,
    "DOWNSTREAM_TLS_VERSION" => DownstreamTlsVersion,
    "DURATION" => Duration,
    "PROTOCOL" => Protocol,
    "REQUESTED_SERVER_NAME" => RequestedServerName,
    "REQUEST_DURATION" => RequestDuration,
    "RESPONSE_CODE" => ResponseCode,
    "RESPONSE_CODE_DETAILS" => ResponseCodeDetails,
    "RESPONSE_DURATION" => ResponseDuration,
    "RESPONSE_FLAGS" => ResponseFlags,
    "RESPONSE_TX_DURATION" => ResponseTxDuration,
    "ROUTE_NAME" => RouteName,
    "STREAM_ID" => StreamId,
    "TRACE_ID" => TraceId,
    "UPSTREAM_CLUSTER" => UpstreamCluster,
    "UPSTREAM_CLUSTER_RAW" => UpstreamClusterRaw,
    "UPSTREAM_HOST" => UpstreamHost,
    "UPSTREAM_LOCAL_ADDRESS" => UpstreamLocalAddress,
    "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => UpstreamLocalAddressWithoutPort,
    "UPSTREAM_LOCAL_PORT" => UpstreamLocalPort,
    "UPSTREAM_REMOTE_ADDRESS" => UpstreamRemoteAddress,
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => UpstreamRemoteAddressWithoutPort,
    "UPSTREAM_REMOTE_PORT" => UpstreamRemotePort,
    "UPSTREAM_REQUEST_ATTEMPT_COUNT" => UpstreamRequestAttemptCount,
    "UPSTREAM_TRANSPORT_FAILURE_REASON" => UpstreamTransportFailureReason,
    "VIRTUAL_HOST_NAME" => VirtualHostName,
}

/// Operators that have a parameter.
const WITH_PARAMETER: &str =
    "REQ, RESP, TRAILER, START_TIME, FILTER_STATE, DYNAMIC_METADATA, ENVIRONMENT, GRPC_STATUS, HOSTNAME";

impl Operator {
    /// Reads what stands between two per cent signs.
    pub(super) fn parse(text: &str, context: &LogContext) -> Result<Self, String> {
        let (head, length) = match text.rsplit_once(':') {
            Some((head, digits)) if head.ends_with(')') || !head.contains('(') => {
                let length = digits.parse::<usize>();
                (head, Some(length.map_err(|_| format!("{digits:?} in %{text}% is no length"))?))
            }
            _ => (text, None),
        };
        let (name, parameter) = match head.split_once('(') {
            Some((name, rest)) => {
                let inner =
                    rest.strip_suffix(')').ok_or_else(|| format!("%{text}% has no closing bracket"))?;
                (name, Some(inner))
            }
            None => (head, None),
        };
        let kind = Kind::parse(name, parameter, context)?;
        Ok(Self { kind, length_max: length })
    }

    pub(super) fn length_max(&self) -> Option<usize> {
        self.length_max
    }

    pub(super) fn reads_response_headers(&self) -> bool {
        matches!(&self.kind, Kind::Response(..) | Kind::GrpcStatus)
    }

    pub(super) fn reads_response_trailers(&self) -> bool {
        matches!(&self.kind, Kind::Trailer(..) | Kind::GrpcStatus)
    }

    pub(super) fn value<'e>(&'e self, entry: &'e Entry<'_>) -> Value<'e> {
        let data = entry.data;
        let found = match &self.kind {
            Kind::Fixed(text) => text.as_deref().map(str::as_bytes),
            Kind::StartTime(format) => return Value::Time(format),
            Kind::Simple(simple) => return simple.value(entry),
            Kind::Request(first, second) => data.filter(|d| !d.is_tcp).and_then(|d| {
                let one = |header: &Header| match header {
                    Header::Named(name) => value(&d.request.headers, name),
                    Header::Pseudo(name) => d.request.get(name),
                };
                one(first).or_else(|| second.as_ref().and_then(one))
            }),
            Kind::Response(first, second) => data.and_then(|d| d.response.as_ref()).and_then(|response| {
                let one = |header: &Header| match header {
                    Header::Named(name) => value(&response.headers, name),
                    Header::Pseudo(_) => None,
                };
                one(first).or_else(|| second.as_ref().and_then(one))
            }),
            Kind::Trailer(first, second) => {
                data.and_then(|d| d.response_trailers.as_ref()).and_then(|trailers| {
                    let one = |header: &Header| match header {
                        Header::Named(name) => value(trailers, name),
                        Header::Pseudo(_) => None,
                    };
                    one(first).or_else(|| second.as_ref().and_then(one))
                })
            }
            Kind::GrpcStatus => {
                let name = HeaderName::from_static("grpc-status");
                let head = data.and_then(|d| d.response.as_ref()).map(|r| &r.headers);
                let trailers = data.and_then(|d| d.response_trailers.as_ref());
                trailers.and_then(|t| value(t, &name)).or_else(|| head.and_then(|h| value(h, &name)))
            }
            Kind::FilterState(path) => data.and_then(|d| d.properties.get(path.as_bytes())),
        };
        found.map_or(Value::Absent, Value::Bytes)
    }
}

fn value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    headers.get(name).map(http::HeaderValue::as_bytes)
}

impl Kind {
    fn parse(name: &str, parameter: Option<&str>, context: &LogContext) -> Result<Self, String> {
        let required =
            || parameter.filter(|p| !p.is_empty()).ok_or_else(|| format!("%{name}(…)% needs a parameter"));
        let headers = || -> Result<_, String> {
            let (first, second) = match required()?.split_once('?') {
                Some((first, second)) => (first, Some(second)),
                None => (required()?, None),
            };
            Ok((Header::parse(first)?, second.map(Header::parse).transpose()?))
        };
        Ok(match name {
            "REQ" => headers().map(|(first, second)| Self::Request(first, second))?,
            "RESP" => headers().map(|(first, second)| Self::Response(first, second))?,
            "TRAILER" => headers().map(|(first, second)| Self::Trailer(first, second))?,
            // Ours is a number only.
            "GRPC_STATUS" | "GRPC_STATUS_NUMBER" => Self::GrpcStatus,
            "START_TIME" => Self::StartTime(match parameter.filter(|p| !p.is_empty()) {
                Some(format) => TimeFormat::parse(format)?,
                None => TimeFormat::default_format(),
            }),
            "FILTER_STATE" => {
                // How the value is spelt does not matter: plug-ins store bytes.
                let key = required()?;
                let key = key.strip_suffix(":PLAIN").or_else(|| key.strip_suffix(":TYPED")).unwrap_or(key);
                Self::FilterState(key.strip_prefix("wasm.").unwrap_or(key).to_owned())
            }
            // Nobody sets any here.
            "DYNAMIC_METADATA" => required().map(|_| Self::Fixed(None))?,
            "ENVIRONMENT" => {
                let wanted = required()?;
                let found = context.environment.iter().find(|(n, _)| n == wanted);
                let text =
                    format!("%ENVIRONMENT({wanted})%: not set, or not allowed by --allow-host-env {wanted}");
                Self::Fixed(Some(found.ok_or(text)?.1.clone()))
            }
            "HOSTNAME" => Self::Fixed(Some(context.hostname.clone())),
            _ => match SIMPLE.iter().find(|(known, _)| *known == name) {
                Some((_, simple)) if parameter.is_none() => Self::Simple(*simple),
                Some(_) => return Err(format!("%{name}% has no parameter")),
                None => {
                    let known: Vec<&str> = SIMPLE.iter().map(|(known, _)| *known).collect();
                    return Err(format!(
                        "%{name}% is no operator; {}, and with a parameter {WITH_PARAMETER} are",
                        known.join(", ")
                    ));
                }
            },
        })
    }
}

impl Header {
    fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(':') {
            return Ok(Self::Pseudo(text.to_ascii_lowercase().into_bytes()));
        }
        let name = HeaderName::from_bytes(text.as_bytes());
        name.map(Self::Named).map_err(|_| format!("{text:?} is no header name"))
    }
}

impl Simple {
    fn value<'e>(self, entry: &'e Entry<'_>) -> Value<'e> {
        let info = entry.data.map(|d| &d.info);
        let text = |text: Option<&'e str>| {
            text.filter(|t| !t.is_empty()).map_or(Value::Absent, |t| Value::Bytes(t.as_bytes()))
        };
        let address = |address: Option<SocketAddr>| address.map_or(Value::Absent, Value::Address);
        let ip = |address: Option<SocketAddr>| address.map_or(Value::Absent, |a| Value::Ip(a.ip()));
        let port =
            |address: Option<SocketAddr>| address.map_or(Value::Absent, |a| Value::Number(a.port().into()));
        let ms = |time: Option<Duration>| {
            time.map_or(Value::Absent, |t| Value::Number(u64::try_from(t.as_millis()).unwrap_or(u64::MAX)))
        };
        let tls = info.and_then(|i| i.tls.as_deref());
        let header = |name: &str| {
            let found = entry.data.and_then(|d| d.request.headers.get(name));
            found.map_or(Value::Absent, |v| Value::Bytes(v.as_bytes()))
        };
        let (host, local) = (info.and_then(|i| i.upstream_host), info.and_then(|i| i.upstream_local));
        match self {
            Self::BytesReceived => Value::Number(info.map_or(0, |i| i.bytes_received)),
            Self::BytesSent => Value::Number(info.map_or(entry.bytes_sent, |i| i.bytes_sent)),
            Self::ConnectionId => info.map_or(Value::Absent, |i| Value::Number(i.connection_id)),
            Self::ConnectionTerminationDetails => Value::Absent,
            Self::DownstreamDirectRemoteAddress | Self::DownstreamRemoteAddress => {
                address(Some(entry.downstream_remote))
            }
            Self::DownstreamLocalAddress => address(Some(entry.downstream_local)),
            Self::DownstreamLocalAddressWithoutPort => ip(Some(entry.downstream_local)),
            Self::DownstreamLocalPort => port(Some(entry.downstream_local)),
            Self::DownstreamRemoteAddressWithoutPort => ip(Some(entry.downstream_remote)),
            Self::DownstreamRemotePort => port(Some(entry.downstream_remote)),
            Self::DownstreamLocalSubject => text(own(tls).map(|c| c.subject.as_str())),
            Self::DownstreamLocalUriSan => text(own(tls).and_then(|c| c.uris.first()).map(String::as_str)),
            Self::DownstreamPeerFingerprint => text(peer(tls).map(|c| c.sha256.as_str())),
            Self::DownstreamPeerSubject => text(peer(tls).map(|c| c.subject.as_str())),
            Self::DownstreamPeerUriSan => text(peer(tls).and_then(|c| c.uris.first()).map(String::as_str)),
            Self::DownstreamPeerDnsSan => {
                text(peer(tls).and_then(|c| c.dns_names.first()).map(String::as_str))
            }
            Self::DownstreamTlsVersion => text(tls.map(|t| t.version)),
            Self::Duration => Value::Number(entry.duration_ms),
            Self::Protocol => match info {
                _ if entry.data.is_some_and(|d| d.is_tcp) => Value::Absent,
                info => Value::Bytes(protocol(info.map_or(http::Version::HTTP_11, |i| i.protocol))),
            },
            Self::RequestedServerName => text(tls.and_then(|t| t.server_name.as_deref())),
            Self::RequestDuration => ms(info.and_then(|i| i.request_received)),
            Self::ResponseCode => Value::Number(entry.status.into()),
            Self::ResponseCodeDetails => {
                text(info.map(|i| &*i.response_code_details).or(Some(entry.details)))
            }
            Self::ResponseDuration => ms(info.and_then(|i| i.response_begun)),
            Self::ResponseFlags if entry.flags.is_empty() => Value::Bytes(b"-"),
            Self::ResponseFlags => text(Some(entry.flags)),
            Self::ResponseTxDuration => ms(info.and_then(sending)),
            Self::RouteName => text(info.map(|i| &*i.route_name)),
            Self::StreamId => header("x-request-id"),
            Self::TraceId => header("x-b3-traceid"),
            Self::UpstreamCluster | Self::UpstreamClusterRaw => text(info.map(|i| &*i.cluster_name)),
            Self::UpstreamHost | Self::UpstreamRemoteAddress => address(host),
            Self::UpstreamRemoteAddressWithoutPort => ip(host),
            Self::UpstreamRemotePort => port(host),
            Self::UpstreamLocalAddress => address(local),
            Self::UpstreamLocalAddressWithoutPort => ip(local),
            Self::UpstreamLocalPort => port(local),
            Self::UpstreamRequestAttemptCount => {
                Value::Number(info.map_or(0, |i| i.upstream_attempts.into()))
            }
            Self::UpstreamTransportFailureReason => text(info.and_then(|i| i.upstream_failure.as_deref())),
            Self::VirtualHostName => text(info.map(|i| &*i.virtual_host_name)),
        }
    }
}

/// From the beginning of the response to its end.
fn sending(info: &StreamInfo) -> Option<Duration> {
    info.duration?.checked_sub(info.response_begun?)
}

fn own(tls: Option<&TlsInfo>) -> Option<&PeerCertificate> {
    tls?.own.as_ref()
}

fn peer(tls: Option<&TlsInfo>) -> Option<&PeerCertificate> {
    tls?.peer.as_ref()
}
