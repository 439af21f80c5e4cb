//! `/config_dump`: the configuration that serves.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::json;

use super::{AdminState, json_answer};

/// A name of a TLS listener.
fn tls_entry(entry: &wasmgate_config::TlsEntry) -> serde_json::Value {
    let termination = entry.termination.as_ref();
    let certificates = termination.map(|t| t.certificates.iter().map(|c| c.facts().subject.as_str()));
    json!({
        "hostname": entry.hostname,
        "mode": if termination.is_some() { "Terminate" } else { "Passthrough" },
        "certificates": certificates.map(Iterator::collect::<Vec<_>>),
        "asksForClientCertificates": termination.is_some_and(|t| t.authorities.is_some()),
        "route": entry.target.as_ref().map(|target| &*target.route_name),
    })
}

pub(super) async fn config_dump(State(state): State<AdminState>) -> Response {
    let current = state.shared.current();
    let snapshot = &current.snapshot;
    let listener = |l: &wasmgate_config::Listener| {
        let names = |indexes: &[usize]| -> Vec<&str> {
            indexes.iter().filter_map(|i| snapshot.plugins.get(*i)).map(|p| &*p.name).collect()
        };
        let route = |(host, kind, path, r): (String, &str, String, &Arc<wasmgate_config::Route>)| {
            let backend = |b: &wasmgate_config::Backend| json!({ "cluster": b.cluster.as_ref().map(|c| &*c.name), "weight": b.weight });
            let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
            let headers: Vec<_> = r
                .matches
                .headers
                .iter()
                .map(|(n, v)| json!({ "name": n.as_str(), "value": text(v) }))
                .collect();
            let query: Vec<_> =
                r.matches.query.iter().map(|(n, v)| json!({ "name": n, "value": v })).collect();
            let matches = json!({
                "hostname": host,
                "path": { "type": kind, "value": path },
                "method": r.matches.method.as_ref().map(http::Method::as_str),
                "headers": headers,
                "queryParams": query,
            });
            json!({ "name": &*r.name, "match": matches, "backends": r.backends.iter().map(backend).collect::<Vec<_>>() })
        };
        json!({
            "name": &*l.name,
            "address": l.address.to_string(),
            "tls": l.tls.as_ref().map(|tls| tls.entries.iter().map(tls_entry).collect::<Vec<_>>()),
            "networkPlugins": names(&l.network_plugins),
            "plugins": names(&l.plugins),
            "routes": l.routes.entries().into_iter().map(route).collect::<Vec<_>>(),
        })
    };
    let cluster = |c: &Arc<wasmgate_config::Cluster>| {
        let endpoints: Vec<String> = c.endpoints.iter().map(|e| e.address.to_string()).collect();
        json!({ "name": &*c.name, "endpoints": endpoints })
    };
    let plugin = |p: &Arc<wasmgate_config::PluginSpec>| {
        json!({
            "name": &*p.name,
            "url": p.url.to_string(),
            "sha256": p.sha256,
            "phase": p.phase.as_str(),
            "priority": p.priority,
            "failStrategy": p.fail_strategy.as_str(),
            "manifest": format!("{}:{}", p.file, p.position.line),
        })
    };
    json_answer(&json!({
        "generation": current.generation,
        "listeners": snapshot.listeners.iter().map(listener).collect::<Vec<_>>(),
        "clusters": snapshot.clusters.values().map(cluster).collect::<Vec<_>>(),
        "plugins": snapshot.plugins.iter().map(plugin).collect::<Vec<_>>(),
        "diagnostics": current.diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>(),
    }))
}
