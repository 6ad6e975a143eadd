//! Filter chains: which connections one takes, and the network filters that serve them. Source: Envoy
//! `config.listener.v3.FilterChain`.
use std::sync::Arc;
use std::time::Duration;

use super::address::CidrRange;
use super::http::HttpConnectionManager;
use super::network_filter::{ConnectionLimit, LocalRateLimit};
use super::rbac::NetworkRbac;
use super::tcp_proxy::TcpProxy;
use super::tls::DownstreamTls;
use super::told_filter::ToldFilter;

/// One chain of filters.
#[derive(Debug, Clone)]
pub struct FilterChain {
    /// Name, for the operator; may be empty. Source: `name`.
    pub name: Box<str>,
    /// What a connection must look like to be served by this chain. Source: `filter_chain_match`.
    pub filter_chain_match: FilterChainMatch,
    /// What serves the connection; the last ends the chain. Source: `filters`.
    pub filters: Vec<NetworkFilter>,
    /// TLS of its connections; `None`: plain text. Source: `transport_socket`.
    pub tls: Option<Arc<DownstreamTls>>,
    /// Longest time for the transport socket's handshake; `None`: unlimited, the default. Source:
    /// `transport_socket_connect_timeout`.
    pub transport_socket_connect_timeout: Option<Duration>,
    /// By which it is told from chains that differ in anything; a hash of its message.
    pub fingerprint: u64,
}

impl FilterChain {
    /// Its filters that are told.
    pub fn told_filters(&self) -> impl Iterator<Item = &ToldFilter> {
        self.filters.iter().filter_map(|filter| match filter {
            NetworkFilter::Told(filter) => Some(&**filter),
            _ => None,
        })
    }

    /// Whether connections of this chain may go on as those of `next`: see [`Listener::successors`](super::listener::Listener).
    pub(super) fn goes_on_as(&self, next: &Self) -> bool {
        let is_chosen = match (self.name.is_empty(), next.name.is_empty()) {
            (false, false) => self.name == next.name,
            _ => self.filter_chain_match == next.filter_chain_match,
        };
        let only_manager = |chain: &Self| match &*chain.filters {
            [NetworkFilter::HttpConnectionManager(manager)] => Some(Arc::clone(manager)),
            _ => None,
        };
        is_chosen
            && self.tls == next.tls
            && only_manager(self)
                .zip(only_manager(next))
                .is_some_and(|(own, other)| own.stat_prefix == other.stat_prefix)
    }
}

/// What a chain asks of a connection; an empty list, or `None`, asks nothing. Source: Envoy `FilterChainMatch`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilterChainMatch {
    /// Port that the client meant to connect to; never 0. Source: `destination_port`.
    pub destination_port: Option<u16>,
    /// Where the client meant to connect to. Source: `prefix_ranges`.
    pub prefix_ranges: Vec<CidrRange>,
    /// Server names of TLS, in lower case: whole, or `*.` and what they end with. Source: `server_names`.
    pub server_names: Vec<Box<str>>,
    /// `tls` or `raw_buffer`, as a listener filter has found; empty: either. Source: `transport_protocol`.
    pub transport_protocol: Box<str>,
    /// Protocols that listener filters have found, by ALPN or by looking. Source: `application_protocols`.
    pub application_protocols: Vec<Box<str>>,
    /// The peer of the socket. Source: `direct_source_prefix_ranges`.
    pub direct_source_prefix_ranges: Vec<CidrRange>,
    /// Whether the client is on this host. Source: `source_type`.
    pub source_type: SourceType,
    /// The client. Source: `source_prefix_ranges`.
    pub source_prefix_ranges: Vec<CidrRange>,
    /// The client's ports. Source: `source_ports`.
    pub source_ports: Vec<u16>,
}

/// Envoy's `FilterChainMatch.ConnectionSourceType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceType {
    /// Either. The default.
    #[default]
    Any,
    /// From the loopback address (127.0.0.1, ::1), or from the address it is meant for.
    SameIpOrLoopback,
    /// From another host.
    External,
}

/// A network filter.
#[derive(Debug, Clone)]
pub enum NetworkFilter {
    /// HTTP; ends the chain. Source: `envoy.filters.network.http_connection_manager`.
    HttpConnectionManager(Arc<HttpConnectionManager>),
    /// Bytes are relayed to a cluster; ends the chain. Source: `envoy.filters.network.tcp_proxy`.
    TcpProxy(Arc<TcpProxy>),
    /// Bytes go back to the client; ends the chain. Source: `envoy.filters.network.echo`.
    Echo,
    /// The client is sent these bytes, then the connection ends; ends the chain. Source:
    /// `envoy.filters.network.direct_response`.
    DirectResponse(Arc<[u8]>),
    /// Who may go on. Source: `envoy.filters.network.rbac`.
    Rbac(Arc<NetworkRbac>),
    /// A limit of connections. Source: `envoy.filters.network.connection_limit`.
    ConnectionLimit(ConnectionLimit),
    /// A limit of new connections over time. Source: `envoy.filters.network.local_ratelimit`.
    LocalRateLimit(LocalRateLimit),
    /// The server name of TLS is the name of the cluster that a TCP proxy relays to. Source:
    /// `envoy.filters.network.sni_cluster`.
    SniCluster,
    /// Whichever a control plane or a file tells. Source: `config_discovery`.
    Told(Box<ToldFilter>),
}

impl NetworkFilter {
    /// Whether it serves the connection itself, so that no filter can follow.
    pub fn ends_chain(&self) -> bool {
        match self {
            Self::HttpConnectionManager(_) | Self::TcpProxy(_) | Self::Echo | Self::DirectResponse(_) => true,
            Self::Rbac(_) | Self::ConnectionLimit(_) | Self::LocalRateLimit(_) | Self::SniCluster => false,
            Self::Told(filter) => filter.is_last,
        }
    }
}
