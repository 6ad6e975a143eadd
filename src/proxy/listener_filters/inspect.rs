//! What single filters make of a connection's first bytes: pure but for counting.

use std::convert::Infallible;

use crate::base::base64::Encoder;
use crate::config::listener_filter as config;
use crate::protocol::connection_info::{ConnectionInfo, Metadatum, ProxyProtocolData, TransportProtocol};
use crate::protocol::http::inspector::{self as http, Protocol};
use crate::protocol::proxy_protocol::{self, Header, Tlvs, Version};
use crate::protocol::tls::{Inspector, Seen};
use crate::telemetry::names::ServerHistogram;
use crate::telemetry::{ProxyProtocolCells, ProxyProtocolStat, ServerCells, ServerStat};

/// A filter that needs bytes, at work.
pub(super) enum Inspection<'a> {
    Tls { inspector: Inspector, settings: &'a config::TlsInspector },
    Http { searched: usize },
    ProxyProtocol { settings: &'a config::ProxyProtocol, stats: &'a ProxyProtocolCells },
}

/// What comes of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More bytes are needed.
    More,
    /// The filter is done, and has taken so many bytes.
    Done { taken: usize },
    /// The connection is to be closed.
    Close,
}

/// Bytes by which what is no TLS shows itself: a record's header.
const RECORD_HEADER_BYTES: usize = 5;

impl<'a> Inspection<'a> {
    pub(super) fn tls(settings: &'a config::TlsInspector) -> Self {
        Self::Tls { inspector: Inspector::default(), settings }
    }

    pub(super) fn http() -> Self {
        Self::Http { searched: 0 }
    }

    pub(super) fn proxy_protocol(settings: &'a config::ProxyProtocol, stats: &'a ProxyProtocolCells) -> Self {
        Self::ProxyProtocol { settings, stats }
    }

    /// Whether it has anything to do with the connection.
    pub(super) fn concerns(&self, info: &ConnectionInfo) -> bool {
        !matches!(self, Self::Http { .. }) || info.transport != TransportProtocol::Tls
    }

    /// Looks at all bytes there are.
    pub(super) fn look(&mut self, bytes: &[u8], info: &mut ConnectionInfo, server: &ServerCells) -> Step {
        match self {
            Self::Tls { inspector, settings } => look_for_tls(inspector, settings, bytes, info, server),
            Self::Http { searched } => look_for_http(http::look(bytes, searched), info, server),
            Self::ProxyProtocol { settings, stats } => look_for_header(settings, stats, bytes, info, server),
        }
    }
}

fn look_for_tls(
    inspector: &mut Inspector,
    settings: &config::TlsInspector,
    bytes: &[u8],
    info: &mut ConnectionInfo,
    server: &ServerCells,
) -> Step {
    let max = settings.max_client_hello_bytes;
    let seen = inspector.look(bytes);
    let looked_at = match seen {
        Seen::More if bytes.len() < max => return Step::More,
        Seen::More => bytes.len(),
        Seen::Hello => inspector.looked_at(),
        Seen::Other => bytes.len().min(RECORD_HEADER_BYTES),
    };
    server.record(ServerHistogram::TlsInspectorBytesProcessed, looked_at as u64);
    if seen == Seen::More || looked_at > max {
        server.inc(ServerStat::TlsInspectorClientHelloTooLarge);
        return Step::Close;
    }
    let hello = inspector.hello(bytes).filter(|_| seen == Seen::Hello);
    let Some((hello, server_name)) = hello.zip(inspector.written_name(bytes)) else {
        if settings.close_on_errors {
            if bytes.len() >= max {
                server.inc(ServerStat::TlsInspectorClientHelloTooLarge);
            }
            return Step::Close;
        }
        server.inc(ServerStat::TlsInspectorTlsNotFound);
        return Step::Done { taken: 0 };
    };
    server.inc(ServerStat::TlsInspectorTlsFound);
    server.inc(if server_name.is_some() {
        ServerStat::TlsInspectorSniFound
    } else {
        ServerStat::TlsInspectorSniNotFound
    });
    server.inc(if hello.protocols.is_empty() {
        ServerStat::TlsInspectorAlpnNotFound
    } else {
        ServerStat::TlsInspectorAlpnFound
    });
    info.transport = TransportProtocol::Tls;
    info.server_name = server_name;
    if !hello.protocols.is_empty() {
        info.application_protocols = hello.protocols;
    }
    Step::Done { taken: 0 }
}

fn look_for_http(seen: http::Seen, info: &mut ConnectionInfo, server: &ServerCells) -> Step {
    match seen {
        http::Seen::More => return Step::More,
        http::Seen::TooLong => {
            server.inc(ServerStat::HttpInspectorReadError);
            return Step::Close;
        }
        http::Seen::Other => server.inc(ServerStat::HttpInspectorHttpNotFound),
        http::Seen::Http(protocol) => {
            server.inc(match protocol {
                Protocol::Http10 => ServerStat::HttpInspectorHttp10Found,
                Protocol::Http11 => ServerStat::HttpInspectorHttp11Found,
                Protocol::Http2 => ServerStat::HttpInspectorHttp2Found,
            });
            info.application_protocols = vec![protocol.name().into()];
        }
    }
    Step::Done { taken: 0 }
}

fn look_for_header(
    settings: &config::ProxyProtocol,
    stats: &ProxyProtocolCells,
    bytes: &[u8],
    info: &mut ConnectionInfo,
    server: &ServerCells,
) -> Step {
    use ProxyProtocolStat as Stat;
    match proxy_protocol::look(bytes, settings) {
        proxy_protocol::Seen::More => Step::More,
        proxy_protocol::Seen::Absent => {
            stats.inc(Stat::NotFoundAllowed);
            Step::Done { taken: 0 }
        }
        proxy_protocol::Seen::Bad(version) => {
            server.inc(ServerStat::DownstreamCxProxyProtoError);
            stats.inc(match version {
                None => Stat::NotFoundDisallowed,
                Some(Version::V1) => Stat::V1Error,
                Some(Version::V2) => Stat::V2Error,
            });
            Step::Close
        }
        proxy_protocol::Seen::Denied(version) => {
            let (found, disallowed) = match version {
                Version::V1 => (Stat::V1Found, Stat::V1Disallowed),
                Version::V2 => (Stat::V2Found, Stat::V2Disallowed),
            };
            stats.inc(found);
            stats.inc(disallowed);
            Step::Close
        }
        proxy_protocol::Seen::Header(header) => {
            stats.inc(match header.version {
                Version::V1 => Stat::V1Found,
                Version::V2 => Stat::V2Found,
            });
            apply(settings, &header, bytes, info);
            Step::Done { taken: header.bytes }
        }
    }
}

/// Takes over what a header says.
fn apply(settings: &config::ProxyProtocol, header: &Header, bytes: &[u8], info: &mut ConnectionInfo) {
    if let Some([source, destination]) = header.addresses {
        info.remote = source.into();
        if info.local.socket() != Some(destination) {
            (info.local, info.local_restored) = (destination.into(), true);
        }
    }
    let mut data = ProxyProtocolData::default();
    let mut state: Vec<(Box<str>, Box<str>)> = Vec::new();
    for tlv in Tlvs::new(bytes.get(header.tlvs.clone()).unwrap_or_default()) {
        if settings.pass_through.contains(tlv.kind) {
            data.tlvs.push((tlv.kind, tlv.value.into()));
        }
        let Some(rule) = settings.rules.iter().find(|rule| rule.tlv == tlv.kind) else { continue };
        // As in Envoy the first of several with one key stays in metadata, and the last in filter state.
        if !settings.in_filter_state && data.value(&rule.namespace, &rule.key).is_some() {
            continue;
        }
        let value = match rule.encoding {
            config::TlvEncoding::Sanitized => sanitized(tlv.value),
            config::TlvEncoding::Base64 => base64(tlv.value),
        };
        let (namespace, key, value) = (rule.namespace.clone(), rule.key.clone(), value.into());
        if settings.in_filter_state {
            state.retain(|(other, _)| *other != key);
            state.push((key, value));
        } else {
            data.metadata.push(Metadatum { namespace, key, value });
        }
    }
    data.state = (!state.is_empty()).then(|| state.into());
    info.proxy_protocol = Some(Box::new(data));
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    let mut emit = |digits: &[u8]| {
        text.extend(digits.iter().map(|digit| char::from(*digit)));
        Ok::<_, Infallible>(())
    };
    let mut encoder = Encoder::default();
    // It has nothing to fail for.
    let (Ok(()), Ok(())) = (encoder.encode(bytes, &mut emit), encoder.finish(&mut emit));
    text
}

/// Text with `!` for each byte that is no UTF-8. Source: Envoy `sanitizeUtf8String`.
fn sanitized(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}
