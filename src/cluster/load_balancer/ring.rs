//! The ring of `RING_HASH`: every endpoint at many places by its weight, the next place at or after a hash has it.

use super::hash_table::{Member, Size};
use super::murmur;
use crate::base::xx_hash::xx_hash;
use crate::config::cluster::{HashFunction, RingHash};

/// Hashes ascending, and beside them whose they are: apart, since together they would take a third more.
#[derive(Debug)]
pub struct Ring {
    hashes: Box<[u64]>,
    hosts: Box<[u32]>,
    size: Size,
}

impl Ring {
    pub(super) fn build(members: &[Member<'_>], config: &RingHash) -> Self {
        if members.is_empty() {
            return Self { hashes: Box::default(), hosts: Box::default(), size: Size::default() };
        }
        let least = members.iter().fold(1.0, |least: f64, (_, weight)| least.min(*weight));
        // The lightest endpoint has a whole number of places, unless that would be more than the ring may have.
        let scale =
            ((least * config.minimum_ring_size as f64).ceil() / least).min(config.maximum_ring_size as f64);
        let entries = scale.ceil() as u64;
        let mut places: Vec<(u64, u32)> = Vec::with_capacity(entries as usize);
        let (mut target, mut size) = (0.0, Size { entries, per_host_min: entries, per_host_max: 0 });
        let mut key = Vec::new();
        for (host, (name, weight)) in (0u32..).zip(members) {
            key.clear();
            key.extend_from_slice(name.as_bytes());
            key.push(b'_');
            let prefix = key.len();
            target += scale * weight;
            let mut count = 0u64;
            while (places.len() as f64) < target {
                key.truncate(prefix);
                key.extend_from_slice(count.to_string().as_bytes());
                let hash = match config.hash_function {
                    HashFunction::XxHash => xx_hash(&key, 0),
                    HashFunction::MurmurHash2 => murmur::hash(&key, murmur::SEED),
                };
                places.push((hash, host));
                count += 1;
            }
            size.per_host_min = size.per_host_min.min(count);
            size.per_host_max = size.per_host_max.max(count);
        }
        places.sort_by_key(|(hash, _)| *hash);
        let hosts = places.iter().map(|(_, host)| *host).collect();
        Self { hashes: places.into_iter().map(|(hash, _)| hash).collect(), hosts, size }
    }

    pub(super) fn find(&self, hash: u64) -> Option<usize> {
        let place = self.hashes.partition_point(|at| *at < hash);
        self.hosts.get(place).or_else(|| self.hosts.first()).map(|host| *host as usize)
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(min: u64, max: u64) -> RingHash {
        RingHash { minimum_ring_size: min, maximum_ring_size: max, ..RingHash::default() }
    }

    #[test]
    fn hash_belongs_to_the_next_place_and_beyond_the_last_to_the_first() {
        let ring = Ring::build(&[("a:1", 0.5), ("b:1", 0.5)], &config(4, 100));
        let mut expected: Vec<(u64, usize)> = [("a:1_0", 0), ("a:1_1", 0), ("b:1_0", 1), ("b:1_1", 1)]
            .map(|(key, host)| (xx_hash(key.as_bytes(), 0), host))
            .to_vec();
        expected.sort();
        for (hash, host) in &expected {
            assert_eq!(ring.find(*hash), Some(*host));
        }
        for pair in expected.windows(2) {
            assert_eq!(ring.find(pair[0].0 + 1), Some(pair[1].1));
        }
        assert_eq!((ring.find(0), ring.find(u64::MAX)), (Some(expected[0].1), Some(expected[0].1)));
    }

    #[test]
    fn places_follow_weights_and_bounds() {
        let weights = [("a", 0.25), ("b", 0.25), ("c", 0.5)];
        let size = |min, max| Ring::build(&weights, &config(min, max)).size();
        assert_eq!(size(1024, 8 << 20), Size { entries: 1024, per_host_min: 256, per_host_max: 512 });
        assert_eq!(size(1, 8 << 20), Size { entries: 4, per_host_min: 1, per_host_max: 2 });
        assert_eq!(size(1, 2), Size { entries: 2, per_host_min: 0, per_host_max: 1 });
        assert_eq!(Ring::build(&[], &config(1, 2)).find(7), None);
    }
}
