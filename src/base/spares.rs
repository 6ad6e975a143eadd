//! [`Spares`]: things kept for their next use, as many as the load needs.

/// What is spare, most recently used last. What was spare for the whole time between two trims was not needed, and goes:
/// a steady load keeps what it works with, and a burst leaves nothing behind.
#[derive(Debug)]
pub struct Spares<T> {
    items: Vec<T>,
    /// Fewest there were since the last trim.
    fewest: usize,
}

impl<T> Spares<T> {
    /// Takes one into use.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        let item = self.items.pop();
        self.fewest = self.fewest.min(self.items.len());
        item
    }

    /// Keeps one that is not in use any more.
    #[inline]
    pub fn push(&mut self, item: T) {
        self.items.push(item);
    }

    /// Nobody is about to need what there is now: the next trim frees it.
    pub fn expect_no_use(&mut self) {
        self.fewest = self.items.len();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Hands those that were not needed since the last trim to `free`; none is too few to go, since a few that outlive a
    /// burst keep its pages resident. Returns whether some are left: the next trim may have them.
    pub fn trim(&mut self, free: impl FnMut(T)) -> bool {
        let surplus = self.fewest.min(self.items.len());
        self.items.drain(..surplus).for_each(free);
        self.fewest = self.items.len();
        if surplus > 0 {
            self.items.shrink_to(2 * self.fewest);
        }
        self.fewest > 0
    }

    /// Those that there are, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter()
    }

    /// Bytes of the list itself.
    pub fn list_bytes(&self) -> usize {
        self.items.capacity() * size_of::<T>()
    }
}

impl<T> Default for Spares<T> {
    fn default() -> Self {
        Self { items: Vec::new(), fewest: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spares_that_a_steady_load_uses_stay_and_those_of_a_burst_go() {
        let mut spares = Spares::default();
        (0..100).for_each(|item| spares.push(item));
        let mut freed = Vec::new();
        assert!(spares.trim(|item| freed.push(item)), "they may have been in use a moment ago");
        assert!(freed.is_empty());
        // Up to ten at a time are needed.
        for _ in 0..3 {
            let used: Vec<_> = (0..10).filter_map(|_| spares.pop()).collect();
            used.into_iter().for_each(|item| spares.push(item));
            assert!(spares.trim(|item| freed.push(item)));
        }
        assert_eq!((spares.len(), freed), (10, (0..90).collect()));
        assert!(!spares.trim(drop) && spares.is_empty() && spares.list_bytes() == 0);
    }
}
