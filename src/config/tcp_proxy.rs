//! The TCP proxy. Source: Envoy `extensions.filters.network.tcp_proxy.v3.TcpProxy`.
use std::time::Duration;

use super::access_log::AccessLog;
use super::proxy_protocol::HeaderTlvs;
use super::route::HeaderValueOption;

/// Relays a connection's bytes to an endpoint of a cluster.
#[derive(Debug, Clone)]
pub struct TcpProxy {
    /// Name in statistics: `tcp.STAT_PREFIX.`. Source: `stat_prefix`.
    pub stat_prefix: Box<str>,
    /// Where to. Source: `cluster_specifier`.
    pub cluster: TcpCluster,
    /// Longest silence of both sides, and the longest time that the first attempt to reach an endpoint takes; `None`: unlimited.
    /// Default 1 h, 0 switches it off. Source: `idle_timeout`.
    pub idle_timeout: Option<Duration>,
    /// Longest life of a connection; `None`, the default: unlimited. Source: `max_downstream_connection_duration`.
    pub max_downstream_connection_duration: Option<Duration>,
    /// By how much of itself that life is lengthened at most, at random. Default 0. Source:
    /// `max_downstream_connection_duration_jitter_percentage`.
    pub max_downstream_connection_duration_jitter: f64,
    /// Whether a drain of the process, or of its listeners, ends a connection with the next bytes that pass; so does a control
    /// plane that takes its listener or its chain away, or changes it. Default false: it goes on as long as the process does.
    /// Source: `check_drain_close`.
    pub check_drain_close: bool,
    /// Connects tried before the client is closed, at least 1, the default. Source: `max_connect_attempts`.
    pub connect_attempts_max: u32,
    /// Whether no endpoint is looked for before the client has sent something. Source: `upstream_connect_mode:
    /// ON_DOWNSTREAM_DATA`.
    pub waits_for_data: bool,
    /// The HTTP proxy that endpoints are, if the connection is to go through one. Source: `tunneling_config`.
    pub tunneling: Option<Tunneling>,
    /// What it tells endpoints of a client beside the addresses, where connections begin with a header of the PROXY protocol
    /// of version 2; `None`, the default: nothing. Source: `proxy_protocol_tlvs`.
    pub tlvs: Option<HeaderTlvs>,
    /// Waits between them; `None`, the default: no waiting. Source: `backoff_options`.
    pub backoff: Option<Backoff>,
    /// Whether balancers that hash pick by the client's address. Default false: at random. Source: `hash_policy`.
    pub hashes_source_ip: bool,
    /// Where connections are recorded. Source: `access_log`.
    pub access_log: Vec<AccessLog>,
    /// How often a connection that lasts is recorded besides; `None`: not at all. Source:
    /// `access_log_options.access_log_flush_interval`.
    pub access_log_flush_interval: Option<Duration>,
    /// Whether it is recorded when it reaches an endpoint besides. Source:
    /// `access_log_options.flush_access_log_on_connected`.
    pub flush_access_log_on_connected: bool,
    /// Whether it is recorded when it begins besides. Source: `access_log_options.flush_access_log_on_start`.
    pub flush_access_log_on_start: bool,
}

/// A tunnel through an HTTP proxy, over what the cluster's protocol is. Source: Envoy `TcpProxy.TunnelingConfig`.
#[derive(Debug, Clone)]
pub struct Tunneling {
    /// Where the tunnel is to lead: a format string, evaluated for each connection. Source: `hostname`.
    pub hostname: Box<str>,
    /// The path of a POST that stands for CONNECT; `None`, the default: CONNECT. Source: `use_post`, `post_path`, by
    /// default `/`.
    pub post_path: Option<Box<str>>,
    /// More headers of the request. Source: `headers_to_add`, at most 1000.
    pub headers_to_add: Vec<HeaderValueOption>,
}

/// Waits that double from `base` on, up to `max`. Source: Envoy `core.v3.BackoffStrategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Source: `base_interval`, at least 1 ms.
    pub base: Duration,
    /// Source: `max_interval`; default: ten times `base`.
    pub max: Duration,
}

/// Where a TCP proxy relays to.
#[derive(Debug, Clone)]
pub enum TcpCluster {
    /// Source: `cluster`.
    One(Box<str>),
    /// One of several at random, each by its weight. Source: `weighted_clusters`.
    Weighted(Vec<WeightedTcpCluster>),
}

/// Source: Envoy `TcpProxy.WeightedCluster.ClusterWeight`.
#[derive(Debug, Clone)]
pub struct WeightedTcpCluster {
    /// Source: `name`.
    pub name: Box<str>,
    /// Share among all weights, at least 1. Source: `weight`.
    pub weight: u32,
}

/// Default of [`TcpProxy::idle_timeout`], from Envoy.
pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3600);

impl TcpCluster {
    /// The names of all clusters it may relay to.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (one, weighted) = match self {
            Self::One(name) => (Some(&**name), None),
            Self::Weighted(clusters) => (None, Some(clusters)),
        };
        one.into_iter().chain(weighted.into_iter().flatten().map(|cluster| &*cluster.name))
    }
}
