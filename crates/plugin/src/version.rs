//! One version of a plug-in: everything that all workers share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc};
use wasmgate_artifact::Fetched;
use wasmgate_host::{Engine, Failure, Module, Namespace, Process, StartError, Vm};

use crate::definition::PluginDefinition;
use crate::fault::Fault;
use crate::stats::PluginStats;
use crate::view::WasmStream;

/// VMs of one worker, for people.
#[derive(Debug, Default)]
pub(crate) struct WorkerSlot {
    pub(crate) vms: AtomicUsize,
    pub(crate) memory_bytes: AtomicUsize,
}

/// A VM that nobody needs any more; stopped on the control runtime, because that enters the guest.
pub(crate) type Retired = Vm<WasmStream>;

/// A module with a configuration, started and ready.
pub struct PluginVersion {
    /// Number that no other version of the process has.
    pub id: u64,
    /// What it was made from.
    pub definition: Arc<PluginDefinition>,
    /// The module's origin and digests.
    pub artifact: Fetched,
    /// Counters, shared with the other versions of the plug-in.
    pub stats: Arc<PluginStats>,
    pub(crate) module: Arc<Module<WasmStream>>,
    pub(crate) engine: Engine,
    process: Process,
    /// Keeps what the plug-in shares alive while its VMs come and go.
    _shared: Arc<Namespace>,
    spares: Mutex<VecDeque<Vm<WasmStream>>>,
    /// Wakes the task that makes spares. However often it is asked, it is asked once.
    refill: Notify,
    /// Wakes streams that wait for a VM.
    made: Notify,
    retired: mpsc::UnboundedSender<Retired>,
    pub(crate) slots: Vec<WorkerSlot>,
    last_fault: Mutex<Option<Fault>>,
    storm: Mutex<FaultStorm>,
    fault_log: Arc<Mutex<FaultLog>>,
}

/// How often VMs have died lately: decides how fast they are replaced.
#[derive(Debug, Default)]
struct FaultStorm {
    last: Option<Instant>,
    count: u32,
    /// How long the last VM took to make.
    build_time: Duration,
}

impl FaultStorm {
    /// Faults in a row that are answered at once.
    const FREE: u32 = 8;
    /// Without a fault for so long, the next one is the first again.
    const CALM: Duration = Duration::from_secs(1);
    /// In a storm, so many times the time that it took to make a VM passes before the next one is made: whoever can make
    /// a plug-in crash costs the others a quarter of a core, and not the gateway.
    const PAUSE_PER_BUILD: u32 = 3;
    const DELAY_MIN: Duration = Duration::from_millis(1);
    const DELAY_MAX: Duration = Duration::from_secs(30);

    fn add(&mut self, now: Instant) {
        let calm = self.last.is_none_or(|last| now.duration_since(last) > Self::CALM.max(self.delay() * 2));
        self.count = if calm { 1 } else { self.count.saturating_add(1) };
        self.last = Some(now);
    }

    fn delay(&self) -> Duration {
        if self.count <= Self::FREE {
            return Duration::ZERO;
        }
        self.build_time.saturating_mul(Self::PAUSE_PER_BUILD).clamp(Self::DELAY_MIN, Self::DELAY_MAX)
    }
}

/// What became of a fault's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logged {
    InFull,
    /// The first one of a window that is only counted: somebody has to log the number.
    CountedFirst,
    Counted,
}

/// Which faults are logged in full: each is dozens of lines, and a client can cause them. The rest is counted, and the
/// number is logged at the end of the window.
#[derive(Debug)]
struct FaultLog {
    since: Instant,
    logged: u32,
    left_out: u32,
}

impl FaultLog {
    const WINDOW: Duration = Duration::from_secs(10);
    const PER_WINDOW: u32 = 10;

    fn new(now: Instant) -> Self {
        Self { since: now, logged: 0, left_out: 0 }
    }

    fn add(&mut self, now: Instant) -> Logged {
        if now.duration_since(self.since) > Self::WINDOW && self.left_out == 0 {
            *self = Self::new(now);
        }
        if self.logged < Self::PER_WINDOW {
            self.logged += 1;
            return Logged::InFull;
        }
        self.left_out += 1;
        if self.left_out == 1 { Logged::CountedFirst } else { Logged::Counted }
    }

    /// Begins a new window; gives the number of those that were not logged in the last one.
    fn turn(&mut self, now: Instant) -> u32 {
        std::mem::replace(self, Self::new(now)).left_out
    }
}

impl PluginVersion {
    /// VMs that are ready beyond one per worker: a fault takes one at once, and the next may follow before another is
    /// made.
    const SPARES: usize = 2;

    /// Starts the first VM, which tells whether the plug-in accepts its configuration, and then the others. Blocks.
    pub(crate) fn start(
        id: u64,
        definition: Arc<PluginDefinition>,
        artifact: Fetched,
        module: Arc<Module<WasmStream>>,
        engine: Engine,
        shared: (Arc<PluginStats>, Process),
        workers: usize,
    ) -> Result<Arc<Self>, StartError> {
        let (retired, inbox) = mpsc::unbounded_channel();
        let (stats, process) = shared;
        let namespace = process.shared.namespace(&definition.context.vm_id);
        let version = Arc::new(Self {
            id,
            definition,
            artifact,
            stats,
            module,
            engine,
            process,
            _shared: namespace,
            spares: Mutex::default(),
            refill: Notify::new(),
            made: Notify::new(),
            retired,
            slots: (0..workers).map(|_| WorkerSlot::default()).collect(),
            last_fault: Mutex::default(),
            storm: Mutex::default(),
            fault_log: Arc::new(Mutex::new(FaultLog::new(Instant::now()))),
        });
        for _ in 0..workers + Self::SPARES {
            let vm = version.build()?;
            version.spares.lock().push_back(vm);
        }
        tokio::spawn(stop_retired(inbox));
        tokio::spawn(make_spares(Arc::downgrade(&version)));
        Ok(version)
    }

    fn build(&self) -> Result<Vm<WasmStream>, StartError> {
        let (definition, started) = (&self.definition, Instant::now());
        let vm = Vm::start(&self.module, Arc::clone(&definition.context), &self.process, definition.limits);
        self.storm.lock().build_time = started.elapsed();
        vm
    }

    /// A ready VM, if there is one; another is made in the background.
    pub(crate) fn take(&self) -> Option<Vm<WasmStream>> {
        let vm = self.spares.lock().pop_front();
        self.refill.notify_one();
        vm
    }

    /// When the next VM is made.
    pub(crate) fn made(&self) -> Notified<'_> {
        self.made.notified()
    }

    /// Whether a worker has no VM, and there is none to give it.
    pub(crate) fn is_short_of_vms(&self) -> bool {
        self.spare_count() == 0 && self.slots.iter().any(|slot| slot.vms.load(Ordering::Relaxed) == 0)
    }

    /// Makes VMs until there is one for each of `workers` that does not run this version yet, beyond the usual spare.
    ///
    /// # Errors
    /// [`StartError`]: a VM does not start any more.
    pub async fn prepare(self: &Arc<Self>, workers: usize) -> Result<(), StartError> {
        while self.spare_count() < workers {
            let version = Arc::clone(self);
            let built = tokio::task::spawn_blocking(move || version.build()).await;
            let vm = built.map_err(|e| StartError::Instantiate(e.to_string()))??;
            self.spares.lock().push_back(vm);
        }
        Ok(())
    }

    /// A callback that began at this tick is over: one that took long is counted and told.
    pub(crate) fn note_slow(&self, started: u64) {
        let ticks = self.engine.ticks().wrapping_sub(started);
        // A tick may have been almost over at the start: only whole ones count.
        let ms = ticks.saturating_sub(1).saturating_mul(u64::try_from(Engine::TICK.as_millis()).unwrap_or(0));
        if ms >= PluginStats::SLOW_MS {
            let count = PluginStats::add(&self.stats.slow_callbacks);
            // Every power of two: the first is said at once, a thousand are ten lines.
            if (count + 1).is_power_of_two() {
                tracing::warn!(target: "wasm", plugin = &*self.definition.name, "plugin {}: a callback took more than {ms} ms ({} so far); it held up this worker's other streams", self.definition.name, count + 1);
            }
        }
    }

    pub(crate) fn retire(&self, vm: Retired) {
        // Without a receiver the process is ending.
        let _ = self.retired.send(vm);
    }

    /// Notes a failure: counts, logs and remembers it.
    pub(crate) fn report(&self, failure: &Failure) {
        self.stats.count_fault(failure.reason.label());
        self.storm.lock().add(Instant::now());
        *self.last_fault.lock() = Some(Fault::new(failure, SystemTime::now()));
        let name = &self.definition.name;
        let logged = self.fault_log.lock().add(Instant::now());
        if logged == Logged::CountedFirst
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(log_left_out(Arc::clone(&self.fault_log), Arc::clone(name)));
        }
        if logged != Logged::InFull {
            return;
        }
        // A line of its own for every frame: line ends inside a message are escaped.
        for line in failure.to_string().lines() {
            tracing::error!(target: "wasm", plugin = &*self.definition.name, reason = failure.reason.label(), "wasm log {}: {line}", self.definition.name);
        }
    }

    /// The last failure at run time.
    pub fn last_fault(&self) -> Option<Fault> {
        self.last_fault.lock().clone()
    }

    /// The ABI that the module announces.
    pub fn abi(&self) -> wasmgate_host::AbiVersion {
        self.module.abi()
    }

    pub(crate) fn silenced_callbacks(&self) -> &[&'static str] {
        self.module.silenced_callbacks()
    }

    /// VMs that are ready and not used.
    pub fn spare_count(&self) -> usize {
        self.spares.lock().len()
    }

    /// VMs and bytes of memory of each worker.
    pub fn workers(&self) -> impl Iterator<Item = (usize, usize)> {
        self.slots.iter().map(|s| (s.vms.load(Ordering::Relaxed), s.memory_bytes.load(Ordering::Relaxed)))
    }
}

impl std::fmt::Debug for PluginVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginVersion")
            .field("id", &self.id)
            .field("name", &self.definition.name)
            .finish_non_exhaustive()
    }
}

/// Says at the end of a window how many faults were not logged.
async fn log_left_out(log: Arc<Mutex<FaultLog>>, name: Arc<str>) {
    tokio::time::sleep(FaultLog::WINDOW).await;
    let left_out = log.lock().turn(Instant::now());
    tracing::error!(target: "wasm", plugin = &*name, "plugin {name}: {left_out} more faults in the last {:?} were not logged", FaultLog::WINDOW);
}

/// Stops VMs that nobody needs any more.
async fn stop_retired(mut inbox: mpsc::UnboundedReceiver<Retired>) {
    while let Some(vm) = inbox.recv().await {
        // Entering a guest takes as long as the guest likes, up to its deadline.
        let _ = tokio::task::spawn_blocking(move || vm.stop()).await;
    }
}

/// Keeps spares ready for as long as the version lives.
async fn make_spares(version: Weak<PluginVersion>) {
    /// How much longer than its last user a version's spares live at most.
    const IDLE: Duration = Duration::from_secs(10);
    loop {
        let Some(alive) = version.upgrade() else { return };
        if alive.spare_count() >= PluginVersion::SPARES {
            let _ = tokio::time::timeout(IDLE, alive.refill.notified()).await;
            continue;
        }
        let delay = alive.storm.lock().delay();
        drop(alive);
        tokio::time::sleep(delay).await;
        let Some(alive) = version.upgrade() else { return };
        let build = move || match alive.build() {
            Ok(vm) => {
                alive.spares.lock().push_back(vm);
                alive.made.notify_waiters();
                true
            }
            Err(e) => {
                let name = &alive.definition.name;
                tracing::error!(target: "wasm", plugin = &**name, "plugin {name}: a fresh VM does not start: {e}");
                false
            }
        };
        if !tokio::task::spawn_blocking(build).await.unwrap_or(false) {
            tokio::time::sleep(FaultStorm::CALM).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_faults_are_free_and_a_storm_takes_its_share_only() {
        let mut storm = FaultStorm { build_time: Duration::from_millis(5), ..FaultStorm::default() };
        let start = Instant::now();
        for i in 0..8 {
            storm.add(start + Duration::from_millis(i));
            assert_eq!(storm.delay(), Duration::ZERO);
        }
        storm.add(start + Duration::from_millis(8));
        assert_eq!(storm.delay(), Duration::from_millis(15), "three times what making one takes");
        storm.build_time = Duration::from_secs(60);
        assert_eq!(storm.delay(), FaultStorm::DELAY_MAX);
        storm.build_time = Duration::ZERO;
        assert_eq!(storm.delay(), FaultStorm::DELAY_MIN);
        storm.add(start + Duration::from_secs(120));
        assert_eq!(storm.delay(), Duration::ZERO, "after a calm");
    }

    #[test]
    fn the_first_faults_are_logged_and_the_others_counted() {
        let start = Instant::now();
        let mut log = FaultLog::new(start);
        assert!((0..10).all(|_| log.add(start) == Logged::InFull));
        assert_eq!(log.add(start), Logged::CountedFirst);
        assert!((0..4).all(|_| log.add(start) == Logged::Counted));
        let later = start + Duration::from_secs(11);
        assert_eq!(log.add(later), Logged::Counted, "the window ends when its number is logged");
        assert_eq!(log.turn(later), 6);
        assert_eq!(log.add(later), Logged::InFull);
    }
}
