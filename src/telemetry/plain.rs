//! Scopes of network filters: one tag, a few rows, shown as they are written.

use std::sync::Arc;

use super::family::ViewKind;
use super::metrics::Scope;
use super::names::{ConnectionLimitStat, LocalRateLimitStat, Row, Stats, TcpStat};

/// One of them.
#[derive(Clone, Debug)]
pub(super) enum Plain {
    ConnectionLimit(Arc<Scope<ConnectionLimitStat>>),
    LocalRateLimit(Arc<Scope<LocalRateLimitStat>>),
    Tcp(Arc<Scope<TcpStat>>),
}

/// A kind of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlainKind {
    ConnectionLimit,
    LocalRateLimit,
    Tcp,
}

impl PlainKind {
    /// What stands before the tag, with its dot.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::ConnectionLimit => "connection_limit.",
            Self::LocalRateLimit => "local_rate_limit.",
            Self::Tcp => "tcp.",
        }
    }

    /// Prometheus's name of the tag. Source: Envoy `well_known_names.cc`.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::ConnectionLimit => "envoy_connection_limit_prefix",
            Self::LocalRateLimit => "envoy_local_network_ratelimit_prefix",
            Self::Tcp => "envoy_tcp_prefix",
        }
    }

    pub(super) fn prometheus_prefix(self) -> &'static str {
        match self {
            Self::ConnectionLimit => "connection_limit_",
            Self::LocalRateLimit => "local_rate_limit_",
            Self::Tcp => "tcp_",
        }
    }

    pub(super) fn rows(self) -> &'static [Row] {
        match self {
            Self::ConnectionLimit => ConnectionLimitStat::ROWS,
            Self::LocalRateLimit => LocalRateLimitStat::ROWS,
            Self::Tcp => TcpStat::ROWS,
        }
    }
}

impl From<PlainKind> for ViewKind {
    fn from(kind: PlainKind) -> Self {
        Self::Plain(kind)
    }
}

impl Plain {
    pub(super) fn value(&self, row: usize) -> (u64, bool) {
        match self {
            Self::ConnectionLimit(scope) => scope.value(row),
            Self::LocalRateLimit(scope) => scope.value(row),
            Self::Tcp(scope) => scope.value(row),
        }
    }

    /// Whether anybody outside the registry holds it.
    pub(super) fn is_held(&self) -> bool {
        match self {
            Self::ConnectionLimit(scope) => scope.is_held(),
            Self::LocalRateLimit(scope) => scope.is_held(),
            Self::Tcp(scope) => scope.is_held(),
        }
    }
}
