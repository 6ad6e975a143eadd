//! XXH64, the hash of Envoy's balancers: with another the same request would have another endpoint.

use xxhash_rust::xxh64::xxh64;

/// The hash of `bytes`. Source: Envoy `HashUtil::xxHash64`.
#[inline]
pub fn xx_hash(bytes: &[u8], seed: u64) -> u64 {
    xxh64(bytes, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of the algorithm's description.
    #[test]
    fn hashes_are_those_of_the_algorithm() {
        assert_eq!(xx_hash(b"", 0), 0xef46_db37_51d8_e999);
        assert_eq!(xx_hash(b"abc", 0), 0x44bc_2cf5_ad77_0999);
        assert_ne!(xx_hash(b"abc", 1), xx_hash(b"abc", 0));
    }
}
