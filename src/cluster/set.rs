//! The clusters as published: compiled off the data path, immutable, shared by all cores. A core makes its own
//! [`Cluster`](super::Cluster) of one when a request first asks for it.

use std::ops::Deref;
use std::sync::Arc;

use super::breakers::CircuitBreakers;
use super::host_spec::HostSpec;
use super::load_balancer::{self, HashTable};
use crate::config::cluster::Cluster as Config;
use crate::config::endpoint::{DropOverload, OVERPROVISIONING_FACTOR_PERCENT_DEFAULT};
use crate::protocol::tls::{ClientContext, Secured};
use crate::telemetry::{ClusterStat, Registry, Scope};

/// A cluster, whatever its endpoints: it stays as it is when they change.
#[derive(Debug)]
pub struct ClusterSpec {
    pub config: Arc<Config>,
    pub stats: Arc<Scope<ClusterStat>>,
    pub breakers: Arc<CircuitBreakers>,
    /// How its endpoints are reached.
    pub sockets: Arc<TransportSockets>,
}

/// A cluster, to which it derefs, and the endpoints known when it was published.
#[derive(Clone, Debug)]
pub struct PublishedCluster {
    pub spec: Arc<ClusterSpec>,
    pub hosts: Arc<HostSpecs>,
}

/// There is one of each for each of thousands of clusters.
const _: () = assert!(size_of::<ClusterSpec>() <= 32 && size_of::<PublishedCluster>() <= 16);

impl ClusterSpec {
    /// A cluster that workers are to share; its circuit breakers are closed.
    pub fn new(config: Arc<Config>, sockets: Arc<TransportSockets>, registry: &Registry) -> Self {
        Self { stats: registry.cluster(config.stat_name()), config, breakers: Arc::default(), sockets }
    }

    /// The same, reached in this way.
    pub fn with_sockets(&self, sockets: Arc<TransportSockets>) -> Self {
        let Self { config, stats, breakers, sockets: _ } = self;
        let (config, stats, breakers) = (Arc::clone(config), Arc::clone(stats), Arc::clone(breakers));
        Self { config, stats, breakers, sockets }
    }
}

impl Deref for PublishedCluster {
    type Target = ClusterSpec;

    fn deref(&self) -> &ClusterSpec {
        &self.spec
    }
}

/// A cluster's endpoints as published, and what hashing balancers look them up in.
#[derive(Debug, Default)]
pub struct HostSpecs {
    hosts: Box<[Arc<HostSpec>]>,
    /// `None`: nothing of it.
    more: Option<Box<More>>,
}

/// There is one for each of thousands of clusters: with its counts of references 40 bytes.
const _: () = assert!(size_of::<HostSpecs>() <= 24);

/// What the endpoints of few clusters have.
#[derive(Debug)]
struct More {
    /// By group of hosts; none, where the policy does not hash.
    tables: Box<[HashTable]>,
    /// The share of requests that they are spared.
    drop_overload: Option<Arc<DropOverload>>,
    /// See [`HostSpecs::overprovisioning_percent`].
    overprovisioning_percent: u32,
}

impl Default for More {
    fn default() -> Self {
        Self {
            tables: Box::default(),
            drop_overload: None,
            overprovisioning_percent: OVERPROVISIONING_FACTOR_PERCENT_DEFAULT,
        }
    }
}

impl HostSpecs {
    /// These endpoints, with their [`Self::overprovisioning_percent`]. Off the data path: tables are made here.
    pub fn new(hosts: Vec<Arc<HostSpec>>, overprovisioning_percent: u32, config: &Config) -> Self {
        let hosts: Box<[_]> = hosts.into();
        let tables = load_balancer::tables(&hosts, overprovisioning_percent, config);
        let is_plain =
            tables.is_empty() && overprovisioning_percent == OVERPROVISIONING_FACTOR_PERCENT_DEFAULT;
        let more =
            (!is_plain).then(|| Box::new(More { tables, drop_overload: None, overprovisioning_percent }));
        Self { hosts, more }
    }

    /// How much of the traffic the share of them that is available may have, in percent of that share. Default 140. Source: Envoy
    /// `policy.overprovisioning_factor` of whoever has told them.
    pub fn overprovisioning_percent(&self) -> u32 {
        let more = self.more.as_ref();
        more.map_or(OVERPROVISIONING_FACTOR_PERCENT_DEFAULT, |more| more.overprovisioning_percent)
    }

    /// The same, spared this share of requests.
    pub fn dropping(mut self, drop_overload: Option<Arc<DropOverload>>) -> Self {
        if drop_overload.is_some() || self.more.is_some() {
            self.more.get_or_insert_default().drop_overload = drop_overload;
        }
        self
    }

    /// The share of requests that they are spared; `None`: none.
    pub fn drop_overload(&self) -> Option<&Arc<DropOverload>> {
        self.more.as_ref()?.drop_overload.as_ref()
    }

    /// The table of a group of hosts.
    pub fn table(&self, group: usize) -> Option<&HashTable> {
        self.tables().get(group)
    }

    /// All tables.
    pub fn tables(&self) -> &[HashTable] {
        match &self.more {
            Some(more) => &more.tables,
            None => &[],
        }
    }
}

impl Deref for HostSpecs {
    type Target = [Arc<HostSpec>];

    fn deref(&self) -> &[Arc<HostSpec>] {
        &self.hosts
    }
}

/// How a cluster's endpoints are reached: the cluster's own way first, then those of `transport_socket_matches`.
#[derive(Debug, Default)]
pub struct TransportSockets(pub Box<[Option<Secured<ClientContext>>]>);

impl TransportSockets {
    /// Whether no endpoint is reached with TLS.
    pub fn is_plain(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// TLS of an endpoint, by its [`HostSpec::socket`]; `None`: plain text.
    pub fn tls(&self, socket: u16) -> Option<&Secured<ClientContext>> {
        self.0.get(usize::from(socket))?.as_ref()
    }
}

/// All clusters, in the order of the configuration.
#[derive(Debug, Default)]
pub struct ClusterSet {
    all: Box<[PublishedCluster]>,
    /// Places in `all`, sorted by name.
    by_name: Box<[u32]>,
}

impl ClusterSet {
    /// These clusters, whose names differ.
    pub fn new(all: Vec<PublishedCluster>) -> Self {
        let mut by_name: Box<[u32]> = (0..).take(all.len()).collect();
        let name = |place: &u32| all.get(*place as usize).map(|one| &*one.config.name);
        by_name.sort_unstable_by(|a, b| name(a).cmp(&name(b)));
        Self { all: all.into(), by_name }
    }

    /// In the order of the configuration.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &PublishedCluster> {
        self.all.iter()
    }

    /// The cluster of that name.
    pub fn find(&self, name: &str) -> Option<&PublishedCluster> {
        let one = |place: &u32| self.all.get(*place as usize);
        let found =
            self.by_name.binary_search_by(|place| one(place).map(|one| &*one.config.name).cmp(&Some(name)));
        one(self.by_name.get(found.ok()?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn cluster_is_found_by_its_name_and_no_other() {
        let registry = Registry::new(1);
        let one = |name: &&str| {
            let spec = ClusterSpec::new(Arc::new(Config::new(name)), Arc::default(), &registry);
            PublishedCluster { spec: Arc::new(spec), hosts: Arc::default() }
        };
        let set = ClusterSet::new(["b", "d", "", "a"].iter().map(one).collect());
        for name in ["a", "b", "d", ""] {
            assert_eq!(set.find(name).map(|one| &*one.config.name), Some(name));
        }
        assert!(["c", "e", "aa"].iter().all(|name| set.find(name).is_none()));
        assert!(set.iter().map(|one| &*one.config.name).eq(["b", "d", "", "a"]));
        assert!(ClusterSet::default().find("a").is_none());
    }
}
