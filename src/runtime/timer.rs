//! A hierarchical timer wheel with millisecond ticks: six levels of 64 slots, 2,179 years of range.
//!
//! An entry names a task to wake. Arming and disarming cost a list operation; nothing reaches the kernel but the
//! timeout of the turn's one wait. Owners arm lazily (see `task::Timer`), so a keep-alive connection touches the wheel
//! about once per timeout, not once per request.

use super::slab::Slab;
use super::task::TaskId;

const LEVELS: usize = 6;
const SLOTS: usize = 64;
const NONE: u32 = u32::MAX;

/// A timer entry; valid until removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimerId(u32);

#[derive(Debug)]
struct Entry {
    task: TaskId,
    /// Tick at which it fires; meaningful while armed.
    due: u64,
    /// List it is in (level * SLOTS + slot), `NONE` while disarmed.
    list: u32,
    prev: u32,
    next: u32,
}

impl Default for Entry {
    fn default() -> Self {
        Self { task: TaskId::NONE, due: 0, list: NONE, prev: NONE, next: NONE }
    }
}

/// The wheel of one worker.
#[derive(Debug)]
pub(super) struct Wheel {
    tick: u64,
    entries: Slab<Entry>,
    heads: Box<[u32; LEVELS * SLOTS]>,
    /// One bit per slot that has entries.
    occupied: [u64; LEVELS],
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self {
            tick: 0,
            entries: Slab::default(),
            heads: Box::new([NONE; LEVELS * SLOTS]),
            occupied: [0; LEVELS],
        }
    }

    /// Makes a disarmed entry.
    pub(super) fn add(&mut self, task: TaskId) -> TimerId {
        let index = self.entries.insert();
        self.entries[index] = Entry { task, ..Entry::default() };
        TimerId(index)
    }

    pub(super) fn remove(&mut self, id: TimerId) {
        self.disarm(id);
        self.entries.remove(id.0);
    }

    /// Gives the memory of a burst back.
    pub(super) fn trim(&mut self) {
        self.entries.trim();
    }

    /// Bytes of the entries and of the wheel itself.
    pub(super) fn bytes(&self) -> usize {
        self.entries.bytes() + size_of_val(&*self.heads)
    }

    /// Fires at tick `due` (milliseconds), at the next tick if that has passed.
    pub(super) fn arm(&mut self, id: TimerId, due: u64) {
        self.disarm(id);
        let due = due.max(self.tick + 1);
        self.entries[id.0].due = due;
        self.link(id.0);
    }

    /// Fires at tick `due` or before: nothing to do if it is armed for an earlier moment.
    pub(super) fn arm_by(&mut self, id: TimerId, due: u64) {
        let entry = &self.entries[id.0];
        if entry.list == NONE || entry.due > due {
            self.arm(id, due);
        }
    }

    pub(super) fn disarm(&mut self, id: TimerId) {
        if self.entries[id.0].list != NONE {
            self.unlink(id.0);
        }
    }

    /// The tick at which something may be due; `None` with nothing armed. Never late, possibly early (a slot of a
    /// higher level then only moves down).
    pub(super) fn next_due(&self) -> Option<u64> {
        (0..LEVELS).filter(|&level| self.occupied[level] != 0).map(|level| self.slot_start(level)).min()
    }

    /// Moves time to `tick` and hands each fired entry's task to `fire`.
    pub(super) fn advance(&mut self, tick: u64, mut fire: impl FnMut(TaskId)) {
        while let Some(due) = self.next_due() {
            if due > tick {
                break;
            }
            self.tick = due;
            // A slot is emptied wholly: entries due now fire, later ones move down a level.
            for level in (0..LEVELS).rev() {
                if self.occupied[level] == 0 || self.slot_start(level) != due {
                    continue;
                }
                let slot = self.next_slot(level);
                let mut index = self.heads[level * SLOTS + slot];
                self.heads[level * SLOTS + slot] = NONE;
                self.occupied[level] &= !(1 << slot);
                while index != NONE {
                    let entry = &mut self.entries[index];
                    let next = entry.next;
                    entry.list = NONE;
                    if entry.due <= due {
                        fire(entry.task);
                    } else {
                        self.link(index);
                    }
                    index = next;
                }
            }
        }
        self.tick = self.tick.max(tick);
    }

    /// First occupied slot of a level, counted from the current one.
    fn next_slot(&self, level: usize) -> usize {
        let current = (self.tick >> (6 * level)) as u32 & 63;
        let ahead = self.occupied[level].rotate_right(current).trailing_zeros();
        (current + ahead) as usize & 63
    }

    /// Tick at which the first occupied slot of a level begins; the present if it has begun.
    fn slot_start(&self, level: usize) -> u64 {
        let shift = 6 * level as u32;
        let current = self.tick >> shift;
        let slot = self.next_slot(level) as u64;
        let ahead = slot.wrapping_sub(current) & 63;
        ((current + ahead) << shift).max(self.tick)
    }

    fn link(&mut self, index: u32) {
        let due = self.entries[index].due;
        // The highest bit in which `due` differs from the present names the level.
        let level = ((63 - ((due ^ self.tick) | 1).leading_zeros() as usize) / 6).min(LEVELS - 1);
        let slot = (due >> (6 * level)) as usize & 63;
        let list = level * SLOTS + slot;
        let head = self.heads[list];
        let entry = &mut self.entries[index];
        (entry.list, entry.prev, entry.next) = (list as u32, NONE, head);
        if head != NONE {
            self.entries[head].prev = index;
        }
        self.heads[list] = index;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, index: u32) {
        let entry = &mut self.entries[index];
        let (list, prev, next) = (entry.list as usize, entry.prev, entry.next);
        entry.list = NONE;
        if prev == NONE {
            self.heads[list] = next;
            if next == NONE {
                self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
            }
        } else {
            self.entries[prev].next = next;
        }
        if next != NONE {
            self.entries[next].prev = prev;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    fn task(n: u32) -> TaskId {
        TaskId::for_test(n)
    }

    #[test]
    fn entries_fire_once_at_their_tick() {
        let mut wheel = Wheel::new();
        let (a, b) = (wheel.add(task(1)), wheel.add(task(2)));
        wheel.arm(a, 5);
        wheel.arm(b, 70_000);
        let mut fired = Vec::new();
        wheel.advance(4, |t| fired.push(t));
        assert!(fired.is_empty());
        wheel.advance(5, |t| fired.push(t));
        assert_eq!(fired, [task(1)]);
        wheel.advance(69_999, |t| fired.push(t));
        assert_eq!(fired.len(), 1);
        wheel.advance(70_001, |t| fired.push(t));
        assert_eq!(fired, [task(1), task(2)]);
        assert_eq!(wheel.next_due(), None);
    }

    #[test]
    fn random_operations_match_a_sorted_list() {
        let seed = 0x5eed;
        let mut rng = Rng::from_seed(seed);
        let mut wheel = Wheel::new();
        let ids: Vec<_> = (0..100).map(|n| wheel.add(task(n))).collect();
        let mut model = vec![None::<u64>; 100];
        let mut now = 0;
        // Miri takes a thousand times as long.
        for _ in 0..if cfg!(miri) { 500 } else { 20_000 } {
            let n = rng.below(100) as usize;
            match rng.below(4) {
                0 | 1 => {
                    let span = 1 << rng.below(34);
                    let due = now + 1 + rng.below(span);
                    wheel.arm(ids[n], due);
                    model[n] = Some(due);
                }
                2 => {
                    wheel.disarm(ids[n]);
                    model[n] = None;
                }
                _ => {
                    let span = 1 << rng.below(24);
                    now += rng.below(span);
                    let mut fired = Vec::new();
                    wheel.advance(now, |t| fired.push(t));
                    fired.sort_unstable();
                    let mut expected: Vec<_> = (0..100u32)
                        .filter(|&n| model[n as usize].is_some_and(|due| due <= now))
                        .map(task)
                        .collect();
                    expected.sort_unstable();
                    assert_eq!(fired, expected, "seed {seed}");
                    model.iter_mut().filter(|due| due.is_some_and(|d| d <= now)).for_each(|due| *due = None);
                    let earliest = model.iter().flatten().min().copied();
                    assert!(wheel.next_due().is_none() == earliest.is_none() && wheel.next_due() <= earliest);
                }
            }
        }
    }
}
