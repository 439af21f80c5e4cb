//! The admin interface: the endpoints that Envoy's users know, and `/plugins`.
//!
//! Reading is GET, changing is POST. It listens on loopback unless somebody says otherwise, because whoever can reach
//! it controls the gateway.

pub(crate) mod certs;
mod clusters;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use serde_json::json;
use wasmgate_config::{Diagnostic, Kind, ResourceId};
use wasmgate_host::MetricRegistry;
use wasmgate_plugin::{PluginManager, PluginState};
use wasmgate_proxy::{AccessLogSink, Gateway};

use crate::error::CommandError;
use crate::logging::{Level, LogLevels};
use crate::metrics;
use crate::shared::{ServerState, Shared};

/// What the endpoints look at.
#[derive(Clone)]
pub(crate) struct AdminState {
    pub(crate) shared: Arc<Shared>,
    pub(crate) levels: LogLevels,
    pub(crate) manager: PluginManager,
    /// What plug-ins count themselves.
    pub(crate) plugin_metrics: MetricRegistry,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) access_log: Option<AccessLogSink>,
    /// The command line as it was understood.
    pub(crate) options: serde_json::Value,
}

/// Endpoints with what they do, for `/help`.
const ENDPOINTS: [(&str, &str); 12] = [
    ("/certs", "certificates of listeners, and until when they are valid (JSON)"),
    ("/clusters", "clusters: limits, endpoints with their health and counters; ?format=json"),
    ("/config_dump", "the configuration that serves, and what is wrong with the manifests (JSON)"),
    ("/help", "this list"),
    ("/listeners", "listeners and their addresses"),
    (
        "/logging",
        "POST: show and change log levels: ?level=<level> for all, ?<logger>=<level>, ?paths=<logger>:<level>,…",
    ),
    ("/plugins", "plug-ins: state with its reason, image, digests, VMs, faults (JSON)"),
    ("/ready", "200 LIVE once requests are served, else 503"),
    ("/server_info", "version, state, uptime, command line (JSON)"),
    ("/stats", "counters; ?filter=<regular expression>, ?usedonly, ?format=prometheus"),
    ("/stats/prometheus", "counters in Prometheus' format"),
    ("/", "this list"),
];

/// Starts the interface.
pub(crate) async fn start(
    address: SocketAddr,
    state: AdminState,
) -> Result<tokio::task::AbortHandle, CommandError> {
    let router = Router::new()
        .route("/", get(help))
        .route("/help", get(help))
        .route("/ready", get(ready))
        .route("/plugins", get(plugins))
        .route("/listeners", get(listeners))
        .route("/certs", get(certs::certs))
        .route("/clusters", get(clusters::clusters))
        .route("/config_dump", get(config_dump))
        .route("/server_info", get(server_info))
        .route("/stats", get(stats))
        .route("/stats/prometheus", get(prometheus))
        .route("/logging", post(logging))
        .route("/logging", any(post_required))
        .fallback(not_found)
        .with_state(state);
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| CommandError::Admin { address, source })?;
    let task = tokio::spawn(async move {
        if let Err(e) = axum::serve(listener, router).await {
            tracing::error!(target: "admin", "the admin interface has ended: {e}");
        }
    });
    Ok(task.abort_handle())
}

/// The headers that Envoy's admin interface puts on every answer.
fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0")),
        (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff")),
        (header::SERVER, HeaderValue::from_static("wasmgate")),
    ];
    (status, headers, body).into_response()
}

fn text(status: StatusCode, body: impl Into<String>) -> Response {
    answer(status, "text/plain; charset=UTF-8", body.into())
}

fn json_answer(value: &impl serde::Serialize) -> Response {
    match serde_json::to_string_pretty(value) {
        Ok(body) => answer(StatusCode::OK, "application/json", body + "\n"),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
    }
}

fn list_of_endpoints() -> String {
    ENDPOINTS.iter().map(|(path, what)| format!("  {path}: {what}\n")).collect()
}

async fn help() -> Response {
    text(StatusCode::OK, format!("admin commands are:\n{}", list_of_endpoints()))
}

async fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, format!("invalid path. admin commands are:\n{}", list_of_endpoints()))
}

async fn post_required() -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed, POST required.\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

async fn ready(State(state): State<AdminState>) -> Response {
    let now = state.shared.state();
    let status = if now == ServerState::Live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text(status, format!("{}\n", now.as_str()))
}

async fn plugins(State(state): State<AdminState>) -> Response {
    let current = state.shared.current();
    let mut plugins = state.manager.status();
    let file = |name: &str| current.snapshot.plugins.iter().find(|p| *p.name == *name).map(|p| &p.file);
    for plugin in &mut plugins {
        // What the manifest says now cannot be used: whatever is told about the version before is not the answer.
        let concerns = |d: &&Diagnostic| match &d.resource {
            Some(id) => is_plugin(id) && plugin_name(id) == plugin.name,
            None => file(&plugin.name) == Some(&d.file),
        };
        let messages: Vec<String> =
            current.invalid.iter().filter(concerns).map(ToString::to_string).collect();
        if !messages.is_empty() {
            let serves = plugin.serving_image.is_some();
            plugin.state = if serves { PluginState::Degraded } else { PluginState::Failed };
            plugin.reason = INVALID_MANIFEST.to_owned();
            plugin.message = messages.join("; ");
        }
    }
    let mut rows: Vec<_> = plugins.iter().map(|p| json!(p)).collect();
    let mut never_valid: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for diagnostic in &current.invalid {
        if let Some(id) = diagnostic.resource.as_ref().filter(|id| is_plugin(id))
            && !plugins.iter().any(|p| p.name == plugin_name(id))
        {
            never_valid.entry(plugin_name(id)).or_default().push(diagnostic.to_string());
        }
    }
    for (name, messages) in never_valid {
        let state = PluginState::Failed;
        rows.push(json!({ "name": name, "state": state, "reason": INVALID_MANIFEST, "message": messages.join("; ") }));
    }
    json_answer(&json!({ "plugins": rows }))
}

/// Reason of a plug-in whose manifest cannot be used as it is now.
const INVALID_MANIFEST: &str = "InvalidManifest";

fn is_plugin(id: &ResourceId) -> bool {
    id.kind == Kind::WasmPlugin
}

fn plugin_name(id: &ResourceId) -> String {
    format!("{}.{}", id.namespace, id.name)
}

async fn listeners(State(state): State<AdminState>) -> Response {
    let current = state.shared.current();
    let open = state.gateway.listening();
    let line = |l: &wasmgate_config::Listener| {
        let note = if open.contains(&l.address) { "" } else { " (cannot be opened, see the log)" };
        format!("{}::{}{note}\n", l.name, l.address)
    };
    let listeners = &current.snapshot.listeners;
    let left = open.iter().filter(|a| listeners.iter().all(|l| l.address != **a));
    let left = left.map(|a| format!("{a}::{a} (removed, serves until the new ones are open)\n"));
    text(StatusCode::OK, listeners.iter().map(line).chain(left).collect::<String>())
}

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

async fn config_dump(State(state): State<AdminState>) -> Response {
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

async fn server_info(State(state): State<AdminState>) -> Response {
    let uptime = format!("{}s", state.shared.started.elapsed().as_secs());
    json_answer(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": state.shared.state().as_str(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "command_line_options": state.options,
    }))
}

/// One parameter of a query string; percent-encoding of `+` and blanks is undone.
fn parameters(query: Option<String>) -> Vec<(String, String)> {
    let query = query.unwrap_or_default();
    let decode = |text: &str| {
        let bytes = text.as_bytes();
        let mut out = Vec::new();
        let mut i = 0;
        while let Some(byte) = bytes.get(i) {
            let hex = bytes
                .get(i + 1..i + 3)
                .and_then(|h| std::str::from_utf8(h).ok())
                .and_then(|h| u8::from_str_radix(h, 16).ok());
            match (byte, hex) {
                (b'%', Some(value)) => {
                    out.push(value);
                    i += 2;
                }
                (b'+', _) => out.push(b' '),
                (other, _) => out.push(*other),
            }
            i += 1;
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let pair = |p: &str| {
        let (key, value) = p.split_once('=').unwrap_or((p, ""));
        (decode(key), decode(value))
    };
    query.split('&').filter(|p| !p.is_empty()).map(pair).collect()
}

async fn stats(State(state): State<AdminState>, RawQuery(query): RawQuery) -> Response {
    let parameters = parameters(query);
    let find = |name: &str| parameters.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
    if find("format") == Some("prometheus") {
        return prometheus(State(state)).await;
    }
    let filter = match find("filter").map(regex::Regex::new).transpose() {
        Ok(filter) => filter,
        Err(e) => return text(StatusCode::BAD_REQUEST, format!("Invalid re2 regex: {e}\n")),
    };
    let used_only = find("usedonly").is_some();
    let lines = metrics::flat(&state)
        .into_iter()
        .filter(|(name, value)| {
            filter.as_ref().is_none_or(|f| f.is_match(name)) && !(used_only && value == "0")
        })
        .map(|(name, value)| format!("{name}: {value}\n"));
    text(StatusCode::OK, lines.collect::<String>())
}

async fn prometheus(State(state): State<AdminState>) -> Response {
    match metrics::prometheus(&state) {
        Ok(body) => {
            answer(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", body)
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
    }
}

const LOGGING_USAGE: &str = "usage: /logging?<name>=<level> (change single level)\n\
    usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
    usage: /logging?level=<level> (change all levels)\n\
    levels: trace debug info warning error critical off\n";

async fn logging(State(state): State<AdminState>, RawQuery(query): RawQuery) -> Response {
    for (key, value) in parameters(query) {
        let changes: Vec<(String, String)> = if key == "paths" {
            value
                .split(',')
                .filter_map(|p| p.split_once(':'))
                .map(|(n, l)| (n.to_owned(), l.to_owned()))
                .collect()
        } else {
            vec![(key, value)]
        };
        for (name, level) in changes {
            let Some(level) = Level::parse(&level) else {
                return text(
                    StatusCode::BAD_REQUEST,
                    format!("error: unknown logger level {level:?}\n{LOGGING_USAGE}"),
                );
            };
            if name == "level" {
                state.levels.set_all(level);
            } else if !state.levels.set(&name, level) {
                return text(
                    StatusCode::BAD_REQUEST,
                    format!("error: unknown logger {name:?}\n{LOGGING_USAGE}"),
                );
            }
        }
    }
    let list: String =
        state.levels.list().iter().map(|(name, level)| format!("  {name}: {}\n", level.as_str())).collect();
    text(StatusCode::OK, format!("active loggers:\n{list}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_strings_are_decoded() {
        let parsed = parameters(Some("filter=a%2Eb+c&usedonly&x=%zz".to_owned()));
        let wanted =
            [("filter", "a.b c"), ("usedonly", ""), ("x", "%zz")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(parsed, wanted);
    }
}
