//! Counters of one plug-in, across its versions.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that workers add to and everybody reads.
#[derive(Debug, Default)]
pub struct PluginStats {
    /// Failures at run time by reason: trap, cpu, memory, stack, exit.
    faults: [AtomicU64; 5],
    /// Callbacks that were slower than [`PluginStats::SLOW_MS`].
    pub slow_callbacks: AtomicU64,
    /// VMs that replaced a failed one.
    pub respawns: AtomicU64,
    /// Streams that found no VM because a fresh one was not ready yet.
    pub unavailable: AtomicU64,
    /// Local replies that the plug-in sent.
    pub local_replies: AtomicU64,
    /// Attempts to fetch the module that succeeded.
    pub fetch_successes: AtomicU64,
    /// Attempts that failed.
    pub fetch_failures: AtomicU64,
}

const REASONS: [&str; 5] = ["trap", "cpu", "memory", "stack", "exit"];

impl PluginStats {
    /// A callback that takes longer is counted and warned about, milliseconds.
    pub const SLOW_MS: u64 = 50;

    pub(crate) fn count_fault(&self, reason: &str) {
        for (name, counter) in REASONS.iter().zip(&self.faults) {
            if *name == reason {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Failures by reason.
    pub fn faults(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.iter().zip(&self.faults).map(|(name, counter)| (*name, counter.load(Ordering::Relaxed)))
    }

    pub(crate) fn add(counter: &AtomicU64) -> u64 {
        counter.fetch_add(1, Ordering::Relaxed)
    }
}
