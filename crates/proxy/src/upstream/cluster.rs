//! A cluster on one worker: its endpoints with their connections, and the limits that it keeps to.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmgate_config::{Cluster, LoadBalancer, OutlierDetection};

use super::balance::{HostTable, Turn};
use super::connect::{Opening, Spoken, open};
use super::connection::UpstreamConnection;
use super::counters::ClusterCounters;
use super::host::Host;
use super::http2::{Http2Settings, Place};
use super::ledger::{ActiveRetry, Ledger, OpenConnection, Pending};
use super::state::{ClusterState, Outcome};
use super::tls::ClientTls;
use crate::settings::Settings;

/// Selections of an endpoint that has not been tried yet, as in Envoy's `host_selection_retry_max_attempts`.
const SELECTIONS_MAX: usize = 5;

/// A cluster as one configuration has it.
#[derive(Debug)]
pub(crate) struct WorkerCluster {
    pub(crate) config: Arc<Cluster>,
    state: Arc<ClusterState>,
    tls: Option<Arc<ClientTls>>,
    settings: Arc<Settings>,
    worker: usize,
    hosts: RefCell<Hosts>,
    /// Version of the table that `hosts` was made of.
    seen: Cell<u64>,
    /// It has had no table yet.
    seen_none: Cell<bool>,
    turn: Turn,
    ledger: Rc<Ledger>,
}

#[derive(Debug, Default)]
struct Hosts {
    table: Arc<HostTable>,
    /// In the order of the table.
    own: Vec<Rc<Host>>,
}

/// What a request over HTTP/1.1 gets.
pub(crate) enum Acquired {
    /// A connection that has been made for it.
    Fresh(Box<UpstreamConnection>),
    /// One that somebody else has done with.
    Pooled(Box<UpstreamConnection>),
}

/// A limit of the cluster is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

/// Who a connection is made for: endpoints may want to know.
pub(crate) type ClientAddresses = (SocketAddr, SocketAddr);

impl WorkerCluster {
    pub(crate) fn new(
        config: Arc<Cluster>,
        state: Arc<ClusterState>,
        settings: Arc<Settings>,
        worker: usize,
        before: Option<&Self>,
    ) -> Self {
        if state.config().is_none() {
            state.configure(&config);
        }
        let is_alike = |before: &&Self| {
            before.config.protocol == config.protocol
                && before.config.policy.tls == config.policy.tls
                && before.config.policy.proxy_protocol == config.policy.proxy_protocol
        };
        // Connections go on being used where they would be made in the same way.
        let (ledger, own) = match before.filter(is_alike) {
            Some(before) => (Rc::clone(&before.ledger), before.hosts.borrow().own.clone()),
            None => {
                before.into_iter().for_each(Self::close_all_idle);
                (Rc::new(Ledger::new(Arc::clone(&state), worker)), Vec::new())
            }
        };
        Self {
            tls: state.tls(&config),
            config,
            state,
            settings,
            worker,
            hosts: RefCell::new(Hosts { table: Arc::default(), own }),
            seen: Cell::new(0),
            seen_none: Cell::new(true),
            turn: Turn::random(),
            ledger,
        }
    }

    pub(crate) fn count(&self, count: impl FnOnce(&ClusterCounters)) {
        self.ledger.count(count);
    }

    /// Takes note of how an exchange with an endpoint went.
    pub(super) fn observe(&self, host: &Host, rules: &OutlierDetection, outcome: Outcome) {
        if !self.state.observe(&host.state, rules, outcome) {
            return;
        }
        let state = Arc::clone(&self.state);
        match self.config.policy.balance {
            // Large tables are not made on this thread.
            LoadBalancer::Hash(..) => drop(tokio::task::spawn_blocking(move || state.rebuild_table())),
            _ => state.rebuild_table(),
        }
    }

    /// Takes a new table over; connections to endpoints that stay are kept.
    fn refresh(&self) {
        let version = self.state.version();
        if version == self.seen.replace(version) {
            return;
        }
        let Some(table) = self.state.table_for(&self.config, self.seen_none.replace(false)) else {
            // Of a configuration that takes over soon, or has: this one keeps what it has.
            return;
        };
        let mut hosts = self.hosts.borrow_mut();
        let mut known: HashMap<SocketAddr, Rc<Host>> =
            hosts.own.drain(..).map(|host| (host.address(), host)).collect();
        hosts.table = table;
        let worker = self.worker;
        let own = hosts.table.hosts().iter().map(|state| match known.get(&state.address) {
            Some(host) if Arc::ptr_eq(&host.state, state) => Rc::clone(host),
            _ => {
                let host = Rc::new(Host::new(Arc::clone(state), worker));
                known.insert(state.address, Rc::clone(&host));
                host
            }
        });
        let own = own.collect();
        hosts.own = own;
    }

    /// Number of endpoints.
    pub(crate) fn len(&self) -> usize {
        self.refresh();
        self.hosts.borrow().own.len()
    }

    /// The endpoint for a request that has none yet. `key`: of the request, where one decides. `tried`: those that are
    /// avoided.
    pub(crate) fn pick(&self, key: Option<u64>, tried: &[SocketAddr]) -> Option<Rc<Host>> {
        self.refresh();
        let hosts = self.hosts.borrow();
        let active = |i: usize| {
            let shard = hosts.own.get(i).and_then(|h| h.state.shards.get(self.worker));
            shard.map_or(0, |s| s.requests_active.get())
        };
        let is_untried = |i: usize| hosts.own.get(i).is_some_and(|h| !tried.contains(&h.address()));
        let mut key = key;
        let mut picked = hosts.table.pick(&self.config.policy, key, &self.turn, active)?;
        for _ in 1..SELECTIONS_MAX {
            if is_untried(picked) {
                break;
            }
            // The one that its key leads to has failed.
            key = None;
            picked = hosts.table.pick(&self.config.policy, key, &self.turn, active)?;
        }
        if !is_untried(picked) {
            picked = hosts.table.first(is_untried).unwrap_or(picked);
        }
        hosts.own.get(picked).cloned()
    }

    /// The endpoint of an address, whatever its health.
    pub(crate) fn host(&self, address: SocketAddr) -> Option<Rc<Host>> {
        self.refresh();
        self.hosts.borrow().own.iter().find(|h| h.address() == address).cloned()
    }

    /// Whether another request may go out.
    pub(crate) fn admits_request(&self) -> bool {
        let limit = self.config.policy.limits.requests;
        limit.is_none_or(|limit| self.state.sum(|c| c.requests_active.get()) < u64::from(limit))
    }

    /// Whether another request may be sent again.
    pub(crate) fn admits_retry(&self) -> bool {
        let limits = &self.config.policy.limits;
        let limit = match limits.retry_budget {
            Some(budget) => {
                let requests = self.state.sum(|c| c.requests_active.get());
                let share = requests * u64::from(budget.basis_points) / 10_000;
                Some(share.max(u64::from(budget.minimum)))
            }
            None => limits.retries.map(u64::from),
        };
        limit.is_none_or(|limit| self.state.sum(|c| c.retries_active.get()) < limit)
    }

    /// Counts a retry from when it is decided on.
    pub(crate) fn begin_retry(&self) -> ActiveRetry {
        ActiveRetry::new(&self.ledger)
    }

    /// A request that waits for a connection, if one more may.
    fn pend(&self) -> Result<Pending, Overflow> {
        let limit = self.config.policy.limits.pending;
        if limit.is_some_and(|limit| self.state.sum(|c| c.pending_active.get()) >= u64::from(limit)) {
            self.count(|c| c.pending_overflow.increment());
            return Err(Overflow);
        }
        Ok(Pending::new(&self.ledger))
    }

    /// Whether another connection may be made. A worker without any may always have one: else requests could wait for
    /// connections that other workers keep.
    pub(crate) fn admits_connection(&self) -> bool {
        let limit = self.config.policy.limits.connections;
        limit.is_none_or(|limit| {
            self.ledger.open.get() == 0 || self.state.sum(|c| c.connections_active.get()) < u64::from(limit)
        })
    }

    fn connect_time_max(&self) -> Duration {
        self.config.policy.limits.connect_time.unwrap_or(self.settings.connect_time_max)
    }

    fn close_all_idle(&self) {
        for host in &self.hosts.borrow().own {
            host.idle.borrow_mut().clear();
        }
    }

    /// Closes a connection that nobody uses; whether there was one.
    fn close_idle(&self) -> bool {
        self.hosts.borrow().own.iter().any(|host| host.idle.borrow_mut().pop().is_some())
    }

    /// A connection that is used for nothing else: its bytes.
    pub(crate) fn open(
        &self,
        host: &Host,
        client: Option<ClientAddresses>,
        protocol: Spoken,
    ) -> (impl Future<Output = io::Result<super::UpstreamSocket>> + use<>, OpenConnection) {
        let limits = &self.config.policy.limits;
        let opening = Opening {
            address: host.address(),
            tls: self.tls.clone(),
            keepalive: limits.keepalive,
            time_max: self.connect_time_max(),
            proxy_header: self.config.policy.proxy_protocol.map(|version| (version, client)),
            protocol,
        };
        (open(opening), OpenConnection::new(&self.ledger, &host.state))
    }

    /// A connection for one request at a time, for which the request may have to wait.
    ///
    /// # Errors
    /// [`Overflow`]: too many wait already.
    pub(crate) fn acquire(
        self: &Rc<Self>,
        host: &Rc<Host>,
        client: ClientAddresses,
    ) -> Result<impl Future<Output = io::Result<Acquired>> + use<>, Overflow> {
        let pending = self.pend()?;
        let (cluster, host) = (Rc::clone(self), Rc::clone(host));
        Ok(async move {
            let _pending = pending;
            while !cluster.admits_connection() {
                // One that nobody uses, whoever's it is, makes room.
                if cluster.close_idle() {
                    continue;
                }
                cluster.ledger.released.notified().await;
                if let Some(connection) = host.take_idle() {
                    return Ok(Acquired::Pooled(connection));
                }
            }
            let (socket, guard) = cluster.open(&host, Some(client), Spoken::Http1);
            let socket = cluster.noted(&host, socket.await)?;
            let connection = UpstreamConnection::new(socket, host.address(), Instant::now(), guard);
            Ok(Acquired::Fresh(Box::new(connection)))
        })
    }

    /// Counts a connection that failed.
    pub(crate) fn noted<T>(&self, host: &Host, connected: io::Result<T>) -> io::Result<T> {
        connected.inspect_err(|e| {
            let is_timeout = e.kind() == io::ErrorKind::TimedOut;
            self.count(|c| {
                c.connect_failures.increment();
                if is_timeout {
                    c.connect_timeouts.increment();
                }
            });
            host.count(|c| c.connect_failures.increment());
        })
    }

    fn http2_settings(&self) -> Http2Settings {
        let limits = &self.config.policy.limits;
        Http2Settings {
            streams_max: limits.streams_per_connection.unwrap_or(self.settings.http2_streams_max),
            // Whoever has said for whom a connection is cannot use it for somebody else.
            requests_max: match self.config.policy.proxy_protocol {
                Some(_) => Some(1),
                None => limits.requests_per_connection,
            },
            age_max: limits.connection_time,
            head_bytes_max: self.settings.response_head_bytes_max,
            ping_interval: self.settings.http2_ping_interval,
        }
    }

    /// A place on an HTTP/2 connection that stands.
    pub(crate) fn take_place(&self, host: &Host) -> Option<Place> {
        host.http2.take(host.address(), &self.http2_settings())
    }

    /// A place on an HTTP/2 connection, which is made if none has one.
    ///
    /// # Errors
    /// [`Overflow`]: too many wait already.
    pub(crate) fn acquire_place(
        self: &Rc<Self>,
        host: &Rc<Host>,
        client: Option<ClientAddresses>,
    ) -> Result<impl Future<Output = io::Result<Place>> + use<>, Overflow> {
        let pending = self.pend()?;
        let (cluster, host) = (Rc::clone(self), Rc::clone(host));
        Ok(async move {
            let _pending = pending;
            let settings = cluster.http2_settings();
            let time_max = cluster.connect_time_max();
            let connect =
                host.http2.connect(host.address(), settings, || cluster.open(&host, client, Spoken::Http2));
            // Waiting for others that connect is a part of it.
            let made = tokio::time::timeout(time_max, connect).await;
            cluster.noted(&host, made.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
        })
    }

    /// Keeps a connection for the next request.
    pub(crate) fn release(&self, host: &Host, mut connection: Box<UpstreamConnection>, now: Instant) {
        let limits = &self.config.policy.limits;
        let is_old = limits.connection_time.is_some_and(|max| now.duration_since(connection.opened) >= max);
        let is_used_up = limits.requests_per_connection.is_some_and(|max| connection.requests >= max);
        // Whoever has said for whom a connection is cannot use it for somebody else.
        let is_private = self.config.policy.proxy_protocol.is_some();
        let mut idle = host.idle.borrow_mut();
        if is_old || is_used_up || is_private || idle.len() >= self.settings.upstream_idle_connections_max {
            return;
        }
        connection.reused = true;
        connection.idle_since = now;
        idle.push(connection);
        if limits.connections.is_some() {
            self.ledger.released.notify_waiters();
        }
    }

    /// Closes connections that are too old or already closed by the other side; how many nobody uses.
    pub(crate) fn sweep(&self, now: Instant) -> usize {
        let limits = &self.config.policy.limits;
        let idle_max = limits.idle_time.unwrap_or(self.settings.upstream_idle_max);
        let mut idle = 0;
        for host in &self.hosts.borrow().own {
            let mut connections = host.idle.borrow_mut();
            connections.retain_mut(|c| {
                let is_old = limits.connection_time.is_some_and(|max| now.duration_since(c.opened) >= max);
                !is_old && now.duration_since(c.idle_since) < idle_max && c.is_alive()
            });
            idle += connections.len();
            host.http2.sweep(now, idle_max);
        }
        idle
    }
}
