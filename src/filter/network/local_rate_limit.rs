//! A limit of new connections by a token bucket, one for all workers (Envoy's local rate limit filter).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::clock::Now;
use crate::config::network_filter::TokenBucket;
use crate::config::runtime::RuntimeFlag;

/// The bucket; clones are the same one.
///
/// Its state is one word, the time at which it was empty or will be: what has flowed in since then is what it holds. So a
/// connection takes one atomic step and no timer fills it. Taken per connection, never per request: the documented exception
/// to "no shared atomic".
#[derive(Clone, Debug)]
pub struct LocalRateLimit {
    empty_at_ns: Arc<AtomicU64>,
    /// How long one token takes to flow in, in ns; tokens come one by one and not by the interval, as in Envoy.
    token_ns: u64,
    /// How long a whole bucket takes.
    full_ns: u64,
    /// Whether connections take tokens at all; of this clone alone.
    pub enabled: RuntimeFlag,
}

impl LocalRateLimit {
    /// A full bucket.
    pub fn new(bucket: &TokenBucket) -> Self {
        let interval = u64::try_from(bucket.fill_interval.as_nanos()).unwrap_or(u64::MAX);
        let token_ns = (interval / u64::from(bucket.tokens_per_fill.max(1))).max(1);
        Self {
            empty_at_ns: Arc::default(),
            token_ns,
            full_ns: token_ns.saturating_mul(u64::from(bucket.tokens_max)),
            enabled: RuntimeFlag::on(),
        }
    }

    /// The same bucket for a filter that is on where this says so.
    pub fn enabled_by(self, enabled: &RuntimeFlag) -> Self {
        Self { enabled: enabled.clone(), ..self }
    }

    /// Whether there are other clones of it.
    pub fn is_used_elsewhere(&self) -> bool {
        Arc::strong_count(&self.empty_at_ns) > 1
    }

    /// Takes a token, if there is one.
    pub fn admit(&self, now: Now) -> bool {
        let now = EPOCH_NS.saturating_add(now.0);
        let take = |empty_at: u64| {
            let empty_at = empty_at.max(now.saturating_sub(self.full_ns)).saturating_add(self.token_ns);
            (empty_at <= now).then_some(empty_at)
        };
        self.empty_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// Where the clock's zero is counted: buckets are full even where that is a moment ago.
const EPOCH_NS: u64 = 1 << 62;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn tokens_flow_in_up_to_what_the_bucket_holds() {
        let bucket = TokenBucket { tokens_max: 3, tokens_per_fill: 1, fill_interval: Duration::from_secs(1) };
        let limit = LocalRateLimit::new(&bucket);
        let start = Now(7);
        let second = |count: u64| Now(start.0 + count * 1_000_000_000);
        let admitted = |now| (0..5).filter(|_| limit.admit(now)).count();
        assert_eq!(admitted(start), 3);
        assert_eq!(admitted(second(1)), 1);
        assert_eq!(admitted(second(3)), 2);
        assert_eq!(admitted(second(100)), 3);
        assert!(!limit.clone().admit(second(100)));
    }
}
