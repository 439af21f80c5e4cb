//! The control side's handle on the workers.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::LocalOptions;
use tokio::sync::mpsc;
use wasmgate_config::TlsListener;

use crate::generation::Generation;
use crate::settings::Settings;
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

/// Connections that wait to be accepted, per worker and listener.
const BACKLOG: i32 = 1024;

/// The workers.
#[derive(Debug)]
pub struct Gateway {
    workers: Vec<mpsc::UnboundedSender<Command>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stats: Arc<GatewayStats>,
    listening: Mutex<BTreeSet<SocketAddr>>,
    /// What the workers have.
    last: Mutex<Option<Arc<Generation>>>,
    tls: TlsConfigs,
    supervisor: Supervisor,
    /// Nothing is listened on any more, whatever a configuration says.
    is_closed: AtomicBool,
}

impl Gateway {
    /// Starts workers without a configuration. Without a resolver no name of an endpoint has an address.
    ///
    /// # Errors
    /// [`GatewayError::Worker`]
    pub fn start(
        workers: usize,
        settings: Settings,
        resolver: Option<Resolver>,
    ) -> Result<Self, GatewayError> {
        let (settings, stats) = (Arc::new(settings), GatewayStats::new(workers));
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
            supervisor: Supervisor::new(Arc::clone(&stats), resolver),
            stats,
            listening: Mutex::default(),
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
        let mut listening = before;
        for (address, sockets) in opened {
            for (worker, socket) in self.workers.iter().zip(sockets) {
                let _ = worker.send(Command::Listen(address, socket));
            }
            listening.insert(address);
        }
        let serves = |address: &SocketAddr| generation.listeners.iter().any(|l| l.address == *address);
        for address in listening.iter().filter(|a| !serves(a)) {
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
    ) -> (Vec<(SocketAddr, Vec<std::net::TcpListener>)>, Vec<GatewayError>) {
        let (mut opened, mut errors): (Vec<(SocketAddr, _)>, _) = (Vec::new(), Vec::new());
        for address in wanted.iter().filter(|a| !open.contains(a)).copied() {
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
        let addresses = std::mem::take(&mut *self.listening.lock());
        for address in addresses {
            for worker in &self.workers {
                let _ = worker.send(Command::StopListening(address));
            }
        }
    }

    /// Stops accepting, lets connections end, and waits for the workers.
    pub async fn drain(&self) {
        let (done, mut all_done) = mpsc::channel(1);
        for worker in &self.workers {
            let _ = worker.send(Command::Drain(done.clone()));
        }
        drop(done);
        let _ = all_done.recv().await;
        let threads = std::mem::take(&mut *self.threads.lock());
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())));
        let _ = joined.await;
    }
}

/// Whether nobody listens here: with SO_REUSEPORT another process of the same user would share the port, and each
/// connection would get one configuration or the other. Asked by connecting, because a bind without SO_REUSEPORT would
/// fail on a port that is only reserved, too. Our own listener of a moment ago may take an instant to close.
async fn wait_until_free(address: SocketAddr) -> std::io::Result<()> {
    const ATTEMPTS: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(50);
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let target = SocketAddr::new(ip, address.port());
    // An address that this machine does not have can wait for ever to be connected to.
    std::net::TcpListener::bind((address.ip(), 0))?;
    for _ in 0..ATTEMPTS {
        // An address of this machine accepts or refuses at once; whatever else is wrong with it, bind tells.
        match tokio::time::timeout(PAUSE, tokio::net::TcpStream::connect(target)).await {
            // The system may choose the very port to connect from: then it met itself.
            Ok(Ok(stream)) if stream.local_addr().is_ok_and(|local| local == target) => return Ok(()),
            Ok(Ok(_)) => tokio::time::sleep(PAUSE).await,
            // A full backlog: somebody listens and does not keep up.
            Err(_) => {}
            Ok(Err(_)) => return Ok(()),
        }
    }
    Err(std::io::Error::new(ErrorKind::AddrInUse, "Address already in use: another process listens there"))
}

/// A socket of its own for each worker: the kernel spreads connections over them, and no worker waits for another.
fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
