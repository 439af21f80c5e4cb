//! Clusters: which endpoints a backend has, and what is spoken with them.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use super::place::Place;
use super::{CLUSTER_DOMAIN, Compiler, Resources};
use crate::endpoint_slice::EndpointSlice;
use crate::http_route::{BackendKind, BackendRef};
use crate::resource::{Kind, Resource, Spec};
use crate::service::Service;
use crate::service_entry::{EntryAddress, EntryEndpoint, ServiceEntry};
use crate::snapshot::{Cluster, Endpoint, EndpointName, UpstreamProtocol};

/// What a name and a port lead to.
pub(super) struct Found {
    pub(super) endpoints: Vec<(Endpoint, Place)>,
    pub(super) names: Vec<(EndpointName, Place)>,
    pub(super) is_logical: bool,
    pub(super) protocol: UpstreamProtocol,
    /// Namespace of what was found.
    pub(super) namespace: Arc<str>,
    /// Whom certificates of endpoints must be for; empty: for the host.
    pub(super) tls_names: Vec<String>,
}

/// Resources by what they are looked up by, so that a thousand clusters do not look at a thousand resources each.
#[derive(Default)]
pub(super) struct Index<'a> {
    /// By namespace and service.
    slices: HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
    entries: HashMap<&'a str, Vec<(&'a Resource, &'a ServiceEntry)>>,
    /// By the full name of the host, or `*.` and a suffix; the older ones first.
    pub(super) rules: HashMap<String, Vec<&'a Arc<Resource>>>,
}

impl<'a> Index<'a> {
    pub(super) fn new(resources: &'a Resources) -> Self {
        let mut index = Self::default();
        for resource in resources.values() {
            match &resource.spec {
                Spec::EndpointSlice(slice) => {
                    let key = (&*resource.id.namespace, slice.service.as_str());
                    index.slices.entry(key).or_default().push(slice);
                }
                Spec::ServiceEntry(entry) => {
                    for host in &entry.hosts {
                        index.entries.entry(host).or_default().push((resource, entry));
                    }
                }
                Spec::DestinationRule(rule) => {
                    let host = full_host(&rule.host, &resource.id.namespace);
                    index.rules.entry(host).or_default().push(resource);
                }
                _ => {}
            }
        }
        for rules in index.rules.values_mut() {
            rules.sort_by(|a, b| {
                // Without an age the name decides.
                a.meta.creation_timestamp.cmp(&b.meta.creation_timestamp).then_with(|| a.id.cmp(&b.id))
            });
        }
        index
    }
}

/// A host as a rule names it: a name without dots is a service of the rule's own namespace.
fn full_host(host: &str, namespace: &str) -> String {
    if host.contains('.') || host == "*" {
        host.to_ascii_lowercase()
    } else {
        format!("{host}.{namespace}.{CLUSTER_DOMAIN}")
    }
}

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
        let found = match backend.kind {
            BackendKind::Service => self.service_endpoints(namespace, &backend.name, port)?,
            _ => self.host_endpoints(&host, port)?,
        };
        Ok(self.add_cluster(name, &host, port, found))
    }

    /// Services and hosts to which no route leads: plug-ins may call them.
    pub(super) fn remaining_clusters(&mut self) {
        let mut found = BTreeMap::new();
        for service in self.of_kind(Kind::Service) {
            let Spec::Service(Service { ports, .. }) = &service.spec else { continue };
            let (namespace, name) = (&service.id.namespace, &service.id.name);
            for port in ports {
                let host = format!("{name}.{namespace}.{CLUSTER_DOMAIN}");
                let cluster: Arc<str> = format!("outbound|{}||{host}", port.port).into();
                if !self.clusters.contains_key(&cluster)
                    && let Ok(endpoints) = self.service_endpoints(namespace, name, port.port)
                {
                    found.insert(cluster, (host, port.port, endpoints));
                }
            }
        }
        for entry in self.of_kind(Kind::ServiceEntry) {
            let Spec::ServiceEntry(ServiceEntry { hosts, ports, .. }) = &entry.spec else { continue };
            for (host, port) in hosts.iter().flat_map(|h| ports.iter().map(move |p| (h, p.number))) {
                let cluster: Arc<str> = format!("outbound|{port}||{host}").into();
                if !self.clusters.contains_key(&cluster)
                    && let Ok(endpoints) = self.host_endpoints(host, port)
                {
                    found.entry(cluster).or_insert((host.clone(), port, endpoints));
                }
            }
        }
        for (name, (host, port, found)) in found {
            self.add_cluster(name, &host, port, found);
        }
    }

    fn add_cluster(&mut self, name: Arc<str>, host: &str, port: u16, found: Found) -> Arc<Cluster> {
        let cluster = Arc::new(self.with_policy(Arc::clone(&name), host, port, found));
        self.clusters.insert(name, Arc::clone(&cluster));
        cluster
    }

    fn service_endpoints(&self, namespace: &str, name: &str, port: u16) -> Result<Found, String> {
        let service = self
            .find(Kind::Service, namespace, name)
            .ok_or_else(|| format!("BackendNotFound: no Service {namespace}/{name}"))?;
        let Spec::Service(Service { ports, external_name }) = &service.spec else {
            return Err("BackendNotFound".to_owned());
        };
        let service_port = ports
            .iter()
            .find(|p| p.port == port)
            .ok_or_else(|| format!("BackendNotFound: Service {namespace}/{name} has no port {port}"))?;
        let mut found = Found {
            endpoints: Vec::new(),
            names: Vec::new(),
            is_logical: false,
            protocol: service_port.protocol,
            namespace: Arc::clone(&service.id.namespace),
            tls_names: Vec::new(),
        };
        if let Some(external) = external_name {
            let name = EndpointName { name: external.as_str().into(), port, weight: 1, priority: 0 };
            found.names.push((name, Place::default()));
            return Ok(found);
        }
        for slice in self.index.slices.get(&(namespace, name)).into_iter().flatten() {
            for port in slice.ports.iter().filter(|p| p.name == service_port.name) {
                let endpoint =
                    |ip| Endpoint { address: SocketAddr::new(ip, port.port), weight: 1, priority: 0 };
                let addresses = slice.addresses.iter();
                found.endpoints.extend(addresses.map(|a| (endpoint(a.ip), Place::of_zone(&a.zone))));
            }
        }
        Ok(found)
    }

    fn host_endpoints(&self, host: &str, port: u16) -> Result<Found, String> {
        for (resource, entry) in self.index.entries.get(host).into_iter().flatten() {
            if let Some(found) = entry_endpoints(resource, entry, port) {
                return Ok(found);
            }
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

fn entry_endpoints(resource: &Resource, entry: &ServiceEntry, port: u16) -> Option<Found> {
    let entry_port = entry.ports.iter().find(|p| p.number == port)?;
    let mut found = Found {
        endpoints: Vec::new(),
        names: Vec::new(),
        is_logical: entry.is_logical,
        protocol: entry_port.protocol,
        namespace: Arc::clone(&resource.id.namespace),
        tls_names: entry.names.clone(),
    };
    for EntryEndpoint { address, ports, weight, locality } in &entry.endpoints {
        let own = ports.iter().find(|(name, _)| *name == entry_port.name).map(|(_, p)| *p);
        let port = own.or(entry_port.target_port).unwrap_or(entry_port.number);
        let place = Place::parse(locality);
        match address {
            EntryAddress::Ip(ip) => {
                let address = SocketAddr::new(*ip, port);
                found.endpoints.push((Endpoint { address, weight: *weight, priority: 0 }, place));
            }
            EntryAddress::Name(name) => {
                let name = EndpointName { name: name.as_str().into(), port, weight: *weight, priority: 0 };
                found.names.push((name, place));
            }
        }
    }
    Some(found)
}
