//! TCP listeners: which route each has.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Compiler, addresses};
use crate::diagnostic::Severity;
use crate::gateway::{AllowedNamespaces, GatewayListener, ListenerProtocol};
use crate::meta::ResourceId;
use crate::resource::{Kind, Resource, Spec};
use crate::snapshot::TcpTarget;
use crate::tcp_route::TcpRoute;

impl Compiler<'_> {
    /// TCP listeners to which no route leads.
    pub(super) fn report_unrouted(
        &mut self,
        targets: &BTreeMap<SocketAddr, TcpTarget>,
        gateways: &BTreeMap<SocketAddr, Vec<&ResourceId>>,
    ) {
        for (address, _) in targets.iter().filter(|(_, target)| target.route_name.is_empty()) {
            let gateway = gateways.get(address).and_then(|g| g.first()).and_then(|g| self.resources.get(*g));
            if let Some(resource) = gateway {
                let text = format!("no TCPRoute leads to {address}: its connections are closed");
                self.report(resource, Severity::Warning, resource.position, "spec.listeners", text);
            }
        }
    }

    /// Makes a route the target of every TCP listener that accepts it. Of two routes the first by namespace and name counts.
    /// `is_attached`: it has found a TLS listener.
    pub(super) fn attach_tcp(
        &mut self,
        resource: &Arc<Resource>,
        route: &TcpRoute,
        targets: &mut BTreeMap<SocketAddr, TcpTarget>,
        is_attached: bool,
    ) {
        let what = ("connections are closed", "connections is closed");
        let backends = self.backend_refs(resource, &route.backends, (route.at, &route.path), what);
        let own: Arc<str> = format!("{}/{}", resource.id.namespace, resource.id.name).into();
        if route.parents.is_empty() {
            let text = "names no Gateway, so the route serves nothing".to_owned();
            self.report(resource, Severity::Warning, resource.position, "spec.parentRefs", text);
        }
        for parent in &route.parents {
            let namespace = parent.namespace.as_deref().unwrap_or(&resource.id.namespace);
            let found = self.find(Kind::Gateway, namespace, &parent.name);
            let Some((Spec::Gateway(gateway), id)) = found.map(|f| (&f.spec, &f.id)) else {
                let text = format!("Gateway {namespace}/{} not found", parent.name);
                self.report(resource, Severity::Warning, parent.at, &parent.path, text);
                continue;
            };
            let fits = |l: &&GatewayListener| {
                l.protocol == ListenerProtocol::Tcp
                    && parent.section.as_ref().is_none_or(|s| *s == l.name)
                    && parent.port.is_none_or(|p| p == l.port)
                    && (l.namespaces == AllowedNamespaces::All || id.namespace == resource.id.namespace)
            };
            let mut served = false;
            for address in gateway.listeners.iter().filter(fits).flat_map(|l| addresses(gateway, l.port)) {
                served = true;
                let Some(target) = targets.get_mut(&address) else { continue };
                if target.route_name == own {
                    continue;
                }
                if !target.route_name.is_empty() {
                    let text = format!("{} serves {address} already", target.route_name);
                    self.report(resource, Severity::Warning, parent.at, &parent.path, text);
                    continue;
                }
                target.route_name = Arc::clone(&own);
                target.backends.clone_from(&backends);
            }
            if !served && !is_attached {
                let text = "NoMatchingParent: the Gateway has no TCP listener with this sectionName and port that allows routes of this namespace";
                self.report(resource, Severity::Warning, parent.at, &parent.path, text.to_owned());
            }
        }
    }
}
