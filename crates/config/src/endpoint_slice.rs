//! `EndpointSlice`: where a service's pods are.

use std::net::IpAddr;

use crate::decode::{Fields, Sink};
use crate::http_route::closed;
use crate::meta::ObjectMeta;

/// Addresses and ports of a part of a service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointSlice {
    /// Name of the service, from the label that Kubernetes uses.
    pub(crate) service: String,
    pub(crate) addresses: Vec<SliceAddress>,
    pub(crate) ports: Vec<SlicePort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceAddress {
    pub(crate) ip: IpAddr,
    /// Where it is; empty when it is not known.
    pub(crate) zone: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlicePort {
    pub(crate) name: String,
    pub(crate) port: u16,
}

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 100;

impl EndpointSlice {
    pub(crate) fn decode(root: &mut Fields<'_>, meta: &ObjectMeta, sink: &mut Sink<'_>) -> Option<Self> {
        let Some(service) = meta.labels.get(SERVICE_LABEL).cloned() else {
            let text = format!("the label {SERVICE_LABEL} is required: it names the Service");
            sink.error(root.position(), "metadata.labels", &text);
            return None;
        };
        let family = root.text("addressType", sink);
        if let Some(family) = family.filter(|f| !matches!(f.value.as_str(), "IPv4" | "IPv6")) {
            sink.error(family.at, "addressType", "only IPv4 and IPv6 are supported");
        }
        let mut addresses = Vec::new();
        for mut endpoint in root.objects("endpoints", ENDPOINTS_MAX, sink) {
            let ready = endpoint.object("conditions", sink).and_then(|conditions| {
                closed(conditions, sink, |c, s| {
                    // Of those that end: they are not ready either.
                    c.known(&["serving", "terminating"]);
                    c.boolean("ready", s)
                })
            });
            let ready = ready.unwrap_or(true);
            let zone = endpoint.text("zone", sink).map(|z| z.value).unwrap_or_default();
            for address in endpoint.texts("addresses", ADDRESSES_MAX, sink) {
                match address.value.parse() {
                    Ok(ip) if ready => addresses.push(SliceAddress { ip, zone: zone.clone() }),
                    Ok(_) => {}
                    Err(_) => sink.error(
                        address.at,
                        &address.path,
                        &format!("{:?} is no IP address", address.value),
                    ),
                }
            }
            endpoint.known(&["hostname", "nodeName", "targetRef", "hints", "deprecatedTopology"]);
            endpoint.finish(sink);
        }
        let mut ports = Vec::new();
        for mut fields in root.objects("ports", PORTS_MAX, sink) {
            let name = fields.text("name", sink).map(|n| n.value).unwrap_or_default();
            if let Some(port) = fields.port("port", sink) {
                ports.push(SlicePort { name, port: port.value });
            }
            // What is spoken there says the Service.
            fields.known(&["protocol", "appProtocol"]);
            fields.finish(sink);
        }
        Some(Self { service, addresses, ports })
    }
}
