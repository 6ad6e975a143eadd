//! Files of resources that are kept: arbitrary bytes are not used, or mean something that is written the same way again.

use crate::control::xds::client::cache_arbitrary;

/// Reads `input` as such a file, and as a record of one.
pub fn xds_cache(input: &[u8]) {
    cache_arbitrary(input);
}
