//! A worker: one thread, one runtime, everything that its streams need.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use wasmgate_config::{Cluster, RouteTable};
use wasmgate_plugin::{PluginWorker, StreamPort, WorkerPlugin};

use crate::access_log::{self, Entry};
use crate::callout::Callouts;
use crate::chain::{ChainFilter, WorkerStep};
use crate::clock::DateCache;
use crate::connection;
use crate::generation::Generation;
use crate::idle::{self, IdleTable};
use crate::settings::Settings;
use crate::stats::{ClusterCounters, ClusterStats, GatewayStats, WorkerStats};
use crate::upstream::Pool;

/// What the control side tells a worker.
pub(crate) enum Command {
    /// New streams get this generation. The sender is dropped once they do.
    Publish(Arc<Generation>, mpsc::Sender<()>),
    /// Accepts connections on this socket.
    Listen(SocketAddr, std::net::TcpListener),
    /// Accepts no more on this address.
    StopListening(SocketAddr),
    /// Accepts no more at all, lets connections end, and stops. The sender is dropped once it has.
    Drain(mpsc::Sender<()>),
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
    pub(crate) pool: RefCell<Pool>,
    pub(crate) date: DateCache,
    pub(crate) idle: IdleTable,
    generation: RefCell<Rc<WorkerGeneration>>,
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
        access_log::format(&mut lines, entry);
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

/// A generation with this worker's VMs.
#[derive(Debug, Default)]
pub(crate) struct WorkerGeneration {
    listeners: Vec<WorkerListener>,
    /// By the address of the cluster, which the route holds: no hash of a name per request.
    clusters: RefCell<HashMap<usize, Rc<WorkerCluster>>>,
    /// All clusters of the configuration.
    by_name: BTreeMap<Arc<str>, Arc<Cluster>>,
    gateway_stats: Option<Arc<GatewayStats>>,
    worker: usize,
}

#[derive(Debug)]
struct WorkerListener {
    address: SocketAddr,
    routes: Arc<RouteTable>,
    chain: Vec<WorkerStep>,
}

#[derive(Debug)]
struct WorkerCluster {
    /// Keeps the cluster alive for as long as its address is a key.
    _cluster: Arc<Cluster>,
    stats: Arc<ClusterStats>,
    next: Cell<usize>,
    equal_weights: bool,
}

impl WorkerGeneration {
    /// The listener of a connection, if it still exists.
    pub(crate) fn listener(&self, local: SocketAddr) -> Option<usize> {
        let exact = self.listeners.iter().position(|l| l.address == local);
        exact.or_else(|| {
            self.listeners
                .iter()
                .position(|l| l.address.ip().is_unspecified() && l.address.port() == local.port())
        })
    }

    pub(crate) fn routes(&self, listener: usize) -> Option<&RouteTable> {
        self.listeners.get(listener).map(|l| &*l.routes)
    }

    /// The chain for a new stream, and the port through which its plug-ins are reached from outside.
    pub(crate) fn filters(&self, listener: usize) -> (SmallVec<[ChainFilter; 2]>, Option<Rc<StreamPort>>) {
        let Some(listener) = self.listeners.get(listener).filter(|l| !l.chain.is_empty()) else {
            return (SmallVec::new(), None);
        };
        let port = Rc::new(StreamPort::default());
        let filters = listener.chain.iter().enumerate().map(|(i, step)| step.filter(&port, i)).collect();
        (filters, Some(port))
    }

    /// A cluster that call-outs can name.
    pub(crate) fn cluster_named(&self, name: &str) -> Option<Arc<Cluster>> {
        self.by_name.get(name).cloned()
    }

    /// Waits for VMs that are being replaced: what a plug-in did to one stream shall not cost the next one.
    pub(crate) async fn plugins_ready(&self, local: SocketAddr) {
        let Some(listener) = self.listener(local).and_then(|l| self.listeners.get(l)) else { return };
        for plugin in listener.chain.iter().filter_map(WorkerStep::restarting) {
            plugin.ready().await;
        }
    }

    pub(crate) fn has_filters(&self, listener: Option<usize>) -> bool {
        listener.and_then(|l| self.listeners.get(l)).is_some_and(|l| !l.chain.is_empty())
    }

    fn cluster(&self, cluster: &Arc<Cluster>) -> Option<Rc<WorkerCluster>> {
        let key = Arc::as_ptr(cluster) as usize;
        if let Some(known) = self.clusters.borrow().get(&key) {
            return Some(Rc::clone(known));
        }
        let stats = self.gateway_stats.as_ref()?.cluster(&cluster.name);
        let first = cluster.endpoints.first().map(|e| e.weight);
        let equal_weights = cluster.endpoints.iter().all(|e| Some(e.weight) == first);
        let made = Rc::new(WorkerCluster {
            _cluster: Arc::clone(cluster),
            stats,
            next: Cell::new(fastrand::usize(..)),
            equal_weights,
        });
        self.clusters.borrow_mut().insert(key, Rc::clone(&made));
        Some(made)
    }

    /// The next endpoint: in turn when all weigh the same, else by weight.
    pub(crate) fn endpoint(&self, cluster: &Arc<Cluster>) -> Option<SocketAddr> {
        let endpoints = &cluster.endpoints;
        if let [only] = endpoints.as_slice() {
            return Some(only.address);
        }
        let runtime = self.cluster(cluster)?;
        if runtime.equal_weights {
            let n = runtime.next.get();
            runtime.next.set(n.wrapping_add(1));
            return endpoints.get(n.checked_rem(endpoints.len())?).map(|e| e.address);
        }
        let total: u64 = endpoints.iter().map(|e| u64::from(e.weight)).sum();
        let mut at = fastrand::u64(..).checked_rem(total)?;
        endpoints
            .iter()
            .find(|e| match at.checked_sub(u64::from(e.weight)) {
                Some(rest) => {
                    at = rest;
                    false
                }
                None => true,
            })
            .map(|e| e.address)
    }

    pub(crate) fn count(&self, cluster: &Arc<Cluster>, count: impl FnOnce(&ClusterCounters)) {
        if let Some(runtime) = self.cluster(cluster)
            && let Some(shard) = runtime.stats.shards.get(self.worker)
        {
            count(shard);
        }
    }
}

/// The worker's own task: carries commands out one after the other.
pub(crate) struct Worker {
    context: Rc<WorkerContext>,
    plugin_worker: Rc<PluginWorker>,
    /// VMs by version, so that versions that stay keep theirs.
    plugins: HashMap<u64, Rc<WorkerPlugin>>,
    accepting: HashMap<SocketAddr, AbortHandle>,
    drain: watch::Sender<bool>,
}

impl Worker {
    pub(crate) fn new(index: usize, settings: Arc<Settings>, gateway_stats: Arc<GatewayStats>) -> Self {
        let stats = gateway_stats.workers.get(index).cloned().unwrap_or_default();
        let pool = Pool::new(settings.upstream_idle_max, settings.upstream_idle_connections_max);
        let context = WorkerContext {
            index,
            stats,
            gateway_stats,
            pool: RefCell::new(pool),
            date: DateCache::default(),
            idle: IdleTable::default(),
            generation: RefCell::default(),
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
            drain: watch::Sender::new(false),
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
                    Some(Command::StopListening(address)) => self.stop_listening(address),
                    Some(Command::Drain(done)) => {
                        self.drain().await;
                        drop(done);
                        return;
                    }
                    None => return self.drain().await,
                },
                _ = idle_tick.tick() => self.context.idle.tick(self.context.settings.stream_idle_max),
                _ = sweep.tick() => {
                    let mut pool = self.context.pool.borrow_mut();
                    pool.sweep(Instant::now());
                    while self.context.connections.borrow_mut().try_join_next().is_some() {}
                    self.context.stats.set_idle(pool.len());
                }
            }
        }
    }

    fn publish(&mut self, generation: &Generation) {
        let index = self.context.index;
        let mut used = HashMap::new();
        let (plugins, worker) = (&mut self.plugins, &self.plugin_worker);
        let mut worker_plugin = |version: &Arc<wasmgate_plugin::PluginVersion>| {
            let plugin = plugins
                .entry(version.id)
                .or_insert_with(|| WorkerPlugin::new(Arc::clone(version), Rc::clone(worker)));
            used.insert(version.id, Rc::clone(plugin));
            Rc::clone(plugin)
        };
        let listeners = generation
            .listeners
            .iter()
            .map(|l| WorkerListener {
                address: l.address,
                routes: Arc::clone(&l.routes),
                chain: WorkerStep::chain(&l.chain, &mut worker_plugin),
            })
            .collect();
        self.plugins = used;
        let next = WorkerGeneration {
            listeners,
            clusters: RefCell::default(),
            by_name: generation.clusters.clone(),
            gateway_stats: Some(Arc::clone(&self.context.gateway_stats)),
            worker: index,
        };
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
        let (context, drain) = (Rc::clone(&self.context), self.drain.subscribe());
        let task = tokio::task::spawn_local(accept(context, listener, address, drain));
        self.accepting.insert(address, task.abort_handle());
    }

    fn stop_listening(&mut self, address: SocketAddr) {
        if let Some(task) = self.accepting.remove(&address) {
            task.abort();
        }
    }

    /// Lets every connection finish what it has begun.
    async fn drain(&mut self) {
        for (_, task) in self.accepting.drain() {
            task.abort();
        }
        self.drain.send_replace(true);
        let active = &self.context.stats.downstream_connections_active;
        let ended = async {
            while active.get() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(self.context.settings.drain_time_max, ended).await.is_err() {
            tracing::warn!(target: "main", "worker {}: {} connections were cut off at the end of the drain time", self.context.index, active.get());
        }
        // What was cut off ends now, and each of its streams still has its line.
        let mut connections = std::mem::take(&mut *self.context.connections.borrow_mut());
        connections.shutdown().await;
        tokio::task::yield_now().await;
        self.context.flush_log();
    }
}

async fn accept(
    context: Rc<WorkerContext>,
    listener: TcpListener,
    address: SocketAddr,
    drain: watch::Receiver<bool>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
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
                tracing::warn!(target: "main", "accept on {address}: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
