//! What is wrong with a manifest, where, and what would be right.

use std::fmt;
use std::sync::Arc;

use crate::meta::{Position, ResourceId};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing; everything is used.
    Warning,
    /// The resource is not used; its last good version goes on serving.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file as the user named it.
    pub file: Arc<str>,
    /// Line and column, from 1.
    pub position: Position,
    /// The resource; `None` when the file could not be read that far.
    pub resource: Option<ResourceId>,
    /// The field's path, e.g. `spec.match[0].ports[1].number`; empty for the resource as a whole.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{}:{}:{}: {severity}: ", self.file, self.position.line, self.position.column)?;
        if let Some(resource) = &self.resource {
            write!(f, "{resource}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}
