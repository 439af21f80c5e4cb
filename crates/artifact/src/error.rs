//! Why a module could not be had.

use std::time::Duration;

use crate::reference::ReferenceError;
use crate::store::StoreError;

/// A word of a closed list, for conditions and metric labels (spec: wasmplugin-and-routing §1.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the condition reasons")]
pub enum FetchReason {
    InvalidReference,
    SecretInvalid,
    Unauthorized,
    ManifestNotFound,
    RegistryUnreachable,
    TooManyRequests,
    UnsupportedMediaType,
    DigestMismatch,
    TooLarge,
    InvalidModule,
    FileNotFound,
    StoreFailed,
}

impl FetchReason {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidReference => "InvalidReference",
            Self::SecretInvalid => "SecretInvalid",
            Self::Unauthorized => "Unauthorized",
            Self::ManifestNotFound => "ManifestNotFound",
            Self::RegistryUnreachable => "RegistryUnreachable",
            Self::TooManyRequests => "TooManyRequests",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::DigestMismatch => "DigestMismatch",
            Self::TooLarge => "TooLarge",
            Self::InvalidModule => "InvalidModule",
            Self::FileNotFound => "FileNotFound",
            Self::StoreFailed => "StoreFailed",
        }
    }
}

/// Why a module could not be fetched. Whatever is in the store already is untouched and usable.
#[derive(Debug, thiserror::Error)]
#[error("cannot fetch Wasm module {source_name}: {message}")]
pub struct FetchError {
    /// What was asked for.
    pub source_name: String,
    /// What went wrong, with the server's own words where it gave some.
    pub message: String,
    /// Why, in one word.
    pub reason: FetchReason,
    /// How long the server asked us to wait.
    pub retry_after: Option<Duration>,
}

/// A failure before it is known what was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) reason: FetchReason,
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    pub(crate) fn new(reason: FetchReason, message: impl Into<String>) -> Self {
        Self { message: message.into(), reason, retry_after: None }
    }

    pub(crate) fn for_source(self, source: impl ToString) -> FetchError {
        FetchError {
            source_name: source.to_string(),
            message: self.message,
            reason: self.reason,
            retry_after: self.retry_after,
        }
    }

    /// Puts a stage before the message, in the words that Istio's users search for.
    pub(crate) fn stage(mut self, stage: &str) -> Self {
        self.message = format!("{stage}: {}", self.message);
        self
    }
}

impl From<ReferenceError> for Failure {
    fn from(e: ReferenceError) -> Self {
        Self::new(FetchReason::InvalidReference, e.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        Self::new(FetchReason::StoreFailed, e.to_string())
    }
}

impl From<reqwest::Error> for Failure {
    fn from(e: reqwest::Error) -> Self {
        // The useful part (connection refused, certificate …) is at the end of the chain.
        let mut cause: &dyn std::error::Error = &e;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let what = if e.is_timeout() { "timed out: " } else { "" };
        Self::new(FetchReason::RegistryUnreachable, format!("{what}{cause}"))
    }
}
