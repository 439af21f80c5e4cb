//! `TCPRoute` of the Gateway API: where the connections of a TCP listener go.

use crate::decode::{Fields, Sink};
use crate::http_route::{BackendRef, PARENTS_MAX, ParentRef, backend, closed, parent};
use crate::meta::Position;

/// One rule: the whole connection goes to one of its backends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TcpRoute {
    pub(crate) parents: Vec<ParentRef>,
    pub(crate) backends: Vec<BackendRef>,
    /// Of the backends.
    pub(crate) at: Position,
    pub(crate) path: String,
}

const BACKENDS_MAX: usize = 16;

impl TcpRoute {
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
        Some(Self { parents, backends, at, path })
    }
}
