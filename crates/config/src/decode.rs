//! From trees to typed resources: field access that reports what is wrong, where and under which path.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Severity};
use crate::meta::{Position, ResourceId};
use crate::node::{Entry, Node, Value};

/// A value with its place and path, so that later checks can point at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot<T> {
    pub(crate) value: T,
    pub(crate) at: Position,
    pub(crate) path: String,
}

/// Takes findings about one resource.
pub(crate) struct Sink<'a> {
    file: Arc<str>,
    resource: Option<ResourceId>,
    out: &'a mut Vec<Diagnostic>,
    errors: usize,
    /// Findings before this one are about other documents.
    first: usize,
}

impl<'a> Sink<'a> {
    pub(crate) fn new(file: Arc<str>, resource: Option<ResourceId>, out: &'a mut Vec<Diagnostic>) -> Self {
        let first = out.len();
        Self { file, resource, out, errors: 0, first }
    }

    pub(crate) fn set_resource(&mut self, resource: ResourceId) {
        for diagnostic in self.out.iter_mut().skip(self.first).filter(|d| d.resource.is_none()) {
            diagnostic.resource = Some(resource.clone());
        }
        self.resource = Some(resource);
    }

    pub(crate) fn error(&mut self, at: Position, field: &str, message: &str) {
        self.errors += 1;
        self.add(Severity::Error, at, field, message);
    }

    pub(crate) fn warn(&mut self, at: Position, field: &str, message: &str) {
        self.add(Severity::Warning, at, field, message);
    }

    /// Whether nothing worse than a warning has been found.
    pub(crate) fn is_clean(&self) -> bool {
        self.errors == 0
    }

    fn add(&mut self, severity: Severity, position: Position, field: &str, message: &str) {
        self.out.push(Diagnostic {
            severity,
            file: Arc::clone(&self.file),
            position,
            resource: self.resource.clone(),
            field: field.to_owned(),
            message: message.to_owned(),
        });
    }
}

/// The fields of an object.
pub(crate) struct Fields<'n> {
    entries: &'n [Entry],
    at: Position,
    path: String,
    seen: Vec<&'n str>,
    /// Every field that somebody would have liked to see, for who has misspelt one.
    asked: Vec<String>,
}

impl<'n> Fields<'n> {
    /// The fields of a node that must be an object.
    pub(crate) fn new(node: &'n Node, path: String, sink: &mut Sink<'_>) -> Option<Self> {
        match &node.value {
            Value::Map(entries) => {
                Some(Self { entries, at: node.at, path, seen: Vec::new(), asked: Vec::new() })
            }
            other => {
                let text = format!("must be of type object, but is {}", other.kind());
                sink.error(node.at, &path, &text);
                None
            }
        }
    }

    pub(crate) fn position(&self) -> Position {
        self.at
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|e| e.key == key)
    }

    /// A field as it is; null counts as absent, as it does for the API server's structural schemas.
    pub(crate) fn node(&mut self, key: &str) -> Option<&'n Node> {
        self.asked.push(key.to_owned());
        let entry = self.entries.iter().find(|e| e.key == key)?;
        self.seen.push(&entry.key);
        (entry.node.value != Value::Null).then_some(&entry.node)
    }

    fn spot<T>(&self, key: &str, at: Position, value: T) -> Spot<T> {
        Spot { value, at, path: self.path_of(key) }
    }

    fn wrong(&self, key: &str, node: &Node, wanted: &str, sink: &mut Sink<'_>) {
        let text = format!("must be of type {wanted}, but is {}", node.value.kind());
        sink.error(node.at, &self.path_of(key), &text);
    }

    pub(crate) fn text(&mut self, key: &str, sink: &mut Sink<'_>) -> Option<Spot<String>> {
        let node = self.node(key)?;
        match &node.value {
            Value::Text(text) => Some(self.spot(key, node.at, text.clone())),
            _ => {
                self.wrong(key, node, "string", sink);
                None
            }
        }
    }

    pub(crate) fn int(&mut self, key: &str, sink: &mut Sink<'_>) -> Option<Spot<i64>> {
        let node = self.node(key)?;
        match &node.value {
            Value::Int(value) => Some(self.spot(key, node.at, *value)),
            _ => {
                self.wrong(key, node, "integer", sink);
                None
            }
        }
    }

    /// A port number.
    pub(crate) fn port(&mut self, key: &str, sink: &mut Sink<'_>) -> Option<Spot<u16>> {
        let spot = self.int(key, sink)?;
        match u16::try_from(spot.value) {
            Ok(port) if port > 0 => Some(self.spot(key, spot.at, port)),
            _ => {
                sink.error(spot.at, &spot.path, &format!("{} is no port: 1 to 65535", spot.value));
                None
            }
        }
    }

    pub(crate) fn boolean(&mut self, key: &str, sink: &mut Sink<'_>) -> Option<bool> {
        let node = self.node(key)?;
        match node.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.wrong(key, node, "boolean", sink);
                None
            }
        }
    }

    pub(crate) fn object(&mut self, key: &str, sink: &mut Sink<'_>) -> Option<Fields<'n>> {
        let node = self.node(key)?;
        Fields::new(node, self.path_of(key), sink)
    }

    /// The items of a list, each with its path.
    pub(crate) fn list(
        &mut self,
        key: &str,
        items_max: usize,
        sink: &mut Sink<'_>,
    ) -> Vec<(&'n Node, String)> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let path = self.path_of(key);
        match &node.value {
            Value::List(items) if items.len() > items_max => {
                sink.error(
                    node.at,
                    &path,
                    &format!("must have at most {items_max} items, but has {}", items.len()),
                );
                Vec::new()
            }
            Value::List(items) => {
                items.iter().enumerate().map(|(i, n)| (n, format!("{path}[{i}]"))).collect()
            }
            _ => {
                self.wrong(key, node, "list", sink);
                Vec::new()
            }
        }
    }

    /// A list of objects.
    pub(crate) fn objects(&mut self, key: &str, items_max: usize, sink: &mut Sink<'_>) -> Vec<Fields<'n>> {
        let items = self.list(key, items_max, sink);
        items.into_iter().filter_map(|(node, path)| Fields::new(node, path, sink)).collect()
    }

    /// A list of strings.
    pub(crate) fn texts(&mut self, key: &str, items_max: usize, sink: &mut Sink<'_>) -> Vec<Spot<String>> {
        let mut out = Vec::new();
        for (node, path) in self.list(key, items_max, sink) {
            match &node.value {
                Value::Text(text) => out.push(Spot { value: text.clone(), at: node.at, path }),
                other => {
                    sink.error(node.at, &path, &format!("must be of type string, but is {}", other.kind()))
                }
            }
        }
        out
    }

    /// A map of strings.
    pub(crate) fn text_map(&mut self, key: &str, sink: &mut Sink<'_>) -> BTreeMap<String, String> {
        let Some(fields) = self.object(key, sink) else { return BTreeMap::new() };
        let mut out = BTreeMap::new();
        for entry in fields.entries {
            match &entry.node.value {
                Value::Text(text) => {
                    out.insert(entry.key.clone(), text.clone());
                }
                other => {
                    let text = format!("must be of type string, but is {}; put it in quotes", other.kind());
                    sink.error(entry.node.at, &fields.path_of(&entry.key), &text);
                }
            }
        }
        out
    }

    /// One of a set of words.
    pub(crate) fn word<T: Copy>(
        &mut self,
        key: &str,
        words: &[(&str, T)],
        sink: &mut Sink<'_>,
    ) -> Option<Spot<T>> {
        let spot = self.text(key, sink)?;
        match words.iter().find(|(word, _)| *word == spot.value) {
            Some((_, value)) => Some(Spot { value: *value, at: spot.at, path: spot.path }),
            None => {
                let supported: Vec<String> = words.iter().map(|(w, _)| format!("{w:?}")).collect();
                let text = format!(
                    "Unsupported value: {:?}: supported values: {}",
                    spot.value,
                    supported.join(", ")
                );
                sink.error(spot.at, &spot.path, &text);
                None
            }
        }
    }

    /// The names of all fields, for maps whose keys are data.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.entries.iter().map(|e| e.key.clone()).collect()
    }

    /// Takes fields as known that are valid and not used here.
    pub(crate) fn known(&mut self, keys: &[&str]) {
        self.asked.extend(keys.iter().map(|key| (*key).to_owned()));
        for entry in self.entries.iter().filter(|e| keys.contains(&e.key.as_str())) {
            self.seen.push(&entry.key);
        }
    }

    /// Reports fields that nobody asked for: the API server drops them silently, which hides typing errors.
    pub(crate) fn finish(self, sink: &mut Sink<'_>) {
        for entry in self.entries.iter().filter(|e| !self.seen.contains(&e.key.as_str())) {
            let mut text = "unknown field, it is ignored".to_owned();
            if let Some(meant) = self.alike(&entry.key) {
                text.push_str(&format!("; did you mean {meant}?"));
            }
            sink.warn(entry.key_at, &self.path_of(&entry.key), &text);
        }
    }

    /// The field that was probably meant: one that is not there and spelt nearly the same.
    fn alike(&self, key: &str) -> Option<&str> {
        const SIMILARITY_MIN: f64 = 0.75;
        /// Longer than any field.
        const KEY_BYTES_MAX: usize = 64;
        if key.len() > KEY_BYTES_MAX {
            return None;
        }
        let likeness = |asked: &&String| {
            let lower = (asked.to_ascii_lowercase(), key.to_ascii_lowercase());
            strsim::normalized_damerau_levenshtein(&lower.0, &lower.1)
        };
        let candidates = self.asked.iter().filter(|asked| !self.has(asked));
        let best = candidates.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
        (likeness(&best) >= SIMILARITY_MIN).then_some(best.as_str())
    }
}
