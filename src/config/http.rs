//! The HTTP connection manager and the protocol options that both sides share. Source: Envoy
//! `extensions.filters.network.http_connection_manager.v3` and `config.core.v3.protocol`.
use std::sync::Arc;
use std::time::Duration;

use super::access_log::{AccessLog, LocalReplyConfig};
use super::address::CidrRange;
use super::ads::{Rds, Srds};
use super::http_filter::{HttpFilter, HttpFilterConfig};
use super::http2::Http2ProtocolOptions;
use super::matcher::StringMatcher;
use super::route::RouteConfiguration;
use super::scoped_routes::ScopedRoutes;
use super::told_filter::ToldFilter;

/// How a chain serves HTTP.
#[derive(Debug, Clone)]
pub struct HttpConnectionManager {
    /// Name in statistics (`http.STAT_PREFIX.`), not empty. Source: `stat_prefix`.
    pub stat_prefix: Box<str>,
    /// Which protocols the chain speaks. Source: `codec_type`.
    pub codec_type: CodecType,
    /// The routing table. Source: `route_config`.
    pub route_config: Arc<RouteConfiguration>,
    /// Where the routing table comes from instead; until it is there, no request has a route. Source: `rds`.
    pub rds: Option<Rds>,
    /// Tables for requests of some scopes instead; `route_config` is empty then, and those of no scope have no route. Default
    /// `None`: there are no scopes. Source: `scoped_routes`.
    pub scoped_routes: Option<Arc<ScopedRoutes>>,
    /// Filters in order; the last one, and only it, is the router. Source: `http_filters`.
    pub http_filters: Vec<HttpFilter>,

    /// HTTP/1 options towards clients. Source: `http_protocol_options`.
    pub http1: Http1ProtocolOptions,
    /// HTTP/2 options towards clients. Source: `http2_protocol_options`.
    pub http2: Http2ProtocolOptions,
    /// Timeouts and limits of connections and streams. Source: `common_http_protocol_options`.
    pub common: CommonHttpProtocolOptions,
    /// Largest request head accepted, in KiB, 1..=8192. Default 60. Beyond it: 431 and close. Source:
    /// `max_request_headers_kb`.
    pub max_request_headers_kb: u32,
    /// Whether a request of HTTP/1 whose path is refused costs only itself. Default false: the connection is closed. Where the
    /// end of a request is not known, or has not come, it is closed in any case. In HTTP/2 a request costs its stream only.
    /// Source: `http_protocol_options.override_stream_error_on_invalid_http_message`, else
    /// `stream_error_on_invalid_http_message`.
    pub stream_error_on_invalid_http_message: bool,

    /// Longest time without a byte in either direction of a stream. Default 5 min; `None` (`0s`): no limit. Beyond
    /// it: 408 before the response head, else a reset; flag SI. Source: `stream_idle_timeout`.
    pub stream_idle_timeout: Option<Duration>,
    /// Longest time a finished response may wait for the peer to read it. Default: `stream_idle_timeout`. `None`: no
    /// limit. Source: `stream_flush_timeout`.
    pub stream_flush_timeout: Option<Duration>,
    /// Whether `stream_flush_timeout` is not set: then a route's `idle_timeout` takes its place, too. Default true.
    pub flush_follows_idle: bool,
    /// Longest time from the first byte to the last of a request. Default `None`: no limit. Beyond it: 408. Source:
    /// `request_timeout`.
    pub request_timeout: Option<Duration>,
    /// Longest time from the first byte to the end of a request's head. Default `None`: no limit. Beyond it: 408.
    /// Source: `request_headers_timeout`.
    pub request_headers_timeout: Option<Duration>,
    /// How long a draining HTTP/2 connection stays for requests that are on their way, after it has told its client.
    /// HTTP/1 needs none, the last response says `Connection: close`. Default 5 s. Source: `drain_timeout`.
    pub drain_timeout: Duration,
    /// At most this much random time is added to it, drawn for each connection. Default 0. Source: `drain_timeout_jitter`, a
    /// percentage of it.
    pub drain_timeout_jitter: Duration,
    /// Longest time a connection that this side has closed waits for the peer's last bytes. Default 1 s; `None`
    /// (`0s`): it is closed at once. Source: `delayed_close_timeout`.
    pub delayed_close_timeout: Option<Duration>,
    /// Whether a connection past `max_connection_duration` ends with `Connection: close` on a response instead of a
    /// plain close while idle. Default false. Source: `http1_safe_max_connection_duration`.
    pub http1_safe_max_connection_duration: bool,

    /// Logs of requests. Source: `access_log`.
    pub access_log: Vec<AccessLog>,
    /// How the proxy's own replies look. Source: `local_reply_config`.
    pub local_reply_config: LocalReplyConfig,
    /// Upgrades that may pass: only these protocols, compared without case. Source: `upgrade_configs`.
    pub upgrade_configs: Vec<UpgradeConfig>,

    /// Which client address counts: the peer's (true: this proxy is the edge) or the one in `x-forwarded-for`.
    /// Default false. Source: `use_remote_address`.
    pub use_remote_address: bool,
    /// Trusted proxies in front: that many entries at the end of `x-forwarded-for` are believed. Default 0. Source:
    /// `xff_num_trusted_hops`.
    pub xff_num_trusted_hops: u32,
    /// Whether the peer's address is left out of `x-forwarded-for`. Default false; matters only with
    /// `use_remote_address`. Source: `skip_xff_append`.
    pub skip_xff_append: bool,
    /// Whether an IPv4 peer is written as `::ffff:a.b.c.d` into `x-forwarded-for`. Default false. Source:
    /// `represent_ipv4_remote_address_as_ipv4_mapped_ipv6`.
    pub represent_ipv4_remote_address_as_ipv4_mapped_ipv6: bool,
    /// Whether requests get `x-forwarded-port`. Default false. Source: `append_x_forwarded_port`.
    pub append_x_forwarded_port: bool,
    /// Whether PROXY headers to endpoints name clients whose own connection has begun with none. Default true; else they
    /// name nobody. Source: `add_proxy_protocol_connection_state`.
    pub add_proxy_protocol_connection_state: bool,
    /// Which peers make a request internal. Source: `internal_address_config`.
    pub internal_addresses: InternalAddressConfig,
    /// What becomes of `x-forwarded-client-cert`. Source: `forward_client_cert_details`.
    pub forward_client_cert_details: ForwardClientCertDetails,
    /// What the header says of the client, besides its certificate's hash. Source: `set_current_client_cert_details`.
    pub set_current_client_cert_details: ClientCertDetails,

    /// Value appended to `via` of requests and responses; empty: `via` is left alone. Source: `via`.
    pub via: Box<str>,
    /// Whether requests without a trusted `x-request-id` get one. Default true. Source: `generate_request_id`.
    pub generate_request_id: bool,
    /// Whether the `x-request-id` of an external request is kept. Default false. Source:
    /// `preserve_external_request_id`.
    pub preserve_external_request_id: bool,
    /// Whether every response carries `x-request-id`. Default false: only to requests that force tracing. Source:
    /// `always_set_request_id_in_response`.
    pub always_set_request_id_in_response: bool,
    /// Whether requests get `user-agent` (the node's cluster, when they have none) and
    /// `x-envoy-downstream-service-cluster`. Default false. Source: `add_user_agent`.
    pub add_user_agent: bool,
    /// Whether `100 Continue` comes from the upstream (true) or at once from here. Default false. Source:
    /// `proxy_100_continue`.
    pub proxy_100_continue: bool,
    /// Value of `server`. Default `envoy`. Source: `server_name`.
    pub server_name: Box<str>,
    /// When `server` is written. Source: `server_header_transformation`.
    pub server_header_transformation: ServerHeaderTransformation,
    /// What `:scheme` of requests becomes. Default: left alone. Source: `scheme_header_transformation`.
    pub scheme_header_transformation: SchemeHeaderTransformation,

    /// Whether paths are normalised (RFC 3986 6.2.2: dot segments, percent-encoding of unreserved characters) before
    /// they are matched and forwarded. Default false (Envoy's API default when `normalize_path` is unset and the
    /// runtime key `http_connection_manager.normalize_path` has no other word). Source: `normalize_path`.
    pub normalize_path: bool,
    /// Whether `//` in paths becomes `/`. Default false. Source: `merge_slashes`.
    pub merge_slashes: bool,
    /// What happens to `%2F` and `%5C` in paths. Source: `path_with_escaped_slashes_action`.
    pub path_with_escaped_slashes_action: PathWithEscapedSlashesAction,
    /// What is cut from the host's port. Source: `strip_matching_host_port`, `strip_any_host_port`.
    pub strip_port: StripPort,
    /// Whether one dot at the host's end is cut. Default false. Source: `strip_trailing_host_dot`.
    pub strip_trailing_host_dot: bool,
}

/// Protocols of a chain. Source: Envoy `HttpConnectionManager.CodecType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CodecType {
    /// Told from the first bytes, or by ALPN. The default.
    #[default]
    Auto,
    /// HTTP/1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// The router. Source: Envoy `extensions.filters.http.router.v3.Router`.
#[derive(Debug, Clone, Default)]
pub struct RouterConfig {
    /// Whether `x-envoy-*` headers are left out of requests and responses. Default false. Source:
    /// `suppress_envoy_headers`.
    pub suppress_envoy_headers: bool,
    /// Whether `x-envoy-expected-rq-timeout-ms` of a trusted peer counts as the timeout. Default false. Source:
    /// `respect_expected_rq_timeout`.
    pub respect_expected_rq_timeout: bool,
}

/// HTTP/1 options. Source: Envoy `core.v3.Http1ProtocolOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http1ProtocolOptions {
    /// Whether `GET http://host/path` is understood (RFC 9112 3.2.2). Default true. Source: `allow_absolute_url`.
    pub allow_absolute_url: bool,
    /// Whether HTTP/1.0 requests are served; without it they get 426. Default false. Source: `accept_http_10`.
    pub accept_http_10: bool,
    /// Host of HTTP/1.0 requests that have none; empty: they get 400. Source: `default_host_for_http_10`.
    pub default_host_for_http_10: Box<str>,
    /// How header names are written. Source: `header_key_format`.
    pub header_key_format: HeaderKeyFormat,
    /// Whether trailers pass; without it they are read and dropped. Default false. Source: `enable_trailers`.
    pub enable_trailers: bool,
    /// Whether a message with both `Content-Length` and chunked `Transfer-Encoding` is accepted, the length then
    /// being dropped. Default false: 400. Source: `allow_chunked_length`.
    pub allow_chunked_length: bool,
    /// Whether requests to endpoints are written in absolute form. Default false. Source: `send_fully_qualified_url`.
    pub send_fully_qualified_url: bool,
    /// Whether any token is a method. Default false: only those Envoy's parser knows, else 400. Source:
    /// `allow_custom_methods`.
    pub allow_custom_methods: bool,
    /// Values of `Upgrade` that are treated as absent. Source: `ignore_http_11_upgrade`.
    pub ignore_http_11_upgrade: Vec<StringMatcher>,
}

/// How header names are written in HTTP/1. Source: Envoy `Http1ProtocolOptions.HeaderKeyFormat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeaderKeyFormat {
    /// All lower case. The default.
    #[default]
    LowerCase,
    /// `Content-Type`: first letters upper case. Source: `proper_case_words`.
    ProperCaseWords,
    /// As received, set on the side that receives; names added here are in lower case. Source: the stateful formatter
    /// `preserve_case`.
    PreserveCase {
        /// How names without an original case are written. Source: `formatter_type_on_envoy_headers`.
        proper_case_added: bool,
        /// Whether the reason phrase of a response is forwarded. Source: `forward_reason_phrase`.
        forward_reason_phrase: bool,
    },
}

impl HeaderKeyFormat {
    /// How a message is written that came in on one side, with this format, and goes out on the other. The receiving side
    /// decides whether names are kept as they came, as in Envoy: requests by the connection manager's word, responses by
    /// the cluster's.
    pub fn towards(self, sent_by: Self) -> Self {
        match (self, sent_by) {
            (Self::PreserveCase { .. }, _) => self,
            (_, Self::PreserveCase { .. }) => Self::LowerCase,
            _ => sent_by,
        }
    }
}

/// Limits that do not depend on the HTTP version. Source: Envoy `core.v3.HttpProtocolOptions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommonHttpProtocolOptions {
    /// Longest time a connection lives without a request. Default 1 h; `None` (`0s`): no limit. Source:
    /// `idle_timeout`.
    pub idle_timeout: Option<Duration>,
    /// Longest life of a connection, then it drains. Default `None`: no limit. Source: `max_connection_duration`.
    pub max_connection_duration: Option<Duration>,
    /// At most this much random time is added to it, drawn for each connection. Default 0. Only towards clients. Source:
    /// `max_connection_duration_jitter`, a percentage of it.
    pub max_connection_duration_jitter: Duration,
    /// Most headers of a message. Default 100. Beyond it: a request gets 431, a response counts as broken (502).
    /// Source: `max_headers_count`.
    pub max_headers_count: u32,
    /// Largest response head, in KiB, 1..=8192. Default 80, Envoy's for HTTP/1. Only towards endpoints. Beyond it: 502.
    /// Source: `max_response_headers_kb`.
    pub max_response_headers_kb: u32,
    /// Longest life of a stream. Default `None`: no limit. Beyond it: 504 or a reset; flag DT or UMSDR. Source:
    /// `max_stream_duration`.
    pub max_stream_duration: Option<Duration>,
    /// What happens to requests whose header names contain `_`. Source: `headers_with_underscores_action`.
    pub headers_with_underscores_action: HeadersWithUnderscoresAction,
    /// Requests after which a connection is closed. Default `None`: no limit. Source:
    /// `max_requests_per_connection`.
    pub max_requests_per_connection: Option<u32>,
}

/// What happens to header names that contain `_`. Source: Envoy
/// `HttpProtocolOptions.HeadersWithUnderscoresAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeadersWithUnderscoresAction {
    /// They pass. The default.
    #[default]
    Allow,
    /// The request gets 400.
    RejectRequest,
    /// The header is dropped and counted.
    DropHeader,
}

/// An upgrade that may pass. Source: Envoy `HttpConnectionManager.UpgradeConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeConfig {
    /// `websocket`, `CONNECT`, or any value of `Upgrade`, compared without case. Source: `upgrade_type`.
    pub upgrade_type: Box<str>,
    /// Whether it passes where the route says nothing. Default true. Source: `enabled`.
    pub enabled: bool,
    /// Whether its requests pass no filter but the router. Default false. Source: `filters`, which can be the router only.
    pub router_alone: bool,
}

/// Which addresses make a request internal. Source: Envoy `HttpConnectionManager.InternalAddressConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InternalAddressConfig {
    /// Whether peers on Unix sockets are internal. Default false. Source: `unix_sockets`.
    pub unix_sockets: bool,
    /// Ranges of internal addresses. Default none: no request is internal, as in Envoy since 1.33. Source:
    /// `cidr_ranges`.
    pub cidr_ranges: Vec<CidrRange>,
}

/// What becomes of `x-forwarded-client-cert`; without a client certificate all but the last remove it. Source: Envoy
/// `HttpConnectionManager.ForwardClientCertDetails`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ForwardClientCertDetails {
    /// It is removed. The default.
    #[default]
    Sanitize,
    /// It passes on mutually authenticated connections.
    ForwardOnly,
    /// The client's certificate is appended on mutually authenticated connections.
    AppendForward,
    /// It is replaced by the client's certificate on mutually authenticated connections.
    SanitizeSet,
    /// It passes always.
    AlwaysForwardOnly,
}

/// What `x-forwarded-client-cert` says of a client. Source: Envoy `HttpConnectionManager.SetCurrentClientCertDetails`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ClientCertDetails {
    /// The subject. Default false. Source: `subject`.
    pub subject: bool,
    /// The certificate, as URL-encoded PEM. Default false. Source: `cert`.
    pub cert: bool,
    /// The chain, as URL-encoded PEM. Default false. Source: `chain`.
    pub chain: bool,
    /// The DNS names. Default false. Source: `dns`.
    pub dns: bool,
    /// The URIs. Default false. Source: `uri`.
    pub uri: bool,
}

/// When `server` is written to responses. Source: Envoy `ServerHeaderTransformation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ServerHeaderTransformation {
    /// Always. The default.
    #[default]
    Overwrite,
    /// When the upstream's response has none.
    AppendIfAbsent,
    /// Never.
    PassThrough,
}

/// What `:scheme` of requests becomes. Source: Envoy `core.v3.SchemeHeaderTransformation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SchemeHeaderTransformation {
    /// Nothing: the connection's, or a trusted peer's `x-forwarded-proto`. The default.
    #[default]
    None,
    /// `http`. Source: `scheme_to_overwrite`.
    Http,
    /// `https`. Source: `scheme_to_overwrite`.
    Https,
    /// That of the connection to the endpoint. Source: `match_upstream`.
    MatchUpstream,
}

/// What happens to escaped slashes (`%2F`, `%5C`) in paths. Source: Envoy `PathWithEscapedSlashesAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PathWithEscapedSlashesAction {
    /// They stay. The default, also for `IMPLEMENTATION_SPECIFIC_DEFAULT`.
    #[default]
    KeepUnchanged,
    /// The request gets 400.
    RejectRequest,
    /// They become slashes and the client is redirected (307) there; gRPC requests get 400.
    UnescapeAndRedirect,
    /// They become slashes before the path is normalised and matched.
    UnescapeAndForward,
}

/// What is cut from the port of a request's host. Source: Envoy `strip_port_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum StripPort {
    /// Nothing. The default.
    #[default]
    None,
    /// A port equal to the listener's. Source: `strip_matching_host_port`.
    Matching,
    /// Any port. Source: `strip_any_host_port`.
    Any,
}

impl Default for CommonHttpProtocolOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_connection_duration_jitter: Duration::ZERO,
            max_headers_count: 100,
            max_response_headers_kb: 80,
            max_stream_duration: None,
            headers_with_underscores_action: HeadersWithUnderscoresAction::default(),
            max_requests_per_connection: None,
        }
    }
}

impl Default for Http1ProtocolOptions {
    fn default() -> Self {
        Self {
            allow_absolute_url: true,
            accept_http_10: false,
            default_host_for_http_10: Box::default(),
            header_key_format: HeaderKeyFormat::default(),
            enable_trailers: false,
            allow_chunked_length: false,
            send_fully_qualified_url: false,
            allow_custom_methods: false,
            ignore_http_11_upgrade: Vec::new(),
        }
    }
}

impl HttpConnectionManager {
    /// Where its scopes come from; `None`: it has none, or all of them.
    pub fn srds(&self) -> Option<&Srds> {
        self.scoped_routes.as_ref()?.told.as_ref()
    }

    /// Those of its filters that are told.
    pub fn told_filters(&self) -> impl Iterator<Item = &ToldFilter> {
        self.http_filters.iter().filter_map(|filter| filter.config.as_told())
    }

    /// A manager with Envoy's defaults, its routing table and a router: what a config that sets nothing else means.
    pub fn new(stat_prefix: &str, route_config: Arc<RouteConfiguration>) -> Self {
        Self {
            stat_prefix: stat_prefix.into(),
            codec_type: CodecType::default(),
            route_config,
            rds: None,
            scoped_routes: None,
            http_filters: vec![HttpFilter {
                name: "envoy.filters.http.router".into(),
                disabled: false,
                config: HttpFilterConfig::Router(RouterConfig::default()),
            }],
            http1: Http1ProtocolOptions::default(),
            http2: Http2ProtocolOptions::default(),
            common: CommonHttpProtocolOptions::default(),
            max_request_headers_kb: 60,
            stream_error_on_invalid_http_message: false,
            stream_idle_timeout: Some(Duration::from_secs(300)),
            stream_flush_timeout: Some(Duration::from_secs(300)),
            flush_follows_idle: true,
            request_timeout: None,
            request_headers_timeout: None,
            drain_timeout: Duration::from_secs(5),
            drain_timeout_jitter: Duration::ZERO,
            delayed_close_timeout: Some(Duration::from_secs(1)),
            http1_safe_max_connection_duration: false,
            access_log: Vec::new(),
            local_reply_config: LocalReplyConfig::default(),
            upgrade_configs: Vec::new(),
            use_remote_address: false,
            xff_num_trusted_hops: 0,
            skip_xff_append: false,
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6: false,
            append_x_forwarded_port: false,
            add_proxy_protocol_connection_state: true,
            internal_addresses: InternalAddressConfig::default(),
            forward_client_cert_details: ForwardClientCertDetails::default(),
            set_current_client_cert_details: ClientCertDetails::default(),
            via: Box::default(),
            generate_request_id: true,
            preserve_external_request_id: false,
            always_set_request_id_in_response: false,
            add_user_agent: false,
            proxy_100_continue: false,
            server_name: "envoy".into(),
            server_header_transformation: ServerHeaderTransformation::default(),
            scheme_header_transformation: SchemeHeaderTransformation::default(),
            normalize_path: false,
            merge_slashes: false,
            path_with_escaped_slashes_action: PathWithEscapedSlashesAction::default(),
            strip_port: StripPort::default(),
            strip_trailing_host_dot: false,
        }
    }
}
