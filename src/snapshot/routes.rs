//! Routing tables that come while traffic flows: each is compiled, off the data path, into a whole connection manager for
//! every chain that asks for it. Requests that run keep theirs.

use std::fmt;
use std::sync::Arc;

use crate::config::access_log::AccessLogSink;
use crate::config::ads::{Rds, ResourceSource};
use crate::config::bootstrap::RuntimeLayer;
use crate::config::http::HttpConnectionManager;
use crate::config::listener::Listener;
use crate::config::matcher::FractionalPercent;
use crate::config::route::RouteConfiguration;
use crate::filter::chain::FilterScopes;
use crate::filter::{CompileError, CompileServices, ConnectionManager};
use crate::format::access_log_queue::SinkId;
use crate::protocol::http::forwarding::LocalInfo;
use crate::route::CompileContext;
use crate::telemetry::Registry;

/// A manager with new routes, for the chain at these places in the snapshot.
#[derive(Clone, Debug)]
pub struct RoutesResource {
    pub listener: usize,
    pub chain: usize,
    pub manager: Arc<ConnectionManager>,
    /// Counters of its HTTP filters, about which the routes have their say.
    pub filter_stats: Arc<FilterScopes>,
}

/// A runtime value by its key.
pub type RuntimeValue<T> = Box<dyn Fn(&str) -> Option<T> + Send + Sync>;

/// What a table is compiled with besides the managers.
pub struct RouteSurroundings {
    pub registry: Arc<Registry>,
    /// Whether there is a cluster of that name now.
    pub cluster_exists: Box<dyn Fn(&str) -> bool + Send + Sync>,
    pub runtime_layers: Vec<RuntimeLayer>,
    pub runtime_fraction: RuntimeValue<FractionalPercent>,
    pub runtime_integer: RuntimeValue<u64>,
    pub local_info: LocalInfo,
    pub hash_seed: u64,
    /// The access logs that are open.
    pub sinks: Vec<(AccessLogSink, SinkId)>,
}

/// The managers whose routes come from a control plane.
#[derive(Debug)]
pub struct RouteCompiler {
    targets: Vec<Target>,
    surroundings: RouteSurroundings,
}

#[derive(Debug)]
struct Target {
    listener: usize,
    chain: usize,
    rds: Rds,
    config: Arc<HttpConnectionManager>,
}

impl RouteCompiler {
    /// Those of listeners in the order of the snapshot; `None`: there are none.
    pub fn of(listeners: &[Arc<Listener>], surroundings: RouteSurroundings) -> Option<Self> {
        let mut targets = Vec::new();
        for (listener, config) in listeners.iter().enumerate() {
            targets.extend(config.managers().filter_map(|(chain, manager)| {
                let rds = manager.rds.clone()?;
                Some(Target { listener, chain, rds, config: Arc::clone(manager) })
            }));
        }
        (!targets.is_empty()).then_some(Self { targets, surroundings })
    }

    /// The prefixes of the managers that ask for routes, and what each asks for.
    pub fn asked(&self) -> impl Iterator<Item = (&str, &Rds)> {
        self.targets.iter().map(|target| (&*target.config.stat_prefix, &target.rds))
    }

    /// Filters that the managers which ask there for this table lack.
    pub fn lacking_filters(&self, source: &ResourceSource, name: &str) -> Vec<String> {
        let rds = self.targets.iter().map(|target| &target.rds);
        let lacking = rds
            .filter(|rds| rds.source == *source && *rds.name == *name)
            .flat_map(|rds| &rds.lacking_filters);
        lacking.map(|name| String::from(&**name)).collect()
    }

    /// The runtime that tables refer to.
    pub fn runtime_layers(&self) -> &[RuntimeLayer] {
        &self.surroundings.runtime_layers
    }

    /// A table from there, for all that ask for it.
    ///
    /// # Errors
    /// A mistake in the table; the path is relative to it.
    pub fn compile(
        &self,
        source: &ResourceSource,
        table: &Arc<RouteConfiguration>,
    ) -> Result<Vec<RoutesResource>, CompileError> {
        let is_asked = |target: &&Target| target.rds.source == *source && target.rds.name == table.name;
        let asking = self.targets.iter().filter(is_asked);
        asking.map(|target| self.for_target(target, table)).collect()
    }

    fn for_target(
        &self,
        target: &Target,
        table: &Arc<RouteConfiguration>,
    ) -> Result<RoutesResource, CompileError> {
        const FIELD: &str = "route_config.";
        let RouteSurroundings {
            registry,
            cluster_exists,
            runtime_layers: _,
            runtime_fraction,
            runtime_integer,
            local_info,
            hash_seed,
            sinks,
        } = &self.surroundings;
        let mut config = HttpConnectionManager::clone(&target.config);
        config.route_config = Arc::clone(table);
        let mut services = CompileServices {
            routes: CompileContext {
                cluster_exists,
                runtime_fraction,
                runtime_integer,
                hash_seed: *hash_seed,
            },
            local_info,
            open_sink: &mut |sink| {
                let open = sinks.iter().find(|(one, _)| one == sink);
                open.map(|(_, id)| *id).ok_or_else(|| std::io::Error::other("it is not open"))
            },
        };
        let compiled = ConnectionManager::compile(&mut Arc::new(config), &mut services);
        let mut manager = compiled.map_err(|error| match error {
            CompileError::Config(mut error) => {
                if let Some(path) = error.path.strip_prefix(FIELD) {
                    error.path = path.to_owned();
                }
                CompileError::Config(error)
            }
            sink @ CompileError::Sink { .. } => sink,
        })?;
        // It is the same but for the routes, which were taken out.
        manager.config = Arc::clone(&target.config);
        let filter_stats = manager.filters.scopes(registry, &target.config.stat_prefix);
        Ok(RoutesResource {
            listener: target.listener,
            chain: target.chain,
            manager: Arc::new(manager),
            filter_stats: Arc::new(filter_stats),
        })
    }
}

impl fmt::Debug for RouteSurroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteSurroundings").field("sinks", &self.sinks).finish_non_exhaustive()
    }
}
