//! How long to wait before the next connection: exponential, with full jitter.
use std::time::Duration;

use crate::base::rng::Rng;

/// Source: Envoy `SubscriptionFactory::RetryInitialDelayMs`.
const BASE: Duration = Duration::from_millis(500);
/// Source: Envoy `SubscriptionFactory::RetryMaxDelayMs`.
const MAX: Duration = Duration::from_secs(30);

/// The waits of one client.
#[derive(Debug)]
pub(super) struct Backoff {
    bound: Duration,
    rng: Rng,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Self {
        Self { bound: BASE, rng: Rng::from_seed(seed) }
    }

    /// The control plane has answered: the next wait is a short one.
    pub(super) fn answered(&mut self) {
        self.bound = BASE;
    }

    /// The next wait, once per end of a stream.
    pub(super) fn wait(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = (bound * 2).min(MAX);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.below(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xds.md R1: jitter is full and the bound doubles to its cap, once per failure.
    #[test]
    fn waits_stay_below_a_bound_that_doubles_to_the_cap() {
        let mut backoff = Backoff::new(7);
        let mut bound = BASE;
        for _ in 0..12 {
            assert_eq!(backoff.bound, bound);
            assert!(backoff.wait() < bound);
            bound = (bound * 2).min(MAX);
        }
        assert_eq!(backoff.bound, MAX);
        let mut waits: Vec<_> = (0..64).map(|_| backoff.wait()).collect();
        waits.sort_unstable();
        assert!(waits[0] < MAX / 4 && waits[63] > MAX / 4 * 3, "{waits:?}");
    }

    /// xds.md R2: only an answer makes waits short again.
    #[test]
    fn waits_are_short_again_after_an_answer_alone() {
        let mut backoff = Backoff::new(7);
        for _ in 0..5 {
            backoff.wait();
        }
        assert!(backoff.bound > BASE);
        backoff.answered();
        assert_eq!(backoff.bound, BASE);
    }
}
