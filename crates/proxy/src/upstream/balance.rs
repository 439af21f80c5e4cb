//! Who gets the next request: tables that the control side makes and workers only read.

mod maglev;
mod ring;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use twox_hash::XxHash64;
use wasmgate_config::{ClusterPolicy, Endpoint, HashTable, LoadBalancer};

use super::host_state::{HostState, warm_share};

/// The endpoints of a cluster by priority.
#[derive(Debug, Default)]
pub(crate) struct HostTable {
    hosts: Vec<Arc<HostState>>,
    levels: Vec<Level>,
}

/// Endpoints of one priority.
#[derive(Debug)]
struct Level {
    /// Its part of the requests, percent.
    load: u32,
    members: Vec<Member>,
    /// Sums of the weights up to each member; empty when all weigh the same.
    sums: Vec<u64>,
    lookup: Lookup,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    /// Index of the host.
    host: usize,
    weight: u32,
}

#[derive(Debug)]
enum Lookup {
    None,
    Ring(ring::Ring),
    Maglev(maglev::Maglev),
}

/// A worker's place in a rotation.
#[derive(Debug, Default)]
pub(crate) struct Turn(Cell<usize>);

impl Turn {
    /// Workers begin at different places.
    pub(crate) fn random() -> Self {
        Self(Cell::new(fastrand::usize(..)))
    }

    fn next(&self) -> usize {
        let turn = self.0.get();
        self.0.set(turn.wrapping_add(1));
        turn
    }
}

/// Envoy's overprovisioning factor: with fewer than 100/140 of its endpoints healthy, a priority gives requests away.
const OVERPROVISIONING_PERCENT: usize = 140;

impl HostTable {
    pub(crate) fn new(policy: &ClusterPolicy, endpoints: Vec<(Endpoint, Arc<HostState>)>) -> Self {
        let panic_percent = policy.outlier.map_or(0, |o| o.min_health_percent) as usize;
        let mut priorities: Vec<u32> = endpoints.iter().map(|(e, _)| e.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        let mut levels = Vec::new();
        let mut healths = Vec::new();
        for priority in priorities {
            let all: Vec<Member> = endpoints
                .iter()
                .enumerate()
                .filter(|(_, (e, _))| e.priority == priority && e.weight > 0)
                .map(|(host, (e, _))| Member { host, weight: e.weight })
                .collect();
            let is_healthy = |m: &&Member| endpoints.get(m.host).is_some_and(|(_, state)| state.is_healthy());
            let healthy: Vec<Member> = all.iter().filter(is_healthy).copied().collect();
            let percent = (healthy.len() * 100).checked_div(all.len()).unwrap_or(0);
            let health =
                (healthy.len() * OVERPROVISIONING_PERCENT).checked_div(all.len()).unwrap_or(0).min(100);
            // Better a bad answer than none, where the operator says so.
            let panics = percent < panic_percent;
            healths.push(if panics && healthy.is_empty() { 0 } else { health });
            levels.push(Level::new(policy, if panics { all } else { healthy }, &endpoints));
        }
        share_out(&mut levels, &healths);
        Self { hosts: endpoints.into_iter().map(|(_, state)| state).collect(), levels }
    }

    /// Every endpoint once, in the order of the configuration.
    pub(crate) fn hosts(&self) -> &[Arc<HostState>] {
        &self.hosts
    }

    /// Number of the one who gets the next request. `key`: of the request, where one decides. `active`: requests under
    /// way at an endpoint.
    pub(crate) fn pick(
        &self,
        policy: &ClusterPolicy,
        key: Option<u64>,
        turn: &Turn,
        active: impl Fn(usize) -> u64,
    ) -> Option<usize> {
        let level = self.level(key)?;
        if let [only] = level.members.as_slice() {
            return Some(only.host);
        }
        if let Some(host) = key.and_then(|key| level.look_up(key)) {
            return Some(host);
        }
        let warm = policy
            .warmup
            .filter(|_| matches!(policy.balance, LoadBalancer::LeastRequest | LoadBalancer::RoundRobin));
        if let Some(warmup) = warm {
            let now = Instant::now();
            let share = |m: &Member| {
                let age = self.hosts.get(m.host).map_or(warmup.time, |h| now.duration_since(h.since()));
                f64::from(m.weight) * warm_share(age, warmup.time, warmup.minimum_percent)
            };
            let is_young = |m: &Member| {
                self.hosts.get(m.host).is_some_and(|h| now.duration_since(h.since()) < warmup.time)
            };
            if level.members.iter().any(is_young) {
                return level.weighted(share);
            }
        }
        match policy.balance {
            LoadBalancer::RoundRobin if level.sums.is_empty() => {
                let at = turn.next().checked_rem(level.members.len())?;
                level.members.get(at).map(|m| m.host)
            }
            LoadBalancer::LeastRequest => {
                let (first, second) = level.two()?;
                // The one with fewer requests for its weight; the first one of two alike.
                // The weight has its share in who is drawn already.
                let cost = |m: &Member| {
                    active(m.host).saturating_mul(u64::from(u32::MAX)) / u64::from(m.weight.max(1))
                };
                Some(if cost(&second) < cost(&first) { second.host } else { first.host })
            }
            LoadBalancer::RoundRobin | LoadBalancer::Random | LoadBalancer::Hash(..) => {
                level.random().map(|m| m.host)
            }
        }
    }

    /// Number of the first one that may be chosen and fits, the nearest priority first.
    pub(crate) fn first(&self, fits: impl Fn(usize) -> bool) -> Option<usize> {
        self.levels.iter().flat_map(|level| &level.members).map(|m| m.host).find(|host| fits(*host))
    }

    fn level(&self, key: Option<u64>) -> Option<&Level> {
        if let Some(first) = self.levels.first().filter(|l| l.load == 100) {
            return Some(first);
        }
        let mut at =
            key.map_or_else(|| fastrand::u64(..), |key| XxHash64::oneshot(1, &key.to_le_bytes())) % 100;
        self.levels.iter().find(|level| match at.checked_sub(u64::from(level.load)) {
            Some(rest) => {
                at = rest;
                false
            }
            None => true,
        })
    }
}

/// Gives each level its load: as much as its health carries, the first ones first.
fn share_out(levels: &mut [Level], healths: &[usize]) {
    let total = healths.iter().sum::<usize>().min(100);
    if total == 0 {
        // Nobody is healthy: those who get requests all the same are the first that are there.
        if let Some(level) = levels.iter_mut().find(|l| !l.members.is_empty()) {
            level.load = 100;
        }
        return;
    }
    let mut left = 100;
    for (level, health) in levels.iter_mut().zip(healths) {
        let load = u32::try_from(health * 100 / total).unwrap_or(100).min(left);
        level.load = load;
        left -= load;
    }
    // What rounding has lost.
    if let Some(level) = levels.iter_mut().find(|l| l.load > 0) {
        level.load += left;
    }
}

impl Level {
    fn new(policy: &ClusterPolicy, members: Vec<Member>, endpoints: &[(Endpoint, Arc<HostState>)]) -> Self {
        let first = members.first().map(|m| m.weight);
        let sums = if members.iter().all(|m| Some(m.weight) == first) {
            Vec::new()
        } else {
            let mut sum = 0;
            let add = |m: &Member| {
                sum += u64::from(m.weight);
                sum
            };
            members.iter().map(add).collect()
        };
        let named = members.iter().filter_map(|m| {
            let (endpoint, _) = endpoints.get(m.host)?;
            Some((m.host, endpoint.address.to_string(), m.weight))
        });
        let lookup = match policy.balance {
            LoadBalancer::Hash(_, HashTable::Ring(size)) => {
                Lookup::Ring(ring::Ring::new(named.collect(), size))
            }
            LoadBalancer::Hash(_, HashTable::Maglev(size)) => {
                Lookup::Maglev(maglev::Maglev::new(&named.collect::<Vec<_>>(), size))
            }
            _ => Lookup::None,
        };
        Self { load: 0, members, sums, lookup }
    }

    fn look_up(&self, key: u64) -> Option<usize> {
        match &self.lookup {
            Lookup::None => None,
            Lookup::Ring(ring) => ring.find(key),
            Lookup::Maglev(maglev) => maglev.find(key),
        }
    }

    /// Any member, by weight.
    fn random(&self) -> Option<Member> {
        match self.sums.last() {
            None => self.members.get(fastrand::usize(..self.members.len().max(1))).copied(),
            Some(total) => {
                let at = fastrand::u64(..*total);
                self.members.get(self.sums.partition_point(|sum| *sum <= at)).copied()
            }
        }
    }

    /// Two members, which differ if all weigh the same and there are two.
    fn two(&self) -> Option<(Member, Member)> {
        let len = self.members.len();
        if !self.sums.is_empty() || len < 2 {
            return Some((self.random()?, self.random()?));
        }
        let (first, other) = (fastrand::usize(..len), fastrand::usize(..len - 1));
        let second = if other < first { other } else { other + 1 };
        Some((self.members.get(first).copied()?, self.members.get(second).copied()?))
    }

    /// Any member by a share that changes.
    fn weighted(&self, share: impl Fn(&Member) -> f64) -> Option<usize> {
        let mut at = fastrand::f64() * self.members.iter().map(&share).sum::<f64>();
        let found = self.members.iter().find(|m| {
            at -= share(m);
            at < 0.0
        });
        found.or(self.members.last()).map(|m| m.host)
    }
}

#[cfg(test)]
mod tests;
