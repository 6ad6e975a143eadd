//! Endpoints of a cluster as the workers balance over them. A host keeps its counters over updates.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::base::socket_address::SocketAddress;
use crate::cluster::load_balancer::HashTable;
use crate::cluster::{HostDetails, HostSpec, HostSpecs};
use crate::config::address::EndpointAddress;
use crate::config::cluster::{Cluster, Discovery, LoadBalancingPolicy, LocalityMode};
use crate::config::endpoint::HealthStatus::{Degraded, Draining, Healthy, Unknown};
use crate::config::endpoint::{ClusterLoadAssignment, Locality, LocalityEndpoints};
use crate::config::metadata::Metadata;
use crate::telemetry::names::Stats;
use crate::telemetry::{ClusterStat, Registry, Scope};

/// Takes note of a cluster's new endpoints in its statistics; `before`: those that it had. Control thread only.
pub fn note_members(
    stats: &Scope<ClusterStat>,
    before: &[Arc<HostSpec>],
    hosts: &HostSpecs,
    cluster: &Cluster,
) {
    let count = |is: &dyn Fn(&HostSpec) -> bool| hosts.iter().filter(|host| is(host)).count() as u64;
    let members = [
        (ClusterStat::MembershipChange, priorities_that_change(before, hosts)),
        (ClusterStat::MembershipTotal, hosts.len() as u64),
        (ClusterStat::MembershipHealthy, count(&|host| matches!(host.health(), Unknown | Healthy))),
        (ClusterStat::MembershipDegraded, count(&|host| host.health() == Degraded)),
    ];
    // As in Envoy the table that was made last is the one that statistics show; here a priority that gets no requests has
    // none. There is none without endpoints, of which note is taken as well.
    let size = hosts.tables().last().map(HashTable::size).unwrap_or_default();
    let sizes: &[(ClusterStat, u64)] = match &cluster.load_balancing {
        LoadBalancingPolicy::RingHash(_) => &[
            (ClusterStat::RingHashLbSize, size.entries),
            (ClusterStat::RingHashLbMinHashesPerHost, size.per_host_min),
            (ClusterStat::RingHashLbMaxHashesPerHost, size.per_host_max),
        ],
        LoadBalancingPolicy::Maglev(_) => &[
            (ClusterStat::MaglevLbMinEntriesPerHost, size.per_host_min),
            (ClusterStat::MaglevLbMaxEntriesPerHost, size.per_host_max),
        ],
        LoadBalancingPolicy::RoundRobin
        | LoadBalancingPolicy::LeastRequest(_)
        | LoadBalancingPolicy::Random
        | LoadBalancingPolicy::ClusterProvided => &[],
    };
    stats.note(&members);
    stats.note(sizes);
    let excluded = count(&|host| host.health() == Draining);
    // Few clusters ever have some: the others need no room for it.
    if excluded != 0 || stats.value(ClusterStat::MembershipExcluded.index()).0 != 0 {
        stats.note(&[(ClusterStat::MembershipExcluded, excluded)]);
    }
    // As in Envoy of lists that are told or resolved alone.
    if matches!(cluster.discovery, Discovery::StrictDns(_) | Discovery::Eds(_)) {
        let largest = hosts.iter().fold(1, |largest, host| host.weight().max(largest));
        stats.note(&[(ClusterStat::MaxHostWeight, u64::from(largest))]);
    }
}

/// How many priorities have got endpoints, or have lost some; those that are others now are none of either. Source: Envoy
/// `ClusterImplBase`, which counts a change of the members of each.
fn priorities_that_change(old: &[Arc<HostSpec>], new: &[Arc<HostSpec>]) -> u64 {
    let places = |hosts: &[Arc<HostSpec>]| -> HashSet<_> {
        hosts.iter().map(|host| (host.priority, host.address())).collect()
    };
    let (old, new) = (places(old), places(new));
    let changed: BTreeSet<u8> = old.symmetric_difference(&new).map(|(priority, _)| *priority).collect();
    changed.len() as u64
}

/// What hashing balancers hash of an endpoint. Source: Envoy metadata `envoy.lb`, `hash_key`.
fn hash_key(metadata: &Metadata) -> Box<str> {
    let lb = metadata.iter().find(|(namespace, _)| **namespace == *"envoy.lb");
    lb.and_then(|(_, value)| value.get("hash_key")?.as_str()).unwrap_or_default().into()
}

/// The localities of an assignment where their weights matter; else none.
#[derive(Debug, Default)]
struct Localities<'a> {
    /// In the order of their names, as Envoy has them.
    names: BTreeSet<&'a Locality>,
    /// By priority too.
    weights: BTreeMap<(u32, &'a Locality), u32>,
}

impl<'a> Localities<'a> {
    fn of(cluster: &Cluster, assignment: &'a ClusterLoadAssignment) -> Self {
        if cluster.common_lb.locality != LocalityMode::Weighted {
            return Self::default();
        }
        let all = || assignment.localities.iter();
        let weight = |of: &'a LocalityEndpoints| Some(((of.priority, &of.locality), of.weight?));
        Self { names: all().map(|of| &of.locality).collect(), weights: all().filter_map(weight).collect() }
    }

    /// The number of a locality, and its weight.
    fn find(&self, of: &LocalityEndpoints) -> (u32, u32) {
        let number = self.names.iter().take_while(|name| **name < &of.locality).count();
        let weight = self.weights.get(&(of.priority, &of.locality)).copied().unwrap_or(0);
        (u32::try_from(number).unwrap_or(u32::MAX), weight)
    }
}

/// The hosts of a cluster's assignment, each address once (the first entry counts). Of those that it had (`old`) the ones that
/// have not changed are as they are, and the others keep their counters. Endpoints that still have to be resolved are none. They
/// come with the share of requests that they are spared, and with their overprovisioning factor.
pub fn resolve_hosts(
    old: &[Arc<HostSpec>],
    cluster: &Cluster,
    assignment: &ClusterLoadAssignment,
    registry: &Registry,
) -> Arc<HostSpecs> {
    // Made for each call: kept, it would take as much as the hosts themselves.
    let old: HashMap<SocketAddress, &Arc<HostSpec>> = old.iter().map(|host| (host.address(), host)).collect();
    let mut seen = HashSet::new();
    // No more room than they need: a list that shrinks by less than half stays where it is.
    let mut hosts = Vec::with_capacity(assignment.localities.iter().map(|of| of.endpoints.len()).sum());
    let localities = Localities::of(cluster, assignment);
    for locality in &assignment.localities {
        let (number, locality_weight) = localities.find(locality);
        for endpoint in &locality.endpoints {
            let EndpointAddress::Fixed(address) = &endpoint.address else { continue };
            let Some(address) = address.socket_address().filter(|address| seen.insert(address.clone()))
            else {
                continue;
            };
            let old = old.get(&address).copied();
            let socket = cluster.sockets().of(&endpoint.metadata, &locality.metadata);
            let details = HostDetails {
                hostname: endpoint.hostname.clone(),
                hash_key: hash_key(&endpoint.metadata),
                original_dst: match address {
                    SocketAddress::Internal(_) => cluster.original_dst_of(socket, &endpoint.metadata),
                    SocketAddress::Ip(_) | SocketAddress::Pipe(_) => None,
                },
                added_tlvs: endpoint.added_tlvs.clone(),
                locality: number,
                locality_weight,
            };
            let mut spec = HostSpec::with(address, endpoint.weight, socket, details);
            spec.priority = u8::try_from(locality.priority).unwrap_or(u8::MAX);
            spec.set_health(endpoint.health_status);
            hosts.push(match old {
                None => Arc::new(spec),
                Some(old) if old.is(&spec) => Arc::clone(old),
                Some(old) => Arc::new(spec.with_stats_of(old, registry.workers())),
            });
        }
    }
    let specs = HostSpecs::new(hosts, assignment.overprovisioning_factor_percent, cluster);
    Arc::new(specs.dropping(assignment.drop_overload.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::address::Address;
    use crate::config::cluster::{Dns, Maglev, RingHash};
    use crate::config::endpoint::HealthStatus::{self, Unhealthy};
    use crate::config::endpoint::{DropOverload, Endpoint};
    use crate::config::matcher::FractionalPercent;
    use crate::config::metadata::Metadata;

    fn endpoint(port: u16, metadata: Metadata) -> Endpoint {
        Endpoint {
            address: EndpointAddress::Fixed(Address::Ip(([127, 0, 0, 1], port).into())),
            hostname: Box::default(),
            weight: 1,
            health_status: Unknown,
            metadata,
            added_tlvs: None,
        }
    }

    #[test]
    fn hash_key_is_a_text_of_the_balancers_metadata() {
        let key = |namespace: &str, value| hash_key(&vec![(namespace.into(), value)]).into_string();
        assert_eq!(key("envoy.lb", serde_json::json!({"hash_key": "k"})), "k");
        assert_eq!(key("envoy.lb", serde_json::json!({"hash_key": 7, "other": "k"})), "");
        assert_eq!(key("other", serde_json::json!({"hash_key": "k"})), "");
        assert_eq!(&*hash_key(&Metadata::new()), "");
    }

    #[test]
    fn host_that_has_not_changed_is_the_same_and_a_changed_one_keeps_its_counters() {
        let (registry, cluster) = (Registry::new(1), Cluster::new("c"));
        let mut assignment = ClusterLoadAssignment::default();
        let mut resolve = |old: &[Arc<HostSpec>], endpoints| {
            assignment.localities = vec![LocalityEndpoints { endpoints, ..LocalityEndpoints::default() }];
            resolve_hosts(old, &cluster, &assignment, &registry)
        };
        let before = resolve(&[], vec![endpoint(1, Vec::new()), endpoint(2, Vec::new())]);
        let changed = Endpoint { weight: 2, ..endpoint(2, Vec::new()) };
        let after = resolve(&before, vec![changed, endpoint(1, Vec::new()), endpoint(2, Vec::new())]);
        assert_eq!(after.len(), 2, "the first entry of an address counts");
        assert!(Arc::ptr_eq(&before[0], &after[1]));
        assert!(!Arc::ptr_eq(&before[1], &after[0]) && Arc::ptr_eq(before[1].stats(1), after[0].stats(1)));
        assert!(after[1].counted().is_none(), "nobody has counted anything");
    }

    #[test]
    fn members_change_where_they_come_or_go_once_for_each_priority() {
        type Told = (u32, u16, HealthStatus);
        let (registry, cluster, stats) = (Registry::new(1), Cluster::new("c"), Scope::new(1));
        let (mut old, mut changes) = (Arc::<HostSpecs>::default(), 0);
        let all: [(&[Told], u64); 7] = [
            (&[], 0),
            (&[(0, 1, Healthy), (0, 2, Healthy)], 1),
            // Their order and their health are no matter of who they are.
            (&[(0, 2, Unhealthy), (0, 1, Healthy)], 0),
            (&[(0, 1, Healthy), (1, 2, Healthy)], 2),
            (&[(1, 2, Healthy)], 1),
            (&[(0, 3, Healthy), (1, 4, Healthy)], 2),
            (&[], 2),
        ];
        for (told, expected) in all {
            let at = |&(priority, port, health_status): &Told| LocalityEndpoints {
                priority,
                endpoints: vec![Endpoint { health_status, ..endpoint(port, Vec::new()) }],
                ..LocalityEndpoints::default()
            };
            let localities = told.iter().map(at).collect();
            let assignment = ClusterLoadAssignment { localities, ..ClusterLoadAssignment::default() };
            let hosts = resolve_hosts(&old, &cluster, &assignment, &registry);
            note_members(&stats, &old, &hosts, &cluster);
            changes += expected;
            assert_eq!(stats.value(ClusterStat::MembershipChange.index()).0, changes, "{told:?}");
            old = hosts;
        }
    }

    #[test]
    fn hosts_come_with_the_share_of_requests_that_they_are_spared_and_their_factor() {
        let share = FractionalPercent { numerator: 1, denominator: 100 };
        let dropped = || Some(Arc::new(DropOverload { category: "lb".into(), share }));
        let mut hashing = Cluster::new("hashing");
        hashing.load_balancing = LoadBalancingPolicy::RingHash(RingHash::default());
        for (cluster, tables) in [(Cluster::new("c"), 0), (hashing, 1)] {
            for (drop_overload, percent) in [(dropped(), 140), (None, 140), (dropped(), 200), (None, 200)] {
                let endpoints = vec![endpoint(1, Vec::new())];
                let assignment = ClusterLoadAssignment {
                    localities: vec![LocalityEndpoints { endpoints, ..LocalityEndpoints::default() }],
                    overprovisioning_factor_percent: percent,
                    drop_overload,
                    ..ClusterLoadAssignment::default()
                };
                let hosts = resolve_hosts(&[], &cluster, &assignment, &Registry::new(1));
                assert_eq!(hosts.drop_overload(), assignment.drop_overload.as_ref());
                assert_eq!(hosts.overprovisioning_percent(), percent);
                assert_eq!((hosts.len(), hosts.tables().len()), (1, tables), "{}", cluster.name);
            }
        }
    }

    #[test]
    fn localities_have_numbers_by_name_and_weights_where_they_matter() {
        let at = |zone: &str, priority, weight, port| LocalityEndpoints {
            locality: Locality { zone: zone.into(), ..Locality::default() },
            priority,
            weight,
            endpoints: vec![endpoint(port, Vec::new())],
            ..LocalityEndpoints::default()
        };
        let localities = vec![at("b", 0, Some(2), 1), at("a", 0, None, 2), at("b", 1, Some(5), 3)];
        let assignment = ClusterLoadAssignment { localities, ..ClusterLoadAssignment::default() };
        let mut cluster = Cluster::new("c");
        for (mode, expected) in [
            (LocalityMode::Ignored, [(0, 0), (0, 0), (0, 0)]),
            (LocalityMode::Weighted, [(1, 2), (0, 0), (1, 5)]),
        ] {
            cluster.common_lb.locality = mode;
            let hosts = resolve_hosts(&[], &cluster, &assignment, &Registry::new(1));
            let found: Vec<_> = hosts.iter().map(|host| (host.locality(), host.locality_weight())).collect();
            assert_eq!(found, expected, "{mode:?}");
        }
    }

    #[test]
    fn largest_weight_and_draining_endpoints_are_noted() {
        let drains =
            |port, weight| Endpoint { weight, health_status: Draining, ..endpoint(port, Vec::new()) };
        let mut cluster = Cluster::new("c");
        let (stats, registry) = (Scope::<ClusterStat>::new(1), Registry::new(1));
        let noted = |cluster: &Cluster, endpoints| {
            let localities = vec![LocalityEndpoints { endpoints, ..LocalityEndpoints::default() }];
            let assignment = ClusterLoadAssignment { localities, ..ClusterLoadAssignment::default() };
            note_members(&stats, &[], &resolve_hosts(&[], cluster, &assignment, &registry), cluster);
            let shown = |stat: ClusterStat| stats.value(stat.index());
            [shown(ClusterStat::MaxHostWeight), shown(ClusterStat::MembershipExcluded)]
        };
        let serves = || endpoint(1, Vec::new());
        assert_eq!(noted(&cluster, vec![serves()]), [(0, false), (0, false)], "fixed, and none drains");
        cluster.discovery = Discovery::StrictDns(Dns::default());
        let endpoints = vec![serves(), drains(2, 7), drains(3, 2)];
        assert_eq!(noted(&cluster, endpoints), [(7, true), (2, true)]);
        assert_eq!(noted(&cluster, vec![]), [(1, true), (0, true)]);
    }

    /// Of a cluster that is resolved later the first note is that of no endpoints.
    #[test]
    fn sizes_of_tables_are_noted_before_and_after_endpoints_are_known() {
        use ClusterStat::{MaglevLbMaxEntriesPerHost, RingHashLbMinHashesPerHost, RingHashLbSize};
        let registry = Registry::new(1);
        for (policy, sizes) in [
            (
                LoadBalancingPolicy::RingHash(RingHash::default()),
                &[(RingHashLbSize, 1024), (RingHashLbMinHashesPerHost, 512)][..],
            ),
            (LoadBalancingPolicy::Maglev(Maglev::default()), &[(MaglevLbMaxEntriesPerHost, 32_769)]),
            (LoadBalancingPolicy::RoundRobin, &[(RingHashLbSize, 0)]),
        ] {
            let mut cluster = Cluster::new("c");
            cluster.load_balancing = policy.clone();
            let stats = Scope::new(1);
            let mut assignment = ClusterLoadAssignment {
                overprovisioning_factor_percent: 140,
                ..ClusterLoadAssignment::default()
            };
            for endpoints in [vec![], vec![endpoint(1, Vec::new()), endpoint(2, Vec::new())], vec![]] {
                let known = !endpoints.is_empty();
                assignment.localities = vec![LocalityEndpoints { endpoints, ..LocalityEndpoints::default() }];
                let hosts = resolve_hosts(&[], &cluster, &assignment, &registry);
                note_members(&stats, &[], &hosts, &cluster);
                for (stat, size) in sizes {
                    let expected = if known { *size } else { 0 };
                    assert_eq!(stats.value(stat.index()).0, expected, "{stat:?} {policy:?}");
                }
            }
        }
    }
}
