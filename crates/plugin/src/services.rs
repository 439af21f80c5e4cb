//! What plug-ins see of the process: its log, and the clusters that they can call.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use wasmgate_host::{
    LogLevel, LogSource, PluginContext, PropertyValue, Services, UpstreamHost, UpstreamState,
};

use crate::log_budget::{Admission, LogBudget};

/// The level of the `wasm` logger; changes take effect at once on every worker.
#[derive(Clone, Debug)]
pub struct LogLevelCell(Arc<AtomicU8>);

/// Above every level: nothing is logged.
const OFF: u8 = 6;

impl LogLevelCell {
    /// A cell with a level; `None` is off.
    pub fn new(level: Option<LogLevel>) -> Self {
        let cell = Self(Arc::new(AtomicU8::new(OFF)));
        cell.set(level);
        cell
    }

    /// Changes the level.
    pub fn set(&self, level: Option<LogLevel>) {
        self.0.store(level.map_or(OFF, |l| l as u8), Ordering::Relaxed);
    }

    fn raw(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Sends plug-ins' lines to `tracing` under the target `wasm`, with Envoy's prefix (spec: proxy-wasm-host §15.1), and
/// knows the clusters of the configuration. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PluginServices {
    level: LogLevelCell,
    /// Endpoints by cluster.
    clusters: Arc<ArcSwap<BTreeMap<Arc<str>, Vec<SocketAddr>>>>,
    node: Arc<PropertyValue>,
    budget: Arc<LogBudget>,
}

impl PluginServices {
    /// Services that throw away log lines below the cell's level. `node` is what `xds.node` shows. A plug-in may log so many bytes a second, and some seconds' worth at once; 0 is no limit.
    pub fn new(level: LogLevelCell, node: PropertyValue, log_bytes_per_second: u64) -> Self {
        let node = Arc::new(node);
        Self { level, clusters: Arc::default(), node, budget: Arc::new(LogBudget::new(log_bytes_per_second)) }
    }

    /// Replaces what is known of clusters: the name of each, and its endpoints.
    pub fn set_clusters(&self, clusters: BTreeMap<Arc<str>, Vec<SocketAddr>>) {
        self.clusters.store(Arc::new(clusters));
    }
}

impl Services for PluginServices {
    fn log(&self, source: LogSource<'_>, level: LogLevel, message: &[u8]) {
        // First of all: at the usual level most lines end here, and a request must not pay for them.
        if (level as u8) < self.level.raw() {
            return;
        }
        let plugin = source.plugin;
        match self.budget.admit(&plugin.name, message.len(), Instant::now()) {
            Admission::LeftOut => return,
            Admission::Logged(0) => {}
            Admission::Logged(count) => {
                let name = plugin.name.as_str();
                tracing::warn!(target: "wasm", plugin = name, "plugin {name}: {count} log lines were left out, it logs more than it may");
            }
        }
        let parts = [&plugin.name, &plugin.root_id, &plugin.vm_id];
        let mut prefix = String::from("wasm log");
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            prefix.push(' ');
            prefix.push_str(part);
        }
        let message = String::from_utf8_lossy(message);
        let name = plugin.name.as_str();
        match level {
            LogLevel::Trace => tracing::trace!(target: "wasm", plugin = name, "{prefix}: {message}"),
            LogLevel::Debug => tracing::debug!(target: "wasm", plugin = name, "{prefix}: {message}"),
            LogLevel::Info => tracing::info!(target: "wasm", plugin = name, "{prefix}: {message}"),
            LogLevel::Warn => tracing::warn!(target: "wasm", plugin = name, "{prefix}: {message}"),
            LogLevel::Error => tracing::error!(target: "wasm", plugin = name, "{prefix}: {message}"),
            LogLevel::Critical => {
                tracing::error!(target: "wasm", plugin = name, critical = true, "{prefix}: {message}")
            }
        }
    }

    fn upstream(&self, _: &PluginContext, cluster: &str) -> UpstreamState {
        match self.clusters.load().get(cluster) {
            Some(endpoints) if endpoints.is_empty() => UpstreamState::NoHealthyHost,
            Some(_) => UpstreamState::Available,
            None => UpstreamState::Unknown,
        }
    }

    fn upstream_hosts(&self, _: &PluginContext, cluster: &str) -> Vec<UpstreamHost> {
        let host = |address: &SocketAddr| UpstreamHost { address: address.to_string(), healthy: true };
        self.clusters.load().get(cluster).into_iter().flatten().map(host).collect()
    }

    fn property(&self, _: &PluginContext, path: &[&[u8]]) -> Option<PropertyValue> {
        match path {
            [b"xds", b"node", field @ ..] | [b"node", field @ ..] => self.node.get(field).cloned(),
            // An ingress gateway's listeners are outbound listeners to Istio.
            [b"xds", b"listener_direction"] | [b"listener_direction"] => Some(PropertyValue::Int(2)),
            _ => None,
        }
    }

    fn log_level(&self) -> LogLevel {
        LogLevel::from_guest(u32::from(self.level.raw())).unwrap_or(LogLevel::Critical)
    }
}
