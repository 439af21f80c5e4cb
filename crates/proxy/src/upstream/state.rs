//! What all workers, and the control side, know of a cluster: counters, its endpoints, who may be chosen.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use wasmgate_config::{Cluster, EJECTION_TIME_MAX, Endpoint, EndpointName, OutlierDetection};

use super::UpstreamSocket;
use super::admin_address::is_admin;
use super::balance::HostTable;
use super::connect::{Opening, Spoken, open};
use super::counters::ClusterCounters;
use super::host_state::{FAILED_ACTIVE_HC, FAILED_OUTLIER_CHECK, HostState};
use super::tls::{ClientTls, client_tls};

/// How an exchange with an endpoint went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has answered.
    Status(u16),
    /// A connection without answers stands.
    Connected,
    /// It could not be reached, or broke off.
    Failed,
    /// It took too long.
    TimedOut,
}

/// A cluster, as everybody sees it. It outlives generations.
#[derive(Debug)]
pub struct ClusterState {
    /// One shard per worker.
    pub shards: Vec<ClusterCounters>,
    /// Where this process is controlled.
    admin: Option<SocketAddr>,
    /// Grows with every new table.
    version: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    config: Option<Arc<Cluster>>,
    tls: Option<Arc<ClientTls>>,
    endpoints: Vec<Endpoint>,
    /// Of them those that may not be.
    refused: Vec<SocketAddr>,
    hosts: BTreeMap<SocketAddr, Arc<HostState>>,
    resolved: BTreeMap<(Arc<str>, u16), Vec<IpAddr>>,
    table: Arc<HostTable>,
    ejections: u64,
}

impl ClusterState {
    pub(crate) fn new(workers: usize, admin: Option<SocketAddr>) -> Self {
        Self {
            admin,
            shards: (0..workers).map(|_| ClusterCounters::default()).collect(),
            version: AtomicU64::new(0),
            inner: Mutex::default(),
        }
    }

    /// Sums a counter over the workers.
    pub fn sum(&self, pick: fn(&ClusterCounters) -> u64) -> u64 {
        self.shards.iter().map(pick).sum()
    }

    /// All endpoints, those of names that are resolved included.
    pub fn hosts(&self) -> Vec<Arc<HostState>> {
        self.inner.lock().hosts.values().cloned().collect()
    }

    /// The same with their weights, in the order of the configuration.
    pub fn endpoints(&self) -> Vec<(Endpoint, Arc<HostState>)> {
        let inner = self.inner.lock();
        let state = |e: &Endpoint| Some((*e, Arc::clone(inner.hosts.get(&e.address)?)));
        inner.endpoints.iter().filter_map(state).collect()
    }

    /// Endpoints that were ejected so far.
    pub fn ejections(&self) -> u64 {
        self.inner.lock().ejections
    }

    /// What it was configured as last.
    pub(crate) fn config(&self) -> Option<Arc<Cluster>> {
        self.inner.lock().config.clone()
    }

    /// Takes over what a new generation says of it.
    pub(crate) fn configure(&self, config: &Arc<Cluster>) {
        let mut inner = self.inner.lock();
        if inner.config.as_ref().is_some_and(|known| Arc::ptr_eq(known, config) || known == config) {
            return;
        }
        let is_new_tls = inner.config.as_ref().is_none_or(|known| known.policy.tls != config.policy.tls);
        if is_new_tls {
            inner.tls = client_tls(config);
        }
        inner.config = Some(Arc::clone(config));
        self.rebuild(&mut inner);
    }

    /// TLS of its connections, if it is for this configuration.
    pub(crate) fn tls(&self, config: &Cluster) -> Option<Arc<ClientTls>> {
        let inner = self.inner.lock();
        let is_same = inner.config.as_ref().is_some_and(|known| known.policy.tls == config.policy.tls);
        if is_same { inner.tls.clone() } else { client_tls(config) }
    }

    /// Addresses of a name.
    pub(crate) fn resolve(&self, name: &EndpointName, addresses: Vec<IpAddr>) {
        let mut inner = self.inner.lock();
        let known = inner.resolved.entry((Arc::clone(&name.name), name.port)).or_default();
        if *known != addresses {
            *known = addresses;
            self.rebuild(&mut inner);
        }
    }

    /// Takes note of a name that could not be looked up; how many addresses it has from before.
    pub(crate) fn resolved_nothing(&self, name: &EndpointName) -> usize {
        self.inner.lock().resolved.entry((Arc::clone(&name.name), name.port)).or_default().len()
    }

    /// Takes note of a health check that has ended.
    pub(crate) fn note_checked(&self, host: &HostState) {
        host.is_checked.store(true, Ordering::Relaxed);
    }

    /// Whether a name has not been looked up yet, or an endpoint has not been asked for its health.
    pub(crate) fn is_cold(&self) -> bool {
        let inner = self.inner.lock();
        let Some(config) = &inner.config else { return false };
        let is_unknown = |n: &EndpointName| !inner.resolved.contains_key(&(Arc::clone(&n.name), n.port));
        config.names.iter().any(is_unknown)
            || config.policy.health_check.is_some()
                && inner.hosts.values().any(|h| !h.is_checked.load(Ordering::Relaxed))
    }

    /// A connection for a health check.
    pub(crate) async fn connect(
        &self,
        config: &Cluster,
        address: SocketAddr,
        time_max: Duration,
        protocol: Spoken,
    ) -> std::io::Result<UpstreamSocket> {
        let tls = self.tls(config);
        // On behalf of nobody.
        let proxy_header = config.policy.proxy_protocol.map(|version| (version, None));
        open(Opening { address, tls, keepalive: None, time_max, proxy_header, protocol }).await
    }

    /// Number of the table that counts now.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Who may be chosen, as a configuration has it. `None`: the table is of another one. `wants_any`: one is made of what
    /// the configuration itself says then.
    pub(crate) fn table_for(&self, config: &Arc<Cluster>, wants_any: bool) -> Option<Arc<HostTable>> {
        let inner = self.inner.lock();
        let is_same = |known: &Arc<Cluster>| Arc::ptr_eq(known, config) || known == config;
        if inner.config.as_ref().is_some_and(is_same) {
            return Some(Arc::clone(&inner.table));
        }
        let workers = self.shards.len();
        let state = |e: &Endpoint| {
            let known = inner.hosts.get(&e.address).cloned();
            (*e, known.unwrap_or_else(|| Arc::new(HostState::new(e.address, workers, 0))))
        };
        let states = || config.endpoints.iter().filter(|e| self.is_permitted(e)).map(state).collect();
        wants_any.then(|| Arc::new(HostTable::new(&config.policy, states())))
    }

    /// Takes note of how a health check ended.
    pub(crate) fn set_active_health(&self, host: &HostState, is_healthy: bool) {
        if host.set_flag(FAILED_ACTIVE_HC, !is_healthy) {
            self.rebuild(&mut self.inner.lock());
        }
    }

    /// Takes note of how an exchange ended; whether the endpoint is ejected for it, so that the table must be made anew.
    pub(crate) fn observe(&self, host: &HostState, rules: &OutlierDetection, outcome: Outcome) -> bool {
        let (status, is_local) = match outcome {
            Outcome::Status(status) => (status, false),
            Outcome::Connected => (200, false),
            Outcome::Failed => (503, true),
            Outcome::TimedOut => (504, true),
        };
        if let Some(threshold) = rules.consecutive_local {
            if is_local {
                return self.count_failure(host, &host.consecutive_local, threshold, rules);
            }
            end_run(&host.consecutive_local);
        }
        if status < 500 {
            end_run(&host.consecutive_5xx);
            end_run(&host.consecutive_gateway);
            return false;
        }
        let mut ejected = self.count_failure(host, &host.consecutive_5xx, rules.consecutive_5xx, rules);
        if matches!(status, 502..=504) {
            ejected |= self.count_failure(host, &host.consecutive_gateway, rules.consecutive_gateway, rules);
        } else {
            end_run(&host.consecutive_gateway);
        }
        ejected
    }

    /// Makes the table anew, after an ejection.
    pub(crate) fn rebuild_table(&self) {
        self.rebuild(&mut self.inner.lock());
    }

    fn count_failure(
        &self,
        host: &HostState,
        counter: &AtomicU32,
        threshold: u32,
        rules: &OutlierDetection,
    ) -> bool {
        let failures = counter.fetch_add(1, Ordering::Relaxed) + 1;
        if threshold == 0 || failures < threshold {
            return false;
        }
        counter.store(0, Ordering::Relaxed);
        self.eject(host, rules)
    }

    fn eject(&self, host: &HostState, rules: &OutlierDetection) -> bool {
        let mut inner = self.inner.lock();
        let ejected = inner.hosts.values().filter(|h| h.is_ejected()).count();
        let allowed = inner.hosts.len() * rules.max_percent as usize / 100;
        if ejected >= allowed.max(1) || rules.max_percent == 0 || !host.set_flag(FAILED_OUTLIER_CHECK, true) {
            return false;
        }
        let times = host.ejections.fetch_add(1, Ordering::Relaxed) + 1;
        let time = rules.base_time.saturating_mul(times).min(EJECTION_TIME_MAX.max(rules.base_time));
        *host.ejected_until.lock() = Some(Instant::now() + time);
        inner.ejections += 1;
        let name = inner.config.as_ref().map(|c| Arc::clone(&c.name)).unwrap_or_default();
        tracing::warn!(target: "upstream", "cluster {name}: endpoint {} gets nothing for {time:?}: its answers were bad", host.address);
        true
    }

    /// Lets those back whose time is over; when to look again.
    pub(crate) fn readmit(&self, now: Instant) {
        let mut inner = self.inner.lock();
        let mut any = false;
        for host in inner.hosts.values() {
            let mut until = host.ejected_until.lock();
            if until.is_some_and(|until| until <= now) {
                *until = None;
                host.set_flag(FAILED_OUTLIER_CHECK, false);
                any = true;
            }
        }
        if any {
            self.rebuild(&mut inner);
        }
    }

    fn is_permitted(&self, endpoint: &Endpoint) -> bool {
        !self.admin.is_some_and(|admin| is_admin(endpoint.address, admin))
    }

    fn rebuild(&self, inner: &mut Inner) {
        let Some(config) = inner.config.clone() else { return };
        let mut endpoints = config.endpoints.clone();
        for name in &config.names {
            let addresses = inner.resolved.get(&(Arc::clone(&name.name), name.port)).into_iter().flatten();
            let taken = if config.is_logical { 1 } else { usize::MAX };
            endpoints.extend(addresses.take(taken).map(|ip| Endpoint {
                address: SocketAddr::new(*ip, name.port),
                weight: name.weight,
                priority: name.priority,
            }));
        }
        let (endpoints, refused): (Vec<_>, Vec<_>) =
            endpoints.into_iter().partition(|e| self.is_permitted(e));
        let refused: Vec<SocketAddr> = refused.iter().map(|e| e.address).collect();
        for address in refused.iter().filter(|a| !inner.refused.contains(a)) {
            tracing::error!(target: "upstream", "{}: {address} is the admin interface of this gateway: no endpoint of a cluster may be", config.name);
        }
        inner.refused = refused;
        inner.resolved.retain(|key, _| config.names.iter().any(|n| n.name == key.0 && n.port == key.1));
        let workers = self.shards.len();
        // Nobody knows of a new endpoint whether it is healthy: it is asked before it gets anything.
        let flags = if config.policy.health_check.is_some() { FAILED_ACTIVE_HC } else { 0 };
        let mut hosts = BTreeMap::new();
        for endpoint in &endpoints {
            let known = inner.hosts.get(&endpoint.address).cloned();
            let host = known.unwrap_or_else(|| Arc::new(HostState::new(endpoint.address, workers, flags)));
            if flags == 0 {
                host.set_flag(FAILED_ACTIVE_HC, false);
            }
            if config.policy.outlier.is_none() && host.set_flag(FAILED_OUTLIER_CHECK, false) {
                *host.ejected_until.lock() = None;
            }
            hosts.insert(endpoint.address, host);
        }
        let states = endpoints.iter().filter_map(|e| Some((*e, Arc::clone(hosts.get(&e.address)?))));
        inner.table = Arc::new(HostTable::new(&config.policy, states.collect()));
        (inner.endpoints, inner.hosts) = (endpoints, hosts);
        self.version.fetch_add(1, Ordering::Release);
    }
}

/// Sets a counter of failures in a row back. Mostly it is zero already, and a store would take its line from other workers.
fn end_run(failures: &AtomicU32) {
    if failures.load(Ordering::Relaxed) != 0 {
        failures.store(0, Ordering::Relaxed);
    }
}
