//! When a worker is at rest: it has had nothing to do for a while, and memory goes back that serving has brought in and idle
//! connections do not need. Its own free pages go at once; the pages of the program, of which handshakes run the most, with the
//! last worker of the process: while one is busy it keeps what it runs.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// Rounds of upkeep, one a second, in which no task has run before a worker is at rest. Reason: pages of the program come back
/// sixteen at a time, for which the next request waits; who asks every few seconds is not to wait for them each time.
const QUIET_ROUNDS: u8 = 5;

/// Workers of this process that are awake.
static AWAKE: AtomicUsize = AtomicUsize::new(0);

/// Whether a worker is at rest. It begins so.
#[derive(Debug)]
pub(super) struct Rest {
    /// Those that come to rest together.
    awake: &'static AtomicUsize,
    is_awake: bool,
    /// Rounds since a task has run.
    quiet: u8,
}

/// What a round of upkeep finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Found {
    /// Tasks have run lately: another round has to follow.
    Awake,
    /// It comes to rest with this round.
    ComesToRest {
        /// No other is awake.
        last: bool,
    },
    #[default]
    AtRest,
}

impl Default for Rest {
    fn default() -> Self {
        Self::among(&AWAKE)
    }
}

impl Rest {
    fn among(awake: &'static AtomicUsize) -> Self {
        Self { awake, is_awake: false, quiet: 0 }
    }

    /// A round of upkeep; `has_run`: a task has since the one before.
    pub(super) fn round(&mut self, has_run: bool) -> Found {
        if has_run {
            self.quiet = 0;
            if !std::mem::replace(&mut self.is_awake, true) {
                self.awake.fetch_add(1, Relaxed);
            }
            return Found::Awake;
        }
        if !self.is_awake {
            return Found::AtRest;
        }
        self.quiet += 1;
        if self.quiet < QUIET_ROUNDS {
            return Found::Awake;
        }
        self.is_awake = false;
        Found::ComesToRest { last: self.awake.fetch_sub(1, Relaxed) == 1 }
    }
}

/// A worker that is no more is not waited for.
impl Drop for Rest {
    fn drop(&mut self) {
        if self.is_awake {
            self.awake.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds in which nothing has run, until something else is found.
    fn quiet(rest: &mut Rest) -> (u8, Found) {
        let mut rounds = 1;
        loop {
            match rest.round(false) {
                Found::Awake => rounds += 1,
                found => return (rounds, found),
            }
        }
    }

    #[test]
    fn worker_comes_to_rest_once_after_rounds_without_work() {
        static AWAKE: AtomicUsize = AtomicUsize::new(0);
        let mut rest = Rest::among(&AWAKE);
        assert_eq!(rest.round(false), Found::AtRest, "it has never had any");
        for _ in 0..3 {
            assert_eq!(rest.round(true), Found::Awake);
            for _ in 1..QUIET_ROUNDS {
                assert_eq!(rest.round(false), Found::Awake);
            }
            // Work begins the count anew.
            assert_eq!(rest.round(true), Found::Awake);
            assert_eq!(quiet(&mut rest), (QUIET_ROUNDS, Found::ComesToRest { last: true }));
            assert_eq!(rest.round(false), Found::AtRest);
        }
    }

    #[test]
    fn last_worker_knows_that_it_is_the_last() {
        static AWAKE: AtomicUsize = AtomicUsize::new(0);
        let [mut first, mut second, mut third] = [(); 3].map(|()| Rest::among(&AWAKE));
        for rest in [&mut first, &mut second, &mut third] {
            assert_eq!(rest.round(true), Found::Awake);
        }
        assert_eq!(quiet(&mut first), (QUIET_ROUNDS, Found::ComesToRest { last: false }));
        assert_eq!(first.round(true), Found::Awake);
        assert_eq!(quiet(&mut second), (QUIET_ROUNDS, Found::ComesToRest { last: false }));
        // One that ends while it is awake is waited for no more, nor counted twice.
        drop((second, third));
        assert_eq!(quiet(&mut first), (QUIET_ROUNDS, Found::ComesToRest { last: true }));
    }
}
