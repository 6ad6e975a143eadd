//! Earliest deadline first: who has weight w comes up every 1/w.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::base::rng::Rng;

/// Some that take turns by weight, known by their places.
#[derive(Debug)]
pub(super) struct Schedule(BinaryHeap<Entry>);

#[derive(Debug)]
struct Entry {
    deadline: f64,
    /// Ties are broken by who came first.
    order: u64,
    weight: f64,
    place: usize,
}

impl Schedule {
    /// Begins at a random place of the first round, so that cores are not in step. Weights are positive.
    pub(super) fn new(weights: impl ExactSizeIterator<Item = f64>, rng: &mut Rng) -> Self {
        let count = weights.len() as u64;
        let entry = |(place, weight)| Entry { deadline: 1.0 / weight, order: place as u64, weight, place };
        let mut schedule = Self(weights.enumerate().map(entry).collect());
        for _ in 0..rng.below(count) {
            schedule.next(|_, weight| weight);
        }
        schedule
    }

    /// Whose turn it is; `weigh` says what its weight is by now. `None`: there is nobody.
    pub(super) fn next(&mut self, weigh: impl Fn(usize, f64) -> f64) -> Option<usize> {
        let count = self.0.len() as u64;
        let mut first = self.0.peek_mut()?;
        first.deadline += 1.0 / weigh(first.place, first.weight);
        first.order += count;
        Some(first.place)
    }
}

// The heap's greatest is the earliest deadline.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
