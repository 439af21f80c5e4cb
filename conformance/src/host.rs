//! A gateway that runs the interpreter plug-in.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use wasmgate_testkit::gateway::{GatewayBuilder, RunningGateway};
use wasmgate_testkit::manifests;
use wasmgate_testkit::peers::envoy::{Envoy, EnvoyOptions};
use wasmgate_testkit::peers::envoy_config::{EnvoyConfig, WasmFilter};
use wasmgate_testkit::peers::process::wait_until;
use wasmgate_testkit::peers::{envoy_install, ports};

/// How long a trace may take to appear in the log.
const TRACE_TIME_MAX: Duration = Duration::from_secs(3);

/// A running host.
#[derive(Debug)]
pub enum Host {
    /// Ours.
    Wasmgate(Box<RunningGateway>),
    /// Envoy.
    Envoy(Box<Envoy>),
}

impl Host {
    /// Ours, with the plug-in and the scripts of all cases.
    ///
    /// # Errors
    /// The gateway's.
    pub fn wasmgate(
        program: &str,
        module: &Path,
        configuration: &str,
        endpoint: SocketAddr,
    ) -> std::io::Result<Self> {
        let url = format!("file://{}", module.display());
        let config = serde_json::json!({ "script": configuration });
        let spec = format!("  phase: AUTHN\n  pluginConfig: {config}\n");
        let gateway = GatewayBuilder::new(program)
            .workers(1)
            .backend(endpoint)
            .manifest("plugin.yaml", manifests::plugin("script", &url, &spec))
            .argument("--stream-idle-timeout=2")
            .run()?;
        Ok(Self::Wasmgate(Box::new(gateway)))
    }

    /// Envoy, with the same.
    ///
    /// # Errors
    /// Envoy's.
    pub fn envoy(
        peers: &Path,
        module: &Path,
        configuration: &str,
        endpoint: SocketAddr,
    ) -> std::io::Result<Self> {
        let binary = envoy_install::install(peers)?;
        let mut config = EnvoyConfig::new(ports::free_port()?, ports::free_port()?, endpoint);
        config.server_name = "wasmgate".to_owned();
        let mut filter = WasmFilter::new("istio-system.script", module);
        filter.configuration = serde_json::json!({ "script": configuration }).to_string();
        config.wasm_filters = vec![filter];
        let mut options = EnvoyOptions::new(binary, config);
        options.component_log_level = "wasm:info".to_owned();
        Ok(Self::Envoy(Box::new(Envoy::start(&options)?)))
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Wasmgate(gateway) => gateway.address(),
            Self::Envoy(envoy) => envoy.listener(),
        }
    }

    /// Whether it runs, and without the plug-in.
    #[must_use]
    pub fn has_refused(&self) -> bool {
        match self {
            Self::Wasmgate(gateway) => {
                let plugin = gateway.plugin("istio-system.script");
                plugin.and_then(|p| p.get("serving_image").cloned()).is_none_or(|image| image.is_null())
            }
            Self::Envoy(_) => false,
        }
    }

    /// Whether its process still runs.
    #[must_use]
    pub fn is_alive(&mut self) -> bool {
        let exited = match self {
            Self::Wasmgate(gateway) => gateway.child_mut().exited(),
            Self::Envoy(envoy) => envoy.child_mut().exited(),
        };
        matches!(exited, Ok(None))
    }

    /// The trace that the plug-in logged for a run.
    #[must_use]
    pub fn trace(&self, run: &str) -> Option<String> {
        let start = format!("trace {run}:");
        let find = || {
            let log = match self {
                Self::Wasmgate(gateway) => gateway.log(),
                Self::Envoy(envoy) => envoy.child().stderr().unwrap_or_default(),
            };
            let (_, rest) = log.split_once(&start)?;
            let (line, _) = rest.split_once('\n')?;
            let trace = line.split('\t').next().unwrap_or(line);
            Some(trace.trim().to_owned())
        };
        wait_until(Instant::now() + TRACE_TIME_MAX, find)
    }
}
