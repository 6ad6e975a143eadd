//! What everything but runtime values waits behind: as in Envoy nothing else is asked of control planes before they are there.
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// See the file's head. Copies are the same one.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    made: Instant,
    opened: OnceLock<Instant>,
}

impl Gate {
    pub(super) fn new(is_open: bool) -> Self {
        let gate = Self(Arc::new(Shared { made: now(), opened: OnceLock::new() }));
        if is_open {
            gate.open();
        }
        gate
    }

    pub(super) fn open(&self) {
        self.0.opened.get_or_init(now);
    }

    /// How long it was closed; `None`: it is.
    pub(super) fn waited(&self) -> Option<Duration> {
        Some(self.0.opened.get()?.duration_since(self.0.made))
    }
}

/// By the clock that waits go by, which tests can turn.
pub(super) fn now() -> Instant {
    sleep(Duration::ZERO).deadline()
}
