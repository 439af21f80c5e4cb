//! What is counted of listeners and routes.

use std::sync::Arc;

use wasmgate_proxy::Traffic;

use super::{CLASSES, Sample, counter, gauge};
use crate::admin::AdminState;

pub(super) fn samples(state: &AdminState, out: &mut Vec<Sample>) {
    for (name, traffic) in state.gateway.stats().listeners() {
        let label = || vec![("listener", name.to_string())];
        let flat = |what: &str| format!("listener.{name}.{what}");
        out.push(counter(
            "wasmgate_listener_connections",
            "Connections accepted by a listener",
            label(),
            traffic.sum(|t| t.connections.get()),
            flat("downstream_cx_total"),
        ));
        out.push(gauge(
            "wasmgate_listener_connections_active",
            "Connections of a listener that are open",
            label(),
            traffic.sum(|t| t.connections_active.get()),
            flat("downstream_cx_active"),
        ));
        out.push(counter(
            "wasmgate_listener_requests",
            "Requests of a listener that are over",
            label(),
            traffic.sum(|t| t.requests.get()),
            flat("http.downstream_rq_completed"),
        ));
        let help = "Responses of a listener by class of status";
        let names = ("wasmgate_listener_responses", help, "listener", "http.downstream_rq_");
        responses((&name, &traffic), names, out);
    }
    for (name, traffic) in state.gateway.stats().routes() {
        out.push(counter(
            "wasmgate_route_requests",
            "Requests of a route that are over",
            vec![("route", name.to_string())],
            traffic.sum(|t| t.requests.get()),
            format!("route.{name}.upstream_rq_completed"),
        ));
        let help = "Responses of a route by class of status";
        responses((&name, &traffic), ("wasmgate_route_responses", help, "route", "upstream_rq_"), out);
    }
}

fn responses(
    (name, traffic): (&Arc<str>, &Traffic),
    (metric, help, label, flat): (&'static str, &'static str, &'static str, &str),
    out: &mut Vec<Sample>,
) {
    for (i, class) in CLASSES.iter().enumerate() {
        let value = traffic.sum(|t| t.responses.get(i).map_or(0, wasmgate_proxy::Counter::get));
        let labels = vec![(label, name.to_string()), ("class", (*class).to_owned())];
        out.push(counter(metric, help, labels, value, format!("{label}.{name}.{flat}{class}")));
    }
}
