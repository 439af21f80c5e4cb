//! What the tests and the benchmark share. It never becomes part of the gateway's binary, and it opens sockets on
//! loopback only.
//!
//! Start reading at [`gateway`]: the real binary on manifests of a test's own. [`peers`] are the proxies that Wasmgate is
//! compared with, [`plugins`] builds plug-ins from their sources.

pub mod client;
pub mod dns;
pub mod docker_registry;
pub mod gateway;
pub mod grpc;
pub mod http2;
pub mod load;
pub mod manifests;
pub mod peers;
pub mod plugins;
pub mod tls;
pub mod tls_endpoint;
pub mod upstream;
