//! What the TLS connections of one core have in common: how much memory unfinished messages may take.

use std::cell::Cell;
use std::rc::Rc;

use crate::base::limits;

/// Counts the chunks larger than a record in which messages that come in many records are put together.
#[derive(Clone, Debug, Default)]
pub struct Meter(Rc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    large: Cell<usize>,
    refused: Cell<u64>,
}

/// The right to one such chunk; given back when dropped.
#[derive(Debug)]
pub(super) struct LargePermit(Rc<Counts>);

impl Meter {
    /// The right to another; `None`: there are as many as there may be.
    pub(super) fn admit_large(&self) -> Option<LargePermit> {
        let Counts { large, refused } = &*self.0;
        if large.get() >= limits::TLS_LARGE_MESSAGES_MAX {
            refused.set(refused.get() + 1);
            return None;
        }
        large.set(large.get() + 1);
        Some(LargePermit(Rc::clone(&self.0)))
    }

    /// How often that was refused.
    pub fn refused(&self) -> u64 {
        self.0.refused.get()
    }
}

impl Drop for LargePermit {
    fn drop(&mut self) {
        self.0.large.set(self.0.large.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_to_a_large_chunk_is_given_back() {
        let meter = Meter::default();
        let mut all: Vec<_> =
            (0..limits::TLS_LARGE_MESSAGES_MAX).map(|_| meter.admit_large().unwrap()).collect();
        assert!(meter.admit_large().is_none());
        all.pop();
        assert!(meter.admit_large().is_some() && meter.refused() == 1);
    }
}
