//! What counts towards the limits of a cluster: connections, and requests that wait for one.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;

use super::counters::ClusterCounters;
use super::host_state::HostState;
use super::state::ClusterState;

/// The connections of a cluster on this worker.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) state: Arc<ClusterState>,
    pub(super) worker: usize,
    pub(super) open: Cell<u32>,
    /// Told whenever a connection has become free, or is gone.
    pub(super) released: Notify,
}

impl Ledger {
    pub(super) fn new(state: Arc<ClusterState>, worker: usize) -> Self {
        Self { state, worker, open: Cell::new(0), released: Notify::new() }
    }

    pub(super) fn count(&self, count: impl FnOnce(&ClusterCounters)) {
        if let Some(shard) = self.state.shards.get(self.worker) {
            count(shard);
        }
    }
}

/// A connection that stands or is being made. It counts until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    ledger: Rc<Ledger>,
    host: Arc<HostState>,
}

impl OpenConnection {
    pub(super) fn new(ledger: &Rc<Ledger>, host: &Arc<HostState>) -> Self {
        ledger.open.set(ledger.open.get() + 1);
        ledger.count(|c| {
            c.connections.increment();
            c.connections_active.increment();
        });
        if let Some(shard) = host.shards.get(ledger.worker) {
            shard.connections.increment();
            shard.connections_active.increment();
        }
        Self { ledger: Rc::clone(ledger), host: Arc::clone(host) }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.ledger.open.set(self.ledger.open.get().saturating_sub(1));
        self.ledger.count(|c| c.connections_active.decrement());
        if let Some(shard) = self.host.shards.get(self.ledger.worker) {
            shard.connections_active.decrement();
        }
        self.ledger.released.notify_waiters();
    }
}

/// A request that waits for a connection. It counts until it is dropped.
pub(super) struct Pending(Rc<Ledger>);

impl Pending {
    pub(super) fn new(ledger: &Rc<Ledger>) -> Self {
        ledger.count(|c| c.pending_active.increment());
        Self(Rc::clone(ledger))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.count(|c| c.pending_active.decrement());
    }
}

/// A retry, from the decision to the end of its attempt. It counts until it is dropped.
#[derive(Debug)]
pub(crate) struct ActiveRetry(Rc<Ledger>);

impl ActiveRetry {
    pub(super) fn new(ledger: &Rc<Ledger>) -> Self {
        ledger.count(|c| c.retries_active.increment());
        Self(Rc::clone(ledger))
    }
}

impl Drop for ActiveRetry {
    fn drop(&mut self) {
        self.0.count(|c| c.retries_active.decrement());
    }
}
