//! TLS that is established on a connection, and which requests may come over it.

use std::sync::Arc;

use http::HeaderValue;
use wasmgate_config::{RouteTable, TlsEntry, TlsListener};
use wasmgate_stream::{PeerCertificate, RequestHead, TlsInfo};

use super::Alpn;

/// TLS that ends here.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) info: Arc<TlsInfo>,
    /// What is behind the name that the client asked for.
    pub(crate) entry: TlsEntry,
    pub(crate) alpn: Option<Alpn>,
    /// What `x-forwarded-client-cert` says of a client that has shown a certificate.
    pub(crate) client_certificate: Option<HeaderValue>,
}

impl Tls {
    /// What all requests of a connection share.
    pub(crate) fn new(info: Arc<TlsInfo>, entry: TlsEntry, alpn: Option<Alpn>) -> Self {
        let client_certificate =
            info.peer.as_ref().and_then(|peer| HeaderValue::try_from(client_certificate(peer)).ok());
        Self { info, entry, alpn, client_certificate }
    }

    /// Whether a request names a host of another listener than the one that its connection was made for, or whether that
    /// one asks its clients for something else by now: nobody has checked it here.
    pub(crate) fn is_misdirected(&self, names: &TlsListener, head: &RequestHead) -> bool {
        let own = names.entries.iter().find(|e| e.hostname == self.entry.hostname);
        if own.is_none_or(|own| !is_same(&self.entry, own)) {
            return true;
        }
        if let [_] = names.entries.as_slice() {
            return false;
        }
        let authority = head.authority.as_ref().and_then(|a| a.to_str().ok()).unwrap_or_default();
        let host = RouteTable::host_of(authority).to_ascii_lowercase();
        let entry = names.find(Some(&host)).and_then(|index| names.entries.get(index));
        // Nobody's: no route will be found.
        entry.is_some_and(|entry| entry.hostname != self.entry.hostname)
    }
}

/// Whether what a connection was made for is what a request on it finds now: the same name, and clients are asked for the
/// same. A new certificate makes no difference.
fn is_same(before: &TlsEntry, now: &TlsEntry) -> bool {
    let asks_same = match (&before.termination, &now.termination) {
        (Some(before), Some(now)) => Arc::ptr_eq(before, now) || before.authorities == now.authorities,
        _ => false,
    };
    before.hostname == now.hostname && asks_same && now.target.is_none() && !now.is_refused
}

/// Envoy's `x-forwarded-client-cert`, as an Istio gateway sets it.
fn client_certificate(peer: &PeerCertificate) -> String {
    let mut out = format!("Hash={};Subject=\"{}\"", peer.sha256, peer.subject);
    for (key, values) in [("URI", &peer.uris), ("DNS", &peer.dns_names)] {
        for value in values {
            // A value that would end itself says nothing that could be trusted.
            if !value.contains([';', ',', '=', '"']) {
                out.push_str(&format!(";{key}={value}"));
            }
        }
    }
    out
}
