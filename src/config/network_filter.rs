//! Small network filters.
use std::time::Duration;

use super::runtime::RuntimeFlag;

/// A limit of connections that filter chains of one configuration serve at a time, over all workers. Source: Envoy
/// `extensions.filters.network.connection_limit.v3.ConnectionLimit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionLimit {
    /// Name in statistics: `connection_limit.STAT_PREFIX.`. Source: `stat_prefix`.
    pub stat_prefix: Box<str>,
    /// Connections at a time, at least 1. One more is closed. Source: `max_connections`.
    pub connections_max: u64,
    /// How long a connection beyond the limit is kept before it is closed, so that its client does not come back at once;
    /// `None`, the default: it is closed at once. Source: `delay`.
    pub delay: Option<Duration>,
    /// Whether connections are counted at all. Default: they are. Source: `runtime_enabled`.
    pub enabled: RuntimeFlag,
}

/// A limit of new connections by a token bucket, over all workers. Source: Envoy
/// `extensions.filters.network.local_ratelimit.v3.LocalRateLimit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalRateLimit {
    /// Name in statistics: `local_rate_limit.STAT_PREFIX.`. Source: `stat_prefix`.
    pub stat_prefix: Box<str>,
    /// What connections take tokens from, one each; who finds none is closed. Source: `token_bucket`.
    pub token_bucket: TokenBucket,
    /// Filters of one key, and of equal buckets, share one bucket in the whole process; empty: it is this filter's own.
    /// Source: `share_key`.
    pub share_key: Box<str>,
    /// Whether connections take tokens at all. Default: they do. Source: `runtime_enabled`.
    pub enabled: RuntimeFlag,
}

/// Source: Envoy `type.v3.TokenBucket`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenBucket {
    /// Tokens that it holds at most, at least 1, and at the start. Source: `max_tokens`.
    pub tokens_max: u32,
    /// Tokens added per interval, at least 1. Default 1. Source: `tokens_per_fill`.
    pub tokens_per_fill: u32,
    /// The interval, at least 50 ms. Source: `fill_interval`.
    pub fill_interval: Duration,
}
