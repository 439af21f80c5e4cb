//! Maglev's table (Eisenbud et al., NSDI 2016): even shares, and a lookup that is one access.

use twox_hash::XxHash64;

/// Places, each with the index of its endpoint.
#[derive(Debug, Default)]
pub(super) struct Maglev(Vec<u32>);

const EMPTY: u32 = u32::MAX;

impl Maglev {
    /// `hosts`: index, address, weight. `size`: a prime.
    pub(super) fn new(hosts: &[(usize, String, u32)], size: u32) -> Self {
        let places = u64::from(size);
        let heaviest = hosts.iter().map(|(.., weight)| *weight).max().unwrap_or_default();
        if heaviest == 0 || size < 2 {
            return Self::default();
        }
        struct Turn {
            index: u32,
            offset: u64,
            skip: u64,
            next: u64,
            /// Relative to the heaviest, and what it has saved up.
            weight: f64,
            credit: f64,
        }
        let turn = |(index, address, weight): &(usize, String, u32)| Turn {
            index: u32::try_from(*index).unwrap_or(EMPTY),
            offset: XxHash64::oneshot(0, address.as_bytes()) % places,
            skip: XxHash64::oneshot(1, address.as_bytes()) % (places - 1) + 1,
            next: 0,
            weight: f64::from(*weight) / f64::from(heaviest),
            credit: 0.0,
        };
        let mut turns: Vec<Turn> = hosts.iter().map(turn).collect();
        let mut table = vec![EMPTY; size as usize];
        let mut filled = 0;
        while filled < table.len() {
            for turn in &mut turns {
                turn.credit += turn.weight;
                if turn.credit < 1.0 {
                    continue;
                }
                turn.credit -= 1.0;
                // The skip and the prime have no common factor: every place is met once.
                let free = loop {
                    let at = usize::try_from((turn.offset + turn.skip * turn.next) % places).unwrap_or(0);
                    turn.next += 1;
                    match table.get_mut(at) {
                        Some(place) if *place == EMPTY => break place,
                        _ if turn.next > places => return Self(table),
                        _ => {}
                    }
                };
                *free = turn.index;
                filled += 1;
                if filled == size as usize {
                    break;
                }
            }
        }
        Self(table)
    }

    /// Index of the one to whom a key belongs.
    pub(super) fn find(&self, key: u64) -> Option<usize> {
        let at = usize::try_from(key % (self.0.len().max(1) as u64)).ok()?;
        self.0.get(at).filter(|index| **index != EMPTY).map(|index| *index as usize)
    }
}
