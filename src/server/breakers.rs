//! Circuit breakers as statistics show them: whoever scrapes has them looked at. Source: Envoy "Circuit breakers statistics".

use crate::cluster::{ClusterSpec, Resource};
use crate::config::cluster::RoutingPriority;
use crate::telemetry::names::Stats;
use crate::telemetry::{ClusterStat, Slot};

/// Brings the gauges of a cluster's circuit breakers up to date. Control thread only.
pub(super) fn show(spec: &ClusterSpec) {
    let limits = &spec.config.circuit_breakers;
    for (priority, thresholds) in
        [(RoutingPriority::Default, &limits.default), (RoutingPriority::High, &limits.high)]
    {
        for resource in Resource::ALL {
            let max = spec.breakers.max(priority, resource).unwrap_or_else(|| resource.max(thresholds));
            let (used, max) = (spec.breakers.used(priority, resource), u64::from(max));
            let (open, remaining) = gauges(priority, resource);
            // What reaches the limit opens it: where there may be nothing it stays closed, as in Envoy.
            set(spec, open, u64::from(used > 0 && used >= max), false);
            // Of what has no limit nothing is told, where Envoy has its largest number.
            let has_limit = resource != Resource::ConnectionPools || max != u64::from(u32::MAX);
            if thresholds.track_remaining && has_limit {
                set(spec, remaining, max.saturating_sub(used), true);
            }
        }
    }
}

/// Sets what is not set already: a cluster whose circuit breakers never open has no cells for it. `is_shown`: nothing is a value,
/// too.
fn set(spec: &ClusterSpec, gauge: ClusterStat, value: u64, is_shown: bool) {
    let (before, is_used) = spec.stats.value(gauge.index());
    if before != value || (is_shown && !is_used) {
        spec.stats.cells(Slot::Control).gauge_set(gauge, value);
    }
}

/// Whether it is open, and what is left.
fn gauges(priority: RoutingPriority, resource: Resource) -> (ClusterStat, ClusterStat) {
    use ClusterStat as C;
    match (priority, resource) {
        (RoutingPriority::Default, Resource::Connections) => {
            (C::CircuitBreakersDefaultCxOpen, C::CircuitBreakersDefaultRemainingCx)
        }
        (RoutingPriority::Default, Resource::PendingRequests) => {
            (C::CircuitBreakersDefaultRqPendingOpen, C::CircuitBreakersDefaultRemainingPending)
        }
        (RoutingPriority::Default, Resource::Requests) => {
            (C::CircuitBreakersDefaultRqOpen, C::CircuitBreakersDefaultRemainingRq)
        }
        (RoutingPriority::Default, Resource::ConnectionPools) => {
            (C::CircuitBreakersDefaultCxPoolOpen, C::CircuitBreakersDefaultRemainingCxPools)
        }
        (RoutingPriority::High, Resource::ConnectionPools) => {
            (C::CircuitBreakersHighCxPoolOpen, C::CircuitBreakersHighRemainingCxPools)
        }
        (RoutingPriority::High, Resource::Connections) => {
            (C::CircuitBreakersHighCxOpen, C::CircuitBreakersHighRemainingCx)
        }
        (RoutingPriority::High, Resource::PendingRequests) => {
            (C::CircuitBreakersHighRqPendingOpen, C::CircuitBreakersHighRemainingPending)
        }
        (RoutingPriority::High, Resource::Requests) => {
            (C::CircuitBreakersHighRqOpen, C::CircuitBreakersHighRemainingRq)
        }
    }
}
