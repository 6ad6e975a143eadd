//! Network filters, found by the types of their configurations.
use std::sync::Arc;
use std::time::Duration;

use super::at::At;
use super::fields::classify;
use super::report::Class;
use super::value::type_name;
use super::{http_connection_manager, rbac, tcp_proxy};
use crate::config::filter_chain::NetworkFilter;
use crate::config::network_filter::{ConnectionLimit, LocalRateLimit, TokenBucket};
use crate::config::runtime::RuntimeFlag;
use crate::control::xds::pb::{self, Named};
use pb::http_connection_manager::HttpConnectionManager;

/// Shortest interval in which tokens are added. Source: Envoy `LocalRateLimit.token_bucket`.
const FILL_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Filters that can be told, by the names of their messages: all but the connection manager, which has routes and filters of its own
/// told.
pub(super) const TOLD: [&str; 7] = [
    pb::tcp_proxy::TcpProxy::NAME,
    pb::network_rbac::RBAC::NAME,
    pb::network_filters::ConnectionLimit::NAME,
    pb::network_filters::LocalRateLimit::NAME,
    pb::network_filters::SniCluster::NAME,
    pb::network_filters::Echo::NAME,
    pb::network_filters::Config::NAME,
];

/// One filter; `None` as well for one that is never on.
pub(super) fn convert(at: &At<'_>, any: &pb::google::Any) -> Option<NetworkFilter> {
    match type_name(any) {
        HttpConnectionManager::NAME => {
            let manager = http_connection_manager::convert(at, at.unpack(any)?)?;
            Some(NetworkFilter::HttpConnectionManager(Arc::new(manager)))
        }
        pb::tcp_proxy::TcpProxy::NAME => {
            Some(NetworkFilter::TcpProxy(Arc::new(tcp_proxy::convert(at, at.unpack(any)?)?)))
        }
        pb::network_rbac::RBAC::NAME => {
            Some(NetworkFilter::Rbac(Arc::new(rbac::network(at, at.unpack(any)?)?)))
        }
        pb::network_filters::ConnectionLimit::NAME => {
            Some(NetworkFilter::ConnectionLimit(connection_limit(at, at.unpack(any)?)?))
        }
        pb::network_filters::LocalRateLimit::NAME => {
            Some(NetworkFilter::LocalRateLimit(local_rate_limit(at, at.unpack(any)?)?))
        }
        pb::network_filters::SniCluster::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::network_filters::SniCluster {});
            Some(NetworkFilter::SniCluster)
        }
        pb::network_filters::Echo::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::network_filters::Echo {});
            Some(NetworkFilter::Echo)
        }
        pb::network_filters::Config::NAME => {
            let message = at.unpack(any)?;
            classify!(at, message => pb::network_filters::Config { implemented: response; });
            let response = response.map(|source| at.field("response").data_source(source));
            Some(NetworkFilter::DirectResponse(response.unwrap_or_else(|| Some(Vec::new()))?.into()))
        }
        _ => {
            at.extension(Class::Refused, any, "");
            None
        }
    }
}

fn connection_limit(at: &At<'_>, message: pb::network_filters::ConnectionLimit) -> Option<ConnectionLimit> {
    classify!(at, message => pb::network_filters::ConnectionLimit {
        implemented: stat_prefix, max_connections, delay, runtime_enabled;
    });
    let enabled = enabled(at, runtime_enabled)?;
    Some(ConnectionLimit {
        stat_prefix: stat_prefix.into(),
        connections_max: max_connections.unwrap_or_default(),
        delay: at.duration("delay", delay).filter(|delay| !delay.is_zero()),
        enabled,
    })
}

fn local_rate_limit(at: &At<'_>, message: pb::network_filters::LocalRateLimit) -> Option<LocalRateLimit> {
    classify!(at, message => pb::network_filters::LocalRateLimit {
        implemented: stat_prefix, token_bucket, share_key, runtime_enabled;
    });
    let bucket = token_bucket.and_then(|message| self::token_bucket(&at.field("token_bucket"), message));
    let enabled = enabled(at, runtime_enabled)?;
    Some(LocalRateLimit {
        stat_prefix: stat_prefix.into(),
        token_bucket: bucket?,
        share_key: share_key.into(),
        enabled,
    })
}

/// Whether a filter does anything, unless told otherwise; `None`: never.
fn enabled(at: &At<'_>, flag: Option<pb::core::RuntimeFeatureFlag>) -> Option<RuntimeFlag> {
    let enabled = flag.map_or_else(RuntimeFlag::on, |flag| at.feature_flag("runtime_enabled", flag));
    (!enabled.is_never_on()).then_some(enabled)
}

fn token_bucket(at: &At<'_>, message: pb::types::TokenBucket) -> Option<TokenBucket> {
    classify!(at, message => pb::types::TokenBucket { implemented: max_tokens, tokens_per_fill, fill_interval; });
    let interval = at.duration("fill_interval", fill_interval)?;
    if interval < FILL_INTERVAL_MIN {
        at.field("fill_interval").error("token bucket fill timer must be >= 50ms");
    }
    Some(TokenBucket {
        tokens_max: max_tokens,
        tokens_per_fill: tokens_per_fill.unwrap_or(1),
        fill_interval: interval,
    })
}
