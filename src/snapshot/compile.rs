//! From configuration types to resources: everything that can be wrong beyond conversion shows here.

use std::fmt;
use std::sync::Arc;

use super::{HostRegistry, HttpResource, ListenerResource, Snapshot, note_members};
use crate::base::balance::Balance;
use crate::cluster::{ClusterSet, ClusterSpec, TransportSockets};
use crate::config::cluster::Cluster;
use crate::config::error::ConfigError;
use crate::config::listener::{FilterChain, Listener, NetworkFilter};
use crate::config::listener_filter::ListenerFilterKind;
use crate::config::tls::UpstreamTls;
use crate::filter::{CompileError, CompileServices, ConnectionManager};
use crate::protocol::tls::{ClientTls, ServerTls, TlsConfigError};
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
    /// Which listener or cluster, and what is wrong with it.
    pub fn bootstrap(
        &mut self,
        clusters: &[Arc<Cluster>],
        listeners: &mut [Arc<Listener>],
    ) -> Result<Snapshot, (String, CompileError)> {
        let mut sockets = SocketCompiler::default();
        let mut compiled = Vec::with_capacity(clusters.len());
        for config in clusters {
            let hosts = HostRegistry::default().resolve(config, &config.load_assignment, self.registry);
            let stats = self.registry.cluster(config.stat_name());
            note_members(&stats, &hosts);
            let sockets =
                sockets.of(config).map_err(|error| (format!("cluster {}", config.name), tls_error(error)))?;
            compiled.push(Arc::new(ClusterSpec { config: Arc::clone(config), stats, hosts, sockets }));
        }
        let clusters = Arc::new(ClusterSet::new(compiled));
        let listener = |config: &mut Arc<Listener>| {
            self.listener(config).map_err(|error| (format!("listener {}", config.name), error))
        };
        let listeners = listeners.iter_mut().map(listener).collect::<Result<_, _>>()?;
        Ok(Snapshot { clusters, listeners })
    }

    fn listener(&mut self, config: &mut Arc<Listener>) -> Result<Arc<ListenerResource>, CompileError> {
        let stat_name = stat_name(config);
        let Listener { filter_chains, default_filter_chain, .. } = Arc::make_mut(config);
        let chain = filter_chains.first_mut().or(default_filter_chain.as_mut()).map(Arc::make_mut);
        let tls = chain.as_deref().and_then(|chain| server_tls(chain).transpose()).transpose();
        let tls = tls.map_err(tls_error)?.map(Arc::new);
        let http = chain.map(|chain| self.http(chain, &stat_name)).transpose()?.flatten();
        // Without its routes, which are most of it, and away from where they were.
        *config = Arc::new(config.settled());
        let stats = self.registry.listener(&stat_name);
        let proxy_protocol = config.listener_filters.iter().filter_map(|filter| match &filter.kind {
            ListenerFilterKind::ProxyProtocol(filter) => {
                Some(self.registry.proxy_protocol(&filter.stat_prefix))
            }
            _ => None,
        });
        let proxy_protocol = proxy_protocol.collect();
        let workers = self.registry.workers();
        let balance = (workers > 1).then(|| Arc::new(Balance::new(config.connection_balance, workers)));
        Ok(Arc::new(ListenerResource {
            config: Arc::clone(config),
            stats,
            proxy_protocol,
            balance,
            tls,
            http,
        }))
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

/// TLS of a chain, if it has any.
fn server_tls(chain: &FilterChain) -> Result<Option<ServerTls>, TlsConfigError> {
    let Some(config) = &chain.tls else { return Ok(None) };
    ServerTls::compile(config, chain.transport_socket_connect_timeout, None).map(Some)
}

fn tls_error(error: TlsConfigError) -> CompileError {
    let reason = error.file.map_or_else(|| error.reason.clone(), |file| format!("{file}: {}", error.reason));
    CompileError::Config(ConfigError::new(error.field, reason))
}

/// Compiles transport sockets of clusters, each configuration once: clusters share them as they share their settings.
#[derive(Debug, Default)]
pub struct SocketCompiler {
    known: Vec<(Arc<UpstreamTls>, Arc<ClientTls>)>,
    plain: Arc<TransportSockets>,
}

impl SocketCompiler {
    /// Those of a cluster.
    ///
    /// # Errors
    /// The field below the TLS context, and what is wrong with it.
    pub fn of(&mut self, config: &Cluster) -> Result<Arc<TransportSockets>, TlsConfigError> {
        let matches = config.transport_socket_matches.iter().map(|socket| socket.tls.as_ref());
        let all = [config.tls.as_ref()].into_iter().chain(matches);
        let compiled = all.map(|tls| tls.map(|tls| self.compile(tls)).transpose());
        let compiled: Box<[_]> = compiled.collect::<Result<_, _>>()?;
        // Most clusters are plain.
        let is_plain = compiled.iter().all(Option::is_none);
        Ok(if is_plain { Arc::clone(&self.plain) } else { Arc::new(TransportSockets(compiled)) })
    }

    fn compile(&mut self, config: &Arc<UpstreamTls>) -> Result<Arc<ClientTls>, TlsConfigError> {
        if let Some((_, compiled)) = self.known.iter().find(|(known, _)| Arc::ptr_eq(known, config)) {
            return Ok(Arc::clone(compiled));
        }
        let compiled = Arc::new(ClientTls::compile(config)?);
        self.known.push((Arc::clone(config), Arc::clone(&compiled)));
        Ok(compiled)
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
