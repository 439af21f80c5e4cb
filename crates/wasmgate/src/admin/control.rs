//! What changes the process: its health, its end, its logs; and what it is made of.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::{AdminState, json_answer, text};

/// `/ready` says 503 from now on, and clients are asked to leave.
pub(super) async fn healthcheck_fail(State(state): State<AdminState>) -> Response {
    tracing::info!(target: "admin", "the health check fails from now on, and clients are asked to leave");
    state.shared.set_failing(true);
    state.gateway.ask_to_leave(true);
    text(StatusCode::OK, "OK\n")
}

/// The opposite.
pub(super) async fn healthcheck_ok(State(state): State<AdminState>) -> Response {
    tracing::info!(target: "admin", "the health check succeeds again");
    state.shared.set_failing(false);
    state.gateway.ask_to_leave(false);
    text(StatusCode::OK, "OK\n")
}

/// The same as SIGTERM.
pub(super) async fn quit(State(state): State<AdminState>) -> Response {
    state.shared.quit.notify_one();
    text(StatusCode::OK, "OK\n")
}

/// The same as SIGUSR1.
pub(super) async fn reopen_logs(State(state): State<AdminState>) -> Response {
    if let Some(sink) = &state.access_log {
        sink.reopen();
    }
    text(StatusCode::OK, "OK\n")
}

/// What the allocator says, in Envoy's words.
pub(super) async fn memory() -> Response {
    use tikv_jemalloc_ctl::{epoch, stats};
    // What is read is of the last epoch.
    let read = || -> Result<[usize; 5], tikv_jemalloc_ctl::Error> {
        epoch::advance()?;
        let (allocated, active) = (stats::allocated::read()?, stats::active::read()?);
        Ok([allocated, active, stats::mapped::read()?, stats::resident::read()?, stats::retained::read()?])
    };
    match read() {
        Ok([allocated, active, mapped, resident, retained]) => json_answer(&json!({
            "allocated": allocated.to_string(),
            "heap_size": mapped.to_string(),
            "pageheap_unmapped": retained.to_string(),
            "pageheap_free": mapped.saturating_sub(active).to_string(),
            "total_thread_cache": active.saturating_sub(allocated).to_string(),
            "total_physical_bytes": resident.to_string(),
        })),
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("the allocator does not say: {e}\n")),
    }
}

/// Envoy's runtime has layers; ours has the command line.
pub(super) async fn runtime(State(state): State<AdminState>) -> Response {
    let empty = serde_json::Map::new();
    let options = state.options.as_object().unwrap_or(&empty);
    let entries: serde_json::Map<String, Value> = options
        .iter()
        .map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name.clone(), json!({ "final_value": &value, "layer_values": [&value] }))
        })
        .collect();
    json_answer(&json!({ "layers": ["command line"], "entries": entries }))
}
