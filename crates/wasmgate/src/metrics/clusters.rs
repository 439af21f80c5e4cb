//! What is counted of clusters.

use wasmgate_proxy::ClusterCounters;

use super::{CLASSES, Sample, counter};
use crate::admin::AdminState;

pub(super) fn samples(state: &AdminState, out: &mut Vec<Sample>) {
    for (name, stats) in state.gateway.stats().clusters() {
        let label = || vec![("cluster", name.to_string())];
        let sum = |pick: fn(&ClusterCounters) -> u64| stats.shards.iter().map(pick).sum::<u64>();
        let mut add = |metric, help, value, flat: &str| {
            out.push(counter(metric, help, label(), value, format!("cluster.{name}.{flat}")))
        };
        add(
            "wasmgate_upstream_requests",
            "Requests sent to a cluster",
            sum(|c| c.requests.get()),
            "upstream_rq_total",
        );
        add(
            "wasmgate_upstream_connections",
            "Connections made to a cluster",
            sum(|c| c.connections.get()),
            "upstream_cx_total",
        );
        add(
            "wasmgate_upstream_connect_failures",
            "Connections that failed",
            sum(|c| c.connect_failures.get()),
            "upstream_cx_connect_fail",
        );
        add(
            "wasmgate_upstream_retries",
            "Requests sent again over a fresh connection",
            sum(|c| c.retries.get()),
            "upstream_rq_retry",
        );
        add(
            "wasmgate_upstream_timeouts",
            "Exchanges that took longer than their route lets them",
            sum(|c| c.timeouts.get()),
            "upstream_rq_timeout",
        );
        add(
            "wasmgate_upstream_resets",
            "Exchanges that an endpoint broke off",
            sum(|c| c.resets.get()),
            "upstream_rq_rx_reset",
        );
        for (i, class) in CLASSES.iter().enumerate() {
            let value = stats
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
