//! What is counted of connections: TLS, and those that were refused.

use std::time::SystemTime;

use wasmgate_proxy::WorkerStats;

use super::{Sample, counter, gauge};
use crate::admin::{AdminState, certs};

pub(super) fn samples(state: &AdminState, out: &mut Vec<Sample>) {
    let workers = &state.gateway.stats().workers;
    let sum = |pick: fn(&WorkerStats) -> u64| workers.iter().map(|w| pick(w)).sum::<u64>();
    let first = certs::of(&state.shared.current().snapshot)
        .iter()
        .map(|c| certs::days_left(c.facts(), SystemTime::now()))
        .min();
    if let Some(days) = first {
        out.push(gauge(
            "wasmgate_days_until_first_certificate_expires",
            "Whole days until the first certificate of a listener is valid no more",
            vec![],
            days,
            "server.days_until_first_cert_expiring",
        ));
    }
    out.push(counter(
        "wasmgate_downstream_connections_refused",
        "Connections closed at once, because there were too many",
        vec![],
        sum(|w| w.downstream_connections_refused.get()),
        "http.downstream_cx_overload_reject",
    ));
    out.push(counter(
        "wasmgate_tls_handshakes",
        "Connections with TLS",
        vec![],
        sum(|w| w.tls_handshakes.get()),
        "listener.ssl.handshake",
    ));
    out.push(counter(
        "wasmgate_tls_failures",
        "Connections that ended in the TLS handshake",
        vec![],
        sum(|w| w.tls_failures.get()),
        "listener.ssl.connection_error",
    ));
}
