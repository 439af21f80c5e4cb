//! The life of a plug-in: from a reference to ready VMs on every worker.
//!
//! ```text
//! PluginDefinition ──▶ PluginManager (control runtime): fetch → verify → compile → start VMs
//!                          │ publishes
//!                          ▼
//!                      PluginVersion (shared) ──▶ WorkerPlugin (one per worker) ──▶ PluginFilter (one per stream)
//! ```
//!
//! A version is immutable. Until a new one is ready the previous one serves; a failure is a state of the plug-in with
//! its reason, never of its neighbours. Where to start reading: `manager` for the control side, `worker` and `filter`
//! for the data path.
#![warn(missing_docs)]

mod cell;
mod compiler;
mod definition;
mod fault;
mod filter;
mod id_hasher;
mod load;
mod log_budget;
mod manager;
mod port;
mod property;
mod queue_signal;
mod services;
mod stats;
mod status;
mod version;
mod view;
mod worker;

pub use cell::{CallRunner, PluginWorker, VmHandle};
/// What plug-ins ask of a worker, and how it answers.
pub mod calls {
    pub use wasmgate_host::{
        CallToken, Effect, GrpcCall, GrpcStatus, GrpcTarget, HeaderPairs, HttpCall, HttpCallResponse,
        RedisOptions,
    };
}

pub use compiler::Compiler;
pub use definition::{FailStrategy, PluginDefinition};
pub use fault::Fault;
pub use filter::PluginFilter;
pub use load::{LoadError, LoadStage};
pub use manager::{ManagerOptions, PluginManager, PluginView};
pub use port::StreamPort;
pub use services::{LogLevelCell, PluginServices};
pub use stats::PluginStats;
pub use status::{FaultStatus, PluginState, PluginStatus, WorkerVmStatus};
pub use version::PluginVersion;
pub use view::WasmStream;
pub use worker::WorkerPlugin;
