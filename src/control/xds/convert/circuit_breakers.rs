//! Circuit breakers of a cluster.

use super::at::At;
use super::fields::classify;
use crate::config::cluster::{CircuitBreakers, RoutingPriority, Thresholds};
use crate::control::xds::pb;
use crate::control::xds::pb::core::RoutingPriority as Wire;

/// The limits of a cluster. Of several of one priority the first count, as in Envoy.
pub(super) fn convert(at: &At<'_>, message: pb::cluster::CircuitBreakers) -> CircuitBreakers {
    classify!(at, message => pb::cluster::CircuitBreakers {
        implemented: thresholds = "see its fields", per_host_thresholds = "max_connections; others are a mistake, as in Envoy";
    });
    let (mut default, mut high) = (None, None);
    for (index, message) in thresholds.into_iter().enumerate() {
        let at = &at.item("thresholds", index);
        let (priority, converted) = self::thresholds(at, message);
        match priority {
            RoutingPriority::Default => default.get_or_insert(converted),
            RoutingPriority::High => high.get_or_insert(converted),
        };
    }
    let mut breakers =
        CircuitBreakers { default: default.unwrap_or_default(), high: high.unwrap_or_default() };
    let mut seen = Vec::new();
    for (index, message) in per_host_thresholds.into_iter().enumerate() {
        let at = &at.item("per_host_thresholds", index);
        let (priority, max_connections) = per_host(at, message);
        if seen.contains(&priority) {
            continue;
        }
        seen.push(priority);
        let thresholds = match priority {
            RoutingPriority::Default => &mut breakers.default,
            RoutingPriority::High => &mut breakers.high,
        };
        thresholds.max_connections_per_host = max_connections.unwrap_or(u32::MAX);
    }
    breakers
}

/// The priority of requests or of limits.
pub(super) fn priority(at: &At<'_>, wire: i32) -> RoutingPriority {
    match at.enumeration("priority", wire) {
        Wire::Default => RoutingPriority::Default,
        Wire::High => RoutingPriority::High,
    }
}

fn thresholds(at: &At<'_>, message: pb::cluster::CircuitBreakersThresholds) -> (RoutingPriority, Thresholds) {
    let shown_retries = message.max_retries;
    classify!(at, message => pb::cluster::CircuitBreakersThresholds {
        implemented: priority, max_connections, max_pending_requests, max_requests,
            max_connection_pools = "one per endpoint, worker, protocol, and name or client that sets connections apart",
            track_remaining = "of connections, pending requests, requests and, if they have a limit, connection pools";
        no_effect: max_retries = "there are no retries by policy that it could limit; /clusters shows it",
            retry_budget = "there are no retries by policy that it could limit";
    });
    let default = Thresholds::default();
    let converted = Thresholds {
        max_connections: max_connections.unwrap_or(default.max_connections),
        max_pending_requests: max_pending_requests.unwrap_or(default.max_pending_requests),
        max_requests: max_requests.unwrap_or(default.max_requests),
        max_retries: shown_retries.unwrap_or(default.max_retries),
        max_connection_pools: max_connection_pools.unwrap_or(default.max_connection_pools),
        track_remaining,
        ..default
    };
    (self::priority(at, priority), converted)
}

/// Limits of one host. Source: Envoy, which refuses the others.
fn per_host(at: &At<'_>, message: pb::cluster::CircuitBreakersThresholds) -> (RoutingPriority, Option<u32>) {
    let pb::cluster::CircuitBreakersThresholds {
        priority,
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        // Envoy reads it of the other list alone.
        track_remaining: _,
        max_connection_pools,
    } = message;
    let others = [max_pending_requests, max_requests, max_retries, max_connection_pools];
    if others.iter().any(Option::is_some) || retry_budget.is_some() {
        at.error("unsupported field: only max_connections is one of a host's limits");
    }
    (self::priority(at, priority), max_connections)
}
