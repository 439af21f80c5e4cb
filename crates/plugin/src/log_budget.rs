//! How much a plug-in may log: a plug-in that a client can make talk would fill a disk, and hold the workers that share the
//! log's writer.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;

/// Seconds of its rate that a plug-in may use at once.
const BURST_SECONDS: u64 = 4;

/// What a line costs beside its text: time, level, names.
const LINE_BYTES: u64 = 128;

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is logged; so many lines before it were not.
    Logged(u64),
    /// It is left out.
    LeftOut,
}

#[derive(Debug)]
struct Bucket {
    bytes: u64,
    filled: Instant,
    left_out: u64,
}

/// The budgets of all plug-ins, by name.
#[derive(Debug)]
pub(crate) struct LogBudget {
    /// Zero: no limit.
    bytes_per_second: u64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl LogBudget {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, buckets: Mutex::default() }
    }

    /// Takes a line out of a plug-in's budget.
    pub(crate) fn admit(&self, plugin: &str, bytes: usize, now: Instant) -> Admission {
        let rate = self.bytes_per_second;
        if rate == 0 {
            return Admission::Logged(0);
        }
        let most = rate.saturating_mul(BURST_SECONDS);
        let mut buckets = self.buckets.lock();
        if !buckets.contains_key(plugin) {
            buckets.insert(plugin.to_owned(), Bucket { bytes: most, filled: now, left_out: 0 });
        }
        let Some(bucket) = buckets.get_mut(plugin) else { return Admission::LeftOut };
        let passed =
            u64::try_from(now.saturating_duration_since(bucket.filled).as_micros()).unwrap_or(u64::MAX);
        let earned = passed.saturating_mul(rate) / 1_000_000;
        if earned > 0 {
            bucket.bytes = bucket.bytes.saturating_add(earned).min(most);
            bucket.filled = now;
        }
        // A line that is longer than the burst waits for a full budget, and not for ever.
        let cost = (bytes as u64).saturating_add(LINE_BYTES).min(most);
        match bucket.bytes.checked_sub(cost) {
            Some(rest) => {
                bucket.bytes = rest;
                Admission::Logged(std::mem::take(&mut bucket.left_out))
            }
            None => {
                bucket.left_out += 1;
                Admission::LeftOut
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_storm_is_cut_off_and_counted_and_hurts_nobody_else() {
        let (budget, start) = (LogBudget::new(1000), Instant::now());
        let text = 1000 - 128;
        (0..4).for_each(|_| assert_eq!(budget.admit("a", text, start), Admission::Logged(0)));
        assert_eq!(budget.admit("a", 0, start), Admission::LeftOut, "an empty line costs, too");
        assert_eq!(budget.admit("a", text, start), Admission::LeftOut);
        assert_eq!(budget.admit("b", text, start), Admission::Logged(0));
        let later = start + Duration::from_millis(128);
        assert_eq!(budget.admit("a", 0, later), Admission::Logged(2));
        assert_eq!(budget.admit("a", 0, later), Admission::LeftOut);
        let hour = start + Duration::from_secs(3600);
        assert_eq!(budget.admit("a", 1 << 20, hour), Admission::Logged(1), "longer than the burst");
        assert_eq!(budget.admit("a", 0, hour), Admission::LeftOut, "no more than the burst is saved up");
        assert_eq!(LogBudget::new(0).admit("a", usize::MAX, start), Admission::Logged(0));
    }
}
