//! What the clients have seen.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kind::Kind;

/// Failures of which the words are kept; the others are counted.
pub const FAILURES_TOLD_MAX: usize = 10;

/// The exchanges of one kind.
#[derive(Clone, Debug, Default)]
pub struct Exchanges {
    /// How long each one took that went well, in microseconds.
    times: Vec<u32>,
    /// How many did not.
    pub failures: u64,
    /// How many TLS connections were resumed.
    pub resumed: u64,
}

impl Exchanges {
    /// Exchanges in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.failures + u64::try_from(self.times.len()).unwrap_or(u64::MAX)
    }

    /// The time within which `percent` of those that went well were over.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut times = self.times.clone();
        times.sort_unstable();
        let at = (times.len() * percent).div_ceil(100).checked_sub(1)?;
        times.get(at).map(|us| Duration::from_micros((*us).into()))
    }
}

/// Counts what happens, from any thread.
#[derive(Debug)]
pub struct Tally {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kinds: BTreeMap<Kind, Exchanges>,
    failures: u64,
    told: Vec<String>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { started: Instant::now(), state: Mutex::default() }
    }
}

impl Tally {
    /// Counts an exchange that began then.
    pub fn add(&self, kind: Kind, began: Instant, outcome: Result<(), String>) {
        let took = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
        match outcome {
            Ok(()) => self.lock().kinds.entry(kind).or_default().times.push(took),
            Err(what) => {
                self.lock().kinds.entry(kind).or_default().failures += 1;
                self.fail(&kind.to_string(), &format!("{what} (after {} ms)", took / 1000));
            }
        }
    }

    /// Counts a connection whose ticket was taken.
    pub fn add_resumed(&self, kind: Kind) {
        self.lock().kinds.entry(kind).or_default().resumed += 1;
    }

    /// Notes a failure that is no exchange's.
    pub fn fail(&self, who: &str, what: &str) {
        let at = self.started.elapsed().as_secs_f32();
        let mut state = self.lock();
        state.failures += 1;
        if state.told.len() < FAILURES_TOLD_MAX {
            state.told.push(format!("{at:.1} s: {who}: {what}"));
        }
    }

    /// The exchanges by kind.
    #[must_use]
    pub fn kinds(&self) -> BTreeMap<Kind, Exchanges> {
        self.lock().kinds.clone()
    }

    /// How many failures there were, and the first ones' words.
    #[must_use]
    pub fn failures(&self) -> (u64, Vec<String>) {
        let state = self.lock();
        (state.failures, state.told.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_time_that_was_seen() {
        let exchanges = Exchanges { times: (1..=200).rev().collect(), ..Exchanges::default() };
        assert_eq!(exchanges.percentile(50), Some(Duration::from_micros(100)));
        assert_eq!(exchanges.percentile(99), Some(Duration::from_micros(198)));
        assert_eq!(exchanges.percentile(100), Some(Duration::from_micros(200)));
        assert_eq!(Exchanges::default().percentile(50), None);
    }

    #[test]
    fn the_first_failures_are_told_and_all_are_counted() {
        let tally = Tally::default();
        for i in 0..12 {
            tally.add(Kind::Tcp, Instant::now(), Err(format!("number {i}")));
        }
        let (count, told) = tally.failures();
        assert_eq!((count, told.len()), (12, FAILURES_TOLD_MAX));
        assert!(told[9].contains("TCP: number 9 (after 0 ms)"), "{told:?}");
        assert_eq!(tally.kinds()[&Kind::Tcp].count(), 12);
    }
}
