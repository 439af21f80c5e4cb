//! A generation on one worker: routes, chains with their VMs, clusters with their turn.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::SmallVec;
use wasmgate_config::{Cluster, RouteTable, TcpTarget};
use wasmgate_plugin::{PluginVersion, StreamPort, WorkerPlugin};

use crate::chain::{ChainFilter, WorkerStep};
use crate::generation::{Generation, GenerationListener};
use crate::tls::ListenerTls;
use crate::upstream::{ClusterRegistry, WorkerCluster};

/// A generation with this worker's VMs.
#[derive(Debug, Default)]
pub(crate) struct WorkerGeneration {
    listeners: Vec<WorkerListener>,
    id: u64,
    /// By the address of the cluster, which the route holds: no hash of a name per request.
    clusters: RefCell<ByAddress>,
    /// All clusters of the configuration.
    by_name: BTreeMap<Arc<str>, Arc<Cluster>>,
    registry: Option<Rc<ClusterRegistry>>,
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

/// Clusters by the address of their configuration, which is kept, too: it is a key for as long as it lives.
type ByAddress = HashMap<usize, (Arc<Cluster>, Rc<WorkerCluster>), BuildHasherDefault<AddressHasher>>;

/// Takes an address for its own hash: they differ, if not in the lowest bits.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte) ^ self.0 as usize);
        }
    }

    fn write_usize(&mut self, address: usize) {
        // Fibonacci hashing: the table looks at the highest and at the lowest bits.
        self.0 = (address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

impl WorkerGeneration {
    /// Takes a VM for each plug-in version that the worker does not run yet.
    pub(crate) fn new(
        generation: &Generation,
        worker_plugin: &mut dyn FnMut(&Arc<PluginVersion>) -> Rc<WorkerPlugin>,
        registry: &Rc<ClusterRegistry>,
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
            id: generation.id,
            clusters: RefCell::default(),
            by_name: generation.clusters.clone(),
            registry: Some(Rc::clone(registry)),
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
    pub(crate) fn cluster_named(&self, name: &str) -> Option<Rc<WorkerCluster>> {
        self.cluster(self.by_name.get(name)?)
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

    /// What this worker has of a cluster.
    pub(crate) fn cluster(&self, cluster: &Arc<Cluster>) -> Option<Rc<WorkerCluster>> {
        let key = Arc::as_ptr(cluster) as usize;
        if let Some((_, known)) = self.clusters.borrow().get(&key) {
            return Some(Rc::clone(known));
        }
        let made = self.registry.as_ref()?.get(self.id, cluster);
        self.clusters.borrow_mut().insert(key, (Arc::clone(cluster), Rc::clone(&made)));
        Some(made)
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
