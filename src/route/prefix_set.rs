//! [`PrefixSet`]: which of many texts are prefixes of a given one, without trying them all.
//!
//! The texts are sorted, and each knows its parent: the longest other text that is a prefix of it. All prefixes of a
//! text `t` are the greatest element `e <= t` or ancestors of it: any prefix `p` of `t` is `<= e <= t`, and what lies
//! between `p` and a text that begins with `p` begins with `p` too. So a look-up is one binary search and a walk upwards.

/// A sorted set of texts, immutable.
#[derive(Debug, Clone, Default)]
pub(super) struct PrefixSet(Box<[Entry]>);

#[derive(Debug, Clone)]
struct Entry {
    text: Box<[u8]>,
    /// Index of the longest proper prefix in the set; its own index at a root.
    parent: usize,
}

impl PrefixSet {
    /// The set of `texts`; the position of a text in the sorted set is its index from then on.
    pub(super) fn new(mut texts: Vec<Box<[u8]>>) -> Self {
        texts.sort_unstable();
        texts.dedup();
        let mut entries: Vec<Entry> = Vec::with_capacity(texts.len());
        // Ancestors of the text added last, outermost first.
        let mut open: Vec<usize> = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            while open.last().is_some_and(|&last| !text.starts_with(&entries[last].text)) {
                open.pop();
            }
            entries.push(Entry { text, parent: open.last().copied().unwrap_or(index) });
            open.push(index);
        }
        Self(entries.into())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The index of `text` itself.
    pub(super) fn index_of(&self, text: &[u8]) -> Option<usize> {
        self.0.binary_search_by(|entry| entry.text[..].cmp(text)).ok()
    }

    /// Indices and lengths of the elements that are prefixes of `text`, longest first.
    pub(super) fn prefixes_of<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (usize, usize)> + 'a {
        let mut next = self.0.partition_point(|entry| entry.text[..] <= *text).checked_sub(1);
        std::iter::from_fn(move || {
            loop {
                let index = next?;
                let entry = &self.0[index];
                next = Some(entry.parent).filter(|&parent| parent != index);
                if text.starts_with(&entry.text) {
                    return Some((index, entry.text.len()));
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    #[test]
    fn prefixes_of_finds_all_and_only_prefixes() {
        for seed in 0..200 {
            let mut rng = Rng::from_seed(seed);
            let mut text = |max| (0..rng.below(max)).map(|_| b'a' + rng.below(3) as u8).collect::<Vec<u8>>();
            let texts: Vec<Box<[u8]>> = (0..30).map(|_| text(6).into()).collect();
            let set = PrefixSet::new(texts.clone());
            for _ in 0..50 {
                let asked = text(8);
                let found: Vec<_> = set.prefixes_of(&asked).map(|(_, len)| len).collect();
                let mut expected: Vec<_> =
                    texts.iter().filter(|text| asked.starts_with(text)).map(|text| text.len()).collect();
                expected.sort_unstable_by(|left, right| right.cmp(left));
                expected.dedup();
                assert_eq!(found, expected, "seed {seed}");
            }
        }
    }

    #[test]
    fn index_of_is_that_of_the_chain() {
        let set = PrefixSet::new(vec![Box::from(*b"ab"), Box::from(*b"a"), Box::from(*b"ab")]);
        assert_eq!(set.len(), 2);
        assert_eq!(set.index_of(b"ab"), set.prefixes_of(b"abc").next().map(|(index, _)| index));
        assert_eq!(set.index_of(b"b"), None);
    }
}
