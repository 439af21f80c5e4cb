//! `/listeners`: what is listened on, and `/drain_listeners`.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::{AdminState, json_answer, parameters, text};

pub(super) async fn listeners(State(state): State<AdminState>, RawQuery(query): RawQuery) -> Response {
    let current = state.shared.current();
    let open = state.gateway.listening();
    let listeners = &current.snapshot.listeners;
    let left = open.iter().filter(|a| listeners.iter().all(|l| l.address != **a));
    if parameters(query).iter().any(|(k, v)| k == "format" && v == "json") {
        let status = |name: String, address: &std::net::SocketAddr, is_open: bool| {
            json!({
                "name": name,
                "local_address": { "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } },
                "is_open": is_open,
            })
        };
        let known =
            listeners.iter().map(|l| status(l.name.to_string(), &l.address, open.contains(&l.address)));
        let all: Vec<Value> = known.chain(left.map(|a| status(a.to_string(), a, true))).collect();
        return json_answer(&json!({ "listener_statuses": all }));
    }
    let line = |l: &wasmgate_config::Listener| {
        let note = match (open.contains(&l.address), state.gateway.is_closed()) {
            (true, _) => "",
            (false, true) => " (drained)",
            (false, false) => " (cannot be opened, see the log)",
        };
        format!("{}::{}{note}\n", l.name, l.address)
    };
    let left = left.map(|a| format!("{a}::{a} (removed, serves until the new ones are open)\n"));
    text(StatusCode::OK, listeners.iter().map(line).chain(left).collect::<String>())
}

/// Stops accepting; with `graceful` clients are asked to leave before.
pub(super) async fn drain_listeners(State(state): State<AdminState>, RawQuery(query): RawQuery) -> Response {
    let gateway = Arc::clone(&state.gateway);
    if parameters(query).iter().any(|(k, _)| k == "graceful") {
        gateway.ask_to_leave(true);
        let time = state.drain_time;
        tracing::info!(target: "admin", "clients are asked to leave; listeners are closed in {time:?}");
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            gateway.stop_listening();
        });
    } else {
        tracing::info!(target: "admin", "listeners are closed; connections end with the request at hand");
        gateway.stop_listening();
    }
    text(StatusCode::OK, "OK\n")
}
