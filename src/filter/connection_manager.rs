//! An HTTP connection manager, compiled: routing table, header rules, local replies, access logs.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use super::access_log;
use super::chain::{FilterChain, FilterScopes};
use super::on_demand::OnDemandTable;
use crate::base::regex::RegexSlots;
use crate::config::access_log::AccessLogSink;
use crate::config::error::ConfigError;
use crate::config::http::{HttpConnectionManager, RouterConfig};
use crate::config::http_filter::HttpFilterConfig;
use crate::config::route::RouteConfiguration;
use crate::config::scoped_routes::ScopedRoutes;
use crate::format::access_log::AccessLog;
use crate::format::access_log_queue::SinkId;
use crate::format::local_reply::LocalReplies;
use crate::protocol::http::forwarding::{ForwardingSettings, LocalInfo};
use crate::protocol::http::matcher::StringMatcher;
use crate::protocol::http::path::PathSettings;
use crate::protocol::http1::head_reader::HeadLimits;
use crate::protocol::http1::parse::ParseOptions;
use crate::route::{CompileContext, RouteTable, ScopeTable, TimeoutOptions};
use crate::telemetry::Registry;

/// A compiled connection manager.
#[derive(Debug)]
pub struct ConnectionManager {
    /// As configured; without its routes, unless filters or scopes are told.
    pub config: Arc<HttpConnectionManager>,
    /// Options of its router filter.
    pub router: RouterConfig,
    /// Its other filters, with what the routes say about them.
    pub filters: FilterChain,
    /// Where requests go.
    pub routes: RouteTable,
    /// Of which table they ask for virtual hosts; `None`: they do not.
    pub on_demand: Option<Arc<OnDemandTable>>,
    /// Where requests of scopes go instead; `None`: there are no scopes.
    pub scopes: Option<Scopes>,
    /// What is written to and removed from heads.
    pub forwarding: ForwardingSettings,
    /// How paths are normalised.
    pub paths: PathSettings,
    /// How replies of our own look.
    pub local_replies: LocalReplies,
    /// What is recorded, and where.
    pub access_logs: Box<[AccessLog]>,
    /// Upgrades that are treated as absent.
    pub ignored_upgrades: Box<[StringMatcher]>,
    /// Bounds of request heads.
    pub request_limits: HeadLimits,
    /// What the request parser accepts.
    pub parse_options: ParseOptions,
    /// How requests' own words about timeouts count.
    pub timeouts: TimeoutOptions,
}

/// The scopes of a connection manager.
#[derive(Debug)]
pub struct Scopes {
    /// Which request goes by which of their tables.
    pub table: ScopeTable,
    /// The manager of each table, which many scopes may have: the same but for the routes, and what these say about filters.
    pub managers: Box<[Arc<ConnectionManager>]>,
}

/// What compiling needs from elsewhere.
#[allow(missing_debug_implementations, reason = "it borrows functions")]
pub struct CompileServices<'a> {
    /// For the routing table.
    pub routes: CompileContext<'a>,
    /// What this process is called.
    pub local_info: &'a LocalInfo,
    /// Opens an access log.
    pub open_sink: &'a mut dyn FnMut(&AccessLogSink) -> io::Result<SinkId>,
}

/// Why a connection manager could not be compiled.
#[derive(Debug)]
pub enum CompileError {
    /// The configuration is wrong; the path is relative to the manager.
    Config(ConfigError),
    /// An access log cannot be opened.
    Sink { sink: AccessLogSink, error: io::Error },
}

impl ConnectionManager {
    /// Compiles a connection manager. Its route configurations are taken out: nobody reads them beside the tables, but where
    /// filters or scopes are told, and with each the manager is compiled anew.
    ///
    /// # Errors
    /// A mistake in routes, scopes, formats or expressions; an access log that cannot be opened.
    pub fn compile(
        config: &mut Arc<HttpConnectionManager>,
        services: &mut CompileServices<'_>,
    ) -> Result<Self, CompileError> {
        let (routes, scoped) = if config.told_filters().next().is_some() || config.srds().is_some() {
            (Arc::clone(&config.route_config), config.scoped_routes.clone())
        } else {
            let config = Arc::make_mut(config);
            (std::mem::take(&mut config.route_config), config.scoped_routes.take())
        };
        // Away from where the routes were: see `Listener::settled`.
        *config = Arc::new(HttpConnectionManager::clone(config));
        let mut manager = Self::with_routes(config, &routes, "route_config", services)?;
        if let Some(scoped) = scoped {
            manager.scopes = Some(Scopes::compile(config, &scoped, services)?);
        }
        Ok(manager)
    }

    /// Has this configuration in place of that with which it was compiled: the same but for routes and told filters, which
    /// nobody reads there.
    pub fn set_config(&mut self, config: &Arc<HttpConnectionManager>) {
        self.config = Arc::clone(config);
        for manager in self.scopes.iter_mut().flat_map(|scopes| scopes.managers.iter_mut()) {
            // Nobody else has it yet.
            if let Some(manager) = Arc::get_mut(manager) {
                manager.config = Arc::clone(config);
            }
        }
    }

    /// The scopes of its filters' counters, and of those of its scopes, whose routes may say something about filters that is
    /// counted apart.
    pub fn filter_scopes(&self, registry: &Registry) -> FilterScopes {
        let scopes = self.scopes.iter().filter(|_| !self.filters.is_empty());
        let managers = scopes.flat_map(|scopes| scopes.managers.iter());
        let of_scopes = managers.map(|manager| manager.filter_scopes(registry)).collect();
        self.filters.scopes(registry, &self.config.stat_prefix).with_scopes(of_scopes)
    }

    /// Whether somebody has it, or one of its scopes, beside whoever asks.
    pub fn is_shared(self: &Arc<Self>) -> bool {
        let mut scopes = self.scopes.iter().flat_map(|scopes| scopes.managers.iter());
        Arc::strong_count(self) > 1 || scopes.any(|manager| Arc::strong_count(manager) > 1)
    }

    /// One with these routes, which stand in this field.
    fn with_routes(
        config: &Arc<HttpConnectionManager>,
        routes: &RouteConfiguration,
        field: &str,
        services: &mut CompileServices<'_>,
    ) -> Result<Self, CompileError> {
        let router = match config.http_filters.last().and_then(|filter| filter.config.effective()) {
            Some(HttpFilterConfig::Router(router)) => router.clone(),
            _ => RouterConfig::default(),
        };
        let on_demand = OnDemandTable::of(config, routes);
        let mut slots = RegexSlots::default();
        let access_logs =
            access_log::compile(&config.access_log, "access_log", &mut slots, services.open_sink)?;
        let ignored = &config.http1.ignore_http_11_upgrade;
        let ignored_upgrades = ignored
            .iter()
            .enumerate()
            .map(|(index, matcher)| {
                let path = format!("http_protocol_options.ignore_http_11_upgrade[{index}]");
                StringMatcher::compile(matcher, &path, &mut slots)
            })
            .collect::<Result<_, _>>()?;
        let mut routes =
            RouteTable::compile(routes, &services.routes).map_err(|error| within(field, error))?;
        Ok(Self {
            filters: FilterChain::compile(&config.http_filters, &routes.take_overrides(), &mut slots)?,
            routes,
            on_demand,
            scopes: None,
            forwarding: ForwardingSettings::new(config, services.local_info),
            paths: PathSettings::of(config),
            local_replies: LocalReplies::compile(
                &config.local_reply_config,
                "local_reply_config",
                &mut slots,
            )?,
            access_logs: access_logs.into(),
            ignored_upgrades,
            request_limits: HeadLimits {
                bytes_max: config.max_request_headers_kb.saturating_mul(1024),
                headers_max: config.common.max_headers_count,
            },
            parse_options: ParseOptions {
                accept_http_10: config.http1.accept_http_10,
                allow_absolute_url: config.http1.allow_absolute_url,
                allow_custom_methods: config.http1.allow_custom_methods,
                allow_chunked_length: config.http1.allow_chunked_length,
            },
            timeouts: TimeoutOptions {
                respect_expected: router.respect_expected_rq_timeout,
                suppress_envoy_headers: router.suppress_envoy_headers,
                max_stream_duration: config.common.max_stream_duration,
            },
            config: Arc::clone(config),
            router,
        })
    }
}

impl Scopes {
    fn compile(
        config: &Arc<HttpConnectionManager>,
        scoped: &ScopedRoutes,
        services: &mut CompileServices<'_>,
    ) -> Result<Self, CompileError> {
        const LIST: &str = "scoped_routes.scoped_route_configurations_list.scoped_route_configurations";
        let (mut tables, mut known) = (Vec::new(), HashMap::new());
        let mut numbers = Vec::with_capacity(scoped.scopes.len());
        for (index, scope) in scoped.scopes.iter().enumerate() {
            let number = known.entry(Arc::as_ptr(&scope.route_config)).or_insert_with(|| {
                tables.push((index, &scope.route_config));
                tables.len() - 1
            });
            numbers.push(*number);
        }
        let table = ScopeTable::compile(scoped, &numbers, services.routes.hash_seed)
            .map_err(|error| within("scoped_routes", error))?;
        let mut managers = Vec::with_capacity(tables.len());
        for (index, routes) in tables {
            let field = format!("{LIST}[{index}].route_configuration");
            let manager = ConnectionManager::with_routes(config, routes, &field, services)?;
            managers.push(Arc::new(manager));
        }
        Ok(Self { table, managers: managers.into() })
    }
}

fn within(field: &str, mut error: ConfigError) -> ConfigError {
    error.path = format!("{field}.{}", error.path);
    error
}

impl From<ConfigError> for CompileError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Sink { sink, error } => write!(f, "cannot open access log {sink:?}: {error}"),
        }
    }
}

impl std::error::Error for CompileError {}
