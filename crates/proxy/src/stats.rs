//! Counters: one shard per worker, summed when somebody looks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// All counters of the data path.
#[derive(Debug)]
pub struct GatewayStats {
    /// One per worker.
    pub workers: Vec<Arc<WorkerStats>>,
    clusters: Mutex<BTreeMap<Arc<str>, Arc<ClusterState>>>,
    /// Answers of the proxy and of plug-ins by response code details; a closed list but for plug-ins' own words.
    replies: Mutex<BTreeMap<String, u64>>,
}

/// Different response code details that are told apart: plug-ins can make up any number.
const DETAILS_MAX: usize = 200;

impl GatewayStats {
    /// Counters for a number of workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            workers: (0..workers).map(|_| Arc::default()).collect(),
            clusters: Mutex::default(),
            replies: Mutex::default(),
        })
    }

    /// A cluster; it outlives generations.
    pub fn cluster(&self, name: &Arc<str>) -> Arc<ClusterState> {
        let workers = self.workers.len();
        let make = || Arc::new(ClusterState::new(workers));
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
