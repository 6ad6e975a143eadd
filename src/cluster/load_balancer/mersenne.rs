//! `std::mt19937`: the sequence in which a hash passes over busy hosts has to be Envoy's.

const WORDS: usize = 624;

pub(super) struct Mersenne {
    words: [u32; WORDS],
    next: usize,
}

impl Mersenne {
    pub(super) fn from_seed(seed: u32) -> Self {
        let mut words = [seed; WORDS];
        for index in 1..WORDS {
            let last = words[index - 1];
            words[index] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(index as u32);
        }
        Self { words, next: WORDS }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next >= WORDS {
            for index in 0..WORDS {
                let joined =
                    (self.words[index] & 0x8000_0000) | (self.words[(index + 1) % WORDS] & 0x7fff_ffff);
                let twist = if joined & 1 == 0 { 0 } else { 0x9908_b0df };
                self.words[index] = self.words[(index + 397) % WORDS] ^ (joined >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut word = self.words[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A number below `bound`, all as likely, as Envoy draws it; 0 if the bound is.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        let Some(width) = (1u64 << 32).checked_div(u64::from(bound)) else { return 0 };
        loop {
            let drawn = u64::from(self.next_u32()) / width;
            if drawn < u64::from(bound) {
                return drawn as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value that the C++ standard names.
    #[test]
    fn ten_thousandth_word_is_that_of_the_standard() {
        let mut random = Mersenne::from_seed(5489);
        let last = (0..10_000).map(|_| random.next_u32()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn drawn_numbers_stay_below_their_bound() {
        let mut random = Mersenne::from_seed(1);
        assert!((1..100).all(|bound| random.below(bound) < bound));
        assert_eq!(random.below(0), 0);
    }
}
