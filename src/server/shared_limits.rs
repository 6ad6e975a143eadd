//! Buckets of local rate limits that several filters share: one set of the process, for filters of the bootstrap's listeners, of
//! those that are told and of those that are told by themselves. Source: Envoy `local_ratelimit.v3.LocalRateLimit.share_key`,
//! whose buckets are the server's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::network_filter::{LocalRateLimit as RateLimitConfig, TokenBucket};
use crate::filter::network::LocalRateLimit;

/// So many buckets are kept before it is looked whether anybody has them.
const LOOKED_THROUGH_MIN: usize = 16;

/// See the file's head. Clones are the same set.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedLimits(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// Filters with one key share where their buckets are as large as each other's.
    limits: HashMap<(Box<str>, TokenBucket), LocalRateLimit>,
    /// How many of them somebody had when they were looked through.
    kept: usize,
}

impl SharedLimits {
    /// The bucket of a filter with a key; a full one, where nobody has it.
    pub(super) fn bucket(&self, config: &RateLimitConfig) -> LocalRateLimit {
        let RateLimitConfig { share_key, token_bucket, .. } = config;
        let key = (share_key.clone(), *token_bucket);
        // Nothing under the lock can leave it half changed.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limit) = known.limits.get(&key).filter(|limit| limit.is_used_elsewhere()) {
            return limit.clone();
        }
        known.make_room();
        let limit = LocalRateLimit::new(token_bucket);
        known.limits.insert(key, limit.clone());
        limit
    }
}

impl Known {
    /// Forgets buckets that nobody has, once there are twice as many as somebody had: control planes may tell ever new keys, and
    /// thousands at once.
    fn make_room(&mut self) {
        if self.limits.len() >= LOOKED_THROUGH_MIN.max(2 * self.kept) {
            self.limits.retain(|_, limit| limit.is_used_elsewhere());
            self.kept = self.limits.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Now;
    use crate::config::runtime::RuntimeFlag;

    fn config(share_key: &str, tokens_max: u32) -> RateLimitConfig {
        RateLimitConfig {
            stat_prefix: "slow".into(),
            token_bucket: TokenBucket {
                tokens_max,
                tokens_per_fill: 1,
                fill_interval: Duration::from_secs(3600),
            },
            share_key: share_key.into(),
            enabled: RuntimeFlag { default_value: true, runtime_key: None },
        }
    }

    #[test]
    fn filters_of_one_key_and_bucket_share_whoever_asks() {
        let limits = SharedLimits::default();
        let (first, same) = (limits.bucket(&config("a", 1)), limits.bucket(&config("a", 1)));
        assert!(first.admit(Now(7)) && !same.admit(Now(7)));
        for other in [config("b", 1), config("a", 2)] {
            assert!(limits.bucket(&other).admit(Now(7)), "{other:?}");
        }
    }

    #[test]
    fn bucket_that_nobody_has_begins_anew() {
        let limits = SharedLimits::default();
        let first = limits.bucket(&config("a", 1));
        assert!(first.admit(Now(7)) && !first.admit(Now(7)));
        drop(first);
        assert!(limits.bucket(&config("a", 1)).admit(Now(7)));
    }

    #[test]
    fn buckets_that_nobody_has_are_forgotten() {
        let limits = SharedLimits::default();
        let mut most = 0;
        for number in 0..1000 {
            limits.bucket(&config(&number.to_string(), 1));
            most = most.max(limits.0.lock().unwrap().limits.len());
        }
        assert_eq!(most, LOOKED_THROUGH_MIN);
    }

    /// Each time that they are looked through all of them are.
    #[test]
    fn thousands_that_are_told_are_looked_through_a_few_times() {
        let limits = SharedLimits::default();
        let (mut held, mut looked) = (Vec::new(), Vec::new());
        for number in 0..4096 {
            held.push(limits.bucket(&config(&number.to_string(), 1)));
            looked.push(limits.0.lock().unwrap().kept);
        }
        looked.dedup();
        assert_eq!(looked, [0, 16, 32, 64, 128, 256, 512, 1024, 2048]);
        assert_eq!(limits.0.lock().unwrap().limits.len(), held.len());
    }
}
