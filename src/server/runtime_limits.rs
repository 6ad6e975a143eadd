//! Limits of circuit breakers that runtime values have in place of those that are configured. Source: Envoy, the keys
//! `circuit_breakers.<cluster>.<priority>.<limit>` of `ResourceManagerImpl`.
//!
//! There are ten of these keys for each of thousands of clusters, nearly none of which has a value: so clusters have no handles of
//! theirs. When values or clusters are others, the circuit breakers of those clusters that values name are told their limits.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::cluster::ClusterSet;
use crate::config::cluster::{CircuitBreakers, Cluster, RoutingPriority, Thresholds};

/// What all these keys begin with.
pub(super) const LIMITS_PREFIX: &str = "circuit_breakers.";

/// Those of all clusters that have some, by the cluster's name, whether there is such a cluster or not.
#[derive(Debug, Default)]
pub(super) struct RuntimeLimits(BTreeMap<Box<str>, Vec<Limit>>);

#[derive(Debug)]
struct Limit {
    priority: RoutingPriority,
    /// As the field of [`Thresholds`] is called.
    name: Box<str>,
    max: u32,
}

impl RuntimeLimits {
    /// Those among these values, by their keys behind [`LIMITS_PREFIX`]. A name of a cluster may have dots.
    pub(super) fn new(values: &[(Box<str>, u64)]) -> Self {
        let mut limits = Self::default();
        for (key, value) in values {
            let mut parts = key.rsplitn(3, '.');
            let (name, priority, cluster) = (parts.next(), parts.next(), parts.next());
            let priority = match priority {
                Some("default") => RoutingPriority::Default,
                Some("high") => RoutingPriority::High,
                _ => continue,
            };
            if let (Some(name), Some(cluster)) = (name, cluster)
                && limit_of(&mut Thresholds::default(), name).is_some()
            {
                let max = u32::try_from(*value).unwrap_or(u32::MAX);
                let limit = Limit { priority, name: name.into(), max };
                limits.0.entry(cluster.into()).or_default().push(limit);
            }
        }
        limits
    }

    /// The limits of a cluster.
    pub(super) fn of<'a>(&self, cluster: &'a Cluster) -> Cow<'a, CircuitBreakers> {
        let mut breakers = Cow::Borrowed(&cluster.circuit_breakers);
        for Limit { priority, name, max } in self.0.get(&*cluster.name).into_iter().flatten() {
            let breakers = breakers.to_mut();
            let thresholds = match priority {
                RoutingPriority::Default => &mut breakers.default,
                RoutingPriority::High => &mut breakers.high,
            };
            if let Some(limit) = limit_of(thresholds, name) {
                *limit = *max;
            }
        }
        breakers
    }

    /// Tells them to the circuit breakers of their clusters, and their own to those that had others `before`.
    pub(super) fn tell(&self, before: &Self, clusters: &ClusterSet) {
        for name in self.0.keys().chain(before.0.keys()) {
            if let Some(cluster) = clusters.find(name) {
                cluster.breakers.set_limits(&self.of(&cluster.config), cluster.stats.workers());
            }
        }
    }
}

/// The limit of that name. Of `max_retries` only `/clusters` tells; a retry budget's are not read: there are no retries by policy.
fn limit_of<'a>(thresholds: &'a mut Thresholds, name: &str) -> Option<&'a mut u32> {
    match name {
        "max_connections" => Some(&mut thresholds.max_connections),
        "max_pending_requests" => Some(&mut thresholds.max_pending_requests),
        "max_requests" => Some(&mut thresholds.max_requests),
        "max_retries" => Some(&mut thresholds.max_retries),
        "max_connection_pools" => Some(&mut thresholds.max_connection_pools),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::{ClusterSpec, PublishedCluster, Resource};
    use crate::telemetry::Registry;

    fn limits(values: &[(&str, u64)]) -> RuntimeLimits {
        let values: Vec<(Box<str>, u64)> =
            values.iter().map(|(key, value)| ((*key).into(), *value)).collect();
        RuntimeLimits::new(&values)
    }

    #[test]
    fn values_go_before_what_is_configured_by_cluster_and_priority() {
        let limits = limits(&[
            ("a.default.max_connections", 1),
            ("a.default.max_pending_requests", 2),
            ("a.default.max_requests", 0),
            ("a.high.max_retries", 4),
            ("a.high.max_connection_pools", 5_000_000_000),
            ("outbound|80||b.c.default.max_requests", 6),
        ]);
        let mut cluster = Cluster::new("a");
        cluster.circuit_breakers.high.max_connection_pools = 7;
        cluster.circuit_breakers.high.max_connections = 8;
        let mut expected = CircuitBreakers::default();
        expected.default.max_connections = 1;
        expected.default.max_pending_requests = 2;
        expected.default.max_requests = 0;
        expected.high.max_retries = 4;
        expected.high.max_connections = 8;
        assert_eq!(*limits.of(&cluster), expected);
        assert_eq!(limits.of(&Cluster::new("outbound|80||b.c")).default.max_requests, 6);
        assert!(matches!(limits.of(&Cluster::new("b")), Cow::Borrowed(_)));
    }

    #[test]
    fn keys_that_name_no_limit_are_none() {
        for key in [
            "max_requests",
            "default.max_requests",
            "a.low.max_requests",
            "a.default.max",
            "a.default.retry_budget.budget_percent",
            "a.default.max_requests.more",
        ] {
            assert!(limits(&[(key, 1)]).0.is_empty(), "{key}");
        }
    }

    #[test]
    fn circuit_breakers_have_them_as_long_as_there_is_a_value() {
        let registry = Registry::new(2);
        let published = |name: &str| {
            let spec = ClusterSpec::new(Arc::new(Cluster::new(name)), Arc::default(), &registry);
            PublishedCluster { spec: Arc::new(spec), hosts: Arc::default() }
        };
        let clusters = ClusterSet::new(vec![published("a"), published("b")]);
        let max = |name: &str| {
            let breakers = &clusters.find(name).unwrap().breakers;
            breakers.max(RoutingPriority::Default, Resource::Requests)
        };
        let (none, some) = (RuntimeLimits::default(), limits(&[("a.default.max_requests", 3)]));
        some.tell(&none, &clusters);
        assert_eq!((max("a"), max("b")), (Some(3), None));
        let other = limits(&[("b.default.max_requests", 4), ("gone.default.max_requests", 5)]);
        other.tell(&some, &clusters);
        assert_eq!((max("a"), max("b")), (Some(1024), Some(4)));
        none.tell(&other, &clusters);
        assert_eq!((max("a"), max("b")), (Some(1024), Some(1024)));
    }
}
