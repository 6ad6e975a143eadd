//! Buckets of local rate limits that several filters share: one set of the process, for filters of the bootstrap's listeners, of
//! those that are told and of those that are told by themselves. Source: Envoy `local_ratelimit.v3.LocalRateLimit.share_key`,
//! whose buckets are the server's.

use std::sync::{Arc, Mutex, PoisonError};

use crate::config::network_filter::{LocalRateLimit as RateLimitConfig, TokenBucket};
use crate::filter::network::LocalRateLimit;

/// See the file's head. Clones are the same set.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedLimits(Arc<Mutex<Vec<Known>>>);

/// A bucket that filters with this key have, whose buckets are as large as each other's.
#[derive(Debug)]
struct Known {
    share_key: Box<str>,
    token_bucket: TokenBucket,
    limit: LocalRateLimit,
}

impl SharedLimits {
    /// The bucket of a filter with a key; a full one, where nobody has it.
    pub(super) fn bucket(&self, config: &RateLimitConfig) -> LocalRateLimit {
        let RateLimitConfig { share_key, token_bucket, .. } = config;
        // Nothing under the lock can leave it half changed.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Control planes may tell ever new keys.
        all.retain(|known| known.limit.is_used_elsewhere());
        let is_meant = |known: &&Known| known.share_key == *share_key && known.token_bucket == *token_bucket;
        if let Some(known) = all.iter().find(is_meant) {
            return known.limit.clone();
        }
        let limit = LocalRateLimit::new(token_bucket);
        all.push(Known { share_key: share_key.clone(), token_bucket: *token_bucket, limit: limit.clone() });
        limit
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
    fn bucket_that_nobody_has_is_forgotten() {
        let limits = SharedLimits::default();
        let first = limits.bucket(&config("a", 1));
        assert!(first.admit(Now(7)));
        drop(first);
        let (again, _other) = (limits.bucket(&config("a", 1)), limits.bucket(&config("b", 1)));
        assert!(again.admit(Now(7)));
        assert_eq!(limits.0.lock().unwrap().len(), 2);
    }
}
