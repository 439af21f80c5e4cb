//! The control side: keeps every plug-in on its way to what its manifest says.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::watch;
use wasmgate_artifact::{Digest, Fetcher, ModuleSource};
use wasmgate_host::{Engine, Process};

use crate::compiler::Compiler;
use crate::definition::{FailStrategy, PluginDefinition};
use crate::load::{LoadError, LoadStage, Loader, silenced_text};
use crate::stats::PluginStats;
use crate::status::{FaultStatus, LastFault, PluginState, PluginStatus, WorkerVmStatus};
use crate::version::PluginVersion;

/// What a manager needs.
pub struct ManagerOptions {
    /// The engine.
    pub engine: Engine,
    /// Where modules come from.
    pub fetcher: Arc<Fetcher>,
    /// Where they are compiled.
    pub compiler: Compiler,
    /// What plug-ins see of the process.
    pub process: Process,
    /// Number of workers: each gets a VM before a version is published.
    pub workers: usize,
}

impl std::fmt::Debug for ManagerOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManagerOptions").field("workers", &self.workers).finish_non_exhaustive()
    }
}

/// Loads plug-ins, retries, and tells what serves. Cheap to clone.
#[derive(Clone)]
pub struct PluginManager {
    inner: Arc<Inner>,
}

struct Inner {
    loader: Loader,
    entries: Mutex<BTreeMap<Arc<str>, Entry>>,
    changed: watch::Sender<u64>,
}

struct Entry {
    /// What is being loaded or runs.
    definition: Arc<PluginDefinition>,
    /// The same with its place in the manifests as it is now.
    shown: Arc<PluginDefinition>,
    /// The version that serves; of this definition or of an older one.
    serving: Option<Arc<PluginVersion>>,
    stats: Arc<PluginStats>,
    progress: Progress,
    task: tokio::task::AbortHandle,
}

enum Progress {
    Loading(LoadStage),
    Ready,
    Failed { reason: &'static str, message: String, retry_at: Instant },
}

/// What the data path should do about a plug-in.
#[derive(Clone, Debug)]
pub struct PluginView {
    /// The version to run.
    pub serving: Option<Arc<PluginVersion>>,
    /// Whether the wanted version has been decided about: it is ready, or an attempt has failed.
    pub settled: bool,
    /// What to do when there is none.
    pub fail_strategy: FailStrategy,
}

const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// How often a module that comes from a file is looked at.
const FILE_POLL: Duration = Duration::from_millis(500);

impl PluginManager {
    /// A manager without plug-ins. Must be called within a tokio runtime, which runs its work.
    pub fn new(options: ManagerOptions) -> Self {
        let ManagerOptions { engine, fetcher, compiler, process, workers } = options;
        let loader = Loader { engine, fetcher, compiler, process, workers };
        let inner = Inner { loader, entries: Mutex::default(), changed: watch::Sender::new(0) };
        Self { inner: Arc::new(inner) }
    }

    /// Takes the complete list of plug-ins as they should be. Unchanged ones are left alone.
    pub fn apply(&self, definitions: &[Arc<PluginDefinition>]) {
        let mut entries = self.inner.entries.lock();
        let wanted: HashSet<&Arc<str>> = definitions.iter().map(|d| &d.name).collect();
        entries.retain(|name, entry| {
            let keep = wanted.contains(name);
            if !keep {
                entry.task.abort();
                tracing::info!(target: "wasm", plugin = &**name, "plugin {name} removed");
            }
            keep
        });
        for definition in definitions {
            if let Some(entry) = entries.get_mut(&definition.name)
                && entry.definition.runs_same(definition)
            {
                entry.shown = Arc::clone(definition);
                continue;
            }
            let old = entries.remove(&definition.name);
            if let Some(old) = &old {
                old.task.abort();
            }
            let (serving, stats) = old.map(|o| (o.serving, o.stats)).unwrap_or_default();
            let task = tokio::spawn(keep_loaded(
                Arc::downgrade(&self.inner),
                Arc::clone(definition),
                Arc::clone(&stats),
            ));
            let entry = Entry {
                definition: Arc::clone(definition),
                shown: Arc::clone(definition),
                serving,
                stats,
                progress: Progress::Loading(LoadStage::Fetching),
                task: task.abort_handle(),
            };
            entries.insert(Arc::clone(&definition.name), entry);
        }
        drop(entries);
        self.inner.notify();
    }

    /// Wakes up whenever something that [`PluginManager::view`] tells may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// What serves, by plug-in.
    pub fn view(&self) -> BTreeMap<Arc<str>, PluginView> {
        let entries = self.inner.entries.lock();
        let view = |e: &Entry| PluginView {
            serving: e.serving.clone(),
            settled: !matches!(e.progress, Progress::Loading(_)),
            fail_strategy: e.definition.fail_strategy,
        };
        entries.iter().map(|(name, entry)| (Arc::clone(name), view(entry))).collect()
    }

    /// Waits until every plug-in is ready or has failed once; false when that takes longer than `time_max`.
    pub async fn settled(&self, time_max: Duration) -> bool {
        let mut changes = self.changes();
        let all = async {
            while !self.view().values().all(|v| v.settled) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(time_max, all).await.is_ok()
    }

    /// Loads a plug-in once and throws it away: everything that could go wrong, without serving. What it gives is a
    /// warning.
    ///
    /// # Errors
    /// [`LoadError`]
    pub async fn try_load(&self, definition: &Arc<PluginDefinition>) -> Result<Option<String>, LoadError> {
        let version = self.inner.loader.load(definition, &Arc::default(), &|_| {}).await?;
        let silenced = version.silenced_callbacks();
        Ok((!silenced.is_empty()).then(|| silenced_text(silenced)))
    }

    /// Digests of the modules that serve, which the store must keep.
    pub fn modules_in_use(&self) -> HashSet<Digest> {
        self.inner
            .entries
            .lock()
            .values()
            .filter_map(|e| e.serving.as_ref())
            .map(|v| v.artifact.wasm)
            .collect()
    }

    /// Counters by plug-in.
    pub fn stats(&self) -> Vec<(Arc<str>, Arc<PluginStats>)> {
        self.inner.entries.lock().iter().map(|(name, e)| (Arc::clone(name), Arc::clone(&e.stats))).collect()
    }

    /// Everything about every plug-in, for people.
    pub fn status(&self) -> Vec<PluginStatus> {
        self.inner.entries.lock().values().map(Entry::status).collect()
    }
}

impl std::fmt::Debug for PluginManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginManager").field("plugins", &self.inner.entries.lock().len()).finish()
    }
}

impl Inner {
    fn notify(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Changes an entry if it still is about this definition.
    fn update(&self, definition: &Arc<PluginDefinition>, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) =
            self.entries.lock().get_mut(&definition.name).filter(|e| Arc::ptr_eq(&e.definition, definition))
        {
            change(entry);
        }
        self.notify();
    }
}

/// Loads a plug-in until it succeeds, and again when its file changes.
async fn keep_loaded(
    inner: std::sync::Weak<Inner>,
    definition: Arc<PluginDefinition>,
    stats: Arc<PluginStats>,
) {
    let name = &definition.name;
    let mut delay = RETRY_MIN;
    let mut last_message = String::new();
    loop {
        let Some(inner) = inner.upgrade() else { return };
        let stamp = file_stamp(&definition.source);
        let progress = |stage| inner.update(&definition, |entry| entry.progress = Progress::Loading(stage));
        match inner.loader.load(&definition, &stats, &progress).await {
            Ok(version) => {
                PluginStats::add(&stats.fetch_successes);
                let artifact = &version.artifact;
                let digest = artifact.manifest.map_or_else(|| artifact.wasm.to_string(), |m| m.to_string());
                tracing::info!(target: "wasm", plugin = &**name, digest, cached = artifact.cached, "plugin {name} ready: {} ({digest}, {} bytes, ABI {})", definition.source, artifact.size, version.abi());
                inner.update(&definition, |entry| {
                    entry.serving = Some(version);
                    entry.progress = Progress::Ready;
                });
                drop(inner);
                (delay, last_message) = (RETRY_MIN, String::new());
                // An image does not change under us; a file does.
                file_changed(&definition.source, stamp).await;
            }
            Err(error) => {
                if error.is_fetch() {
                    PluginStats::add(&stats.fetch_failures);
                }
                // A registry may ask for more patience, not for less.
                let wait = error.retry_after().unwrap_or_default().max(jittered(delay));
                let message = error.to_string();
                if message != last_message {
                    report(&inner, &definition, &error, wait);
                    last_message.clone_from(&message);
                }
                let failed =
                    Progress::Failed { reason: error.reason(), message, retry_at: Instant::now() + wait };
                inner.update(&definition, |entry| entry.progress = failed);
                drop(inner);
                tokio::select! {
                    () = tokio::time::sleep(wait) => delay = (delay * 2).min(RETRY_MAX),
                    () = file_changed(&definition.source, stamp) => delay = RETRY_MIN,
                }
            }
        }
    }
}

fn report(inner: &Inner, definition: &PluginDefinition, error: &LoadError, wait: Duration) {
    let name = &definition.name;
    let serving = inner
        .entries
        .lock()
        .get(name)
        .and_then(|e| e.serving.as_ref().map(|v| v.definition.source.to_string()));
    let then = match (serving, definition.fail_strategy) {
        (Some(old), _) => format!("the version that served before ({old}) goes on serving"),
        (None, FailStrategy::Close | FailStrategy::Reload) => {
            format!("its requests are answered with 503 ({})", definition.fail_strategy.as_str())
        }
        (None, FailStrategy::Open) => "its requests pass without it (FAIL_OPEN)".to_owned(),
    };
    let origin = &definition.origin;
    tracing::error!(target: "wasm", plugin = &**name, reason = error.reason(), "{origin}: plugin {name} is not ready: {}: {error}; {then}; next attempt in {wait:?}", error.reason());
}

/// Up to a fifth more or less, so that a fleet does not ask in step.
fn jittered(delay: Duration) -> Duration {
    let nanos = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    delay.mul_f64(0.8 + 0.4 * f64::from(nanos % 1000) / 1000.0)
}

type FileStamp = Option<(std::time::SystemTime, u64)>;

fn file_stamp(source: &ModuleSource) -> FileStamp {
    let ModuleSource::File(path) = source else { return None };
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

async fn file_changed(source: &ModuleSource, stamp: FileStamp) {
    if !matches!(source, ModuleSource::File(_)) {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(FILE_POLL).await;
        let now = file_stamp(source);
        // A file that has vanished is being replaced.
        if now != stamp && now.is_some() {
            return;
        }
    }
}

impl Entry {
    fn status(&self) -> PluginStatus {
        let definition = &self.shown;
        let serving = self.serving.as_ref();
        let (state, reason, message, retry_at) = match (&self.progress, serving.is_some()) {
            (Progress::Ready, _) if serving.is_some_and(|v| v.is_short_of_vms()) => {
                let text = "faults come faster than VMs can be made: requests wait for one, at most a second";
                (PluginState::Restarting, "FaultStorm", text.to_owned(), None)
            }
            (Progress::Ready, _) => (PluginState::Ready, "", String::new(), None),
            (Progress::Loading(stage), false) => (PluginState::Pending, stage.as_str(), String::new(), None),
            (Progress::Loading(stage), true) => (PluginState::Updating, stage.as_str(), String::new(), None),
            (Progress::Failed { reason, message, retry_at }, serving) => {
                let state = if serving { PluginState::Degraded } else { PluginState::Failed };
                (state, *reason, message.clone(), Some(*retry_at))
            }
        };
        let artifact = serving.map(|v| &v.artifact);
        let worker = |(worker, (vms, memory_bytes))| WorkerVmStatus { worker, vms, memory_bytes };
        PluginStatus {
            name: definition.name.to_string(),
            resource: definition.origin.to_string(),
            state,
            reason: reason.to_owned(),
            message,
            retry_in_seconds: retry_at.map(|at| at.saturating_duration_since(Instant::now()).as_secs()),
            image: definition.source.to_string(),
            serving_image: serving.map(|v| v.definition.source.to_string()),
            digest: artifact.and_then(|a| a.manifest).map(|m| m.to_string()),
            module_sha256: artifact.map(|a| a.wasm.hex()),
            size: artifact.map(|a| a.size),
            layout: artifact.map(|a| a.layout.to_string()),
            abi: serving.map(|v| v.abi().to_string()),
            phase: definition.phase,
            priority: definition.priority,
            fail_strategy: definition.fail_strategy.as_str(),
            workers: serving.map(|v| v.workers().enumerate().map(worker).collect()).unwrap_or_default(),
            spare_vms: serving.map_or(0, |v| v.spare_count()),
            faults: self.faults(),
            slow_callbacks: self.stats.slow_callbacks.load(Ordering::Relaxed),
            local_replies: self.stats.local_replies.load(Ordering::Relaxed),
        }
    }

    fn faults(&self) -> FaultStatus {
        let by_reason: BTreeMap<&'static str, u64> = self.stats.faults().collect();
        let last = self.serving.as_ref().and_then(|v| v.last_fault()).map(|fault| LastFault {
            unix_time: fault.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            reason: fault.reason,
            function: fault.function,
            message: fault.message,
            frames: fault.frames,
        });
        FaultStatus { total: by_reason.values().sum(), by_reason, last }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for entry in self.entries.get_mut().values() {
            entry.task.abort();
        }
    }
}
