//! Sorted maps that grow by much at once.
//!
//! Keys that are inserted one by one in their order, as a response has them, leave the nodes of a B-tree half empty; a tree that is
//! made of all of its entries at once has full ones. Of tens of thousands of small entries that is a third of the memory.

use std::collections::BTreeMap;

/// Adds entries; each takes the place of one that has its key. As many as are there already, or more, are added by making the map
/// anew, so that it is paid for by what is added.
pub fn extend<K: Ord, V>(map: &mut BTreeMap<K, V>, more: Vec<(K, V)>) {
    if more.len() < map.len() {
        map.extend(more);
    } else {
        *map = std::mem::take(map).into_iter().chain(more).collect();
    }
}

/// Makes a map anew, if this many entries have come one by one and that is at least half of it.
pub fn pack<K: Ord, V>(map: &mut BTreeMap<K, V>, added: usize) {
    if added >= map.len().div_ceil(2) {
        *map = std::mem::take(map).into_iter().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_the_same_entries_however_they_grow() {
        for (there, more) in [(0, 0), (0, 5), (3, 2), (3, 3), (100, 1), (100, 500)] {
            let mut map: BTreeMap<u32, u32> = (0..there).map(|key| (2 * key, 0)).collect();
            let mut expected = map.clone();
            // In no order, half of them in the place of others, and one that comes twice.
            let mut added: Vec<_> = (0..more).rev().map(|key| (key, 1)).collect();
            added.extend((0..more.min(1)).map(|key| (key, 2)));
            expected.extend(added.clone());
            extend(&mut map, added);
            assert_eq!(map, expected, "{more} to {there}");
            for added in [0, there, there + more] {
                pack(&mut map, added as usize);
                assert_eq!(map, expected, "{more} to {there}, of {added}");
            }
        }
    }
}
