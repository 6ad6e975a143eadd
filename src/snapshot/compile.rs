//! From configuration types to resources: everything that can be wrong beyond conversion shows here.

use std::fmt;
use std::sync::Arc;

use super::filter_chain::ChainCompiler;
use super::told_listeners::listener_filters;
use super::{ListenerResource, Snapshot, SocketCompiler, note_members, resolve_hosts};
use crate::base::balance::Balance;
use crate::base::regex::RegexSlots;
use crate::cluster::{ClusterSet, ClusterSpec, PublishedCluster};
use crate::config::cluster::Cluster;
use crate::config::error::ConfigError;
use crate::config::listener::Listener;
use crate::config::network_filter::LocalRateLimit as RateLimitConfig;
use crate::filter::network::{ChainChoice, ChoiceError, ListenerLimit, LocalRateLimit, Overlap};
use crate::filter::{CompileError, CompileServices, access_log};
use crate::protocol::tls::TlsConfigError;
use crate::telemetry::Registry;

/// Compiles configuration, with what it needs from the control thread.
pub struct Compiler<'a> {
    /// Where scopes of metrics come from.
    pub registry: &'a Registry,
    /// What connection managers need.
    pub services: CompileServices<'a>,
    /// Finds the bucket that all filters of one `share_key` and of equal buckets have.
    pub shared_limit: &'a dyn Fn(&RateLimitConfig) -> LocalRateLimit,
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
            let hosts = resolve_hosts(&[], config, &config.load_assignment, self.registry);
            let stats = self.registry.cluster(config.stat_name());
            note_members(&stats, &[], &hosts, config);
            let sockets =
                sockets.of(config).map_err(|error| (format!("cluster {}", config.name), tls_error(error)))?;
            let spec = Arc::new(ClusterSpec::new(Arc::clone(config), sockets, self.registry));
            compiled.push(PublishedCluster { spec, hosts });
        }
        let clusters = Arc::new(ClusterSet::new(compiled));
        let listener = |config: &mut Arc<Listener>| {
            self.listener(config).map_err(|error| (format!("listener {}", config.name), error))
        };
        let listeners = listeners.iter_mut().map(listener).collect::<Result<_, _>>()?;
        Ok(Snapshot { clusters, listeners, tls: Vec::new(), internal_buffer_bytes: None })
    }

    /// One listener.
    pub(super) fn listener(
        &mut self,
        config: &mut Arc<Listener>,
    ) -> Result<Arc<ListenerResource>, CompileError> {
        let stat_name = stat_name(config);
        let choice = ChainChoice::compile(config).map_err(|error| match error {
            ChoiceError::Overlap(overlap) => overlapping(config, overlap),
            ChoiceError::Matcher(error) => error.into(),
        })?;
        let mut slots = RegexSlots::default();
        let access_logs =
            access_log::compile(&config.access_log, "access_log", &mut slots, self.services.open_sink)?;
        let mut filters = ChainCompiler { compiler: self, listener: &stat_name };
        let Listener { filter_chains, default_filter_chain, .. } = Arc::make_mut(config);
        let mut chains = Vec::with_capacity(filter_chains.len() + 1);
        for (index, chain) in filter_chains.iter_mut().enumerate() {
            let chain = filters.chain(Arc::make_mut(chain));
            chains.push(chain.map_err(|error| within(&format!("filter_chains[{index}]"), error))?);
        }
        if let Some(chain) = default_filter_chain {
            let chain = filters.chain(Arc::make_mut(chain));
            chains.push(chain.map_err(|error| within("default_filter_chain", error))?);
        }
        // Without its routes, which are most of it, and away from where they were.
        *config = Arc::new(config.settled());
        let stats = self.registry.listener(&stat_name);
        let filters = listener_filters(&config.listener_filters, self.registry);
        let workers = self.registry.workers();
        // Connections within a worker stay there.
        let spreads = workers > 1 && config.internal().is_none();
        let balance = spreads.then(|| Arc::new(Balance::new(config.connection_balance, workers)));
        Ok(Arc::new(ListenerResource {
            config: Arc::clone(config),
            stats,
            filters,
            balance,
            limit: config.connection_limit.as_ref().map(ListenerLimit::new),
            access_logs: access_logs.into(),
            choice: Arc::new(choice),
            chains: chains.into(),
        }))
    }
}

fn overlapping(config: &Listener, overlap: Overlap) -> CompileError {
    let asked = |index: usize| config.filter_chains.get(index).map(|chain| &chain.filter_chain_match);
    let same = (0..overlap.chain).find(|index| asked(*index) == asked(overlap.chain));
    let reason = match same {
        Some(first) => format!("the same matching rules as filter_chains[{first}]: a connection could take either"),
        None => "multiple filter chains with overlapping matching rules are defined: a connection could take either"
            .to_owned(),
    };
    ConfigError::new(format!("filter_chains[{}].filter_chain_match", overlap.chain), reason).into()
}

/// The same error, further out.
fn within(field: &str, error: CompileError) -> CompileError {
    match error {
        CompileError::Config(mut error) => {
            error.path =
                if error.path.is_empty() { field.to_owned() } else { format!("{field}.{}", error.path) };
            CompileError::Config(error)
        }
        sink @ CompileError::Sink { .. } => sink,
    }
}

pub(super) fn tls_error(error: TlsConfigError) -> CompileError {
    let reason = error.file.map_or_else(|| error.reason.clone(), |file| format!("{file}: {}", error.reason));
    CompileError::Config(ConfigError::new(error.field, reason))
}

/// Name of a listener in statistics: its prefix, else its first address, or what Envoy has for it.
fn stat_name(config: &Listener) -> String {
    if !config.stat_prefix.is_empty() {
        return config.stat_prefix.to_string();
    }
    if config.internal().is_some() {
        return format!("envoy_internal_{}", config.name);
    }
    config.addresses.first().map_or_else(|| config.name.to_string(), |first| first.address.to_string())
}

impl fmt::Debug for Compiler<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiler")
    }
}
