//! Kubernetes and Istio resources: parsing, validation, where they come from, and the compiler that turns them into
//! what the data path runs.
//!
//! ```text
//! folder ──▶ Store (typed resources, last good ones kept) ──▶ compile() ──▶ Snapshot + diagnostics
//! ```
//!
//! [`compile`] is a pure function. [`FolderSource`] is the only part that does I/O. Nothing here knows the network, Wasm
//! or the data path. Where to start reading: `compile`, then `wasm_plugin` for the rules that users know best.
#![warn(missing_docs)]

mod certificate;
mod compile;
mod config_map;
mod decode;
mod destination_rule;
mod diagnostic;
mod endpoint_slice;
mod folder;
mod gateway;
mod http_route;
mod meta;
mod node;
mod policy;
mod quantity;
mod resource;
mod route_table;
mod secret;
mod service;
mod service_entry;
mod snapshot;
mod store;
mod tcp_route;
mod wasm_plugin;

pub use certificate::{Certificate, CertificateFacts, ClientAuthorities, ServerAuthorities};
pub use compile::{GatewayIdentity, compile};
pub use config_map::ConfigMap;
pub use diagnostic::{Diagnostic, Severity};
pub use folder::{FolderError, FolderSource, ManifestFile};
pub use meta::{ObjectMeta, Position, ResourceId};
pub use policy::{
    ClusterLimits, ClusterPolicy, ClusterTls, EJECTION_TIME_MAX, HashKey, HashTable, HealthCheck,
    HealthProbe, LoadBalancer, OutlierDetection, ProxyProtocol, RetryBudget, TcpKeepalive, TlsOrigination,
    Warmup,
};
pub use resource::{Kind, Resource, Spec};
pub use route_table::{
    Backend, RequestKey, RetryPolicy, Route, RouteMatch, RouteTable, RouteTableBuilder, RouteTimeouts,
};
pub use secret::Secret;
pub use snapshot::{
    Cluster, Credential, Endpoint, EndpointName, Listener, ModuleUrl, PluginOptions, PluginSpec, PullPolicy,
    Snapshot, TcpTarget, TlsEntry, TlsListener, TlsTermination, UpstreamProtocol,
};
pub use store::{Gap, Store};
pub use wasm_plugin::{EnvValue, FailStrategy, Phase, PluginType, WasmPlugin};
