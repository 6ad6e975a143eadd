//! From configuration types to resources: everything that can be wrong beyond conversion shows here.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::{ClusterResource, HostRegistry, HttpResource, ListenerResource, Snapshot};
use crate::config::access_log::AccessLogSink;
use crate::config::bootstrap::Bootstrap;
use crate::config::listener::{FilterChain, Listener, NetworkFilter};
use crate::format::access_log_queue::SinkId;
use crate::telemetry::Registry;

/// Compiles configuration, with what it needs from the control thread.
pub struct Compiler<'a> {
    /// Where scopes of metrics come from.
    pub registry: &'a Registry,
    /// Opens an access log.
    pub open_sink: &'a mut dyn FnMut(&AccessLogSink) -> io::Result<SinkId>,
}

/// What could not be compiled.
#[derive(Debug)]
pub struct CompileError {
    /// Which resource.
    pub resource: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Compiler<'_> {
    /// All static resources of a bootstrap. Endpoints that need resolving are not there yet.
    ///
    /// # Errors
    /// An access log cannot be opened, an expression does not compile.
    pub fn bootstrap(&mut self, bootstrap: &Bootstrap) -> Result<Snapshot, CompileError> {
        let clusters = bootstrap
            .clusters
            .iter()
            .map(|config| {
                let hosts = HostRegistry::default().resolve(&config.load_assignment, self.registry);
                let stats = self.registry.cluster(config.stat_name());
                Arc::new(ClusterResource { config: Arc::clone(config), stats, hosts })
            })
            .collect();
        let listeners =
            bootstrap.listeners.iter().map(|config| self.listener(config)).collect::<Result<_, _>>()?;
        Ok(Snapshot { clusters, listeners })
    }

    fn listener(&mut self, config: &Arc<Listener>) -> Result<Arc<ListenerResource>, CompileError> {
        let stat_name = stat_name(config);
        let chain = config.filter_chains.first().or(config.default_filter_chain.as_ref());
        let http = chain.map(|chain| self.http(chain, &stat_name)).transpose()?.flatten();
        let stats = self.registry.listener(&stat_name);
        Ok(Arc::new(ListenerResource { config: Arc::clone(config), stats, http }))
    }

    fn http(
        &mut self,
        chain: &FilterChain,
        listener: &str,
    ) -> Result<Option<Arc<HttpResource>>, CompileError> {
        let Some(NetworkFilter::HttpConnectionManager(config)) = chain.filters.last() else {
            return Ok(None);
        };
        let stats = self.registry.http(&config.stat_prefix, listener);
        Ok(Some(Arc::new(HttpResource { config: Arc::clone(config), stats })))
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

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.resource, self.reason)
    }
}

impl std::error::Error for CompileError {}
