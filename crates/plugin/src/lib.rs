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

mod compiler;
mod definition;
mod fault;
mod filter;
mod load;
mod log;
mod manager;
mod property;
mod stats;
mod status;
mod version;
mod view;
mod worker;

pub use compiler::Compiler;
pub use definition::{FailStrategy, PluginDefinition};
pub use fault::Fault;
pub use filter::PluginFilter;
pub use load::{LoadError, LoadStage};
pub use log::{LogLevelCell, PluginLog};
pub use manager::{ManagerOptions, PluginManager, PluginView};
pub use stats::PluginStats;
pub use status::{FaultStatus, PluginState, PluginStatus, WorkerVmStatus};
pub use version::PluginVersion;
pub use view::WasmStream;
pub use worker::WorkerPlugin;
