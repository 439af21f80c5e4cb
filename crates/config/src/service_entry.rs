//! `ServiceEntry`: a host that Istio knows without a Kubernetes service.

use std::net::IpAddr;

use crate::decode::{Fields, Sink};
use crate::snapshot::UpstreamProtocol;

/// Hosts with static endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceEntry {
    pub(crate) hosts: Vec<String>,
    pub(crate) ports: Vec<EntryPort>,
    pub(crate) endpoints: Vec<EntryEndpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryPort {
    pub(crate) number: u16,
    pub(crate) name: String,
    pub(crate) target_port: Option<u16>,
    pub(crate) protocol: UpstreamProtocol,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryEndpoint {
    pub(crate) address: IpAddr,
    /// Ports by the name of the service port.
    pub(crate) ports: Vec<(String, u16)>,
    pub(crate) weight: u32,
}

const HOSTS_MAX: usize = 256;
const PORTS_MAX: usize = 256;
const ENDPOINTS_MAX: usize = 4096;

impl ServiceEntry {
    pub(crate) fn decode(spec: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<Self> {
        let hosts: Vec<String> = spec.texts("hosts", HOSTS_MAX, sink).into_iter().map(|h| h.value).collect();
        if hosts.is_empty() && sink.is_clean() {
            sink.error(spec.position(), "spec.hosts", "must have at least one host");
        }
        if let Some(resolution) = spec.text("resolution", sink)
            && resolution.value != "STATIC"
        {
            let text =
                format!("resolution {:?} is not supported yet, only STATIC with endpoints", resolution.value);
            sink.error(resolution.at, &resolution.path, &text);
        }
        spec.known(&["location", "exportTo", "subjectAltNames", "addresses"]);
        let mut ports = Vec::new();
        for mut fields in spec.objects("ports", PORTS_MAX, sink) {
            let number = fields.port("number", sink);
            let name = fields.text("name", sink).map(|n| n.value).unwrap_or_default();
            let target_port = fields.port("targetPort", sink).map(|p| p.value);
            // Its own field says HTTP of what a name may say HTTP2 of: the more precise one counts.
            let named = fields.text("protocol", sink).map(|p| p.value).filter(|p| p != "HTTP");
            let protocol = UpstreamProtocol::of_port(named.as_deref(), &name);
            match number {
                Some(number) => ports.push(EntryPort { number: number.value, name, target_port, protocol }),
                None if !fields.has("number") => {
                    let path = fields.path_of("number");
                    sink.error(fields.position(), &path, "Required value");
                }
                None => {}
            }
            fields.finish(sink);
        }
        let mut endpoints = Vec::new();
        for mut fields in spec.objects("endpoints", ENDPOINTS_MAX, sink) {
            endpoints.extend(Self::endpoint(&mut fields, sink));
            fields.finish(sink);
        }
        Some(Self { hosts, ports, endpoints })
    }

    fn endpoint(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<EntryEndpoint> {
        let address = fields.text("address", sink);
        let mut ports = Vec::new();
        if let Some(node) = fields.object("ports", sink) {
            ports = Self::port_map(node, sink);
        }
        let weight = fields.int("weight", sink).and_then(|w| u32::try_from(w.value).ok()).unwrap_or(1);
        fields.known(&["labels", "network", "locality", "serviceAccount"]);
        let address = address.or_else(|| {
            let path = fields.path_of("address");
            sink.error(fields.position(), &path, "Required value");
            None
        })?;
        match address.value.parse() {
            Ok(ip) => Some(EntryEndpoint { address: ip, ports, weight }),
            Err(_) => {
                sink.error(
                    address.at,
                    &address.path,
                    &format!("{:?} is no IP address, which resolution STATIC needs", address.value),
                );
                None
            }
        }
    }

    fn port_map(mut fields: Fields<'_>, sink: &mut Sink<'_>) -> Vec<(String, u16)> {
        let names: Vec<String> = fields.keys();
        names.into_iter().filter_map(|name| fields.port(&name, sink).map(|p| (name, p.value))).collect()
    }
}
