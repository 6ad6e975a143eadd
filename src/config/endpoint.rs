//! Endpoints of a cluster: localities, priorities, weights. Source: Envoy
//! `config.endpoint.v3.ClusterLoadAssignment`.

use std::collections::HashMap;
use std::sync::Arc;

use super::address::EndpointAddress;
use super::matcher::FractionalPercent;
use super::metadata::Metadata;
use super::proxy_protocol::OwnedTlv;
use super::runtime::RuntimeKey;
use crate::base::socket_address::SocketAddress;

/// All endpoints of one cluster.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ClusterLoadAssignment {
    /// Name of the assignment; for EDS the service name; empty: none was given. Source: `cluster_name`.
    pub cluster_name: Box<str>,
    /// Groups of endpoints, in the order given. Source: `endpoints`.
    pub localities: Vec<LocalityEndpoints>,
    /// How far a priority may lose healthy endpoints before traffic spills to the next, in percent:
    /// with 140, at 71 % healthy nothing spills yet. Default 140. Source:
    /// `policy.overprovisioning_factor`.
    pub overprovisioning_factor_percent: u32,
    /// The share of requests that is answered here; `None`, the default: none. Source: `policy.drop_overloads`.
    pub drop_overload: Option<Arc<DropOverload>>,
}

impl ClusterLoadAssignment {
    /// Each endpoint, and where it runs: of an address that stands twice, the first one. Names that are still to be resolved are
    /// not in it.
    pub fn by_address(&self) -> HashMap<SocketAddress, (&Locality, &Endpoint)> {
        let mut found = HashMap::new();
        for LocalityEndpoints { locality, endpoints, .. } in &self.localities {
            for endpoint in endpoints {
                if let EndpointAddress::Fixed(address) = &endpoint.address
                    && let Some(address) = address.socket_address()
                {
                    found.entry(address).or_insert((locality, endpoint));
                }
            }
        }
        found
    }
}

/// A share of requests that endpoints are spared: they are answered with 503. Source: Envoy
/// `ClusterLoadAssignment.Policy.DropOverload`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropOverload {
    /// By which load reports call them, not empty. Source: `category`.
    pub category: Box<str>,
    /// How many, at most all. Default none. Source: `drop_percentage`.
    pub share: FractionalPercent,
}

impl DropOverload {
    /// [`Self::per_million`], where it is every request.
    pub const ALL: u32 = 1_000_000;

    /// How many of a million requests are dropped. `limit`: under which runtime may have a lower share, in whole percents.
    pub fn per_million(&self, limit: Option<&RuntimeKey>) -> u32 {
        let FractionalPercent { numerator, denominator } = self.share;
        let all = u64::from(Self::ALL);
        let share = u64::from(numerator) * all / u64::from(denominator.max(1));
        let percent = limit.and_then(RuntimeKey::integer).unwrap_or(100);
        let limited = share.min(percent.min(100) * (all / 100));
        u32::try_from(limited).unwrap_or(Self::ALL)
    }
}

/// Endpoints of one locality at one priority. Source: Envoy `LocalityLbEndpoints`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LocalityEndpoints {
    /// Where they run. Source: `locality`.
    pub locality: Locality,
    /// 0 is used first; priorities are contiguous. Default 0, at most 128. Source: `priority`.
    pub priority: u32,
    /// Weight among localities of this priority, used by locality-weighted balancing only. `None`:
    /// no weight given. Source: `load_balancing_weight`.
    pub weight: Option<u32>,
    /// Metadata of the locality. Source: `metadata`.
    pub metadata: Metadata,
    /// The endpoints. Source: `lb_endpoints`.
    pub endpoints: Vec<Endpoint>,
}

/// Region, zone and sub-zone, each possibly empty. Source: Envoy `core.v3.Locality`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Locality {
    /// Region. Source: `region`.
    pub region: Box<str>,
    /// Availability zone. Source: `zone`.
    pub zone: Box<str>,
    /// Part of a zone. Source: `sub_zone`.
    pub sub_zone: Box<str>,
}

/// One endpoint. Source: Envoy `LbEndpoint` and `Endpoint`.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where it listens. Source: `endpoint.address`.
    pub address: EndpointAddress,
    /// Name used for `auto_host_rewrite`; empty: the DNS name, if the address is one. Source:
    /// `endpoint.hostname`.
    pub hostname: Box<str>,
    /// Weight among the endpoints of its locality, at least 1. Default 1. Source:
    /// `load_balancing_weight`.
    pub weight: u32,
    /// Health as the configuration states it. Source: `health_status`.
    pub health_status: HealthStatus,
    /// Metadata of the endpoint. Source: `metadata`.
    pub metadata: Metadata,
    /// TLVs, type and value, that are added to PROXY headers of version 2 of its connections, before those that the transport
    /// socket adds, of which they replace those of their types; `None`, the default: none. Source: `added_tlvs` of
    /// `PerHostConfig` in the typed metadata `envoy.transport_sockets.proxy_protocol`.
    pub added_tlvs: Option<Arc<Vec<OwnedTlv>>>,
}

impl Endpoint {
    /// Whether its metadata call it a canary. Source: Envoy, `canary` of `envoy.lb`.
    pub fn is_canary(&self) -> bool {
        let of_balancing = self.metadata.iter().find(|(namespace, _)| &**namespace == "envoy.lb");
        of_balancing.and_then(|(_, value)| value.get("canary")?.as_bool()).unwrap_or(false)
    }
}

/// Health of an endpoint, as told by who configured it. Source: Envoy `core.v3.HealthStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HealthStatus {
    /// Nothing is known: counts as healthy. The default.
    #[default]
    Unknown,
    /// Healthy.
    Healthy,
    /// Gets no traffic unless the cluster panics.
    Unhealthy,
    /// Being taken out: like unhealthy.
    Draining,
    /// A health check timed out: like unhealthy.
    Timeout,
    /// Used only when too few are healthy.
    Degraded,
}

/// Default of [`ClusterLoadAssignment::overprovisioning_factor_percent`], from Envoy.
pub const OVERPROVISIONING_FACTOR_PERCENT_DEFAULT: u32 = 140;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::address::{Address, HostPort};
    use crate::config::runtime::{RuntimeState, RuntimeValue};
    use serde_json::json;

    fn endpoint(address: EndpointAddress) -> Endpoint {
        Endpoint {
            address,
            hostname: Box::default(),
            weight: 1,
            health_status: HealthStatus::Unknown,
            metadata: Vec::new(),
            added_tlvs: None,
        }
    }

    #[test]
    fn endpoint_is_a_canary_by_its_metadata() {
        let name = EndpointAddress::Name(HostPort { host: "a.test".into(), port: 1 });
        let mut endpoint = endpoint(name);
        assert!(!endpoint.is_canary());
        for (namespace, value, expected) in [
            ("envoy.lb", json!({ "canary": true }), true),
            ("envoy.lb", json!({ "canary": false }), false),
            ("envoy.lb", json!({ "canary": "true" }), false),
            ("envoy.lb", json!({}), false),
            ("other", json!({ "canary": true }), false),
        ] {
            endpoint.metadata = vec![(namespace.into(), value)];
            assert_eq!(endpoint.is_canary(), expected, "{:?}", endpoint.metadata);
        }
    }

    #[test]
    fn endpoint_runs_where_its_address_stands_first() {
        let fixed = |port: u16| EndpointAddress::Fixed(Address::Ip(([127, 0, 0, 1], port).into()));
        let name = EndpointAddress::Name(HostPort { host: "a.test".into(), port: 1 });
        let locality = |zone: &str, addresses: Vec<EndpointAddress>| LocalityEndpoints {
            locality: Locality { zone: zone.into(), ..Locality::default() },
            endpoints: addresses.into_iter().map(endpoint).collect(),
            ..LocalityEndpoints::default()
        };
        let first = locality("a", vec![fixed(1), fixed(2), name]);
        let localities = vec![first, locality("b", vec![fixed(2), fixed(3)])];
        let assignment = ClusterLoadAssignment { localities, ..ClusterLoadAssignment::default() };
        let found = assignment.by_address();
        let zone = |port: u16| {
            let address = SocketAddress::Ip(([127, 0, 0, 1], port).into());
            found.get(&address).map(|(locality, _)| &*locality.zone)
        };
        assert_eq!([1, 2, 3, 4].map(zone), [Some("a"), Some("a"), Some("b"), None]);
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn share_that_is_dropped_is_the_lower_of_what_was_told_and_what_runtime_lets() {
        let dropped = |numerator, denominator, limit: Option<u64>| {
            let value = RuntimeValue { integer: limit, ..RuntimeValue::default() };
            let key = RuntimeKey::new("limit", value, &RuntimeState::default());
            let share = FractionalPercent { numerator, denominator };
            DropOverload { category: "c".into(), share }.per_million(Some(&key))
        };
        for (numerator, denominator, limit, expected) in [
            (0, 100, None, 0),
            (40, 100, None, 400_000),
            (7, 10_000, None, 700),
            (3, 1_000_000, None, 3),
            (100, 100, None, DropOverload::ALL),
            (40, 100, Some(15), 150_000),
            (40, 100, Some(0), 0),
            (40, 100, Some(90), 400_000),
            (100, 100, Some(100), DropOverload::ALL),
            (100, 100, Some(u64::MAX - 1), DropOverload::ALL),
        ] {
            assert_eq!(
                dropped(numerator, denominator, limit),
                expected,
                "{numerator}/{denominator} {limit:?}"
            );
        }
        let share = FractionalPercent { numerator: 40, denominator: 100 };
        assert_eq!(DropOverload { category: "c".into(), share }.per_million(None), 400_000);
    }
}
