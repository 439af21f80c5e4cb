//! TLS listeners: which certificates they have, and what is behind each name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Compiler, addresses, effective_hosts};
use crate::certificate::{Certificate, ClientAuthorities};
use crate::diagnostic::Severity;
use crate::gateway::{AllowedNamespaces, GatewayListener, ListenerProtocol, ListenerTls, ObjectRef};
use crate::resource::{Kind, Resource, Spec};
use crate::snapshot::{TcpTarget, TlsEntry, TlsListener, TlsTermination};
use crate::tcp_route::TcpRoute;

/// Names of TLS listeners by address, while they are collected.
pub(super) type TlsNames = BTreeMap<SocketAddr, Vec<TlsEntry>>;

impl Compiler<'_> {
    /// Gives an address the name of an HTTPS listener.
    pub(super) fn add_https(
        &mut self,
        resource: &Arc<Resource>,
        listener: &GatewayListener,
        address: SocketAddr,
        names: &mut TlsNames,
    ) {
        let Some(tls) = &listener.tls else { return };
        let termination = self.termination(resource, tls, true);
        let entry = TlsEntry {
            hostname: listener.hostname.as_deref().map(Into::into),
            is_refused: termination.is_none(),
            termination,
            target: None,
        };
        if entry.is_refused {
            self.left_out.insert((resource.id.clone(), listener.name.clone()));
        }
        self.add_name(resource, listener, address, entry, names);
    }

    fn add_name(
        &mut self,
        resource: &Arc<Resource>,
        listener: &GatewayListener,
        address: SocketAddr,
        entry: TlsEntry,
        names: &mut TlsNames,
    ) {
        let entries = names.entry(address).or_default();
        if entries.iter().any(|e| e.hostname == entry.hostname) {
            let name = entry.hostname.as_deref().unwrap_or("every name");
            let text =
                format!("{address} serves {name} already: this one is left out, and its routes with it");
            self.left_out.insert((resource.id.clone(), listener.name.clone()));
            return self.report(resource, Severity::Warning, listener.at, "spec.listeners", text);
        }
        entries.push(entry);
    }

    /// How a listener ends TLS. `None`: it cannot, which has been reported.
    fn termination(
        &mut self,
        resource: &Arc<Resource>,
        tls: &ListenerTls,
        is_http: bool,
    ) -> Option<Arc<TlsTermination>> {
        let mut certificates = Vec::new();
        for reference in &tls.certificates {
            match self.certificate(resource, reference) {
                Ok(certificate) => certificates.push(certificate),
                Err(e) => self.report(resource, Severity::Error, reference.at, &reference.path, e),
            }
        }
        if certificates.is_empty() {
            return None;
        }
        // Serving those whom nobody has checked would be worse than serving nobody.
        let authorities = match self.authorities(resource, tls) {
            Ok(authorities) => authorities,
            Err((reference, e)) => {
                let (at, path) = reference.map_or((tls.at, tls.path.as_str()), |r| (r.at, r.path.as_str()));
                self.report(resource, Severity::Error, at, path, e);
                return None;
            }
        };
        let is_1_3_only = tls.is_1_3_only;
        Some(Arc::new(TlsTermination { certificates, authorities, is_1_3_only, is_http }))
    }

    fn referenced(&self, resource: &Resource, reference: &ObjectRef, kind: Kind) -> Result<&Spec, String> {
        let own = &resource.id.namespace;
        let namespace = reference.namespace.as_deref().unwrap_or(own);
        let name = format!("{kind} {namespace}/{}", reference.name);
        if namespace != &**own {
            return Err(format!("RefNotPermitted: {name} is in another namespace"));
        }
        let found = self.find(kind, namespace, &reference.name);
        Ok(&found.ok_or_else(|| format!("InvalidCertificateRef: {name} not found"))?.spec)
    }

    fn certificate(&self, resource: &Resource, reference: &ObjectRef) -> Result<Arc<Certificate>, String> {
        if reference.kind != "Secret" {
            return Err("InvalidCertificateRef: a certificate with its key is in a Secret".to_owned());
        }
        match self.referenced(resource, reference, Kind::Secret)? {
            Spec::Secret(secret) => secret.certificate().map_err(|e| {
                format!("InvalidCertificateRef: Secret {}/{}: {e}", resource.id.namespace, reference.name)
            }),
            _ => Err("InvalidCertificateRef: it is no Secret".to_owned()),
        }
    }

    /// What clients are checked against, if they are.
    fn authorities<'t>(
        &self,
        resource: &Resource,
        tls: &'t ListenerTls,
    ) -> Result<Option<ClientAuthorities>, (Option<&'t ObjectRef>, String)> {
        let reference = match (tls.authorities.as_slice(), tls.certificates.first()) {
            ([], Some(first)) if tls.is_mutual => first,
            ([], _) => return Ok(None),
            ([only], _) => only,
            ([_, second, ..], _) => {
                let text = "one bundle with all authorities is wanted, not several".to_owned();
                return Err((Some(second), text));
            }
        };
        let invalid = |e: String| {
            let text = format!("InvalidCACertificateRef: {} {}: {e}", reference.kind, reference.name);
            (Some(reference), text)
        };
        let kind = if reference.kind == "Secret" { Kind::Secret } else { Kind::ConfigMap };
        let spec = self.referenced(resource, reference, kind).map_err(|e| (Some(reference), e))?;
        let authorities = match spec {
            Spec::Secret(secret) => secret.authorities(),
            Spec::ConfigMap(map) => map.authorities(),
            _ => Err("is neither a Secret nor a ConfigMap".to_owned()),
        };
        authorities.map(Some).map_err(invalid)
    }

    /// Makes a route the target of the names that it shares with TLS listeners. Of two routes the first by namespace and
    /// name counts. Whether a listener was found.
    pub(super) fn attach_tls(
        &mut self,
        resource: &Arc<Resource>,
        route: &TcpRoute,
        names: &mut TlsNames,
    ) -> bool {
        let mut found = false;
        for parent in &route.parents {
            let namespace = parent.namespace.as_deref().unwrap_or(&resource.id.namespace);
            let Some(owner) = self.find(Kind::Gateway, namespace, &parent.name) else { continue };
            let Spec::Gateway(gateway) = &owner.spec else { continue };
            let fits = |l: &&GatewayListener| {
                // A TCPRoute has no names: it cannot choose among connections that nobody decrypts.
                let is_readable = l.tls.as_ref().is_some_and(|tls| route.has_names || !tls.is_passthrough);
                l.protocol == ListenerProtocol::Tls
                    && is_readable
                    && parent.section.as_ref().is_none_or(|s| *s == l.name)
                    && parent.port.is_none_or(|p| p == l.port)
                    && (l.namespaces == AllowedNamespaces::All || owner.id.namespace == resource.id.namespace)
            };
            for listener in gateway.listeners.iter().filter(fits) {
                let Some(tls) = &listener.tls else { continue };
                found = true;
                let termination = if tls.is_passthrough { None } else { self.termination(owner, tls, false) };
                let what = ("connections are closed", "connections is closed");
                let backends = self.backend_refs(resource, &route.backends, (route.at, &route.path), what);
                let route_name: Arc<str> = format!("{}/{}", resource.id.namespace, resource.id.name).into();
                let target = Arc::new(TcpTarget { route_name, backends });
                for hostname in effective_hosts(listener.hostname.as_deref(), &route.hostnames) {
                    for address in addresses(gateway, listener.port) {
                        let entry = TlsEntry {
                            hostname: hostname.as_deref().map(Into::into),
                            termination: termination.clone(),
                            target: Some(Arc::clone(&target)),
                            is_refused: termination.is_none() && !tls.is_passthrough,
                        };
                        self.add_name(resource, listener, address, entry, names);
                    }
                }
            }
        }
        found
    }
}

impl TlsListener {
    /// The name that a client asks for: the exact one, the longest `*.` that covers it, or the one for every name.
    pub fn find(&self, name: Option<&str>) -> Option<usize> {
        let length = |entry: &TlsEntry| match (entry.hostname.as_deref(), name) {
            (None, _) => Some(0),
            (Some(own), Some(name)) => match own.strip_prefix('*') {
                Some(suffix) => (name.len() > suffix.len() && name.ends_with(suffix)).then_some(own.len()),
                None => (own == name).then_some(usize::MAX),
            },
            (Some(_), None) => None,
        };
        let fitting = self.entries.iter().enumerate().filter_map(|(i, e)| Some((length(e)?, i)));
        fitting.max_by_key(|(length, index)| (*length, std::cmp::Reverse(*index))).map(|(_, index)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_name_is_found() {
        let entry = |name: Option<&str>| TlsEntry {
            hostname: name.map(Into::into),
            termination: None,
            target: None,
            is_refused: false,
        };
        let names = [None, Some("*.com"), Some("*.example.com"), Some("a.example.com")];
        let listener = TlsListener { entries: names.map(entry).to_vec() };
        for (name, wanted) in [
            (None, Some(0)),
            (Some("a.example.com"), Some(3)),
            (Some("b.example.com"), Some(2)),
            (Some("b.c.example.com"), Some(2)),
            (Some("example.com"), Some(1)),
            (Some("com"), Some(0)),
            (Some("other.org"), Some(0)),
        ] {
            assert_eq!(listener.find(name), wanted, "{name:?}");
        }
        let strict = TlsListener { entries: vec![entry(Some("a.example.com"))] };
        assert_eq!((strict.find(None), strict.find(Some("b.example.com"))), (None, None));
    }
}
