//! A host for [Proxy-Wasm](https://github.com/proxy-wasm/spec) plug-ins.
//!
//! The crate runs plug-ins of ABI 0.1.0, 0.2.0, 0.2.1 and 0.2.100 on wasmtime. It knows no HTTP library, no async
//! runtime, no file system and no Kubernetes: what a plug-in sees of a request is whatever the embedder's
//! [`StreamContext`] shows, and what it asks of the proxy comes back as [`StreamAction`]s once the callback
//! has returned.
//!
//! ```text
//! Engine            one per process: compiler settings, the clock that interrupts runaway plug-ins
//!  └ Module<S>      one per module: validated, compiled, imports resolved
//!     └ Vm<S>       one per worker and plug-in: a linear memory, the root context
//!        └ ContextId   one per HTTP stream
//! ```
//!
//! `examples/hyper.rs` is a hyper server with one plug-in, in less than a hundred lines; `examples/tower.rs` is a layer that
//! puts one around any service.
//!
//! Where to start reading: `guest` is the entry algorithm (spec: proxy-wasm-host §23), `linker` lists every function
//! that a guest can import, `hostcalls` holds what they do.
//!
//! What the crate promises: nothing that a guest does can crash, block or grow the embedder beyond
//! [`Limits`], as long as the [`Engine`]'s clock runs, which [`Engine::new`] sees to; a guest that traps is reported with its own frames and never called again.
//!
//! Errors, failures and requests of the host may get further variants and fields in any version. [`Effect`] and
//! [`StreamAction`] do so only in one that breaks others: an embedder has to do what each of them says.
#![warn(missing_docs)]

mod abi;
mod actions;
mod calls;
mod effects;
mod engine;
mod error;
mod exports;
mod foreign;
mod guest;
mod hostcalls;
mod limits;
mod lines;
mod linker;
mod memory;
mod metrics;
mod module;
mod pairs;
mod plugin;
mod property;
mod proto;
mod services;
mod shared;
mod state;
mod stream;
mod vm;
mod wasi;

pub use abi::{
    AbiVersion, BufferType, DataAction, HeadersAction, LogLevel, MapType, MetricType, NetworkAction,
    PeerType, Status, StreamType, TrailersAction,
};
pub use actions::{Actions, Direction, Injection, LocalReply, StreamAction};
pub use effects::{
    CallToken, Effect, GrpcCall, GrpcStatus, GrpcTarget, HeaderPairs, HttpCall, HttpCallResponse, QueueToken,
    RedisOptions, UpstreamState,
};
pub use engine::Engine;
pub use error::{Failure, FailureReason, LoadError, StartError};
pub use exports::Callbacks;
pub use limits::Limits;
pub use metrics::{HistogramSnapshot, Metric, MetricLimits, MetricRegistry};
pub use module::Module;
pub use pairs::{EachPair, Pair, PairError, PairLimits, decode_pairs, encode_pairs};
pub use plugin::PluginContext;
pub use property::PropertyValue;
pub use services::{LogSource, Services, SystemServices};
pub use shared::{EnqueueOutcome, Namespace, QueueConsumer, SetOutcome, SharedLimits, SharedState};
pub use stream::{
    ContextId, EditOutcome, FilterStateOutcome, HeaderEdit, StreamContext, Streams, UpstreamHost,
};
pub use vm::{CallResult, Outcome, Process, Vm};
