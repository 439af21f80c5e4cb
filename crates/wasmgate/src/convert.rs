//! From what a manifest says to what the plug-in life cycle wants.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use wasmgate_artifact::{Digest, ModuleSource, PullMode, Reference};
use wasmgate_config::{
    Credential, Diagnostic, EnvValue, FailStrategy, ModuleUrl, PluginSpec, PullPolicy, Severity, Snapshot,
};
use wasmgate_host::{Limits, PluginContext};
use wasmgate_plugin::PluginDefinition;

/// Istio's own variables travel in the same map; a user's variable with this prefix is lost there, so it is here.
const RESERVED_ENV_PREFIX: &str = "ISTIO_META_";

/// Makes a definition. `host_env`: variables of this process that plug-ins may see.
pub(crate) fn definition(spec: &PluginSpec, host_env: &[(String, String)]) -> PluginDefinition {
    let defaults = Limits::default();
    let limits = Limits {
        callback_time_max: spec.options.callback_time_max.unwrap_or(defaults.callback_time_max),
        start_time_max: spec.options.start_time_max.unwrap_or(defaults.start_time_max),
        memory_bytes_max: spec.options.memory_bytes_max.unwrap_or(defaults.memory_bytes_max),
        ..defaults
    };
    let (docker_config, secret_error) = match &spec.credential {
        Credential::None => (None, None),
        Credential::DockerConfig(bytes) => (Some(Arc::clone(bytes)), None),
        Credential::Unusable(reason) => (None, Some(reason.clone())),
    };
    let context = PluginContext {
        name: spec.name.to_string(),
        root_id: spec.root_id.to_string(),
        vm_id: String::new(),
        configuration: spec.configuration.as_bytes().to_vec().into(),
        vm_configuration: bytes::Bytes::new(),
        environment: environment(spec, host_env),
        allow_on_headers_stop_iteration: spec.options.allow_on_headers_stop_iteration,
    };
    PluginDefinition {
        name: Arc::clone(&spec.name),
        origin: format!("{} ({}:{}:{})", spec.resource, spec.file, spec.url_at.line, spec.url_at.column)
            .into(),
        source: source(&spec.url),
        pull_mode: pull_mode(spec),
        revision: (pull_mode(spec) == PullMode::Always && spec.sha256.is_none()).then_some(spec.revision),
        docker_config,
        secret_error,
        sha256: spec.sha256.as_deref().and_then(Digest::parse),
        context: Arc::new(context),
        limits,
        allowed_capabilities: spec.options.allowed_capabilities.clone(),
        fail_strategy: match spec.fail_strategy {
            FailStrategy::Open => wasmgate_plugin::FailStrategy::Open,
            FailStrategy::Close => wasmgate_plugin::FailStrategy::Close,
            FailStrategy::Reload => wasmgate_plugin::FailStrategy::Reload,
        },
        phase: spec.phase.as_str(),
        priority: spec.priority,
    }
}

fn source(url: &ModuleUrl) -> ModuleSource {
    match url {
        ModuleUrl::Oci(reference) => ModuleSource::Oci(reference.clone()),
        ModuleUrl::Http(url) => ModuleSource::Http(url.clone()),
        ModuleUrl::File(path) => ModuleSource::File(path.clone()),
    }
}

/// spec: wasmplugin-and-routing §1.5
fn pull_mode(spec: &PluginSpec) -> PullMode {
    let is_latest = || match &spec.url {
        ModuleUrl::Oci(text) => Reference::parse(text).is_ok_and(|r| r.is_literal_latest()),
        ModuleUrl::Http(_) | ModuleUrl::File(_) => false,
    };
    match spec.pull_policy {
        PullPolicy::Always => PullMode::Always,
        PullPolicy::Unspecified if is_latest() => PullMode::Always,
        PullPolicy::Unspecified | PullPolicy::IfNotPresent => PullMode::IfNotPresent,
    }
}

fn environment(spec: &PluginSpec, host_env: &[(String, String)]) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (name, value) in spec.env.iter().filter(|(n, _)| !n.starts_with(RESERVED_ENV_PREFIX)) {
        match value {
            EnvValue::Inline(value) => out.push((name.clone(), value.clone())),
            // One that does not exist here is left out, as Envoy does.
            EnvValue::Host => out.extend(host_env.iter().find(|(n, _)| n == name).cloned()),
        }
    }
    out
}

/// Variables that plug-ins ask for and do not get.
pub(crate) fn missing_variables(snapshot: &Snapshot, host_env: &[(String, String)]) -> Vec<Diagnostic> {
    let mut out = Vec::new();
    for spec in &snapshot.plugins {
        for (name, value) in &spec.env {
            if matches!(value, EnvValue::Host) && !host_env.iter().any(|(n, _)| n == name) {
                out.push(Diagnostic {
                    severity: Severity::Warning,
                    file: Arc::clone(&spec.file),
                    position: spec.position,
                    resource: Some(spec.resource.clone()),
                    field: "spec.vmConfig.env".to_owned(),
                    message: format!("{name} is not set, or not allowed by --allow-host-env {name}: the plug-in does not get it"),
                });
            }
        }
    }
    out
}

/// The clusters that plug-ins can call, with their endpoints.
pub(crate) fn callable(snapshot: &Snapshot) -> BTreeMap<Arc<str>, Vec<SocketAddr>> {
    snapshot
        .clusters
        .iter()
        .map(|(name, cluster)| (Arc::clone(name), cluster.endpoints.iter().map(|e| e.address).collect()))
        .collect()
}
