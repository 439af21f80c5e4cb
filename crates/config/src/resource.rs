//! Any resource that is understood.

use std::fmt;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use crate::config_map::ConfigMap;
use crate::decode::{Fields, Sink};
use crate::destination_rule::DestinationRule;
use crate::diagnostic::Diagnostic;
use crate::endpoint_slice::EndpointSlice;
use crate::gateway::Gateway;
use crate::http_route::HttpRoute;
use crate::meta::{ObjectMeta, Position, ResourceId};
use crate::node::Node;
use crate::secret::Secret;
use crate::service::Service;
use crate::service_entry::ServiceEntry;
use crate::tcp_route::TcpRoute;
use crate::wasm_plugin::WasmPlugin;

/// The kinds that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1 ConfigMap`
    ConfigMap,
    /// `networking.istio.io/v1 DestinationRule`
    DestinationRule,
    /// `discovery.k8s.io/v1 EndpointSlice`
    EndpointSlice,
    /// `gateway.networking.k8s.io/v1 Gateway`
    Gateway,
    /// `gateway.networking.k8s.io/v1 HTTPRoute`
    HttpRoute,
    /// `v1 Secret`
    Secret,
    /// `v1 Service`
    Service,
    /// `networking.istio.io/v1 ServiceEntry`
    ServiceEntry,
    /// `gateway.networking.k8s.io/v1alpha2 TCPRoute`
    TcpRoute,
    /// `gateway.networking.k8s.io/v1alpha2 TLSRoute`
    TlsRoute,
    /// `extensions.istio.io/v1alpha1 WasmPlugin`
    WasmPlugin,
}

impl Kind {
    fn find(group: &str, kind: &str) -> Option<Self> {
        match (group, kind) {
            ("discovery.k8s.io", "EndpointSlice") => Some(Self::EndpointSlice),
            ("gateway.networking.k8s.io", "Gateway") => Some(Self::Gateway),
            ("gateway.networking.k8s.io", "HTTPRoute") => Some(Self::HttpRoute),
            ("gateway.networking.k8s.io", "TCPRoute") => Some(Self::TcpRoute),
            ("gateway.networking.k8s.io", "TLSRoute") => Some(Self::TlsRoute),
            ("", "ConfigMap") => Some(Self::ConfigMap),
            ("", "Secret") => Some(Self::Secret),
            ("", "Service") => Some(Self::Service),
            ("networking.istio.io", "DestinationRule") => Some(Self::DestinationRule),
            ("networking.istio.io", "ServiceEntry") => Some(Self::ServiceEntry),
            ("extensions.istio.io", "WasmPlugin") => Some(Self::WasmPlugin),
            _ => None,
        }
    }

    /// The kind of a group whose name begins so.
    fn begins_with(group: &str, begin: &str) -> Option<Self> {
        const ALL: [Kind; 11] = [
            Kind::ConfigMap,
            Kind::DestinationRule,
            Kind::EndpointSlice,
            Kind::Gateway,
            Kind::HttpRoute,
            Kind::Secret,
            Kind::Service,
            Kind::ServiceEntry,
            Kind::TcpRoute,
            Kind::TlsRoute,
            Kind::WasmPlugin,
        ];
        ALL.into_iter().find(|kind| {
            let name = kind.to_string();
            name.starts_with(begin) && Self::find(group, &name) == Some(*kind)
        })
    }

    fn versions(self) -> &'static [&'static str] {
        match self {
            Self::ConfigMap | Self::Secret | Self::Service | Self::EndpointSlice => &["v1"],
            Self::Gateway | Self::HttpRoute => &["v1", "v1beta1"],
            Self::DestinationRule | Self::ServiceEntry => &["v1", "v1beta1", "v1alpha3"],
            Self::TcpRoute => &["v1alpha2", "v1"],
            Self::TlsRoute => &["v1", "v1alpha3", "v1alpha2"],
            Self::WasmPlugin => &["v1alpha1"],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConfigMap => "ConfigMap",
            Self::DestinationRule => "DestinationRule",
            Self::EndpointSlice => "EndpointSlice",
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::Secret => "Secret",
            Self::Service => "Service",
            Self::ServiceEntry => "ServiceEntry",
            Self::TcpRoute => "TCPRoute",
            Self::TlsRoute => "TLSRoute",
            Self::WasmPlugin => "WasmPlugin",
        })
    }
}

/// The typed content of a resource.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is its kind")]
#[allow(private_interfaces, reason = "routing kinds are read by the compiler only")]
pub enum Spec {
    ConfigMap(ConfigMap),
    DestinationRule(Box<DestinationRule>),
    EndpointSlice(EndpointSlice),
    Gateway(Gateway),
    HttpRoute(HttpRoute),
    Secret(Secret),
    Service(Service),
    ServiceEntry(ServiceEntry),
    TcpRoute(TcpRoute),
    TlsRoute(TcpRoute),
    WasmPlugin(Box<WasmPlugin>),
}

/// A valid resource and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Its identity.
    pub id: ResourceId,
    /// Its metadata.
    pub meta: ObjectMeta,
    /// Its content.
    pub spec: Spec,
    /// The file that it came from.
    pub file: Arc<str>,
    /// Where it begins.
    pub position: Position,
    /// Changes with whatever the document says, labels and annotations included.
    pub revision: u64,
}

/// What became of one document.
pub(crate) enum Parsed {
    /// Valid.
    Valid(Box<Resource>),
    /// Understood and wrong: its last good version stays.
    Invalid(ResourceId),
    /// Not even a resource, or not one of ours.
    Skipped,
}

fn revision(node: &Node) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    node.value.to_json().to_string().hash(&mut hasher);
    hasher.finish()
}

/// Items of a `List`.
const LIST_ITEMS_MAX: usize = 100_000;

/// Turns a document into resources; a `List` holds several.
pub(crate) fn decode(node: &Node, file: &Arc<str>, out: &mut Vec<Diagnostic>) -> Vec<Parsed> {
    let mut sink = Sink::new(Arc::clone(file), None, out);
    let Some(mut fields) = Fields::new(node, String::new(), &mut sink) else { return vec![Parsed::Skipped] };
    let (Some(api_version), Some(kind)) =
        (fields.text("apiVersion", &mut sink), fields.text("kind", &mut sink))
    else {
        sink.error(node.at, "", "not a Kubernetes resource: apiVersion and kind are required");
        return vec![Parsed::Skipped];
    };
    if kind.value == "List" && api_version.value == "v1" {
        let items = fields.list("items", LIST_ITEMS_MAX, &mut sink);
        return items.into_iter().flat_map(|(item, _)| decode_one(item, file, out)).collect();
    }
    decode_one(node, file, out)
}

fn decode_one(node: &Node, file: &Arc<str>, out: &mut Vec<Diagnostic>) -> Vec<Parsed> {
    let mut sink = Sink::new(Arc::clone(file), None, out);
    let Some(mut root) = Fields::new(node, String::new(), &mut sink) else { return vec![Parsed::Skipped] };
    let (Some(api_version), Some(kind_name)) =
        (root.text("apiVersion", &mut sink), root.text("kind", &mut sink))
    else {
        sink.error(node.at, "", "not a Kubernetes resource: apiVersion and kind are required");
        return vec![Parsed::Skipped];
    };
    let (group, version) = api_version.value.split_once('/').unwrap_or(("", &api_version.value));
    let Some(kind) = Kind::find(group, &kind_name.value) else {
        if let Some(whole) = Kind::begins_with(group, &kind_name.value) {
            // Not somebody else's, but what is left of one of ours.
            let text = format!(
                "{:?} is no kind of {group}; {whole} is: the document may be cut off",
                kind_name.value
            );
            sink.error(kind_name.at, "kind", &text);
            return vec![Parsed::Skipped];
        }
        let text = format!(
            "kind {:?} of apiVersion {:?} is not supported, the resource is skipped",
            kind_name.value, api_version.value
        );
        sink.warn(kind_name.at, "", &text);
        return vec![Parsed::Skipped];
    };
    let Some(meta) = ObjectMeta::decode(&mut root, &mut sink) else { return vec![Parsed::Skipped] };
    let id = ResourceId { kind, namespace: Arc::clone(&meta.namespace), name: Arc::clone(&meta.name) };
    sink.set_resource(id.clone());
    if !kind.versions().contains(&version) {
        // Not a kind that somebody else looks after: to skip it would be to drop it.
        let text =
            format!("{version:?} of {kind} is not supported; supported: {}", kind.versions().join(", "));
        sink.error(api_version.at, "apiVersion", &text);
        return vec![Parsed::Invalid(id)];
    }
    let spec = decode_spec(kind, &mut root, &meta, &mut sink);
    root.known(&["status"]);
    let clean = sink.is_clean();
    root.finish(&mut sink);
    match spec {
        Some(spec) if clean => {
            vec![Parsed::Valid(Box::new(Resource {
                id,
                meta,
                spec,
                file: Arc::clone(file),
                position: node.at,
                revision: revision(node),
            }))]
        }
        _ => vec![Parsed::Invalid(id)],
    }
}

fn decode_spec(kind: Kind, root: &mut Fields<'_>, meta: &ObjectMeta, sink: &mut Sink<'_>) -> Option<Spec> {
    // Three kinds keep their content beside metadata.
    match kind {
        Kind::ConfigMap => return Some(Spec::ConfigMap(ConfigMap::decode(root, sink))),
        Kind::Secret => return Secret::decode(root, sink).map(Spec::Secret),
        Kind::EndpointSlice => return EndpointSlice::decode(root, meta, sink).map(Spec::EndpointSlice),
        _ => {}
    }
    let Some(mut spec) = root.object("spec", sink) else {
        if sink.is_clean() {
            sink.error(root.position(), "spec", "must be of type object: \"null\"");
        }
        return None;
    };
    let decoded = match kind {
        Kind::DestinationRule => {
            DestinationRule::decode(&mut spec, meta, sink).map(|r| Spec::DestinationRule(Box::new(r)))
        }
        Kind::Gateway => Gateway::decode(&mut spec, sink).map(Spec::Gateway),
        Kind::HttpRoute => HttpRoute::decode(&mut spec, sink).map(Spec::HttpRoute),
        Kind::Service => Service::decode(&mut spec, sink).map(Spec::Service),
        Kind::ServiceEntry => ServiceEntry::decode(&mut spec, sink).map(Spec::ServiceEntry),
        Kind::TcpRoute => TcpRoute::decode(&mut spec, sink).map(Spec::TcpRoute),
        Kind::TlsRoute => TcpRoute::decode_tls(&mut spec, sink).map(Spec::TlsRoute),
        Kind::WasmPlugin => WasmPlugin::decode(&mut spec, meta, sink).map(|p| Spec::WasmPlugin(Box::new(p))),
        Kind::ConfigMap | Kind::Secret | Kind::EndpointSlice => None,
    };
    spec.finish(sink);
    decoded
}
