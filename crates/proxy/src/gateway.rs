//! The control side's handle on the workers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc;
use wasmgate_config::TlsListener;

use crate::generation::Generation;
use crate::settings::Settings;
use crate::sockets::{bind, wait_until_free};
use crate::stats::GatewayStats;
use crate::supervisor::{Resolver, Supervisor};
use crate::tls::{ListenerTls, TlsConfigs};
use crate::worker::{Command, Worker};

/// Why the data path cannot do what it is told.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The system gives no thread or no event queue.
    #[error("cannot start worker {index}: {source}")]
    Worker {
        /// Its number.
        index: usize,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A listener's address cannot be bound. The other listeners work.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Sockets that another process has listened on, by address.
pub type InheritedSockets = BTreeMap<SocketAddr, Vec<TcpListener>>;

/// The workers.
#[derive(Debug)]
pub struct Gateway {
    workers: Vec<mpsc::UnboundedSender<Command>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stats: Arc<GatewayStats>,
    listening: Mutex<BTreeSet<SocketAddr>>,
    /// Those of another process that no generation has asked for yet.
    inherited: Mutex<InheritedSockets>,
    /// A second handle on each socket that is open, for a process that takes over.
    handles: Mutex<InheritedSockets>,
    /// What the workers have.
    last: Mutex<Option<Arc<Generation>>>,
    tls: TlsConfigs,
    supervisor: Supervisor,
    /// Nothing is listened on any more, whatever a configuration says.
    is_closed: AtomicBool,
}

impl Gateway {
    /// Starts workers without a configuration. Without a resolver no name of an endpoint has an address. `inherited`:
    /// sockets that are used in place of new ones.
    ///
    /// # Errors
    /// [`GatewayError::Worker`]
    pub fn start(
        workers: usize,
        settings: Settings,
        resolver: Option<Resolver>,
        inherited: InheritedSockets,
    ) -> Result<Self, GatewayError> {
        let memory_bytes_max = settings.memory_bytes_max;
        let stats = GatewayStats::new(workers, settings.admin);
        let settings = Arc::new(settings);
        let mut senders = Vec::new();
        let mut threads = Vec::new();
        for index in 0..workers {
            let error = |source| GatewayError::Worker { index, source };
            let (sender, commands) = mpsc::unbounded_channel();
            let (settings, stats) = (Arc::clone(&settings), Arc::clone(&stats));
            let (ready, started) = std::sync::mpsc::channel();
            let run = move || {
                let runtime = match tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default())
                {
                    Ok(runtime) => runtime,
                    Err(e) => return drop(ready.send(Err(e))),
                };
                let _ = ready.send(Ok(()));
                // Within the runtime: a worker has tasks from its beginning.
                runtime.block_on(async move { Worker::new(index, settings, stats).run(commands).await });
            };
            let thread =
                std::thread::Builder::new().name(format!("worker-{index}")).spawn(run).map_err(error)?;
            started.recv().unwrap_or_else(|e| Err(std::io::Error::other(e))).map_err(error)?;
            senders.push(sender);
            threads.push(thread);
        }
        Ok(Self {
            workers: senders,
            threads: Mutex::new(threads),
            is_closed: AtomicBool::new(false),
            supervisor: Supervisor::new(Arc::clone(&stats), resolver, memory_bytes_max),
            stats,
            listening: Mutex::default(),
            inherited: Mutex::new(inherited),
            handles: Mutex::default(),
            last: Mutex::default(),
            tls: TlsConfigs::default(),
        })
    }

    /// Looks names of endpoints up, asks endpoints for their health, and lets those back whose ejection is over, for as
    /// long as it is polled.
    pub async fn supervise(&self) {
        self.supervisor.run().await;
    }

    /// What TLS of a listener needs. What has not changed since the last call is the same as then.
    pub fn listener_tls(&self, names: &Arc<TlsListener>) -> Arc<ListenerTls> {
        Arc::new(self.tls.listener(names))
    }

    /// Counters.
    pub fn stats(&self) -> &Arc<GatewayStats> {
        &self.stats
    }

    /// Addresses that are listened on.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.listening.lock().iter().copied().collect()
    }

    /// Makes a generation the one for new streams on every worker. Sockets of new listeners are opened before, those of
    /// listeners that are gone are closed after it, and their connections end with the request at hand. Waits until all
    /// workers have it.
    ///
    /// Listeners that cannot be opened are returned; they are tried again with the next generation, and until then the
    /// listeners that this one has no more go on as they were: one may be meant to take another's place.
    pub async fn publish(&self, generation: Arc<Generation>) -> Vec<GatewayError> {
        let wanted: BTreeSet<SocketAddr> = generation.listeners.iter().map(|l| l.address).collect();
        let wanted = if self.is_closed.load(Ordering::Relaxed) { BTreeSet::new() } else { wanted };
        let before = self.listening.lock().clone();
        let (opened, errors) = self.open(&wanted, &before).await;
        let mut generation = generation;
        if !errors.is_empty() {
            let last = self.last.lock().clone();
            let kept = last.iter().flat_map(|l| &l.listeners).filter(|l| !wanted.contains(&l.address));
            let kept: Vec<_> = kept.filter(|l| before.contains(&l.address)).cloned().collect();
            if !kept.is_empty() {
                let mut more = Generation::clone(&generation);
                more.listeners.extend(kept);
                generation = Arc::new(more);
            }
        }
        for (name, cluster) in &generation.clusters {
            self.stats.cluster(name).configure(cluster);
        }
        self.supervisor.warm().await;
        let (done, mut all_done) = mpsc::channel(1);
        for worker in &self.workers {
            // A worker that is gone is draining: the process ends.
            let _ = worker.send(Command::Publish(Arc::clone(&generation), done.clone()));
        }
        drop(done);
        // Nothing is ever sent: the channel closes when the last worker has dropped its end.
        let _ = all_done.recv().await;
        let routed: BTreeSet<Arc<str>> =
            generation.listeners.iter().flat_map(|l| l.routes.cluster_names()).collect();
        self.stats.retain_clusters(|name| generation.clusters.contains_key(name) || routed.contains(name));
        let routes: BTreeSet<&str> =
            generation.listeners.iter().flat_map(|l| l.routes.routes()).map(|r| &*r.name).collect();
        let is_listener = |name: &str| generation.listeners.iter().any(|l| *l.name == *name);
        self.stats.retain_traffic(is_listener, |name| routes.contains(name));
        let mut listening = before;
        for (address, sockets) in opened {
            self.keep_handles(address, &sockets);
            for (i, socket) in sockets.into_iter().enumerate() {
                // Another process may have had more workers.
                if let Some(worker) = i.checked_rem(self.workers.len()).and_then(|i| self.workers.get(i)) {
                    let _ = worker.send(Command::Listen(address, socket));
                }
            }
            listening.insert(address);
        }
        let serves = |address: &SocketAddr| generation.listeners.iter().any(|l| l.address == *address);
        for address in listening.iter().filter(|a| !serves(a)) {
            self.handles.lock().remove(address);
            for worker in &self.workers {
                let _ = worker.send(Command::StopListening(*address));
            }
        }
        listening.retain(serves);
        *self.listening.lock() = listening;
        *self.last.lock() = Some(generation);
        errors
    }

    /// Sockets for what is wanted and not open yet, one per worker.
    async fn open(
        &self,
        wanted: &BTreeSet<SocketAddr>,
        open: &BTreeSet<SocketAddr>,
    ) -> (Vec<(SocketAddr, Vec<TcpListener>)>, Vec<GatewayError>) {
        let (mut opened, mut errors): (Vec<(SocketAddr, _)>, _) = (Vec::new(), Vec::new());
        for address in wanted.iter().filter(|a| !open.contains(a)).copied() {
            let mut sockets = self.inherited.lock().remove(&address).unwrap_or_default();
            if !sockets.is_empty() {
                // Enough for every worker; the port is ours already.
                let missing = self.workers.len().saturating_sub(sockets.len());
                match (0..missing).map(|_| bind(address)).collect::<Result<Vec<_>, _>>() {
                    Ok(more) => {
                        sockets.extend(more);
                        opened.push((address, sockets));
                    }
                    Err(source) => errors.push(GatewayError::Bind { address, source }),
                }
                continue;
            }
            let any = |a: &SocketAddr| a.ip().is_unspecified();
            let ours = open.iter().chain(opened.iter().map(|(a, _)| a));
            let is_ours = ours.into_iter().any(|a| a.port() == address.port() && (any(a) || any(&address)));
            let free = if is_ours { Ok(()) } else { wait_until_free(address).await };
            let sockets = || self.workers.iter().map(|_| bind(address)).collect::<Result<Vec<_>, _>>();
            match free.and_then(|()| sockets()) {
                Ok(sockets) => opened.push((address, sockets)),
                Err(source) => errors.push(GatewayError::Bind { address, source }),
            }
        }
        (opened, errors)
    }

    fn keep_handles(&self, address: SocketAddr, sockets: &[TcpListener]) {
        // Without a handle a process that takes over opens a socket of its own.
        let handles = sockets.iter().filter_map(|s| s.try_clone().ok()).collect();
        self.handles.lock().insert(address, handles);
    }

    /// Second handles on all sockets that are listened on.
    ///
    /// # Errors
    /// The system's.
    pub fn sockets(&self) -> std::io::Result<InheritedSockets> {
        let handles = self.handles.lock();
        let cloned = handles.iter().map(|(address, sockets)| {
            let sockets = sockets.iter().map(TcpListener::try_clone).collect::<Result<Vec<_>, _>>()?;
            Ok((*address, sockets))
        });
        cloned.collect()
    }

    /// Addresses of another process' sockets that no configuration has asked for.
    pub fn inherited(&self) -> Vec<SocketAddr> {
        self.inherited.lock().keys().copied().collect()
    }

    /// Another process accepts in our place: lets connections end after their next answer, at most for the drain time,
    /// and waits for the workers.
    pub async fn retire(&self) {
        self.end(Command::Retire).await;
    }

    /// Asks clients to use another gateway, or lets them stay again: answers over HTTP/1 end their connection, and HTTP/2
    /// connections get no further stream. New connections are accepted all the same.
    pub fn ask_to_leave(&self, leave: bool) {
        for worker in &self.workers {
            let _ = worker.send(Command::Leave(leave));
        }
    }

    /// Whether it accepts no more.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Stops accepting for good; connections end with the request at hand.
    pub fn stop_listening(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.handles.lock().clear();
        let addresses = std::mem::take(&mut *self.listening.lock());
        for address in addresses {
            for worker in &self.workers {
                let _ = worker.send(Command::StopListening(address));
            }
        }
    }

    /// Stops accepting, lets connections end, and waits for the workers.
    pub async fn drain(&self) {
        self.end(Command::Drain).await;
    }

    async fn end(&self, command: fn(mpsc::Sender<()>) -> Command) {
        self.handles.lock().clear();
        let (done, mut all_done) = mpsc::channel(1);
        for worker in &self.workers {
            let _ = worker.send(command(done.clone()));
        }
        drop(done);
        let _ = all_done.recv().await;
        let threads = std::mem::take(&mut *self.threads.lock());
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())));
        let _ = joined.await;
    }
}
