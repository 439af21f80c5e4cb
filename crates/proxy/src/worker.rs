//! A worker: one thread, one runtime, everything that its streams need.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use wasmgate_plugin::{PluginWorker, WorkerPlugin};

use crate::access_log::{self, Entry};
use crate::callout::Callouts;
use crate::clock::DateCache;
use crate::connection;
use crate::generation::Generation;
use crate::idle::{self, IdleTable};
use crate::phase::{Phase, PhaseReceiver};
use crate::settings::Settings;
use crate::stats::{GatewayStats, WorkerStats};
use crate::upstream::ClusterRegistry;
use crate::worker_generation::WorkerGeneration;

/// What the control side tells a worker.
pub(crate) enum Command {
    /// New streams get this generation. The sender is dropped once they do.
    Publish(Arc<Generation>, mpsc::Sender<()>),
    /// Accepts connections on this socket.
    Listen(SocketAddr, std::net::TcpListener),
    /// Accepts no more on this address.
    StopListening(SocketAddr),
    /// Asks clients to leave, or lets them stay again; see [`Phase::Leave`].
    Leave(bool),
    /// Accepts no more at all, lets connections end, and stops. The sender is dropped once it has.
    Drain(mpsc::Sender<()>),
    /// Another process accepts in its place: connections end after their next answer, or with the drain time.
    Retire(mpsc::Sender<()>),
}

/// Access log lines are handed over when there are so many bytes, or after [`LOG_DELAY`].
const LOG_BATCH_BYTES: usize = 32 << 10;
const LOG_DELAY: Duration = Duration::from_millis(20);
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// After an error of accept (out of descriptors, say): retrying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A worker's shared state. Never leaves its thread.
#[derive(Debug)]
pub(crate) struct WorkerContext {
    pub(crate) index: usize,
    pub(crate) settings: Arc<Settings>,
    pub(crate) stats: Arc<WorkerStats>,
    pub(crate) gateway_stats: Arc<GatewayStats>,
    pub(crate) clusters: Rc<ClusterRegistry>,
    pub(crate) date: DateCache,
    pub(crate) idle: IdleTable,
    generation: RefCell<Rc<WorkerGeneration>>,
    /// Clients are asked to leave: answers over HTTP/1 end their connection.
    pub(crate) is_leaving: Cell<bool>,
    next_connection: Cell<u64>,
    no_name: Arc<str>,
    /// Every downstream connection's task.
    connections: RefCell<JoinSet<()>>,
    log_lines: RefCell<Vec<u8>>,
    log_pending: Cell<bool>,
}

impl WorkerContext {
    /// The generation for a new stream.
    pub(crate) fn generation(&self) -> Rc<WorkerGeneration> {
        Rc::clone(&self.generation.borrow())
    }

    /// The empty name, shared so that a stream does not allocate it.
    pub(crate) fn no_name(&self) -> Arc<str> {
        Arc::clone(&self.no_name)
    }

    /// Unique in the process: the worker's number is the lowest byte.
    pub(crate) fn next_connection_id(&self) -> u64 {
        let n = self.next_connection.get() + 1;
        self.next_connection.set(n);
        (n << 8) | (self.index as u64 & 0xff)
    }

    /// Adds an access log line.
    pub(crate) fn log(self: &Rc<Self>, entry: &Entry<'_>) {
        let Some(sink) = &self.settings.access_log else { return };
        let mut lines = self.log_lines.borrow_mut();
        match &self.settings.access_log_format {
            Some(format) => format.write(&mut lines, entry),
            None => access_log::format(&mut lines, entry),
        }
        if lines.len() >= LOG_BATCH_BYTES {
            sink.send(std::mem::replace(&mut lines, Vec::with_capacity(LOG_BATCH_BYTES + 1024)));
        } else if !self.log_pending.replace(true) {
            let worker = Rc::clone(self);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(LOG_DELAY).await;
                worker.flush_log();
            });
        }
    }

    fn flush_log(&self) {
        self.log_pending.set(false);
        let lines = std::mem::take(&mut *self.log_lines.borrow_mut());
        if let Some(sink) = self.settings.access_log.as_ref().filter(|_| !lines.is_empty()) {
            sink.send(lines);
        }
    }
}

/// The worker's own task: carries commands out one after the other.
pub(crate) struct Worker {
    context: Rc<WorkerContext>,
    plugin_worker: Rc<PluginWorker>,
    /// VMs by version, so that versions that stay keep theirs.
    plugins: HashMap<u64, Rc<WorkerPlugin>>,
    /// A listener may have several sockets: another process may have had more workers.
    accepting: HashMap<SocketAddr, Vec<Accepting>>,
    /// What the connections of listeners are told.
    phase: Phase,
    /// Listeners that are gone and may still have connections.
    closing: Vec<watch::Sender<Phase>>,
}

/// A listener's socket on this worker.
struct Accepting {
    /// Dropped, it accepts what has come already, and no more.
    _stop: oneshot::Sender<()>,
    /// Tells its connections to end with the request at hand.
    drain: watch::Sender<Phase>,
}

impl Worker {
    pub(crate) fn new(index: usize, settings: Arc<Settings>, gateway_stats: Arc<GatewayStats>) -> Self {
        let stats = gateway_stats.workers.get(index).cloned().unwrap_or_default();
        let clusters = ClusterRegistry::new(Arc::clone(&settings), Arc::clone(&gateway_stats), index);
        let context = WorkerContext {
            index,
            stats,
            gateway_stats,
            clusters: Rc::new(clusters),
            date: DateCache::default(),
            idle: IdleTable::default(),
            generation: RefCell::default(),
            is_leaving: Cell::new(false),
            next_connection: Cell::new(0),
            no_name: Arc::from(""),
            connections: RefCell::default(),
            log_lines: RefCell::default(),
            log_pending: Cell::new(false),
            settings,
        };
        let context = Rc::new(context);
        let runner = Rc::new(Callouts::new(Rc::downgrade(&context)));
        Self {
            plugin_worker: PluginWorker::new(index, runner),
            context,
            plugins: HashMap::new(),
            accepting: HashMap::new(),
            phase: Phase::Serve,
            closing: Vec::new(),
        }
    }

    pub(crate) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        let mut idle_tick = tokio::time::interval(idle::TICK);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Publish(generation, done)) => {
                        self.publish(&generation);
                        drop(done);
                    }
                    Some(Command::Listen(address, listener)) => self.listen(address, listener),
                    Some(Command::Leave(leave)) => self.leave(leave),
                    Some(Command::StopListening(address)) => self.stop_listening(address),
                    Some(Command::Drain(done)) => {
                        self.drain().await;
                        drop(done);
                        return;
                    }
                    Some(Command::Retire(done)) => {
                        self.retire().await;
                        drop(done);
                        return;
                    }
                    None => return self.drain().await,
                },
                _ = idle_tick.tick() => self.context.idle.tick(self.context.settings.stream_idle_max),
                _ = sweep.tick() => {
                    let idle = self.context.clusters.sweep(Instant::now());
                    while self.context.connections.borrow_mut().try_join_next().is_some() {}
                    self.context.stats.set_idle(idle);
                }
            }
        }
    }

    fn publish(&mut self, generation: &Generation) {
        let mut used = HashMap::new();
        let (plugins, worker) = (&mut self.plugins, &self.plugin_worker);
        let mut worker_plugin = |version: &Arc<wasmgate_plugin::PluginVersion>| {
            let plugin = plugins
                .entry(version.id)
                .or_insert_with(|| WorkerPlugin::new(Arc::clone(version), Rc::clone(worker)));
            used.insert(version.id, Rc::clone(plugin));
            Rc::clone(plugin)
        };
        let is_kept = |name: &str| generation.clusters.contains_key(name);
        let next = WorkerGeneration::new(generation, &mut worker_plugin, &self.context.clusters);
        self.context.clusters.begin(generation.id, is_kept);
        self.plugins = used;
        *self.context.generation.borrow_mut() = Rc::new(next);
        self.context.stats.set_generation(generation.id);
    }

    fn listen(&mut self, address: SocketAddr, listener: std::net::TcpListener) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(e) => {
                return tracing::error!(target: "main", "worker {}: cannot listen on {address}: {e}", self.context.index);
            }
        };
        let (context, drain) = (Rc::clone(&self.context), watch::Sender::new(self.phase));
        let (stop, stopped) = oneshot::channel();
        tokio::task::spawn_local(accept(context, listener, address, drain.subscribe(), stopped));
        self.accepting.entry(address).or_default().push(Accepting { _stop: stop, drain });
    }

    /// Asks clients to leave, or lets them stay.
    fn leave(&mut self, leave: bool) {
        self.phase = if leave { Phase::Leave } else { Phase::Serve };
        self.context.is_leaving.set(leave);
        for accepting in self.accepting.values().flatten() {
            accepting.drain.send_replace(self.phase);
        }
    }

    /// Accepts no more on an address; its connections end with the request at hand.
    fn stop_listening(&mut self, address: SocketAddr) {
        self.closing.retain(|drain| drain.receiver_count() > 0);
        for Accepting { drain, .. } in self.accepting.remove(&address).unwrap_or_default() {
            drain.send_replace(Phase::Drain);
            self.closing.push(drain);
        }
    }

    /// Accepts no more; connections end after their next answer, or at the end of the drain time.
    async fn retire(&mut self) {
        self.leave(true);
        for Accepting { drain, .. } in self.accepting.drain().flat_map(|(_, sockets)| sockets) {
            self.closing.push(drain);
        }
        let ended = ended(&self.context.stats);
        if tokio::time::timeout(self.context.settings.drain_time_max, ended).await.is_err() {
            for drain in &self.closing {
                drain.send_replace(Phase::Drain);
            }
        }
        // There is no time left, or nobody left.
        self.end(Duration::ZERO).await;
    }

    /// Lets every connection finish what it has begun.
    async fn drain(&mut self) {
        self.end(self.context.settings.drain_time_max).await;
    }

    async fn end(&mut self, time_max: Duration) {
        let addresses: Vec<SocketAddr> = self.accepting.keys().copied().collect();
        addresses.into_iter().for_each(|address| self.stop_listening(address));
        // What has just been accepted is a connection, too.
        tokio::task::yield_now().await;
        let active = &self.context.stats.downstream_connections_active;
        let ended = ended(&self.context.stats);
        if tokio::time::timeout(time_max, ended).await.is_err() {
            tracing::warn!(target: "main", "worker {}: {} connections were cut off at the end of the drain time", self.context.index, active.get());
        }
        // What was cut off ends now, and each of its streams still has its line.
        let mut connections = std::mem::take(&mut *self.context.connections.borrow_mut());
        connections.shutdown().await;
        tokio::task::yield_now().await;
        self.context.flush_log();
    }
}

/// Waits for the last connection.
async fn ended(stats: &WorkerStats) {
    while stats.downstream_connections_active.get() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn accept(
    context: Rc<WorkerContext>,
    listener: TcpListener,
    address: SocketAddr,
    drain: PhaseReceiver,
    mut stopped: oneshot::Receiver<()>,
) {
    let (mut warned, mut failed) = (None, None);
    loop {
        let accepted = tokio::select! {
            // Who waits already is not sent away.
            biased;
            accepted = listener.accept() => accepted,
            _ = &mut stopped => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                if context.stats.downstream_connections_active.get() >= context.settings.connections_max {
                    context.stats.downstream_connections_refused.increment();
                    warned = warn_of_refused(&context, address, warned);
                    continue;
                }
                let _ = stream.set_nodelay(true);
                let local = if address.ip().is_unspecified() {
                    stream.local_addr().unwrap_or(address)
                } else {
                    address
                };
                let serve = connection::serve(Rc::clone(&context), stream, remote, local, drain.clone());
                context.connections.borrow_mut().spawn_local(serve);
            }
            Err(e) => {
                failed = warn_of_failure(&context, address, &e, failed);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What happens with every connection is said this often.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Says that no connection can be accepted (no descriptor is left, say), now and then; when it was said last.
fn warn_of_failure(
    context: &WorkerContext,
    address: SocketAddr,
    error: &std::io::Error,
    warned: Option<Instant>,
) -> Option<Instant> {
    let now = Instant::now();
    if warned.is_some_and(|last| now.duration_since(last) < WARN_INTERVAL) {
        return warned;
    }
    let worker = context.index;
    tracing::warn!(target: "main", "worker {worker}: accept on {address}: {error}; tried again for as long as it takes");
    Some(now)
}

/// Says that connections are refused, now and then; when it was said last.
fn warn_of_refused(context: &WorkerContext, address: SocketAddr, warned: Option<Instant>) -> Option<Instant> {
    let now = Instant::now();
    if warned.is_some_and(|last| now.duration_since(last) < WARN_INTERVAL) {
        return warned;
    }
    let (worker, max) = (context.index, context.settings.connections_max);
    let refused = context.stats.downstream_connections_refused.get();
    tracing::warn!(target: "http", "worker {worker}: {max} connections are open, no more are let in on {address}; {refused} were closed at once so far (--max-connections)");
    Some(now)
}
