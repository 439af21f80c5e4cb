//! `ServiceEntry`: a host that Istio knows without a Kubernetes service.

use std::net::IpAddr;

use crate::decode::{Fields, Sink};
use crate::http_route::closed;
use crate::snapshot::UpstreamProtocol;

/// Hosts, and where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceEntry {
    pub(crate) hosts: Vec<String>,
    pub(crate) ports: Vec<EntryPort>,
    pub(crate) endpoints: Vec<EntryEndpoint>,
    /// Of the addresses of a name only the first is used at a time.
    pub(crate) is_logical: bool,
    /// Whom certificates of its endpoints must be for, unless a rule says otherwise; empty: for the host.
    pub(crate) names: Vec<String>,
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
    pub(crate) address: EntryAddress,
    /// Ports by the name of the service port.
    pub(crate) ports: Vec<(String, u16)>,
    pub(crate) weight: u32,
    /// `region/zone/subzone`; empty when it is not known.
    pub(crate) locality: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EntryAddress {
    Ip(IpAddr),
    /// A name that DNS knows.
    Name(String),
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
        let words = [
            ("NONE", Resolution::None),
            ("STATIC", Resolution::Static),
            ("DNS", Resolution::Dns),
            ("DNS_ROUND_ROBIN", Resolution::DnsRoundRobin),
        ];
        let spot = spec.word("resolution", &words, sink);
        let resolution = spot.as_ref().map_or(Resolution::None, |spot| spot.value);
        if resolution == Resolution::None && sink.is_clean() {
            let at = spot.map_or(spec.position(), |spot| spot.at);
            let text = "NONE, which is also the default, is not supported: a gateway's client does not know the address of an endpoint; STATIC, DNS and DNS_ROUND_ROBIN are";
            sink.error(at, &spec.path_of("resolution"), text);
        }
        // Neither tells a gateway anything: it is in no mesh, and connects to endpoints only.
        spec.known(&["location", "addresses"]);
        if let Some(node) = spec.node("exportTo") {
            sink.warn(node.at, &spec.path_of("exportTo"), "is not used: the hosts are known to this gateway");
        }
        let names: Vec<String> =
            spec.texts("subjectAltNames", HOSTS_MAX, sink).into_iter().map(|n| n.value).collect();
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
        for fields in spec.objects("endpoints", ENDPOINTS_MAX, sink) {
            endpoints.extend(closed(fields, sink, |f, s| Self::endpoint(f, resolution, s)));
        }
        let is_dns = matches!(resolution, Resolution::Dns | Resolution::DnsRoundRobin);
        if is_dns && endpoints.is_empty() && sink.is_clean() {
            for host in &hosts {
                if host.starts_with('*') {
                    let text = "hosts must be FQDN if no endpoints are provided for resolution mode DNS";
                    sink.error(spec.position(), &spec.path_of("hosts"), text);
                }
                let address = EntryAddress::of(host);
                endpoints.push(EntryEndpoint {
                    address,
                    ports: Vec::new(),
                    weight: 1,
                    locality: String::new(),
                });
            }
        }
        let is_logical = resolution == Resolution::DnsRoundRobin;
        if is_logical && endpoints.len() > 1 {
            let text = "there must be exactly one endpoint (or host without endpoints) for DNS_ROUND_ROBIN resolution";
            sink.error(spec.position(), &spec.path_of("endpoints"), text);
        }
        Some(Self { hosts, ports, endpoints, is_logical, names })
    }

    fn endpoint(
        fields: &mut Fields<'_>,
        resolution: Resolution,
        sink: &mut Sink<'_>,
    ) -> Option<EntryEndpoint> {
        let address = fields.text("address", sink);
        let mut ports = Vec::new();
        if let Some(node) = fields.object("ports", sink) {
            ports = Self::port_map(node, sink);
        }
        let weight = fields.int("weight", sink).and_then(|w| u32::try_from(w.value).ok()).unwrap_or(1);
        let locality = fields.text("locality", sink).map(|l| l.value).unwrap_or_default();
        fields.known(&["labels", "network", "serviceAccount"]);
        let address = address.or_else(|| {
            let path = fields.path_of("address");
            sink.error(fields.position(), &path, "Required value");
            None
        })?;
        let read = EntryAddress::of(&address.value);
        let wanted = match (&read, resolution) {
            (EntryAddress::Name(_), Resolution::Static | Resolution::None) => {
                "IP address, which resolution STATIC needs"
            }
            (EntryAddress::Name(name), _) if !is_host(name) => "IP address or DNS name",
            _ => return Some(EntryEndpoint { address: read, ports, weight, locality }),
        };
        sink.error(address.at, &address.path, &format!("{:?} is no {wanted}", address.value));
        None
    }

    fn port_map(mut fields: Fields<'_>, sink: &mut Sink<'_>) -> Vec<(String, u16)> {
        let names: Vec<String> = fields.keys();
        names.into_iter().filter_map(|name| fields.port(&name, sink).map(|p| (name, p.value))).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolution {
    None,
    Static,
    Dns,
    DnsRoundRobin,
}

impl EntryAddress {
    fn of(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_ascii_lowercase()), Self::Ip)
    }
}

/// A name that can be looked up; unlike Kubernetes' names it may have underscores and end with a dot.
fn is_host(name: &str) -> bool {
    const NAME_BYTES_MAX: usize = 253;
    const LABEL_BYTES_MAX: usize = 63;
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    name.len() <= NAME_BYTES_MAX
        && name.split('.').all(|l| !l.is_empty() && l.len() <= LABEL_BYTES_MAX && l.bytes().all(is_plain))
}
