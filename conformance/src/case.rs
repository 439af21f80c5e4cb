//! Cases, as they stand in files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cases: Vec<Case>,
}

/// One behaviour.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Its name, a word.
    pub id: String,
    /// Section of the host specification.
    #[serde(default)]
    pub spec: String,
    /// Numbers in the behaviour checklist.
    #[serde(default)]
    pub checklist: Vec<u32>,
    /// For the interpreter plug-in.
    pub script: String,
    /// What the client sends.
    #[serde(default)]
    pub request: Message,
    /// What the endpoint answers.
    #[serde(default)]
    pub response: Message,
    /// What must be seen, a line each: see [`crate::run::Seen::lines`]; with a line `…` more may be seen.
    #[serde(default)]
    pub expect: String,
    /// What is seen on Envoy instead, when that differs.
    #[serde(default)]
    pub envoy: Option<String>,
    /// Why it differs.
    #[serde(default)]
    pub why: String,
}

/// A request or a response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Of a request.
    #[serde(default)]
    pub method: String,
    /// Of a request.
    #[serde(default)]
    pub path: String,
    /// Of a response: the status line's rest, such as `200 OK`.
    #[serde(default)]
    pub status: String,
    /// Further headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// A body with a content-length.
    #[serde(default)]
    pub body: String,
    /// A chunked body, each piece sent by itself.
    #[serde(default)]
    pub chunks: Vec<String>,
    /// The other side closes instead of answering.
    #[serde(default)]
    pub closes: bool,
}

/// Reads every file of a folder.
///
/// # Errors
/// What is wrong, with the file.
pub fn read(folder: &Path) -> Result<Vec<Case>, String> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(|e| format!("{}: {e}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    let mut cases: Vec<Case> = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let file: File = serde_saphyr::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        for case in file.cases {
            if cases.iter().any(|c| c.id == case.id) {
                return Err(format!("{}: there are two cases {}", path.display(), case.id));
            }
            cases.push(case);
        }
    }
    Ok(cases)
}

impl Case {
    /// What must be seen on a host.
    #[must_use]
    pub fn expected(&self, on_envoy: bool) -> &str {
        self.envoy.as_deref().filter(|_| on_envoy).unwrap_or(&self.expect)
    }
}

/// All scripts as one plug-in configuration.
#[must_use]
pub fn configuration(cases: &[Case]) -> String {
    cases.iter().map(|case| format!("script {}\n{}\n", case.id, case.script.trim_end())).collect()
}
