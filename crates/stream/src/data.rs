//! What everybody who looks at a stream can see of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Uri, Version};
use smallvec::SmallVec;

use crate::direction::Direction;
use crate::head::{RequestHead, ResponseHead};

/// Facts about a stream that are not part of its messages.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// When the request head was complete.
    pub start: SystemTime,
    /// From there to the end; set when the stream ends.
    pub duration: Option<Duration>,
    /// Downstream protocol.
    pub protocol: Version,
    /// TLS of the downstream connection, if it began with TLS.
    pub tls: Option<Arc<TlsInfo>>,
    /// Number of the downstream connection, unique in the process.
    pub connection_id: u64,
    /// The client's address.
    pub downstream_remote: SocketAddr,
    /// The listener's address.
    pub downstream_local: SocketAddr,
    /// Empty when no route matched.
    pub route_name: Arc<str>,
    /// Empty when no route matched.
    pub virtual_host_name: Arc<str>,
    /// Empty when no cluster was chosen.
    pub cluster_name: Arc<str>,
    /// The endpoint that answered.
    pub upstream_host: Option<SocketAddr>,
    /// Our address on the connection to it.
    pub upstream_local: Option<SocketAddr>,
    /// Why no secure connection to an endpoint could be made.
    pub upstream_failure: Option<Box<str>>,
    /// Attempts to send the request upstream.
    pub upstream_attempts: u32,
    /// From the request being sent to the response head, milliseconds.
    pub upstream_service_time_ms: Option<u64>,
    /// From the request being sent to the end of the response, as far as the endpoint is concerned; set when it comes.
    pub backend_latency: Option<Duration>,
    /// From the start to the last byte of the request.
    pub request_received: Option<Duration>,
    /// From the start to the head of the endpoint's response.
    pub response_begun: Option<Duration>,
    /// How long the request waited for a connection to the endpoint.
    pub upstream_ready: Option<Duration>,
    /// Endpoints of the cluster.
    pub upstream_endpoints: u32,
    /// Why the response is what it is; empty when a plug-in gave no reason.
    pub response_code_details: std::borrow::Cow<'static, str>,
    /// Envoy's short flags; empty when all went well.
    pub response_flags: &'static str,
    /// Request body bytes.
    pub bytes_received: u64,
    /// Response body bytes.
    pub bytes_sent: u64,
}

impl StreamInfo {
    /// A stream or a connection of which nothing else is known yet. `name` is the empty one, shared so that a stream does
    /// not allocate it.
    pub fn new(
        start: SystemTime,
        connection_id: u64,
        (downstream_remote, downstream_local): (SocketAddr, SocketAddr),
        name: &Arc<str>,
    ) -> Self {
        Self {
            start,
            duration: None,
            protocol: Version::HTTP_11,
            tls: None,
            connection_id,
            downstream_remote,
            downstream_local,
            route_name: Arc::clone(name),
            virtual_host_name: Arc::clone(name),
            cluster_name: Arc::clone(name),
            upstream_host: None,
            upstream_failure: None,
            upstream_local: None,
            upstream_attempts: 0,
            upstream_service_time_ms: None,
            backend_latency: None,
            request_received: None,
            response_begun: None,
            upstream_ready: None,
            upstream_endpoints: 0,
            response_code_details: "".into(),
            response_flags: "",
            bytes_received: 0,
            bytes_sent: 0,
        }
    }
}

/// What is known of TLS on a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsInfo {
    /// The name that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// `TLSv1.2` or `TLSv1.3`; empty when TLS does not end here.
    pub version: &'static str,
    /// Our certificate.
    pub own: Option<PeerCertificate>,
    /// The client's certificate, which has been checked.
    pub peer: Option<PeerCertificate>,
}

/// What is known of one side's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCertificate {
    /// As RFC 2253 writes it.
    pub subject: String,
    /// DNS names that it is for.
    pub dns_names: Vec<String>,
    /// URIs that it is for.
    pub uris: Vec<String>,
    /// Digest in hexadecimal; empty for our own.
    pub sha256: String,
}

/// Values that filters have set on the stream: a few short entries, so a list is faster than a map.
#[derive(Clone, Debug, Default)]
pub struct PropertyStore(SmallVec<[(Vec<u8>, Vec<u8>); 0]>);

impl PropertyStore {
    /// Entries of one stream.
    pub const ENTRIES_MAX: usize = 64;

    /// A stored value.
    pub fn get(&self, path: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|(key, _)| key == path).map(|(_, value)| value.as_slice())
    }

    /// All of them, path and value.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(path, value)| (path.as_slice(), value.as_slice()))
    }

    /// Stores a value; false when there are too many.
    pub fn set(&mut self, path: &[u8], value: &[u8]) -> bool {
        if let Some((_, old)) = self.0.iter_mut().find(|(key, _)| key == path) {
            value.clone_into(old);
            return true;
        }
        if self.0.len() >= Self::ENTRIES_MAX {
            return false;
        }
        self.0.push((path.to_vec(), value.to_vec()));
        true
    }
}

/// One stream's messages, as far as they are known, and facts about it.
#[derive(Debug)]
pub struct StreamData {
    /// The request head. Stays readable after it has been sent.
    pub request: RequestHead,
    /// Request trailers, once they have come.
    pub request_trailers: Option<HeaderMap>,
    /// The response head, once there is one.
    pub response: Option<ResponseHead>,
    /// Response trailers, once they have come.
    pub response_trailers: Option<HeaderMap>,
    /// Facts.
    pub info: StreamInfo,
    /// What filters have stored.
    pub properties: PropertyStore,
    /// A filter changed what routing depends on.
    pub route_stale: bool,
    /// A filter wants the route to stay what it is, whatever is edited.
    pub route_pinned: bool,
    /// The cluster that a filter has chosen for a TCP connection, by name. Counts until the connection to it begins.
    pub cluster_override: Option<Box<str>>,
    /// The endpoint that a filter has chosen. One that the cluster does not have is ignored.
    pub upstream_override: Option<SocketAddr>,
    /// Bytes of the request body that filters may buffer, as one of them asked for; up to
    /// [`StreamLimits::buffer_bytes_ceiling`](crate::StreamLimits::buffer_bytes_ceiling).
    pub request_buffer_bytes_max: Option<usize>,
    /// The same for the response body.
    pub response_buffer_bytes_max: Option<usize>,
    /// The client's request was HEAD, whatever filters have made of it: its answer has no body.
    pub is_to_head: bool,
    /// A TCP connection: there are no messages, and the bodies are what waits in each direction.
    pub is_tcp: bool,
    /// The request head is on its way: edits come too late.
    pub request_sent: bool,
    /// The response head is on its way: edits come too late.
    pub response_sent: bool,
    request_body: Option<Bytes>,
    response_body: Option<Bytes>,
    /// The last piece of this direction's body is being looked at and no trailers follow: some may be added.
    trailers_addable: Option<Direction>,
}

impl StreamData {
    /// A stream that has its request head.
    pub fn new(request: RequestHead, info: StreamInfo) -> Self {
        let is_to_head = request.method == Some(Method::HEAD);
        Self {
            is_to_head,
            request,
            request_trailers: None,
            response: None,
            response_trailers: None,
            info,
            properties: PropertyStore::default(),
            route_stale: false,
            route_pinned: false,
            cluster_override: None,
            upstream_override: None,
            request_buffer_bytes_max: None,
            response_buffer_bytes_max: None,
            is_tcp: false,
            request_sent: false,
            response_sent: false,
            request_body: None,
            response_body: None,
            trailers_addable: None,
        }
    }

    /// A TCP connection.
    pub fn connection(info: StreamInfo) -> Self {
        let nothing = RequestHead::new(Method::default(), Uri::default(), None, HeaderMap::new());
        let mut data = Self::new(nothing, info);
        data.is_tcp = true;
        data
    }

    /// The body that the current callback can see.
    pub fn body(&self, direction: Direction) -> Option<&Bytes> {
        match direction {
            Direction::Request => self.request_body.as_ref(),
            Direction::Response => self.response_body.as_ref(),
        }
    }

    /// Replaces the body that the current callback can see; false when there is none.
    pub fn set_body(&mut self, direction: Direction, bytes: Bytes) -> bool {
        match self.body_slot(direction) {
            Some(current) => {
                *current = bytes;
                true
            }
            None => false,
        }
    }

    /// The trailers of a direction, as far as they are there.
    pub fn trailers(&self, direction: Direction) -> Option<&HeaderMap> {
        match direction {
            Direction::Request => self.request_trailers.as_ref(),
            Direction::Response => self.response_trailers.as_ref(),
        }
    }

    /// The trailers of a direction, to change. In the callback for the last piece of a body without trailers they come
    /// into being: the direction then ends with them (spec: proxy-wasm-host §4.4).
    pub fn trailers_mut(&mut self, direction: Direction) -> Option<&mut HeaderMap> {
        let addable = self.trailers_addable == Some(direction);
        let slot = match direction {
            Direction::Request => &mut self.request_trailers,
            Direction::Response => &mut self.response_trailers,
        };
        if addable { Some(slot.get_or_insert_default()) } else { slot.as_mut() }
    }

    fn body_slot(&mut self, direction: Direction) -> &mut Option<Bytes> {
        match direction {
            Direction::Request => &mut self.request_body,
            Direction::Response => &mut self.response_body,
        }
    }

    pub(crate) fn show_body(&mut self, direction: Direction, bytes: Bytes, last: bool) {
        *self.body_slot(direction) = Some(bytes);
        self.trailers_addable = (last && self.trailers(direction).is_none()).then_some(direction);
    }

    pub(crate) fn hide_body(&mut self, direction: Direction) -> Option<Bytes> {
        self.trailers_addable = None;
        self.body_slot(direction).take()
    }
}
