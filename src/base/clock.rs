//! The only place that reads clocks. Workers read them once per turn and pass `now` along.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in monotonic time: nanoseconds since the clock was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Now(pub u64);

impl Now {
    /// Later by `duration`, saturating.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Whole milliseconds.
    pub fn millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Time since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A monotonic clock and the wall time it started at.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    wall_ns: u64,
}

impl Clock {
    /// Starts at zero.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub fn start() -> Self {
        Self { start: Instant::now(), wall_ns: wall_ns() }
    }

    /// A clock whose wall time does not depend on the day: only `wall_ns` is asked, and `resync` changes nothing.
    #[cfg(test)]
    pub fn fixed_for_test() -> Self {
        Self { wall_ns: FIXED_WALL_NS, ..Self::start() }
    }

    /// Reads the monotonic clock.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub fn now(&self) -> Now {
        Now(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Wall time of a moment, nanoseconds since the epoch; does not follow later steps of the wall clock.
    pub fn wall_ns(&self, now: Now) -> u64 {
        self.wall_ns.saturating_add(now.0)
    }

    /// Follows a step of the wall clock; called about once a second.
    pub fn resync(&mut self, now: Now) {
        #[cfg(test)]
        if self.wall_ns == FIXED_WALL_NS {
            return;
        }
        self.wall_ns = wall_ns().saturating_sub(now.0);
    }
}

/// 2026-01-01T00:00:00Z.
#[cfg(test)]
const FIXED_WALL_NS: u64 = 1_767_225_600_000_000_000;

/// Wall time, nanoseconds since the epoch.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn wall_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
