//! MurmurHash2 of 64 bits as libstdc++'s `std::hash` has it, which is what Envoy's `MURMUR_HASH_2` means.

/// The seed of `std::hash`.
pub(super) const SEED: u64 = 0xc70f_6907;

const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;

pub(super) fn hash(key: &[u8], seed: u64) -> u64 {
    let mix = |value: u64| value ^ (value >> 47);
    let mut hash = seed ^ (key.len() as u64).wrapping_mul(MULTIPLIER);
    let (words, rest) = key.as_chunks::<8>();
    for word in words {
        let word = mix(u64::from_le_bytes(*word).wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
        hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let word = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ word).wrapping_mul(MULTIPLIER);
    }
    mix(mix(hash).wrapping_mul(MULTIPLIER))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `std::hash<std::string>` of libstdc++ gives.
    #[test]
    fn hashes_are_those_of_the_standard_library() {
        let known = [
            ("", 6_142_509_188_972_423_790),
            ("1", 10_159_970_873_491_820_195),
            ("127.0.0.1:80_0", 17_613_279_263_364_193_813),
            ("abcdefgh", 8_664_279_048_047_335_611),
        ];
        for (text, expected) in known {
            assert_eq!(hash(text.as_bytes(), SEED), expected, "{text:?}");
        }
    }
}
