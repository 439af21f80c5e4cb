//! What is counted of clusters and endpoints: one shard per worker.

use crate::stats::Counter;

/// Counters of a cluster on one worker.
#[derive(Debug, Default)]
// Two workers never write to one cache line.
#[repr(align(128))]
pub struct ClusterCounters {
    /// Requests sent.
    pub requests: Counter,
    /// Requests under way.
    pub requests_active: Counter,
    /// Requests that wait for a connection now.
    pub pending_active: Counter,
    /// Responses by hundreds of their status.
    pub responses: [Counter; 5],
    /// Connections made.
    pub connections: Counter,
    /// Connections that stand, or are being made.
    pub connections_active: Counter,
    /// Connections that failed.
    pub connect_failures: Counter,
    /// Connections that took too long.
    pub connect_timeouts: Counter,
    /// Requests that were sent again.
    pub retries: Counter,
    /// Retries under way.
    pub retries_active: Counter,
    /// Retries that a limit did not let through.
    pub retries_overflow: Counter,
    /// Requests that were answered well after a retry.
    pub retries_success: Counter,
    /// Requests for which there was no endpoint.
    pub unhealthy: Counter,
    /// Requests that a limit of connections did not let through.
    pub pending_overflow: Counter,
    /// Exchanges that took longer than their route lets them.
    pub timeouts: Counter,
    /// Exchanges that the endpoint broke off.
    pub resets: Counter,
}

impl ClusterCounters {
    pub(crate) fn count_response(&self, status: u16) {
        if let Some(counter) = usize::from(status / 100).checked_sub(1).and_then(|i| self.responses.get(i)) {
            counter.increment();
        }
    }
}

/// Counters of an endpoint on one worker.
#[derive(Debug, Default)]
// Two workers never write to one cache line.
#[repr(align(128))]
pub struct HostCounters {
    /// Requests sent.
    pub requests: Counter,
    /// Requests under way.
    pub requests_active: Counter,
    /// Requests that failed, or were answered with a 5xx.
    pub errors: Counter,
    /// Requests that took too long.
    pub timeouts: Counter,
    /// Connections made.
    pub connections: Counter,
    /// Connections that stand, or are being made.
    pub connections_active: Counter,
    /// Connections that failed.
    pub connect_failures: Counter,
}
