//! The data path: listeners, codecs, routing, filter chains, upstream connections, access log.
//!
//! Every worker is a thread with its own runtime, sockets, connection pools and VMs; a connection never leaves its
//! worker. Shared between workers are the [`Generation`] (immutable), counters (one shard each) and the log's writer.
//! Where to start reading: `exchange` is the one loop that every stream runs through, whatever the protocols on its two
//! sides; `connection` is what stands before it, `upstream` what stands behind it.
#![warn(missing_docs)]

mod access_log;
mod body;
mod callout;
mod chain;
mod clock;
mod connection;
mod exchange;
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod generation;
mod idle;
mod io;
mod phase;
mod proxy_protocol;
mod reason;
mod request;
mod settings;
mod sockets;
mod stats;
mod supervisor;
mod tcp;
mod tls;
mod transport;
mod upstream;
mod worker;
mod worker_generation;

pub use access_log::{AccessLogError, AccessLogSink, LogContext, LogFormat, LogFormatError};
pub use clock::civil as civil_date;
pub use gateway::{Gateway, GatewayError, InheritedSockets};
pub use generation::{ChainStep, Generation, GenerationListener};
pub use settings::Settings;
pub use stats::{Counter, GatewayStats, Overload, Traffic, TrafficCounters, WorkerStats};
pub use supervisor::{Resolver, ResolverError};
pub use tls::ListenerTls;
pub use upstream::counters::{ClusterCounters, HostCounters};
pub use upstream::host_state::HostState;
pub use upstream::state::ClusterState;
