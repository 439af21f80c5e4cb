//! `/certs`: the certificates of listeners, in Envoy's form.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::response::Response;
use serde_json::json;
use wasmgate_config::{Certificate, CertificateFacts, Snapshot};
use wasmgate_proxy::civil_date;

use super::{AdminState, json_answer};

const DAY: Duration = Duration::from_secs(86_400);

/// Every certificate that a listener has, once.
pub(crate) fn of(snapshot: &Snapshot) -> Vec<Arc<Certificate>> {
    let mut out: Vec<Arc<Certificate>> = Vec::new();
    let entries = snapshot.listeners.iter().filter_map(|l| l.tls.as_ref()).flat_map(|tls| &tls.entries);
    for certificate in entries.filter_map(|e| e.termination.as_ref()).flat_map(|t| &t.certificates) {
        if !out.iter().any(|known| known == certificate) {
            out.push(Arc::clone(certificate));
        }
    }
    out
}

/// Whole days until a certificate is valid no more; 0 once it is not.
pub(crate) fn days_left(facts: &CertificateFacts, now: SystemTime) -> u64 {
    facts.not_after.duration_since(now).map_or(0, |left| left.as_secs() / DAY.as_secs())
}

/// Says of certificates that are new in a configuration when they end, if that is soon or was before.
pub(crate) fn log_expiry(before: &Snapshot, now: &Snapshot) {
    const SOON_DAYS: u64 = 14;
    let (before, clock) = (of(before), SystemTime::now());
    for certificate in of(now).iter().filter(|c| !before.contains(c)) {
        let facts = certificate.facts();
        let (subject, names, end) = (&facts.subject, facts.dns_names.join(", "), time(facts.not_after));
        if facts.not_after <= clock {
            tracing::warn!(target: "config", "the certificate {subject} ({names}) expired on {end}: clients refuse it");
        } else if days_left(facts, clock) < SOON_DAYS {
            tracing::warn!(target: "config", "the certificate {subject} ({names}) expires on {end}");
        }
    }
}

pub(super) async fn certs(State(state): State<AdminState>) -> Response {
    let now = SystemTime::now();
    let certificate = |certificate: &Arc<Certificate>| {
        let facts = certificate.facts();
        let dns = facts.dns_names.iter().map(|name| json!({ "dns": name }));
        let uris = facts.uris.iter().map(|uri| json!({ "uri": uri }));
        json!({
            "ca_cert": [],
            "cert_chain": [{
                "path": "<inline>",
                "serial_number": facts.serial,
                "subject": facts.subject,
                "subject_alt_names": dns.chain(uris).collect::<Vec<_>>(),
                "days_until_expiration": days_left(facts, now).to_string(),
                "valid_from": time(facts.not_before),
                "expiration_time": time(facts.not_after),
            }],
        })
    };
    let certificates: Vec<_> = of(&state.shared.current().snapshot).iter().map(certificate).collect();
    json_answer(&json!({ "certificates": certificates }))
}

/// `2026-11-22T07:29:19Z`
pub(crate) fn time(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let ((year, month, day), second) = (civil_date(since / DAY.as_secs()), since % DAY.as_secs());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}
