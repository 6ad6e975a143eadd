//! Sorted maps and sets that grow by much at once.
//!
//! Keys that are inserted one by one in their order, as a response has them, leave the nodes of a B-tree half empty; a tree that is
//! made of all of its entries at once has full ones. Of tens of thousands of small entries that is a third of the memory.

use std::collections::{BTreeMap, BTreeSet};

/// Adds entries, of which no two are equal; each takes the place of the one that it is equal to. As many as are there already, or
/// more, are added by making the set anew, so that it is paid for by what is added.
pub fn extend<T: Ord>(set: &mut BTreeSet<T>, more: Vec<T>) {
    if more.len() < set.len() {
        more.into_iter().for_each(|entry| drop(set.replace(entry)));
    } else {
        // A set that is made of equal ones chooses among them.
        for entry in &more {
            set.remove(entry);
        }
        *set = std::mem::take(set).into_iter().chain(more).collect();
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
    use std::cmp::Ordering;

    use super::*;

    /// Known by its key.
    #[derive(Debug)]
    struct Entry {
        key: u32,
        value: u32,
    }

    impl PartialEq for Entry {
        fn eq(&self, other: &Self) -> bool {
            self.key == other.key
        }
    }

    impl Eq for Entry {}

    impl PartialOrd for Entry {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Entry {
        fn cmp(&self, other: &Self) -> Ordering {
            self.key.cmp(&other.key)
        }
    }

    #[test]
    fn sets_have_the_same_entries_however_they_grow() {
        for (there, more) in [(0, 0), (0, 5), (3, 2), (3, 3), (100, 1), (100, 500)] {
            let mut set: BTreeSet<Entry> = (0..there).map(|key| Entry { key: 2 * key, value: 0 }).collect();
            let mut expected: BTreeMap<u32, u32> = set.iter().map(|entry| (entry.key, entry.value)).collect();
            // In no order, half of them in the place of others.
            let added: Vec<_> = (0..more).rev().map(|key| Entry { key, value: 1 }).collect();
            expected.extend(added.iter().map(|entry| (entry.key, entry.value)));
            extend(&mut set, added);
            let found: BTreeMap<u32, u32> = set.iter().map(|entry| (entry.key, entry.value)).collect();
            assert_eq!((set.len(), found), (expected.len(), expected), "{more} to {there}");
        }
    }

    #[test]
    fn maps_have_the_same_entries_after_they_are_packed() {
        for there in [0, 1, 100] {
            let mut map: BTreeMap<u32, u32> = (0..there).map(|key| (key, 2 * key)).collect();
            let expected = map.clone();
            for added in [0, there, 2 * there] {
                pack(&mut map, added as usize);
                assert_eq!(map, expected, "{there}, of {added}");
            }
        }
    }
}
