//! What happens to clusters on the control side: names are resolved, endpoints are asked for their health, and those that
//! were ejected come back. Workers only read what comes out of it.

mod dns;
mod health;
mod memory;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use wasmgate_config::{EndpointName, HealthCheck};

use crate::stats::GatewayStats;
use crate::upstream::host_state::HostState;
use crate::upstream::state::ClusterState;

pub use self::dns::{Resolver, ResolverError};

/// How often it is looked whether somebody's ejection is over, and whether endpoints have come or gone.
const TICK: Duration = Duration::from_millis(500);
/// How long a new configuration waits until its names have been looked up, and its endpoints have been asked, once.
const WARM_TIME_MAX: Duration = Duration::from_secs(5);

/// Watches over clusters for as long as [`Supervisor::run`] is polled.
#[derive(Debug)]
pub(crate) struct Supervisor {
    stats: Arc<GatewayStats>,
    resolver: Option<Resolver>,
    memory_bytes_max: Option<u64>,
    changed: Notify,
}

/// A task that ends with whatever holds it.
struct Task(AbortHandle);

impl Task {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Of whom a task takes care: clusters and endpoints that have been made anew are others.
type Key<T> = (usize, T);

impl Supervisor {
    pub(crate) fn new(
        stats: Arc<GatewayStats>,
        resolver: Option<Resolver>,
        memory_bytes_max: Option<u64>,
    ) -> Self {
        Self { stats, resolver, memory_bytes_max, changed: Notify::new() }
    }

    /// Waits until clusters that have just come know of their endpoints, but not for ever.
    pub(crate) async fn warm(&self) {
        self.changed.notify_one();
        let until = Instant::now() + WARM_TIME_MAX;
        let is_cold = || self.stats.clusters().iter().any(|(_, cluster)| cluster.is_cold());
        while is_cold() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(&self) {
        let mut names: HashMap<Key<EndpointName>, Task> = HashMap::new();
        let mut checks: HashMap<Key<SocketAddr>, (usize, HealthCheck, Task)> = HashMap::new();
        loop {
            let _ = tokio::time::timeout(TICK, self.changed.notified()).await;
            if let Some(max) = self.memory_bytes_max {
                memory::watch(&self.stats, max);
            }
            let clusters = self.stats.clusters();
            let now = Instant::now();
            let (mut wanted_names, mut wanted_checks) = (HashMap::new(), HashMap::new());
            for (_, cluster) in &clusters {
                let Some(config) = cluster.config() else { continue };
                let id = Arc::as_ptr(cluster) as usize;
                if config.policy.outlier.is_some() {
                    cluster.readmit(now);
                }
                for name in &config.names {
                    let key = (id, name.clone());
                    let task = names.remove(&key).unwrap_or_else(|| self.follow(cluster, name));
                    wanted_names.insert(key, task);
                }
                let Some(check) = &config.policy.health_check else { continue };
                for host in cluster.hosts() {
                    let (key, host_id) = ((id, host.address), Arc::as_ptr(&host) as usize);
                    let known = checks.remove(&key).filter(|(h, c, _)| *h == host_id && c == check);
                    let task = match known {
                        Some((.., task)) => task,
                        None => {
                            Task::spawn(health::watch(Arc::clone(cluster), Arc::clone(&host), check.clone()))
                        }
                    };
                    wanted_checks.insert(key, (host_id, check.clone(), task));
                }
            }
            // What is left of the old ones ends here.
            (names, checks) = (wanted_names, wanted_checks);
        }
    }

    fn follow(&self, cluster: &Arc<ClusterState>, name: &EndpointName) -> Task {
        Task::spawn(dns::follow(self.resolver.clone(), Arc::clone(cluster), name.clone()))
    }
}

/// For tasks: the cluster's name.
fn cluster_name(cluster: &ClusterState) -> Arc<str> {
    cluster.config().map(|c| Arc::clone(&c.name)).unwrap_or_default()
}

/// Says that an endpoint's health has changed.
fn note_health(cluster: &ClusterState, host: &HostState, is_healthy: bool, reason: &str) {
    let (name, address) = (cluster_name(cluster), host.address);
    if is_healthy {
        tracing::info!(target: "upstream", "cluster {name}: endpoint {address} answers its health checks");
    } else {
        tracing::warn!(target: "upstream", "cluster {name}: endpoint {address} gets nothing, it fails its health checks: {reason}");
    }
}
