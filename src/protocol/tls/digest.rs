//! Digests for others, by the provider that this room alone names.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

use super::certificate::fixed;

/// SHA-1 of the pieces in a row, for protocols that are made of it. No signature is to rest on it.
pub fn sha1(pieces: &[&[u8]]) -> [u8; 20] {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    pieces.iter().for_each(|piece| context.update(piece));
    fixed(context.finish().as_ref())
}
