//! What a VM knows of the plug-in that it runs.

use bytes::Bytes;

/// One configured use of a module: identity, configuration, environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginContext {
    /// Name in logs and in the property `plugin_name`; for a `WasmPlugin` resource `<namespace>.<name>`.
    pub name: String,
    /// Selects the root context in modules that register several (`pluginName` of a `WasmPlugin`).
    pub root_id: String,
    /// Namespace of shared data and queues.
    pub vm_id: String,
    /// Plug-in configuration; empty means none.
    pub configuration: Bytes,
    /// VM configuration; empty means none.
    pub vm_configuration: Bytes,
    /// Environment variables that WASI shows.
    pub environment: Vec<(String, String)>,
    /// `Pause` from a headers callback holds back the headers only (spec: proxy-wasm-host §7.2).
    pub allow_on_headers_stop_iteration: bool,
}
