//! The clusters of a worker. They outlive generations that do not change them, and with them their connections.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use wasmgate_config::Cluster;

use super::cluster::WorkerCluster;
use crate::settings::Settings;
use crate::stats::GatewayStats;

/// Clusters by name, as the current generation has them.
#[derive(Debug)]
pub(crate) struct ClusterRegistry {
    settings: Arc<Settings>,
    stats: Arc<GatewayStats>,
    worker: usize,
    generation: Cell<u64>,
    clusters: RefCell<HashMap<Arc<str>, Rc<WorkerCluster>>>,
}

impl ClusterRegistry {
    pub(crate) fn new(settings: Arc<Settings>, stats: Arc<GatewayStats>, worker: usize) -> Self {
        Self { settings, stats, worker, generation: Cell::new(0), clusters: RefCell::default() }
    }

    pub(crate) fn stats(&self) -> &GatewayStats {
        &self.stats
    }

    pub(crate) fn worker(&self) -> usize {
        self.worker
    }

    /// A generation takes over: clusters that it has no more are forgotten once their last stream ends.
    pub(crate) fn begin(&self, generation: u64, is_kept: impl Fn(&str) -> bool) {
        self.generation.set(generation);
        self.clusters.borrow_mut().retain(|name, _| is_kept(name));
    }

    /// A cluster as a generation has it.
    pub(crate) fn get(&self, generation: u64, config: &Arc<Cluster>) -> Rc<WorkerCluster> {
        let before = self.clusters.borrow().get(&config.name).cloned();
        if let Some(known) = &before
            && (Arc::ptr_eq(&known.config, config) || known.config == *config)
        {
            return Rc::clone(known);
        }
        let is_current = generation == self.generation.get();
        let before = before.filter(|_| is_current);
        let (settings, state) = (Arc::clone(&self.settings), self.stats.cluster(&config.name));
        let made =
            Rc::new(WorkerCluster::new(Arc::clone(config), state, settings, self.worker, before.as_deref()));
        // What a generation that is on its way out wants is not what the others want.
        if is_current {
            self.clusters.borrow_mut().insert(Arc::clone(&config.name), Rc::clone(&made));
        }
        made
    }

    /// Closes connections that nobody needs; how many nobody uses.
    pub(crate) fn sweep(&self, now: Instant) -> usize {
        self.clusters.borrow().values().map(|cluster| cluster.sweep(now)).sum()
    }
}
