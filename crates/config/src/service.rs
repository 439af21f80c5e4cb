//! `Service` and its ports.

use crate::decode::{Fields, Sink};
use crate::snapshot::UpstreamProtocol;

/// A service that endpoints belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) ports: Vec<ServicePort>,
    /// Name that the service stands for (type ExternalName).
    pub(crate) external_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) protocol: UpstreamProtocol,
}

const PORTS_MAX: usize = 250;

impl Service {
    pub(crate) fn decode(spec: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<Self> {
        let mut ports = Vec::new();
        for mut fields in spec.objects("ports", PORTS_MAX, sink) {
            let name = fields.text("name", sink).map(|n| n.value).unwrap_or_default();
            let Some(port) = fields.port("port", sink) else {
                if !fields.has("port") {
                    let path = fields.path_of("port");
                    sink.error(fields.position(), &path, "Required value");
                }
                continue;
            };
            let app_protocol = fields.text("appProtocol", sink).map(|p| p.value);
            let protocol = UpstreamProtocol::of_port(app_protocol.as_deref(), &name);
            fields.known(&["protocol", "targetPort", "nodePort"]);
            fields.finish(sink);
            ports.push(ServicePort { name, port: port.value, protocol });
        }
        if let Some(affinity) = spec.text("sessionAffinity", sink).filter(|a| a.value != "None") {
            let text =
                "has no effect: a DestinationRule with loadBalancer.consistentHash.useSourceIp does the like";
            sink.warn(affinity.at, &affinity.path, text);
        }
        for unused in ["sessionAffinityConfig", "trafficDistribution"] {
            if let Some(node) = spec.node(unused) {
                sink.warn(node.at, &spec.path_of(unused), "is not supported, it has no effect");
            }
        }
        let service_type = spec.text("type", sink).map(|t| t.value);
        let external_name = spec.text("externalName", sink).map(|n| n.value);
        let external_name = external_name.filter(|_| service_type.as_deref() == Some("ExternalName"));
        spec.known(&[
            "selector",
            "clusterIP",
            "clusterIPs",
            "externalIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
            "externalTrafficPolicy",
            "publishNotReadyAddresses",
            "loadBalancerIP",
            "loadBalancerClass",
            "loadBalancerSourceRanges",
            "allocateLoadBalancerNodePorts",
            "healthCheckNodePort",
        ]);
        Some(Self { ports, external_name })
    }
}
