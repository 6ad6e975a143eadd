//! One compiled command operator, and its value for a request.
//!
//! Facts that are plain fields of [`StreamInfo`] are reached by functions chosen when the format was
//! parsed; the others have a variant. Nothing here allocates.

use crate::protocol::http::head::{Head, Version};
use crate::protocol::http::headers::{self, HeaderName};
use crate::protocol::stream_info::{StreamAddress, StreamInfo};
use crate::protocol::tls::{Certificate, PeerIdentity};

use super::context::FormatContext;
use super::grpc_status::{self, GrpcStatusStyle};
use super::metadata::MetadataField;
use super::query;
use super::text::{AddressPart, push_address, push_i64, push_u64, push_uuid};
use super::time::TimeFormat;

/// What evaluating an operator appended to the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// Nothing: there is no value (`-`, or `null` in JSON).
    Absent,
    /// A text, maybe an empty one.
    Text,
    /// A number, which JSON writes without quotes.
    Number,
    /// Nothing, where others have a number: an empty text, and `null` in JSON, as in Envoy.
    NoNumber,
}

/// A moment, in ns of the monotonic clock.
pub(super) type Moment = fn(&FormatContext<'_>) -> Option<u64>;

/// One operator.
#[derive(Debug, Clone)]
pub(super) enum Operator {
    /// Known when the format was parsed.
    Constant(Option<Box<[u8]>>),
    /// `REQ`, `RESP`, `TRAILER`.
    Header { head: HeadOf, field: HeaderField },
    /// `PATH`
    Path { with_query: bool, source: PathSource, max: Option<usize> },
    /// `QUERY_PARAM`
    QueryParameter { name: Box<[u8]>, max: Option<usize> },
    /// `QUERY_PARAMS`
    QueryParameters { decoded: bool, max: Option<usize> },
    /// `START_TIME`, `EMIT_TIME` and their local forms.
    Time { emitted: bool, format: TimeFormat },
    /// All durations.
    Interval { from: Moment, to: Moment, unit_ns: u64 },
    /// Counts and codes.
    Number(fn(&FormatContext<'_>) -> Option<u64>),
    /// Names and reasons; an empty one is absent.
    Text(for<'a> fn(&FormatContext<'a>) -> &'a str),
    /// A text whose blanks become underscores.
    Joined { of: for<'a> fn(&FormatContext<'a>) -> &'a str, blanks: &'static [u8] },
    /// Addresses and their parts.
    Address { of: fn(&StreamInfo) -> &StreamAddress, part: AddressPart },
    /// The endpoint id of an address: empty, since internal listeners are all that have one.
    EndpointId(fn(&StreamInfo) -> &StreamAddress),
    /// What a certificate says.
    Certificate { of: fn(&StreamInfo) -> Option<&Certificate>, write: fn(&Certificate, &mut Vec<u8>) },
    /// What a peer has shown, chain and all.
    Peer { of: fn(&StreamInfo) -> Option<&PeerIdentity>, write: fn(&PeerIdentity, &mut Vec<u8>) },
    /// From when on, or until when, a certificate is valid.
    Validity { of: fn(&StreamInfo) -> Option<&Certificate>, ends: bool, format: TimeFormat },
    /// `REQUESTED_SERVER_NAME`
    ServerName,
    /// `UPSTREAM_HOST_NAME`
    HostName { with_port: bool },
    /// `UPSTREAM_HOSTS_ATTEMPTED`
    HostsAttempted(AddressPart),
    /// `UPSTREAM_HOST_NAMES_ATTEMPTED`
    HostNamesAttempted { with_port: bool },
    /// `UPSTREAM_CONNECTION_IDS_ATTEMPTED`
    ConnectionIdsAttempted,
    /// `RESPONSE_FLAGS`
    ResponseFlags { long: bool },
    /// `GRPC_STATUS`
    GrpcStatus(GrpcStatusStyle),
    /// `LOCAL_REPLY_BODY`
    LocalReplyBody,
    /// `DYNAMIC_METADATA`, `METADATA(DYNAMIC:..)`: a key of a namespace, or all of it without a path.
    DynamicMetadata(MetadataField),
    /// `FILTER_STATE` of what TLVs say: the value of a rule's key.
    ProxyTlv { key: Box<str>, max: Option<usize> },
    /// `UNIQUE_ID`
    UniqueId,
    /// `COALESCE`: the first of these that has a value.
    Coalesce { operators: Box<[Self]>, max: Option<usize> },
}

/// Where a header is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadOf {
    Request,
    Response,
    Trailers,
}

/// `X?Y:Z`: the first value of header X, or else of Y, cut to Z bytes. `None`: a name no head can have.
#[derive(Debug, Clone)]
pub(super) struct HeaderField {
    pub(super) name: Option<HeaderName>,
    pub(super) alternative: Option<HeaderName>,
    pub(super) max: Option<usize>,
}

/// Which path `PATH` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathSource {
    Current,
    Original,
    OriginalOrCurrent,
}

/// What `write` appended.
fn written(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Written {
    let before = out.len();
    write(out);
    if out.len() == before { Written::Absent } else { Written::Text }
}

impl Operator {
    /// Appends the value for this request.
    pub(super) fn write(&self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> Written {
        let info = context.info;
        match self {
            Self::Constant(value) => write_text(value.as_deref(), None, out),
            Self::Certificate { of, write } => {
                let Some(certificate) = of(info) else { return Written::Absent };
                written(out, |out| write(certificate, out))
            }
            Self::Peer { of, write } => {
                let Some(peer) = of(info) else { return Written::Absent };
                written(out, |out| write(peer, out))
            }
            Self::Validity { of, ends, format } => {
                let Some(certificate) = of(info) else { return Written::Absent };
                let seconds = if *ends { certificate.not_after } else { certificate.not_before };
                format.write_second(seconds, out);
                Written::Text
            }
            Self::Header { head, field } => {
                let head = match head {
                    HeadOf::Request => context.request,
                    HeadOf::Response => context.response,
                    HeadOf::Trailers => context.trailers,
                };
                let get = |name: &Option<HeaderName>| head?.get(name.as_ref()?);
                write_text(get(&field.name).or_else(|| get(&field.alternative)), field.max, out)
            }
            Self::Path { with_query, source, max } => {
                let path = path(context.request, *source);
                let path = if *with_query { path } else { path.map(|path| query::split(path).0) };
                write_text(path, *max, out)
            }
            Self::QueryParameter { name, max } => {
                let value = query_of(context.request).and_then(|query| query::parameter(query, name));
                write_with(value, *max, out, query::push_decoded)
            }
            Self::QueryParameters { decoded: false, max } => write_text(query_of(context.request), *max, out),
            Self::QueryParameters { decoded: true, max } => {
                write_with(query_of(context.request), *max, out, query::push_decoded_visible)
            }
            Self::Time { emitted, format } => {
                let unix_ns = if *emitted { context.now_unix_ns() } else { info.start_time_unix_ns };
                format.write(unix_ns, out);
                Written::Text
            }
            Self::Interval { from, to, unit_ns } => {
                let passed = from(context).zip(to(context)).and_then(|(from, to)| to.checked_sub(from));
                write_number(passed.map(|ns| ns / unit_ns), out)
            }
            Self::Number(number) => write_number(number(context), out),
            Self::Text(text) => {
                let text = text(context).as_bytes();
                write_text(Some(text).filter(|text| !text.is_empty()), None, out)
            }
            Self::Joined { of, blanks } => {
                let text = of(context).as_bytes();
                let joined = |byte: &u8| if blanks.contains(byte) { b'_' } else { *byte };
                out.extend(text.iter().map(joined));
                text_if(!text.is_empty())
            }
            Self::Address { of, part } => match push_address(out, of(info), *part) {
                true if *part == AddressPart::Port => Written::Number,
                false if *of(info) != StreamAddress::None => Written::NoNumber,
                written => text_if(written),
            },
            Self::EndpointId(of) => {
                out.extend_from_slice(of(info).endpoint_id().as_bytes());
                text_if(*of(info) != StreamAddress::None)
            }
            Self::ServerName => {
                let valid = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
                let name = info.requested_server_name.as_bytes();
                out.extend(name.iter().map(|byte| if valid(byte) { *byte } else { b'_' }));
                text_if(!name.is_empty())
            }
            Self::HostName { with_port } => {
                push_host_name(out, &info.upstream_host, &info.upstream_host_name, *with_port);
                text_if(info.upstream_host != StreamAddress::None)
            }
            Self::HostsAttempted(part) => write_list(info.hosts_attempted(), out, |out, (host, _)| {
                push_address(out, host, *part);
            }),
            Self::HostNamesAttempted { with_port } => {
                write_list(info.hosts_attempted(), out, |out, (host, name)| {
                    push_host_name(out, host, name, *with_port);
                })
            }
            Self::ConnectionIdsAttempted => write_list(info.connection_ids_attempted(), out, push_u64),
            // Never absent: without flags Envoy writes `-`, in JSON and with omit_empty_values too.
            Self::ResponseFlags { .. } if info.response_flags.is_empty() => {
                out.push(b'-');
                Written::Text
            }
            Self::ResponseFlags { long } => write_list(info.response_flags.iter(), out, |out, flag| {
                let name = if *long { flag.long_name() } else { flag.short_name() };
                out.extend_from_slice(name.as_bytes());
            }),
            Self::GrpcStatus(style) => {
                let Some(status) = grpc_status::of_logged_request(context) else {
                    return Written::Absent;
                };
                match style.name(status) {
                    Some(name) => {
                        out.extend_from_slice(name.as_bytes());
                        Written::Text
                    }
                    None => {
                        push_i64(out, status);
                        if *style == GrpcStatusStyle::Number { Written::Number } else { Written::Text }
                    }
                }
            }
            Self::LocalReplyBody => write_text(Some(context.local_reply_body), None, out),
            Self::DynamicMetadata(field) => field.write(&info.dynamic_metadata, out),
            Self::ProxyTlv { key, max } => {
                let mut tlvs = info.proxy_tlvs.iter().flat_map(|tlvs| tlvs.iter());
                let value = tlvs.find(|(name, _)| name == key).map(|(_, value)| value.as_bytes());
                write_text(value, *max, out)
            }
            Self::UniqueId => {
                push_uuid(out, unique_bits(context.random, out.len()));
                Written::Text
            }
            Self::Coalesce { operators, max } => write_first(operators, *max, context, out),
        }
    }
}

/// The first value that is neither absent nor an empty text.
fn write_first(
    operators: &[Operator],
    max: Option<usize>,
    context: &FormatContext<'_>,
    out: &mut Vec<u8>,
) -> Written {
    let start = out.len();
    for operator in operators {
        match operator.write(context, out) {
            Written::Number => return Written::Number,
            Written::Text if out.len() > start => {
                truncate(out, start, max);
                return Written::Text;
            }
            Written::Text | Written::Absent | Written::NoNumber => out.truncate(start),
        }
    }
    Written::Absent
}

fn text_if(present: bool) -> Written {
    if present { Written::Text } else { Written::Absent }
}

fn write_text(text: Option<&[u8]>, max: Option<usize>, out: &mut Vec<u8>) -> Written {
    write_with(text, max, out, |text, out| out.extend_from_slice(text))
}

fn write_with(
    text: Option<&[u8]>,
    max: Option<usize>,
    out: &mut Vec<u8>,
    push: impl Fn(&[u8], &mut Vec<u8>),
) -> Written {
    let start = out.len();
    if let Some(text) = text {
        push(text, out);
        truncate(out, start, max);
    }
    text_if(text.is_some())
}

pub(super) fn truncate(out: &mut Vec<u8>, start: usize, max: Option<usize>) {
    if let Some(max) = max {
        out.truncate(start.saturating_add(max));
    }
}

fn write_number(number: Option<u64>, out: &mut Vec<u8>) -> Written {
    let Some(number) = number else {
        return Written::Absent;
    };
    push_u64(out, number);
    Written::Number
}

/// Appends the items with commas between them; absent if there are none.
fn write_list<T>(
    items: impl Iterator<Item = T>,
    out: &mut Vec<u8>,
    push: impl Fn(&mut Vec<u8>, T),
) -> Written {
    let mut written = Written::Absent;
    for item in items {
        if written == Written::Text {
            out.push(b',');
        }
        push(out, item);
        written = Written::Text;
    }
    written
}

fn path(request: Option<&Head>, source: PathSource) -> Option<&[u8]> {
    let request = request?;
    let current = || Some(request.path());
    let original = || request.get(&headers::X_ENVOY_ORIGINAL_PATH);
    let present = |path: &&[u8]| !path.is_empty();
    match source {
        PathSource::Current => current().filter(present),
        PathSource::Original => original().filter(present),
        PathSource::OriginalOrCurrent => original().filter(present).or_else(current).filter(present),
    }
}

fn query_of(request: Option<&Head>) -> Option<&[u8]> {
    query::split(request?.path()).1
}

/// Appends a host's name, or its address where it has none.
fn push_host_name(out: &mut Vec<u8>, host: &StreamAddress, name: &str, with_port: bool) {
    let start = out.len();
    if name.is_empty() {
        push_address(out, host, AddressPart::Whole);
    } else {
        out.extend_from_slice(name.as_bytes());
    }
    if !with_port {
        let kept = without_port(&out[start..]).len();
        out.truncate(start + kept);
    }
}

/// `host:80` and `[::1]:80` without their port; anything else as it is.
fn without_port(host: &[u8]) -> &[u8] {
    let Some(colon) = host.iter().rposition(|byte| *byte == b':') else {
        return host;
    };
    let port = &host[colon + 1..];
    let is_port = !port.is_empty() && port.iter().all(u8::is_ascii_digit);
    if is_port { &host[..colon] } else { host }
}

/// 128 bits that differ for every place in a record. The mixing is SplitMix64's.
fn unique_bits(random: u64, place: usize) -> u128 {
    let half = |seed: u64| {
        let mut bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    };
    let first = half(random.wrapping_add(place as u64 + 1));
    u128::from(first) << 64 | u128::from(half(first ^ random))
}

/// Envoy's name of a protocol version.
pub(super) fn protocol_name(version: Option<Version>) -> &'static str {
    match version {
        Some(Version::Http10) => "HTTP/1.0",
        Some(Version::Http11) => "HTTP/1.1",
        Some(Version::Http2) => "HTTP/2",
        None => "",
    }
}

/// Bytes of all names and values, pseudo headers included: Envoy's `HeaderMap::byteSize`.
pub(super) fn head_bytes(head: Option<&Head>) -> u64 {
    const PSEUDO: [HeaderName; 5] =
        [headers::METHOD, headers::AUTHORITY, headers::SCHEME, headers::PATH, headers::STATUS];
    let Some(head) = head else {
        return 0;
    };
    let fields: usize = head.iter().map(|(name, value)| name.len() + value.len()).sum();
    let pseudo: usize =
        PSEUDO.iter().filter_map(|name| head.get(name).map(|value| name.as_str().len() + value.len())).sum();
    (fields + pseudo) as u64
}
