//! [`ProxyError`]: the one error of this room. `local_reply` turns it into a status; nothing else does.

use std::fmt;

use crate::cluster::pool::ConnectError;
use crate::filter::http::FilterReply;
use crate::protocol::http::error::{BodyError, HeadError};
use crate::protocol::response_code_details as details;
use crate::protocol::response_flags::ResponseFlag;

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Downstream,
    /// The endpoint.
    Upstream,
    /// Configuration or a limit of this proxy.
    Local,
}

/// Whether the request may be sent again elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Never,
    /// Only if the connection had served before: the peer closed it while it was idle, and saw nothing of this request.
    IfReused,
    /// The peer says that it has not looked at it (RFC 9113 section 8.7).
    Unprocessed,
}

/// Why a request ended other than by its upstream's complete response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// The request's head was refused.
    RequestHead(HeadError),
    /// The request's body was refused.
    RequestBody(BodyError),
    /// The client went away.
    DownstreamClosed,
    /// The client reset its stream.
    DownstreamReset,
    /// `request_headers_timeout` passed.
    RequestHeadersTimeout,
    /// `request_timeout` passed.
    RequestTimeout,
    /// `stream_idle_timeout` or the route's passed. `request_complete` tells whose silence it was.
    StreamIdleTimeout { request_complete: bool },
    /// `max_stream_duration` of the connection manager or the route passed.
    MaxStreamDuration { request_complete: bool },
    /// `max_stream_duration` of the cluster, or the request's own `x-envoy-upstream-stream-duration-ms`, passed.
    UpstreamMaxStreamDuration { request_complete: bool },
    /// The path could not be normalised or holds escaped slashes.
    PathRejected,
    /// A target that no route can match: `OPTIONS *`.
    PathNotAbsolute,
    /// A header with an underscore where they are refused.
    UnderscoreInHeader,
    /// An upgrade or CONNECT that nothing allows.
    UpgradeRefused,
    /// No route matches.
    NoRoute,
    /// The route's cluster does not exist; the status configured for that.
    NoCluster { status: u16 },
    /// The endpoints are to be spared it, as their `drop_overloads` says; `unconditional`: like all others.
    DropOverload { unconditional: bool },
    /// No endpoint may take the request.
    NoHealthyUpstream,
    /// No connection could be made.
    Connect(ConnectError),
    /// An upgrade over HTTP/2, which the endpoint has not said to take (RFC 8441 section 3).
    ExtendedConnectNotTaken,
    /// The endpoint closed or reset before a byte of the response.
    UpstreamClosed { reset: bool },
    /// The endpoint reset the stream. `refused`: without a look at the request; `begun`: after its response's head.
    UpstreamReset { refused: bool, begun: bool },
    /// The endpoint ended a tunnel.
    UpstreamTunnelClosed,
    /// The endpoint closed within its response.
    UpstreamTruncated,
    /// The response's head was refused.
    ResponseHead(HeadError),
    /// The endpoint closed within its response's head.
    ResponseHeadTruncated,
    /// The response's body was refused.
    ResponseBody(BodyError),
    /// The route's timeout passed; what is answered then.
    ResponseTimeout { status: u16 },
    /// The attempt's own timeout passed before its response began; what is answered then.
    PerTryTimeout { status: u16 },
    /// A head became too large while it was edited.
    HeadOverflow,
    /// A filter answers instead.
    Filter(FilterReply),
}

impl ProxyError {
    /// Who is at fault.
    pub fn side(self) -> Side {
        match self {
            Self::RequestHead(_)
            | Self::RequestBody(_)
            | Self::DownstreamClosed
            | Self::DownstreamReset
            | Self::RequestHeadersTimeout
            | Self::RequestTimeout
            | Self::PathRejected
            | Self::UnderscoreInHeader
            | Self::UpgradeRefused => Side::Downstream,
            Self::StreamIdleTimeout { .. }
            | Self::MaxStreamDuration { .. }
            | Self::PathNotAbsolute
            | Self::NoRoute
            | Self::NoCluster { .. }
            | Self::DropOverload { .. }
            | Self::NoHealthyUpstream
            | Self::HeadOverflow
            | Self::Filter(_) => Side::Local,
            Self::Connect(_)
            | Self::ExtendedConnectNotTaken
            | Self::UpstreamClosed { .. }
            | Self::UpstreamReset { .. }
            | Self::UpstreamTruncated
            | Self::ResponseHead(_)
            | Self::ResponseHeadTruncated
            | Self::ResponseBody(_)
            | Self::UpstreamTunnelClosed
            | Self::UpstreamMaxStreamDuration { .. }
            | Self::ResponseTimeout { .. }
            | Self::PerTryTimeout { .. } => Side::Upstream,
        }
    }

    /// Whether the request may be tried again.
    pub fn retry(self) -> Retry {
        match self {
            Self::UpstreamClosed { .. } => Retry::IfReused,
            Self::UpstreamReset { refused: true, begun: false } => Retry::Unprocessed,
            _ => Retry::Never,
        }
    }

    /// Whether its status is counted as one of the cluster's: as in Envoy where the router gives up on endpoints, and not where
    /// the connection manager gives up on the request.
    pub fn counts_for_cluster(self) -> bool {
        match self {
            Self::UpstreamMaxStreamDuration { .. } => false,
            Self::NoHealthyUpstream | Self::DropOverload { .. } => true,
            error => error.side() == Side::Upstream,
        }
    }

    /// Whether an endpoint has not answered in time.
    pub fn is_upstream_timeout(self) -> bool {
        matches!(self, Self::ResponseTimeout { .. } | Self::PerTryTimeout { .. })
    }

    /// The same where the client has asked for another answer to a timeout. Source: Envoy
    /// `x-envoy-upstream-rq-timeout-alt-response`.
    #[must_use]
    pub fn with_alternative(self) -> Self {
        match self {
            Self::ResponseTimeout { .. } => Self::ResponseTimeout { status: 204 },
            Self::PerTryTimeout { .. } => Self::PerTryTimeout { status: 204 },
            error => error,
        }
    }

    /// Whether nobody is there any more to be told.
    pub fn client_is_gone(self) -> bool {
        matches!(self, Self::DownstreamClosed | Self::DownstreamReset)
    }

    /// Status of the local reply; `None`: nobody is there to read one.
    pub fn status(self) -> Option<u16> {
        Some(match self {
            Self::DownstreamClosed | Self::DownstreamReset | Self::UpstreamTunnelClosed => return None,
            Self::RequestHead(error) => error.status(),
            Self::RequestBody(error) => error.status(),
            Self::RequestHeadersTimeout | Self::RequestTimeout => 408,
            Self::StreamIdleTimeout { request_complete }
            | Self::MaxStreamDuration { request_complete }
            | Self::UpstreamMaxStreamDuration { request_complete } => {
                if request_complete {
                    504
                } else {
                    408
                }
            }
            Self::PathRejected | Self::UnderscoreInHeader => 400,
            Self::UpgradeRefused => 403,
            Self::NoRoute | Self::PathNotAbsolute => 404,
            Self::NoCluster { status } => status,
            Self::DropOverload { .. }
            | Self::NoHealthyUpstream
            | Self::Connect(_)
            | Self::ExtendedConnectNotTaken
            | Self::UpstreamClosed { .. }
            | Self::UpstreamReset { .. } => 503,
            Self::UpstreamTruncated
            | Self::ResponseHead(_)
            | Self::ResponseHeadTruncated
            | Self::ResponseBody(_) => 502,
            Self::ResponseTimeout { status } | Self::PerTryTimeout { status } => status,
            Self::HeadOverflow => 431,
            Self::Filter(reply) => reply.status,
        })
    }

    /// Envoy's response flag.
    pub fn flag(self) -> Option<ResponseFlag> {
        Some(match self {
            // What Envoy's codec takes and its connection manager refuses has no flag.
            Self::RequestHead(HeadError::HostMissing | HeadError::TargetFragment) => return None,
            Self::RequestHead(_) | Self::RequestBody(_) | Self::UnderscoreInHeader => {
                ResponseFlag::DownstreamProtocolError
            }
            Self::DownstreamClosed => ResponseFlag::DownstreamConnectionTermination,
            Self::DownstreamReset => ResponseFlag::DownstreamRemoteReset,
            Self::UpstreamReset { .. } => ResponseFlag::UpstreamRemoteReset,
            Self::StreamIdleTimeout { .. } => ResponseFlag::StreamIdleTimeout,
            Self::UpstreamMaxStreamDuration { .. } => ResponseFlag::UpstreamMaxStreamDurationReached,
            Self::NoRoute => ResponseFlag::NoRouteFound,
            Self::NoCluster { .. } => ResponseFlag::NoClusterFound,
            Self::DropOverload { unconditional: false } => ResponseFlag::DropOverLoad,
            Self::DropOverload { unconditional: true } => ResponseFlag::UnconditionalDropOverload,
            Self::NoHealthyUpstream => ResponseFlag::NoHealthyUpstream,
            Self::Connect(ConnectError::Overflow) => ResponseFlag::UpstreamOverflow,
            Self::Connect(_) => ResponseFlag::UpstreamConnectionFailure,
            // Envoy asks nobody, and has no words for it: it was given up here before it was sent.
            Self::ExtendedConnectNotTaken => ResponseFlag::LocalReset,
            Self::UpstreamClosed { .. } | Self::UpstreamTunnelClosed => {
                ResponseFlag::UpstreamConnectionTermination
            }
            Self::UpstreamTruncated
            | Self::ResponseHead(_)
            | Self::ResponseHeadTruncated
            | Self::ResponseBody(_) => ResponseFlag::UpstreamProtocolError,
            Self::ResponseTimeout { .. } | Self::PerTryTimeout { .. } => ResponseFlag::UpstreamRequestTimeout,
            Self::RequestHeadersTimeout
            | Self::RequestTimeout
            | Self::MaxStreamDuration { .. }
            | Self::PathRejected
            | Self::PathNotAbsolute
            | Self::UpgradeRefused
            | Self::HeadOverflow => return None,
            Self::Filter(reply) => return reply.flag,
        })
    }

    /// `%RESPONSE_CODE_DETAILS%`, in Envoy's words.
    pub fn details(self) -> &'static str {
        match self {
            Self::RequestHead(error) => error.details(),
            Self::RequestBody(error) => error.details(),
            Self::DownstreamClosed => details::DOWNSTREAM_REMOTE_DISCONNECT,
            Self::DownstreamReset => "http2.remote_reset",
            Self::UpstreamReset { refused: true, begun: false } => {
                "upstream_reset_before_response_started{remote_refused_stream_reset}"
            }
            Self::UpstreamReset { begun: false, .. } => {
                "upstream_reset_before_response_started{remote_reset}"
            }
            Self::UpstreamReset { begun: true, .. } => "upstream_reset_after_response_started{remote_reset}",
            Self::RequestHeadersTimeout => details::REQUEST_HEADER_TIMEOUT,
            Self::RequestTimeout => details::REQUEST_OVERALL_TIMEOUT,
            Self::StreamIdleTimeout { .. } => details::STREAM_IDLE_TIMEOUT,
            Self::MaxStreamDuration { .. } => details::MAX_DURATION_TIMEOUT,
            Self::UpstreamMaxStreamDuration { .. } => details::UPSTREAM_MAX_STREAM_DURATION_REACHED,
            Self::PathRejected => details::PATH_NORMALIZATION_FAILED,
            Self::UnderscoreInHeader => "http1.unexpected_underscore",
            Self::PathNotAbsolute => details::ABSOLUTE_PATH_REJECTED,
            Self::UpgradeRefused => details::UPGRADE_FAILED,
            Self::NoRoute => details::ROUTE_NOT_FOUND,
            Self::NoCluster { .. } => details::CLUSTER_NOT_FOUND,
            Self::DropOverload { unconditional: false } => details::DROP_OVERLOAD,
            Self::DropOverload { unconditional: true } => details::UNCONDITIONAL_DROP_OVERLOAD,
            Self::NoHealthyUpstream => details::NO_HEALTHY_UPSTREAM,
            Self::Connect(ConnectError::Timeout) => {
                "upstream_reset_before_response_started{connection_timeout}"
            }
            Self::Connect(ConnectError::Failed(_) | ConnectError::Tls(_)) => {
                "upstream_reset_before_response_started{remote_connection_failure}"
            }
            Self::Connect(ConnectError::Overflow) => "upstream_reset_before_response_started{overflow}",
            Self::ExtendedConnectNotTaken => "upstream_reset_before_response_started{local_reset}",
            Self::UpstreamClosed { .. } => "upstream_reset_before_response_started{connection_termination}",
            Self::ResponseHead(_) | Self::ResponseHeadTruncated => {
                "upstream_reset_before_response_started{protocol_error}"
            }
            Self::UpstreamTunnelClosed => "upstream_reset_after_response_started{connection_termination}",
            Self::ResponseBody(_) | Self::UpstreamTruncated => {
                "upstream_reset_after_response_started{protocol_error}"
            }
            Self::ResponseTimeout { .. } => details::RESPONSE_TIMEOUT,
            Self::PerTryTimeout { .. } => details::UPSTREAM_PER_TRY_TIMEOUT,
            Self::HeadOverflow => "http1.headers_too_large",
            Self::Filter(reply) => reply.details,
        }
    }

    /// Body of the local reply, in Envoy's words.
    pub fn body(self) -> &'static str {
        match self {
            // What Envoy's codec takes and its connection manager refuses has no body.
            Self::RequestHead(HeadError::HostMissing | HeadError::TargetFragment) => "",
            Self::RequestHead(error) => reason(error.status()),
            Self::RequestBody(error) => reason(error.status()),
            Self::RequestHeadersTimeout => "request header timeout",
            Self::RequestTimeout => "request timeout",
            Self::StreamIdleTimeout { .. } => "stream timeout",
            Self::MaxStreamDuration { .. } => "downstream duration timeout",
            Self::UpstreamMaxStreamDuration { .. } => "upstream max stream duration reached",
            Self::DropOverload { unconditional: false } => "drop overload",
            Self::DropOverload { unconditional: true } => "unconditional drop overload",
            Self::NoHealthyUpstream => "no healthy upstream",
            Self::Connect(ConnectError::Timeout) => {
                "upstream connect error or disconnect/reset before headers. reset reason: connection timeout"
            }
            Self::Connect(ConnectError::Failed(_) | ConnectError::Tls(_)) => {
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
            }
            Self::Connect(ConnectError::Overflow) => {
                "upstream connect error or disconnect/reset before headers. reset reason: overflow"
            }
            Self::ExtendedConnectNotTaken => {
                "upstream connect error or disconnect/reset before headers. reset reason: local reset"
            }
            Self::UpstreamClosed { .. } => {
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
            }
            Self::UpstreamReset { refused: true, .. } => {
                "upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset"
            }
            Self::UpstreamReset { .. } => {
                "upstream connect error or disconnect/reset before headers. reset reason: remote reset"
            }
            Self::UpstreamTruncated
            | Self::ResponseHead(_)
            | Self::ResponseHeadTruncated
            | Self::ResponseBody(_) => {
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error"
            }
            Self::ResponseTimeout { status: 504 } | Self::PerTryTimeout { status: 504 } => {
                "upstream request timeout"
            }
            Self::ResponseTimeout { .. } | Self::PerTryTimeout { .. } => "",
            Self::DownstreamClosed
            | Self::DownstreamReset
            | Self::UpstreamTunnelClosed
            | Self::PathRejected
            | Self::PathNotAbsolute
            | Self::UpgradeRefused
            | Self::NoRoute
            | Self::NoCluster { .. }
            | Self::HeadOverflow => "",
            Self::UnderscoreInHeader => "Bad Request",
            Self::Filter(reply) => reply.body,
        }
    }
}

/// Body of the reply to a request that the codec refused.
fn reason(status: u16) -> &'static str {
    match status {
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        _ => "Bad Request",
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.details())
    }
}

impl std::error::Error for ProxyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::RequestHead(error) | Self::ResponseHead(error) => Some(error),
            Self::RequestBody(error) | Self::ResponseBody(error) => Some(error),
            _ => None,
        }
    }
}
