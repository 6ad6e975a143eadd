//! [`Edits`]: knows whether a panic has cut off an edit of state that a whole core shares.
//!
//! A panic in a connection's task costs that connection only, unless it struck while the task was changing what others
//! rely on. Such changes run within [`Edits::run`]: short, and without a call to anything that may panic by design. What
//! the destructors of an unwinding task change is balanced, so only a cut-off edit leaves a trace.

use std::cell::Cell;

/// Edits of one core that have begun and not ended.
#[derive(Debug, Default)]
pub struct Edits(Cell<u32>);

impl Edits {
    /// Runs an edit.
    #[inline]
    pub fn run<T>(&self, edit: impl FnOnce() -> T) -> T {
        self.0.set(self.0.get() + 1);
        let outcome = edit();
        self.0.set(self.0.get() - 1);
        outcome
    }

    /// Whether every edit that has begun has ended: asked between tasks. False after a panic: the state may be half
    /// changed.
    pub fn are_whole(&self) -> bool {
        self.0.get() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn edit_that_a_panic_cuts_off_shows_though_others_end() {
        struct Destructor<'a>(&'a Edits);
        impl Drop for Destructor<'_> {
            fn drop(&mut self) {
                self.0.run(|| {});
            }
        }
        let edits = Edits::default();
        assert_eq!(edits.run(|| edits.run(|| 3)), 3);
        assert!(edits.are_whole());
        let outside = catch_unwind(AssertUnwindSafe(|| {
            let _unwound = Destructor(&edits);
            panic!("outside of an edit");
        }));
        assert!(outside.is_err() && edits.are_whole());
        let inside = catch_unwind(AssertUnwindSafe(|| {
            let _unwound = Destructor(&edits);
            edits.run(|| panic!("inside"));
        }));
        assert!(inside.is_err() && !edits.are_whole());
    }
}
