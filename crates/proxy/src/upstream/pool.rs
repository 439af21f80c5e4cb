//! Idle connections of one worker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::connection::UpstreamConnection;

/// Idle connections by endpoint, the latest on top: the others grow old and are closed.
#[derive(Debug)]
pub(crate) struct Pool {
    #[expect(
        clippy::vec_box,
        reason = "a connection is boxed in its exchange too: moving the pointer is all that taking costs"
    )]
    idle: HashMap<SocketAddr, Vec<Box<UpstreamConnection>>>,
    idle_max: Duration,
    connections_max: usize,
}

impl Pool {
    pub(crate) fn new(idle_max: Duration, connections_max: usize) -> Self {
        Self { idle: HashMap::new(), idle_max, connections_max }
    }

    /// A connection that still stands.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Option<Box<UpstreamConnection>> {
        let connections = self.idle.get_mut(&address)?;
        while let Some(connection) = connections.pop() {
            if connection.is_alive() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub(crate) fn put(&mut self, mut connection: Box<UpstreamConnection>, now: Instant) {
        let connections = self.idle.entry(connection.address).or_default();
        if connections.len() < self.connections_max {
            connection.reused = true;
            connection.idle_since = now;
            connections.push(connection);
        }
    }

    /// Closes what is too old or already closed by the other side.
    pub(crate) fn sweep(&mut self, now: Instant) {
        let idle_max = self.idle_max;
        self.idle.retain(|_, connections| {
            connections.retain(|c| now.duration_since(c.idle_since) < idle_max && c.is_alive());
            !connections.is_empty()
        });
    }

    /// Number of idle connections.
    pub(crate) fn len(&self) -> usize {
        self.idle.values().map(Vec::len).sum()
    }
}
