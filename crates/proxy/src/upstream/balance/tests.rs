use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderName;
use wasmgate_config::{HashKey, OutlierDetection, Warmup};

use super::*;
use crate::upstream::state::ClusterState;

fn address(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80))
}

fn rules(max_percent: u32, min_health_percent: u32) -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 1,
        consecutive_gateway: 0,
        consecutive_local: None,
        interval: Duration::from_secs(1),
        base_time: Duration::from_secs(30),
        max_percent,
        min_health_percent,
    }
}

/// A cluster of endpoints with weights and priorities; some of them have been ejected.
fn table(policy: &ClusterPolicy, hosts: &[(u32, u32)], ejected: &[usize]) -> Arc<HostTable> {
    let endpoints = hosts.iter().zip(0..).map(|((weight, priority), n)| Endpoint {
        address: address(n),
        weight: *weight,
        priority: *priority,
    });
    let cluster = wasmgate_config::Cluster {
        name: "c".into(),
        host: "c".into(),
        endpoints: endpoints.collect(),
        names: Vec::new(),
        is_logical: false,
        protocol: wasmgate_config::UpstreamProtocol::Http1,
        policy: Arc::new(policy.clone()),
    };
    let state = ClusterState::new(1, None);
    let cluster = Arc::new(cluster);
    state.configure(&cluster);
    for (n, host) in state.hosts().iter().enumerate() {
        if ejected.contains(&n) {
            let rules = policy.outlier.unwrap_or(rules(100, 0));
            if state.observe(host, &rules, crate::upstream::state::Outcome::Failed) {
                state.rebuild_table();
            }
        }
    }
    state.table_for(&cluster, false).unwrap()
}

fn shares(table: &HostTable, policy: &ClusterPolicy, active: impl Fn(usize) -> u64) -> HashMap<usize, usize> {
    let turn = Turn::default();
    let mut shares = HashMap::new();
    for _ in 0..10_000 {
        if let Some(host) = table.pick(policy, None, &turn, &active) {
            *shares.entry(host).or_default() += 1;
        }
    }
    shares
}

fn of(balance: LoadBalancer) -> ClusterPolicy {
    ClusterPolicy { balance, outlier: Some(rules(100, 0)), ..ClusterPolicy::default() }
}

#[test]
fn endpoints_of_the_same_weight_take_turns() {
    let policy = of(LoadBalancer::RoundRobin);
    let table = table(&policy, &[(1, 0), (1, 0), (1, 0)], &[]);
    let turn = Turn::default();
    let picked: Vec<_> = (0..6).filter_map(|_| table.pick(&policy, None, &turn, |_| 0)).collect();
    assert_eq!(picked, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn weights_are_shares_whoever_balances() {
    for balance in [LoadBalancer::RoundRobin, LoadBalancer::Random, LoadBalancer::LeastRequest] {
        let policy = of(balance);
        let shares = shares(&table(&policy, &[(1, 0), (3, 0), (0, 0)], &[]), &policy, |_| 0);
        let first = shares[&0];
        assert!((2_200..2_800).contains(&first), "{shares:?}");
        assert_eq!(shares.get(&2), None, "weight 0 gets nothing");
    }
}

#[test]
fn a_busy_endpoint_gets_less() {
    let policy = of(LoadBalancer::LeastRequest);
    let table = table(&policy, &[(1, 0), (1, 0), (1, 0)], &[]);
    let busy = shares(&table, &policy, |host| if host == 0 { 5 } else { 0 });
    assert_eq!(busy.get(&0), None, "of two the other one: {busy:?}");
    let free = shares(&table, &policy, |_| 0);
    assert!(free.values().all(|n| (2_900..3_800).contains(n)), "{free:?}");
}

#[test]
fn who_is_ejected_gets_nothing_unless_too_few_are_left() {
    let policy = of(LoadBalancer::RoundRobin);
    let rest = shares(&table(&policy, &[(1, 0), (1, 0), (1, 0)], &[1]), &policy, |_| 0);
    assert_eq!(rest.len(), 2, "{rest:?}");
    let none = table(&policy, &[(1, 0), (1, 0)], &[0, 1]);
    assert_eq!(none.pick(&policy, None, &Turn::default(), |_| 0), None);
    // Envoy's panic: all of them rather than the few.
    let panics = ClusterPolicy { outlier: Some(rules(100, 50)), ..policy };
    let all = shares(&table(&panics, &[(1, 0), (1, 0), (1, 0)], &[0, 1]), &panics, |_| 0);
    assert_eq!(all.len(), 3, "{all:?}");
    let even_then = shares(&table(&panics, &[(1, 0), (1, 0)], &[0, 1]), &panics, |_| 0);
    assert_eq!(even_then.len(), 2, "{even_then:?}");
}

#[test]
fn no_more_are_ejected_than_may_be() {
    let policy = ClusterPolicy { outlier: Some(rules(50, 0)), ..of(LoadBalancer::RoundRobin) };
    let left = shares(&table(&policy, &[(1, 0); 4], &[0, 1, 2, 3]), &policy, |_| 0);
    assert_eq!(left.len(), 2, "{left:?}");
    let at_least_one = ClusterPolicy { outlier: Some(rules(10, 0)), ..policy };
    let left = shares(&table(&at_least_one, &[(1, 0); 3], &[0, 1]), &at_least_one, |_| 0);
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn the_next_priority_takes_what_the_first_cannot_carry() {
    let policy = of(LoadBalancer::RoundRobin);
    let hosts = [(1, 0), (1, 0), (1, 0), (1, 0), (1, 1)];
    let whole = shares(&table(&policy, &hosts, &[]), &policy, |_| 0);
    assert_eq!(whole.get(&4), None, "{whole:?}");
    // Three of four carry everything, two of four 70 %.
    let three = shares(&table(&policy, &hosts, &[0]), &policy, |_| 0);
    assert_eq!(three.get(&4), None, "{three:?}");
    let two = shares(&table(&policy, &hosts, &[0, 1]), &policy, |_| 0);
    assert!((2_700..3_300).contains(&two[&4]), "{two:?}");
    let none = shares(&table(&policy, &hosts, &[0, 1, 2, 3]), &policy, |_| 0);
    assert_eq!(none.len(), 1, "{none:?}");
    assert_eq!(none[&4], 10_000);
}

#[test]
fn a_key_stays_where_it_is_when_others_come_and_go() {
    let key = HashKey::Header(HeaderName::from_static("x-user"));
    for kind in [HashTable::Ring(1024), HashTable::Maglev(65_537)] {
        let policy = of(LoadBalancer::Hash(key.clone(), kind));
        let place = |table: &HostTable, key: u64| {
            let key = XxHash64::oneshot(0, &key.to_le_bytes());
            table.pick(&policy, Some(key), &Turn::default(), |_| 0)
        };
        let (all, fewer) = (table(&policy, &[(1, 0); 5], &[]), table(&policy, &[(1, 0); 5], &[2]));
        let mut counts = [0_u32; 5];
        let mut moved = 0;
        for n in 0..5_000 {
            let before = place(&all, n).unwrap();
            assert_eq!(place(&all, n), Some(before));
            counts[before] += 1;
            moved += u32::from(before != 2 && place(&fewer, n) != Some(before));
        }
        assert!(counts.iter().all(|n| (600..1_500).contains(n)), "{kind:?} {counts:?}");
        // A ring of a fixed size has more points of each of fewer endpoints, and Maglev's table is filled anew.
        assert!(moved <= 750, "{kind:?} {moved}");
    }
}

#[test]
fn heavier_ones_have_more_of_the_keys() {
    let key = HashKey::SourceIp;
    for kind in [HashTable::Ring(1024), HashTable::Maglev(65_537)] {
        let policy = of(LoadBalancer::Hash(key.clone(), kind));
        let table = table(&policy, &[(1, 0), (4, 0)], &[]);
        let heavy = (0..10_000_u64)
            .filter(|n| {
                let key = XxHash64::oneshot(0, &n.to_le_bytes());
                table.pick(&policy, Some(key), &Turn::default(), |_| 0) == Some(1)
            })
            .count();
        assert!((7_200..8_800).contains(&heavy), "{kind:?} {heavy}");
    }
}

#[test]
fn who_has_just_come_begins_with_little() {
    let warmup = Warmup { time: Duration::from_secs(3600), minimum_percent: 10 };
    assert!((warm_share(Duration::ZERO, warmup.time, 10) - 0.1).abs() < 1e-9);
    assert!((warm_share(Duration::from_secs(1800), warmup.time, 10) - 0.5).abs() < 1e-9);
    assert!((warm_share(Duration::from_secs(7200), warmup.time, 10) - 1.0).abs() < 1e-9);
    // All are new: they share evenly.
    let policy = ClusterPolicy { warmup: Some(warmup), ..of(LoadBalancer::RoundRobin) };
    let even = shares(&table(&policy, &[(1, 0), (1, 0)], &[]), &policy, |_| 0);
    assert!(even.values().all(|n| (4_500..5_500).contains(n)), "{even:?}");
}

#[test]
fn weights_that_differ_much_do_not_make_a_ring_of_any_size() {
    let policy = of(LoadBalancer::Hash(HashKey::SourceIp, HashTable::Ring(1024)));
    let table = table(&policy, &[(1, 0), (4_000_000_000, 0)], &[]);
    assert_eq!(table.pick(&policy, Some(1), &Turn::default(), |_| 0), Some(1));
}
