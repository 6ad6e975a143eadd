//! A small fast random generator for balancing and request ids (xoshiro256++). Not for secrets.

use std::time::Duration;

/// Seeded per worker; the sim seeds it with a printed number.
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

impl Rng {
    /// Expands a seed (SplitMix64, as the authors of xoshiro advise).
    pub fn from_seed(mut seed: u64) -> Self {
        Self(std::array::from_fn(|_| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `bound`; zero when the bound is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A time below `bound`, to the nanosecond; zero when the bound is zero.
    pub fn duration_below(&mut self, bound: Duration) -> Duration {
        Duration::from_nanos(self.below(u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_stays_below_and_spreads() {
        let mut rng = Rng::from_seed(1);
        let mut seen = [0u32; 7];
        for _ in 0..7000 {
            seen[rng.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
        assert_eq!(rng.below(0), 0);
        let second = Duration::from_secs(1);
        let late = (0..1000).filter(|_| rng.duration_below(second) >= second / 2).count();
        assert!((400..600).contains(&late), "{late}");
        assert!((0..1000).all(|_| rng.duration_below(second) < second));
        assert_eq!(rng.duration_below(Duration::ZERO), Duration::ZERO);
    }
}
