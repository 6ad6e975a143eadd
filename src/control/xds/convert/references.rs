//! What ties static resources together: the clusters that routes name, the addresses that listeners share.
use std::collections::{HashMap, HashSet};

use super::at::At;
use super::config_source;
use crate::base::socket_address::SocketAddress;
use crate::config::address::Address;
use crate::config::bootstrap::Bootstrap;
use crate::config::filter_chain::{FilterChain, NetworkFilter};
use crate::config::listener::ListenAddress;
use crate::config::route::{Action, ClusterSpecifier, RouteAction, RouteConfiguration, WeightedClusterName};

/// Reports clusters that static routes name and nobody defines, unless `validate_clusters: false`, and listeners that
/// would bind the same address.
///
/// Paths are those of the file only while every listener, chain and filter was converted, so an earlier error ends
/// this check: it would name the wrong places, and the next run finds what is left.
pub(super) fn check(at: &At<'_>, bootstrap: &Bootstrap, local_cluster: &str) {
    if !at.context.report.borrow().errors.0.is_empty() {
        return;
    }
    let clusters: HashSet<&str> = bootstrap.clusters.iter().map(|cluster| &*cluster.name).collect();
    if !local_cluster.is_empty() && !clusters.contains(local_cluster) {
        at.field("cluster_manager").error(format!("local cluster {local_cluster:?} must be defined"));
    }
    config_source::check(at, bootstrap);
    let at = &at.field("static_resources");
    check_addresses(at, bootstrap);
    for (index, listener) in bootstrap.listeners.iter().enumerate() {
        let at = &at.item("listeners", index);
        for (index, chain) in listener.filter_chains.iter().enumerate() {
            check_chain(&at.item("filter_chains", index), chain, &clusters);
        }
        if let Some(chain) = &listener.default_filter_chain {
            check_chain(&at.field("default_filter_chain"), chain, &clusters);
        }
    }
}

/// Of two listeners on one address the kernel would give each a share of the connections. Port 0 is another port for
/// each of them.
fn check_addresses(at: &At<'_>, bootstrap: &Bootstrap) {
    let mut owners: HashMap<SocketAddress, usize> = HashMap::new();
    for (index, listener) in bootstrap.listeners.iter().enumerate() {
        for ListenAddress { address, .. } in &listener.addresses {
            if matches!(address, Address::Ip(ip) if ip.port() == 0) {
                continue;
            }
            let Some(place) = address.socket_address() else { continue };
            let owner = *owners.entry(place).or_insert(index);
            if owner != index {
                at.item("listeners", index)
                    .error(format!("duplicate address {address}: listeners[{owner}] has it"));
            }
        }
    }
}

fn check_chain(at: &At<'_>, chain: &FilterChain, clusters: &HashSet<&str>) {
    for (index, filter) in chain.filters.iter().enumerate() {
        // Clusters of TCP proxies may be missing, as in Envoy: their connections are closed.
        let NetworkFilter::HttpConnectionManager(manager) = filter else { continue };
        let at = &at.item("filters", index);
        let at = &at.field("typed_config");
        check_routes(&at.field("route_config"), &manager.route_config, clusters);
        for (index, scope) in manager.scoped_routes.iter().flat_map(|scoped| &scoped.scopes).enumerate() {
            let at = &at.field("scoped_routes");
            let at = &at.field("scoped_route_configurations_list");
            let at = &at.item("scoped_route_configurations", index);
            check_routes(&at.field("route_configuration"), &scope.route_config, clusters);
        }
    }
}

fn check_routes(at: &At<'_>, table: &RouteConfiguration, clusters: &HashSet<&str>) {
    if !table.validate_clusters {
        return;
    }
    for (index, host) in table.virtual_hosts.iter().enumerate() {
        let at = &at.item("virtual_hosts", index);
        for (index, route) in host.routes.iter().enumerate() {
            if let Action::Forward(action) = &route.action {
                let at = &at.item("routes", index);
                check_action(&at.field("route"), action, clusters);
            }
        }
    }
}

fn check_action(at: &At<'_>, action: &RouteAction, clusters: &HashSet<&str>) {
    let check = |at: &At<'_>, name: &str| {
        if !clusters.contains(name) {
            at.error(format!("unknown cluster {name:?}"));
        }
    };
    match &action.cluster {
        ClusterSpecifier::Cluster(name) => check(&at.field("cluster"), name),
        ClusterSpecifier::ClusterHeader(_) => {}
        ClusterSpecifier::WeightedClusters(weighted) => {
            let at = &at.field("weighted_clusters");
            for (index, cluster) in weighted.clusters.iter().enumerate() {
                if let WeightedClusterName::Cluster(name) = &cluster.cluster {
                    check(&at.item("clusters", index).field("name"), name);
                }
            }
        }
    }
}
