//! What routes do: forward to a cluster, redirect, answer directly.

use crate::config::proxy_protocol::ProxyProtocolVersion;
use std::time::Duration;

use super::hash_policy::HashPolicy;
use super::header::HeaderMutations;
use crate::config::cluster::RoutingPriority;
use crate::config::http_filter::FilterOverride;
use crate::config::matcher::RegexRewrite;
use crate::config::runtime::RuntimeKey;

/// How a request is forwarded. Source: `envoy.config.route.v3.RouteAction`.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteAction {
    /// Where to. Source: `cluster_specifier`.
    pub cluster: ClusterSpecifier,
    /// Answer when that cluster does not exist. Default 503. Source: `cluster_not_found_response_code`.
    pub cluster_not_found_response_code: ClusterNotFoundResponseCode,
    /// How the path is rewritten. Default `None`: it is not.
    pub path_rewrite: PathRewrite,
    /// How the host is rewritten. Default `None`: it is not. Source: `host_rewrite_specifier`.
    pub host_rewrite: HostRewrite,
    /// Whether a rewritten host's original is appended to `x-forwarded-host`. Default false.
    /// Source: `append_x_forwarded_host`.
    pub append_x_forwarded_host: bool,
    /// Longest time from the end of the request to the end of the response. Default 15 s; zero: no limit. Beyond it: 504,
    /// flag UT. Source: `timeout`.
    pub timeout: Duration,
    /// Longest time without a byte in either direction of the stream. Default `None`: the connection manager's
    /// `stream_idle_timeout`; zero: no limit. Beyond it: 408 before the response head, else a reset; flag SI.
    /// Source: `idle_timeout`.
    pub idle_timeout: Option<Duration>,
    /// Longest time a finished response of HTTP/2 may wait for the peer to read it; zero: no limit. Default `None`: the
    /// connection manager's, or `idle_timeout` where that has no `stream_flush_timeout`. Beyond it: a reset. Source:
    /// `flush_timeout`.
    pub flush_timeout: Option<Duration>,
    /// Longest life of the stream. Default `None`: the connection manager's. Source: `max_stream_duration`.
    pub max_stream_duration: Option<MaxStreamDuration>,
    /// When set, gRPC requests take their timeout from `grpc-timeout`, at most this long; zero: uncapped. Default `None`:
    /// the header is not read. No effect with `max_stream_duration.grpc_timeout_header_max`. Source: `max_grpc_timeout` (deprecated).
    pub max_grpc_timeout: Option<Duration>,
    /// Subtracted from the time that `grpc-timeout` grants (when that is longer). Default `None`.
    /// Source: `grpc_timeout_offset` (deprecated).
    pub grpc_timeout_offset: Option<Duration>,
    /// Which circuit breakers and connections of the cluster requests have. Default: those of default priority. Source:
    /// `priority`.
    pub priority: RoutingPriority,
    /// Upgrades allowed or forbidden on this route, over the connection manager's. Default none. Source: `upgrade_configs`.
    pub upgrade_configs: Vec<UpgradeConfig>,
    /// What of a request decides about its endpoint where the cluster's balancer hashes. Default none: any endpoint. Source:
    /// `hash_policy`.
    pub hash_policy: Vec<HashPolicy>,
}

impl RouteAction {
    /// An action with Envoy's defaults.
    pub fn to(cluster: ClusterSpecifier) -> Self {
        Self {
            cluster,
            cluster_not_found_response_code: ClusterNotFoundResponseCode::ServiceUnavailable,
            path_rewrite: PathRewrite::None,
            host_rewrite: HostRewrite::None,
            append_x_forwarded_host: false,
            timeout: Duration::from_secs(15),
            idle_timeout: None,
            flush_timeout: None,
            max_stream_duration: None,
            max_grpc_timeout: None,
            grpc_timeout_offset: None,
            priority: RoutingPriority::Default,
            upgrade_configs: Vec::new(),
            hash_policy: Vec::new(),
        }
    }
}

/// Where a request is forwarded to. Source: `RouteAction.cluster_specifier`.
#[derive(Debug, Clone, PartialEq)]
pub enum ClusterSpecifier {
    /// This cluster. Source: `cluster`.
    Cluster(Box<str>),
    /// The cluster named by the first value of this request header; missing or unknown: the not-found code.
    /// Source: `cluster_header`.
    ClusterHeader(Box<str>),
    /// One of several, drawn by weight. Source: `weighted_clusters`.
    WeightedClusters(WeightedClusters),
}

/// Clusters and weights. Source: `envoy.config.route.v3.WeightedCluster`.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedClusters {
    /// The clusters; at least one; the sum of the weights is 1 to 4,294,967,295, but for what runtime makes of it. Source:
    /// `clusters`.
    pub clusters: Vec<ClusterWeight>,
    /// Header whose decimal value is drawn instead of a random number (modulo the sum of weights); missing or not a
    /// number: random. Default none. Source: `header_name`.
    pub header_name: Option<Box<str>>,
}

/// One of several clusters. Source: `envoy.config.route.v3.WeightedCluster.ClusterWeight`.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterWeight {
    /// The cluster, by name or by request header (never `WeightedClusters`: refused by validation).
    /// Source: `name`, `cluster_header`.
    pub cluster: WeightedClusterName,
    /// Weight. Default 0: never drawn. Source: `weight`.
    pub weight: u32,
    /// Under which the runtime layers may have another weight; `None`: none can come. Source: `runtime_key_prefix` and the
    /// cluster's name.
    pub runtime_key: Option<RuntimeKey>,
    /// Header changes for requests that go there; applied before the route's. Default none.
    pub header_mutations: HeaderMutations,
    /// What is said about filters here, over the route's word. Default nothing. Source: `typed_per_filter_config`.
    pub filters: Vec<FilterOverride>,
    /// Host sent there; over the route's own host rewrite. Default none. Source: `host_rewrite_literal`.
    pub host_rewrite_literal: Option<Box<str>>,
}

impl ClusterWeight {
    /// The weight at this moment.
    pub fn current_weight(&self) -> u64 {
        let other = self.runtime_key.as_ref().and_then(RuntimeKey::integer);
        other.unwrap_or_else(|| self.weight.into())
    }
}

/// How one of several clusters is named. Source: `ClusterWeight.name`, `ClusterWeight.cluster_header`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightedClusterName {
    /// By its name.
    Cluster(Box<str>),
    /// By the first value of this request header.
    ClusterHeader(Box<str>),
}

/// Answer when a cluster does not exist. Source: `RouteAction.ClusterNotFoundResponseCode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClusterNotFoundResponseCode {
    /// 503. Source: `SERVICE_UNAVAILABLE`.
    #[default]
    ServiceUnavailable,
    /// 404. Source: `NOT_FOUND`.
    NotFound,
    /// 500. Source: `INTERNAL_SERVER_ERROR`.
    InternalServerError,
}

impl ClusterNotFoundResponseCode {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::ServiceUnavailable => 503,
            Self::NotFound => 404,
            Self::InternalServerError => 500,
        }
    }
}

/// How the path is rewritten before the request goes upstream; at most one of them (refused otherwise, as in Envoy).
/// The path it replaces is kept in `x-envoy-original-path`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PathRewrite {
    /// Not at all.
    #[default]
    None,
    /// What the route's path condition matched is replaced by this text; the query stays. Source: `prefix_rewrite`.
    Prefix(Box<str>),
    /// Matches in the path without its query are replaced. Source: `regex_rewrite`.
    Regex(RegexRewrite),
}

/// How the host is rewritten before the request goes upstream. Source: `RouteAction.host_rewrite_specifier`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HostRewrite {
    /// Not at all.
    #[default]
    None,
    /// To this text. Source: `host_rewrite_literal`.
    Literal(Box<str>),
    /// To the host name of the endpoint chosen (clusters with DNS names). Source: `auto_host_rewrite`.
    Auto,
    /// To the first value of this request header; missing or empty: not at all. Source: `host_rewrite_header`.
    Header(Box<str>),
    /// To the path without its query after this replacement. Source: `host_rewrite_path_regex`.
    PathRegex(RegexRewrite),
}

/// Longest life of a stream. Source: `RouteAction.MaxStreamDuration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MaxStreamDuration {
    /// Over the connection manager's; zero: no limit; default: the connection manager's. Source: `max_stream_duration`.
    pub max_stream_duration: Option<Duration>,
    /// When set, a `grpc-timeout` header bounds the stream, at most this long; zero: uncapped. Default: the header is not
    /// read. Source: `grpc_timeout_header_max`.
    pub grpc_timeout_header_max: Option<Duration>,
    /// Subtracted from the time that `grpc-timeout` grants (when that is longer). Default zero.
    /// Source: `grpc_timeout_header_offset`.
    pub grpc_timeout_header_offset: Option<Duration>,
}

/// An upgrade allowed or forbidden. Source: `RouteAction.UpgradeConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeConfig {
    /// `websocket`, `CONNECT`, ...; compared without case; once per route. Source: `upgrade_type`.
    pub upgrade_type: Box<str>,
    /// Whether it is allowed. Default true. Source: `enabled`.
    pub enabled: bool,
    /// For `CONNECT`: end the tunnel here and forward its bytes as raw TCP. Default none: CONNECT is forwarded.
    /// Source: `connect_config`.
    pub connect_config: Option<ConnectConfig>,
}

/// How a CONNECT tunnel ends here. Source: `RouteAction.UpgradeConfig.ConnectConfig`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectConfig {
    /// Whether a POST may stand for CONNECT. Source: `allow_post`.
    pub allow_post: bool,
    /// The PROXY header that the endpoint's connection begins with; TLVs it has none, as in Envoy. Source:
    /// `proxy_protocol_config`.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
}

/// A redirect. Source: `envoy.config.route.v3.RedirectAction`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RedirectAction {
    /// Scheme of the new location. Default: the request's. A change between http and https drops the port that is the
    /// old scheme's default. Source: `scheme_rewrite_specifier`.
    pub scheme: SchemeRedirect,
    /// Host of the new location; default: the request's. Source: `host_redirect`.
    pub host_redirect: Option<Box<str>>,
    /// Port of the new location; default: the request's. Source: `port_redirect`.
    pub port_redirect: Option<u16>,
    /// Path of the new location; default: the request's. Source: `path_rewrite_specifier`.
    pub path: RedirectPathRewrite,
    /// Status. Default 301. Source: `response_code`.
    pub response_code: RedirectResponseCode,
    /// Whether the query is dropped. Default false. A `path_redirect` that has a query of its own always drops the
    /// request's. Source: `strip_query`.
    pub strip_query: bool,
}

/// Scheme of a redirect. Source: `RedirectAction.scheme_rewrite_specifier`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SchemeRedirect {
    /// The request's.
    #[default]
    Keep,
    /// `https`. Source: `https_redirect`.
    Https,
    /// This one. Source: `scheme_redirect`.
    Scheme(Box<str>),
}

/// Path of a redirect. Source: `RedirectAction.path_rewrite_specifier`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RedirectPathRewrite {
    /// The request's.
    #[default]
    Keep,
    /// This one. Source: `path_redirect`.
    Path(Box<str>),
    /// What the route's path condition matched is replaced by this text. Source: `prefix_rewrite`.
    Prefix(Box<str>),
    /// Matches in the path without its query are replaced. Source: `regex_rewrite`.
    Regex(RegexRewrite),
}

/// Status of a redirect. Source: `RedirectAction.RedirectResponseCode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RedirectResponseCode {
    /// 301. Source: `MOVED_PERMANENTLY`.
    #[default]
    MovedPermanently,
    /// 302. Source: `FOUND`.
    Found,
    /// 303. Source: `SEE_OTHER`.
    SeeOther,
    /// 307. Source: `TEMPORARY_REDIRECT`.
    TemporaryRedirect,
    /// 308. Source: `PERMANENT_REDIRECT`.
    PermanentRedirect,
}

impl RedirectResponseCode {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::MovedPermanently => 301,
            Self::Found => 302,
            Self::SeeOther => 303,
            Self::TemporaryRedirect => 307,
            Self::PermanentRedirect => 308,
        }
    }
}

/// An answer with fixed content. Source: `envoy.config.route.v3.DirectResponseAction`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponse {
    /// Status, 200 to 599. Source: `status`.
    pub status: u16,
    /// Body; the content of a file was read when configuration was converted. Default empty. At most
    /// `RouteConfiguration::max_direct_response_body_bytes`. Source: `body`.
    pub body: Box<[u8]>,
}
