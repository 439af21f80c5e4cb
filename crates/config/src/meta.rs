//! Object metadata and names of resources.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::decode::{Fields, Sink};
use crate::resource::Kind;

/// A place in a manifest, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// What identifies a resource. Printed as `kind/namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId {
    /// The kind.
    pub kind: Kind,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

/// The parts of `metadata` that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectMeta {
    /// `name`
    pub name: Arc<str>,
    /// `namespace`; `default` when absent.
    pub namespace: Arc<str>,
    /// `labels`
    pub labels: BTreeMap<String, String>,
    /// `annotations`
    pub annotations: BTreeMap<String, String>,
    /// `creationTimestamp` as written (RFC 3339 in UTC sorts as text); empty when absent.
    pub creation_timestamp: String,
}

const NAME_CHARS_MAX: usize = 253;

impl ObjectMeta {
    pub(crate) fn decode(root: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<Self> {
        let Some(mut fields) = root.object("metadata", sink) else {
            if !root.has("metadata") {
                sink.error(root.position(), "metadata", "is required: give the resource a name");
            }
            return None;
        };
        let name = fields.text("name", sink);
        let namespace = fields.text("namespace", sink);
        let meta = Self {
            name: name.as_ref().map(|n| Arc::from(n.value.as_str())).unwrap_or_default(),
            namespace: namespace
                .as_ref()
                .map_or_else(|| Arc::from("default"), |n| Arc::from(n.value.as_str())),
            labels: fields.text_map("labels", sink),
            annotations: fields.text_map("annotations", sink),
            creation_timestamp: fields.text("creationTimestamp", sink).map(|t| t.value).unwrap_or_default(),
        };
        // The rest (uid, resourceVersion, managedFields…) is the API server's.
        match name {
            None => {
                sink.error(fields.position(), "metadata.name", "is required");
                return None;
            }
            Some(name) if !is_dns_subdomain(&name.value) => {
                let text = format!(
                    "{:?} is not a name: lower-case letters, digits, '-' and '.', at most {NAME_CHARS_MAX} characters",
                    name.value
                );
                sink.error(name.at, "metadata.name", &text);
                return None;
            }
            Some(_) => {}
        }
        if let Some(namespace) = namespace.filter(|n| !is_dns_subdomain(&n.value)) {
            sink.error(
                namespace.at,
                "metadata.namespace",
                &format!("{:?} is not a namespace name", namespace.value),
            );
            return None;
        }
        Some(meta)
    }
}

/// RFC 1123 subdomain, as Kubernetes wants names.
pub(crate) fn is_dns_subdomain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_CHARS_MAX
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}
