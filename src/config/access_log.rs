//! Access logs, their filters and formats, and the rewriting of local replies, as configured.
//!
//! Plain values made by `control::xds` and compiled by `format`. Formats are kept as their text here:
//! `format` owns the grammar, so that a bad operator is found in one place, with its position.
//!
//! Data sources (`text_format_source`, a mapper's `body`) are read while converting; only their content
//! is kept.

use super::matcher::{FractionalPercent, HeaderMatcher};
use super::route::HeaderValueOption;
use super::runtime::RuntimeKey;

/// One access log of an HTTP connection manager, a listener or the admin endpoint.
/// Source: `envoy.config.accesslog.v3.AccessLog`.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// Where records go. Source: `AccessLog.typed_config`.
    pub sink: AccessLogSink,
    /// How a record is written. Default: `AccessLogFormat::Default`.
    /// Source: `FileAccessLog.log_format`, `StdoutAccessLog.log_format`, `StderrAccessLog.log_format`.
    pub format: AccessLogFormat,
    /// Which requests are recorded. Default: all of them. Source: `AccessLog.filter`.
    pub filter: Option<AccessLogFilter>,
}

/// Where the records of an access log go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AccessLogSink {
    /// A file, opened for appending, created if missing, opened again on SIGUSR1.
    /// Never empty. Source: `envoy.extensions.access_loggers.file.v3.FileAccessLog.path`.
    File(Box<str>),
    /// Source: `envoy.extensions.access_loggers.stream.v3.StdoutAccessLog`.
    Stdout,
    /// Source: `envoy.extensions.access_loggers.stream.v3.StderrAccessLog`.
    Stderr,
}

impl AccessLogSink {
    /// What a path names. The streams of the process are not opened by theirs: they cannot be where they are sockets, as under
    /// systemd, and may not be where they are another user's.
    pub fn of_path(path: &str) -> Self {
        match path {
            "/dev/stdout" => Self::Stdout,
            "/dev/stderr" => Self::Stderr,
            _ => Self::File(path.into()),
        }
    }
}

/// How one access-log record is written.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum AccessLogFormat {
    /// Envoy's default format string, with a newline at its end.
    #[default]
    Default,
    /// A format of the configuration.
    Format(SubstitutionFormat),
}

/// A format with command operators. Source: `envoy.config.core.v3.SubstitutionFormatString`.
#[derive(Debug, Clone, PartialEq)]
pub struct SubstitutionFormat {
    /// The text or the JSON tree to write.
    pub template: FormatTemplate,
    /// Text: an operator without a value writes nothing instead of `-`. JSON: keys and list elements
    /// without a value are left out. Default false. Source: `SubstitutionFormatString.omit_empty_values`.
    pub omit_empty_values: bool,
    /// `content-type` of a local reply written with this format; access logs ignore it.
    /// Default: `text/plain` for text, `application/json` for JSON.
    /// Source: `SubstitutionFormatString.content_type`.
    pub content_type: Option<Box<str>>,
}

/// The body of a [`SubstitutionFormat`].
#[derive(Debug, Clone, PartialEq)]
pub enum FormatTemplate {
    /// A format string. No newline is added. Source: `SubstitutionFormatString.text_format`,
    /// `text_format_source`, `FileAccessLog.format`.
    Text(Box<str>),
    /// A JSON object, one per line, its keys sorted by their bytes (so does Envoy, with or without
    /// `JsonFormatOptions.sort_properties`). Source: `SubstitutionFormatString.json_format`,
    /// `FileAccessLog.json_format`, `typed_json_format`.
    Json(Vec<(Box<str>, JsonTemplate)>),
}

/// A value in a JSON format. Source: `google.protobuf.Value`.
#[derive(Debug, Clone, PartialEq)]
pub enum JsonTemplate {
    /// A format string: a single operator keeps its type, anything else is a string.
    String(Box<str>),
    /// Written as it is.
    Number(f64),
    /// Written as it is.
    Bool(bool),
    /// Written as it is.
    Null,
    /// An object; written with its keys sorted by their bytes.
    Object(Vec<(Box<str>, Self)>),
    /// An array.
    List(Vec<Self>),
}

/// Which requests an access log records, or a local-reply mapper applies to.
/// Source: `envoy.config.accesslog.v3.AccessLogFilter`.
#[derive(Debug, Clone, PartialEq)]
pub enum AccessLogFilter {
    /// By response code; a request without a response counts as 0. Source: `status_code_filter`.
    StatusCode(Comparison),
    /// By the request's whole duration in milliseconds, or what has passed of it.
    /// Source: `duration_filter`.
    Duration(Comparison),
    /// All but requests that the health-check filter answered. Source: `not_health_check_filter`.
    NotHealthCheck,
    /// Requests chosen for tracing. Source: `traceable_filter`.
    Traceable,
    /// A sample of all requests. Source: `runtime_filter`.
    Runtime(RuntimeSample),
    /// All of these, two at least. Source: `and_filter`.
    And(Vec<Self>),
    /// Any of these, two at least. Source: `or_filter`.
    Or(Vec<Self>),
    /// By a request header. Source: `header_filter`.
    Header(HeaderMatcher),
    /// Requests with one of these response flags, by their short names (`UF`); empty: with any flag.
    /// Source: `response_flag_filter.flags`.
    ResponseFlag(Vec<Box<str>>),
    /// By gRPC status. Source: `grpc_status_filter`.
    GrpcStatus {
        /// Status codes, 0 to 16.
        statuses: Vec<u8>,
        /// Match every status but these. Default false.
        exclude: bool,
    },
    /// By the kind of the record. Source: `log_type_filter`.
    LogType {
        /// The kinds.
        types: Vec<AccessLogType>,
        /// Match every kind but these. Default false.
        exclude: bool,
    },
}

/// A comparison with a number. Source: `envoy.config.accesslog.v3.ComparisonFilter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The operator. Default `Equal`. Source: `ComparisonFilter.op`.
    pub op: ComparisonOp,
    /// The right side. Source: `ComparisonFilter.value`.
    pub value: u32,
    /// Under which the runtime layers may have another right side; `None`: none can come.
    pub runtime_key: Option<RuntimeKey>,
}

/// Source: `envoy.config.accesslog.v3.ComparisonFilter.Op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComparisonOp {
    /// `EQ`
    Equal,
    /// `GE`
    GreaterOrEqual,
    /// `LE`
    LessOrEqual,
    /// `NE`
    NotEqual,
}

/// A sample of requests. Source: `envoy.config.accesslog.v3.RuntimeFilter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeSample {
    /// The share taken. Source: `RuntimeFilter.percent_sampled`.
    pub share: FractionalPercent,
    /// Under which the runtime layers may have another numerator; `None`: none can come.
    pub runtime_key: Option<RuntimeKey>,
    /// Draw a number per request. Default false: derive it from `x-request-id` where there is one, so
    /// that every proxy on the request's way takes the same sample.
    /// Source: `RuntimeFilter.use_independent_randomness`.
    pub independent: bool,
}

/// What an access-log record is about. Source: `envoy.data.accesslog.v3.AccessLogType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogType {
    /// No kind was given.
    NotSet,
    /// A TCP proxy's connection reached its upstream.
    TcpUpstreamConnected,
    /// A record written at intervals while a TCP connection lives.
    TcpPeriodic,
    /// A TCP proxy's connection began.
    TcpConnectionStart,
    /// A TCP connection ended.
    TcpConnectionEnd,
    /// A request arrived.
    DownstreamStart,
    /// A record written at intervals while a request lives.
    DownstreamPeriodic,
    /// A request ended: the usual record.
    DownstreamEnd,
    /// An upstream request got its connection.
    UpstreamPoolReady,
    /// A record written at intervals while an upstream request lives.
    UpstreamPeriodic,
    /// An upstream request ended.
    UpstreamEnd,
    /// A CONNECT or Upgrade tunnel was established.
    DownstreamTunnelSuccessfullyEstablished,
    /// The same, for UDP.
    UdpTunnelUpstreamConnected,
    /// A record written at intervals while a UDP session lives.
    UdpPeriodic,
    /// A UDP session ended.
    UdpSessionEnd,
}

impl AccessLogType {
    /// Envoy's name for the kind, as `%ACCESS_LOG_TYPE%` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotSet => "NotSet",
            Self::TcpUpstreamConnected => "TcpUpstreamConnected",
            Self::TcpPeriodic => "TcpPeriodic",
            Self::TcpConnectionStart => "TcpConnectionStart",
            Self::TcpConnectionEnd => "TcpConnectionEnd",
            Self::DownstreamStart => "DownstreamStart",
            Self::DownstreamPeriodic => "DownstreamPeriodic",
            Self::DownstreamEnd => "DownstreamEnd",
            Self::UpstreamPoolReady => "UpstreamPoolReady",
            Self::UpstreamPeriodic => "UpstreamPeriodic",
            Self::UpstreamEnd => "UpstreamEnd",
            Self::DownstreamTunnelSuccessfullyEstablished => "DownstreamTunnelSuccessfullyEstablished",
            Self::UdpTunnelUpstreamConnected => "UdpTunnelUpstreamConnected",
            Self::UdpPeriodic => "UdpPeriodic",
            Self::UdpSessionEnd => "UdpSessionEnd",
        }
    }
}

/// How replies of the proxy's own are rewritten.
/// Source: `envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LocalReplyConfig {
    /// Tried in order, the first whose filter matches applies. Default none.
    /// Source: `LocalReplyConfig.mappers`.
    pub mappers: Vec<ResponseMapper>,
    /// How bodies are written, unless the mapper says otherwise. Default: `%LOCAL_REPLY_BODY%` as
    /// `text/plain`. Source: `LocalReplyConfig.body_format`.
    pub body_format: Option<SubstitutionFormat>,
}

/// One rewriting of a local reply. Source: `ResponseMapper`.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseMapper {
    /// Which replies it applies to. Required. Source: `ResponseMapper.filter`.
    pub filter: AccessLogFilter,
    /// Status to answer with, 200 to 599. Default: unchanged. Source: `ResponseMapper.status_code`.
    pub status_code: Option<u16>,
    /// What `%LOCAL_REPLY_BODY%` stands for. Default: the reply's own text.
    /// Source: `ResponseMapper.body`.
    pub body: Option<Box<[u8]>>,
    /// Format of the body. Default: `LocalReplyConfig.body_format`.
    /// Source: `ResponseMapper.body_format_override`.
    pub body_format_override: Option<SubstitutionFormat>,
    /// Headers to set or add; at most 1,000. Default none. Source: `ResponseMapper.headers_to_add`.
    pub headers_to_add: Vec<HeaderValueOption>,
}
