//! Draining: no new connections, the open ones told to go, an end in any case; or, while listeners still accept, the
//! open ones told to go one after the other.

use std::cell::Cell;
use std::time::Duration;

use crate::base::clock::Now;
use crate::config::listener::{DrainType, Listener, TrafficDirection};

/// How long a connection without a request stays once a drain has begun: a request that was already on its way is
/// still answered. Then it is closed, so that idle clients do not hold up the end.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// The drain state of one worker.
#[derive(Debug, Default)]
pub struct Drain {
    since: Cell<Option<Now>>,
    /// `/healthcheck/fail`: responses end their connections although listeners still accept.
    health_failed: Cell<bool>,
    spread: Cell<Option<Spread>>,
}

/// Connections told to go, one after the other, while listeners still accept.
#[derive(Clone, Copy, Debug)]
struct Spread {
    since: Now,
    over: Duration,
    inbound_only: bool,
}

/// Which drains are those of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drains {
    /// Also those of inbound listeners alone.
    is_inbound: bool,
    /// Also `/healthcheck/fail`.
    heeds_health: bool,
}

impl Drains {
    /// As the listener is configured.
    pub(super) fn of(listener: &Listener) -> Self {
        Self {
            is_inbound: listener.traffic_direction == TrafficDirection::Inbound,
            heeds_health: listener.drain_type == DrainType::Default,
        }
    }
}

impl Drain {
    /// Begins; a second call changes nothing.
    pub fn begin(&self, now: Now) {
        if self.since.get().is_none() {
            self.since.set(Some(now));
        }
    }

    /// From now on responses tell their clients to go, with a probability that rises from none to certainty over the
    /// time `over`; zero: all of them. Source: Envoy's `/drain_listeners`, `--drain-strategy`.
    pub fn spread(&self, since: Now, over: Duration, inbound_only: bool) {
        self.spread.set(Some(Spread { since, over, inbound_only }));
    }

    /// `/healthcheck/fail` or `/healthcheck/ok` was called.
    pub fn set_health_failed(&self, failed: bool) {
        self.health_failed.set(failed);
    }

    /// Whether a response on a connection that has these drains tells its client to go. `below` is a random number below
    /// its argument.
    pub(super) fn closes(&self, now: Now, drains: Drains, below: impl FnOnce(u64) -> u64) -> bool {
        if self.since.get().is_some() || self.health_failed.get() && drains.heeds_health {
            return true;
        }
        self.spread.get().is_some_and(|spread| {
            let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
            let (elapsed, over) = (nanos(now.since(spread.since)), nanos(spread.over));
            (drains.is_inbound || !spread.inbound_only) && (elapsed >= over || below(over) < elapsed)
        })
    }

    /// Whether the process ends: no connection stays.
    pub fn is_draining(&self) -> bool {
        self.since.get().is_some()
    }

    /// When idle connections are closed; `None`: not at all.
    pub fn idle_until(&self) -> Option<Now> {
        self.since.get().map(|since| since.after(IDLE_GRACE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTBOUND: Drains = Drains { is_inbound: false, heeds_health: true };
    const INBOUND: Drains = Drains { is_inbound: true, ..OUTBOUND };

    /// Whether a response is the last, `elapsed` seconds into a drain spread over 100 seconds, at this draw of 100.
    fn closes_after(elapsed: u64, draw: u64) -> bool {
        let drain = Drain::default();
        let start = Now(7);
        drain.spread(start, Duration::from_secs(100), false);
        drain.closes(start.after(Duration::from_secs(elapsed)), OUTBOUND, |bound| bound / 100 * draw)
    }

    #[test]
    fn spread_drain_closes_with_a_probability_that_rises() {
        assert!(!closes_after(0, 0));
        assert!(closes_after(30, 29) && !closes_after(30, 30));
        assert!(closes_after(99, 98) && !closes_after(99, 99));
        assert!(closes_after(100, 99) && closes_after(1000, 99));
    }

    #[test]
    fn spread_over_no_time_closes_all_at_once() {
        let drain = Drain::default();
        assert!(!drain.closes(Now(7), INBOUND, |bound| bound));
        drain.spread(Now(7), Duration::ZERO, false);
        assert!(drain.closes(Now(7), OUTBOUND, |bound| bound));
    }

    #[test]
    fn spread_of_inbound_connections_leaves_the_others() {
        let drain = Drain::default();
        drain.spread(Now(7), Duration::ZERO, true);
        assert!(
            drain.closes(Now(7), INBOUND, |bound| bound) && !drain.closes(Now(7), OUTBOUND, |bound| bound)
        );
        drain.begin(Now(7));
        assert!(drain.closes(Now(7), OUTBOUND, |bound| bound));
    }

    #[test]
    fn failed_health_checks_are_no_drain_for_who_does_not_heed_them() {
        let drain = Drain::default();
        let modify_only = Drains { heeds_health: false, ..OUTBOUND };
        let closes = |drains| drain.closes(Now(7), drains, |bound| bound);
        drain.set_health_failed(true);
        assert!(closes(OUTBOUND) && !closes(modify_only));
        drain.set_health_failed(false);
        assert!(!closes(OUTBOUND));
        drain.begin(Now(7));
        assert!(closes(modify_only));
    }
}
