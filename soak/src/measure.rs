//! What the gateway's process holds, second by second, and whether it grows.

use std::sync::Arc;
use std::time::Duration;

use wasmgate_testkit::peers::process::rss_mib;

use crate::work::World;

/// How often it is looked at.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// The resident memory may grow by this part of itself…
pub const RSS_GROWTH_PERCENT_MAX: f64 = 10.0;
/// …and by this much: what an allocator keeps for the next burst.
pub const RSS_GROWTH_MIB_MAX: f64 = 8.0;
/// Open descriptors may grow by this many: connections come and go, and a median of few seconds is no exact number.
pub const DESCRIPTOR_GROWTH_MAX: f64 = 32.0;

/// One look.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Resident memory.
    pub rss_mib: f64,
    /// Open descriptors.
    pub descriptors: f64,
}

/// Medians of the second and of the last quarter of a run. The first quarter is warming up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// The second quarter's.
    pub early: f64,
    /// The last quarter's.
    pub late: f64,
    /// The most that the latter may be.
    pub late_max: f64,
}

impl Growth {
    /// Whether it stayed within its bound.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.late <= self.late_max
    }
}

/// Looks every second until the time is over.
pub async fn watch(pid: u32, world: Arc<World>) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    while !world.is_over() {
        ticks.tick().await;
        match sample(pid) {
            Ok(sample) => samples.push(sample),
            Err(e) => {
                world.tally.fail("the gateway's process", &e.to_string());
                break;
            }
        }
    }
    samples
}

fn sample(pid: u32) -> std::io::Result<Sample> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let descriptors = f64::from(u32::try_from(descriptors).unwrap_or(u32::MAX));
    Ok(Sample { rss_mib: rss_mib(&[pid])?, descriptors })
}

/// The growth of the memory. `None` before there are four samples.
#[must_use]
pub fn rss_growth(samples: &[Sample]) -> Option<Growth> {
    let (early, late) = medians(samples, |s| s.rss_mib)?;
    Some(Growth {
        early,
        late,
        late_max: early + early * RSS_GROWTH_PERCENT_MAX / 100.0 + RSS_GROWTH_MIB_MAX,
    })
}

/// The growth of the descriptors. `None` before there are four samples.
#[must_use]
pub fn descriptor_growth(samples: &[Sample]) -> Option<Growth> {
    let (early, late) = medians(samples, |s| s.descriptors)?;
    Some(Growth { early, late, late_max: early + DESCRIPTOR_GROWTH_MAX })
}

fn medians(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> Option<(f64, f64)> {
    let quarter = samples.len() / 4;
    let median = |part: &[Sample]| {
        let mut values: Vec<f64> = part.iter().map(&of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some((median(samples.get(quarter..2 * quarter)?)?, median(samples.get(samples.len() - quarter..)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: impl Iterator<Item = f64>) -> Vec<Sample> {
        values.map(|v| Sample { rss_mib: v, descriptors: v }).collect()
    }

    #[test]
    fn the_second_and_the_last_quarter_are_compared() {
        let steady = samples((0..40).map(|second| if second < 10 { f64::from(second) } else { 50.0 }));
        let growth = rss_growth(&steady).unwrap();
        assert_eq!(growth, Growth { early: 50.0, late: 50.0, late_max: 63.0 });
        assert!(growth.is_bounded() && descriptor_growth(&steady).unwrap().is_bounded());
    }

    #[test]
    fn what_grows_for_the_whole_time_is_found() {
        let leaking = samples((0..40).map(|second| 50.0 + 2.0 * f64::from(second)));
        assert!(!rss_growth(&leaking).unwrap().is_bounded());
        assert!(!descriptor_growth(&leaking).unwrap().is_bounded());
        assert_eq!(rss_growth(&samples([1.0, 2.0, 3.0].into_iter())), None);
    }
}
