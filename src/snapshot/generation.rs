//! What changes of the configuration, as one. A worker takes all of it between two requests, so that whatever it serves next is
//! served by all of it or by nothing of it.
//!
//! The control thread collects here what one response of a control plane changes, and whatever else has come by then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{ChainTls, FiltersResource, ListenersChange, NewFilters, RoutesResource};
use crate::cluster::{ClusterSet, HostSpecs, TransportSockets};
use crate::config::ads::ResourceSource;
use crate::filter::on_demand::{AskedHost, OnDemandTable};

/// A chain: its listener's number, and its place in it.
type ChainKey = (usize, usize);
/// A listener's number, and whose filters: those of the chain in this place, or its own.
type FiltersKey = (usize, Option<usize>);

/// See the file's head. Of what has changed twice it has the last.
#[derive(Debug, Default)]
pub struct Generation {
    /// Other clusters; `None`: they are those that they were.
    pub clusters: Option<ClustersChange>,
    /// Clusters that have other endpoints, none of those that are others themselves.
    pub hosts: BTreeMap<Arc<str>, Arc<HostSpecs>>,
    /// The same of those whose endpoints stand in `clusters` as well: for who has made the cluster, before `hosts`.
    pub published_hosts: BTreeMap<Arc<str>, Arc<HostSpecs>>,
    /// Clusters that are reached otherwise, by connections from now on; none of those that are others themselves.
    pub transport_sockets: BTreeMap<Arc<str>, Arc<TransportSockets>>,
    pub listeners: ListenersChange,
    /// Other network and listener filters, for connections from now on; also of listeners that are new.
    pub filters: BTreeMap<FiltersKey, FiltersResource>,
    /// Other routes and HTTP filters of chains, for requests from now on; also of listeners that are new.
    pub routes: BTreeMap<ChainKey, RoutesResource>,
    /// TLS of chains, for handshakes from now on; also of listeners that are new.
    pub tls: BTreeMap<ChainKey, ChainTls>,
    /// Virtual hosts that requests wait for and need wait for no longer: `routes` have them, or there are none.
    pub answered_hosts: BTreeSet<AskedHost>,
}

/// What changes of the clusters.
#[derive(Debug, Default)]
pub struct ClustersChange {
    /// All that there are now, with their endpoints.
    pub all: Arc<ClusterSet>,
    /// Names of those that are new, changed or gone; the others stay, with their connections.
    pub names: BTreeSet<Arc<str>>,
}

impl Generation {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        let Self {
            clusters,
            hosts,
            published_hosts: _,
            transport_sockets,
            listeners,
            filters,
            routes,
            tls,
            answered_hosts,
        } = self;
        let has_clusters = clusters.is_some() || !hosts.is_empty() || !transport_sockets.is_empty();
        let has_listeners = !listeners.is_empty() || !filters.is_empty();
        let has_rest = !(routes.is_empty() && tls.is_empty() && answered_hosts.is_empty());
        !has_clusters && !has_listeners && !has_rest
    }

    /// Takes other clusters: all that there are now, as they are by now, with all endpoints that were taken before, and the names of
    /// those that are new, changed or gone.
    pub fn put_clusters(&mut self, all: Arc<ClusterSet>, names: BTreeSet<Arc<str>>) {
        self.published_hosts.append(&mut self.hosts);
        for name in &names {
            // What was told of those that had the name before.
            self.published_hosts.remove(name);
            self.transport_sockets.remove(name);
        }
        let change = self.clusters.get_or_insert_default();
        change.all = all;
        change.names.extend(names);
    }

    /// Takes other endpoints of a cluster.
    pub fn put_hosts(&mut self, cluster: Arc<str>, hosts: Arc<HostSpecs>) {
        self.hosts.insert(cluster, hosts);
    }

    /// Takes another way to reach a cluster.
    pub fn put_transport_sockets(&mut self, cluster: Arc<str>, sockets: Arc<TransportSockets>) {
        self.transport_sockets.insert(cluster, sockets);
    }

    /// Takes what has changed of the listeners, over and above what had before.
    pub fn put_listeners(&mut self, change: ListenersChange) {
        let ListenersChange { put, removed, spread, stay } = change;
        self.listeners.put.extend(put);
        self.listeners.removed.extend(removed);
        (self.listeners.spread, self.listeners.stay) = (spread, stay);
    }

    /// Takes other network and listener filters.
    pub fn put_filters(&mut self, resources: Vec<FiltersResource>) {
        let keyed = resources.into_iter().map(|one| {
            let chain = match one.filters {
                NewFilters::Network(chain, _) => Some(chain),
                NewFilters::Listener(_) => None,
            };
            ((one.listener, chain), one)
        });
        self.filters.extend(keyed);
    }

    /// Takes other routes and HTTP filters.
    pub fn put_routes(&mut self, resources: &[RoutesResource]) {
        let keyed = resources.iter().map(|one| ((one.listener, one.chain), one.clone()));
        self.routes.extend(keyed);
    }

    /// Takes that a control plane has said what there is of these virtual hosts, which are called `<table>/<host>`.
    pub fn put_answered_hosts(&mut self, source: &ResourceSource, names: &[Box<str>]) {
        let asked = names.iter().filter_map(|name| {
            let (table, host) = name.rsplit_once('/')?;
            let table = Arc::new(OnDemandTable { source: source.clone(), name: table.into() });
            Some(AskedHost { table, host: host.into() })
        });
        self.answered_hosts.extend(asked);
    }

    /// Takes other TLS of a chain.
    pub fn put_tls(&mut self, tls: ChainTls) {
        self.tls.insert((tls.listener, tls.chain), tls);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn generation_without_a_change_is_empty() {
        let mut own = Generation::default();
        own.put_routes(&[]);
        own.put_listeners(ListenersChange::default());
        assert!(own.is_empty());
        own.put_hosts("a".into(), Arc::default());
        assert!(!own.is_empty());
    }

    #[test]
    fn answer_of_a_virtual_host_is_of_the_table_that_its_name_begins_with() {
        let mut own = Generation::default();
        own.put_answered_hosts(&ResourceSource::Ads, &["in/all/a.test".into(), "none".into()]);
        let asked: Vec<_> = own.answered_hosts.iter().map(|one| (&*one.table.name, &*one.host)).collect();
        assert_eq!(asked, [("in/all", "a.test")]);
        assert!(!own.is_empty());
    }

    #[test]
    fn last_endpoints_of_each_cluster_count() {
        let (mut own, [first, last]) = (Generation::default(), [(); 2].map(|()| Arc::<HostSpecs>::default()));
        own.put_hosts("a".into(), first);
        own.put_hosts("b".into(), Arc::default());
        own.put_hosts("a".into(), Arc::clone(&last));
        assert_eq!(own.hosts.len(), 2);
        assert!(Arc::ptr_eq(&own.hosts["a"], &last));
    }

    #[test]
    fn last_filters_of_each_chain_and_listener_count() {
        let mut own = Generation::default();
        let network = |chain| FiltersResource { listener: 7, filters: NewFilters::Network(chain, [].into()) };
        let listener = || FiltersResource { listener: 7, filters: NewFilters::Listener(None) };
        own.put_filters(vec![network(0), network(1), listener()]);
        assert!(!own.is_empty());
        own.put_filters(vec![listener(), network(1)]);
        assert_eq!(own.filters.len(), 3);
    }

    /// Endpoints and ways of a cluster that is replaced within the generation are those of its predecessor; what comes after it
    /// is its own.
    #[test]
    fn cluster_that_is_replaced_has_nothing_of_its_predecessor() {
        let mut own = Generation::default();
        for name in ["a", "b"] {
            own.put_hosts(name.into(), Arc::default());
            own.put_transport_sockets(name.into(), Arc::default());
        }
        own.put_clusters(Arc::default(), names(&["a"]));
        assert!(own.published_hosts.keys().chain(own.transport_sockets.keys()).all(|name| **name == *"b"));
        own.put_hosts("a".into(), Arc::default());
        assert_eq!((own.hosts.len(), own.published_hosts.len()), (1, 1));
    }

    /// A worker that has not made a cluster has nothing to keep of what its set has.
    #[test]
    fn endpoints_are_apart_that_were_told_before_the_clusters_and_behind_them() {
        let (mut own, [first, last]) = (Generation::default(), [(); 2].map(|()| Arc::<HostSpecs>::default()));
        own.put_hosts("a".into(), Arc::default());
        own.put_clusters(Arc::default(), names(&[]));
        own.put_hosts("a".into(), Arc::clone(&first));
        own.put_clusters(Arc::default(), names(&[]));
        own.put_hosts("a".into(), Arc::clone(&last));
        assert!(Arc::ptr_eq(&own.published_hosts["a"], &first) && Arc::ptr_eq(&own.hosts["a"], &last));
        assert!(!own.is_empty());
    }

    #[test]
    fn names_of_clusters_add_up_and_the_last_set_counts() {
        let (mut own, last) = (Generation::default(), Arc::<ClusterSet>::default());
        own.put_clusters(Arc::default(), names(&["b", "a"]));
        own.put_clusters(Arc::clone(&last), names(&["b", "c"]));
        let change = own.clusters.unwrap();
        assert!(Arc::ptr_eq(&change.all, &last));
        assert_eq!(change.names, names(&["a", "b", "c"]));
    }

    #[test]
    fn changes_of_listeners_add_up() {
        let mut own = Generation::default();
        for removed in [vec![1], vec![], vec![4, 2]] {
            own.put_listeners(ListenersChange { removed, ..ListenersChange::default() });
        }
        assert_eq!(own.listeners.removed, [1, 4, 2]);
    }
}
