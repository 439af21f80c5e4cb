//! The resources of all files, with the last good version of what is broken now.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Severity};
use crate::folder::ManifestFile;
use crate::meta::ResourceId;
use crate::node;
use crate::resource::{Parsed, Resource, decode};

/// All valid resources. Replaced file by file; what a broken file or resource said before stays.
#[derive(Clone, Debug, Default)]
pub struct Store {
    by_file: BTreeMap<Arc<str>, FileState>,
}

#[derive(Clone, Debug, Default)]
struct FileState {
    resources: Vec<Arc<Resource>>,
}

impl Store {
    /// Takes the complete list of files as they are now, and says what is wrong with them.
    pub fn replace(&mut self, files: &[ManifestFile]) -> Vec<Diagnostic> {
        let mut diagnostics = Vec::new();
        let mut next = BTreeMap::new();
        for file in files {
            let old = self.by_file.get(&file.name);
            let state = Self::read(file, old, &mut diagnostics);
            next.insert(Arc::clone(&file.name), state);
        }
        self.by_file = next;
        self.report_duplicates(&mut diagnostics);
        diagnostics
    }

    fn read(file: &ManifestFile, old: Option<&FileState>, out: &mut Vec<Diagnostic>) -> FileState {
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
                return old.cloned().unwrap_or_default();
            }
        };
        let mut resources = Vec::new();
        for document in &documents {
            for parsed in decode(document, &file.name, out) {
                match parsed {
                    Parsed::Valid(resource) => resources.push(Self::share(*resource, old)),
                    Parsed::Invalid(id) => resources.extend(old.and_then(|o| o.find(&id))),
                    Parsed::Skipped => {}
                }
            }
        }
        FileState { resources }
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
