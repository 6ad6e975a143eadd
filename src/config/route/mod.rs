//! Route configuration as converted from `envoy.config.route.v3`: plain, immutable, nothing compiled.
//!
//! `route::RouteTable::compile` turns a `RouteConfiguration` into what the data path reads. Texts that are regular
//! expressions or format strings are kept as written and checked there.

mod action;
mod hash_policy;
mod header;

pub use action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, ClusterWeight, ConnectConfig, DirectResponse, HostRewrite,
    MaxStreamDuration, PathRewrite, RedirectAction, RedirectPathRewrite, RedirectResponseCode, RouteAction,
    SchemeRedirect, UpgradeConfig, WeightedClusterName, WeightedClusters,
};
pub use hash_policy::{HashCookie, HashPolicy, HashSource};
pub use header::{HeaderAppendAction, HeaderMutations, HeaderValueOption};

use super::ads::Vhds;
use super::http_filter::FilterOverride;
use super::matcher::{HeaderMatcher, QueryParameterMatcher, RuntimeFraction};

/// A whole routing table. Source: `envoy.config.route.v3.RouteConfiguration`.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteConfiguration {
    /// Name, for `/config_dump`, RDS and `%ROUTE_CONFIG_NAME%`-like texts. Default empty. Source: `name`.
    pub name: Box<str>,
    /// The virtual hosts; domains must be unique across all of them. Source: `virtual_hosts`.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Where more of them come from; only in a table that is told itself. Default none. Source: `vhds`.
    pub vhds: Option<Vhds>,
    /// Headers that only internal clients may send: removed from external requests. Default none.
    /// Source: `internal_only_headers`.
    pub internal_only_headers: Vec<Box<str>>,
    /// Header changes for every request and response. Default none.
    pub header_mutations: HeaderMutations,
    /// Order of header changes. False (default): route, virtual host, route configuration, so that the most general
    /// wins; true: the reverse, so that the most specific wins. Source: `most_specific_header_mutations_wins`.
    pub most_specific_header_mutations_wins: bool,
    /// Whether every cluster named must exist when the table is loaded. Default: true for a table in a file, false for
    /// one from RDS (`convert` resolves it). When false, an unknown cluster answers with
    /// `RouteAction::cluster_not_found_response_code`. Source: `validate_clusters`.
    pub validate_clusters: bool,
    /// Largest direct-response body accepted, in bytes. Default 4,096. Beyond it the table is refused.
    /// Source: `max_direct_response_body_size_bytes`.
    pub max_direct_response_body_bytes: u32,
    /// Whether the port of the host is ignored when virtual hosts are searched. Default false.
    /// Source: `ignore_port_in_host_matching`.
    pub ignore_port_in_host_matching: bool,
    /// Whether `;parameters` in the path are ignored when paths are matched. Default false.
    /// Source: `ignore_path_parameters_in_path_matching`.
    pub ignore_path_parameters_in_path_matching: bool,
    /// What is said about filters here. Default nothing. Source: `typed_per_filter_config`.
    pub filters: Vec<FilterOverride>,
    /// Header whose value is searched instead of the host; default none, the host. Without that header no virtual host
    /// matches. Source: `vhost_header`.
    pub vhost_header: Option<Box<str>>,
}

impl Default for RouteConfiguration {
    fn default() -> Self {
        Self {
            name: Box::default(),
            virtual_hosts: Vec::new(),
            vhds: None,
            internal_only_headers: Vec::new(),
            header_mutations: HeaderMutations::default(),
            most_specific_header_mutations_wins: false,
            validate_clusters: false,
            max_direct_response_body_bytes: 4096,
            ignore_port_in_host_matching: false,
            ignore_path_parameters_in_path_matching: false,
            filters: Vec::new(),
            vhost_header: None,
        }
    }
}

/// The routes of some domains. Source: `envoy.config.route.v3.VirtualHost`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VirtualHost {
    /// Name, for logs, statistics and `%VIRTUAL_CLUSTER_NAME%`-like texts. Source: `name`.
    pub name: Box<str>,
    /// Hosts served: exact (`a.b`), suffix wildcard (`*.b`, `*-b.c`), prefix wildcard (`a.*`) or `*`; compared without
    /// case; searched exact first, then the longest suffix, the longest prefix, `*`. Source: `domains`.
    pub domains: Vec<Box<str>>,
    /// Routes in order; the first that matches is taken. Source: `routes`.
    pub routes: Vec<Route>,
    /// Whether plain HTTP is redirected to https. Default `None`. Source: `require_tls`.
    pub require_tls: TlsRequirement,
    /// Header changes for requests and responses of this virtual host. Default none.
    pub header_mutations: HeaderMutations,
    /// Whether upstream requests carry `x-envoy-attempt-count`. Default false. Source: `include_request_attempt_count`.
    pub include_request_attempt_count: bool,
    /// Whether responses carry `x-envoy-attempt-count`. Default false. Source: `include_attempt_count_in_response`.
    pub include_attempt_count_in_response: bool,
    /// What is said about filters here, over the route configuration's word. Default nothing. Source:
    /// `typed_per_filter_config`.
    pub filters: Vec<FilterOverride>,
}

/// Who is redirected to https. Source: `envoy.config.route.v3.VirtualHost.TlsRequirementType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsRequirement {
    /// Nobody. Source: `NONE`.
    #[default]
    None,
    /// External requests over plain HTTP: 301 to https. Source: `EXTERNAL_ONLY`.
    ExternalOnly,
    /// All requests over plain HTTP: 301 to https. Source: `ALL`.
    All,
}

/// One route. Source: `envoy.config.route.v3.Route`.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Name, for `%ROUTE_NAME%`. Default empty. Source: `name`.
    pub name: Box<str>,
    /// Which requests take it. Source: `match`.
    pub matcher: RouteMatch,
    /// What is done with them. Source: `action`.
    pub action: Action,
    /// Header changes for requests and responses of this route. Default none.
    pub header_mutations: HeaderMutations,
    /// What is said about filters here, over the virtual host's word. Default nothing. Source: `typed_per_filter_config`.
    pub filters: Vec<FilterOverride>,
}

/// What a route does. Source: `envoy.config.route.v3.Route.action`.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send the request to a cluster. Source: `route`. Boxed: by far the largest.
    Forward(Box<RouteAction>),
    /// Answer with a redirect. Source: `redirect`.
    Redirect(Box<RedirectAction>),
    /// Answer with fixed content. Source: `direct_response`.
    DirectResponse(DirectResponse),
    /// Matches, but nothing is forwarded: for filters that answer by themselves. Source: `non_forwarding_action`.
    NonForwarding,
}

/// Which requests take a route: all conditions must hold. Source: `envoy.config.route.v3.RouteMatch`.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteMatch {
    /// Condition on the path. Source: `path_specifier`.
    pub path: PathMatch,
    /// Whether `Prefix`, `Path` and `PathSeparatedPrefix` compare with case. Default true. Source: `case_sensitive`.
    pub case_sensitive: bool,
    /// Share of requests that may match at all; default: all. Source: `runtime_fraction`.
    pub runtime_fraction: Option<RuntimeFraction>,
    /// Conditions on headers. Default none. Source: `headers`.
    pub headers: Vec<HeaderMatcher>,
    /// Conditions on query parameters. Default none. Source: `query_parameters`.
    pub query_parameters: Vec<QueryParameterMatcher>,
    /// Whether only gRPC requests match: content type `application/grpc` or `application/grpc+…`. Default false.
    /// Source: `grpc`.
    pub grpc: bool,
}

impl Default for RouteMatch {
    fn default() -> Self {
        Self {
            path: PathMatch::Prefix("/".into()),
            case_sensitive: true,
            runtime_fraction: None,
            headers: Vec::new(),
            query_parameters: Vec::new(),
            grpc: false,
        }
    }
}

/// Condition on the path; no condition sees the query. Source: `RouteMatch.path_specifier`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// The path begins with this text (empty: every path). Source: `prefix`.
    Prefix(Box<str>),
    /// The path equals this text. Source: `path`.
    Path(Box<str>),
    /// The path equals this text or continues after it with `/`. Begins with `/`, does not end with it
    /// (`/` itself, which could not, is `Prefix`). Source: `path_separated_prefix`.
    PathSeparatedPrefix(Box<str>),
    /// The whole path matches this regular expression. Source: `safe_regex`.
    SafeRegex(Box<str>),
    /// The method is CONNECT (or an extended CONNECT). Source: `connect_matcher`.
    Connect,
}
