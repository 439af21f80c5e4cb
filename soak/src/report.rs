//! The report: Markdown, for people.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::change::{Change, ChangeTimes};
use crate::kind::Kind;
use crate::measure::{Growth, Sample, descriptor_growth, rss_growth};
use crate::tally::Exchanges;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// How long it lasted, with the last exchanges.
    pub lasted: Duration,
    /// The exchanges by kind.
    pub kinds: BTreeMap<Kind, Exchanges>,
    /// How many failures there were.
    pub failures: u64,
    /// The first ones.
    pub told: Vec<String>,
    /// Memory and descriptors, second by second.
    pub samples: Vec<Sample>,
    /// The changes that clients saw, with the time that it took.
    pub changes: ChangeTimes,
}

impl Report {
    /// What is not as it should be, one line each; empty for a good run.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.failures > 0 {
            complaints.push(format!("{} failures", self.failures));
        }
        let idle = Kind::ALL.iter().filter(|k| self.kinds.get(k).is_none_or(|e| e.count() == 0));
        complaints.extend(idle.map(|kind| format!("nothing of the kind {kind:?} was done")));
        if self.kinds.get(&Kind::TlsResumed).is_none_or(|e| e.resumed == 0) {
            complaints.push("no TLS session was resumed".to_owned());
        }
        for change in [Change::RouteMoved, Change::RouteAdded, Change::Certificate, Change::Swap] {
            if !self.changes.contains_key(&change) {
                complaints.push(format!("nothing changed: {change}"));
            }
        }
        for (what, growth) in self.growths() {
            match growth {
                Some(growth) if growth.is_bounded() => {}
                Some(growth) => complaints.push(format!(
                    "{what}: from {:.1} to {:.1}, more than {:.1}",
                    growth.early, growth.late, growth.late_max
                )),
                None => complaints.push(format!("{what}: too few samples")),
            }
        }
        complaints
    }

    /// Whether everything is as it should be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.complaints().is_empty()
    }

    fn growths(&self) -> [(&'static str, Option<Growth>); 2] {
        [("RSS MiB", rss_growth(&self.samples)), ("descriptors", descriptor_growth(&self.samples))]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: u64 = self.kinds.values().map(Exchanges::count).sum();
        let seconds = self.lasted.as_secs_f64();
        writeln!(f, "{count} exchanges in {seconds:.0} s\n")?;
        writeln!(f, "| clients | exchanges | failed | p50 ms | p99 ms | max ms | TLS resumed |")?;
        writeln!(f, "|---|---:|---:|---:|---:|---:|---:|")?;
        for (kind, exchanges) in &self.kinds {
            let at = |percent| exchanges.percentile(percent).map_or("".to_owned(), millis);
            let resumed = if exchanges.resumed > 0 { exchanges.resumed.to_string() } else { String::new() };
            writeln!(
                f,
                "| {kind} | {} | {} | {} | {} | {} | {resumed} |",
                exchanges.count(),
                exchanges.failures,
                at(50),
                at(99),
                at(100)
            )?;
        }
        writeln!(f, "\n| change | times | until clients saw it, median ms | max ms |\n|---|---:|---:|---:|")?;
        for (change, times) in &self.changes {
            let mut times = times.clone();
            times.sort();
            let [median, max] = [times.len() / 2, times.len().saturating_sub(1)]
                .map(|at| times.get(at).copied().map_or("".to_owned(), millis));
            writeln!(f, "| {change} | {} | {median} | {max} |", times.len())?;
        }
        writeln!(f, "\n| process | second quarter | last quarter | at most |\n|---|---:|---:|---:|")?;
        for (what, growth) in self.growths() {
            let Some(growth) = growth else { continue };
            writeln!(f, "| {what} | {:.1} | {:.1} | {:.1} |", growth.early, growth.late, growth.late_max)?;
        }
        if !self.told.is_empty() {
            writeln!(f, "\nThe first {} of {} failures:\n", self.told.len(), self.failures)?;
            self.told.iter().try_for_each(|failure| writeln!(f, "- {failure}"))?;
        }
        match self.complaints().as_slice() {
            [] => writeln!(f, "\nNo request failed, and nothing grew."),
            complaints => writeln!(f, "\nFAILED: {}", complaints.join("; ")),
        }
    }
}

fn millis(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_did_nothing_is_no_good_run() {
        let report = Report {
            lasted: Duration::from_secs(1),
            kinds: BTreeMap::new(),
            failures: 1,
            told: vec!["0.1 s: TCP: closed".to_owned()],
            samples: Vec::new(),
            changes: ChangeTimes::new(),
        };
        let text = report.to_string();
        for part in ["1 failures", "nothing of the kind Http2", "no TLS session", "RSS MiB: too few samples"]
        {
            assert!(text.contains(part), "{text}");
        }
        assert!(text.contains("- 0.1 s: TCP: closed") && !report.is_good(), "{text}");
    }
}
