//! What can go wrong, and what still works afterwards.

use std::fmt;
use std::time::Duration;

use crate::stream::ContextId;

/// Why a module was refused. The module cannot be used; the engine and other modules are fine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The engine could not be made.
    #[error("the WebAssembly engine cannot start: {0}")]
    Engine(String),
    /// The bytes are no WebAssembly module, or one that does not validate.
    #[error("not a valid WebAssembly module: {0}")]
    Invalid(String),
    /// The bytes are a component; Proxy-Wasm plug-ins are core modules.
    #[error(
        "this is a WebAssembly component, but a Proxy-Wasm plug-in is a core module; build for wasm32-wasip1"
    )]
    Component,
    /// No ABI marker among the exports.
    #[error(
        "missing or unknown Proxy-Wasm ABI version: the module exports no function proxy_abi_version_*{hint}"
    )]
    NoAbiVersion {
        /// What the builder of the module probably did.
        hint: &'static str,
    },
    /// A marker of a version that nobody here knows.
    #[error("unsupported Proxy-Wasm ABI version {found}; supported are 0.1.0, 0.2.0, 0.2.1 and 0.2.100")]
    UnsupportedAbi {
        /// The version as the marker spells it.
        found: String,
    },
    /// Functions that no Proxy-Wasm host provides.
    #[error("missing import: {}; no Proxy-Wasm host provides it: it belongs to the runtime of a language or to another kind of host", names.join(", "))]
    MissingImports {
        /// `module.name (type)` of each.
        names: Vec<String>,
    },
    /// Functions of other types than the ABI gives them.
    #[error("import type mismatch: {}", mismatches.join("; "))]
    ImportTypes {
        /// `module.name`, the module's type and the host's type of each.
        mismatches: Vec<String>,
    },
    /// A callback of another type than the ABI gives it.
    #[error("bad function signature for {name}: the module exports {found}, the ABI wants {wanted}")]
    ExportType {
        /// The export.
        name: String,
        /// The ABI's type.
        wanted: String,
        /// The module's type.
        found: String,
    },
    /// No memory named `memory`.
    #[error("the module exports no memory named \"memory\"")]
    NoMemory,
    /// Neither allocator is exported.
    #[error(
        "the module exports neither proxy_on_memory_allocate nor malloc, so the host cannot hand it data"
    )]
    NoAllocator,
    /// The list of what the plug-in may use has a name that is no function: what was meant stays forbidden.
    #[error("allowed capabilities: {}", names.join(", "))]
    UnknownCapabilities {
        /// Each name with what may have been meant.
        names: Vec<String>,
    },
}

/// Why a VM did not become ready. The module may work with another configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The module's initial memory is over the limit.
    #[error("the module starts with {initial_bytes} bytes of memory, more than the limit of {limit_bytes}")]
    MemoryOverLimit {
        /// What the module declares.
        initial_bytes: u64,
        /// [`crate::Limits::memory_bytes_max`].
        limit_bytes: u64,
    },
    /// The instance could not be made.
    #[error("cannot instantiate the module: {0}")]
    Instantiate(String),
    /// A start-up function or callback trapped.
    #[error("{}{}{hint}{}", .failure.summary(), logged(.last_log), .failure.backtrace())]
    Failed {
        /// What failed.
        failure: Failure,
        /// What the plug-in said of it: its panic message, or else the last line that it logged.
        last_log: Option<String>,
        /// What the builder of the module probably did.
        hint: &'static str,
    },
    /// `proxy_on_vm_start` returned false.
    #[error("proxy_on_vm_start returned false{}", logged(.last_log))]
    VmStartFalse {
        /// The last line that the plug-in logged.
        last_log: Option<String>,
    },
    /// `proxy_on_configure` returned false.
    #[error("proxy_on_configure returned false: the plug-in rejects its configuration{}", logged(.last_log))]
    ConfigureFalse {
        /// The last line that the plug-in logged.
        last_log: Option<String>,
    },
}

fn logged(last: &Option<String>) -> String {
    last.as_ref().map(|line| format!("; its last log line: {line}")).unwrap_or_default()
}

/// What ended a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureReason {
    /// The guest executed a trap; the text is the engine's.
    Trap(String),
    /// A callback ran longer than it may.
    CpuLimit(Duration),
    /// A trap after the guest asked for more memory than it may have.
    MemoryLimit(u64),
    /// The guest recursed too deeply.
    StackLimit,
    /// The guest ended itself with `proc_exit`.
    Exit(i32),
    /// The guest called `abort`.
    Abort(String),
}

impl FailureReason {
    /// A word of a closed list, for metric labels and reason codes.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Trap(_) | Self::Abort(_) => "trap",
            Self::CpuLimit(_) => "cpu",
            Self::MemoryLimit(_) => "memory",
            Self::StackLimit => "stack",
            Self::Exit(_) => "exit",
        }
    }
}

impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trap(text) => f.write_str(text),
            Self::CpuLimit(limit) => write!(f, "limit: cpu, the callback ran longer than {limit:?}"),
            Self::MemoryLimit(bytes) => write!(f, "limit: memory, more than {bytes} bytes asked for"),
            Self::StackLimit => f.write_str("limit: stack, call stack exhausted"),
            Self::Exit(code) => write!(f, "proc_exit({code})"),
            Self::Abort(text) => write!(f, "abort: {text}"),
        }
    }
}

/// A guest function that failed. The VM is never called again; other VMs are not affected.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub struct Failure {
    /// The export that was called.
    pub function: &'static str,
    /// The stream in whose name the guest acted: the callback's own, or the one that it had chosen with
    /// `proxy_set_effective_context`, as SDKs do before they hand over an answer. `None`: the root context.
    pub context: Option<ContextId>,
    /// What ended it.
    pub reason: FailureReason,
    /// The guest's frames, innermost first: demangled names, with file and line where the module has them.
    pub frames: Vec<String>,
}

impl Failure {
    fn summary(&self) -> String {
        format!("Function: {} failed: {}", self.function, self.reason)
    }

    /// The frames, a line each, after a line end; empty when there are none.
    fn backtrace(&self) -> String {
        if self.frames.is_empty() {
            return String::new();
        }
        let lines = self.frames.iter().enumerate().map(|(i, frame)| format!("\n  {i}:  {frame}"));
        format!("\nProxy-Wasm plugin in-VM backtrace:{}", lines.collect::<String>())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.summary(), self.backtrace())
    }
}
