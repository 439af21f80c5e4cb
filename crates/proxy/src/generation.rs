//! One configuration as the data path runs it.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use wasmgate_config::{Cluster, RouteTable, TcpTarget};
use wasmgate_plugin::{FailStrategy, PluginVersion};

use crate::tls::ListenerTls;

/// An immutable configuration. Workers swap it in one step; a stream keeps the one that it started with.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    /// Number that grows with every publication.
    pub id: u64,
    /// Listeners.
    pub listeners: Vec<GenerationListener>,
    /// All clusters by name: those that routes lead to, and those that only plug-ins call.
    pub clusters: BTreeMap<Arc<str>, Arc<Cluster>>,
}

impl Generation {
    /// Plug-ins that have a step in some chain.
    pub fn plugin_names(&self) -> HashSet<Arc<str>> {
        let name = |step: &ChainStep| match step {
            ChainStep::Plugin(version) => Arc::clone(&version.definition.name),
            ChainStep::Unavailable { name, .. } => Arc::clone(name),
        };
        self.listeners.iter().flat_map(GenerationListener::steps).map(name).collect()
    }

    /// Versions that its chains run, each once.
    pub fn versions(&self) -> Vec<Arc<PluginVersion>> {
        let mut out: Vec<Arc<PluginVersion>> = Vec::new();
        for step in self.listeners.iter().flat_map(GenerationListener::steps) {
            if let ChainStep::Plugin(version) = step
                && !out.iter().any(|v| v.id == version.id)
            {
                out.push(Arc::clone(version));
            }
        }
        out
    }
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
    /// Where connections go, if this is a TCP listener.
    pub tcp: Option<Arc<TcpTarget>>,
    /// Names and certificates, if its connections begin with TLS; see [`crate::Gateway::listener_tls`].
    pub tls: Option<Arc<ListenerTls>>,
    /// Its connections begin with a header of the PROXY protocol.
    pub has_proxy_header: bool,
    /// Plug-ins of HTTP streams in the order of the request.
    pub chain: Vec<ChainStep>,
    /// Plug-ins of connections, in the order of what the client sends.
    pub network_chain: Vec<ChainStep>,
}

impl GenerationListener {
    fn steps(&self) -> impl Iterator<Item = &ChainStep> {
        self.network_chain.iter().chain(&self.chain)
    }
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
