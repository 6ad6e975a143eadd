//! Routing tables and filters that come while traffic flows: each table and HTTP filter is compiled, off the data path, into a
//! whole connection manager for every chain that asks for it, each other filter by itself. Requests that run and connections that
//! are there keep theirs.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::base::regex::KnownRegexes;
use crate::config::access_log::AccessLogSink;
use crate::config::ads::{Rds, ResourceSource, Srds};
use crate::config::http::HttpConnectionManager;
use crate::config::network_filter::LocalRateLimit as RateLimitConfig;
use crate::config::route::RouteConfiguration;
use crate::config::scoped_routes::ToldScope;
use crate::config::told_filter::{FilterConfig, ToldFilter, TypedFilter};
use crate::filter::chain::{self, FilterScopes};
use crate::filter::network::LocalRateLimit;
use crate::filter::{CompileError, CompileServices, ConnectionManager};
use crate::format::access_log_queue::SinkId;
use crate::protocol::http::forwarding::LocalInfo;
use crate::route::CompileContext;
use crate::telemetry::Registry;

use super::filter_chain::ChainCompiler;
use super::told_filters::{AskedFilter, FilterKey, ToldFilters, is_one_of};
use super::told_listeners::{ToldListener, with_compiler};
use super::told_scopes::{AskedScopes, ScopeCounts, ToldScopes};
use super::{Compiler, FiltersResource, ListenerResource};

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
    /// [`CompileContext::regexes`].
    pub regexes: Arc<KnownRegexes>,
    /// [`Compiler::shared_limit`], of the whole process.
    pub shared_limit: Box<dyn Fn(&RateLimitConfig) -> LocalRateLimit + Send + Sync>,
    pub open_sink: OpenSink,
}

impl RouteSurroundings {
    /// What a connection manager needs. `open_sink` is that of here.
    pub(super) fn services<'a>(
        &'a self,
        open_sink: &'a mut dyn FnMut(&AccessLogSink) -> io::Result<SinkId>,
    ) -> CompileServices<'a> {
        CompileServices {
            routes: CompileContext {
                cluster_exists: &self.cluster_exists,
                hash_seed: self.hash_seed,
                regexes: Some(&self.regexes),
            },
            local_info: &self.local_info,
            open_sink,
        }
    }

    /// Does something with what compiles listeners and network filters.
    pub(super) fn with_compiler<R>(&self, work: impl FnOnce(&mut Compiler<'_>) -> R) -> R {
        let mut open_sink = |sink: &AccessLogSink| (self.open_sink)(sink);
        let services = self.services(&mut open_sink);
        work(&mut Compiler { registry: &self.registry, services, shared_limit: &self.shared_limit })
    }
}

/// The managers whose routes, scopes or filters come from a control plane, and the listeners whose other filters do. Listeners come
/// and go.
#[derive(Debug)]
pub struct RouteCompiler {
    targets: Vec<Target>,
    listeners: Vec<ToldListener>,
    filters: ToldFilters,
    scopes: ToldScopes,
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

    /// What it asks for where its scopes are told.
    fn srds(&self) -> Option<&Srds> {
        self.config.srds()
    }

    fn asks_for(&self, source: &ResourceSource, name: &str) -> bool {
        self.rds().is_some_and(|rds| rds.source == *source && *rds.name == *name)
    }

    /// Whether one of its filters is one of these.
    fn has_filter<'a>(&self, keys: impl IntoIterator<Item = &'a FilterKey> + Copy) -> bool {
        self.config.told_filters().any(|filter| is_one_of(&filter.ecds, keys))
    }
}

impl RouteCompiler {
    /// Those of listeners, whose numbers are their places.
    pub fn of(listeners: &[Arc<ListenerResource>], surroundings: Arc<RouteSurroundings>) -> Self {
        let mut own = Self {
            targets: Vec::new(),
            listeners: Vec::new(),
            filters: ToldFilters::default(),
            scopes: ToldScopes::default(),
            surroundings,
        };
        for (number, listener) in listeners.iter().enumerate() {
            own.add(number, listener);
        }
        own
    }

    /// Takes a listener of that number.
    pub fn add(&mut self, number: usize, listener: &ListenerResource) {
        let targets = listener.config.managers().filter_map(|(chain, manager)| {
            let has_filters = manager.told_filters().next().is_some();
            let is_told = manager.rds.is_some() || manager.srds().is_some() || has_filters;
            is_told.then(|| Target { listener: number, chain, config: Arc::clone(manager) })
        });
        self.targets.extend(targets);
        if let Some(mut told) = ToldListener::of(number, listener) {
            with_compiler(&self.surroundings, |compiler| told.compile(None, &self.filters, compiler));
            self.listeners.push(told);
        }
    }

    /// That listener is no more.
    pub fn remove(&mut self, number: usize) {
        self.targets.retain(|target| target.listener != number);
        self.listeners.retain(|listener| listener.number != number);
    }

    /// Whether somebody asks for the table of that name from there.
    pub fn is_asked(&self, source: &ResourceSource, name: &str) -> bool {
        self.asking(source, name).next().is_some()
    }

    /// Prefixes in statistics of the managers that do.
    pub fn prefixes_of(&self, source: &ResourceSource, name: &str) -> BTreeSet<Box<str>> {
        self.asking(source, name).map(|target| target.config.stat_prefix.clone()).collect()
    }

    fn asking<'a>(&'a self, source: &'a ResourceSource, name: &'a str) -> impl Iterator<Item = &'a Target> {
        let asks =
            move |target: &&Target| target.asks_for(source, name) || self.scopes_ask(target, source, name);
        self.targets.iter().filter(asks)
    }

    /// Whether a manager of a listener asks for the table of that name from there by itself, not for a scope.
    pub fn has_table(&self, number: usize, source: &ResourceSource, name: &str) -> bool {
        self.targets.iter().any(|target| target.listener == number && target.asks_for(source, name))
    }

    /// Whether the scopes of a manager ask for the table of that name from there.
    fn scopes_ask(&self, target: &Target, source: &ResourceSource, name: &str) -> bool {
        target.srds().is_some_and(|srds| self.scopes.has_table(srds, source, name))
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
        let mut asked = Vec::new();
        for target in self.targets.iter().filter(|target| is_meant(target)) {
            let named = |srds| self.scopes.tables(srds).map(move |name| srds.table(name));
            let of_scopes = target.srds().into_iter().flat_map(named);
            let tables = target.rds().cloned().into_iter().chain(of_scopes);
            let stat_prefix = &target.config.stat_prefix;
            asked.extend(tables.map(|rds| AskedTable { stat_prefix: stat_prefix.clone(), rds }));
        }
        asked
    }

    /// The scopes that all managers ask for, each by its listener's number.
    pub fn asked_scopes(&self) -> Vec<(usize, AskedScopes)> {
        let asked = self.targets.iter().filter_map(|target| {
            let (stat_prefix, srds) = (target.config.stat_prefix.clone(), target.srds()?.clone());
            Some((target.listener, AskedScopes { stat_prefix, srds }))
        });
        asked.collect()
    }

    /// The same of the managers of a listener.
    pub fn asked_scopes_of(&self, number: usize) -> Vec<AskedScopes> {
        let asked = self.asked_scopes().into_iter();
        asked.filter(|(listener, _)| *listener == number).map(|(_, asked)| asked).collect()
    }

    /// How many scopes there are in a source.
    pub fn scope_counts(&self, source: &ResourceSource) -> ScopeCounts {
        self.scopes.counts(source)
    }

    /// Takes a scope that was told, for all managers that are put together from now on; `None`: it is gone.
    pub fn set_scope(&mut self, source: &ResourceSource, name: &str, scope: Option<Arc<ToldScope>>) {
        self.scopes.set(source, name, scope);
    }

    /// The filters that a listener asks for.
    pub fn asked_filters_of(&self, number: usize) -> Vec<AskedFilter> {
        let filters = self.told_filters().filter(|(of, _)| *of == number);
        filters.map(|(_, filter)| self.filters.asked(filter)).collect()
    }

    /// All filters that are told, with the numbers of their listeners.
    fn told_filters(&self) -> impl Iterator<Item = (usize, &ToldFilter)> {
        let (targets, listeners) = (self.targets.iter(), self.listeners.iter());
        let of_managers = targets.flat_map(|of| of.config.told_filters().map(move |it| (of.listener, it)));
        let others = listeners.flat_map(|of| of.told_filters().map(move |it| (of.number, it)));
        of_managers.chain(others)
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
        let asked = self.told_filters().map(|(_, asked)| asked);
        let mut meant = asked.filter(|asked| asked.ecds.source == *source && *asked.ecds.name == *name);
        meant.try_for_each(|asked| asked.check(filter))?;
        match &filter.config {
            FilterConfig::Http(config) => chain::check(config).map_err(|error| error.to_string()),
            FilterConfig::Network(Some(config)) => {
                let compile = |compiler: &mut ChainCompiler<'_, '_>| compiler.filter(&mut config.clone());
                let compiled = with_compiler(&self.surroundings, compile);
                compiled.map(drop).map_err(|error| error.to_string())
            }
            FilterConfig::Network(None) | FilterConfig::Listener(_) => Ok(()),
        }
    }

    /// Whether somebody asks for that filter.
    pub fn asks_for_filter(&self, key: &FilterKey) -> bool {
        self.told_filters().any(|(_, filter)| is_one_of(&filter.ecds, [key]))
    }

    /// Takes a filter that was told, for all managers and chains that are compiled from now on; `None`: it is gone.
    pub fn set_filter(&mut self, source: &ResourceSource, name: &str, filter: Option<Arc<TypedFilter>>) {
        self.filters.set(source, name, filter);
        let key: FilterKey = (source.clone(), name.into());
        let Self { listeners, filters, surroundings, .. } = self;
        with_compiler(surroundings, |compiler| {
            listeners.iter_mut().for_each(|listener| listener.compile(Some(&key), filters, compiler));
        });
    }

    /// The network and listener filters of those who have one of these, with what has been told by now.
    pub fn changed_filters(&self, keys: &BTreeSet<FilterKey>) -> Vec<FiltersResource> {
        self.connection_filters(|_| true, |filter| is_one_of(&filter.ecds, keys))
    }

    /// Those of the listeners of these numbers of whose filters some are told.
    pub fn filters_of(&self, numbers: Range<usize>) -> Vec<FiltersResource> {
        self.connection_filters(|listener| numbers.contains(&listener.number), |_| true)
    }

    fn connection_filters(
        &self,
        is_meant: impl Fn(&ToldListener) -> bool,
        is_filter: impl Fn(&ToldFilter) -> bool,
    ) -> Vec<FiltersResource> {
        let registry = &self.surroundings.registry;
        let listeners = self.listeners.iter().filter(|listener| is_meant(listener));
        listeners.flat_map(|listener| listener.resources(&is_filter, &self.filters, registry)).collect()
    }

    /// Nobody asks there for filters and scopes any more.
    pub fn forget_told(&mut self, source: &ResourceSource) {
        self.filters.forget_source(source);
        self.scopes.forget_source(source);
    }

    /// Filters that the managers which ask there for this table lack.
    pub fn lacking_filters(&self, source: &ResourceSource, name: &str) -> Vec<String> {
        let asking = self.targets.iter().filter_map(|target| {
            let of_scopes = || target.srds().filter(|srds| self.scopes.has_table(srds, source, name));
            let own = target.rds().filter(|_| target.asks_for(source, name));
            own.or_else(|| of_scopes().map(|srds| &srds.table))
        });
        let lacking = asking.flat_map(|rds| &rds.lacking_filters);
        lacking.map(|name| String::from(&**name)).collect()
    }

    /// A table from there, for all that ask for it. For those whose scopes do it is tried, no more: they are put together when the
    /// tables of a response are there ([`Self::with_scopes`]).
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
        let mut compiled = Vec::new();
        for target in self.targets.iter().filter(|target| is_meant(target)) {
            if target.asks_for(source, &table.name) {
                compiled.push(self.for_target(target, Arc::clone(table), exists)?);
            } else if self.scopes_ask(target, source, &table.name) {
                self.for_target(target, Arc::clone(table), exists)?;
            }
        }
        Ok(compiled)
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

    /// The managers that have their scopes from there, and those whose scopes have one of these tables, with what has been told of
    /// them. `tables`: those that are there.
    pub fn with_scopes(
        &self,
        source: Option<&ResourceSource>,
        keys: &BTreeSet<FilterKey>,
        tables: &mut dyn FnMut(&Rds) -> Option<Arc<RouteConfiguration>>,
    ) -> Vec<Result<RoutesResource, String>> {
        let is_from_there = |srds: &Srds| source == Some(&srds.source);
        let has_one = |target: &Target| keys.iter().any(|(of, name)| self.scopes_ask(target, of, name));
        self.filtered(|target| target.srds().is_some_and(is_from_there) || has_one(target), tables)
    }

    /// The same for the managers of a listener whose scopes are told, or of whose filters some have been.
    pub fn with_filters_of(
        &self,
        number: usize,
        tables: &mut dyn FnMut(&Rds) -> Option<Arc<RouteConfiguration>>,
    ) -> Vec<Result<RoutesResource, String>> {
        let has_some = |target: &Target| target.srds().is_some() || self.filters.has_any(&target.config);
        self.filtered(|target| target.listener == number && has_some(target), tables)
    }

    fn filtered(
        &self,
        is_meant: impl Fn(&Target) -> bool,
        tables: &mut dyn FnMut(&Rds) -> Option<Arc<RouteConfiguration>>,
    ) -> Vec<Result<RoutesResource, String>> {
        let meant = self.targets.iter().filter(|target| is_meant(target));
        let compiled = meant.map(|target| {
            let mut config = HttpConnectionManager::clone(&target.config);
            if let Some(table) = target.rds().and_then(&mut *tables) {
                config.route_config = table;
            }
            if let (Some(scoped), Some(srds)) = (&target.config.scoped_routes, target.srds()) {
                config.scoped_routes = Some(Arc::new(self.scopes.filled(scoped, srds, tables)));
            }
            // The clusters of its routes were there when these were taken; they may go, as always.
            self.compiled(target, config, &|_| true).map_err(|error| error.to_string())
        });
        compiled.collect()
    }

    fn for_target(
        &self,
        target: &Target,
        table: Arc<RouteConfiguration>,
        cluster_exists: &dyn Fn(&str) -> bool,
    ) -> Result<RoutesResource, CompileError> {
        let mut config = HttpConnectionManager::clone(&target.config);
        config.route_config = table;
        self.compiled(target, config, cluster_exists)
    }

    /// A manager as this configuration has it.
    fn compiled(
        &self,
        target: &Target,
        mut config: HttpConnectionManager,
        cluster_exists: &dyn Fn(&str) -> bool,
    ) -> Result<RoutesResource, CompileError> {
        const FIELD: &str = "route_config.";
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
        let filter_stats = manager.filter_scopes(&self.surroundings.registry);
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
