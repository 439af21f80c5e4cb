//! A running Envoy.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::envoy_config::{EnvoyConfig, LOG_FORMAT};
use super::probe;
use super::process::{ChildGuard, command_on_core};

/// How an Envoy is started.
#[derive(Debug, Clone)]
pub struct EnvoyOptions {
    /// The binary, see [`super::envoy_install::install`].
    pub binary: PathBuf,
    /// The configuration.
    pub config: EnvoyConfig,
    /// The number of worker threads (`--concurrency`).
    pub concurrency: u32,
    /// The level of Envoy's own log.
    pub log_level: String,
    /// The levels of single loggers, as in `wasm:debug,http:trace`; empty for none.
    pub component_log_level: String,
    /// The core that all threads run on, or any.
    pub core: Option<u32>,
    /// How long it may take until it is ready. Compiling a Go plug-in takes seconds.
    pub ready_time_max: Duration,
}

impl EnvoyOptions {
    /// One worker, warnings only, any core.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, config: EnvoyConfig) -> Self {
        Self {
            binary: binary.into(),
            config,
            concurrency: 1,
            log_level: "warning".to_owned(),
            component_log_level: String::new(),
            core: None,
            ready_time_max: Duration::from_secs(30),
        }
    }
}

/// An Envoy that runs until it is dropped.
#[derive(Debug)]
pub struct Envoy {
    child: ChildGuard,
    listener: SocketAddr,
    admin: SocketAddr,
}

impl Envoy {
    /// Starts Envoy and waits until it is ready.
    ///
    /// # Errors
    /// When it ends (a plug-in or the configuration was refused) or is not ready in time, with the end of its log.
    pub fn start(options: &EnvoyOptions) -> io::Result<Self> {
        Self::start_with_bootstrap(options, &options.config.to_bootstrap())
    }

    /// Like [`Envoy::start`], with a configuration that the caller has changed. Its ports must still be those of
    /// `options`.
    ///
    /// # Errors
    /// As for [`Envoy::start`].
    pub fn start_with_bootstrap(options: &EnvoyOptions, bootstrap: &Value) -> io::Result<Self> {
        let mut envoy = Self::spawn(options, bootstrap)?;
        let admin = envoy.admin;
        envoy.child.wait_ready(Instant::now() + options.ready_time_max, || {
            probe::get(admin, "/ready", &[], Duration::from_secs(1)).is_ok_and(|answer| answer.status == 200)
        })?;
        Ok(envoy)
    }

    /// Starts Envoy and returns at once, for whoever measures how long it takes.
    ///
    /// # Errors
    /// When the configuration cannot be written or the binary cannot be run.
    pub fn spawn(options: &EnvoyOptions, bootstrap: &Value) -> io::Result<Self> {
        let dir = TempDir::with_prefix("wasmgate-envoy-")?;
        let file = dir.path().join("bootstrap.json");
        std::fs::write(&file, bootstrap.to_string())?;
        let mut command = command_on_core(&options.binary, options.core);
        command.arg("--config-path").arg(&file);
        command.args(["--concurrency", &options.concurrency.to_string()]);
        command.args(["--log-level", &options.log_level, "--log-format", LOG_FORMAT]);
        if !options.component_log_level.is_empty() {
            command.args(["--component-log-level", &options.component_log_level]);
        }
        // Without this two Envoys on one machine fight over shared memory.
        command.arg("--disable-hot-restart");
        Ok(Self {
            child: ChildGuard::spawn_in("envoy", command, dir)?,
            listener: SocketAddr::from((Ipv4Addr::LOCALHOST, options.config.port)),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, options.config.admin_port)),
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn listener(&self) -> SocketAddr {
        self.listener
    }

    /// The admin interface.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The process, for its pids, its log (standard error) and an access log on `/dev/stdout`.
    #[must_use]
    pub fn child(&self) -> &ChildGuard {
        &self.child
    }

    /// Mutable access to the process, for waiting or stopping early.
    pub fn child_mut(&mut self) -> &mut ChildGuard {
        &mut self.child
    }

    /// The directory of its configuration and its output.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.child.dir()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::envoy_install;
    use crate::peers::ports::{PortLease, free_port};

    fn installed() -> PathBuf {
        envoy_install::install(&std::env::temp_dir().join("wasmgate-peers")).unwrap()
    }

    #[test]
    #[ignore = "downloads the Envoy binary; the comparison tests do so through their own cache"]
    fn a_refused_connection_is_a_503_and_an_access_log_line() {
        let binary = installed();
        assert_eq!(envoy_install::version(&binary).unwrap(), envoy_install::ENVOY_VERSION);
        let (front, nobody) = (PortLease::new().unwrap(), PortLease::new().unwrap());
        let mut config = EnvoyConfig::new(front.port(), free_port().unwrap(), nobody.address());
        config.access_log = Some("/dev/stdout".into());
        let envoy = Envoy::start(&EnvoyOptions::new(binary, config)).unwrap();
        let answer = probe::get(envoy.listener(), "/x", &[], Duration::from_secs(5)).unwrap();
        assert_eq!((answer.status, answer.header("server")), (503, Some("istio-envoy")));
        // Envoy writes its access log out once a second.
        let line = crate::peers::process::wait_until(Instant::now() + Duration::from_secs(5), || {
            envoy.child().stdout().ok().filter(|text| text.ends_with('\n'))
        });
        assert!(line.unwrap().contains(r#""response_flags":"UF""#));
    }

    #[test]
    #[ignore = "downloads the Envoy binary; the comparison tests do so through their own cache"]
    fn a_configuration_that_envoy_refuses_is_reported_with_its_log() {
        let config = EnvoyConfig::new(1, free_port().unwrap(), "127.0.0.1:1".parse().unwrap());
        let options = EnvoyOptions::new(installed(), config);
        let mut bootstrap = options.config.to_bootstrap();
        bootstrap["no_such_field"] = true.into();
        let error = Envoy::start_with_bootstrap(&options, &bootstrap).unwrap_err().to_string();
        assert!(error.starts_with("envoy ended with") && error.contains("no_such_field"), "{error}");
    }
}
