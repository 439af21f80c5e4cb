//! `TCPRoute` and `TLSRoute` of the Gateway API: where the connections of TCP and TLS listeners go.

use crate::decode::{Fields, Sink};
use crate::gateway::is_hostname;
use crate::http_route::{BackendRef, PARENTS_MAX, ParentRef, backend, closed, parent};
use crate::meta::Position;

/// One rule: the whole connection goes to one of its backends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TcpRoute {
    pub(crate) parents: Vec<ParentRef>,
    /// It is a TLSRoute: it chooses among connections by the name that a client asks for.
    pub(crate) has_names: bool,
    /// Of a TLSRoute; empty: those of the listener.
    pub(crate) hostnames: Vec<String>,
    pub(crate) backends: Vec<BackendRef>,
    /// Of the backends.
    pub(crate) at: Position,
    pub(crate) path: String,
}

const BACKENDS_MAX: usize = 16;
const HOSTNAMES_MAX: usize = 16;

impl TcpRoute {
    /// A TLSRoute.
    pub(crate) fn decode_tls(spec: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<Self> {
        let hostnames = spec.texts("hostnames", HOSTNAMES_MAX, sink);
        for hostname in hostnames.iter().filter(|h| !is_hostname(&h.value)) {
            let text = format!("{:?} is no hostname: a lower-case DNS name, or *. and one", hostname.value);
            sink.error(hostname.at, &hostname.path, &text);
        }
        let hostnames = hostnames.into_iter().map(|h| h.value).collect();
        Some(Self { has_names: true, hostnames, ..Self::decode(spec, sink)? })
    }

    pub(crate) fn decode(spec: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<Self> {
        let parents = spec
            .objects("parentRefs", PARENTS_MAX, sink)
            .into_iter()
            .filter_map(|fields| closed(fields, sink, parent))
            .collect();
        // The specification allows sixteen rules, and nothing by which to choose among them.
        let Some(mut rule) = spec.objects("rules", 1, sink).into_iter().next() else {
            if sink.is_clean() {
                sink.error(spec.position(), "spec.rules", "must have one rule");
            }
            return None;
        };
        rule.known(&["name"]);
        let backends = rule
            .objects("backendRefs", BACKENDS_MAX, sink)
            .into_iter()
            .filter_map(|fields| closed(fields, sink, backend))
            .collect();
        let (at, path) = (rule.position(), rule.path_of("backendRefs"));
        rule.finish(sink);
        Some(Self { parents, has_names: false, hostnames: Vec::new(), backends, at, path })
    }
}
