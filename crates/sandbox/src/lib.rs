//! The surroundings of a gateway on loopback: an OCI registry and an httpbin-like backend, for the demo and for tests.
//!
//! Nothing here is made for the open network: one process, everything in memory, plain HTTP.
#![warn(missing_docs)]

mod backend;
mod registry;
mod server;

pub use backend::Backend;
pub use registry::{Authentication, Fault, FaultTarget, Registry, RegistryOptions};
