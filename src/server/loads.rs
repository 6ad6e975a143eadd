//! What load reports tell of clusters: where the requests to each locality's endpoints are counted.

use std::sync::Arc;

use super::process::{KnownCluster, Process};
use crate::cluster::HostSpec;
use crate::config::address::EndpointAddress;
use crate::config::cluster::{Cluster, Discovery};
use crate::config::endpoint::{ClusterLoadAssignment, Locality};
use crate::control::xds::client::{ClusterLoads, Loads, LocalityLoads, Reported};

impl Loads for Process {
    fn loads(&self, of: &Reported) -> Vec<ClusterLoads> {
        let is_meant = |known: &KnownCluster| match of {
            Reported::Nobody => false,
            Reported::All => true,
            Reported::Named(names) => names.contains(&*known.spec.config.name),
        };
        let all = if *of == Reported::Nobody { Vec::new() } else { self.known_clusters() };
        all.iter().filter(|known| is_meant(known)).map(loads).collect()
    }
}

fn loads(known: &KnownCluster) -> ClusterLoads {
    let KnownCluster { spec, hosts, found } = known;
    let config = &spec.config;
    // Most clusters of thousands are not in use, and what they were told need not be looked at.
    let is_used = hosts.iter().any(|host| host.counted().is_some());
    let found = found.as_ref().filter(|_| is_used).map(|found| found.endpoints());
    ClusterLoads {
        name: String::from(&*config.name),
        service_name: service_name(config).to_owned(),
        stats: Arc::clone(&spec.stats),
        drop_category: hosts.drop_overload().map(|dropped| String::from(&*dropped.category)),
        localities: localities(hosts, found.as_deref().unwrap_or(&config.load_assignment)),
    }
}

/// The name under which a cluster's endpoints are asked for; empty where it is the cluster's own.
pub(super) fn service_name(config: &Cluster) -> &str {
    match &config.discovery {
        Discovery::Eds(eds) => eds.service_name.as_deref().unwrap_or_default(),
        _ => "",
    }
}

/// Hosts by priority and locality. They stand in the order of the assignment that they were made of, each address once, without
/// what is not resolved.
fn localities(hosts: &[Arc<HostSpec>], assignment: &ClusterLoadAssignment) -> Vec<LocalityLoads> {
    let mut all: Vec<LocalityLoads> = Vec::new();
    let mut hosts = hosts.iter().peekable();
    for of in &assignment.localities {
        let mut own = Vec::new();
        for endpoint in &of.endpoints {
            let EndpointAddress::Fixed(address) = &endpoint.address else { continue };
            let address = address.socket_address();
            // As in a report itself: one of which nothing was counted is not told of.
            if let Some(host) = hosts.next_if(|host| Some(&host.address()) == address.as_ref())
                && let Some(stats) = host.counted()
            {
                own.push((host.address(), Arc::clone(stats)));
            }
        }
        let is_it = |one: &&mut LocalityLoads| one.priority == of.priority && one.locality == of.locality;
        match all.iter_mut().find(is_it) {
            Some(one) => one.hosts.extend(own),
            None if own.is_empty() => {}
            None => {
                all.push(LocalityLoads { locality: of.locality.clone(), priority: of.priority, hosts: own })
            }
        }
    }
    let key = |one: &LocalityLoads| {
        let Locality { region, zone, sub_zone } = one.locality.clone();
        (one.priority, region, zone, sub_zone)
    };
    all.sort_by_cached_key(key);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::address::Address;
    use crate::config::ads::{Eds, ResourceSource};
    use crate::config::endpoint::{Endpoint, HealthStatus, LocalityEndpoints};
    use crate::snapshot::resolve_hosts;
    use crate::telemetry::Registry;

    fn locality(zone: &str, priority: u32, ports: &[u16]) -> LocalityEndpoints {
        let endpoint = |port: &u16| Endpoint {
            address: EndpointAddress::Fixed(Address::Ip(([127, 0, 0, 1], *port).into())),
            hostname: Box::default(),
            weight: 1,
            health_status: HealthStatus::Unknown,
            metadata: Vec::new(),
            added_tlvs: None,
        };
        LocalityEndpoints {
            locality: Locality { zone: zone.into(), ..Locality::default() },
            priority,
            endpoints: ports.iter().map(endpoint).collect(),
            ..LocalityEndpoints::default()
        }
    }

    #[test]
    fn hosts_are_found_by_locality_and_priority_however_often_their_address_is_told() {
        let localities_told = vec![
            locality("b", 0, &[1, 2]),
            locality("a", 1, &[2, 3]),
            locality("a", 0, &[1, 4, 4, 5]),
            locality("b", 0, &[6]),
            locality("c", 0, &[1]),
        ];
        let assignment =
            ClusterLoadAssignment { localities: localities_told, ..ClusterLoadAssignment::default() };
        let hosts = resolve_hosts(&[], &Cluster::new("c"), &assignment, &Registry::new(1));
        let has_counted = |host: &&Arc<HostSpec>| host.address().socket().unwrap().port() != 6;
        hosts.iter().filter(has_counted).for_each(|host| drop(Arc::clone(host.stats(1))));
        let found = localities(&hosts, &assignment);
        let shown = found.iter().map(|one| {
            let ports = one.hosts.iter().map(|(address, _)| address.socket().unwrap().port());
            (&*one.locality.zone, one.priority, ports.collect::<Vec<_>>())
        });
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [("a", 0, vec![4, 5]), ("b", 0, vec![1, 2]), ("a", 1, vec![3])]
        );
    }

    #[test]
    fn service_name_is_told_where_it_is_another_than_the_clusters() {
        let mut cluster = Cluster::new("c");
        assert_eq!(service_name(&cluster), "");
        for (name, expected) in [(None, ""), (Some("s"), "s")] {
            cluster.discovery = Discovery::Eds(Eds {
                source: ResourceSource::Ads,
                service_name: name.map(Box::from),
                initial_fetch_timeout: None,
            });
            assert_eq!(service_name(&cluster), expected);
        }
    }
}
