//! A fast seeded hash for tables that are built from configuration and asked by peers.
//!
//! Only configuration puts keys in, so a peer cannot make chains grow; the seed (random per process, printed by the
//! sim) keeps even the order of slots unknown. Not for secrets, not stable between versions.

use std::hash::{BuildHasher, Hasher};

/// Builds the hashers of one table.
#[derive(Clone, Copy, Debug)]
pub struct SeededState(u64);

/// Folds eight bytes at a time by a 128-bit product.
#[derive(Clone, Copy, Debug)]
pub struct SeededHasher(u64);

impl SeededState {
    /// A state for one table; tables may share a seed.
    pub fn new(seed: u64) -> Self {
        Self(fold(seed ^ ODD[0], ODD[1]))
    }
}

impl BuildHasher for SeededState {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher(self.0)
    }
}

impl Hasher for SeededHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = fold(self.0 ^ value, ODD[0]);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        fold(self.0, ODD[1])
    }
}

/// Odd numbers with well-mixed bits (fractions of pi).
const ODD: [u64; 2] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345];

fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_depends_on_seed_length_and_every_byte() {
        let hash = |seed, bytes: &[u8]| SeededState::new(seed).hash_one(bytes);
        assert_ne!(hash(1, b"example.com"), hash(2, b"example.com"));
        assert_ne!(hash(1, b"example.com"), hash(1, b"example.com\0"));
        assert_ne!(hash(1, b""), hash(1, b"\0"));
        let base = *b"a-host-name-of-twenty";
        for index in 0..base.len() {
            let mut changed = base;
            changed[index] ^= 1;
            assert_ne!(hash(7, &base), hash(7, &changed), "{index}");
        }
    }

    #[test]
    fn hash_of_numbered_hosts_spreads_over_low_and_high_bits() {
        let (mut low, mut high) = (vec![0u32; 256], vec![0u32; 256]);
        for index in 0..25_600 {
            let hash = SeededState::new(3).hash_one(format!("host-{index}.example.com").as_bytes());
            low[(hash & 255) as usize] += 1;
            high[(hash >> 56) as usize] += 1;
        }
        assert!(low.iter().chain(&high).all(|count| (50..160).contains(count)));
    }
}
