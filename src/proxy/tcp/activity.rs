//! When something moved last on a relayed connection. Source: Envoy "TCP proxy", `idle_timeout`.
//!
//! Bytes taken from one side are noted as they come. Bytes that the other side takes of those that wait for it are found by a look at
//! what is left, and only when time is up: a relay that moves pays nothing for it.

use std::time::Duration;

use crate::base::clock::Now;
use crate::runtime::{Runtime, Timer};

/// The first look comes after this part of the idle timeout: what a socket takes at once has gone by then, and its going is no
/// activity of its own.
const FIRST_LOOK: u32 = 8;

/// See the file's head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Activity {
    last: Now,
    /// Bytes that waited at the last look; `None`: there was none since. In 32 bits, which a relayed connection's task has room for.
    waiting: Option<u32>,
}

impl Activity {
    /// Something has moved.
    pub(super) fn new(now: Now) -> Self {
        Self { last: now, waiting: None }
    }

    /// Whether nothing has moved for that long; `waiting`: bytes that were taken from one side and that the other has not taken yet.
    /// If not, the timer's task is woken for the next look.
    pub(super) fn is_over(
        &mut self,
        idle: Option<Duration>,
        timer: &Timer,
        runtime: &Runtime,
        waiting: impl Fn() -> usize,
    ) -> bool {
        let Some(idle) = idle else { return false };
        while timer.poll_at(self.due(idle)).is_ready() {
            if self.look(runtime.now(), waiting()) {
                return true;
            }
        }
        false
    }

    /// When the next look is due.
    fn due(self, idle: Duration) -> Now {
        self.last.after(if self.waiting.is_some() { idle } else { idle / FIRST_LOOK })
    }

    /// Looks at what waits, when that is due; whether nothing has moved.
    fn look(&mut self, now: Now, waiting: usize) -> bool {
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        match self.waiting.replace(waiting) {
            None => false,
            Some(before) if waiting < before => {
                self.last = now;
                false
            }
            Some(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(8);

    fn at(seconds: u64) -> Now {
        Now(seconds * 1_000_000_000)
    }

    #[test]
    fn silence_is_over_when_its_time_is() {
        let mut activity = Activity::new(at(0));
        assert_eq!(activity.due(IDLE), at(1));
        assert!(!activity.look(at(1), 0));
        assert_eq!(activity.due(IDLE), at(8));
        assert!(activity.look(at(8), 0));
    }

    #[test]
    fn what_waits_is_activity_as_long_as_it_gets_less() {
        let mut activity = Activity::new(at(0));
        assert!(!activity.look(at(1), 100));
        assert!(!activity.look(at(8), 99));
        assert_eq!(activity.due(IDLE), at(16));
        assert!(!activity.look(at(16), 0));
        assert_eq!(activity.due(IDLE), at(24));
        assert!(activity.look(at(24), 0));
    }

    #[test]
    fn what_waits_and_stays_is_none() {
        let mut activity = Activity::new(at(0));
        assert!(!activity.look(at(1), 100));
        assert!(activity.look(at(8), 100));
        let mut much = Activity::new(at(0));
        assert!(!much.look(at(1), usize::MAX));
        assert!(much.look(at(8), usize::MAX - 1));
    }
}
