//! Draining: no new connections, the open ones told to go, an end in any case.

use std::cell::Cell;
use std::time::Duration;

use crate::base::clock::Now;

/// How long a connection without a request stays once a drain has begun: a request that was already on its way is
/// still answered. Then it is closed, so that idle clients do not hold up the end.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// The drain state of one worker.
#[derive(Debug, Default)]
pub struct Drain {
    since: Cell<Option<Now>>,
    /// `/healthcheck/fail`: responses end their connections although listeners still accept.
    health_failed: Cell<bool>,
}

impl Drain {
    /// Begins; a second call changes nothing.
    pub fn begin(&self, now: Now) {
        if self.since.get().is_none() {
            self.since.set(Some(now));
        }
    }

    /// Whether it has begun.
    pub fn is_draining(&self) -> bool {
        self.since.get().is_some()
    }

    /// `/healthcheck/fail` or `/healthcheck/ok` was called.
    pub fn set_health_failed(&self, failed: bool) {
        self.health_failed.set(failed);
    }

    /// Whether responses tell their clients to go.
    pub fn closes_connections(&self) -> bool {
        self.is_draining() || self.health_failed.get()
    }

    /// When idle connections are closed; `None`: not at all.
    pub fn idle_until(&self) -> Option<Now> {
        self.since.get().map(|since| since.after(IDLE_GRACE))
    }
}
