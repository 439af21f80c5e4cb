//! One attempt to bring a plug-in up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmgate_artifact::{CompileError, FetchError, Fetcher};
use wasmgate_host::{Engine, LoadError as ModuleError, Module, Process, StartError};

use crate::compiler::Compiler;
use crate::definition::PluginDefinition;
use crate::stats::PluginStats;
use crate::version::PluginVersion;

/// How far an attempt has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadStage {
    /// Resolving the reference, downloading, verifying.
    Fetching,
    /// Compiling and checking the module.
    Compiling,
    /// Starting VMs.
    Starting,
}

impl LoadStage {
    /// The word for people and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::Compiling => "compiling",
            Self::Starting => "starting",
        }
    }
}

/// Why an attempt failed. The version that served before goes on serving.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The pull secret.
    #[error("cannot fetch Wasm module {name}: missing image pulling secret: {reason}")]
    Secret {
        /// The plug-in.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The module could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// It is no plug-in.
    #[error(transparent)]
    Module(#[from] ModuleError),
    /// It does not start, or rejects its configuration.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A thread of ours died.
    #[error("internal error while loading: {0}")]
    Internal(String),
}

impl LoadError {
    /// A word of a closed list (spec: wasmplugin-and-routing §1.16).
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Secret { .. } => "SecretNotFound",
            Self::Fetch(e) => e.reason.as_str(),
            Self::Compile(CompileError::Invalid(_)) => "InvalidModule",
            Self::Compile(_) => "CompileFailed",
            Self::Module(ModuleError::MissingImports { .. } | ModuleError::ImportTypes { .. }) => {
                "UnsupportedImport"
            }
            Self::Module(ModuleError::NoAbiVersion { .. } | ModuleError::UnsupportedAbi { .. }) => {
                "UnsupportedABI"
            }
            Self::Module(ModuleError::UnknownCapabilities { .. }) => "UnknownCapability",
            Self::Module(_) => "InvalidModule",
            Self::Start(StartError::ConfigureFalse { .. }) => "ConfigureFailed",
            Self::Start(_) => "StartFailed",
            Self::Internal(_) => "InternalError",
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Fetch(e) => e.retry_after,
            _ => None,
        }
    }

    pub(crate) fn is_fetch(&self) -> bool {
        matches!(self, Self::Secret { .. } | Self::Fetch(_))
    }
}

/// What loading needs.
pub(crate) struct Loader {
    pub(crate) engine: Engine,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) compiler: Compiler,
    pub(crate) process: Process,
    pub(crate) workers: usize,
}

/// What is said of callbacks that the list of allowed capabilities keeps from being called.
pub(crate) fn silenced_text(callbacks: &[&str]) -> String {
    format!(
        "the allowed capabilities leave out callbacks that the module has, which are never called: {}",
        callbacks.join(", ")
    )
}

static NEXT_VERSION: AtomicU64 = AtomicU64::new(1);

impl Loader {
    pub(crate) async fn load(
        &self,
        definition: &Arc<PluginDefinition>,
        stats: &Arc<PluginStats>,
        progress: &(dyn Fn(LoadStage) + Send + Sync),
    ) -> Result<Arc<PluginVersion>, LoadError> {
        progress(LoadStage::Fetching);
        if let Some(reason) = &definition.secret_error {
            return Err(LoadError::Secret { name: definition.name.to_string(), reason: reason.clone() });
        }
        let config = definition.docker_config.as_deref();
        let artifact =
            self.fetcher.fetch(&definition.source, definition.pull_mode, config, definition.sha256).await?;
        progress(LoadStage::Compiling);
        let compiled = self.compiler.compile(&self.engine, self.fetcher.store(), &artifact).await?;
        progress(LoadStage::Starting);
        let (engine, definition) = (self.engine.clone(), Arc::clone(definition));
        let shared = (Arc::clone(stats), self.process.clone());
        let workers = self.workers;
        let start = move || {
            let allowed = definition.allowed_capabilities.clone();
            let module = Arc::new(Module::restricted(&engine, compiled, allowed)?);
            let silenced = module.silenced_callbacks();
            if !silenced.is_empty() {
                let name = &*definition.name;
                tracing::warn!(target: "wasm", plugin = name, "plugin {name}: {}", silenced_text(silenced));
            }
            let id = NEXT_VERSION.fetch_add(1, Ordering::Relaxed);
            Ok(PluginVersion::start(id, definition, artifact, module, engine, shared, workers)?)
        };
        tokio::task::spawn_blocking(start).await.map_err(|e| LoadError::Internal(e.to_string()))?
    }
}
