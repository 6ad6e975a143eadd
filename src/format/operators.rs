//! The table of command operators: what each name means, and which parameters it takes.
//!
//! The names are those that Envoy 1.40 accepts, no more and no fewer. Facts of connections that this proxy
//! does not have (TLS, QUIC, internal listeners) are absent, as they are in Envoy without them.

use crate::protocol::http::headers::HeaderName;
use crate::protocol::stream_info::{DetectedClose, StreamAddress, StreamInfo};
use crate::protocol::tls::{Certificate, Wanted};

use super::coalesce;
use super::context::FormatContext;
use super::environment;
use super::error::FormatErrorKind;
use super::grpc_status::GrpcStatusStyle;
use super::metadata::MetadataField;
use super::operator::{HeadOf, HeaderField, Moment, Operator, PathSource, head_bytes, protocol_name};
use super::text::AddressPart;
use super::time::TimeFormat;
use super::tls;

/// An operator as it stands in a format string.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arguments<'a> {
    /// The name.
    pub(super) name: &'a str,
    /// What stands in the parentheses; empty without them.
    pub(super) parameters: &'a str,
    /// The length behind the colon, in bytes.
    pub(super) max: Option<usize>,
}

/// Operators without a value here, where Envoy has one: what certificates say that is not kept, identifiers of sessions, which are
/// resumed by tickets here, the name that an endpoint's TLS was asked for, and times that would need a clock on the path, or memory
/// in every connection.
const NOT_YET: [&str; 10] = [
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_TLS_SESSION_ID",
    "ROUTE_RESOLUTION_TIME_US",
    "UPSTREAM_LOCAL_DNS_SAN",
    "UPSTREAM_LOCAL_IP_SAN",
    "UPSTREAM_LOCAL_URI_SAN",
    "UPSTREAM_SERVER_NAME",
    "UPSTREAM_TLS_SESSION_ID",
];
/// Moments of `COMMON_DURATION` of which the same holds.
const HANDSHAKE_MOMENTS: [&str; 3] = ["DS_HS_BEG", "DS_HS_END", "US_HS_END"];

const NS_PER_MS: u64 = 1_000_000;
/// Blanks that the details of a response code may not hold: a log's reader splits at them.
const BLANKS: &[u8] = b" \t\n\x0b\x0c\r";

/// The operator of that name with these arguments.
pub(super) fn build(arguments: &Arguments<'_>) -> Result<Operator, FormatErrorKind> {
    if let Some(operator) = bare(arguments.name) {
        return match arguments {
            Arguments { parameters: "", max: None, .. } => Ok(operator),
            _ => Err(FormatErrorKind::ParametersNotAllowed(arguments.name.into())),
        };
    }
    with_parameters(arguments)
}

/// Whether Envoy may have a value for this operator where this proxy never has one.
pub(super) fn lacks_value(arguments: &Arguments<'_>) -> bool {
    let mut parameters = arguments.parameters.split(':');
    match arguments.name {
        "CEL" | "CLUSTER_METADATA" | "UPSTREAM_METADATA" => true,
        "METADATA" => parameters.next() != Some("DYNAMIC"),
        "COMMON_DURATION" => parameters.any(|moment| HANDSHAKE_MOMENTS.contains(&moment)),
        name => NOT_YET.contains(&name),
    }
}

/// The operators that take neither parameters nor a length.
fn bare(name: &str) -> Option<Operator> {
    use Operator::{Address, ConnectionIdsAttempted, EndpointId, HostsAttempted, Number, Text};
    let since_start = |to| duration(|c| Some(c.info.start_ns), to);
    let whole = |of| Address { of, part: AddressPart::Whole };
    let port = |of| Address { of, part: AddressPart::Port };
    Some(match name {
        // Times.
        "REQUEST_DURATION" => since_start(|c| c.info.downstream_timing.last_rx_ns),
        "REQUEST_TX_DURATION" => since_start(|c| c.info.upstream_timing.last_tx_ns),
        "RESPONSE_DURATION" => since_start(|c| c.info.upstream_timing.first_rx_ns),
        "RESPONSE_TX_DURATION" => {
            duration(|c| c.info.upstream_timing.first_rx_ns, |c| c.info.downstream_timing.last_tx_ns)
        }
        "DURATION" => since_start(|c| Some(c.info.complete_ns.unwrap_or(c.now_ns))),
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => {
            Number(|c| c.info.upstream_timing.pool_ready_ns.map(|ns| ns / NS_PER_MS))
        }

        // Bytes and codes.
        "BYTES_RECEIVED" => Number(|c| Some(c.info.bytes_received)),
        "BYTES_SENT" => Number(|c| Some(c.info.bytes_sent)),
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => Number(|c| Some(c.info.downstream_bytes.wire_received)),
        "DOWNSTREAM_WIRE_BYTES_SENT" => Number(|c| Some(c.info.downstream_bytes.wire_sent)),
        // HTTP/1 does not compress headers: the decompressed bytes are the bytes.
        "DOWNSTREAM_HEADER_BYTES_RECEIVED" | "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => {
            Number(|c| Some(c.info.downstream_bytes.header_received))
        }
        "DOWNSTREAM_HEADER_BYTES_SENT" | "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => {
            Number(|c| Some(c.info.downstream_bytes.header_sent))
        }
        "UPSTREAM_WIRE_BYTES_RECEIVED" => Number(|c| Some(c.info.upstream_bytes.wire_received)),
        "UPSTREAM_WIRE_BYTES_SENT" => Number(|c| Some(c.info.upstream_bytes.wire_sent)),
        "UPSTREAM_HEADER_BYTES_RECEIVED" | "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => {
            Number(|c| Some(c.info.upstream_bytes.header_received))
        }
        "UPSTREAM_HEADER_BYTES_SENT" | "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => {
            Number(|c| Some(c.info.upstream_bytes.header_sent))
        }
        "REQUEST_HEADERS_BYTES" => Number(|c| Some(head_bytes(c.request))),
        "RESPONSE_HEADERS_BYTES" => Number(|c| Some(head_bytes(c.response))),
        "RESPONSE_TRAILERS_BYTES" => Number(|c| Some(head_bytes(c.trailers))),
        "RESPONSE_CODE" => Number(|c| Some(u64::from(c.info.response_code.unwrap_or(0)))),
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Number(|c| Some(u64::from(c.info.attempt_count))),
        "ROUTE_RESOLUTION_COUNT" => Number(|c| Some(u64::from(c.info.route_resolution_count))),
        "CONNECTION_ID" => Number(|c| Some(c.info.connection_id)),
        "UPSTREAM_CONNECTION_ID" => Number(|c| Some(c.info.upstream_connection_id)),
        "UPSTREAM_CONNECTION_IDS_ATTEMPTED" => ConnectionIdsAttempted,
        // Known of QUIC connections only; Envoy writes 0 for the others.
        "BYTES_RETRANSMITTED" | "PACKETS_RETRANSMITTED" | "DOWNSTREAM_CX_RTT" => Number(|_| Some(0)),

        // Addresses.
        "DOWNSTREAM_REMOTE_ADDRESS" => whole(downstream_remote),
        "DOWNSTREAM_REMOTE_PORT" => port(downstream_remote),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => whole(downstream_direct_remote),
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => port(downstream_direct_remote),
        "DOWNSTREAM_LOCAL_ADDRESS" => whole(downstream_local),
        "DOWNSTREAM_LOCAL_PORT" => port(downstream_local),
        "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID" => EndpointId(downstream_local),
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => whole(downstream_direct_local),
        "DOWNSTREAM_DIRECT_LOCAL_PORT" => port(downstream_direct_local),
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID" => EndpointId(downstream_direct_local),
        "UPSTREAM_LOCAL_ADDRESS" => whole(upstream_local),
        "UPSTREAM_LOCAL_PORT" => port(upstream_local),
        "UPSTREAM_REMOTE_ADDRESS" => whole(upstream_remote),
        "UPSTREAM_REMOTE_PORT" => port(upstream_remote),
        "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID" => EndpointId(upstream_remote),
        "UPSTREAM_HOST" => whole(|info| &info.upstream_host),
        "UPSTREAM_HOST_NAME" => Operator::HostName { with_port: true },
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" => Operator::HostName { with_port: false },
        "UPSTREAM_HOSTS_ATTEMPTED" => HostsAttempted(AddressPart::Whole),
        "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT" => HostsAttempted(AddressPart::WithoutPort),
        "UPSTREAM_HOST_NAMES_ATTEMPTED" => Operator::HostNamesAttempted { with_port: true },
        "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT" => Operator::HostNamesAttempted { with_port: false },

        // Names and reasons.
        "PROTOCOL" => Text(|c| protocol_name(c.info.protocol)),
        "UPSTREAM_PROTOCOL" => Text(|c| protocol_name(c.info.upstream_protocol)),
        "UPSTREAM_CLUSTER" => Text(|c| match c.info.upstream_cluster_alt_stat_name.as_str() {
            "" => &c.info.upstream_cluster,
            name => name,
        }),
        "UPSTREAM_CLUSTER_RAW" => Text(|c| &c.info.upstream_cluster),
        "ROUTE_NAME" => Text(|c| &c.info.route_name),
        "FILTER_CHAIN_NAME" => Text(|c| &c.info.filter_chain_name),
        "LISTENER_NAME" => Text(|c| &c.info.listener_name),
        "STREAM_ID" => Text(|c| std::str::from_utf8(&c.info.request_id).unwrap_or_default()),
        "REQUESTED_SERVER_NAME" => Operator::ServerName,
        "CONNECTION_TERMINATION_DETAILS" => Text(|c| &c.info.connection_termination_details),
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => {
            Operator::Joined { of: |c| &c.info.upstream_transport_failure_reason, blanks: b" " }
        }
        "DOWNSTREAM_LOCAL_CLOSE_REASON" => Text(|c| c.info.downstream_local_close_reason),
        "UPSTREAM_LOCAL_CLOSE_REASON" => Text(|c| c.info.upstream_local_close_reason),
        "DOWNSTREAM_DETECTED_CLOSE_TYPE" => Text(|c| close_name(c.info.downstream_detected_close)),
        "UPSTREAM_DETECTED_CLOSE_TYPE" => Text(|c| match c.info.upstream_host {
            StreamAddress::None => "",
            _ => close_name(c.info.upstream_detected_close),
        }),
        "RESPONSE_FLAGS" => Operator::ResponseFlags { long: false },
        "RESPONSE_FLAGS_LONG" => Operator::ResponseFlags { long: true },
        "ACCESS_LOG_TYPE" => Text(|c| c.log_type.name()),
        "LOCAL_REPLY_BODY" => Operator::LocalReplyBody,
        "GRPC_STATUS_NUMBER" => Operator::GrpcStatus(GrpcStatusStyle::Number),
        "UNIQUE_ID" => Operator::UniqueId,
        "HOSTNAME" => Operator::Constant(environment::hostname()),
        // Set by extensions of Envoy that this proxy does not have.
        "CUSTOM_FLAGS" => Operator::Constant(Some(Box::default())),

        // Of QUIC, tracing, fingerprints of TLS and virtual clusters: absent in Envoy, too, where they are not configured.
        "ROUNDTRIP_DURATION"
        | "SPAN_ID"
        | "TLS_JA3_FINGERPRINT"
        | "TLS_JA4_FINGERPRINT"
        | "TRACE_ID"
        | "VIRTUAL_CLUSTER_NAME" => Operator::Constant(None),
        name if NOT_YET.contains(&name) => Operator::Constant(None),
        name => return tls::operator(name),
    })
}

/// The operators that take parameters or a length.
fn with_parameters(arguments: &Arguments<'_>) -> Result<Operator, FormatErrorKind> {
    let Arguments { parameters, max, .. } = *arguments;
    let header = |head| {
        arguments.require_parameters()?;
        Ok(Operator::Header { head, field: header_field(parameters, max)? })
    };
    match arguments.name {
        "REQ" | "REQUEST_HEADER" | "STREAM_INFO_REQ" => header(HeadOf::Request),
        "RESP" | "RESPONSE_HEADER" => header(HeadOf::Response),
        "TRAILER" | "RESPONSE_TRAILER" => header(HeadOf::Trailers),
        "PATH" => path(parameters, max),
        "QUERY_PARAM" => {
            arguments.require_parameters()?;
            Ok(Operator::QueryParameter { name: parameters.as_bytes().into(), max })
        }
        "QUERY_PARAMS" => match parameters {
            "" | "ORIG" => Ok(Operator::QueryParameters { decoded: false, max }),
            "DECODED" => Ok(Operator::QueryParameters { decoded: true, max }),
            _ => Err(invalid(parameters, "ORIG or DECODED")),
        },
        "START_TIME" => time(arguments, false, false),
        "START_TIME_LOCAL" => time(arguments, false, true),
        "EMIT_TIME" => time(arguments, true, false),
        "EMIT_TIME_LOCAL" => time(arguments, true, true),
        "DOWNSTREAM_PEER_CERT_V_START" => validity(arguments, tls::peer, false),
        "DOWNSTREAM_PEER_CERT_V_END" => validity(arguments, tls::peer, true),
        "UPSTREAM_PEER_CERT_V_START" => validity(arguments, tls::upstream_peer, false),
        "UPSTREAM_PEER_CERT_V_END" => validity(arguments, tls::upstream_peer, true),
        "COMMON_DURATION" => {
            arguments.require_parameters()?;
            arguments.refuse_length()?;
            common_duration(parameters)
        }
        "RESPONSE_CODE_DETAILS" => {
            arguments.refuse_length()?;
            let blanks = if parameters == "ALLOW_WHITESPACES" { b"" } else { BLANKS };
            Ok(Operator::Joined { of: |c| &c.info.response_code_details, blanks })
        }
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => network(arguments, downstream_remote),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => network(arguments, downstream_direct_remote),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => network(arguments, downstream_local),
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT" => network(arguments, downstream_direct_local),
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => network(arguments, upstream_local),
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => network(arguments, upstream_remote),
        "GRPC_STATUS" => {
            arguments.refuse_length()?;
            match parameters {
                "" | "CAMEL_STRING" => Ok(Operator::GrpcStatus(GrpcStatusStyle::Camel)),
                "SNAKE_STRING" => Ok(Operator::GrpcStatus(GrpcStatusStyle::Snake)),
                "NUMBER" => Ok(Operator::GrpcStatus(GrpcStatusStyle::Number)),
                _ => Err(invalid(parameters, "CAMEL_STRING, SNAKE_STRING or NUMBER")),
            }
        }
        "ENVIRONMENT" => {
            arguments.require_parameters()?;
            Ok(Operator::Constant(Some(environment::variable(parameters, max))))
        }
        "COALESCE" => {
            arguments.require_parameters()?;
            Ok(Operator::Coalesce { operators: coalesce::parse(parameters)?, max })
        }
        "DYNAMIC_METADATA" => {
            arguments.require_parameters()?;
            Ok(Operator::DynamicMetadata(MetadataField::parse(parameters, max)))
        }
        // Nothing else has metadata or filter state yet, so these are checked and absent.
        "CLUSTER_METADATA" | "UPSTREAM_METADATA" => {
            arguments.require_parameters()?;
            arguments.refuse_length()?;
            Ok(Operator::Constant(None))
        }
        "METADATA" => match parameters.split(':').next() {
            Some("DYNAMIC") => {
                let rest = parameters.split_once(':').map_or("", |(_, rest)| rest);
                Ok(Operator::DynamicMetadata(MetadataField::parse(rest, max)))
            }
            Some(
                "CLUSTER" | "ROUTE" | "UPSTREAM_HOST" | "LISTENER" | "VIRTUAL_HOST" | "LISTENER_FILTER_CHAIN",
            ) => Ok(Operator::Constant(None)),
            _ => Err(invalid(
                parameters,
                "DYNAMIC, CLUSTER, ROUTE, UPSTREAM_HOST, LISTENER, VIRTUAL_HOST or LISTENER_FILTER_CHAIN",
            )),
        },
        "CEL" => {
            arguments.require_parameters()?;
            Ok(Operator::Constant(None))
        }
        "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => filter_state(arguments.name, parameters, max),
        name => Err(FormatErrorKind::UnknownOperator(name.into())),
    }
}

impl Arguments<'_> {
    fn require_parameters(&self) -> Result<(), FormatErrorKind> {
        if self.parameters.is_empty() {
            return Err(FormatErrorKind::ParametersRequired(self.name.into()));
        }
        Ok(())
    }

    fn refuse_length(&self) -> Result<(), FormatErrorKind> {
        if self.max.is_some() {
            return Err(FormatErrorKind::LengthNotAllowed(self.name.into()));
        }
        Ok(())
    }
}

fn invalid(parameter: &str, expected: &'static str) -> FormatErrorKind {
    FormatErrorKind::InvalidParameter { parameter: parameter.into(), expected }
}

/// `X?Y`; either may be empty and is then never found.
fn header_field(parameters: &str, max: Option<usize>) -> Result<HeaderField, FormatErrorKind> {
    let (name, alternative) = parameters.split_once('?').unwrap_or((parameters, ""));
    if alternative.contains('?') {
        return Err(FormatErrorKind::TooManyAlternatives(parameters.into()));
    }
    Ok(HeaderField { name: header_name(name)?, alternative: header_name(alternative)?, max })
}

/// The header of that name; `None`: a name that is valid, but that no head has (`:protocol`).
fn header_name(name: &str) -> Result<Option<HeaderName>, FormatErrorKind> {
    if name.is_empty() {
        return Ok(None);
    }
    let token = name.strip_prefix(':').unwrap_or(name);
    match HeaderName::parse(token.as_bytes()) {
        Some(_) => Ok(HeaderName::parse(name.as_bytes())),
        None => Err(FormatErrorKind::InvalidHeaderName(name.into())),
    }
}

/// `WQ|NQ:ORIG|PATH|ORIG_OR_PATH`; parts beyond the second are ignored, as in Envoy.
fn path(parameters: &str, max: Option<usize>) -> Result<Operator, FormatErrorKind> {
    let mut parts = parameters.split(':');
    let with_query = match parts.next().unwrap_or_default() {
        "" | "WQ" => true,
        "NQ" => false,
        other => return Err(invalid(other, "WQ or NQ")),
    };
    let source = match parts.next().unwrap_or_default() {
        "" | "ORIG_OR_PATH" => PathSource::OriginalOrCurrent,
        "ORIG" => PathSource::Original,
        "PATH" => PathSource::Current,
        other => return Err(invalid(other, "ORIG, PATH or ORIG_OR_PATH")),
    };
    Ok(Operator::Path { with_query, source, max })
}

fn time(arguments: &Arguments<'_>, emitted: bool, local: bool) -> Result<Operator, FormatErrorKind> {
    arguments.refuse_length()?;
    let format = TimeFormat::parse(arguments.parameters, local).ok_or(FormatErrorKind::NewlineInTime)?;
    Ok(Operator::Time { emitted, format })
}

/// From when on, or until when, a certificate is valid.
fn validity(
    arguments: &Arguments<'_>,
    of: fn(&StreamInfo) -> Option<&Certificate>,
    ends: bool,
) -> Result<Operator, FormatErrorKind> {
    if arguments.name.starts_with("UPSTREAM") {
        Wanted::Upstream.note();
    }
    arguments.refuse_length()?;
    let format = TimeFormat::parse(arguments.parameters, false).ok_or(FormatErrorKind::NewlineInTime)?;
    Ok(Operator::Validity { of, ends, format })
}

fn duration(from: Moment, to: Moment) -> Operator {
    Operator::Interval { from, to, unit_ns: NS_PER_MS }
}

/// `BEGIN:END[:ms|us|ns]`
fn common_duration(parameters: &str) -> Result<Operator, FormatErrorKind> {
    const EXPECTED: &str = "BEGIN:END or BEGIN:END:ms|us|ns";
    let mut parts = parameters.split(':');
    let (Some(from), Some(to), unit, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(invalid(parameters, EXPECTED));
    };
    let unit_ns = match unit {
        None | Some("ms") => NS_PER_MS,
        Some("us") => 1_000,
        Some("ns") => 1,
        Some(_) => return Err(invalid(parameters, EXPECTED)),
    };
    Ok(Operator::Interval { from: moment(from), to: moment(to), unit_ns })
}

/// A moment by its name. Names that extensions of Envoy could define are allowed and never happen.
fn moment(name: &str) -> Moment {
    match name {
        "DS_CX_BEG" => |c| c.info.downstream_timing.connection_start_ns.or(Some(c.info.start_ns)),
        "DS_CX_END" => |c| c.info.downstream_timing.connection_end_ns,
        "DS_RX_BEG" => |c| Some(c.info.start_ns),
        "DS_RX_END" => |c| c.info.downstream_timing.last_rx_ns,
        "US_CX_BEG" => |c| c.info.upstream_timing.connect_start_ns,
        "US_CX_END" => |c| c.info.upstream_timing.connect_end_ns,
        "US_TX_BEG" => |c| c.info.upstream_timing.first_tx_ns,
        "US_TX_END" => |c| c.info.upstream_timing.last_tx_ns,
        "US_RX_BEG" => |c| c.info.upstream_timing.first_rx_ns,
        "US_RX_BODY_BEG" => |c| c.info.upstream_timing.first_rx_body_ns,
        "US_RX_END" => |c| c.info.upstream_timing.last_rx_ns,
        "DS_TX_BEG" => |c| c.info.downstream_timing.first_tx_ns,
        "DS_TX_END" => |c| c.info.downstream_timing.last_tx_ns,
        _ => |_: &FormatContext<'_>| None,
    }
}

/// An address without port, or its network where a prefix length is given; parameters that are no
/// number are ignored, as in Envoy.
fn network(
    arguments: &Arguments<'_>,
    of: fn(&StreamInfo) -> &StreamAddress,
) -> Result<Operator, FormatErrorKind> {
    arguments.refuse_length()?;
    let part = match arguments.parameters.trim().parse::<i32>() {
        Ok(bits @ 0..) => AddressPart::Network(u8::try_from(bits).unwrap_or(u8::MAX)),
        // Envoy takes a negative length and then writes nothing.
        Ok(_) => return Ok(Operator::Constant(Some(Box::default()))),
        Err(_) => AddressPart::WithoutPort,
    };
    Ok(Operator::Address { of, part })
}

/// The object of filter state that there is. Source: Envoy's listener filter for the PROXY protocol.
const PROXY_TLVS: &str = "envoy.network.proxy_protocol.tlv";

/// `KEY[:PLAIN|TYPED|FIELD[:NAME]]`
fn filter_state(name: &str, parameters: &str, max: Option<usize>) -> Result<Operator, FormatErrorKind> {
    let mut parts = parameters.split(':');
    let key = parts.next().unwrap_or_default();
    let style = parts.next().unwrap_or_default();
    let field = parts.next().unwrap_or_default();
    if key.is_empty() {
        return Err(invalid(parameters, "a key"));
    }
    match (style, field) {
        ("" | "PLAIN" | "TYPED", "") => Ok(Operator::Constant(None)),
        ("FIELD", field) if name == "FILTER_STATE" && key == PROXY_TLVS && !field.is_empty() => {
            Ok(Operator::ProxyTlv { key: field.into(), max })
        }
        ("FIELD", field) if !field.is_empty() => Ok(Operator::Constant(None)),
        _ => Err(invalid(parameters, "KEY, KEY:PLAIN, KEY:TYPED or KEY:FIELD:NAME")),
    }
}

fn close_name(close: DetectedClose) -> &'static str {
    match close {
        DetectedClose::Normal => "Normal",
        DetectedClose::LocalReset => "LocalReset",
        DetectedClose::RemoteReset => "RemoteReset",
    }
}

fn downstream_remote(info: &StreamInfo) -> &StreamAddress {
    &info.downstream_remote_address
}

fn downstream_direct_remote(info: &StreamInfo) -> &StreamAddress {
    &info.downstream_direct_remote_address
}

fn downstream_local(info: &StreamInfo) -> &StreamAddress {
    &info.downstream_local_address
}

fn downstream_direct_local(info: &StreamInfo) -> &StreamAddress {
    &info.downstream_direct_local_address
}

fn upstream_local(info: &StreamInfo) -> &StreamAddress {
    &info.upstream_local_address
}

fn upstream_remote(info: &StreamInfo) -> &StreamAddress {
    &info.upstream_remote_address
}
