//! What is counted of clusters.

use wasmgate_proxy::ClusterCounters;

use super::{CLASSES, Sample, counter, gauge};
use crate::admin::AdminState;

/// A number of a cluster: our metric, what it says, Envoy's name, and where it is.
type Row = (&'static str, &'static str, &'static str, fn(&ClusterCounters) -> u64);

const COUNTERS: [Row; 11] = [
    ("wasmgate_upstream_requests", "Requests sent to a cluster", "upstream_rq_total", |c| c.requests.get()),
    ("wasmgate_upstream_connections", "Connections made to a cluster", "upstream_cx_total", |c| {
        c.connections.get()
    }),
    ("wasmgate_upstream_connect_failures", "Connections that failed", "upstream_cx_connect_fail", |c| {
        c.connect_failures.get()
    }),
    (
        "wasmgate_upstream_connect_timeouts",
        "Connections that took too long to be made",
        "upstream_cx_connect_timeout",
        |c| c.connect_timeouts.get(),
    ),
    ("wasmgate_upstream_retries", "Requests sent again", "upstream_rq_retry", |c| c.retries.get()),
    (
        "wasmgate_upstream_retries_success",
        "Requests that were answered after a retry",
        "upstream_rq_retry_success",
        |c| c.retries_success.get(),
    ),
    (
        "wasmgate_upstream_retries_overflow",
        "Retries that a limit did not let through",
        "upstream_rq_retry_overflow",
        |c| c.retries_overflow.get(),
    ),
    (
        "wasmgate_upstream_pending_overflow",
        "Requests that a limit did not let through",
        "upstream_rq_pending_overflow",
        |c| c.pending_overflow.get(),
    ),
    (
        "wasmgate_upstream_unhealthy",
        "Requests for which there was no healthy endpoint",
        "upstream_cx_none_healthy",
        |c| c.unhealthy.get(),
    ),
    (
        "wasmgate_upstream_timeouts",
        "Exchanges that took longer than their route lets them",
        "upstream_rq_timeout",
        |c| c.timeouts.get(),
    ),
    ("wasmgate_upstream_resets", "Exchanges that an endpoint broke off", "upstream_rq_rx_reset", |c| {
        c.resets.get()
    }),
];

const GAUGES: [Row; 3] = [
    ("wasmgate_upstream_requests_active", "Requests under way", "upstream_rq_active", |c| {
        c.requests_active.get()
    }),
    (
        "wasmgate_upstream_requests_pending",
        "Requests that wait for a connection",
        "upstream_rq_pending_active",
        |c| c.pending_active.get(),
    ),
    ("wasmgate_upstream_connections_active", "Connections that stand", "upstream_cx_active", |c| {
        c.connections_active.get()
    }),
];

pub(super) fn samples(state: &AdminState, out: &mut Vec<Sample>) {
    for (name, cluster) in state.gateway.stats().clusters() {
        let label = || vec![("cluster", name.to_string())];
        for (metric, help, flat, pick) in COUNTERS {
            out.push(counter(metric, help, label(), cluster.sum(pick), format!("cluster.{name}.{flat}")));
        }
        for (metric, help, flat, pick) in GAUGES {
            out.push(gauge(metric, help, label(), cluster.sum(pick), format!("cluster.{name}.{flat}")));
        }
        let hosts = cluster.hosts();
        let healthy = hosts.iter().filter(|h| h.is_healthy()).count() as u64;
        let mut add = |metric, help, value, flat: &str| {
            out.push(gauge(metric, help, label(), value, format!("cluster.{name}.{flat}")));
        };
        add("wasmgate_upstream_endpoints", "Endpoints", hosts.len() as u64, "membership_total");
        add(
            "wasmgate_upstream_endpoints_healthy",
            "Endpoints that get requests",
            healthy,
            "membership_healthy",
        );
        let ejected = hosts.iter().filter(|h| h.is_ejected()).count() as u64;
        add(
            "wasmgate_upstream_ejections_active",
            "Endpoints that get nothing because their answers were bad",
            ejected,
            "outlier_detection.ejections_active",
        );
        out.push(counter(
            "wasmgate_upstream_ejections",
            "Ejections of endpoints",
            label(),
            cluster.ejections(),
            format!("cluster.{name}.outlier_detection.ejections_enforced_total"),
        ));
        for (i, class) in CLASSES.iter().enumerate() {
            let value = cluster
                .shards
                .iter()
                .filter_map(|s| s.responses.get(i))
                .map(wasmgate_proxy::Counter::get)
                .sum();
            let mut labels = label();
            labels.push(("class", (*class).to_owned()));
            out.push(counter(
                "wasmgate_upstream_responses",
                "Responses of a cluster by class of status",
                labels,
                value,
                format!("cluster.{name}.upstream_rq_{class}"),
            ));
        }
    }
}
