//! Cases, as they stand in files.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Which protocol the client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1, in bytes.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge, in frames.
    Http2,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    /// Its folder under `cases/`.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    topic: String,
    cases: Vec<Case>,
}

/// One behaviour.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Its name, unique, words with hyphens.
    pub id: String,
    /// What demands it: a section of an RFC, as in `9112 §6.3`, or what else.
    pub rfc: String,
    /// What the client does, one step after the other. Of HTTP/2, text is a frame: see [`crate::frames`].
    pub send: Steps,
    /// The client of HTTP/2 sends no preface and no SETTINGS of itself, and does not wait for the server's.
    #[serde(default)]
    pub bare: bool,
    /// Every request is a HEAD: no answer has a body.
    #[serde(default)]
    pub head: bool,
    /// What the endpoint does for each request; without it, `200` and the body `ok`.
    #[serde(default)]
    pub reply: Option<Steps>,
    /// The endpoint does so when it has the head, without waiting for the body.
    #[serde(default)]
    pub early: bool,
    /// What the client must see: see [`crate::pattern`].
    pub client: String,
    /// Regular expressions that the answers must match: see [`crate::message::Answers`] and [`crate::frame_log`].
    #[serde(default)]
    pub answer: Vec<String>,
    /// Regular expressions that they must not match.
    #[serde(default)]
    pub answer_not: Vec<String>,
    /// How many requests the endpoint must have received, see [`crate::message::Requests`]; none by default.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Regular expressions that these must match.
    #[serde(default)]
    pub received: Vec<String>,
    /// Regular expressions that they must not match.
    #[serde(default)]
    pub received_not: Vec<String>,
    /// What a reader would ask about it.
    #[serde(default)]
    pub why: String,
    /// Wasmgate does something else, which is wrong.
    #[serde(default)]
    pub wasmgate: Option<Deviation>,
    /// From its file.
    #[serde(skip)]
    pub topic: String,
    /// From its folder.
    #[serde(skip)]
    pub protocol: Protocol,
}

/// What is seen in place of what should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deviation {
    /// Why.
    pub differs: String,
    /// What is seen: see [`crate::run::Seen::summary`].
    pub sees: String,
}

/// One step or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Steps {
    /// One write.
    One(String),
    /// One after the other.
    Many(Vec<Step>),
}

impl Default for Steps {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Steps {
    /// As a list.
    #[must_use]
    pub fn list(&self) -> Vec<Step> {
        match self {
            Self::One(text) => vec![Step::Write(text.clone())],
            Self::Many(steps) => steps.clone(),
        }
    }
}

/// What one side does.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Step {
    /// Writes bytes ([`crate::notation`]) or a frame.
    Write(String),
    /// Waits.
    #[serde(rename_all = "snake_case")]
    Wait {
        /// So long.
        wait_ms: u64,
    },
    /// Waits until it has received bytes that contain a text; of HTTP/2, until the log of frames does.
    Await {
        /// The text.
        r#await: String,
    },
    /// Does something with the connection.
    Do {
        /// What.
        r#do: Ending,
    },
    /// Writes frames again and again, all in one write. `$` in a frame is a new stream each time.
    Repeat {
        /// So often.
        times: u32,
        /// These.
        frames: Vec<String>,
    },
}

/// What can be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// Nothing more is sent.
    HalfClose,
    /// It is closed.
    Close,
    /// It is reset.
    Reset,
}

/// Reads every file of `http1/` and `http2/` in a folder.
///
/// # Errors
/// What is wrong, with the file.
pub fn read(folder: &Path) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    for protocol in Protocol::ALL {
        for path in files(&folder.join(protocol.folder()))? {
            let named = |e: String| format!("{}: {e}", path.display());
            let text = std::fs::read_to_string(&path).map_err(|e| named(e.to_string()))?;
            let file: File = serde_saphyr::from_str(&text).map_err(|e| named(e.to_string()))?;
            for mut case in file.cases {
                if cases.iter().any(|c| c.id == case.id) {
                    return Err(named(format!("there are two cases {}", case.id)));
                }
                case.topic.clone_from(&file.topic);
                case.protocol = protocol;
                cases.push(case);
            }
        }
    }
    Ok(cases)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(|e| format!("{}: {e}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    Ok(files)
}
