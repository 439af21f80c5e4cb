//! The resources of all files, with the last good version of what is broken now.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Severity};
use crate::folder::ManifestFile;
use crate::meta::{Position, ResourceId};
use crate::node;
use crate::resource::{Parsed, Resource, decode};

/// All valid resources. Replaced file by file; what a broken file or resource said before stays.
#[derive(Clone, Debug, Default)]
pub struct Store {
    by_file: BTreeMap<Arc<str>, FileState>,
    invalid: Vec<Diagnostic>,
}

/// Something that the files ask for and that has never been valid: what it would be is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The file.
    pub file: Arc<str>,
    /// The resource; `None` when not even its name can be read.
    pub resource: Option<ResourceId>,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.resource {
            Some(resource) => write!(f, "{resource} ({})", self.file),
            None => write!(f, "a part of {}", self.file),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct FileState {
    resources: Vec<Arc<Resource>>,
    /// Invalid resources without a good version.
    missing: Vec<ResourceId>,
    /// Some of it cannot be read, and never could.
    is_dark: bool,
}

impl Store {
    /// Takes the complete list of files as they are now, and says what is wrong with them.
    pub fn replace(&mut self, files: &[ManifestFile]) -> Vec<Diagnostic> {
        let mut diagnostics = Vec::new();
        let mut next = BTreeMap::new();
        for file in files {
            let old = self.by_file.get(&file.name);
            // A file may have been renamed while it was edited.
            let gone = |name: &Arc<str>| !files.iter().any(|f| f.name == *name);
            let renamed = |id: &ResourceId| {
                self.by_file.iter().filter(|(name, _)| gone(name)).find_map(|(_, state)| state.find(id))
            };
            let state = Self::read(file, old, &renamed, &mut diagnostics);
            next.insert(Arc::clone(&file.name), state);
        }
        self.by_file = next;
        self.invalid = diagnostics.iter().filter(|d| d.severity == Severity::Error).cloned().collect();
        self.report_duplicates(&mut diagnostics);
        diagnostics
    }

    /// What makes resources invalid now, duplicates apart.
    pub fn invalid(&self) -> &[Diagnostic] {
        &self.invalid
    }

    /// What the files ask for and never said in a valid way.
    pub fn gaps(&self) -> Vec<Gap> {
        let of = |(file, state): (&Arc<str>, &FileState)| {
            let dark = state.is_dark.then_some(None);
            let missing = state.missing.iter().cloned().map(Some);
            let gap = |resource| Gap { file: Arc::clone(file), resource };
            dark.into_iter().chain(missing).map(gap).collect::<Vec<_>>()
        };
        self.by_file.iter().flat_map(of).collect()
    }

    fn read(
        file: &ManifestFile,
        old: Option<&FileState>,
        renamed: &dyn Fn(&ResourceId) -> Option<Arc<Resource>>,
        out: &mut Vec<Diagnostic>,
    ) -> FileState {
        let documents = match node::parse(&file.text) {
            Ok(documents) => documents,
            Err(e) => {
                let message = format!("YAML error: {}", e.message);
                out.push(Diagnostic {
                    severity: Severity::Error,
                    file: Arc::clone(&file.name),
                    position: e.at,
                    resource: None,
                    field: String::new(),
                    message,
                });
                // Nothing can be told about the file: all that it said before stays.
                return old.cloned().unwrap_or(FileState { is_dark: true, ..FileState::default() });
            }
        };
        let mut state = FileState::default();
        let before = out.len();
        for document in &documents {
            for parsed in decode(document, &file.name, out) {
                match parsed {
                    Parsed::Valid(resource) => state.resources.push(Self::share(*resource, old)),
                    Parsed::Invalid(id) => match old.and_then(|o| o.find(&id)).or_else(|| renamed(&id)) {
                        Some(good) => state.resources.push(good),
                        None => state.missing.push(id),
                    },
                    Parsed::Skipped => {}
                }
            }
        }
        let had_any = old.is_some_and(|o| !o.resources.is_empty());
        let is_empty = documents.is_empty() && file.text.trim().is_empty();
        if is_empty && had_any {
            out.push(Diagnostic {
                severity: Severity::Warning,
                file: Arc::clone(&file.name),
                position: Position { line: 1, column: 1 },
                resource: None,
                field: String::new(),
                message: "is empty: what it said before stays; delete the file to remove it".to_owned(),
            });
        }
        let is_error = |d: &&Diagnostic| d.severity == Severity::Error;
        let mut errors = out.iter().skip(before).filter(is_error).peekable();
        let is_nameless = errors.clone().any(|d| d.resource.is_none());
        if is_empty || errors.peek().is_some() {
            // What is wrong may be what is left of any of those that are not there any more (a file that is being written,
            // say): they stay.
            let lost = |r: &&Arc<Resource>| state.find(&r.id).is_none() && !state.missing.contains(&r.id);
            let kept: Vec<_> = old.iter().flat_map(|o| &o.resources).filter(lost).cloned().collect();
            if is_nameless {
                state.is_dark = old.is_none_or(|o| o.is_dark || kept.is_empty());
            }
            state.resources.extend(kept);
        }
        state
    }

    /// Keeps the old object when nothing has changed.
    fn share(resource: Resource, old: Option<&FileState>) -> Arc<Resource> {
        match old.and_then(|o| o.find(&resource.id)) {
            Some(same) if *same == resource => same,
            _ => Arc::new(resource),
        }
    }

    /// Of two resources with one name the first file wins.
    fn report_duplicates(&self, out: &mut Vec<Diagnostic>) {
        let mut seen: BTreeMap<&ResourceId, &Arc<Resource>> = BTreeMap::new();
        for resource in self.by_file.values().flat_map(|f| &f.resources) {
            if let Some(first) = seen.get(&resource.id) {
                out.push(Diagnostic {
                    severity: Severity::Error,
                    file: Arc::clone(&resource.file),
                    position: resource.position,
                    resource: Some(resource.id.clone()),
                    field: "metadata.name".to_owned(),
                    message: format!(
                        "is defined twice, the one at {}:{} is used",
                        first.file, first.position.line
                    ),
                });
            } else {
                seen.insert(&resource.id, resource);
            }
        }
    }

    /// All resources, one for each identity.
    pub fn resources(&self) -> BTreeMap<ResourceId, Arc<Resource>> {
        let mut out = BTreeMap::new();
        for resource in self.by_file.values().flat_map(|f| &f.resources) {
            out.entry(resource.id.clone()).or_insert_with(|| Arc::clone(resource));
        }
        out
    }
}

impl FileState {
    fn find(&self, id: &ResourceId) -> Option<Arc<Resource>> {
        self.resources.iter().find(|r| r.id == *id).cloned()
    }
}
