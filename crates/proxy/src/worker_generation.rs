//! A generation on one worker: routes, chains with their VMs, clusters with their turn.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;
use wasmgate_config::{Cluster, RouteTable, TcpTarget};
use wasmgate_plugin::{PluginVersion, StreamPort, WorkerPlugin};

use crate::chain::{ChainFilter, WorkerStep};
use crate::generation::{Generation, GenerationListener};
use crate::stats::{ClusterCounters, ClusterStats, GatewayStats};
use crate::tls::ListenerTls;

/// A generation with this worker's VMs.
#[derive(Debug, Default)]
pub(crate) struct WorkerGeneration {
    listeners: Vec<WorkerListener>,
    /// By the address of the cluster, which the route holds: no hash of a name per request.
    clusters: RefCell<HashMap<usize, Rc<WorkerCluster>>>,
    /// All clusters of the configuration.
    by_name: BTreeMap<Arc<str>, Arc<Cluster>>,
    gateway_stats: Option<Arc<GatewayStats>>,
    worker: usize,
}

#[derive(Debug)]
struct WorkerListener {
    address: SocketAddr,
    routes: Arc<RouteTable>,
    tcp: Option<Arc<TcpTarget>>,
    tls: Option<Arc<ListenerTls>>,
    chain: Vec<WorkerStep>,
    network_chain: Vec<WorkerStep>,
}

/// The chain of one stream or connection.
pub(crate) type Filters = SmallVec<[ChainFilter; 2]>;

#[derive(Debug)]
struct WorkerCluster {
    /// Keeps the cluster alive for as long as its address is a key.
    _cluster: Arc<Cluster>,
    stats: Arc<ClusterStats>,
    next: Cell<usize>,
    equal_weights: bool,
}

impl WorkerGeneration {
    /// Takes a VM for each plug-in version that the worker does not run yet.
    pub(crate) fn new(
        generation: &Generation,
        worker_plugin: &mut dyn FnMut(&Arc<PluginVersion>) -> Rc<WorkerPlugin>,
        gateway_stats: Arc<GatewayStats>,
        worker: usize,
    ) -> Self {
        let listener = |l: &GenerationListener| WorkerListener {
            address: l.address,
            routes: Arc::clone(&l.routes),
            tcp: l.tcp.clone(),
            tls: l.tls.clone(),
            chain: WorkerStep::chain(&l.chain, worker_plugin),
            network_chain: WorkerStep::chain(&l.network_chain, worker_plugin),
        };
        Self {
            listeners: generation.listeners.iter().map(listener).collect(),
            clusters: RefCell::default(),
            by_name: generation.clusters.clone(),
            gateway_stats: Some(gateway_stats),
            worker,
        }
    }

    /// The listener of a connection, if it still exists.
    pub(crate) fn listener(&self, local: SocketAddr) -> Option<usize> {
        let exact = self.listeners.iter().position(|l| l.address == local);
        exact.or_else(|| {
            self.listeners
                .iter()
                .position(|l| l.address.ip().is_unspecified() && l.address.port() == local.port())
        })
    }

    pub(crate) fn routes(&self, listener: usize) -> Option<&RouteTable> {
        self.listeners.get(listener).map(|l| &*l.routes)
    }

    /// Where the connections of a TCP listener go; `None`: it is an HTTP listener.
    pub(crate) fn tcp(&self, listener: usize) -> Option<&Arc<TcpTarget>> {
        self.listeners.get(listener)?.tcp.as_ref()
    }

    /// What its connections begin with, if that is TLS.
    pub(crate) fn tls(&self, listener: usize) -> Option<&Arc<ListenerTls>> {
        self.listeners.get(listener)?.tls.as_ref()
    }

    /// The chain for a new stream, and the port through which its plug-ins are reached from outside.
    pub(crate) fn filters(&self, listener: usize) -> (Filters, Option<Rc<StreamPort>>) {
        filters(self.listeners.get(listener).map_or(&[], |l| &l.chain))
    }

    /// The same for a new connection.
    pub(crate) fn network_filters(&self, listener: usize) -> (Filters, Option<Rc<StreamPort>>) {
        filters(self.network_chain(listener))
    }

    fn network_chain(&self, listener: usize) -> &[WorkerStep] {
        self.listeners.get(listener).map_or(&[], |l| &l.network_chain)
    }

    /// A cluster that call-outs can name.
    pub(crate) fn cluster_named(&self, name: &str) -> Option<Arc<Cluster>> {
        self.by_name.get(name).cloned()
    }

    /// Waits for VMs that are being replaced: what a plug-in did to one stream shall not cost the next one.
    pub(crate) async fn plugins_ready(&self, listener: Option<usize>) {
        let Some(listener) = listener.and_then(|l| self.listeners.get(l)) else { return };
        ready(&listener.chain).await;
    }

    /// The same for those of connections.
    pub(crate) async fn network_plugins_ready(&self, listener: usize) {
        ready(self.network_chain(listener)).await;
    }

    pub(crate) fn has_network_filters(&self, listener: usize) -> bool {
        !self.network_chain(listener).is_empty()
    }

    pub(crate) fn has_filters(&self, listener: Option<usize>) -> bool {
        listener.and_then(|l| self.listeners.get(l)).is_some_and(|l| !l.chain.is_empty())
    }

    fn cluster(&self, cluster: &Arc<Cluster>) -> Option<Rc<WorkerCluster>> {
        let key = Arc::as_ptr(cluster) as usize;
        if let Some(known) = self.clusters.borrow().get(&key) {
            return Some(Rc::clone(known));
        }
        let stats = self.gateway_stats.as_ref()?.cluster(&cluster.name);
        let first = cluster.endpoints.first().map(|e| e.weight);
        let equal_weights = cluster.endpoints.iter().all(|e| Some(e.weight) == first);
        let made = Rc::new(WorkerCluster {
            _cluster: Arc::clone(cluster),
            stats,
            next: Cell::new(fastrand::usize(..)),
            equal_weights,
        });
        self.clusters.borrow_mut().insert(key, Rc::clone(&made));
        Some(made)
    }

    /// The next endpoint: in turn when all weigh the same, else by weight.
    pub(crate) fn endpoint(&self, cluster: &Arc<Cluster>) -> Option<SocketAddr> {
        let endpoints = &cluster.endpoints;
        if let [only] = endpoints.as_slice() {
            return Some(only.address);
        }
        let runtime = self.cluster(cluster)?;
        if runtime.equal_weights {
            let n = runtime.next.get();
            runtime.next.set(n.wrapping_add(1));
            return endpoints.get(n.checked_rem(endpoints.len())?).map(|e| e.address);
        }
        let total: u64 = endpoints.iter().map(|e| u64::from(e.weight)).sum();
        let mut at = fastrand::u64(..).checked_rem(total)?;
        endpoints
            .iter()
            .find(|e| match at.checked_sub(u64::from(e.weight)) {
                Some(rest) => {
                    at = rest;
                    false
                }
                None => true,
            })
            .map(|e| e.address)
    }

    pub(crate) fn count(&self, cluster: &Arc<Cluster>, count: impl FnOnce(&ClusterCounters)) {
        if let Some(runtime) = self.cluster(cluster)
            && let Some(shard) = runtime.stats.shards.get(self.worker)
        {
            count(shard);
        }
    }
}

fn filters(chain: &[WorkerStep]) -> (Filters, Option<Rc<StreamPort>>) {
    if chain.is_empty() {
        return (SmallVec::new(), None);
    }
    let port = Rc::new(StreamPort::default());
    let filters = chain.iter().enumerate().map(|(i, step)| step.filter(&port, i)).collect();
    (filters, Some(port))
}

async fn ready(chain: &[WorkerStep]) {
    for plugin in chain.iter().filter_map(WorkerStep::restarting) {
        plugin.ready().await;
    }
}
