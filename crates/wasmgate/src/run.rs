//! `wasmgate run`: a gateway from its parts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use wasmgate_artifact::{
    ChildCompiler, CompileCache, CompileLimits, Fetcher, FetcherOptions, Store as ModuleStore,
};
use wasmgate_config::{FolderSource, GatewayIdentity, Store};
use wasmgate_host::{Engine, MetricRegistry, Process, PropertyValue, SharedState};
use wasmgate_plugin::{Compiler, ManagerOptions, PluginManager, PluginServices};
use wasmgate_proxy::{AccessLogSink, Gateway, Resolver};

use crate::admin::{self, AdminState};
use crate::cli::{ConfigArguments, ProcessArguments, RunArguments};
use crate::controller::{Controller, Published};
use crate::error::CommandError;
use crate::logging::{self, LogLevels};
use crate::settings::{options, settings, worker_count};
use crate::shared::{ServerState, Shared};
use crate::takeover;

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
    // What start-up has freed goes back to the system, although nobody may allocate again for long.
    if let Err(e) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::debug!(target: "main", "the allocator has no thread of its own: {e}");
    }
    let workers = worker_count(process);
    let mut settings = settings(config, process)?;
    let access_log = settings.access_log.clone();
    let path = process.takeover.as_deref();
    let takeover_error = |e: std::io::Error| CommandError::Io {
        what: format!("--takeover {}", path.unwrap_or(Path::new("")).display()),
        source: e,
    };
    let mut inherited = path.map(takeover::inherit).transpose().map_err(takeover_error)?.flatten();
    if inherited.is_some() {
        tracing::info!(target: "main", "taking over from the process that serves");
    }
    let admin_listener = match inherited.as_mut().and_then(|i| i.admin.take()) {
        Some(listener) if listener.local_addr().is_ok_and(|a| a == process.admin) => listener,
        _ => admin::bind(process.admin)?,
    };
    // Its port may be one that the system has given.
    settings.admin = Some(admin_listener.local_addr().map_err(CommandError::io("admin interface"))?);
    let parts = PluginParts::new(config, &levels, workers)?;
    let resolver = Resolver::new(&process.dns_server).inspect_err(
        |e| tracing::warn!(target: "main", "{e}: endpoints that are names have no addresses (--dns-server)"),
    );
    let sockets = inherited.as_mut().map(|i| std::mem::take(&mut i.sockets)).unwrap_or_default();
    let gateway = Arc::new(Gateway::start(workers, settings, resolver.ok(), sockets)?);
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
    let second = || admin_listener.try_clone().map_err(CommandError::io("admin interface"));
    // Until this process serves, the one before answers.
    let mut admin = match &inherited {
        Some(_) => None,
        None => Some(admin::start(second()?, admin_state.clone())?),
    };
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
    let (successions, opened) = tokio::sync::oneshot::channel();
    let (heir, heirs_admin) = (Arc::clone(&gateway), second()?);
    let succeeded = async {
        // Without a path nobody can take over.
        let succession = opened.await.ok().map(Arc::new);
        takeover::succeeded(succession, heir, heirs_admin).await;
    };
    let follow = async {
        controller.start(process.startup_wait).await?;
        shared.set_state(ServerState::Live);
        let succession = path.map(takeover::Succession::open).transpose().map_err(takeover_error)?;
        if let Some(inherited) = inherited.take() {
            // What nobody would listen on any more is the configuration's affair, and not that of a new process.
            let left: Vec<String> = gateway.inherited().iter().map(ToString::to_string).collect();
            if !left.is_empty() {
                return Err(CommandError::Takeover(left.join(", ")));
            }
            admin = Some(admin::start(second()?, admin_state.clone())?);
            if let Err(e) = inherited.confirm() {
                tracing::warn!(target: "main", "the process before has ended already: {e}");
            }
        }
        if let Some(succession) = succession {
            // This process serves, whatever becomes of the next one.
            match succession.take_place() {
                Ok(()) => drop(successions.send(succession)),
                Err(e) => tracing::error!(target: "main", "nobody can take over from this process: {e}"),
            }
        }
        for address in gateway.listening() {
            tracing::info!(target: "main", "listening on {address} with {workers} workers");
        }
        ready();
        controller.run().await
    };
    let signal = tokio::select! {
        signal = stopped => Some(signal),
        () = succeeded => None,
        result = follow => return result.map(|()| ExitCode::SUCCESS),
    };
    shared.set_state(ServerState::Draining);
    let Some(signal) = signal else {
        tracing::info!(target: "main", "another process has taken over: connections end after their next answer, at most in {:?}", process.drain_time);
        // Whoever asks now asks the other one.
        if let Some(admin) = admin {
            admin.abort();
        }
        gateway.retire().await;
        return Ok(finish(access_log).await);
    };
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
    if let Some(admin) = admin {
        admin.abort();
    }
    supervisor.abort();
    reopener.abort();
    Ok(finish(access_log).await)
}

/// The last words.
async fn finish(access_log: Option<AccessLogSink>) -> ExitCode {
    if let Some(sink) = access_log {
        flush(move || sink.flush()).await;
    }
    tracing::info!(target: "main", "stopped");
    ExitCode::SUCCESS
}

/// Waits for a log to be written, but not for ever: its reader may be gone.
async fn flush(write: impl FnOnce() + Send + 'static) {
    const FLUSH_TIME_MAX: Duration = Duration::from_secs(2);
    let _ = tokio::time::timeout(FLUSH_TIME_MAX, tokio::task::spawn_blocking(write)).await;
}
