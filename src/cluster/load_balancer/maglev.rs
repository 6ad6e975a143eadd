//! The table of `MAGLEV`: a prime number of places, each endpoint's by its weight, in an order of its own (listing 1 of
//! the paper, with weights as Envoy has them).

use super::hash_table::{Member, Size};
use crate::base::xx_hash::xx_hash;

/// Which endpoint has which place.
#[derive(Debug)]
pub struct Maglev {
    places: Places,
    size: Size,
}

/// As small as the number of endpoints allows: the table is the cluster's largest block.
#[derive(Debug)]
enum Places {
    Bytes(Box<[u8]>),
    Halves(Box<[u16]>),
    Words(Box<[u32]>),
}

struct Entry {
    host: u32,
    offset: u64,
    skip: u64,
    next: u64,
    weight: f64,
    target: f64,
    count: u64,
}

impl Maglev {
    /// `table_size` is prime.
    pub(super) fn build(members: &[Member<'_>], table_size: u64) -> Self {
        if members.is_empty() || table_size < 2 {
            return Self { places: Places::Bytes(Box::default()), size: Size::default() };
        }
        let most = members.iter().fold(0.0, |most: f64, (_, weight)| most.max(*weight));
        let mut sorted: Vec<(u32, Member<'_>)> = (0..).zip(members.iter().copied()).collect();
        sorted.sort_by(|(_, a), (_, b)| a.0.cmp(b.0));
        let entry = |(host, (name, weight)): (u32, Member<'_>)| Entry {
            host,
            offset: xx_hash(name.as_bytes(), 0) % table_size,
            skip: xx_hash(name.as_bytes(), 1) % (table_size - 1) + 1,
            next: 0,
            weight,
            target: 0.0,
            count: 0,
        };
        let mut entries: Vec<Entry> = sorted.into_iter().map(entry).collect();
        let mut table: Vec<Option<u32>> = vec![None; table_size as usize];
        let (mut left, mut round) = (table_size, 1u32);
        while left > 0 {
            for entry in &mut entries {
                if left == 0 {
                    break;
                }
                // The heaviest has a place in every round, one of a third of its weight in every third.
                if f64::from(round) * entry.weight < entry.target {
                    continue;
                }
                entry.target += most;
                loop {
                    let place = (entry.offset + entry.skip * entry.next) % table_size;
                    entry.next += 1;
                    // In bounds: the table has `table_size` places.
                    let place = &mut table[place as usize];
                    if place.is_none() {
                        *place = Some(entry.host);
                        break;
                    }
                }
                entry.count += 1;
                left -= 1;
            }
            round = round.saturating_add(1);
        }
        let counts = || entries.iter().map(|entry| entry.count);
        // Of an endpoint alone Envoy's gauges say one.
        let counted = |most: Option<u64>| if members.len() == 1 { 1 } else { most.unwrap_or(0) };
        let size = Size {
            entries: table_size,
            per_host_min: counted(counts().min()),
            per_host_max: counted(counts().max()),
        };
        let places = table.into_iter().flatten();
        let places = match members.len() {
            0..=0x100 => Places::Bytes(places.map(|host| host as u8).collect()),
            0x101..=0x1_0000 => Places::Halves(places.map(|host| host as u16).collect()),
            _ => Places::Words(places.collect()),
        };
        Self { places, size }
    }

    pub(super) fn find(&self, hash: u64) -> Option<usize> {
        let place = usize::try_from(hash.checked_rem(self.size.entries)?).ok()?;
        match &self.places {
            Places::Bytes(places) => places.get(place).map(|host| usize::from(*host)),
            Places::Halves(places) => places.get(place).map(|host| usize::from(*host)),
            Places::Words(places) => places.get(place).map(|host| *host as usize),
        }
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|host| format!("127.0.0.1:{}", 90 + host)).collect()
    }

    fn table(weights: &[f64], size: u64) -> Maglev {
        let names = names(weights.len());
        let sum: f64 = weights.iter().sum();
        let members: Vec<Member<'_>> =
            names.iter().zip(weights).map(|(name, weight)| (&**name, weight / sum)).collect();
        Maglev::build(&members, size)
    }

    fn places(weights: &[f64], size: u64) -> Vec<usize> {
        let table = table(weights, size);
        (0..size).map(|hash| table.find(hash).unwrap()).collect()
    }

    /// Vectors of Envoy's own tests.
    #[test]
    fn the_only_endpoint_has_every_place_and_counts_as_envoy_counts_it() {
        let table = Maglev::build(&[("10.0.0.1:80", 1.0)], 101);
        assert!((0..500).all(|hash| table.find(hash) == Some(0)));
        assert_eq!((table.size().per_host_min, table.size().per_host_max), (1, 1));
    }

    #[test]
    fn places_are_those_of_envoy() {
        assert_eq!(places(&[1.0; 6], 7), [2, 4, 0, 1, 5, 0, 3]);
        let weighted = table(&[1.0, 2.0], 17).size();
        assert_eq!((weighted.per_host_min, weighted.per_host_max), (6, 11));
    }

    #[test]
    fn places_follow_weights_whatever_the_width_of_the_table() {
        for count in [1, 2, 256, 257, 300] {
            let size = table(&vec![1.0; count], 65_537).size();
            assert!(size.per_host_max - size.per_host_min <= 1, "{size:?}");
            let all = places(&vec![1.0; count], 65_537);
            assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), count);
        }
        assert_eq!(Maglev::build(&[], 7).find(3), None);
    }
}
