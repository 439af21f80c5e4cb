//! `wasmgate run`: a gateway from its parts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tokio::signal::unix::{SignalKind, signal};
use wasmgate_artifact::{
    ChildCompiler, CompileCache, CompileLimits, Fetcher, FetcherOptions, Store as ModuleStore,
};
use wasmgate_config::{FolderSource, GatewayIdentity, Store};
use wasmgate_host::{Engine, MetricRegistry, Process, PropertyValue, SharedState};
use wasmgate_plugin::{Compiler, ManagerOptions, PluginManager, PluginServices};
use wasmgate_proxy::{AccessLogSink, Gateway, LogContext, LogFormat, Resolver, Settings};

use crate::admin::{self, AdminState};
use crate::cli::{ConfigArguments, ProcessArguments, RunArguments};
use crate::controller::{Controller, Published};
use crate::error::CommandError;
use crate::logging::{self, LogLevels};
use crate::shared::{ServerState, Shared};

/// What `run` and `check` both need to load plug-ins.
pub(crate) struct PluginParts {
    pub(crate) manager: PluginManager,
    pub(crate) modules: Arc<ModuleStore>,
    pub(crate) services: PluginServices,
    pub(crate) metrics: MetricRegistry,
}

impl PluginParts {
    pub(crate) fn new(
        config: &ConfigArguments,
        levels: &LogLevels,
        workers: usize,
    ) -> Result<Self, CommandError> {
        let cache = config.cache_dir.clone().unwrap_or_else(default_cache_dir);
        let engine = Engine::new()?;
        let modules = Arc::new(ModuleStore::open(&cache)?);
        let options = FetcherOptions {
            plain_http_registries: config.insecure_registry.clone(),
            ..FetcherOptions::default()
        };
        let fetcher =
            Fetcher::new(Arc::clone(&modules), options).map_err(|e| CommandError::Tls(e.to_string()))?;
        // Not the path of the program: behind it may stand another version by now.
        let program = PathBuf::from("/proc/self/exe");
        let compiler = Compiler::Child {
            compiler: ChildCompiler::new(program, CompileLimits::default()),
            cache: Box::new(CompileCache::open(&cache.join("compiled"))?),
        };
        let node = node(&config.namespace, &config.labels.0);
        let services =
            PluginServices::new(levels.wasm_cell(), node, u64::from(config.plugin_log_limit) << 10);
        let metrics = MetricRegistry::default();
        let process = Process {
            services: Arc::new(services.clone()),
            shared: SharedState::default(),
            metrics: metrics.clone(),
        };
        let manager = PluginManager::new(ManagerOptions {
            engine,
            fetcher: Arc::new(fetcher),
            compiler,
            process,
            workers,
        });
        Ok(Self { manager, modules, services, metrics })
    }
}

/// `$XDG_CACHE_HOME/wasmgate`, `~/.cache/wasmgate`, or a folder for temporary files.
fn default_cache_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = from("XDG_CACHE_HOME").or_else(|| from("HOME").map(|home| home.join(".cache")));
    match base {
        Some(base) => base.join("wasmgate"),
        // One of our own below a folder that everybody writes to; the store refuses one that somebody else made.
        None => std::env::temp_dir().join(format!("wasmgate-{}", rustix::process::geteuid().as_raw())),
    }
}

/// What `xds.node` shows of this gateway, in Istio's words.
fn node(namespace: &str, labels: &BTreeMap<String, String>) -> PropertyValue {
    let text = |value: &str| PropertyValue::text(value);
    let map = |pairs: Vec<(&str, PropertyValue)>| {
        PropertyValue::Map(pairs.into_iter().map(|(name, value)| (name.into(), value)).collect())
    };
    let labels = labels.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    map(vec![
        ("id", text(&format!("router~~{namespace}~{namespace}.svc.cluster.local"))),
        ("cluster", text(namespace)),
        ("metadata", map(vec![("NAMESPACE", text(namespace)), ("LABELS", map(labels))])),
        // A message without fields.
        ("locality", text("")),
        ("user_agent_name", text("wasmgate")),
        ("user_agent_version", text(env!("CARGO_PKG_VERSION"))),
    ])
}

pub(crate) fn identity(config: &ConfigArguments) -> GatewayIdentity {
    GatewayIdentity {
        namespace: config.namespace.as_str().into(),
        root_namespace: config.root_namespace.as_str().into(),
        labels: config.labels.0.clone(),
        locality: config.locality.clone().unwrap_or_default(),
    }
}

pub(crate) fn host_env(config: &ConfigArguments) -> Vec<(String, String)> {
    config
        .allow_host_env
        .iter()
        .filter_map(|name| std::env::var(name).ok().map(|value| (name.clone(), value)))
        .collect()
}

/// Runs until a signal.
pub(crate) async fn run(arguments: &RunArguments) -> Result<ExitCode, CommandError> {
    run_until(arguments, || {}).await
}

/// Runs until a signal; `ready` is called once requests are served.
pub(crate) async fn run_until(
    arguments: &RunArguments,
    ready: impl FnOnce(),
) -> Result<ExitCode, CommandError> {
    let RunArguments { config, process } = arguments;
    let levels = LogLevels::new(process.log_level);
    let log = logging::install(levels.clone(), process.log_format)
        .map_err(CommandError::io("cannot start the log"))?;
    let result = serve(config, process, levels, ready).await;
    // The last lines say why the process ended.
    flush(move || log.flush()).await;
    result
}

async fn serve(
    config: &ConfigArguments,
    process: &ProcessArguments,
    levels: LogLevels,
    ready: impl FnOnce(),
) -> Result<ExitCode, CommandError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(CommandError::io("cannot catch SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandError::io("cannot catch SIGINT"))?;
    let workers = worker_count(process);
    let settings = settings(config, process)?;
    let access_log = settings.access_log.clone();
    let parts = PluginParts::new(config, &levels, workers)?;
    let resolver = Resolver::new(&process.dns_server).inspect_err(
        |e| tracing::warn!(target: "main", "{e}: endpoints that are names have no addresses (--dns-server)"),
    );
    let gateway = Arc::new(Gateway::start(workers, settings, resolver.ok())?);
    let supervised = Arc::clone(&gateway);
    let supervisor = tokio::spawn(async move { supervised.supervise().await }).abort_handle();
    let shared = Shared::new();
    let admin_state = AdminState {
        shared: Arc::clone(&shared),
        levels,
        manager: parts.manager.clone(),
        plugin_metrics: parts.metrics.clone(),
        gateway: Arc::clone(&gateway),
        access_log: access_log.clone(),
        drain_time: process.drain_time,
        options: options(config, process, workers),
    };
    let admin = admin::start(process.admin, admin_state).await?;
    if !process.admin.ip().is_loopback() {
        tracing::warn!(target: "admin", "the admin interface listens on {}: whoever can reach it controls the gateway", process.admin);
    }
    let mut controller = Controller {
        source: FolderSource::new(config.config.clone()),
        identity: identity(config),
        host_env: host_env(config),
        manager: parts.manager.clone(),
        services: parts.services.clone(),
        gateway: Arc::clone(&gateway),
        shared: Arc::clone(&shared),
        modules: Arc::clone(&parts.modules),
        store: Store::default(),
        files: None,
        published: Published::default(),
    };
    let mut reopen = signal(SignalKind::user_defined1()).map_err(CommandError::io("cannot catch SIGUSR1"))?;
    let reopened = access_log.clone();
    let reopener = tokio::spawn(async move {
        while reopen.recv().await.is_some() {
            if let Some(sink) = &reopened {
                sink.reopen();
            }
        }
    })
    .abort_handle();
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = shared.quit.notified() => "/quitquitquit",
        }
    };
    let follow = async {
        controller.start(process.startup_wait).await?;
        shared.set_state(ServerState::Live);
        for address in gateway.listening() {
            tracing::info!(target: "main", "listening on {address} with {workers} workers");
        }
        ready();
        controller.run().await
    };
    let signal = tokio::select! {
        signal = stopped => signal,
        result = follow => return result.map(|()| ExitCode::SUCCESS),
    };
    shared.set_state(ServerState::Draining);
    if !process.drain_delay.is_zero() {
        tracing::info!(target: "main", "{signal}: clients are asked to leave; draining begins in {:?}, or with the next signal", process.drain_delay);
        gateway.ask_to_leave(true);
        tokio::select! {
            () = tokio::time::sleep(process.drain_delay) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    tracing::info!(target: "main", "{signal}: draining, at most {:?}", process.drain_time);
    gateway.drain().await;
    if let Some(sink) = access_log {
        flush(move || sink.flush()).await;
    }
    admin.abort();
    supervisor.abort();
    reopener.abort();
    tracing::info!(target: "main", "stopped");
    Ok(ExitCode::SUCCESS)
}

/// Waits for a log to be written, but not for ever: its reader may be gone.
async fn flush(write: impl FnOnce() + Send + 'static) {
    const FLUSH_TIME_MAX: Duration = Duration::from_secs(2);
    let _ = tokio::time::timeout(FLUSH_TIME_MAX, tokio::task::spawn_blocking(write)).await;
}

/// The command line as it was understood, for `/server_info`.
fn options(config: &ConfigArguments, process: &ProcessArguments, workers: usize) -> serde_json::Value {
    serde_json::json!({
        "config": config.config,
        "namespace": config.namespace,
        "root_namespace": config.root_namespace,
        "labels": config.labels.0,
        "cache_dir": config.cache_dir,
        "insecure_registry": config.insecure_registry,
        "allow_host_env": config.allow_host_env,
        "plugin_log_limit": config.plugin_log_limit,
        "admin": process.admin.to_string(),
        "workers": workers,
        "access_log": process.access_log,
        "access_log_format": process.access_log_format,
        "dns_server": process.dns_server,
        "locality": config.locality,
        "server_header": process.server_header,
        "startup_wait": process.startup_wait.as_secs(),
        "stream_idle_timeout": process.stream_idle_timeout.as_secs(),
        "max_connections": process.max_connections,
        "tls_handshake_timeout": process.tls_handshake_timeout.as_secs(),
        "delayed_close_timeout": process.delayed_close_timeout.as_secs(),
        "drain_time": process.drain_time.as_secs(),
        "drain_delay": process.drain_delay.as_secs(),
    })
}

fn worker_count(process: &ProcessArguments) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    process.workers.map_or_else(cores, usize::from)
}

/// Raises the limit of descriptors as far as the system lets us; the limit.
fn descriptors_max() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(e) => {
            tracing::warn!(target: "main", "the limit of open descriptors cannot be raised: {e}");
            limit.current
        }
    }
}

/// The format of the access log; `None` for the default one.
fn log_format(format: &str, environment: &[(String, String)]) -> Result<Option<LogFormat>, CommandError> {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let context = LogContext { hostname, environment: environment.to_vec() };
    let text;
    let format = match format.strip_prefix('@') {
        Some(path) => {
            text = std::fs::read_to_string(path).map_err(|source| CommandError::Io {
                what: format!("--access-log-format: cannot read {path}"),
                source,
            })?;
            text.as_str()
        }
        None => format,
    };
    let parsed = match format {
        "asm" => return Ok(None),
        "istio" => LogFormat::istio_text(&context),
        "istio-json" => LogFormat::istio_json(&context),
        json if json.trim_start().starts_with('{') => LogFormat::json(json, &context),
        text if text.contains('%') => LogFormat::text(text, &context),
        other => {
            return Err(CommandError::LogFormat(format!(
                "{other:?} is no format: asm, istio, istio-json, a text or a JSON object with operators like %RESPONSE_CODE%, or @FILE"
            )));
        }
    };
    parsed.map(Some).map_err(|e| CommandError::LogFormat(e.to_string()))
}

fn settings(config: &ConfigArguments, process: &ProcessArguments) -> Result<Settings, CommandError> {
    let descriptors = descriptors_max();
    // One for the client, one for the endpoint.
    let connections = process.max_connections.or_else(|| descriptors.map(|d| d / 2)).unwrap_or(u64::MAX);
    let workers = worker_count(process) as u64;
    let access_log = match process.access_log.as_str() {
        "off" => None,
        "-" => Some(AccessLogSink::stdout().map_err(CommandError::io("cannot start the access log"))?),
        path => Some(AccessLogSink::file(path.as_ref())?),
    };
    let server = match process.server_header.as_str() {
        "" => None,
        name => Some(HeaderValue::from_str(name).map_err(|e| CommandError::Io {
            what: format!("--server-header {name:?}"),
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, e),
        })?),
    };
    Ok(Settings {
        server,
        access_log,
        access_log_format: log_format(&process.access_log_format, &host_env(config))?.map(Arc::new),
        connections_max: connections.div_ceil(workers.max(1)),
        tls_handshake_time_max: process.tls_handshake_timeout,
        delayed_close_max: process.delayed_close_timeout,
        drain_time_max: process.drain_time,
        stream_idle_max: process.stream_idle_timeout,
        ..Settings::default()
    })
}
