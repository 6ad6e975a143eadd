//! Counts of responses by status code, for the metrics that exist once per code (`upstream_rq_200`).
//!
//! One store per response: classes (`upstream_rq_2xx`) and `upstream_rq_completed` are sums made when scraped.
//! The first codes seen share a small inline array that packs code and count into one word; a peer that sends
//! more different codes than that pays one allocation for a complete table, and nothing is lost.
use crate::base::heaps;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Whether a request counts as internal: Envoy's `x-envoy-internal`, decided by the connection manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Internal,
    External,
}

/// Counts by code of one writer. Single writer: the thread that owns the cells.
#[derive(Debug, Default)]
pub struct CodeTable {
    slots: [AtomicU64; SLOTS],
    overflow: OnceLock<Box<[AtomicU64; CODES]>>,
}

impl CodeTable {
    /// Counts one response. Codes outside 100 to 599 are not counted, as in Envoy.
    pub fn inc(&self, code: u16) {
        if !(FIRST..FIRST + CODES as u16).contains(&code) {
            return;
        }
        let tag = u64::from(code) << COUNT_BITS;
        for slot in &self.slots {
            let value = slot.load(Relaxed);
            if value >> COUNT_BITS == u64::from(code) {
                // The count cannot reach into the code: 2^48 responses are 8 years at a million per second,
                // and then it wraps to zero.
                return slot.store(tag | (value.wrapping_add(1) & COUNT_MASK), Relaxed);
            }
            if value == 0 {
                return slot.store(tag | 1, Relaxed);
            }
        }
        let empty = || heaps::lasting(|| Box::new([const { AtomicU64::new(0) }; CODES]));
        let table = self.overflow.get_or_init(empty);
        if let Some(cell) = table.get(usize::from(code - FIRST)) {
            cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// Adds the counts to `into`. For the scraping side.
    pub fn merge_into(&self, into: &mut CodeCounts) {
        for value in self.slots.iter().map(|slot| slot.load(Relaxed)).filter(|value| *value != 0) {
            into.add((value >> COUNT_BITS) as u16, value & COUNT_MASK);
        }
        if let Some(table) = self.overflow.get() {
            for (code, count) in (FIRST..).zip(table.iter().map(|cell| cell.load(Relaxed))) {
                if count > 0 {
                    into.add(code, count);
                }
            }
        }
    }
}

/// Merged counts, sorted by code. A zero means counted once and reset since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodeCounts(Vec<(u16, u64)>);

impl CodeCounts {
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> {
        self.0.iter().copied()
    }

    /// Sum of a class: 2 for all of 2xx.
    pub fn class(&self, class: u16) -> u64 {
        self.iter().filter(|(code, _)| code / 100 == class).map(|(_, count)| count).sum()
    }

    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }

    pub fn add(&mut self, code: u16, count: u64) {
        match self.0.binary_search_by_key(&code, |(code, _)| *code) {
            Ok(at) => self.0[at].1 += count,
            Err(at) => self.0.insert(at, (code, count)),
        }
    }

    pub fn add_all(&mut self, other: &Self) {
        for (code, count) in other.iter() {
            self.add(code, count);
        }
    }

    /// Takes away what had been counted when the counters were reset; codes stay listed with zero.
    pub fn subtract(&mut self, base: &Self) {
        for (code, count) in &mut self.0 {
            let counted = base.iter().find(|(other, _)| other == code).map_or(0, |(_, count)| count);
            *count = count.saturating_sub(counted);
        }
    }
}

/// Codes kept without an allocation. A service rarely answers with more; 12 make the table 96 bytes.
const SLOTS: usize = 12;
const FIRST: u16 = 100;
const CODES: usize = 500;
const COUNT_BITS: u32 = 48;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(table: &CodeTable) -> CodeCounts {
        let mut counts = CodeCounts::default();
        table.merge_into(&mut counts);
        counts
    }

    #[test]
    fn codes_more_than_the_slots_are_all_counted() {
        let table = CodeTable::default();
        for code in 100..600 {
            table.inc(code);
            table.inc(code);
        }
        let counts = counts(&table);
        assert_eq!(counts.total(), 1000);
        assert_eq!(counts.class(2), 200);
        assert!(counts.iter().map(|(code, _)| code).eq(100..600));
        assert!(counts.iter().all(|(_, count)| count == 2));
    }

    #[test]
    fn code_out_of_range_is_not_counted() {
        let table = CodeTable::default();
        for code in [0, 99, 600, 999, u16::MAX] {
            table.inc(code);
        }
        assert_eq!(counts(&table).total(), 0);
    }

    #[test]
    fn subtract_leaves_what_came_after_the_reset() {
        let table = CodeTable::default();
        table.inc(200);
        let base = counts(&table);
        table.inc(200);
        table.inc(404);
        let mut now = counts(&table);
        now.subtract(&base);
        assert_eq!(now.iter().collect::<Vec<_>>(), [(200, 1), (404, 1)]);
    }
}
