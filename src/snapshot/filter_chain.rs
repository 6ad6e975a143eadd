//! Filter chains, compiled one by one.

use std::sync::Arc;

use super::compile::tls_error;
use super::{AccessResource, Compiler, FilterChainResource, Gate, HttpResource, TcpResource, Terminal};
use crate::base::regex::RegexSlots;
use crate::config::filter_chain::{FilterChain, NetworkFilter};
use crate::config::network_filter::LocalRateLimit as RateLimitConfig;
use crate::config::tcp_proxy::TcpProxy;
use crate::config::tls::TlsVersion;
use crate::filter::network::{ConnectionLimit, HeaderTlvs, LocalRateLimit, Tunneling};
use crate::filter::rbac::NetworkRbac;
use crate::filter::{CompileError, ConnectionManager, access_log};
use crate::protocol::tls::{Secured, ServerTls, TlsConfigError, check_context};

/// Buckets of filters, of all listeners: those of one key are one.
pub(super) type SharedLimits = Vec<(RateLimitConfig, LocalRateLimit)>;

/// Compiles the chains of one listener.
pub(super) struct ChainCompiler<'a, 'b> {
    pub(super) compiler: &'a mut Compiler<'b>,
    /// Its name in statistics.
    pub(super) listener: &'a str,
    /// Buckets so far.
    pub(super) limits: &'a mut SharedLimits,
}

impl ChainCompiler<'_, '_> {
    /// One chain. What its filters have of configuration is taken out where nobody reads it beside what is compiled.
    pub(super) fn chain(&mut self, chain: &mut FilterChain) -> Result<FilterChainResource, CompileError> {
        let tls = server_tls(chain).map_err(tls_error)?;
        let mut gates = Vec::new();
        let mut terminal = Terminal::None;
        let mut access = Vec::new();
        let mut sni_cluster = false;
        for filter in &mut chain.filters {
            match filter {
                NetworkFilter::ConnectionLimit(config) => gates.push(Gate::ConnectionLimit {
                    limit: ConnectionLimit::new(config),
                    stats: self.compiler.registry.connection_limit(&config.stat_prefix),
                }),
                NetworkFilter::LocalRateLimit(config) => gates.push(Gate::LocalRateLimit {
                    limit: self.local_rate_limit(config).enabled_by(&config.enabled),
                    stats: self.compiler.registry.local_rate_limit(&config.stat_prefix),
                }),
                NetworkFilter::SniCluster => sni_cluster = true,
                NetworkFilter::Rbac(config) => {
                    let filter = NetworkRbac::compile(config, &mut RegexSlots::default())?;
                    let stats = filter.scope(self.compiler.registry);
                    access.push(AccessResource { filter: Arc::new(filter), stats });
                }
                NetworkFilter::HttpConnectionManager(config) => {
                    let manager = Arc::new(ConnectionManager::compile(config, &mut self.compiler.services)?);
                    let stats = self.compiler.registry.http(&config.stat_prefix, self.listener);
                    let prefix = &config.stat_prefix;
                    let filter_stats = manager.filters.scopes(self.compiler.registry, prefix);
                    terminal = Terminal::Http(HttpResource { manager, stats, filter_stats });
                }
                NetworkFilter::TcpProxy(config) => terminal = Terminal::Tcp(self.tcp(config, sni_cluster)?),
                NetworkFilter::Echo => terminal = Terminal::Echo,
                NetworkFilter::DirectResponse(response) => {
                    terminal = Terminal::DirectResponse(Arc::clone(response));
                }
            }
        }
        Ok(FilterChainResource {
            name: chain.name.clone(),
            tls,
            gates: gates.into(),
            access: access.into(),
            terminal,
        })
    }

    fn local_rate_limit(&mut self, config: &RateLimitConfig) -> LocalRateLimit {
        let same = |other: &&(RateLimitConfig, LocalRateLimit)| {
            !config.share_key.is_empty()
                && other.0.share_key == config.share_key
                && other.0.token_bucket == config.token_bucket
        };
        if let Some((_, limit)) = self.limits.iter().find(same) {
            return limit.clone();
        }
        let limit = LocalRateLimit::new(&config.token_bucket);
        self.limits.push((config.clone(), limit.clone()));
        limit
    }

    fn tcp(&mut self, config: &Arc<TcpProxy>, sni_cluster: bool) -> Result<TcpResource, CompileError> {
        let mut slots = RegexSlots::default();
        let logs = &config.access_log;
        let access_logs =
            access_log::compile(logs, "access_log", &mut slots, self.compiler.services.open_sink)?;
        let tunneling = config.tunneling.as_ref().map(Tunneling::compile).transpose()?.map(Arc::new);
        let tlvs = config.tlvs.as_ref().map(HeaderTlvs::compile).transpose()?.map(Arc::new);
        Ok(TcpResource {
            config: Arc::clone(config),
            sni_cluster,
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
