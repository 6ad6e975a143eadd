//! Limits of clusters, and which of them requests have.

use super::{errors, load};

#[test]
fn first_thresholds_of_a_priority_count_and_what_is_left_out_is_envoys() {
    let limits = "circuit_breakers: {thresholds: [{max_connections: 1, track_remaining: true}, {max_connections: 2}, \
                  {priority: HIGH, max_requests: 3}], per_host_thresholds: [{max_connections: 4}, {max_connections: 5}]}";
    let bootstrap = load(&[("CLUSTER", limits)]);
    let breakers = &bootstrap.clusters[0].circuit_breakers;
    let (default, high) = (&breakers.default, &breakers.high);
    assert_eq!((default.max_connections, default.max_connections_per_host), (1, 4));
    assert_eq!((default.max_pending_requests, default.max_requests), (1024, 1024));
    assert!(default.track_remaining && !high.track_remaining);
    assert_eq!((high.max_connections, high.max_requests, high.max_connections_per_host), (1024, 3, u32::MAX));
}

#[test]
fn limit_of_a_host_that_envoy_does_not_take_is_a_mistake() {
    let set = [("CLUSTER", "circuit_breakers: {per_host_thresholds: [{max_requests: 1}]}")];
    assert_eq!(
        errors(&set),
        "test.yaml:29:46 static_resources.clusters[0].circuit_breakers.per_host_thresholds[0]: unsupported field: \
         only max_connections is one of a host's limits"
    );
}
