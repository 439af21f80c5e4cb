//! One configuration as the data path runs it.

use std::net::SocketAddr;
use std::sync::Arc;

use wasmgate_config::RouteTable;
use wasmgate_plugin::{FailStrategy, PluginVersion};

/// An immutable configuration. Workers swap it in one step; a stream keeps the one that it started with.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    /// Number that grows with every publication.
    pub id: u64,
    /// Listeners.
    pub listeners: Vec<GenerationListener>,
}

/// A listener of a generation.
#[derive(Clone, Debug)]
pub struct GenerationListener {
    /// Istio's name.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Hosts and routes.
    pub routes: Arc<RouteTable>,
    /// Plug-ins in the order of the request.
    pub chain: Vec<ChainStep>,
}

/// A step of a listener's chain.
#[derive(Clone, Debug)]
pub enum ChainStep {
    /// A plug-in that is ready.
    Plugin(Arc<PluginVersion>),
    /// A plug-in that has never been ready.
    Unavailable {
        /// Its name.
        name: Arc<str>,
        /// What that means for requests.
        fail_strategy: FailStrategy,
    },
}
