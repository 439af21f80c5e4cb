//! How the endpoints of a cluster are treated: what the compiler makes of `DestinationRule` (spec: wasmplugin-and-routing
//! §3.15), and what the data path keeps to.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::certificate::{Certificate, ServerAuthorities};

/// Everything about a cluster but its endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterPolicy {
    /// Who gets the next request.
    pub balance: LoadBalancer,
    /// How the share of an endpoint that has just come grows.
    pub warmup: Option<Warmup>,
    /// Bounds of connections, requests and retries.
    pub limits: ClusterLimits,
    /// Endpoints whose answers are bad get nothing for a while.
    pub outlier: Option<OutlierDetection>,
    /// Endpoints that do not answer a probe get nothing.
    pub health_check: Option<HealthCheck>,
    /// What connections begin with.
    pub tls: TlsOrigination,
    /// A PROXY protocol header, which tells endpoints who the client is.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// Who gets the next request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LoadBalancer {
    /// Of two endpoints, chosen at random, the one with fewer requests.
    #[default]
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// Always the same for a key, for as long as the endpoints stay the same.
    Hash(HashKey, HashTable),
}

/// What of a request decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie. With a time to live, clients without one are given it.
    Cookie {
        /// Its name.
        name: String,
        /// Path that a cookie which is made here is for.
        path: String,
        /// How long one that is made here lives; zero: for the browser's session. `None`: none is made.
        ttl: Option<Duration>,
    },
    /// The client's address.
    SourceIp,
    /// The value of a parameter of the path's query.
    QueryParameter(String),
}

/// How keys are mapped to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashTable {
    /// A ring with at least so many points.
    Ring(u32),
    /// Maglev's table of so many places, a prime.
    Maglev(u32),
}

/// How the share of an endpoint that has just come grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warmup {
    /// Until it has its full share.
    pub time: Duration,
    /// Where it begins, percent.
    pub minimum_percent: u32,
}

/// Bounds of connections, requests and retries of a cluster, all workers together; `None`: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterLimits {
    /// Connections to all endpoints together. Requests wait for one, except that a worker without any may make one.
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    pub pending: Option<u32>,
    /// Requests at the same time.
    pub requests: Option<u32>,
    /// Retries at the same time.
    pub retries: Option<u32>,
    /// Retries at the same time, relative to the requests.
    pub retry_budget: Option<RetryBudget>,
    /// Requests of one connection; then it is closed.
    pub requests_per_connection: Option<u32>,
    /// Streams at the same time on an HTTP/2 connection.
    pub streams_per_connection: Option<u32>,
    /// Until a connection stands.
    pub connect_time: Option<Duration>,
    /// A connection that nobody uses is closed after this.
    pub idle_time: Option<Duration>,
    /// Age of a connection, after which it serves no further request.
    pub connection_time: Option<Duration>,
    /// TCP keep-alive.
    pub keepalive: Option<TcpKeepalive>,
}

/// Probes of a connection by the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Probes without an answer, after which the connection is dead; `None`: the system's.
    pub probes: Option<u32>,
    /// Silence before the first; `None`: the system's.
    pub time: Option<Duration>,
    /// Between two; `None`: the system's.
    pub interval: Option<Duration>,
}

/// How many retries there may be at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of the requests at the same time; in hundredths of a percent.
    pub basis_points: u32,
    /// So many in any case.
    pub minimum: u32,
}

/// Endpoints whose answers are bad get nothing for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// So many 5xx in a row; connections that fail or break count. 0: never.
    pub consecutive_5xx: u32,
    /// So many 502, 503 or 504 in a row, likewise. 0: never.
    pub consecutive_gateway: u32,
    /// So many connections in a row that fail or break, which then count nowhere else. `None`: they are not told apart.
    pub consecutive_local: Option<u32>,
    /// How often it is looked whether somebody's time is over.
    pub interval: Duration,
    /// How long the first ejection lasts; the n-th lasts n times as long.
    pub base_time: Duration,
    /// Of all endpoints; at least one may always be ejected.
    pub max_percent: u32,
    /// With fewer healthy ones than this, all of them get requests.
    pub min_health_percent: u32,
}

/// The longest time that an ejection lasts.
pub const EJECTION_TIME_MAX: Duration = Duration::from_secs(300);

/// Endpoints that do not answer a probe get nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: HealthProbe,
    /// Between two probes of an endpoint.
    pub interval: Duration,
    /// Until an answer must be there.
    pub timeout: Duration,
    /// So many good ones in a row make it healthy; the first one ever is enough.
    pub healthy_threshold: u32,
    /// So many bad ones in a row make it unhealthy.
    pub unhealthy_threshold: u32,
    /// Another port than that of the requests.
    pub port: Option<u16>,
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthProbe {
    /// `GET` of this path; 200 to 299 is healthy.
    Http {
        /// Path.
        path: String,
        /// Value of `host`; `None`: the cluster's host.
        host: Option<String>,
    },
    /// A connection that stands.
    Tcp,
    /// `grpc.health.v1.Health/Check` of this service, which may be empty.
    Grpc(String),
}

/// What connections begin with.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum TlsOrigination {
    /// Plain text.
    #[default]
    Off,
    /// TLS.
    On(Arc<ClusterTls>),
    /// TLS that cannot be had, and why: no connection is made, least of all in plain text.
    Unusable(Arc<str>),
}

/// TLS towards endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterTls {
    /// Who must have signed the endpoint's certificate; `None`: whom the system trusts.
    pub authorities: Option<ServerAuthorities>,
    /// What is shown to endpoints that ask for it.
    pub certificate: Option<Arc<Certificate>>,
    /// Name that is asked for, and that the certificate must be for unless `names` says otherwise.
    pub server_name: String,
    /// The certificate must be for one of these; empty: for `server_name`.
    pub names: Vec<String>,
    /// Any certificate will do.
    pub skip_verify: bool,
    /// HTTP/2 is offered beside HTTP/1.1; connections of TCP routes offer nothing.
    pub is_http2: bool,
}

/// Version of a PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}
