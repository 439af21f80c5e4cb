//! `TCPRoute` of the Gateway API: where the connections of a TCP listener go.

use crate::decode::{Fields, Sink};
use crate::http_route::{BackendRef, PARENTS_MAX, ParentRef, backend, parent};
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
            .filter_map(|mut fields| parent(&mut fields, sink))
            .collect();
        // The specification allows sixteen rules, and nothing by which to choose among them.
        let mut rules = spec.objects("rules", 1, sink);
        let Some(rule) = rules.first_mut() else {
            if sink.is_clean() {
                sink.error(spec.position(), "spec.rules", "must have one rule");
            }
            return None;
        };
        rule.known(&["name"]);
        let backends = rule
            .objects("backendRefs", BACKENDS_MAX, sink)
            .into_iter()
            .filter_map(|mut fields| backend(&mut fields, sink))
            .collect();
        Some(Self { parents, backends, at: rule.position(), path: rule.path_of("backendRefs") })
    }
}
