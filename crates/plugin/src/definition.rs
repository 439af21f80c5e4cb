//! What a plug-in should be.

use std::collections::BTreeSet;
use std::sync::Arc;

use wasmgate_artifact::{Digest, ModuleSource, PullMode};
use wasmgate_host::{Limits, PluginContext};

/// What happens to a stream whose plug-in fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailStrategy {
    /// It is answered with 503.
    Close,
    /// It goes on without the plug-in.
    Open,
    /// The same as [`FailStrategy::Close`]: every strategy gets a fresh VM, which in Envoy only this one does.
    Reload,
}

impl FailStrategy {
    /// The manifest's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Close => "FAIL_CLOSE",
            Self::Open => "FAIL_OPEN",
            Self::Reload => "FAIL_RELOAD",
        }
    }
}

/// Everything that decides what runs. Two equal definitions are the same version.
#[derive(Clone, Debug)]
pub struct PluginDefinition {
    /// `<namespace>.<name>`
    pub name: Arc<str>,
    /// `kind/namespace/name` of the resource and where it stands, for messages.
    pub origin: Arc<str>,
    /// Where the module comes from.
    pub source: ModuleSource,
    /// When to ask the registry.
    pub pull_mode: PullMode,
    /// Of the manifest, if every change of it asks the registry again.
    pub revision: Option<u64>,
    /// The pull secret's content.
    pub docker_config: Option<Arc<[u8]>>,
    /// Why the pull secret cannot be used; then nothing is fetched.
    pub secret_error: Option<String>,
    /// The digest that the user pinned.
    pub sha256: Option<Digest>,
    /// What the VM knows.
    pub context: Arc<PluginContext>,
    /// What the VM may use.
    pub limits: Limits,
    /// Functions that it may use, by name; empty means all.
    pub allowed_capabilities: BTreeSet<String>,
    /// What happens when it fails.
    pub fail_strategy: FailStrategy,
    /// The phase's name, for people.
    pub phase: &'static str,
    /// The priority, for people.
    pub priority: Option<i32>,
}

impl PluginDefinition {
    /// Whether two definitions run the same thing. Where the manifest stands does not matter.
    pub fn runs_same(&self, other: &Self) -> bool {
        let Self {
            name,
            origin: _,
            source,
            pull_mode,
            revision,
            docker_config,
            secret_error,
            sha256,
            context,
            limits,
            allowed_capabilities,
            fail_strategy,
            phase: _,
            priority: _,
        } = self;
        *name == other.name
            && *source == other.source
            && *pull_mode == other.pull_mode
            && *revision == other.revision
            && *docker_config == other.docker_config
            && *secret_error == other.secret_error
            && *sha256 == other.sha256
            && *context == other.context
            && *limits == other.limits
            && *allowed_capabilities == other.allowed_capabilities
            && *fail_strategy == other.fail_strategy
    }
}
