//! What the compiler produces: everything that the data path needs, with names resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::certificate::{Certificate, ClientAuthorities};
use crate::meta::{Position, ResourceId};
use crate::policy::ClusterPolicy;
use crate::route_table::{Backend, RouteTable};
use crate::wasm_plugin::{EnvValue, FailStrategy, Phase};

/// One compiled configuration. Immutable; parts that have not changed are shared with the one before.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Sockets to listen on.
    pub listeners: Vec<Listener>,
    /// Clusters by name.
    pub clusters: BTreeMap<Arc<str>, Arc<Cluster>>,
    /// Plug-ins of this gateway, in the order of the chain.
    pub plugins: Vec<Arc<PluginSpec>>,
}

/// One address that is listened on, with what it serves.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Istio's name: `0.0.0.0_8080`.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Hosts and routes.
    pub routes: Arc<RouteTable>,
    /// Where connections go, if this is a TCP listener.
    pub tcp: Option<Arc<TcpTarget>>,
    /// Names and certificates, if its connections begin with TLS.
    pub tls: Option<Arc<TlsListener>>,
    /// Plug-ins of HTTP streams: indexes into [`Snapshot::plugins`], in the order of the chain. None on a TCP listener.
    pub plugins: Vec<usize>,
    /// Plug-ins of connections (`type: NETWORK`), likewise. On an HTTP listener they come before HTTP is spoken.
    pub network_plugins: Vec<usize>,
}

/// What the connections of a TCP listener are connected to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TcpTarget {
    /// `<namespace>/<name>` of the route; empty without one.
    pub route_name: Arc<str>,
    /// Chosen among by weight; empty: connections are closed.
    pub backends: Vec<Backend>,
}

impl TcpTarget {
    /// The cluster for one connection, chosen by a random number. `None`: the connection is closed.
    pub fn cluster(&self, random: u64) -> Option<&Arc<Cluster>> {
        let total: u64 = self.backends.iter().map(|b| u64::from(b.weight)).sum();
        let mut at = random.checked_rem(total)?;
        for backend in &self.backends {
            match at.checked_sub(u64::from(backend.weight)) {
                Some(rest) => at = rest,
                None => return backend.cluster.as_ref(),
            }
        }
        None
    }
}

/// TLS of one address.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TlsListener {
    /// What is behind each name that a client may ask for.
    pub entries: Vec<TlsEntry>,
}

/// What is behind one name.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsEntry {
    /// Lower case; may begin with `*.`; `None`: every name that has no entry, and clients that send none.
    pub hostname: Option<Box<str>>,
    /// `None`: connections are passed on as they are.
    pub termination: Option<Arc<TlsTermination>>,
    /// Where connections go; `None`: they speak HTTP.
    pub target: Option<Arc<TcpTarget>>,
    /// What its listener asks for cannot be had: nobody is served under this name, least of all by another listener.
    pub is_refused: bool,
}

/// How TLS ends.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsTermination {
    /// At least one; the first that fits a client is used.
    pub certificates: Vec<Arc<Certificate>>,
    /// Clients must show a certificate of one of these.
    pub authorities: Option<ClientAuthorities>,
    /// Older versions than 1.3 are refused.
    pub is_1_3_only: bool,
    /// HTTP/2 and HTTP/1.1 are offered.
    pub is_http: bool,
}

/// Endpoints under one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Istio's name: `outbound|8000||httpbin.default.svc.cluster.local`.
    pub name: Arc<str>,
    /// Its host, without the port.
    pub host: Arc<str>,
    /// Where to send requests. Without any, and without names: 503.
    pub endpoints: Vec<Endpoint>,
    /// Names whose addresses are endpoints, too.
    pub names: Vec<EndpointName>,
    /// Of the addresses of a name only the first is used at a time.
    pub is_logical: bool,
    /// What its endpoints speak.
    pub protocol: UpstreamProtocol,
    /// How they are treated.
    pub policy: Arc<ClusterPolicy>,
}

/// A version of HTTP towards endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge
    Http2,
}

impl UpstreamProtocol {
    /// As Istio chooses it: by `appProtocol` or the protocol that a ServiceEntry gives, else by what a port's name begins
    /// with (spec: wasmplugin-and-routing §3.9).
    pub(crate) fn of_port(named: Option<&str>, port_name: &str) -> Self {
        let prefix = port_name.split('-').next().unwrap_or_default();
        let word = named.filter(|word| !word.is_empty()).unwrap_or(prefix);
        let is_http2 =
            ["kubernetes.io/h2c", "http2", "h2c", "grpc"].iter().any(|w| word.eq_ignore_ascii_case(w));
        if is_http2 { Self::Http2 } else { Self::Http1 }
    }
}

/// One address of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share relative to the others; 0 gets nothing.
    pub weight: u32,
    /// 0 is used for as long as enough of its kind are healthy, then 1, and so on.
    pub priority: u32,
}

/// A name whose addresses are endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointName {
    /// The name.
    pub name: Arc<str>,
    /// Port of all its addresses.
    pub port: u16,
    /// Share of each of its addresses.
    pub weight: u32,
    /// As of [`Endpoint::priority`].
    pub priority: u32,
}

/// Where a module comes from (spec: wasmplugin-and-routing §1.4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ModuleUrl {
    /// An image reference without `oci://`.
    Oci(String),
    /// An `http://` or `https://` URL.
    Http(String),
    /// A path.
    File(PathBuf),
}

impl ModuleUrl {
    /// Reads a `url` field. Without one of the four schemes the whole text is an image reference.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(Self::Oci(text.to_owned())) };
        if rest.is_empty() {
            return Err(format!("failed to parse url: nothing stands behind {scheme}://"));
        }
        match scheme.to_ascii_lowercase().as_str() {
            "oci" => Ok(Self::Oci(rest.to_owned())),
            "file" => Ok(Self::File(PathBuf::from(rest))),
            http @ ("http" | "https") => {
                let url = format!("{http}://{rest}");
                match url::Url::parse(&url) {
                    Ok(_) => Ok(Self::Http(url)),
                    Err(e) => Err(format!("failed to parse url: {e}")),
                }
            }
            other => Err(format!(
                "url contains unsupported scheme: {other}; url must have schema one of [http, https, file, oci]"
            )),
        }
    }
}

impl fmt::Display for ModuleUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oci(reference) => write!(f, "oci://{reference}"),
            Self::Http(url) => f.write_str(url),
            Self::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// When a reference is resolved again (spec: wasmplugin-and-routing §1.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PullPolicy {
    /// `Always` for the tag `latest`, else `IfNotPresent`.
    Unspecified,
    /// A cached module is used for as long as it is there.
    IfNotPresent,
    /// The reference is resolved whenever the resource changes.
    Always,
}

/// The pull secret of a plug-in, as far as it could be found.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// The plug-in names none.
    None,
    /// The docker configuration JSON.
    DockerConfig(Arc<[u8]>),
    /// It names one that cannot be used; the text says why.
    Unusable(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::DockerConfig(_) => f.write_str("DockerConfig(…)"),
            Self::Unusable(reason) => f.debug_tuple("Unusable").field(reason).finish(),
        }
    }
}

/// What annotations set; `None` for the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PluginOptions {
    /// `wasmgate.dev/callback-time-max`
    pub callback_time_max: Option<Duration>,
    /// `wasmgate.dev/start-time-max`
    pub start_time_max: Option<Duration>,
    /// `wasmgate.dev/memory-max`, bytes
    pub memory_bytes_max: Option<u64>,
    /// `wasmgate.dev/allowed-capabilities`; empty: all.
    pub allowed_capabilities: BTreeSet<String>,
    /// `wasmgate.dev/allow-on-headers-stop-iteration`
    pub allow_on_headers_stop_iteration: bool,
}

/// Everything about a plug-in that decides what runs. Two equal specifications are the same version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PluginSpec {
    /// `<namespace>.<name>`, the name in logs and metrics.
    pub name: Arc<str>,
    /// The resource.
    pub resource: ResourceId,
    /// Where the module comes from.
    pub url: ModuleUrl,
    /// Digest that the user pinned.
    pub sha256: Option<String>,
    /// When to resolve the reference.
    pub pull_policy: PullPolicy,
    /// Credential for the registry.
    pub credential: Credential,
    /// Plug-in configuration, JSON; empty for none.
    pub configuration: Arc<str>,
    /// Root id.
    pub root_id: Arc<str>,
    /// Where in the chain.
    pub phase: Phase,
    /// Within the phase, higher first.
    pub priority: Option<i32>,
    /// What happens to a request when the plug-in fails.
    pub fail_strategy: FailStrategy,
    /// Environment.
    pub env: Vec<(String, EnvValue)>,
    /// Limits.
    pub options: PluginOptions,
    /// Changes with whatever the manifest says, labels and annotations included.
    pub revision: u64,
    /// The manifest, for errors that turn up later.
    pub file: Arc<str>,
    /// Where in it.
    pub position: Position,
    /// Where its `spec.url` stands: what cannot be fetched, compiled or started is at fault there.
    pub url_at: Position,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_endpoints_speak() {
        use UpstreamProtocol::{Http1, Http2};
        for (named, port_name, wanted) in [
            (None, "", Http1),
            (None, "http", Http1),
            (None, "http2", Http2),
            (None, "grpc-api", Http2),
            (None, "grpcx", Http1),
            (Some("kubernetes.io/h2c"), "http", Http2),
            (Some("kubernetes.io/ws"), "grpc", Http1),
            (Some("GRPC"), "api", Http2),
        ] {
            assert_eq!(UpstreamProtocol::of_port(named, port_name), wanted, "{named:?} {port_name:?}");
        }
    }

    #[test]
    fn the_table_of_url_forms() {
        let oci = |s: &str| Ok(ModuleUrl::Oci(s.to_owned()));
        assert_eq!(ModuleUrl::parse("ghcr.io/a/b:v1"), oci("ghcr.io/a/b:v1"));
        assert_eq!(ModuleUrl::parse("OCI://ghcr.io/a/b:v1"), oci("ghcr.io/a/b:v1"));
        assert_eq!(
            ModuleUrl::parse("localhost:5000/x"),
            oci("localhost:5000/x"),
            "fails in Istio, works here"
        );
        assert_eq!(ModuleUrl::parse("file:///opt/x.wasm"), Ok(ModuleUrl::File("/opt/x.wasm".into())));
        assert_eq!(ModuleUrl::parse("file://opt/x.wasm"), Ok(ModuleUrl::File("opt/x.wasm".into())));
        assert_eq!(
            ModuleUrl::parse("HTTP://a.test/x?y=1"),
            Ok(ModuleUrl::Http("http://a.test/x?y=1".to_owned()))
        );
        assert!(ModuleUrl::parse("ftp://a/b").unwrap_err().contains("url contains unsupported scheme: ftp"));
        assert!(ModuleUrl::parse("https://").unwrap_err().contains("failed to parse url"));
    }
}
