//! A ring of hashes (ketama): a key belongs to the first point at or after it, and of a new endpoint's keys few had
//! another one before. Points are where Envoy has them.

use twox_hash::XxHash64;

/// Points of a ring, unless more are asked for: weights that differ much would want any number of them.
const POINTS_MAX: f64 = 1_048_576.0;

/// Points by hash.
#[derive(Debug, Default)]
pub(super) struct Ring(Vec<(u64, u32)>);

impl Ring {
    /// `hosts`: index, address, weight. `size_min`: points of the whole ring.
    pub(super) fn new(hosts: Vec<(usize, String, u32)>, size_min: u32) -> Self {
        let total: u64 = hosts.iter().map(|(.., weight)| u64::from(*weight)).sum();
        let Some(least) = hosts.iter().map(|(.., weight)| u64::from(*weight)).min().filter(|_| total > 0)
        else {
            return Self::default();
        };
        // The lightest one has a whole number of points.
        let (least_share, size_min) = (least as f64 / total as f64, f64::from(size_min));
        let scale = ((least_share * size_min).ceil() / least_share).min(size_min.max(POINTS_MAX));
        let (mut points, mut target, mut sum) = (Vec::new(), 0.0, 0.0);
        for (index, address, weight) in hosts {
            target += f64::from(weight) / total as f64 * scale;
            let mut i = 0;
            while sum < target {
                let hash = XxHash64::oneshot(0, format!("{address}_{i}").as_bytes());
                points.push((hash, u32::try_from(index).unwrap_or(u32::MAX)));
                i += 1;
                sum += 1.0;
            }
        }
        points.sort_unstable();
        Self(points)
    }

    /// Index of the one to whom a key belongs.
    pub(super) fn find(&self, key: u64) -> Option<usize> {
        let at = self.0.partition_point(|(hash, _)| *hash < key);
        self.0.get(at).or(self.0.first()).map(|(_, index)| *index as usize)
    }
}
