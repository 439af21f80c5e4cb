//! Names of endpoints, looked up again whenever an answer has become too old.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use wasmgate_config::EndpointName;

use super::cluster_name;
use crate::upstream::state::ClusterState;

/// Bounds of what an answer says of its age: some say 0, some a week.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(300);
/// Pause after a failure, doubled with each one that follows.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A lookup that takes longer has failed.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(10);
/// Addresses of one name; further ones are left out.
const ADDRESSES_MAX: usize = 256;

/// Why no name can be looked up.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the system's DNS settings: {0}")]
pub struct ResolverError(String);

/// Looks names up.
#[derive(Clone)]
pub struct Resolver(TokioResolver);

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolver {
    /// Asks these servers, or those of the system when there are none. IPv6 addresses are used for names that have no
    /// other.
    ///
    /// # Errors
    /// [`ResolverError`]
    pub fn new(servers: &[SocketAddr]) -> Result<Self, ResolverError> {
        let builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|e| ResolverError(e.to_string()))?
        } else {
            let server = |address: &SocketAddr| {
                let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
                (udp.port, tcp.port) = (address.port(), address.port());
                NameServerConfig::new(address.ip(), true, vec![udp, tcp])
            };
            let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
            let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.with_options(ResolverOpts::default())
        };
        let mut builder = builder;
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        // We keep what we need for as long as it is good.
        options.cache_size = 0;
        builder.build().map(Self).map_err(|e| ResolverError(e.to_string()))
    }

    async fn look_up(&self, name: &str, is_logical: bool) -> Result<(Vec<IpAddr>, Duration), String> {
        let found = tokio::time::timeout(LOOKUP_TIME_MAX, self.0.lookup_ip(name)).await;
        let found = found.map_err(|_| "no answer in time".to_owned())?.map_err(|e| e.to_string())?;
        let ttl = found.valid_until().saturating_duration_since(Instant::now()).clamp(TTL_MIN, TTL_MAX);
        let mut addresses: Vec<IpAddr> = found.iter().collect();
        if is_logical {
            // Whom the server names first: it turns its list round.
            addresses.truncate(1);
        } else {
            // That it turns its list round is no change.
            addresses.sort_unstable();
            addresses.dedup();
            addresses.truncate(ADDRESSES_MAX);
        }
        if addresses.is_empty() { Err("the name has no address".to_owned()) } else { Ok((addresses, ttl)) }
    }
}

/// Keeps a cluster's addresses of a name up to date. What cannot be looked up keeps its last addresses.
pub(super) async fn follow(resolver: Option<Resolver>, cluster: Arc<ClusterState>, name: EndpointName) {
    let mut pause = PAUSE_MIN;
    let mut is_failing = false;
    loop {
        let found = match &resolver {
            Some(resolver) => {
                let is_logical = cluster.config().is_some_and(|c| c.is_logical);
                resolver.look_up(&name.name, is_logical).await
            }
            None => Err("the system has no DNS settings".to_owned()),
        };
        let next = match found {
            Ok((addresses, ttl)) => {
                cluster.resolve(&name, addresses);
                if std::mem::replace(&mut is_failing, false) {
                    tracing::info!(target: "upstream", "cluster {}: {} has addresses again", cluster_name(&cluster), name.name);
                }
                pause = PAUSE_MIN;
                ttl
            }
            Err(e) => {
                let kept = cluster.resolved_nothing(&name);
                if !std::mem::replace(&mut is_failing, true) {
                    let then = if kept > 0 { "its last addresses are used" } else { "it has no endpoint" };
                    tracing::warn!(target: "upstream", "cluster {}: {} cannot be looked up: {e}; {then}", cluster_name(&cluster), name.name);
                }
                let next = pause;
                pause = (pause * 2).min(PAUSE_MAX);
                next
            }
        };
        tokio::time::sleep(next).await;
    }
}
