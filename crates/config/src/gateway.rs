//! `Gateway` of the Gateway API: listeners.

use std::net::IpAddr;

use crate::decode::{Fields, Sink};
use crate::http_route::closed;
use crate::meta::{Position, is_dns_subdomain};

/// A gateway and its listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gateway {
    /// Addresses to bind; empty: all.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) listeners: Vec<GatewayListener>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GatewayListener {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) protocol: ListenerProtocol,
    /// Lower case; may begin with `*.`; `None` for any.
    pub(crate) hostname: Option<String>,
    pub(crate) namespaces: AllowedNamespaces,
    /// Of protocols HTTPS and TLS.
    pub(crate) tls: Option<ListenerTls>,
    pub(crate) at: Position,
}

/// How a listener ends TLS, or that it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerTls {
    pub(crate) is_passthrough: bool,
    pub(crate) certificates: Vec<ObjectRef>,
    /// Clients must present a certificate; the authorities are in the first certificate's secret (Istio's option).
    pub(crate) is_mutual: bool,
    /// Where authorities for clients' certificates are.
    pub(crate) authorities: Vec<ObjectRef>,
    /// Older versions than 1.3 are refused.
    pub(crate) is_1_3_only: bool,
    pub(crate) at: Position,
    pub(crate) path: String,
}

/// A reference to a Secret or a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectRef {
    pub(crate) kind: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) at: Position,
    pub(crate) path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerProtocol {
    Http,
    Https,
    Tcp,
    Tls,
}

impl ListenerProtocol {
    /// Whether HTTPRoutes attach to it.
    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    /// Protocols of one class can share a port.
    pub(crate) fn class(self) -> ProtocolClass {
        match self {
            Self::Http => ProtocolClass::Http,
            Self::Https | Self::Tls => ProtocolClass::Tls,
            Self::Tcp => ProtocolClass::Tcp,
        }
    }
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProtocolClass {
    Http,
    Tls,
    Tcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllowedNamespaces {
    Same,
    All,
}

const LISTENERS_MAX: usize = 64;
const ADDRESSES_MAX: usize = 16;
const REFS_MAX: usize = 64;
/// Istio's option for clients' certificates.
const TERMINATE_MODE: &str = "gateway.istio.io/tls-terminate-mode";
/// Ours, for what the API leaves to implementations.
const MIN_VERSION: &str = "wasmgate.dev/tls-min-version";

impl Gateway {
    pub(crate) fn decode(spec: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<Self> {
        spec.known(&["gatewayClassName", "infrastructure"]);
        let mut addresses = Vec::new();
        for mut fields in spec.objects("addresses", ADDRESSES_MAX, sink) {
            fields.known(&["type"]);
            let Some(value) = fields.text("value", sink) else { continue };
            match value.value.parse() {
                Ok(ip) => addresses.push(ip),
                Err(_) => sink.error(value.at, &value.path, &format!("{:?} is no IP address", value.value)),
            }
            fields.finish(sink);
        }
        let mut listeners: Vec<GatewayListener> = Vec::new();
        for mut fields in spec.objects("listeners", LISTENERS_MAX, sink) {
            let Some(listener) = Self::listener(&mut fields, sink) else { continue };
            fields.finish(sink);
            if listeners.iter().any(|l| l.name == listener.name) {
                sink.error(listener.at, "spec.listeners", "Listener name must be unique within the Gateway");
            } else if listeners.iter().any(|l| {
                l.port == listener.port
                    && (l.hostname == listener.hostname || l.protocol.class() != listener.protocol.class())
            }) {
                let text = "Combination of port, protocol and hostname must be unique for each listener";
                sink.error(listener.at, "spec.listeners", text);
            }
            listeners.push(listener);
        }
        if listeners.is_empty() && sink.is_clean() {
            sink.error(spec.position(), "spec.listeners", "must have at least one listener");
        }
        Some(Self { addresses, listeners })
    }

    fn listener(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<GatewayListener> {
        let name = fields.text("name", sink);
        let port = fields.port("port", sink);
        let protocol = fields.text("protocol", sink);
        let hostname = fields.text("hostname", sink);
        let namespaces = Self::allowed(fields, sink);
        let known = protocol.as_ref().and_then(|protocol| match protocol.value.as_str() {
            "HTTP" => Some(ListenerProtocol::Http),
            "HTTPS" => Some(ListenerProtocol::Https),
            "TCP" => Some(ListenerProtocol::Tcp),
            "TLS" => Some(ListenerProtocol::Tls),
            _ => None,
        });
        if let Some(protocol) = protocol.as_ref().filter(|_| known.is_none()) {
            let text =
                format!("protocol {:?} is not supported yet, only HTTP, HTTPS, TLS and TCP", protocol.value);
            sink.error(protocol.at, &protocol.path, &text);
        }
        if let Some(hostname) = hostname.as_ref().filter(|_| known == Some(ListenerProtocol::Tcp)) {
            sink.error(hostname.at, &hostname.path, "a connection names no host: TCP listeners have none");
        }
        for (key, missing) in
            [("name", name.is_none()), ("port", port.is_none()), ("protocol", protocol.is_none())]
        {
            if missing && !fields.has(key) {
                let path = fields.path_of(key);
                sink.error(fields.position(), &path, "Required value");
            }
        }
        if let Some(hostname) = hostname.as_ref().filter(|h| !is_hostname(&h.value)) {
            sink.error(
                hostname.at,
                &hostname.path,
                &format!("{:?} is no hostname: a lower-case DNS name, or *. and one", hostname.value),
            );
        }
        let tls = Self::tls(fields, known, sink);
        Some(GatewayListener {
            name: name?.value,
            port: port?.value,
            protocol: known?,
            hostname: hostname.map(|h| h.value),
            namespaces,
            tls,
            at: fields.position(),
        })
    }

    fn tls(
        fields: &mut Fields<'_>,
        protocol: Option<ListenerProtocol>,
        sink: &mut Sink<'_>,
    ) -> Option<ListenerTls> {
        let needs_it = matches!(protocol, Some(ListenerProtocol::Https | ListenerProtocol::Tls));
        let (path, at) = (fields.path_of("tls"), fields.position());
        let Some(mut tls) = fields.object("tls", sink) else {
            if needs_it {
                sink.error(
                    at,
                    &path,
                    "Required value: protocols HTTPS and TLS need certificateRefs, or mode Passthrough",
                );
            }
            return None;
        };
        let at = tls.position();
        if protocol.is_some() && !needs_it {
            sink.error(at, &path, "must not be set for protocols HTTP and TCP");
        }
        let modes = [("Terminate", false), ("Passthrough", true)];
        let mode = tls.word("mode", &modes, sink);
        let is_passthrough = mode.as_ref().is_some_and(|m| m.value);
        if let Some(mode) = mode.filter(|m| m.value && protocol == Some(ListenerProtocol::Https)) {
            let text = "HTTPS cannot be passed through, since nothing of it could be read: use protocol TLS";
            sink.error(mode.at, &mode.path, text);
        }
        let certificates: Vec<ObjectRef> = tls
            .objects("certificateRefs", REFS_MAX, sink)
            .into_iter()
            .filter_map(|fields| closed(fields, sink, |fields, sink| object_ref(fields, "Secret", sink)))
            .collect();
        if needs_it && !is_passthrough && certificates.is_empty() && sink.is_clean() {
            let path = tls.path_of("certificateRefs");
            sink.error(at, &path, "must have at least one item when TLS is terminated");
        }
        let authorities = match tls.object("frontendValidation", sink) {
            Some(validation) => closed(validation, sink, |fields, sink| {
                let refs = fields.objects("caCertificateRefs", REFS_MAX, sink).into_iter();
                let read =
                    |fields: &mut Fields<'_>, sink: &mut Sink<'_>| object_ref(fields, "ConfigMap", sink);
                let found: Vec<ObjectRef> = refs.filter_map(|f| closed(f, sink, read)).collect();
                if found.is_empty() && sink.is_clean() {
                    // Whoever writes this wants clients to be checked.
                    let path = fields.path_of("caCertificateRefs");
                    sink.error(fields.position(), &path, "must have at least one item");
                }
                found
            }),
            None => Vec::new(),
        };
        let (mut is_mutual, mut is_1_3_only) = (false, false);
        for (option, value) in tls.text_map("options", sink) {
            let path = format!("{path}.options[{option}]");
            match (option.as_str(), value.as_str()) {
                (TERMINATE_MODE, "MUTUAL") => is_mutual = true,
                (TERMINATE_MODE, "SIMPLE") | (MIN_VERSION, "1.2") => {}
                (MIN_VERSION, "1.3") => is_1_3_only = true,
                (TERMINATE_MODE, _) => sink.error(at, &path, "is MUTUAL or SIMPLE here"),
                (MIN_VERSION, _) => sink.error(at, &path, "is \"1.2\" or \"1.3\""),
                _ => sink.warn(
                    at,
                    &path,
                    &format!(
                        "is not known here and has no effect; known are {TERMINATE_MODE} and {MIN_VERSION}"
                    ),
                ),
            }
        }
        tls.finish(sink);
        Some(ListenerTls { is_passthrough, certificates, is_mutual, authorities, is_1_3_only, at, path })
    }

    fn allowed(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> AllowedNamespaces {
        let Some(mut routes) = fields.object("allowedRoutes", sink) else { return AllowedNamespaces::Same };
        routes.known(&["kinds"]);
        let from = routes.object("namespaces", sink).and_then(|mut namespaces| {
            namespaces.known(&["selector"]);
            let words = [
                ("Same", Some(AllowedNamespaces::Same)),
                ("All", Some(AllowedNamespaces::All)),
                ("Selector", None),
            ];
            let from = namespaces.word("from", &words, sink)?;
            if from.value.is_none() {
                sink.error(from.at, &from.path, "Selector is not supported yet, only Same and All");
            }
            from.value
        });
        from.unwrap_or(AllowedNamespaces::Same)
    }
}

fn object_ref(fields: &mut Fields<'_>, default_kind: &str, sink: &mut Sink<'_>) -> Option<ObjectRef> {
    let group = fields.text("group", sink);
    let kind = fields.text("kind", sink);
    let namespace = fields.text("namespace", sink).map(|n| n.value);
    let Some(name) = fields.text("name", sink) else {
        if !fields.has("name") {
            sink.error(fields.position(), &fields.path_of("name"), "Required value");
        }
        return None;
    };
    let is_core = group.as_ref().is_none_or(|g| matches!(g.value.as_str(), "" | "core"));
    let kind = kind.map_or_else(|| default_kind.to_owned(), |k| k.value);
    if !is_core || !matches!(kind.as_str(), "Secret" | "ConfigMap") {
        let text = format!("InvalidCertificateRef: {kind} is neither a Secret nor a ConfigMap");
        sink.error(name.at, &name.path, &text);
    }
    Some(ObjectRef { kind, namespace, name: name.value, at: name.at, path: name.path })
}

/// A DNS name in lower case, with `*.` before it or not; no IP address.
pub(crate) fn is_hostname(name: &str) -> bool {
    let base = name.strip_prefix("*.").unwrap_or(name);
    is_dns_subdomain(base) && base.parse::<IpAddr>().is_err()
}
