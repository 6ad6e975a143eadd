//! Endpoints of a cluster as the workers balance over them. A host keeps its counters over updates.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::socket_address::SocketAddress;
use crate::cluster::HostSpec;
use crate::config::address::EndpointAddress;
use crate::config::cluster::Cluster;
use crate::config::endpoint::ClusterLoadAssignment;
use crate::config::endpoint::HealthStatus::{Degraded, Healthy, Unknown};
use crate::telemetry::{ClusterStat, HostStat, Registry, Scope};

/// Takes note of a cluster's new endpoints in its statistics. Control thread only.
pub fn note_members(stats: &Scope<ClusterStat>, hosts: &[HostSpec]) {
    let count = |is: &dyn Fn(&HostSpec) -> bool| hosts.iter().filter(|host| is(host)).count() as u64;
    stats.note(&[
        (ClusterStat::MembershipChange, 1),
        (ClusterStat::MembershipTotal, hosts.len() as u64),
        (ClusterStat::MembershipHealthy, count(&|host| matches!(host.health, Unknown | Healthy))),
        (ClusterStat::MembershipDegraded, count(&|host| host.health == Degraded)),
    ]);
}

/// The hosts of one cluster by address, with their counters.
#[derive(Debug, Default)]
pub struct HostRegistry {
    stats: HashMap<SocketAddress, Arc<Scope<HostStat>>>,
}

impl HostRegistry {
    /// A registry that knows these hosts.
    pub fn of(hosts: &[HostSpec]) -> Self {
        Self { stats: hosts.iter().map(|host| (host.address.clone(), Arc::clone(&host.stats))).collect() }
    }

    /// The hosts of a cluster's assignment, each address once (the first entry counts). Endpoints that still have to be
    /// resolved are none.
    pub fn resolve(
        &mut self,
        cluster: &Cluster,
        assignment: &ClusterLoadAssignment,
        registry: &Registry,
    ) -> Arc<[HostSpec]> {
        let mut old = std::mem::take(&mut self.stats);
        let mut hosts = Vec::new();
        for locality in &assignment.localities {
            for endpoint in &locality.endpoints {
                let EndpointAddress::Fixed(address) = &endpoint.address else { continue };
                let Some(address) = address.socket_address() else { continue };
                if self.stats.contains_key(&address) {
                    continue;
                }
                let stats = old.remove(&address).unwrap_or_else(|| registry.host());
                self.stats.insert(address.clone(), Arc::clone(&stats));
                hosts.push(HostSpec {
                    address,
                    hostname: endpoint.hostname.clone(),
                    weight: endpoint.weight.max(1),
                    priority: locality.priority,
                    health: endpoint.health_status,
                    socket: cluster.transport_socket_of(&endpoint.metadata, &locality.metadata),
                    stats,
                });
            }
        }
        hosts.into()
    }
}
