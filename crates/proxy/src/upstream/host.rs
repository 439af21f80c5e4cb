//! An endpoint on one worker, with its connections, and the requests that it has.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::cluster::WorkerCluster;
use super::connection::UpstreamConnection;
use super::counters::HostCounters;
use super::host_state::HostState;
use super::http2::Http2Host;
use super::state::Outcome;

/// An endpoint and what this worker has of it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(super) state: Arc<HostState>,
    worker: usize,
    /// Connections that nobody uses, the latest on top: the others grow old and are closed.
    #[expect(
        clippy::vec_box,
        reason = "a connection is boxed in its exchange too: moving the pointer is all that taking costs"
    )]
    pub(super) idle: RefCell<Vec<Box<UpstreamConnection>>>,
    pub(super) http2: Http2Host,
}

impl Host {
    pub(super) fn new(state: Arc<HostState>, worker: usize) -> Self {
        Self { state, worker, idle: RefCell::default(), http2: Http2Host::default() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.state.address
    }

    pub(crate) fn count(&self, count: impl FnOnce(&HostCounters)) {
        if let Some(shard) = self.state.shards.get(self.worker) {
            count(shard);
        }
    }

    /// A connection that still stands.
    pub(crate) fn take_idle(&self) -> Option<Box<UpstreamConnection>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut connection) = idle.pop() {
            if connection.is_alive() {
                return Some(connection);
            }
        }
        None
    }
}

/// A request under way. It counts until it is dropped.
#[derive(Debug)]
pub(crate) struct ActiveRequest {
    cluster: Rc<WorkerCluster>,
    host: Rc<Host>,
}

impl ActiveRequest {
    pub(crate) fn new(cluster: &Rc<WorkerCluster>, host: &Rc<Host>) -> Self {
        cluster.count(|c| {
            c.requests.increment();
            c.requests_active.increment();
        });
        host.count(|c| {
            c.requests.increment();
            c.requests_active.increment();
        });
        Self { cluster: Rc::clone(cluster), host: Rc::clone(host) }
    }

    pub(crate) fn host(&self) -> &Rc<Host> {
        &self.host
    }

    /// Takes note of how it went.
    pub(crate) fn observe(&self, outcome: Outcome) {
        match outcome {
            Outcome::Connected => {}
            Outcome::Status(status) if status < 500 => {}
            Outcome::Status(_) | Outcome::Failed => self.host.count(|c| c.errors.increment()),
            Outcome::TimedOut => self.host.count(|c| c.timeouts.increment()),
        }
        if let Some(rules) = &self.cluster.config.policy.outlier {
            self.cluster.observe(&self.host, rules, outcome);
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.cluster.count(|c| c.requests_active.decrement());
        self.host.count(|c| c.requests_active.decrement());
    }
}
