//! Filter chains, compiled one by one.

use std::sync::Arc;

use super::compile::tls_error;
use super::{AccessResource, Compiler, FilterChainResource, FilterResource, Gate, HttpResource, TcpResource};
use crate::base::regex::RegexSlots;
use crate::config::filter_chain::{FilterChain, NetworkFilter};
use crate::config::network_filter::LocalRateLimit as RateLimitConfig;
use crate::config::tcp_proxy::TcpProxy;
use crate::config::tls::TlsVersion;
use crate::config::told_filter::FilterConfig;
use crate::filter::network::{ConnectionLimit, HeaderTlvs, LocalRateLimit, Tunneling};
use crate::filter::rbac::NetworkRbac;
use crate::filter::{CompileError, ConnectionManager, access_log};
use crate::protocol::tls::{Secured, ServerTls, TlsConfigError, check_context};

/// A bucket of a filter's own.
pub fn own_limit(config: &RateLimitConfig) -> LocalRateLimit {
    LocalRateLimit::new(&config.token_bucket)
}

/// Compiles the chains of one listener.
pub(super) struct ChainCompiler<'a, 'b> {
    pub(super) compiler: &'a mut Compiler<'b>,
    /// Its name in statistics.
    pub(super) listener: &'a str,
}

impl ChainCompiler<'_, '_> {
    /// One chain. What its filters have of configuration is taken out where nobody reads it beside what is compiled.
    pub(super) fn chain(&mut self, chain: &mut FilterChain) -> Result<FilterChainResource, CompileError> {
        let tls = server_tls(chain).map_err(tls_error)?;
        let filters = chain.filters.iter_mut().map(|filter| self.filter(filter));
        let filters = filters.collect::<Result<_, _>>()?;
        Ok(FilterChainResource { name: chain.name.clone(), tls, filters })
    }

    /// One filter; of one that is told what was told, or its default.
    pub(super) fn filter(&mut self, filter: &mut NetworkFilter) -> Result<FilterResource, CompileError> {
        Ok(match filter {
            NetworkFilter::ConnectionLimit(config) => FilterResource::Gate(Gate::ConnectionLimit {
                limit: ConnectionLimit::new(config),
                stats: self.compiler.registry.connection_limit(&config.stat_prefix),
            }),
            NetworkFilter::LocalRateLimit(config) => FilterResource::Gate(Gate::LocalRateLimit {
                limit: self.local_rate_limit(config).enabled_by(&config.enabled),
                stats: self.compiler.registry.local_rate_limit(&config.stat_prefix),
            }),
            NetworkFilter::SniCluster => FilterResource::SniCluster,
            NetworkFilter::Rbac(config) => {
                let filter = NetworkRbac::compile(config, &mut RegexSlots::default())?;
                let stats = filter.scope(self.compiler.registry);
                FilterResource::Access(Arc::new(AccessResource { filter: Arc::new(filter), stats }))
            }
            NetworkFilter::HttpConnectionManager(config) => {
                let manager = Arc::new(ConnectionManager::compile(config, &mut self.compiler.services)?);
                let stats = self.compiler.registry.http(&config.stat_prefix, self.listener);
                let filter_stats = manager.filter_scopes(self.compiler.registry);
                FilterResource::Http(Arc::new(HttpResource { manager, stats, filter_stats }))
            }
            NetworkFilter::TcpProxy(config) => FilterResource::Tcp(Arc::new(self.tcp(config)?)),
            NetworkFilter::Echo => FilterResource::Echo,
            NetworkFilter::DirectResponse(response) => FilterResource::DirectResponse(Arc::clone(response)),
            NetworkFilter::Told(told) => match told.effective() {
                Some(FilterConfig::Network(Some(told))) => self.filter(&mut told.clone())?,
                Some(FilterConfig::Network(None)) => FilterResource::Off,
                // What is of another kind cannot stand here.
                Some(FilterConfig::Http(_) | FilterConfig::Listener(_)) | None => FilterResource::Missing,
            },
        })
    }

    fn local_rate_limit(&self, config: &RateLimitConfig) -> LocalRateLimit {
        if config.share_key.is_empty() { own_limit(config) } else { (self.compiler.shared_limit)(config) }
    }

    fn tcp(&mut self, config: &Arc<TcpProxy>) -> Result<TcpResource, CompileError> {
        let mut slots = RegexSlots::default();
        let logs = &config.access_log;
        let access_logs =
            access_log::compile(logs, "access_log", &mut slots, self.compiler.services.open_sink)?;
        let tunneling = config.tunneling.as_ref().map(Tunneling::compile).transpose()?.map(Arc::new);
        let tlvs = config.tlvs.as_ref().map(HeaderTlvs::compile).transpose()?.map(Arc::new);
        Ok(TcpResource {
            config: Arc::clone(config),
            tunneling,
            tlvs,
            access_logs: access_logs.into(),
            stats: self.compiler.registry.tcp(&config.stat_prefix),
        })
    }
}

/// TLS of a chain, if it has any.
fn server_tls(chain: &FilterChain) -> Result<Option<Secured<ServerTls>>, TlsConfigError> {
    let Some(config) = &chain.tls else { return Ok(None) };
    if !config.is_whole() {
        return check_context(&config.common, TlsVersion::Tls13).map(|()| Some(Secured::NotReady));
    }
    let compiled = ServerTls::compile(config, chain.transport_socket_connect_timeout, None)?;
    Ok(Some(compiled.into()))
}
