//! What plug-ins log, on its way to the gateway's log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use wasmgate_host::{LogLevel, LogSource, Services};

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

/// Sends plug-ins' lines to `tracing` under the target `wasm`, with Envoy's prefix (spec: proxy-wasm-host §15.1).
#[derive(Clone, Debug)]
pub struct PluginLog {
    level: LogLevelCell,
}

impl PluginLog {
    /// A log that throws away what is below the cell's level.
    pub fn new(level: LogLevelCell) -> Self {
        Self { level }
    }
}

impl Services for PluginLog {
    fn log(&self, source: LogSource<'_>, level: LogLevel, message: &[u8]) {
        // First of all: at the usual level most lines end here, and a request must not pay for them.
        if (level as u8) < self.level.raw() {
            return;
        }
        let plugin = source.plugin;
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

    fn log_level(&self) -> LogLevel {
        LogLevel::from_guest(u32::from(self.level.raw())).unwrap_or(LogLevel::Critical)
    }
}
