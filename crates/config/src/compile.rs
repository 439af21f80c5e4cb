//! From resources to what the data path runs: a pure function.

mod cluster;
mod place;
mod policy;
mod tcp;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use self::cluster::Index;
use self::place::Place;
use self::tls::TlsNames;
use crate::diagnostic::{Diagnostic, Severity};
use crate::gateway::{AllowedNamespaces, Gateway, GatewayListener, ListenerProtocol, ProtocolClass};
use crate::http_route::{BackendRef, HttpRoute, PathMatch, Rule};
use crate::meta::{Position, ResourceId};
use crate::resource::{Kind, Resource, Spec};
use crate::route_table::{Backend, Route, RouteMatch, RouteTableBuilder};
use crate::secret::Secret;
use crate::snapshot::{Cluster, Credential, Listener, PluginSpec, Snapshot, TcpTarget, TlsListener};
use crate::wasm_plugin::{PluginType, WasmPlugin};

/// Which gateway this is: decides which plug-ins apply (spec: wasmplugin-and-routing §1.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayIdentity {
    /// Namespace of the gateway.
    pub namespace: Arc<str>,
    /// Namespace whose plug-ins apply everywhere.
    pub root_namespace: Arc<str>,
    /// Labels that selectors see.
    pub labels: BTreeMap<String, String>,
    /// Where it runs, `region/zone/subzone`; empty when it is not known: endpoints that are nearer are preferred.
    pub locality: String,
}

impl GatewayIdentity {
    fn place(&self) -> Option<Place> {
        Some(Place::parse(&self.locality)).filter(Place::is_known)
    }
}

const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
const NO_TLS_PARENT: &str = "NoMatchingParent: names no Gateway with a TLS listener of this sectionName and port that allows routes of this namespace";
const CLUSTER_DOMAIN: &str = "svc.cluster.local";

type Resources = BTreeMap<ResourceId, Arc<Resource>>;

/// Compiles all resources. Findings never keep the rest from being used.
pub fn compile(resources: &Resources, identity: &GatewayIdentity) -> (Snapshot, Vec<Diagnostic>) {
    let mut compiler = Compiler {
        resources,
        identity,
        diagnostics: Vec::new(),
        left_out: BTreeSet::new(),
        clusters: BTreeMap::new(),
        index: Index::new(resources),
    };
    let plugins = compiler.plugins();
    let listeners = compiler.listeners(&plugins);
    compiler.remaining_clusters();
    compiler.report_unused_rules();
    let plugins = plugins.into_iter().map(|(spec, _)| spec).collect();
    (Snapshot { listeners, clusters: compiler.clusters, plugins }, compiler.diagnostics)
}

struct Compiler<'a> {
    resources: &'a Resources,
    identity: &'a GatewayIdentity,
    diagnostics: Vec<Diagnostic>,
    /// Listeners that are not served, by their Gateway and name.
    left_out: BTreeSet<(ResourceId, String)>,
    clusters: BTreeMap<Arc<str>, Arc<Cluster>>,
    index: Index<'a>,
}

impl<'a> Compiler<'a> {
    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &'a Arc<Resource>> + use<'a> {
        self.resources.values().filter(move |r| r.id.kind == kind)
    }

    fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<&'a Arc<Resource>> {
        let id = ResourceId { kind, namespace: namespace.into(), name: name.into() };
        self.resources.get(&id)
    }

    fn report(
        &mut self,
        resource: &Resource,
        severity: Severity,
        position: Position,
        field: &str,
        message: String,
    ) {
        self.diagnostics.push(Diagnostic {
            severity,
            file: Arc::clone(&resource.file),
            position,
            resource: Some(resource.id.clone()),
            field: field.to_owned(),
            message,
        });
    }

    // ---- plug-ins ----

    /// The plug-ins of this gateway in the order of the chain, each with its resource.
    fn plugins(&mut self) -> Vec<(Arc<PluginSpec>, &'a WasmPlugin)> {
        let mut selected: Vec<(&Arc<Resource>, &WasmPlugin)> = Vec::new();
        for resource in self.of_kind(Kind::WasmPlugin) {
            let Spec::WasmPlugin(plugin) = &resource.spec else { continue };
            match self.applies(resource, plugin) {
                Ok(()) => selected.push((resource, plugin)),
                Err(reason) => {
                    let text = format!("does not apply to this gateway: {reason}");
                    self.report(resource, Severity::Warning, resource.position, "", text);
                }
            }
        }
        // spec: wasmplugin-and-routing §1.10: age, name, namespace; own namespace before root; then priority.
        selected.sort_by(|(a, ap), (b, bp)| {
            let own = |r: &Resource| r.id.namespace != self.identity.namespace;
            let age = |r: &Resource| {
                if r.meta.creation_timestamp.is_empty() {
                    "~".to_owned()
                } else {
                    r.meta.creation_timestamp.clone()
                }
            };
            ap.phase
                .cmp(&bp.phase)
                .then(bp.priority.unwrap_or(i32::MIN).cmp(&ap.priority.unwrap_or(i32::MIN)))
                .then(own(a).cmp(&own(b)))
                .then(age(a).cmp(&age(b)))
                .then(a.id.name.cmp(&b.id.name))
                .then(a.id.namespace.cmp(&b.id.namespace))
        });
        selected
            .into_iter()
            .map(|(resource, plugin)| (Arc::new(self.plugin_spec(resource, plugin)), plugin))
            .collect()
    }

    fn applies(&self, resource: &Resource, plugin: &WasmPlugin) -> Result<(), String> {
        let identity = self.identity;
        let namespace = &resource.id.namespace;
        if *namespace != identity.namespace && *namespace != identity.root_namespace {
            return Err(format!(
                "it is in namespace {namespace}, the gateway is in {} (and {} applies everywhere)",
                identity.namespace, identity.root_namespace
            ));
        }
        let gateway_name = identity.labels.get(GATEWAY_NAME_LABEL);
        if !plugin.targets.is_empty() {
            let matches = plugin.targets.iter().any(|t| {
                let is_named = Some(&t.name) == gateway_name && *namespace == identity.namespace;
                t.kind == "Gateway" && (is_named || self.find(Kind::Gateway, namespace, &t.name).is_some())
            });
            return if matches {
                Ok(())
            } else {
                Err(format!(
                    "none of its targetRefs is a Gateway of namespace {namespace} here, or this gateway's own name (label {GATEWAY_NAME_LABEL} in --labels)"
                ))
            };
        }
        for (key, value) in plugin.selector.iter().flatten() {
            match identity.labels.get(key) {
                Some(have) if have == value => {}
                Some(have) => return Err(format!("it selects {key}={value}, the gateway has {key}={have}")),
                None => return Err(format!("it selects {key}={value}, the gateway has no label {key}")),
            }
        }
        Ok(())
    }

    fn plugin_spec(&mut self, resource: &Arc<Resource>, plugin: &WasmPlugin) -> PluginSpec {
        let credential = self.credential(resource, plugin);
        if let Credential::Unusable(reason) = &credential {
            self.report(
                resource,
                Severity::Error,
                plugin.pull_secret_at,
                "spec.imagePullSecret",
                reason.clone(),
            );
        }
        PluginSpec {
            name: format!("{}.{}", resource.id.namespace, resource.id.name).into(),
            resource: resource.id.clone(),
            url: plugin.url.clone(),
            url_at: plugin.url_at,
            sha256: plugin.sha256.clone(),
            pull_policy: plugin.pull_policy,
            credential,
            configuration: plugin.configuration.as_str().into(),
            root_id: plugin.plugin_name.as_str().into(),
            phase: plugin.phase,
            priority: plugin.priority,
            fail_strategy: plugin.fail_strategy,
            env: plugin.env.clone(),
            options: plugin.options.clone(),
            revision: resource.revision,
            file: Arc::clone(&resource.file),
            position: resource.position,
        }
    }

    /// A secret is only looked for in the plug-in's own namespace (spec: wasmplugin-and-routing §1.6).
    fn credential(&self, resource: &Resource, plugin: &WasmPlugin) -> Credential {
        let Some(name) = &plugin.pull_secret else { return Credential::None };
        let namespace = &resource.id.namespace;
        let Some(found) = self.find(Kind::Secret, namespace, name) else {
            return Credential::Unusable(format!("secret {namespace}/{name} not found"));
        };
        let Spec::Secret(secret) = &found.spec else { return Credential::None };
        if secret.secret_type != Secret::DOCKER_CONFIG_TYPE {
            return Credential::Unusable(format!(
                "type of secret {namespace}/{name} is not {}, but {}",
                Secret::DOCKER_CONFIG_TYPE,
                secret.secret_type
            ));
        }
        match secret.get(Secret::DOCKER_CONFIG_KEY) {
            Some(bytes) => Credential::DockerConfig(bytes.into()),
            None => Credential::Unusable(format!(
                "cannot find docker config at secret {namespace}/{name}: it has no key {}",
                Secret::DOCKER_CONFIG_KEY
            )),
        }
    }

    // ---- listeners and routes ----

    fn listeners(&mut self, plugins: &[(Arc<PluginSpec>, &'a WasmPlugin)]) -> Vec<Listener> {
        let mut by_address: BTreeMap<SocketAddr, RouteTableBuilder> = BTreeMap::new();
        let mut tcp: BTreeMap<SocketAddr, TcpTarget> = BTreeMap::new();
        let mut classes: BTreeMap<SocketAddr, ProtocolClass> = BTreeMap::new();
        let mut names = TlsNames::new();
        let mut gateways: BTreeMap<SocketAddr, Vec<&ResourceId>> = BTreeMap::new();
        for resource in self.of_kind(Kind::Gateway) {
            let Spec::Gateway(gateway) = &resource.spec else { continue };
            for listener in &gateway.listeners {
                for address in addresses(gateway, listener.port) {
                    let class = listener.protocol.class();
                    if classes.get(&address).is_some_and(|other| *other != class) {
                        let text = format!("another Gateway listens on {address} with another protocol");
                        self.report(resource, Severity::Error, listener.at, "spec.listeners", text);
                        continue;
                    }
                    classes.insert(address, class);
                    match listener.protocol {
                        ListenerProtocol::Tcp => drop(tcp.entry(address).or_default()),
                        ListenerProtocol::Https => self.add_https(resource, listener, address, &mut names),
                        ListenerProtocol::Http | ListenerProtocol::Tls => {}
                    }
                    by_address.entry(address).or_insert_with(|| RouteTableBuilder::new(address.port()));
                    gateways.entry(address).or_default().push(&resource.id);
                }
            }
        }
        for resource in self.of_kind(Kind::HttpRoute) {
            let Spec::HttpRoute(route) = &resource.spec else { continue };
            self.attach(resource, route, &mut by_address);
        }
        for resource in self.of_kind(Kind::TcpRoute) {
            let Spec::TcpRoute(route) = &resource.spec else { continue };
            let is_attached = self.attach_tls(resource, route, &mut names);
            self.attach_tcp(resource, route, &mut tcp, is_attached);
        }
        for resource in self.of_kind(Kind::TlsRoute) {
            let Spec::TlsRoute(route) = &resource.spec else { continue };
            if !self.attach_tls(resource, route, &mut names) {
                self.report(
                    resource,
                    Severity::Warning,
                    resource.position,
                    "spec.parentRefs",
                    NO_TLS_PARENT.to_owned(),
                );
            }
        }
        self.report_unrouted(&tcp, &gateways);
        // Nothing is served there in plain text instead.
        by_address.retain(|address, _| {
            classes.get(address) != Some(&ProtocolClass::Tls)
                || names.get(address).is_some_and(|entries| entries.iter().any(|e| !e.is_refused))
        });
        let mut tcp: BTreeMap<SocketAddr, Arc<TcpTarget>> =
            tcp.into_iter().map(|(address, target)| (address, Arc::new(target))).collect();
        let gateway_name = self.identity.labels.get(GATEWAY_NAME_LABEL);
        let mut listener = |(address, routes): (SocketAddr, RouteTableBuilder)| {
            let port = address.port();
            let applies = |(spec, plugin): &(Arc<PluginSpec>, &WasmPlugin)| {
                let matches = plugin.selectors.is_empty()
                    || plugin
                        .selectors
                        .iter()
                        .any(|s| s.covers_gateway && (s.ports.is_empty() || s.ports.contains(&port)));
                let is_target = plugin.targets.is_empty()
                    || plugin.targets.iter().any(|t| {
                        let here = gateways.get(&address).into_iter().flatten();
                        let mut here = here.filter(|g| g.namespace == spec.resource.namespace);
                        Some(&t.name) == gateway_name || here.any(|g| *g.name == *t.name)
                    });
                matches && is_target
            };
            let target = tcp.remove(&address);
            let is_tcp = target.is_some();
            let tls = names.remove(&address).map(|entries| Arc::new(TlsListener { entries }));
            let (mut of_streams, mut of_connections) = (Vec::new(), Vec::new());
            for (index, plugin) in plugins.iter().enumerate().filter(|(_, plugin)| applies(plugin)) {
                match (plugin.1.plugin_type == PluginType::Network, is_tcp) {
                    (true, _) => of_connections.push(index),
                    (false, false) => of_streams.push(index),
                    // An HTTP plug-in has nothing to do on a TCP listener, as in Istio.
                    (false, true) => {}
                }
            }
            Listener {
                name: format!("{}_{port}", address.ip()).into(),
                address,
                routes: Arc::new(routes.build()),
                tcp: target,
                tls,
                plugins: of_streams,
                network_plugins: of_connections,
            }
        };
        let listeners: Vec<Listener> = by_address.into_iter().map(&mut listener).collect();
        for (index, (spec, plugin)) in plugins.iter().enumerate() {
            let runs_on = |l: &Listener| l.plugins.contains(&index) || l.network_plugins.contains(&index);
            let unused = !listeners.is_empty() && !listeners.iter().any(runs_on);
            // One that covers no gateway at all has been told so.
            let told = !plugin.selectors.is_empty() && !plugin.selectors.iter().any(|s| s.covers_gateway);
            if unused
                && !told
                && let Some(resource) = self.resources.get(&spec.resource)
            {
                let ports: Vec<String> = listeners.iter().map(|l| l.address.port().to_string()).collect();
                let text = format!(
                    "applies to no listener, so it never runs: the ports here are {}",
                    ports.join(", ")
                );
                self.report(resource, Severity::Warning, resource.position, "spec.match", text);
            }
        }
        listeners
    }

    /// Puts a route on every listener that accepts it (spec: wasmplugin-and-routing §3.5).
    fn attach(
        &mut self,
        resource: &Arc<Resource>,
        route: &HttpRoute,
        tables: &mut BTreeMap<SocketAddr, RouteTableBuilder>,
    ) {
        let rules: Vec<Vec<Backend>> = route.rules.iter().map(|rule| self.backends(resource, rule)).collect();
        if route.parents.is_empty() {
            self.report(
                resource,
                Severity::Warning,
                resource.position,
                "spec.parentRefs",
                "names no Gateway, so the route serves nothing".to_owned(),
            );
        }
        // A route that several parentRefs attach to one listener counts once.
        let mut attached = BTreeSet::new();
        for parent in &route.parents {
            let namespace = parent.namespace.as_deref().unwrap_or(&resource.id.namespace);
            let Some(found) = self.find(Kind::Gateway, namespace, &parent.name) else {
                let text = format!("Gateway {namespace}/{} not found", parent.name);
                self.report(resource, Severity::Warning, parent.at, &parent.path, text);
                continue;
            };
            let Spec::Gateway(gateway) = &found.spec else { continue };
            let candidates: Vec<&GatewayListener> = gateway
                .listeners
                .iter()
                .filter(|l| {
                    l.protocol.is_http()
                        && !self.left_out.contains(&(found.id.clone(), l.name.clone()))
                        && parent.section.as_ref().is_none_or(|s| *s == l.name)
                        && parent.port.is_none_or(|p| p == l.port)
                })
                .collect();
            let allowed: Vec<&&GatewayListener> = candidates
                .iter()
                .filter(|l| {
                    l.namespaces == AllowedNamespaces::All || found.id.namespace == resource.id.namespace
                })
                .collect();
            let mut served = false;
            for listener in &allowed {
                let hosts = effective_hosts(listener.hostname.as_deref(), &route.hostnames);
                served |= !hosts.is_empty();
                for host in hosts {
                    for address in addresses(gateway, listener.port) {
                        if attached.insert((address, host.clone()))
                            && let Some(table) = tables.get_mut(&address)
                        {
                            add_rules(table, resource, route, &rules, host.as_deref());
                        }
                    }
                }
            }
            let problem = if candidates.is_empty() {
                "NoMatchingParent: the Gateway has no listener with this sectionName and port"
            } else if allowed.is_empty() {
                "NotAllowedByListeners: set allowedRoutes.namespaces.from: All on the listener, or put the route into the Gateway's namespace"
            } else if !served {
                "NoMatchingListenerHostname: no hostname of the route fits one of the listener"
            } else {
                continue;
            };
            self.report(resource, Severity::Warning, parent.at, &parent.path, problem.to_owned());
        }
    }

    fn backends(&mut self, resource: &Arc<Resource>, rule: &Rule) -> Vec<Backend> {
        let what = ("requests are answered with 500", "requests is answered with 500");
        self.backend_refs(resource, &rule.backends, (rule.at, &rule.path), what)
    }

    /// `what`: what becomes of those that find no backend, all of them and a part.
    fn backend_refs(
        &mut self,
        resource: &Arc<Resource>,
        backends: &[BackendRef],
        (at, path): (Position, &str),
        (all, part): (&str, &str),
    ) -> Vec<Backend> {
        if backends.is_empty() {
            self.report(resource, Severity::Warning, at, path, format!("has no backend: its {all}"));
        }
        let mut out = Vec::new();
        for backend in backends {
            let cluster = match self.cluster(resource, backend) {
                Ok(cluster) => Some(cluster),
                Err(reason) => {
                    let text = format!("{reason}; its share of the {part}");
                    self.report(resource, Severity::Warning, backend.at, &backend.path, text);
                    None
                }
            };
            out.push(Backend { weight: backend.weight, cluster });
        }
        out
    }
}

fn addresses(gateway: &Gateway, port: u16) -> Vec<SocketAddr> {
    if gateway.addresses.is_empty() {
        return vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)];
    }
    gateway.addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
}

fn add_rules(
    table: &mut RouteTableBuilder,
    resource: &Resource,
    route: &HttpRoute,
    backends: &[Vec<Backend>],
    host: Option<&str>,
) {
    let id = format!("{}/{}", resource.id.namespace, resource.id.name);
    for (r, (rule, backends)) in route.rules.iter().zip(backends).enumerate() {
        let name: Arc<str> = match &rule.name {
            Some(name) => name.as_str().into(),
            None => format!("{}.{}.{r}", resource.id.namespace, resource.id.name).into(),
        };
        for (m, one) in rule.matches.iter().enumerate() {
            let (is_exact, path) = match &one.path {
                PathMatch::Exact(path) => (true, path),
                PathMatch::Prefix(path) => (false, path),
            };
            let matches = RouteMatch {
                method: one.method.clone(),
                headers: one.headers.clone(),
                query: one.query.clone(),
            };
            let virtual_host = Arc::clone(&name);
            let compiled = Route {
                name: Arc::clone(&name),
                virtual_host,
                matches,
                backends: backends.clone(),
                timeouts: rule.timeouts,
                retry: rule.retry.clone(),
            };
            table.add(host, is_exact, path, (&resource.meta.creation_timestamp, &id, r, m), compiled);
        }
    }
}

/// The hostnames under which a route serves on a listener: for each pair that intersects the more specific one.
fn effective_hosts(listener: Option<&str>, route: &[String]) -> Vec<Option<String>> {
    if route.is_empty() {
        return vec![listener.map(str::to_owned)];
    }
    let Some(listener) = listener else { return route.iter().map(|h| Some(h.clone())).collect() };
    let covers = |wide: &str, narrow: &str| {
        wide.strip_prefix('*').is_some_and(|suffix| {
            narrow.trim_start_matches('*').ends_with(suffix) && narrow.len() > suffix.len()
        })
    };
    let pick = |host: &String| {
        if host == listener || covers(listener, host) {
            Some(Some(host.clone()))
        } else if covers(host, listener) {
            Some(Some(listener.to_owned()))
        } else {
            None
        }
    };
    route.iter().filter_map(pick).collect()
}

#[cfg(test)]
mod tests {
    use super::effective_hosts;

    #[test]
    fn hostname_intersections_of_the_specification() {
        let hosts = |l: Option<&str>, r: &[&str]| {
            let route: Vec<String> = r.iter().map(|s| (*s).to_owned()).collect();
            effective_hosts(l, &route)
                .into_iter()
                .map(|h| h.unwrap_or_else(|| "any".to_owned()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            hosts(Some("very.specific.com"), &["very.specific.com", "non.matching.com"]),
            ["very.specific.com"]
        );
        assert_eq!(
            hosts(Some("*.wildcard.io"), &["foo.bar.wildcard.io", "wildcard.io"]),
            ["foo.bar.wildcard.io"]
        );
        assert_eq!(hosts(Some("very.specific.com"), &["*.specific.com"]), ["very.specific.com"]);
        assert_eq!(hosts(Some("*.another.io"), &["*.another.io"]), ["*.another.io"]);
        assert_eq!(hosts(None, &[]), ["any"]);
        assert_eq!(hosts(Some("a.b"), &[]), ["a.b"]);
    }
}
