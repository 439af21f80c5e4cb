//! `Gateway` of the Gateway API: listeners.

use std::net::IpAddr;

use crate::decode::{Fields, Sink};
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
    pub(crate) at: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerProtocol {
    Http,
    Tcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllowedNamespaces {
    Same,
    All,
}

const LISTENERS_MAX: usize = 64;
const ADDRESSES_MAX: usize = 16;

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
                    && (l.hostname == listener.hostname || l.protocol != listener.protocol)
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
            "TCP" => Some(ListenerProtocol::Tcp),
            _ => None,
        });
        if let Some(protocol) = protocol.as_ref().filter(|_| known.is_none()) {
            let text = format!("protocol {:?} is not supported yet, only HTTP and TCP", protocol.value);
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
        Some(GatewayListener {
            name: name?.value,
            port: port?.value,
            protocol: known?,
            hostname: hostname.map(|h| h.value),
            namespaces,
            at: fields.position(),
        })
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

/// A DNS name in lower case, with `*.` before it or not; no IP address.
pub(crate) fn is_hostname(name: &str) -> bool {
    let base = name.strip_prefix("*.").unwrap_or(name);
    is_dns_subdomain(base) && base.parse::<IpAddr>().is_err()
}
