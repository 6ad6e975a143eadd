//! Numbered slots in segments of 16: tasks, sockets and timers of a worker live in them.
//!
//! The lowest vacant slot is taken first, so that what is alive gathers at the front, and [`Slab::trim`] frees every
//! segment that nobody uses: after a burst the memory follows what is left of it. A number comes back with its segment.
//!
//! Invariants: a slot in use stays where it is; a vacant one holds what [`Slab::remove`] found there, or a default value.
//! Numbers are used again, so that an owner whose names may outlive a slot adds a generation from a counter of its own,
//! which counts on while segments come and go: nothing that a dropped segment knew is needed to tell two owners apart.

use std::ops::{Index, IndexMut};

use crate::base::heaps;

/// Slots of a segment. Reason: segments of some kilobytes share small pages of the allocator; one that survives a burst
/// keeps 64 KiB resident, where a larger one would keep half a megabyte.
const SLOTS: usize = 16;
/// Segments for which there is always room in the list of them.
const SEGMENTS_MIN: usize = 8;

#[derive(Debug)]
pub(super) struct Slab<T> {
    segments: Vec<Segment<T>>,
    /// No segment before this one has a vacant slot.
    vacant_from: usize,
    len: usize,
}

#[derive(Debug)]
struct Segment<T> {
    /// One bit per slot in use.
    used: u16,
    /// `None`: none is in use, and the memory is given back.
    slots: Option<Box<[T; SLOTS]>>,
}

impl<T: Default> Slab<T> {
    /// Takes the lowest vacant slot into use and says which it is.
    pub(super) fn insert(&mut self) -> u32 {
        while self.segments.get(self.vacant_from).is_some_and(|segment| segment.used == u16::MAX) {
            self.vacant_from += 1;
        }
        if self.segments.capacity() == 0 {
            self.segments = heaps::lasting_list(SEGMENTS_MIN);
        }
        if self.vacant_from == self.segments.len() {
            self.segments.push(Segment { used: 0, slots: None });
        }
        let segment = &mut self.segments[self.vacant_from];
        let slot = segment.used.trailing_ones();
        segment.used |= 1 << slot;
        if segment.slots.is_none() {
            let empty = || Box::new(std::array::from_fn(|_| T::default()));
            // Those that are always there come first, and have the lowest slots.
            segment.slots = Some(if self.vacant_from == 0 { heaps::lasting(empty) } else { empty() });
        }
        self.len += 1;
        (self.vacant_from * SLOTS) as u32 + slot
    }
}

impl<T> Slab<T> {
    /// The slot is vacant from now on; its value stays until the slot, or the memory, is needed.
    pub(super) fn remove(&mut self, index: u32) {
        let at = index as usize / SLOTS;
        let segment = &mut self.segments[at];
        let bit = 1u16 << (index as usize % SLOTS);
        debug_assert!(segment.used & bit != 0, "removed once");
        segment.used &= !bit;
        self.vacant_from = self.vacant_from.min(at);
        self.len -= 1;
    }

    /// A slot, in use or vacant; `None` where there is none.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let segment = self.segments.get_mut(index as usize / SLOTS)?;
        Some(&mut segment.slots.as_mut()?[index as usize % SLOTS])
    }

    /// Slots in use.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Numbers of the slots in use, lowest first.
    pub(super) fn used(&self) -> impl Iterator<Item = u32> + use<'_, T> {
        self.segments.iter().enumerate().flat_map(|(at, segment)| {
            let used = segment.used;
            (0..SLOTS).filter(move |slot| used >> slot & 1 != 0).map(move |slot| (at * SLOTS + slot) as u32)
        })
    }

    /// Frees the segments that nobody uses.
    pub(super) fn trim(&mut self) {
        for segment in self.segments.iter_mut().filter(|segment| segment.used == 0) {
            segment.slots = None;
        }
        let end = self.segments.iter().rposition(|segment| segment.used != 0).map_or(0, |last| last + 1);
        self.segments.truncate(end);
        let least = if end > 0 { SEGMENTS_MIN } else { 0 };
        heaps::settle(&mut self.segments, 2 * end, least);
        self.vacant_from = self.vacant_from.min(end);
    }

    /// Bytes that the slots take, used or not.
    pub(super) fn bytes(&self) -> usize {
        let resident = self.segments.iter().filter(|segment| segment.slots.is_some()).count();
        resident * SLOTS * size_of::<T>() + self.segments.capacity() * size_of::<Segment<T>>()
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { segments: Vec::new(), vacant_from: 0, len: 0 }
    }
}

/// Only for slots in use: their owner knows that they are.
impl<T> Index<u32> for Slab<T> {
    type Output = T;

    #[expect(clippy::expect_used, reason = "a slot in use has memory")]
    fn index(&self, index: u32) -> &T {
        let slots = self.segments[index as usize / SLOTS].slots.as_ref().expect("a slot in use");
        &slots[index as usize % SLOTS]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[expect(clippy::expect_used, reason = "a slot in use has memory")]
    fn index_mut(&mut self, index: u32) -> &mut T {
        let slots = self.segments[index as usize / SLOTS].slots.as_mut().expect("a slot in use");
        &mut slots[index as usize % SLOTS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    #[test]
    fn lowest_vacant_slot_is_taken_first_and_keeps_its_value_until_then() {
        let mut slab = Slab::<u32>::default();
        for expected in 0..200 {
            assert_eq!(slab.insert(), expected);
            slab[expected] = expected;
        }
        for index in [150, 3, 70] {
            slab.remove(index);
        }
        assert_eq!((slab.len(), slab.get_mut(70).copied()), (197, Some(70)));
        assert_eq!([slab.insert(), slab.insert(), slab.insert(), slab.insert()], [3, 70, 150, 200]);
        assert_eq!(slab.get_mut(10_000), None);
    }

    #[test]
    fn trim_frees_every_unused_segment_and_its_numbers_come_back_vacant() {
        let mut slab = Slab::<u32>::default();
        let all: Vec<_> = (0..640).map(|_| slab.insert()).collect();
        all.iter().for_each(|&index| slab[index] = 7);
        let full = slab.bytes();
        // One survivor, and not at the front.
        all.iter().filter(|&&index| index != 130).for_each(|&index| slab.remove(index));
        slab.trim();
        assert!(slab.bytes() < full / 5, "{} of {full} bytes", slab.bytes());
        assert!(slab[130] == 7 && slab.get_mut(0).is_none() && slab.get_mut(639).is_none());
        assert_eq!(slab.used().collect::<Vec<_>>(), [130]);
        let index = slab.insert();
        assert_eq!((index, slab[index]), (0, 0), "a new segment knows nothing of the old one");
        slab.remove(index);
        slab.remove(130);
        slab.trim();
        assert_eq!((slab.bytes(), slab.len(), slab.insert()), (0, 0, 0));
    }

    #[test]
    fn random_operations_match_a_set() {
        let mut rng = Rng::from_seed(0x51ab);
        let mut slab = Slab::<u64>::default();
        let mut model = std::collections::BTreeMap::new();
        for round in 0..if cfg!(miri) { 300 } else { 30_000 } {
            match rng.below(8) {
                0..4 => {
                    let index = slab.insert();
                    slab[index] = round;
                    assert_eq!(model.insert(index, round), None);
                }
                4..7 => {
                    let victim = model.keys().nth(rng.below(model.len().max(1) as u64) as usize).copied();
                    if let Some(index) = victim {
                        model.remove(&index);
                        slab.remove(index);
                    }
                }
                _ => slab.trim(),
            }
            assert_eq!(slab.len(), model.len());
        }
        assert_eq!(slab.used().collect::<Vec<_>>(), model.keys().copied().collect::<Vec<_>>());
        assert!(model.iter().all(|(&index, value)| slab[index] == *value));
    }
}
