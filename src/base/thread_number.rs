//! Which thread this is: for what may be used or let go on another thread than that where it began, and is no affair of that one.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers given so far.
static GIVEN: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static HERE: ThreadNumber = ThreadNumber(GIVEN.fetch_add(1, Ordering::Relaxed));
}

/// A thread of this process. No other has its number, not even once it has ended. The standard library's name for it is had by
/// way of a counted handle, which costs two locked instructions each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadNumber(u64);

impl ThreadNumber {
    /// That of the thread that asks.
    #[inline]
    pub fn here() -> Self {
        HERE.with(|number| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn thread_has_one_number_which_nobody_has_after_it() {
        let here = ThreadNumber::here();
        let others = [(); 2].map(|()| thread::spawn(ThreadNumber::here).join().unwrap());
        assert!(here != others[0] && here != others[1] && others[0] != others[1]);
        assert_eq!(ThreadNumber::here(), here);
    }
}
