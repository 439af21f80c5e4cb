//! `/stats`: counters for people and for Prometheus.

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::{AdminState, answer, json_answer, parameters, text};
use crate::metrics;

pub(super) async fn stats(State(state): State<AdminState>, RawQuery(query): RawQuery) -> Response {
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
    let lines = metrics::flat(&state).into_iter().filter(|(name, value)| {
        filter.as_ref().is_none_or(|f| f.is_match(name)) && !(used_only && value == "0")
    });
    if find("format") == Some("json") {
        // Numbers as numbers; a histogram is a text.
        let value =
            |text: String| text.parse::<u64>().map_or_else(|_| Value::from(text.clone()), Value::from);
        let stats: Vec<Value> =
            lines.map(|(name, text)| json!({ "name": name, "value": value(text) })).collect();
        return json_answer(&json!({ "stats": stats }));
    }
    text(StatusCode::OK, lines.map(|(name, value)| format!("{name}: {value}\n")).collect::<String>())
}

pub(super) async fn prometheus(State(state): State<AdminState>) -> Response {
    match metrics::prometheus(&state) {
        Ok(body) => {
            answer(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", body)
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
    }
}
