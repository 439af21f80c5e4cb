//! Counters: one shard per worker, summed when somebody looks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::upstream::state::ClusterState;

/// A number that one worker writes and everybody reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds.
    pub fn add(&self, n: u64) {
        // Only the owning worker writes: no read-modify-write instruction is needed.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes one away; for gauges.
    pub fn decrement(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
}

/// Counters of one worker.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Downstream connections accepted.
    pub downstream_connections: Counter,
    /// Downstream connections open now.
    pub downstream_connections_active: Counter,
    /// Downstream connections that were closed at once, because there were too many.
    pub downstream_connections_refused: Counter,
    /// Downstream connections whose header of the PROXY protocol was missing or wrong.
    pub proxy_header_failures: Counter,
    /// Downstream connections whose TLS handshake came to its end.
    pub tls_handshakes: Counter,
    /// Downstream connections that ended in it.
    pub tls_failures: Counter,
    /// Requests.
    pub requests: Counter,
    /// Requests in progress.
    pub requests_active: Counter,
    /// Responses by hundreds of their status: 1xx to 5xx.
    pub responses: [Counter; 5],
    /// Streams that ended without a complete response.
    pub resets: Counter,
    /// Idle upstream connections.
    pub upstream_idle: Counter,
    /// Number of the generation that new streams get.
    pub generation: Counter,
}

impl WorkerStats {
    pub(crate) fn count_response(&self, status: u16) {
        if let Some(counter) = usize::from(status / 100).checked_sub(1).and_then(|i| self.responses.get(i)) {
            counter.increment();
        }
    }

    pub(crate) fn set_idle(&self, n: usize) {
        self.upstream_idle.set(n as u64);
    }

    pub(crate) fn set_generation(&self, id: u64) {
        self.generation.set(id);
    }
}

/// What one worker counts of a listener or a route.
#[derive(Debug, Default)]
// Two workers never write to one cache line.
#[repr(align(128))]
pub struct TrafficCounters {
    /// Connections accepted; of listeners only.
    pub connections: Counter,
    /// Connections open now; of listeners only.
    pub connections_active: Counter,
    /// Requests that are over.
    pub requests: Counter,
    /// Responses by hundreds of their status.
    pub responses: [Counter; 5],
}

impl TrafficCounters {
    /// A request is over. `status`: 0 when the client left before there was one.
    pub(crate) fn count(&self, status: u16) {
        self.requests.increment();
        if let Some(counter) = usize::from(status / 100).checked_sub(1).and_then(|i| self.responses.get(i)) {
            counter.increment();
        }
    }
}

/// What is counted of a listener or a route.
#[derive(Debug)]
pub struct Traffic {
    /// One shard per worker.
    pub shards: Vec<TrafficCounters>,
}

impl Traffic {
    /// Sums a counter over the workers.
    pub fn sum(&self, pick: impl Fn(&TrafficCounters) -> u64) -> u64 {
        self.shards.iter().map(pick).sum()
    }
}

/// Traffic by name.
#[derive(Debug, Default)]
struct TrafficByName(Mutex<BTreeMap<Arc<str>, Arc<Traffic>>>);

impl TrafficByName {
    fn get(&self, name: &Arc<str>, workers: usize) -> Arc<Traffic> {
        let make =
            || Arc::new(Traffic { shards: (0..workers).map(|_| TrafficCounters::default()).collect() });
        Arc::clone(self.0.lock().entry(Arc::clone(name)).or_insert_with(make))
    }

    fn all(&self) -> Vec<(Arc<str>, Arc<Traffic>)> {
        self.0.lock().iter().map(|(n, t)| (Arc::clone(n), Arc::clone(t))).collect()
    }
}

/// How much the process can bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Overload {
    /// Whatever comes.
    None = 0,
    /// Connections end after their next answer.
    Shrink = 1,
    /// Further requests are answered with 503.
    Refuse = 2,
}

/// All counters of the data path.
#[derive(Debug)]
pub struct GatewayStats {
    overload: AtomicU8,
    admin: Option<SocketAddr>,
    /// One per worker.
    pub workers: Vec<Arc<WorkerStats>>,
    listeners: TrafficByName,
    routes: TrafficByName,
    clusters: Mutex<BTreeMap<Arc<str>, Arc<ClusterState>>>,
    /// Answers of the proxy and of plug-ins by response code details; a closed list but for plug-ins' own words.
    replies: Mutex<BTreeMap<String, u64>>,
}

/// Different response code details that are told apart: plug-ins can make up any number.
const DETAILS_MAX: usize = 200;

impl GatewayStats {
    /// Counters for a number of workers. `admin`: where this process is controlled.
    pub fn new(workers: usize, admin: Option<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            admin,
            workers: (0..workers).map(|_| Arc::default()).collect(),
            overload: AtomicU8::new(Overload::None as u8),
            listeners: TrafficByName::default(),
            routes: TrafficByName::default(),
            clusters: Mutex::default(),
            replies: Mutex::default(),
        })
    }

    /// How much the process can bear now.
    pub fn overload(&self) -> Overload {
        match self.overload.load(Ordering::Relaxed) {
            0 => Overload::None,
            1 => Overload::Shrink,
            _ => Overload::Refuse,
        }
    }

    pub(crate) fn set_overload(&self, overload: Overload) {
        self.overload.store(overload as u8, Ordering::Relaxed);
    }

    pub(crate) fn listener(&self, name: &Arc<str>) -> Arc<Traffic> {
        self.listeners.get(name, self.workers.len())
    }

    pub(crate) fn route(&self, name: &Arc<str>) -> Arc<Traffic> {
        self.routes.get(name, self.workers.len())
    }

    /// Every listener that there has been a connection for since it came.
    pub fn listeners(&self) -> Vec<(Arc<str>, Arc<Traffic>)> {
        self.listeners.all()
    }

    /// Every route that has had a request since it came, by its name.
    pub fn routes(&self) -> Vec<(Arc<str>, Arc<Traffic>)> {
        self.routes.all()
    }

    /// Forgets listeners and routes that no generation has any more.
    pub(crate) fn retain_traffic(&self, listener: impl Fn(&str) -> bool, route: impl Fn(&str) -> bool) {
        self.listeners.0.lock().retain(|name, _| listener(name));
        self.routes.0.lock().retain(|name, _| route(name));
    }

    /// A cluster; it outlives generations.
    pub fn cluster(&self, name: &Arc<str>) -> Arc<ClusterState> {
        let make = || Arc::new(ClusterState::new(self.workers.len(), self.admin));
        Arc::clone(self.clusters.lock().entry(Arc::clone(name)).or_insert_with(make))
    }

    /// Forgets clusters that no generation has any more.
    pub fn retain_clusters(&self, keep: impl Fn(&str) -> bool) {
        self.clusters.lock().retain(|name, _| keep(name));
    }

    /// All clusters.
    pub fn clusters(&self) -> Vec<(Arc<str>, Arc<ClusterState>)> {
        self.clusters.lock().iter().map(|(n, c)| (Arc::clone(n), Arc::clone(c))).collect()
    }

    /// Counts a local reply. Not on the path of a proxied request, so a lock will do.
    pub(crate) fn count_reply(&self, details: &str) {
        let mut replies = self.replies.lock();
        let details = if details.is_empty() { "plugin" } else { details };
        if let Some(count) = replies.get_mut(details) {
            *count += 1;
            return;
        }
        let known = if replies.len() < DETAILS_MAX { details } else { "other" };
        *replies.entry(known.to_owned()).or_default() += 1;
    }

    /// Local replies by details.
    pub fn replies(&self) -> BTreeMap<String, u64> {
        self.replies.lock().clone()
    }
}
