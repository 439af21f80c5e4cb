//! Clusters: which endpoints a backend has, and what is spoken with them.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{CLUSTER_DOMAIN, Compiler};
use crate::endpoint_slice::EndpointSlice;
use crate::http_route::{BackendKind, BackendRef};
use crate::resource::{Kind, Resource, Spec};
use crate::service::Service;
use crate::service_entry::ServiceEntry;
use crate::snapshot::{Cluster, Endpoint, UpstreamProtocol};

/// What a name and a port lead to.
type Found = (Vec<Endpoint>, UpstreamProtocol);

impl Compiler<'_> {
    pub(super) fn cluster(
        &mut self,
        resource: &Resource,
        backend: &BackendRef,
    ) -> Result<Arc<Cluster>, String> {
        let namespace = backend.namespace.as_deref().unwrap_or(&resource.id.namespace);
        let port = backend.port.unwrap_or_default();
        let host = match backend.kind {
            BackendKind::Unknown => {
                return Err(
                    "InvalidKind: a backend is a Service, or group networking.istio.io kind Hostname"
                        .to_owned(),
                );
            }
            BackendKind::Service if namespace != &*resource.id.namespace => {
                return Err(format!(
                    "RefNotPermitted: Service {namespace}/{} is in another namespace",
                    backend.name
                ));
            }
            BackendKind::Service => format!("{}.{namespace}.{CLUSTER_DOMAIN}", backend.name),
            BackendKind::Hostname => backend.name.clone(),
        };
        let name: Arc<str> = format!("outbound|{port}||{host}").into();
        if let Some(known) = self.clusters.get(&name) {
            return Ok(Arc::clone(known));
        }
        let (endpoints, protocol) = match backend.kind {
            BackendKind::Service => self.service_endpoints(namespace, &backend.name, port)?,
            _ => self.host_endpoints(&host, port)?,
        };
        let cluster = Arc::new(Cluster { name: Arc::clone(&name), endpoints, protocol });
        self.clusters.insert(name, Arc::clone(&cluster));
        Ok(cluster)
    }

    /// Services and hosts to which no route leads: plug-ins may call them.
    pub(super) fn remaining_clusters(&mut self) {
        let mut found = Vec::new();
        for service in self.of_kind(Kind::Service) {
            let Spec::Service(Service { ports }) = &service.spec else { continue };
            let (namespace, name) = (&service.id.namespace, &service.id.name);
            for port in ports {
                if let Ok(endpoints) = self.service_endpoints(namespace, name, port.port) {
                    found.push((
                        format!("outbound|{}||{name}.{namespace}.{CLUSTER_DOMAIN}", port.port),
                        endpoints,
                    ));
                }
            }
        }
        for entry in self.of_kind(Kind::ServiceEntry) {
            let Spec::ServiceEntry(ServiceEntry { hosts, ports, .. }) = &entry.spec else { continue };
            for (host, port) in hosts.iter().flat_map(|h| ports.iter().map(move |p| (h, p.number))) {
                if let Ok(endpoints) = self.host_endpoints(host, port) {
                    found.push((format!("outbound|{port}||{host}"), endpoints));
                }
            }
        }
        for (name, (endpoints, protocol)) in found {
            let name: Arc<str> = name.into();
            let cluster = || Arc::new(Cluster { name: Arc::clone(&name), endpoints, protocol });
            self.clusters.entry(Arc::clone(&name)).or_insert_with(cluster);
        }
    }

    fn service_endpoints(&self, namespace: &str, name: &str, port: u16) -> Result<Found, String> {
        let service = self
            .find(Kind::Service, namespace, name)
            .ok_or_else(|| format!("BackendNotFound: no Service {namespace}/{name}"))?;
        let Spec::Service(Service { ports }) = &service.spec else {
            return Err("BackendNotFound".to_owned());
        };
        let service_port = ports
            .iter()
            .find(|p| p.port == port)
            .ok_or_else(|| format!("BackendNotFound: Service {namespace}/{name} has no port {port}"))?;
        let mut out = Vec::new();
        for slice in self.of_kind(Kind::EndpointSlice).filter(|r| *r.id.namespace == *namespace) {
            let Spec::EndpointSlice(EndpointSlice { service, addresses, ports }) = &slice.spec else {
                continue;
            };
            if service != name {
                continue;
            }
            for port in ports.iter().filter(|p| p.name == service_port.name) {
                out.extend(
                    addresses
                        .iter()
                        .map(|ip| Endpoint { address: SocketAddr::new(*ip, port.port), weight: 1 }),
                );
            }
        }
        Ok((out, service_port.protocol))
    }

    fn host_endpoints(&self, host: &str, port: u16) -> Result<Found, String> {
        for resource in self.of_kind(Kind::ServiceEntry) {
            let Spec::ServiceEntry(ServiceEntry { hosts, ports, endpoints }) = &resource.spec else {
                continue;
            };
            if !hosts.iter().any(|h| h == host) {
                continue;
            }
            let Some(entry) = ports.iter().find(|p| p.number == port) else { continue };
            let endpoint = |e: &crate::service_entry::EntryEndpoint| {
                let own = e.ports.iter().find(|(name, _)| *name == entry.name).map(|(_, p)| *p);
                let port = own.or(entry.target_port).unwrap_or(entry.number);
                Endpoint { address: SocketAddr::new(e.address, port), weight: e.weight }
            };
            return Ok((endpoints.iter().map(endpoint).collect(), entry.protocol));
        }
        // A Hostname may also be the full name of a Service.
        if let Some(rest) = host.strip_suffix(CLUSTER_DOMAIN).and_then(|h| h.strip_suffix('.'))
            && let Some((name, namespace)) = rest.split_once('.')
            && self.find(Kind::Service, namespace, name).is_some()
        {
            return self.service_endpoints(namespace, name, port);
        }
        Err(format!("BackendNotFound: no ServiceEntry has the host {host} with port {port}"))
    }
}
