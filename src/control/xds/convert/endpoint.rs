//! Endpoints of a cluster.
use std::sync::Arc;

use super::address;
use super::at::At;
use super::fields::classify;
use super::proxy_protocol;
use crate::config::address::{Address, EndpointAddress};
use crate::config::endpoint::{
    ClusterLoadAssignment, DropOverload, Endpoint, HealthStatus, Locality, LocalityEndpoints,
    OVERPROVISIONING_FACTOR_PERCENT_DEFAULT,
};
use crate::control::xds::pb;
use pb::endpoint::{LbEndpointHostIdentifierOneOf, LocalityLbEndpointsLbConfigOneOf};

/// Sum of weights at which Envoy refuses a locality or a priority.
const WEIGHT_SUM_MAX: u64 = u32::MAX as u64;

/// All endpoints of a cluster. `names` says whether an address may be a name to resolve.
pub(super) fn assignment(
    at: &At<'_>,
    message: pb::endpoint::ClusterLoadAssignment,
    names: bool,
) -> ClusterLoadAssignment {
    classify!(at, message => pb::endpoint::ClusterLoadAssignment {
        implemented: cluster_name, endpoints, policy;
        refused: named_endpoints = "endpoints are written in place";
    });
    let policy_at = at.field("policy");
    let (overprovisioning_factor_percent, drop_overload) = match policy {
        None => (None, None),
        Some(message) => {
            classify!(&policy_at, message => pb::endpoint::ClusterLoadAssignmentPolicy {
                implemented: overprovisioning_factor, drop_overloads = "of one category, as in Envoy";
                not_yet: weighted_priority_health;
                refused: endpoint_stale_after;
            });
            (overprovisioning_factor, self::drop_overload(&policy_at, drop_overloads))
        }
    };
    let mut localities: Vec<_> = endpoints
        .into_iter()
        .enumerate()
        .map(|(index, message)| locality_endpoints(&at.item("endpoints", index), message, names))
        .collect();
    localities.shrink_to_fit();
    check_weights(at, &localities);
    ClusterLoadAssignment {
        cluster_name: cluster_name.into(),
        localities,
        overprovisioning_factor_percent: overprovisioning_factor_percent
            .unwrap_or(OVERPROVISIONING_FACTOR_PERCENT_DEFAULT),
        drop_overload,
    }
}

/// The share of requests that the endpoints are spared. Source: Envoy `ClusterImplBase::parseDropOverloadConfig`.
fn drop_overload(
    at: &At<'_>,
    messages: Vec<pb::endpoint::ClusterLoadAssignmentPolicyDropOverload>,
) -> Option<Arc<DropOverload>> {
    if messages.len() > 1 {
        at.field("drop_overloads")
            .error(format!("has {} categories: as in Envoy there may be one", messages.len()));
    }
    let message = messages.into_iter().next()?;
    let at = &at.item("drop_overloads", 0);
    classify!(at, message => pb::endpoint::ClusterLoadAssignmentPolicyDropOverload {
        implemented: category, drop_percentage;
    });
    let share = at.fraction("drop_percentage", drop_percentage.unwrap_or_default());
    if share.numerator > share.denominator {
        at.field("drop_percentage").error("must be at most 100 %");
    }
    Some(Arc::new(DropOverload { category: category.into(), share }))
}

fn check_weights(at: &At<'_>, localities: &[LocalityEndpoints]) {
    let mut by_priority = std::collections::BTreeMap::<u32, u64>::new();
    for (index, locality) in localities.iter().enumerate() {
        *by_priority.entry(locality.priority).or_default() += u64::from(locality.weight.unwrap_or(0));
        let endpoints: u64 = locality.endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
        if endpoints > WEIGHT_SUM_MAX {
            at.item("endpoints", index)
                .error(format!("the sum of weights of endpoints exceeds {WEIGHT_SUM_MAX}"));
        }
    }
    for (priority, sum) in by_priority {
        if sum > WEIGHT_SUM_MAX {
            at.error(format!(
                "the sum of weights of localities at priority {priority} exceeds {WEIGHT_SUM_MAX}"
            ));
        }
    }
}

fn locality_endpoints(
    at: &At<'_>,
    message: pb::endpoint::LocalityLbEndpoints,
    names: bool,
) -> LocalityEndpoints {
    classify!(at, message => pb::endpoint::LocalityLbEndpoints {
        implemented: locality, metadata, lb_endpoints, lb_config = "both kinds are refused", load_balancing_weight,
            priority;
        no_effect: proximity = "Envoy does not read it either";
    });
    match lb_config {
        None => {}
        Some(LocalityLbEndpointsLbConfigOneOf::LoadBalancerEndpoints(_)) => {
            at.field("load_balancer_endpoints")
                .value_refused("envoy.config.endpoint.v3.LocalityLbEndpoints.load_balancer_endpoints", "");
        }
        Some(LocalityLbEndpointsLbConfigOneOf::LedsClusterLocalityConfig(_)) => {
            at.field("leds_cluster_locality_config").value_refused(
                "envoy.config.endpoint.v3.LocalityLbEndpoints.leds_cluster_locality_config",
                "",
            );
        }
    }
    let mut endpoints: Vec<_> = lb_endpoints
        .into_iter()
        .enumerate()
        .filter_map(|(index, message)| lb_endpoint(&at.item("lb_endpoints", index), message, names))
        .collect();
    endpoints.shrink_to_fit();
    LocalityEndpoints {
        locality: locality.map(|locality| self::locality(at, locality)).unwrap_or_default(),
        priority,
        weight: load_balancing_weight,
        metadata: at.metadata("metadata", metadata),
        endpoints,
    }
}

/// Region, zone, sub-zone.
pub(super) fn locality(at: &At<'_>, message: pb::core::Locality) -> Locality {
    classify!(at, message => pb::core::Locality { implemented: region, zone, sub_zone; });
    Locality { region: region.into(), zone: zone.into(), sub_zone: sub_zone.into() }
}

fn lb_endpoint(at: &At<'_>, message: pb::endpoint::LbEndpoint, names: bool) -> Option<Endpoint> {
    classify!(at, message => pb::endpoint::LbEndpoint {
        implemented: host_identifier = "endpoint; endpoint_name is refused", health_status, metadata,
            load_balancing_weight;
    });
    let mut metadata = metadata;
    let added_tlvs = proxy_protocol::host_tlvs(at, &mut metadata);
    let metadata = at.metadata("metadata", metadata);
    let health_status = match at.enumeration("health_status", health_status) {
        pb::core::HealthStatus::Unknown => HealthStatus::Unknown,
        pb::core::HealthStatus::Healthy => HealthStatus::Healthy,
        pb::core::HealthStatus::Unhealthy => HealthStatus::Unhealthy,
        pb::core::HealthStatus::Draining => HealthStatus::Draining,
        pb::core::HealthStatus::Timeout => HealthStatus::Timeout,
        pb::core::HealthStatus::Degraded => HealthStatus::Degraded,
    };
    let weight = load_balancing_weight.unwrap_or(1);
    let message = match host_identifier {
        Some(LbEndpointHostIdentifierOneOf::Endpoint(endpoint)) => endpoint,
        Some(LbEndpointHostIdentifierOneOf::EndpointName(_)) => {
            at.field("endpoint_name").value_refused("envoy.config.endpoint.v3.LbEndpoint.endpoint_name", "");
            return None;
        }
        None => {
            at.error("endpoint must be set");
            return None;
        }
    };
    let at = &at.field("endpoint");
    classify!(at, message => pb::endpoint::Endpoint {
        implemented: address, hostname;
        no_effect: health_check_config = "only active health checks read it",
            observability_name = "only per-endpoint statistics read it";
        not_yet: additional_addresses;
    });
    let at = &at.field("address");
    let address = address::written(at, address)?.address;
    match &address {
        EndpointAddress::Fixed(Address::Pipe(_)) if names => {
            at.field("pipe")
                .error("a cluster that resolves names has no Unix sockets: its type must be STATIC");
            return None;
        }
        EndpointAddress::Fixed(Address::Internal(_)) if names => {
            at.field("envoy_internal_address").error(
                "a cluster that resolves names has no internal listeners: its type must be STATIC or EDS",
            );
            return None;
        }
        EndpointAddress::Name(name) if !names => {
            at.field("socket_address").field("address").error_with_fix(
                format!("malformed IP address: {}", name.host),
                "a cluster of type STRICT_DNS or LOGICAL_DNS resolves names",
            );
            return None;
        }
        _ => {}
    }
    Some(Endpoint { address, hostname: hostname.into(), weight, health_status, metadata, added_tlvs })
}
