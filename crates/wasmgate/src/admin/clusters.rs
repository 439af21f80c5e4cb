//! `/clusters`: who is in them, how they are, and what has become of their requests.

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use wasmgate_config::Cluster;
use wasmgate_proxy::{ClusterState, HostCounters, HostState};

use super::{AdminState, json_answer, parameters, text};

/// What Envoy prints for a limit that there is not.
const NO_LIMIT: u32 = u32::MAX;

/// A counter of an endpoint: Envoy's name, Envoy's kind, and where it is.
type HostStat = (&'static str, &'static str, fn(&HostCounters) -> u64);

const HOST_STATS: [HostStat; 8] = [
    ("cx_active", "GAUGE", |c| c.connections_active.get()),
    ("cx_connect_fail", "COUNTER", |c| c.connect_failures.get()),
    ("cx_total", "COUNTER", |c| c.connections.get()),
    ("rq_active", "GAUGE", |c| c.requests_active.get()),
    ("rq_error", "COUNTER", |c| c.errors.get()),
    ("rq_success", "COUNTER", |c| {
        c.requests.get().saturating_sub(c.errors.get() + c.timeouts.get() + c.requests_active.get())
    }),
    ("rq_timeout", "COUNTER", |c| c.timeouts.get()),
    ("rq_total", "COUNTER", |c| c.requests.get()),
];

/// Circuit breakers in Envoy's words.
fn thresholds(cluster: &Cluster) -> [(&'static str, u32); 4] {
    let limits = &cluster.policy.limits;
    [
        ("max_connections", limits.connections.unwrap_or(NO_LIMIT)),
        ("max_pending_requests", limits.pending.unwrap_or(NO_LIMIT)),
        ("max_requests", limits.requests.unwrap_or(NO_LIMIT)),
        ("max_retries", limits.retries.unwrap_or(NO_LIMIT)),
    ]
}

pub(super) async fn clusters(State(state): State<AdminState>, RawQuery(query): RawQuery) -> Response {
    let known = state.gateway.stats().clusters();
    let snapshot = state.shared.current().snapshot.clone();
    let found = snapshot
        .clusters
        .iter()
        .map(|(name, cluster)| (cluster, known.iter().find(|(n, _)| n == name).map(|(_, state)| &**state)));
    if parameters(query).iter().any(|(k, v)| k == "format" && v == "json") {
        let statuses: Vec<Value> = found.map(|(cluster, state)| as_json(cluster, state)).collect();
        return json_answer(&json!({ "cluster_statuses": statuses }));
    }
    let mut out = String::new();
    for (cluster, state) in found {
        as_text(cluster, state, &mut out);
    }
    text(StatusCode::OK, out)
}

fn as_text(cluster: &Cluster, state: Option<&ClusterState>, out: &mut String) {
    let name = &cluster.name;
    let mut add = |text: String| out.push_str(&format!("{name}::{text}\n"));
    add(format!("observability_name::{name}"));
    for (limit, value) in thresholds(cluster) {
        add(format!("default_priority::{limit}::{value}"));
    }
    for (endpoint, host) in state.into_iter().flat_map(ClusterState::endpoints) {
        let address = endpoint.address;
        for (stat, _, pick) in HOST_STATS {
            add(format!("{address}::{stat}::{}", host.sum(pick)));
        }
        add(format!("{address}::health_flags::{}", host.health_flags()));
        add(format!("{address}::weight::{}", endpoint.weight));
        add(format!("{address}::priority::{}", endpoint.priority));
    }
}

fn as_json(cluster: &Cluster, state: Option<&ClusterState>) -> Value {
    let thresholds: Vec<Value> = thresholds(cluster)
        .into_iter()
        .map(|(limit, value)| json!({ "name": limit, "value": value }))
        .collect();
    let hosts: Vec<Value> = state
        .into_iter()
        .flat_map(ClusterState::endpoints)
        .map(|(endpoint, host)| {
            json!({
                "address": { "socket_address": {
                    "address": endpoint.address.ip().to_string(),
                    "port_value": endpoint.address.port(),
                } },
                "stats": stats(&host),
                "health_status": health(&host),
                "weight": endpoint.weight,
                "priority": endpoint.priority,
            })
        })
        .collect();
    json!({
        "name": &*cluster.name,
        "observability_name": &*cluster.name,
        "circuit_breakers": { "thresholds": thresholds },
        "host_statuses": hosts,
    })
}

fn stats(host: &HostState) -> Vec<Value> {
    HOST_STATS
        .iter()
        .map(|(name, kind, pick)| json!({ "name": name, "type": kind, "value": host.sum(*pick).to_string() }))
        .collect()
}

fn health(host: &HostState) -> Value {
    let flags = host.health_flags();
    let mut health = json!({ "eds_health_status": "HEALTHY" });
    for flag in flags.split('/').filter(|flag| flag.starts_with("failed_")) {
        if let Some(map) = health.as_object_mut() {
            map.insert(flag.to_owned(), Value::Bool(true));
        }
    }
    health
}
