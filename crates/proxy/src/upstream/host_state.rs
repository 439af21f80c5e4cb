//! What everybody knows of an endpoint: its counters and its health.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::counters::HostCounters;

/// An endpoint, as everybody sees it. It lives for as long as its cluster has the address.
#[derive(Debug)]
pub struct HostState {
    /// Where it is.
    pub address: SocketAddr,
    /// One shard per worker.
    pub shards: Vec<HostCounters>,
    since: Instant,
    flags: AtomicU32,
    pub(super) consecutive_5xx: AtomicU32,
    pub(super) consecutive_gateway: AtomicU32,
    pub(super) consecutive_local: AtomicU32,
    pub(super) ejections: AtomicU32,
    pub(super) ejected_until: Mutex<Option<Instant>>,
    /// A health check has ended.
    pub(super) is_checked: AtomicBool,
}

/// It does not answer health checks.
pub(super) const FAILED_ACTIVE_HC: u32 = 1;
/// Its answers were bad.
pub(super) const FAILED_OUTLIER_CHECK: u32 = 2;

impl HostState {
    pub(super) fn new(address: SocketAddr, workers: usize, flags: u32) -> Self {
        Self {
            address,
            shards: (0..workers).map(|_| HostCounters::default()).collect(),
            since: Instant::now(),
            flags: AtomicU32::new(flags),
            consecutive_5xx: AtomicU32::new(0),
            consecutive_gateway: AtomicU32::new(0),
            consecutive_local: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: Mutex::default(),
            is_checked: AtomicBool::new(false),
        }
    }

    /// Whether it may get requests.
    pub fn is_healthy(&self) -> bool {
        self.flags.load(Ordering::Relaxed) == 0
    }

    /// Since when the cluster has had it.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Whether a health check has ended, and how the last ones did.
    pub(crate) fn checked_health(&self) -> Option<bool> {
        let is_healthy = self.flags.load(Ordering::Relaxed) & FAILED_ACTIVE_HC == 0;
        self.is_checked.load(Ordering::Relaxed).then_some(is_healthy)
    }

    /// Whether it gets nothing because its answers were bad.
    pub fn is_ejected(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & FAILED_OUTLIER_CHECK != 0
    }

    /// In Envoy's words: `healthy`, or what is wrong.
    pub fn health_flags(&self) -> String {
        let flags = self.flags.load(Ordering::Relaxed);
        let words =
            [(FAILED_ACTIVE_HC, "/failed_active_hc"), (FAILED_OUTLIER_CHECK, "/failed_outlier_check")];
        let found: String = words.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, word)| *word).collect();
        if found.is_empty() { "healthy".to_owned() } else { found }
    }

    /// Sums a counter over the workers.
    pub fn sum(&self, pick: fn(&HostCounters) -> u64) -> u64 {
        self.shards.iter().map(pick).sum()
    }

    pub(super) fn set_flag(&self, flag: u32, on: bool) -> bool {
        let before = if on {
            self.flags.fetch_or(flag, Ordering::Relaxed)
        } else {
            self.flags.fetch_and(!flag, Ordering::Relaxed)
        };
        (before & flag != 0) != on
    }
}

/// Age at which an endpoint that has just come has its full share, relative to it.
pub(crate) fn warm_share(age: Duration, time: Duration, minimum_percent: u32) -> f64 {
    let grown = age.as_secs_f64() / time.as_secs_f64().max(f64::MIN_POSITIVE);
    grown.clamp(f64::from(minimum_percent) / 100.0, 1.0)
}
