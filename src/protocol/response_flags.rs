//! Response flags: what was noteworthy about a request, Envoy's complete list.
//!
//! `%RESPONSE_FLAGS%` writes them in the order in which they were set, so [`ResponseFlags`] keeps it.

/// One flag. The numbers are Envoy's `CoreResponseFlag`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ResponseFlag {
    /// LH: the local health check failed.
    FailedLocalHealthCheck,
    /// UH: no healthy upstream host. 503.
    NoHealthyUpstream,
    /// UT: the upstream request timed out. 504.
    UpstreamRequestTimeout,
    /// LR: the stream was reset locally. 503.
    LocalReset,
    /// UR: upstream reset the stream. 503.
    UpstreamRemoteReset,
    /// UF: connecting upstream failed. 503.
    UpstreamConnectionFailure,
    /// UC: upstream closed the connection. 503.
    UpstreamConnectionTermination,
    /// UO: a circuit breaker was open. 503.
    UpstreamOverflow,
    /// NR: no route, or no matching filter chain. 404.
    NoRouteFound,
    /// DI: a delay was injected.
    DelayInjected,
    /// FI: an abort was injected.
    FaultInjected,
    /// RL: rate-limited. 429.
    RateLimited,
    /// UAEX: denied by the external authorization service.
    UnauthorizedExternalService,
    /// RLSE: the rate-limit service failed.
    RateLimitServiceError,
    /// DC: downstream closed the connection.
    DownstreamConnectionTermination,
    /// URX: the retry limit or the connect attempts were used up.
    UpstreamRetryLimitExceeded,
    /// SI: the stream idle timeout. 408 or 504.
    StreamIdleTimeout,
    /// IH: an `x-envoy-*` header failed strict checking. 400.
    InvalidEnvoyRequestHeaders,
    /// DPE: the downstream request broke HTTP. 400.
    DownstreamProtocolError,
    /// UMSDR: the upstream request reached its maximum duration.
    UpstreamMaxStreamDurationReached,
    /// RFCF: answered from a cache filter.
    ResponseFromCacheFilter,
    /// NFCF: a filter's configuration did not arrive in time.
    NoFilterConfigFound,
    /// DT: the maximum connection or request duration was exceeded.
    DurationTimeout,
    /// UPE: the upstream response broke HTTP. 502.
    UpstreamProtocolError,
    /// NC: the route's cluster does not exist. 503.
    NoClusterFound,
    /// OM: the overload manager ended it.
    OverloadManager,
    /// DF: DNS resolution failed.
    DnsResolutionFailed,
    /// DO: dropped by `drop_overloads`. 503.
    DropOverLoad,
    /// DR: downstream reset the stream.
    DownstreamRemoteReset,
    /// UDO: dropped by `drop_overloads` of 100 %. 503.
    UnconditionalDropOverload,
}

const COUNT: usize = 30;

/// All flags in the order of their numbers, with short and long names.
const FLAGS: [(ResponseFlag, &str, &str); COUNT] = {
    use ResponseFlag::*;
    [
        (FailedLocalHealthCheck, "LH", "FailedLocalHealthCheck"),
        (NoHealthyUpstream, "UH", "NoHealthyUpstream"),
        (UpstreamRequestTimeout, "UT", "UpstreamRequestTimeout"),
        (LocalReset, "LR", "LocalReset"),
        (UpstreamRemoteReset, "UR", "UpstreamRemoteReset"),
        (UpstreamConnectionFailure, "UF", "UpstreamConnectionFailure"),
        (UpstreamConnectionTermination, "UC", "UpstreamConnectionTermination"),
        (UpstreamOverflow, "UO", "UpstreamOverflow"),
        (NoRouteFound, "NR", "NoRouteFound"),
        (DelayInjected, "DI", "DelayInjected"),
        (FaultInjected, "FI", "FaultInjected"),
        (RateLimited, "RL", "RateLimited"),
        (UnauthorizedExternalService, "UAEX", "UnauthorizedExternalService"),
        (RateLimitServiceError, "RLSE", "RateLimitServiceError"),
        (DownstreamConnectionTermination, "DC", "DownstreamConnectionTermination"),
        (UpstreamRetryLimitExceeded, "URX", "UpstreamRetryLimitExceeded"),
        (StreamIdleTimeout, "SI", "StreamIdleTimeout"),
        (InvalidEnvoyRequestHeaders, "IH", "InvalidEnvoyRequestHeaders"),
        (DownstreamProtocolError, "DPE", "DownstreamProtocolError"),
        (UpstreamMaxStreamDurationReached, "UMSDR", "UpstreamMaxStreamDurationReached"),
        (ResponseFromCacheFilter, "RFCF", "ResponseFromCacheFilter"),
        (NoFilterConfigFound, "NFCF", "NoFilterConfigFound"),
        (DurationTimeout, "DT", "DurationTimeout"),
        (UpstreamProtocolError, "UPE", "UpstreamProtocolError"),
        (NoClusterFound, "NC", "NoClusterFound"),
        (OverloadManager, "OM", "OverloadManagerTerminated"),
        (DnsResolutionFailed, "DF", "DnsResolutionFailed"),
        (DropOverLoad, "DO", "DropOverload"),
        (DownstreamRemoteReset, "DR", "DownstreamRemoteReset"),
        (UnconditionalDropOverload, "UDO", "UnconditionalDropOverload"),
    ]
};

impl ResponseFlag {
    /// The short name, `UF`.
    pub fn short_name(self) -> &'static str {
        FLAGS[self as usize].1
    }

    /// The long name, `UpstreamConnectionFailure`.
    pub fn long_name(self) -> &'static str {
        FLAGS[self as usize].2
    }

    /// The flag of a short name, as access-log filters spell it.
    pub fn from_short_name(name: &str) -> Option<Self> {
        FLAGS.iter().find(|(_, short, _)| *short == name).map(|(flag, _, _)| *flag)
    }

    fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// The flags of one request, each once, in the order of setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseFlags {
    bits: u32,
    count: u8,
    order: [ResponseFlag; COUNT],
}

impl Default for ResponseFlags {
    fn default() -> Self {
        Self { bits: 0, count: 0, order: [ResponseFlag::FailedLocalHealthCheck; COUNT] }
    }
}

impl ResponseFlags {
    /// Sets a flag; again has no effect.
    pub fn set(&mut self, flag: ResponseFlag) {
        if self.bits & flag.bit() == 0 {
            self.bits |= flag.bit();
            self.order[usize::from(self.count)] = flag;
            self.count += 1;
        }
    }

    /// Whether the flag is set.
    pub fn contains(&self, flag: ResponseFlag) -> bool {
        self.bits & flag.bit() != 0
    }

    /// Whether any of `mask`'s flags is set here.
    pub fn intersects(&self, mask: &Self) -> bool {
        self.bits & mask.bits != 0
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.bits == 0
    }

    /// The flags in the order of setting.
    pub fn iter(&self) -> impl Iterator<Item = ResponseFlag> + '_ {
        self.order.iter().copied().take(usize::from(self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_table_is_in_order_of_numbers() {
        for (index, (flag, short, _)) in FLAGS.iter().enumerate() {
            assert_eq!(*flag as usize, index);
            assert_eq!(ResponseFlag::from_short_name(short), Some(*flag));
        }
        assert_eq!(ResponseFlag::from_short_name("XX"), None);
    }

    #[test]
    fn flags_all_set_twice_are_kept_once_in_order() {
        let mut flags = ResponseFlags::default();
        assert!(flags.is_empty());
        for _ in 0..2 {
            for (flag, _, _) in FLAGS.iter().rev() {
                flags.set(*flag);
            }
        }
        assert_eq!(flags.iter().count(), COUNT);
        assert_eq!(flags.iter().next(), Some(ResponseFlag::UnconditionalDropOverload));
        assert!(flags.contains(ResponseFlag::FailedLocalHealthCheck));
    }
}
