//! The admin interface: the endpoints that Envoy's users know, and `/plugins`.
//!
//! Reading is GET, changing is POST. It listens on loopback unless somebody says otherwise, because whoever can reach
//! it controls the gateway.

pub(crate) mod certs;
mod clusters;
mod config_dump;
mod control;
mod listeners;
mod stats;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

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
    pub(crate) drain_time: Duration,
    /// The command line as it was understood.
    pub(crate) options: serde_json::Value,
}

/// Endpoints with what they do, for `/help`.
const ENDPOINTS: [(&str, &str); 19] = [
    ("/certs", "certificates of listeners, and until when they are valid (JSON)"),
    ("/clusters", "clusters: limits, endpoints with their health and counters; ?format=json"),
    ("/config_dump", "the configuration that serves, and what is wrong with the manifests (JSON)"),
    ("/drain_listeners", "POST: accept no more; ?graceful: ask clients to leave for the drain time before"),
    ("/healthcheck/fail", "POST: /ready answers 503, clients are asked to leave"),
    ("/healthcheck/ok", "POST: the opposite"),
    ("/help", "this list"),
    ("/listeners", "listeners and their addresses; ?format=json"),
    (
        "/logging",
        "POST: show and change log levels: ?level=<level> for all, ?<logger>=<level>, ?paths=<logger>:<level>,…",
    ),
    ("/memory", "what the allocator says (JSON)"),
    ("/plugins", "plug-ins: state with its reason, image, digests, VMs, faults (JSON)"),
    ("/quitquitquit", "POST: end as after SIGTERM"),
    ("/ready", "200 LIVE once requests are served, else 503"),
    ("/reopen_logs", "POST: open the access log's file anew, as after SIGUSR1"),
    ("/runtime", "the options of the process (JSON)"),
    ("/server_info", "version, state, uptime, command line (JSON)"),
    ("/stats", "counters; ?filter=<regular expression>, ?usedonly, ?format=json or prometheus"),
    ("/stats/prometheus", "counters in Prometheus' format"),
    ("/", "this list"),
];

/// Opens the interface's socket.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, CommandError> {
    TcpListener::bind(address).map_err(|source| CommandError::Admin { address, source })
}

/// Starts the interface.
pub(crate) fn start(
    listener: TcpListener,
    state: AdminState,
) -> Result<tokio::task::AbortHandle, CommandError> {
    let router = Router::new()
        .route("/", get(help))
        .route("/help", get(help))
        .route("/ready", get(ready))
        .route("/plugins", get(plugins))
        .route("/listeners", get(listeners::listeners))
        .route("/certs", get(certs::certs))
        .route("/clusters", get(clusters::clusters))
        .route("/config_dump", get(config_dump::config_dump))
        .route("/server_info", get(server_info))
        .route("/stats", get(stats::stats))
        .route("/stats/prometheus", get(stats::prometheus))
        .route("/logging", post(logging))
        .route("/logging", any(post_required))
        .route("/memory", get(control::memory))
        .route("/runtime", get(control::runtime))
        .route("/healthcheck/fail", post(control::healthcheck_fail).fallback(post_required))
        .route("/healthcheck/ok", post(control::healthcheck_ok).fallback(post_required))
        .route("/drain_listeners", post(listeners::drain_listeners).fallback(post_required))
        .route("/quitquitquit", post(control::quit).fallback(post_required))
        .route("/reopen_logs", post(control::reopen_logs).fallback(post_required))
        .fallback(not_found)
        .with_state(state);
    let listen = |listener: TcpListener| {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    let listener = listen(listener).map_err(CommandError::io("admin interface"))?;
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
    if state.shared.is_failing() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "DRAINING\n");
    }
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
