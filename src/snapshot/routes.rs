//! Routing tables and HTTP filters that come while traffic flows: each is compiled, off the data path, into a whole connection
//! manager for every chain that asks for it. Requests that run keep theirs.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::config::access_log::AccessLogSink;
use crate::config::ads::{Ecds, Rds, ResourceSource};
use crate::config::http::HttpConnectionManager;
use crate::config::http_filter::TypedFilter;
use crate::config::listener::Listener;
use crate::config::route::RouteConfiguration;
use crate::filter::chain::{self, FilterScopes};
use crate::filter::{CompileError, CompileServices, ConnectionManager};
use crate::format::access_log_queue::SinkId;
use crate::protocol::http::forwarding::LocalInfo;
use crate::route::CompileContext;
use crate::telemetry::Registry;

use super::told_filters::{AskedFilter, FilterKey, ToldFilters};

/// A manager with new routes or filters, for a chain of a listener.
#[derive(Clone, Debug)]
pub struct RoutesResource {
    /// The listener, by its number.
    pub listener: usize,
    /// The place of the chain in it.
    pub chain: usize,
    pub manager: Arc<ConnectionManager>,
    /// Counters of its HTTP filters, about which the routes have their say.
    pub filter_stats: Arc<FilterScopes>,
}

/// Opens an access log, or finds it open.
pub type OpenSink = Box<dyn Fn(&AccessLogSink) -> io::Result<SinkId> + Send + Sync>;

/// What tables and listeners that come while the process runs are compiled with.
pub struct RouteSurroundings {
    pub registry: Arc<Registry>,
    /// Whether there is a cluster of that name now, in use or about to be.
    pub cluster_exists: Box<dyn Fn(&str) -> bool + Send + Sync>,
    pub local_info: LocalInfo,
    pub hash_seed: u64,
    pub open_sink: OpenSink,
}

impl RouteSurroundings {
    /// What a connection manager needs. `open_sink` is that of here.
    pub(super) fn services<'a>(
        &'a self,
        open_sink: &'a mut dyn FnMut(&AccessLogSink) -> io::Result<SinkId>,
    ) -> CompileServices<'a> {
        CompileServices {
            routes: CompileContext { cluster_exists: &self.cluster_exists, hash_seed: self.hash_seed },
            local_info: &self.local_info,
            open_sink,
        }
    }
}

/// The managers whose routes or filters come from a control plane. Listeners come and go.
#[derive(Debug)]
pub struct RouteCompiler {
    targets: Vec<Target>,
    filters: ToldFilters,
    surroundings: Arc<RouteSurroundings>,
}

/// What a manager asks for.
#[derive(Clone, Debug)]
pub struct AskedTable {
    /// Its prefix in statistics.
    pub stat_prefix: Box<str>,
    pub rds: Rds,
}

#[derive(Debug)]
struct Target {
    listener: usize,
    chain: usize,
    config: Arc<HttpConnectionManager>,
}

impl Target {
    /// What it asks for where its routes are told; `None`: it has them.
    fn rds(&self) -> Option<&Rds> {
        self.config.rds.as_ref()
    }

    fn asks_for(&self, source: &ResourceSource, name: &str) -> bool {
        self.rds().is_some_and(|rds| rds.source == *source && *rds.name == *name)
    }

    /// Whether one of its filters is one of these.
    fn has_filter<'a>(&self, keys: impl IntoIterator<Item = &'a FilterKey> + Copy) -> bool {
        self.config.told_filters().any(|filter| {
            let Ecds { source, name, .. } = &filter.ecds;
            keys.into_iter().any(|(of, named)| of == source && named == name)
        })
    }
}

impl RouteCompiler {
    /// Those of listeners, whose numbers are their places.
    pub fn of(listeners: &[Arc<Listener>], surroundings: Arc<RouteSurroundings>) -> Self {
        let mut own = Self { targets: Vec::new(), filters: ToldFilters::default(), surroundings };
        for (number, listener) in listeners.iter().enumerate() {
            own.add(number, listener);
        }
        own
    }

    /// Takes the managers of a listener of that number.
    pub fn add(&mut self, number: usize, listener: &Listener) {
        let targets = listener.managers().filter_map(|(chain, manager)| {
            let is_told = manager.rds.is_some() || manager.told_filters().next().is_some();
            is_told.then(|| Target { listener: number, chain, config: Arc::clone(manager) })
        });
        self.targets.extend(targets);
    }

    /// That listener is no more.
    pub fn remove(&mut self, number: usize) {
        self.targets.retain(|target| target.listener != number);
    }

    /// Whether somebody asks for the table of that name from there.
    pub fn is_asked(&self, source: &ResourceSource, name: &str) -> bool {
        self.targets.iter().any(|target| target.asks_for(source, name))
    }

    /// What all managers ask for.
    pub fn asked(&self) -> Vec<AskedTable> {
        self.asked_by(|_| true)
    }

    /// What the managers of a listener ask for.
    pub fn asked_of(&self, number: usize) -> Vec<AskedTable> {
        self.asked_by(|target| target.listener == number)
    }

    fn asked_by(&self, is_meant: impl Fn(&Target) -> bool) -> Vec<AskedTable> {
        let asked = |target: &Target| {
            Some(AskedTable { stat_prefix: target.config.stat_prefix.clone(), rds: target.rds()?.clone() })
        };
        self.targets.iter().filter(|target| is_meant(target)).filter_map(asked).collect()
    }

    /// The filters that the managers of a listener ask for.
    pub fn asked_filters_of(&self, number: usize) -> Vec<AskedFilter> {
        let targets = self.targets.iter().filter(|target| target.listener == number);
        let filters = targets.flat_map(|target| target.config.told_filters());
        filters.map(|filter| self.filters.asked(filter)).collect()
    }

    /// Whether a filter can stand wherever the one of that name is asked for from there, and be compiled.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check_filter(
        &self,
        source: &ResourceSource,
        name: &str,
        filter: &TypedFilter,
    ) -> Result<(), String> {
        let asked = self.targets.iter().flat_map(|target| target.config.told_filters());
        let mut meant = asked.filter(|asked| asked.ecds.source == *source && *asked.ecds.name == *name);
        meant.try_for_each(|asked| asked.check(filter))?;
        chain::check(&filter.config).map_err(|error| error.to_string())
    }

    /// Whether somebody asks for that filter.
    pub fn asks_for_filter(&self, key: &FilterKey) -> bool {
        self.targets.iter().any(|target| target.has_filter(std::slice::from_ref(key)))
    }

    /// Takes a filter that was told, for all managers that are compiled from now on; `None`: it is gone.
    pub fn set_filter(&mut self, source: &ResourceSource, name: &str, filter: Option<Arc<TypedFilter>>) {
        self.filters.set(source, name, filter);
    }

    /// Nobody asks there for filters any more.
    pub fn forget_filters(&mut self, source: &ResourceSource) {
        self.filters.forget_source(source);
    }

    /// Filters that the managers which ask there for this table lack.
    pub fn lacking_filters(&self, source: &ResourceSource, name: &str) -> Vec<String> {
        let rds = self.targets.iter().filter_map(Target::rds);
        let lacking = rds
            .filter(|rds| rds.source == *source && *rds.name == *name)
            .flat_map(|rds| &rds.lacking_filters);
        lacking.map(|name| String::from(&**name)).collect()
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
        self.compile_where(source, table, |_| true)
    }

    /// The same, for the managers of one listener.
    ///
    /// # Errors
    /// As [`Self::compile`].
    pub fn compile_for(
        &self,
        number: usize,
        source: &ResourceSource,
        table: &Arc<RouteConfiguration>,
    ) -> Result<Vec<RoutesResource>, CompileError> {
        self.compile_where(source, table, |target| target.listener == number)
    }

    fn compile_where(
        &self,
        source: &ResourceSource,
        table: &Arc<RouteConfiguration>,
        is_meant: impl Fn(&Target) -> bool,
    ) -> Result<Vec<RoutesResource>, CompileError> {
        let exists = &self.surroundings.cluster_exists;
        let asking =
            self.targets.iter().filter(|target| target.asks_for(source, &table.name) && is_meant(target));
        asking.map(|target| self.for_target(target, table, exists)).collect()
    }

    /// The managers that have one of these filters, with what has been told of them. `tables`: the routes of those that have
    /// them told, if they are there.
    pub fn with_filters(
        &self,
        keys: &BTreeSet<FilterKey>,
        tables: &mut dyn FnMut(&Rds) -> Option<Arc<RouteConfiguration>>,
    ) -> Vec<Result<RoutesResource, String>> {
        self.filtered(|target| target.has_filter(keys), tables)
    }

    /// The same for the managers of a listener of whose filters some have been told.
    pub fn with_filters_of(
        &self,
        number: usize,
        tables: &mut dyn FnMut(&Rds) -> Option<Arc<RouteConfiguration>>,
    ) -> Vec<Result<RoutesResource, String>> {
        self.filtered(|target| target.listener == number && self.filters.has_any(&target.config), tables)
    }

    fn filtered(
        &self,
        is_meant: impl Fn(&Target) -> bool,
        tables: &mut dyn FnMut(&Rds) -> Option<Arc<RouteConfiguration>>,
    ) -> Vec<Result<RoutesResource, String>> {
        let meant = self.targets.iter().filter(|target| is_meant(target));
        let compiled = meant.map(|target| {
            let table = target.rds().and_then(&mut *tables);
            let table = table.unwrap_or_else(|| Arc::clone(&target.config.route_config));
            // The clusters of its routes were there when these were taken; they may go, as always.
            self.for_target(target, &table, &|_| true).map_err(|error| error.to_string())
        });
        compiled.collect()
    }

    fn for_target(
        &self,
        target: &Target,
        table: &Arc<RouteConfiguration>,
        cluster_exists: &dyn Fn(&str) -> bool,
    ) -> Result<RoutesResource, CompileError> {
        const FIELD: &str = "route_config.";
        let mut config = HttpConnectionManager::clone(&target.config);
        config.route_config = Arc::clone(table);
        self.filters.fill(&mut config);
        let mut open_sink = |sink: &AccessLogSink| (self.surroundings.open_sink)(sink);
        let mut services = self.surroundings.services(&mut open_sink);
        services.routes.cluster_exists = cluster_exists;
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
        // It is the same but for routes and filters, which nobody reads there.
        manager.set_config(&target.config);
        let filter_stats = manager.filters.scopes(&self.surroundings.registry, &target.config.stat_prefix);
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
        f.debug_struct("RouteSurroundings").field("hash_seed", &self.hash_seed).finish_non_exhaustive()
    }
}
