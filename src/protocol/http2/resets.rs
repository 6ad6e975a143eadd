//! How many requests a client may reset: a token bucket. Pure: `now` in, a verdict out.
//!
//! Source: what Envoy has its codec count (CVE-2023-44487, "Rapid Reset").

use crate::base::clock::Now;
use crate::config::http2::Http2ProtocolOptions;

const SECOND_NS: u64 = 1_000_000_000;

/// The bucket of one connection. What flows in comes once a second, as in Envoy's codec.
#[derive(Clone, Copy, Debug)]
pub struct ResetLimit {
    burst: u64,
    rate: u64,
    left: u64,
    /// The last second in which something flowed in.
    filled: Now,
}

impl ResetLimit {
    /// That of a connection which begins.
    pub fn new(options: &Http2ProtocolOptions, now: Now) -> Self {
        let (burst, rate) = (options.stream_reset_burst, options.stream_reset_rate);
        Self { burst, rate, left: burst, filled: now }
    }

    /// Takes note of a reset; whether it is within the limit.
    pub fn take(&mut self, now: Now) -> bool {
        let seconds = now.0.saturating_sub(self.filled.0) / SECOND_NS;
        self.filled = Now(self.filled.0 + seconds * SECOND_NS);
        self.left = self.left.saturating_add(seconds.saturating_mul(self.rate)).min(self.burst);
        let is_within = self.left > 0;
        self.left -= u64::from(is_within);
        is_within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(burst: u64, rate: u64) -> ResetLimit {
        let options = Http2ProtocolOptions {
            stream_reset_burst: burst,
            stream_reset_rate: rate,
            ..Http2ProtocolOptions::default()
        };
        ResetLimit::new(&options, Now(7))
    }

    #[test]
    fn resets_within_burst_and_rate_pass() {
        let mut limit = limit(5, 2);
        let mut passed = |ms: u64| (0..10).filter(|_| limit.take(Now(7 + ms * 1_000_000))).count();
        assert_eq!(passed(0), 5);
        assert_eq!(passed(999), 0);
        assert_eq!(passed(1000), 2);
        assert_eq!(passed(1999), 0);
        assert_eq!(passed(3500), 4, "of two seconds");
        assert_eq!(passed(4000), 2, "of a third that began before the last");
        assert_eq!(passed(100_000), 5, "no more than the burst");
    }

    #[test]
    fn limit_of_none_and_of_all_there_is() {
        let mut none = limit(0, 100);
        assert!(!none.take(Now(7)) && !none.take(Now(u64::MAX)));
        let mut all = limit(u64::MAX, u64::MAX);
        assert!(all.take(Now(7)) && all.take(Now(u64::MAX)) && all.take(Now(0)));
    }
}
