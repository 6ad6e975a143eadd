//! From configuration types to resources: everything that can be wrong beyond conversion shows here.

use std::fmt;
use std::sync::Arc;

use super::{HostRegistry, HttpResource, ListenerResource, Snapshot, note_members};
use crate::base::balance::Balance;
use crate::cluster::{ClusterSet, ClusterSpec};
use crate::config::cluster::Cluster;
use crate::config::listener::{FilterChain, Listener, NetworkFilter};
use crate::filter::{CompileError, CompileServices, ConnectionManager};
use crate::telemetry::Registry;

/// Compiles configuration, with what it needs from the control thread.
pub struct Compiler<'a> {
    /// Where scopes of metrics come from.
    pub registry: &'a Registry,
    /// What connection managers need.
    pub services: CompileServices<'a>,
}

impl Compiler<'_> {
    /// All static resources of a bootstrap. Endpoints that need resolving are not there yet. Route configurations are
    /// taken out of the listeners: nobody reads them beside the tables.
    ///
    /// # Errors
    /// The listener's name, and what is wrong with it.
    pub fn bootstrap(
        &mut self,
        clusters: &[Arc<Cluster>],
        listeners: &mut [Arc<Listener>],
    ) -> Result<Snapshot, (Box<str>, CompileError)> {
        let clusters = clusters
            .iter()
            .map(|config| {
                let hosts = HostRegistry::default().resolve(&config.load_assignment, self.registry);
                let stats = self.registry.cluster(config.stat_name());
                note_members(&stats, &hosts);
                Arc::new(ClusterSpec { config: Arc::clone(config), stats, hosts })
            })
            .collect();
        let clusters = Arc::new(ClusterSet::new(clusters));
        let listener =
            |config: &mut Arc<Listener>| self.listener(config).map_err(|error| (config.name.clone(), error));
        let listeners = listeners.iter_mut().map(listener).collect::<Result<_, _>>()?;
        Ok(Snapshot { clusters, listeners })
    }

    fn listener(&mut self, config: &mut Arc<Listener>) -> Result<Arc<ListenerResource>, CompileError> {
        let stat_name = stat_name(config);
        let Listener { filter_chains, default_filter_chain, .. } = Arc::make_mut(config);
        let chain = filter_chains.first_mut().or(default_filter_chain.as_mut()).map(Arc::make_mut);
        let http = chain.map(|chain| self.http(chain, &stat_name)).transpose()?.flatten();
        // Without its routes, which are most of it, and away from where they were.
        *config = Arc::new(config.settled());
        let stats = self.registry.listener(&stat_name);
        let workers = self.registry.workers();
        let balance = (workers > 1).then(|| Arc::new(Balance::new(config.connection_balance, workers)));
        Ok(Arc::new(ListenerResource { config: Arc::clone(config), stats, balance, http }))
    }

    fn http(
        &mut self,
        chain: &mut FilterChain,
        listener: &str,
    ) -> Result<Option<Arc<HttpResource>>, CompileError> {
        let Some(NetworkFilter::HttpConnectionManager(config)) = chain.filters.last_mut() else {
            return Ok(None);
        };
        let manager = Arc::new(ConnectionManager::compile(config, &mut self.services)?);
        let stats = self.registry.http(&config.stat_prefix, listener);
        Ok(Some(Arc::new(HttpResource { manager, chain: chain.name.clone(), stats })))
    }
}

/// Name of a listener in statistics: its prefix, else its first address.
fn stat_name(config: &Listener) -> String {
    if !config.stat_prefix.is_empty() {
        return config.stat_prefix.to_string();
    }
    config.addresses.first().map_or_else(|| config.name.to_string(), |first| first.address.to_string())
}

impl fmt::Debug for Compiler<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiler")
    }
}
