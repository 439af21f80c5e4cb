//! A proxy that is running, whichever it is.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wasmgate_testkit::peers::envoy::Envoy;
use wasmgate_testkit::peers::haproxy::Haproxy;
use wasmgate_testkit::peers::nginx::Nginx;
use wasmgate_testkit::peers::probe;
use wasmgate_testkit::peers::process::{ChildGuard, command_on_core};

use crate::case::Protocol;
use crate::manifests;

/// How long Wasmgate may take until it is ready.
const READY_TIME_MAX: Duration = Duration::from_secs(60);

/// How Wasmgate is started.
#[derive(Debug)]
pub(crate) struct WasmgateOptions {
    pub(crate) binary: PathBuf,
    pub(crate) port: u16,
    pub(crate) admin_port: u16,
    pub(crate) backend_port: u16,
    pub(crate) plugin: Option<PathBuf>,
    /// Where compiled modules are kept.
    pub(crate) cache_dir: PathBuf,
    /// The file of the access log, or none.
    pub(crate) access_log: Option<PathBuf>,
    pub(crate) core: Option<u32>,
    pub(crate) workers: u16,
    /// The Secret of a certificate: the listener speaks TLS.
    pub(crate) secret: Option<String>,
    /// The backend speaks HTTP/2 with prior knowledge.
    pub(crate) is_upstream_http2: bool,
    /// Further files of manifests.
    pub(crate) files: Vec<(String, String)>,
    /// Further arguments.
    pub(crate) arguments: Vec<String>,
}

impl WasmgateOptions {
    /// One worker on any core, without a plug-in and an access log.
    pub(crate) fn new(binary: PathBuf, port: u16, admin_port: u16, backend_port: u16) -> Self {
        Self {
            binary,
            port,
            admin_port,
            backend_port,
            plugin: None,
            cache_dir: PathBuf::from("cache"),
            access_log: None,
            core: None,
            workers: 1,
            secret: None,
            is_upstream_http2: false,
            files: Vec::new(),
            arguments: Vec::new(),
        }
    }
}

/// A Wasmgate that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Wasmgate {
    child: ChildGuard,
    listener: SocketAddr,
    admin: SocketAddr,
}

impl Wasmgate {
    /// Starts Wasmgate and waits until it is ready.
    pub(crate) fn start(options: &WasmgateOptions) -> io::Result<Self> {
        let mut wasmgate = Self::spawn(options)?;
        let admin = wasmgate.admin;
        wasmgate.child.wait_ready(Instant::now() + READY_TIME_MAX, || {
            probe::get(admin, "/ready", &[], Duration::from_secs(1)).is_ok_and(|answer| answer.status == 200)
        })?;
        Ok(wasmgate)
    }

    /// Starts Wasmgate and returns at once.
    pub(crate) fn spawn(options: &WasmgateOptions) -> io::Result<Self> {
        let dir = TempDir::with_prefix("wasmgate-")?;
        let config = dir.path().join("manifests");
        std::fs::create_dir(&config)?;
        write_manifests(&config, options)?;
        for (name, text) in &options.files {
            std::fs::write(config.join(name), text)?;
        }
        let access_log = options.access_log.as_ref().map_or("off".into(), |path| path.display().to_string());
        let listener = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, options.admin_port));
        let mut command = command_on_core(&options.binary, options.core);
        command.arg("run").arg("--config").arg(&config);
        command.arg("--admin").arg(admin.to_string());
        command.args([
            "--workers",
            &options.workers.to_string(),
            "--log-level",
            "warning",
            "--access-log",
            &access_log,
        ]);
        command.arg("--cache-dir").arg(&options.cache_dir).args(&options.arguments);
        Ok(Self { child: ChildGuard::spawn_in("wasmgate", command, dir)?, listener, admin })
    }

    /// Replaces the manifests by those of changed options; the ports must be the same.
    pub(crate) fn apply(&self, options: &WasmgateOptions) -> io::Result<()> {
        write_manifests(&self.child.dir().join("manifests"), options)
    }

    /// Writes one file of manifests, in one step.
    pub(crate) fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let new = self.child.dir().join("changed");
        std::fs::write(&new, text)?;
        std::fs::rename(new, self.child.dir().join("manifests").join(name))
    }

    pub(crate) fn child_mut(&mut self) -> &mut ChildGuard {
        &mut self.child
    }
}

/// Writes beside and renames, so that a watching gateway never sees half a file.
fn write_manifests(dir: &Path, options: &WasmgateOptions) -> io::Result<()> {
    let text = manifests::gateway(options)?;
    let new = dir.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(new, dir.join("gateway.yaml"))
}

/// Any of the proxies.
#[derive(Debug)]
pub(crate) enum Running {
    Nginx(Nginx),
    Haproxy(Haproxy),
    Envoy(Envoy),
    Wasmgate(Wasmgate),
}

impl Running {
    /// Where HTTP/1.1 clients connect.
    pub(crate) fn listener(&self) -> SocketAddr {
        match self {
            Self::Nginx(nginx) => nginx.listener(),
            Self::Haproxy(haproxy) => haproxy.listener(),
            Self::Envoy(envoy) => envoy.listener(),
            Self::Wasmgate(wasmgate) => wasmgate.listener,
        }
    }

    /// Where clients of a protocol connect; only nginx and HAProxy have a port of its own for HTTP/2.
    pub(crate) fn address(&self, protocol: Protocol) -> SocketAddr {
        let h2_listener = match (self, protocol) {
            (Self::Nginx(nginx), Protocol::Http2) => nginx.h2_listener(),
            (Self::Haproxy(haproxy), Protocol::Http2) => haproxy.h2_listener(),
            _ => None,
        };
        h2_listener.unwrap_or_else(|| self.listener())
    }

    /// The proxy's processes, all of which count.
    pub(crate) fn pids(&self) -> Vec<u32> {
        match self {
            Self::Nginx(nginx) => nginx.child().pids(),
            Self::Haproxy(haproxy) => haproxy.child().pids(),
            Self::Envoy(envoy) => envoy.child().pids(),
            Self::Wasmgate(wasmgate) => wasmgate.child.pids(),
        }
    }
}
