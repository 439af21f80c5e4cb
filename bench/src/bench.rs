//! One row: start a proxy, see that it does what the row is about, load it, count.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wasmgate_testkit::peers::envoy::{Envoy, EnvoyOptions};
use wasmgate_testkit::peers::envoy_config::{EnvoyConfig, WasmFilter};
use wasmgate_testkit::peers::envoy_install;
use wasmgate_testkit::peers::haproxy::{Haproxy, HaproxyOptions};
use wasmgate_testkit::peers::nginx::{Nginx, NginxBackend, NginxProxy};
use wasmgate_testkit::peers::ports::{PortLease, free_port};
use wasmgate_testkit::peers::probe;
use wasmgate_testkit::peers::process::{require_program, rss_mib};

use crate::arguments::Arguments;
use crate::case::{Case, Plugin, Proxy, Scenario};
use crate::disturbance;
use crate::load::Generators;
use crate::machine::Cores;
use crate::proxy::{Running, Wasmgate, WasmgateOptions};
use crate::reading::{Window, quietest};
use crate::report::Sample;

/// What the plug-in answers, and what the peers' own checks are made to answer.
pub(crate) const DENY_BODY: &str = "Forbidden by ASM Wasm Plugin";

/// The backend's body is as long as httpbin's teapot.
const BACKEND_BODY_BYTES: usize = 135;

/// Fills the connection pools, the caches and, in Envoy, the optimising compiler's tiers.
const WARM_UP_SECONDS: u32 = 1;

/// Everything that all rows have in common.
#[derive(Debug)]
pub(crate) struct Bench {
    cores: Cores,
    generators: Generators,
    backend: Nginx,
    backend_body: String,
    port: PortLease,
    h2_port: PortLease,
    envoy_binary: Option<PathBuf>,
    wasmgate_binary: PathBuf,
    go_plugin: Option<PathBuf>,
    rust_plugin: Option<PathBuf>,
    seconds: u32,
    patience: Duration,
    uses: Vec<Proxy>,
    dir: TempDir,
    // The backend's port is ours as long as the backend may be restarted.
    _backend_port: PortLease,
}

impl Bench {
    /// Checks that everything needed is there, and starts the backend.
    pub(crate) fn new(arguments: &Arguments) -> io::Result<Self> {
        let uses: Vec<Proxy> = [Proxy::Nginx, Proxy::Haproxy, Proxy::Envoy, Proxy::Wasmgate]
            .into_iter()
            .filter(|proxy| arguments.uses(*proxy))
            .collect();
        require_program("taskset", "util-linux")?;
        if uses.contains(&Proxy::Haproxy) {
            require_program("haproxy", "haproxy")?;
        }
        for file in [&arguments.go_plugin, &arguments.rust_plugin].into_iter().flatten() {
            require_file(file, "build the example plug-ins first")?;
        }
        if uses.contains(&Proxy::Wasmgate) {
            require_file(&arguments.wasmgate, "cargo build --release -p wasmgate, or --skip-wasmgate")?;
        }
        let cores = Cores::pick()?;
        let generators = Generators::new(cores.load)?;
        let envoy_binary =
            uses.contains(&Proxy::Envoy).then(|| envoy_install::install(&arguments.peers_dir)).transpose()?;
        let backend_port = PortLease::new()?;
        let backend_body = "x".repeat(BACKEND_BODY_BYTES);
        let backend =
            NginxBackend { port: backend_port.port(), body: backend_body.clone(), core: Some(cores.load) };
        Ok(Self {
            cores,
            generators,
            backend: Nginx::backend(&backend)?,
            backend_body,
            port: PortLease::new()?,
            h2_port: PortLease::new()?,
            envoy_binary,
            wasmgate_binary: arguments.wasmgate.clone(),
            go_plugin: arguments.go_plugin.clone(),
            rust_plugin: arguments.rust_plugin.clone(),
            seconds: arguments.seconds,
            patience: Duration::from_secs(arguments.patience.into()),
            uses,
            dir: TempDir::with_prefix("wasmgate-bench-")?,
            _backend_port: backend_port,
        })
    }

    pub(crate) fn uses(&self, proxy: Proxy) -> bool {
        self.uses.contains(&proxy)
    }

    pub(crate) fn envoy_binary(&self) -> Option<&Path> {
        self.envoy_binary.as_deref()
    }

    pub(crate) fn wasmgate_binary(&self) -> &Path {
        &self.wasmgate_binary
    }

    /// Measures one row once.
    pub(crate) fn measure(&self, case: Case) -> io::Result<Sample> {
        let proxy = self.start(case)?;
        self.verify(case, &proxy)?;
        let rss_idle_mib = rss_mib(&proxy.pids())?;
        let address = proxy.address(case.protocol);
        let deadline = Instant::now() + self.patience;
        disturbance::wait_for_quiet(deadline)?;
        self.generators.run(case, address, WARM_UP_SECONDS)?;
        // Taken after the warm-up: workers and helpers that start late are there now.
        let pids = proxy.pids();
        let load = || self.generators.run(case, address, self.seconds);
        let window = quietest(deadline, &pids, &self.backend.child().pids(), load)?;
        let figures = window.result;
        Ok(Sample {
            cpu_us_per_request: window.cpu.as_secs_f64() * 1e6 / f64::from(figures.requests),
            rps: figures.rps,
            p50_us: figures.p50_us,
            p99_us: figures.p99_us,
            rss_mib: rss_mib(&pids)?,
            rss_idle_mib,
            share_of_others: window.share_of_others,
        })
    }

    /// Does something to a proxy while nobody else works, as far as the patience goes.
    pub(crate) fn watch<T>(
        &self,
        proxy: &Running,
        work: impl FnMut() -> io::Result<T>,
    ) -> io::Result<Window<T>> {
        let deadline = Instant::now() + self.patience;
        disturbance::wait_for_quiet(deadline)?;
        quietest(deadline, &proxy.pids(), &self.backend.child().pids(), work)
    }

    fn start(&self, case: Case) -> io::Result<Running> {
        let core = Some(self.cores.proxy);
        let upstream = self.backend.listener();
        let deny_body = (case.plugin == Plugin::Native).then(|| DENY_BODY.to_owned());
        let access_log = case.access_log.then(|| self.dir.path().join("access.log"));
        if let Some(path) = &access_log {
            std::fs::write(path, "")?;
        }
        let (port, h2_port) = (self.port.port(), Some(self.h2_port.port()));
        Ok(match case.proxy {
            Proxy::Nginx => {
                let plain = NginxProxy::new(port, upstream);
                let options = NginxProxy { h2_port, deny_body, access_log, core, ..plain };
                Running::Nginx(Nginx::proxy(&options)?)
            }
            Proxy::Haproxy => {
                let options = HaproxyOptions { port, h2_port, upstream, deny_body, core };
                Running::Haproxy(Haproxy::start(&options)?)
            }
            Proxy::Envoy => {
                let mut options = self.envoy_options(case.plugin)?;
                options.config.access_log = access_log;
                options.core = core;
                Running::Envoy(Envoy::start(&options)?)
            }
            Proxy::Wasmgate => {
                let cache_dir = self.dir.path().join("cache");
                let mut options = self.wasmgate_options(case.plugin, cache_dir)?;
                options.access_log = access_log;
                options.core = core;
                Running::Wasmgate(Wasmgate::start(&options)?)
            }
        })
    }

    /// One request must get exactly what the row is about, and without the header the check must be in force.
    fn verify(&self, case: Case, proxy: &Running) -> io::Result<()> {
        for scenario in [Scenario::Allowed, Scenario::Denied] {
            let checked = case.plugin != Plugin::None;
            let (headers, expected): (&[(&str, &str)], _) = match scenario {
                Scenario::Allowed => (&[("allow", "true")], (200, self.backend_body.as_str())),
                Scenario::Denied if checked => (&[], (403, DENY_BODY)),
                Scenario::Denied => (&[], (200, self.backend_body.as_str())),
            };
            let answer = probe::get(proxy.listener(), "/status/418", headers, Duration::from_secs(5))?;
            if (answer.status, answer.text().as_str()) != expected {
                let got = format!("{} {:?}", answer.status, answer.text());
                return Err(io::Error::other(format!("expected {expected:?}, got {got}")));
            }
        }
        Ok(())
    }

    /// An Envoy with one worker on the benchmark's port.
    pub(crate) fn envoy_options(&self, plugin: Plugin) -> io::Result<EnvoyOptions> {
        let binary = self.envoy_binary.as_ref().ok_or_else(|| io::Error::other("Envoy is left out"))?;
        let mut config = EnvoyConfig::new(self.port.port(), free_port()?, self.backend.listener());
        config.wasm_filters = self
            .module(plugin)
            .map(|module| WasmFilter::new("istio-system.header-authorization", module))
            .into_iter()
            .collect();
        Ok(EnvoyOptions::new(binary, config))
    }

    /// A Wasmgate with one worker on the benchmark's port.
    pub(crate) fn wasmgate_options(&self, plugin: Plugin, cache_dir: PathBuf) -> io::Result<WasmgateOptions> {
        let (port, backend_port) = (self.port.port(), self.backend.listener().port());
        let binary = self.wasmgate_binary.clone();
        let mut options = WasmgateOptions::new(binary, port, free_port()?, backend_port);
        options.plugin = self.module(plugin).map(Path::to_path_buf);
        options.cache_dir = cache_dir;
        Ok(options)
    }

    /// The plug-in's file.
    pub(crate) fn module(&self, plugin: Plugin) -> Option<&Path> {
        match plugin {
            Plugin::None | Plugin::Native => None,
            Plugin::Go => self.go_plugin.as_deref(),
            Plugin::Rust => self.rust_plugin.as_deref(),
        }
    }

    /// The proxies that are measured, of these.
    pub(crate) fn those_of(&self, proxies: &[Proxy]) -> Vec<Proxy> {
        proxies.iter().copied().filter(|proxy| self.uses(*proxy)).collect()
    }

    /// The cores.
    pub(crate) fn cores(&self) -> Cores {
        self.cores
    }

    /// The port of every proxy on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port.port()
    }

    /// Where every proxy listens for HTTP/1.1.
    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The backend of the rows.
    pub(crate) fn backend(&self) -> &Nginx {
        &self.backend
    }

    /// The load generators.
    pub(crate) fn generators(&self) -> &Generators {
        &self.generators
    }

    /// A directory for files of this run.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn require_file(path: &Path, hint: &str) -> io::Result<()> {
    if path.is_file() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is missing: {hint}", path.display())))
}
