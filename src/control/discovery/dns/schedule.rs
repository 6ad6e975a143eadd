//! When a name is resolved again: a pure function of the configuration, the last answer and a random number.
//!
//! Source: Envoy `DnsClusterImpl::ResolveTarget` and `JitteredExponentialBackOffStrategy`. One deliberate difference:
//! each name backs off on its own, where Envoy keeps one interval per cluster that any name's success resets.

use std::time::Duration;

use crate::base::limits::DNS_WAIT_MIN_MS;
use crate::base::rng::Rng;
use crate::config::cluster::{Dns, RefreshRate};

/// The schedule of one name.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    refresh_rate: Duration,
    jitter: Duration,
    failure_refresh_rate: Option<RefreshRate>,
    respect_dns_ttl: bool,
    /// Interval of the next failure; grows until a success.
    next_failure: Option<Duration>,
    rng: Rng,
}

impl Schedule {
    pub(super) fn new(dns: &Dns, seed: u64) -> Self {
        Self {
            refresh_rate: dns.refresh_rate,
            jitter: dns.jitter,
            failure_refresh_rate: dns.failure_refresh_rate,
            respect_dns_ttl: dns.respect_dns_ttl,
            next_failure: None,
            rng: Rng::from_seed(seed),
        }
    }

    /// The wait after an answer; `ttl` is the smallest of its records, if it had one above zero.
    pub(super) fn after_success(&mut self, ttl: Option<Duration>) -> Duration {
        self.next_failure = None;
        let base = ttl.filter(|_| self.respect_dns_ttl).unwrap_or(self.refresh_rate);
        let jitter = self.random_below(self.jitter);
        at_least_minimum(base.saturating_add(jitter))
    }

    /// The wait after no answer: the refresh rate, or a random time below an interval that doubles.
    pub(super) fn after_failure(&mut self) -> Duration {
        let Some(rate) = self.failure_refresh_rate else { return at_least_minimum(self.refresh_rate) };
        let interval = self.next_failure.unwrap_or(rate.base_interval);
        self.next_failure = Some(interval.saturating_mul(2).min(rate.max_interval));
        at_least_minimum(self.random_below(interval))
    }

    fn random_below(&mut self, bound: Duration) -> Duration {
        let bound_ms = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.rng.below(bound_ms))
    }
}

fn at_least_minimum(wait: Duration) -> Duration {
    wait.max(Duration::from_millis(DNS_WAIT_MIN_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(dns: &Dns) -> Schedule {
        Schedule::new(dns, 7)
    }

    #[test]
    fn success_without_ttl_waits_the_refresh_rate() {
        assert_eq!(schedule(&Dns::default()).after_success(None), 5 * SECOND);
    }

    #[test]
    fn success_with_ttl_waits_it_only_where_it_is_respected() {
        let ttl = Some(30 * SECOND);
        assert_eq!(schedule(&Dns::default()).after_success(ttl), 5 * SECOND);
        let respectful = Dns { respect_dns_ttl: true, ..Dns::default() };
        assert_eq!(schedule(&respectful).after_success(ttl), 30 * SECOND);
        assert_eq!(schedule(&respectful).after_success(None), 5 * SECOND);
    }

    #[test]
    fn success_with_jitter_waits_longer_by_less_than_it() {
        let mut schedule = schedule(&Dns { jitter: SECOND, ..Dns::default() });
        let waits: Vec<_> = (0..100).map(|_| schedule.after_success(None)).collect();
        assert!(waits.iter().all(|wait| (5 * SECOND..6 * SECOND).contains(wait)));
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }

    #[test]
    fn failure_without_rate_waits_the_refresh_rate() {
        assert_eq!(schedule(&Dns::default()).after_failure(), 5 * SECOND);
    }

    #[test]
    fn failures_double_their_interval_up_to_the_maximum_until_a_success() {
        let rate = RefreshRate { base_interval: 2 * SECOND, max_interval: 5 * SECOND };
        let mut schedule = schedule(&Dns { failure_refresh_rate: Some(rate), ..Dns::default() });
        let mut bounds = Vec::new();
        for _ in 0..4 {
            bounds.push(schedule.next_failure.unwrap_or(rate.base_interval));
            let wait = schedule.after_failure();
            assert!(wait < bounds[bounds.len() - 1]);
        }
        assert_eq!(bounds, [2 * SECOND, 4 * SECOND, 5 * SECOND, 5 * SECOND]);
        schedule.after_success(None);
        assert_eq!(schedule.next_failure, None);
    }

    #[test]
    fn wait_of_zero_becomes_the_minimum() {
        let rate = RefreshRate { base_interval: Duration::from_millis(1), max_interval: SECOND };
        let mut schedule = schedule(&Dns { failure_refresh_rate: Some(rate), ..Dns::default() });
        assert_eq!(schedule.after_failure(), Duration::from_millis(DNS_WAIT_MIN_MS));
    }
}
