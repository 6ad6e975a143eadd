//! The PROXY protocol towards endpoints, choices of TLVs, and what is around transport sockets.
use std::sync::Arc;

use super::at::At;
use super::fields::classify;
use super::report::Class;
use super::value::type_name;
use super::{format, tls};
use crate::config::access_log::SubstitutionFormat;
use crate::config::metadata::{MetadataKind, ORIGINAL_DST};
use crate::config::proxy_protocol::{
    HeaderTlvs, OwnedTlv, ProxyProtocolVersion, TlvMerge, TlvTypes, UpstreamProxyProtocol,
};
use crate::config::tls::UpstreamTls;
use crate::control::xds::pb::{self, Named};
use pb::core::{
    ProxyProtocolConfigVersion as Version, ProxyProtocolPassThroughTLVsPassTLVsMatchType as MatchType,
};
use pb::tcp_proxy::ProxyProtocolTlvMergePolicy as MergePolicy;
use pb::types::MetadataKindKindOneOf as Kind;

/// Which TLVs are kept.
pub(super) fn tlv_types(at: &At<'_>, message: pb::core::ProxyProtocolPassThroughTLVs) -> TlvTypes {
    classify!(at, message => pb::core::ProxyProtocolPassThroughTLVs { implemented: match_type, tlv_type; });
    for (index, &number) in tlv_type.iter().enumerate() {
        if number > 255 {
            at.item("tlv_type", index).error("must be less than 256");
        }
    }
    match at.enumeration("match_type", match_type) {
        MatchType::IncludeAll => TlvTypes::All,
        MatchType::Include => TlvTypes::These(tlv_type.into_iter().map(|number| number as u8).collect()),
    }
}

/// How endpoints are reached.
#[derive(Default)]
pub(super) struct Way {
    /// What connections begin with.
    pub(super) proxy_protocol: Option<Arc<UpstreamProxyProtocol>>,
    pub(super) tls: Option<Arc<UpstreamTls>>,
    /// Whose metadata has their destination, in an internal listener.
    pub(super) original_dst: Vec<MetadataKind>,
}

/// A transport socket towards endpoints.
pub(super) fn transport_socket(at: &At<'_>, message: pb::core::TransportSocket) -> Way {
    let Some(pb::core::TransportSocketConfigTypeOneOf::TypedConfig(any)) = &message.config_type else {
        return Way { tls: tls::upstream(at, message), ..Way::default() };
    };
    if type_name(any) == pb::extensions::InternalUpstreamTransport::NAME {
        let at = &at.field("typed_config");
        return at.unpack(any).map(|message| internal_upstream(at, message)).unwrap_or_default();
    }
    if type_name(any) != pb::extensions::ProxyProtocolUpstreamTransport::NAME {
        return Way { tls: tls::upstream(at, message), ..Way::default() };
    }
    let at = &at.field("typed_config");
    let Some(message) = at.unpack::<pb::extensions::ProxyProtocolUpstreamTransport>(any) else {
        return Way::default();
    };
    classify!(at, message => pb::extensions::ProxyProtocolUpstreamTransport {
        implemented: config, transport_socket;
        no_effect: allow_unspecified_address = "a client's addresses are always known",
            tlv_as_pool_key = "connections are shared only where the whole header is the same";
    });
    let proxy_protocol = config.map(|message| Arc::new(upstream(&at.field("config"), message)));
    let Some(message) = transport_socket else {
        at.field("transport_socket").error("must be set");
        return Way { proxy_protocol, ..Way::default() };
    };
    let inner = &at.field("transport_socket");
    if is_proxy_protocol(&message) {
        inner.error("one header is enough: raw_buffer or TLS");
        return Way { proxy_protocol, ..Way::default() };
    }
    // Without a `config` Envoy sends version 1.
    let proxy_protocol = proxy_protocol.or_else(|| Some(Arc::default()));
    Way { proxy_protocol, tls: tls::upstream(inner, message), original_dst: Vec::new() }
}

/// What lies between a client within the process and an internal listener: the socket within it, and what is told beside.
fn internal_upstream(at: &At<'_>, message: pb::extensions::InternalUpstreamTransport) -> Way {
    classify!(at, message => pb::extensions::InternalUpstreamTransport {
        implemented: transport_socket,
            passthrough_metadata = "of envoy.filters.listener.original_dst, for the filter of that name; others are refused";
    });
    let told = |(index, message)| passed(&at.item("passthrough_metadata", index), message);
    let original_dst = passthrough_metadata.into_iter().enumerate().filter_map(told).collect();
    match transport_socket {
        Some(message) => {
            Way { original_dst, ..self::transport_socket(&at.field("transport_socket"), message) }
        }
        None => {
            at.field("transport_socket").error("must be set");
            Way::default()
        }
    }
}

/// Metadata that is passed on, where anything reads it there.
fn passed(
    at: &At<'_>,
    message: pb::extensions::InternalUpstreamTransportMetadataValueSource,
) -> Option<MetadataKind> {
    classify!(at, message => pb::extensions::InternalUpstreamTransportMetadataValueSource {
        implemented: kind, name = "envoy.filters.listener.original_dst; others are refused";
    });
    if *name != *ORIGINAL_DST {
        let field = format!("{}.{name}", pb::extensions::InternalUpstreamTransportMetadataValueSource::NAME);
        at.field("name").found(Class::Refused, field, "no other metadata of connections is read");
    }
    let at = &at.field("kind");
    let Some(message) = kind else {
        at.error("must be set");
        return None;
    };
    classify!(at, message => pb::types::MetadataKind { implemented: kind = "host and cluster; others are refused, by Envoy, too"; });
    match kind {
        Some(Kind::Host(message)) => {
            classify!(&at.field("host"), message => pb::types::MetadataKindHost {});
            Some(MetadataKind::Host)
        }
        Some(Kind::Cluster(message)) => {
            classify!(&at.field("cluster"), message => pb::types::MetadataKindCluster {});
            Some(MetadataKind::Cluster)
        }
        Some(Kind::Request(_) | Kind::Route(_)) | None => {
            at.error("metadata type is not supported: host or cluster");
            None
        }
    }
}

fn is_proxy_protocol(message: &pb::core::TransportSocket) -> bool {
    let Some(pb::core::TransportSocketConfigTypeOneOf::TypedConfig(any)) = &message.config_type else {
        return false;
    };
    type_name(any) == pb::extensions::ProxyProtocolUpstreamTransport::NAME
}

/// What connections to endpoints begin with.
pub(super) fn upstream(at: &At<'_>, message: pb::core::ProxyProtocolConfig) -> UpstreamProxyProtocol {
    classify!(at, message => pb::core::ProxyProtocolConfig {
        implemented: version, pass_through_tlvs, added_tlvs;
    });
    let version = match at.enumeration("version", version) {
        Version::V1 => ProxyProtocolVersion::V1,
        Version::V2 => ProxyProtocolVersion::V2,
    };
    let pass_through = pass_through_tlvs
        .map(|message| tlv_types(&at.field("pass_through_tlvs"), message))
        .unwrap_or_default();
    UpstreamProxyProtocol { version, pass_through, added: fixed_tlvs(at, added_tlvs) }
}

/// Metadata of an endpoint that is for the transport socket.
const HOST_METADATA: &str = "envoy.transport_sockets.proxy_protocol";

/// The TLVs of an endpoint's own; what is read of its metadata is taken out of it.
pub(super) fn host_tlvs(
    at: &At<'_>,
    metadata: &mut Option<pb::core::Metadata>,
) -> Option<Arc<Vec<OwnedTlv>>> {
    let any = metadata.as_mut()?.typed_filter_metadata.remove(HOST_METADATA)?;
    let at = &at.field("metadata");
    let at = &at.key("typed_filter_metadata", HOST_METADATA);
    let message = at.unpack::<pb::core::PerHostConfig>(&any)?;
    classify!(at, message => pb::core::PerHostConfig {
        implemented: added_tlvs = "checked as those of a transport socket, which Envoy does not do";
    });
    let tlvs = fixed_tlvs(at, added_tlvs);
    (!tlvs.is_empty()).then(|| Arc::new(tlvs))
}

/// TLVs of static values.
fn fixed_tlvs(at: &At<'_>, entries: Vec<pb::core::TlvEntry>) -> Vec<OwnedTlv> {
    let mut fixed = Vec::with_capacity(entries.len());
    for (index, message) in entries.into_iter().enumerate() {
        let at = &at.item("added_tlvs", index);
        match tlv(at, message) {
            Some((kind, TlvValue::Fixed(value))) => fixed.push((kind, value)),
            Some((_, TlvValue::Format(_))) => {
                let field = format!("{}.format_string", pb::core::TlvEntry::NAME);
                at.field("format_string").value_refused(&field, "only the TCP proxy's TLVs may be formats");
            }
            None => {}
        }
    }
    fixed
}

/// TLVs of a TCP proxy's own; `None`: it has none.
pub(super) fn header_tlvs(
    at: &At<'_>,
    entries: Vec<pb::core::TlvEntry>,
    merge_policy: i32,
) -> Option<HeaderTlvs> {
    let merge = match at.enumeration("proxy_protocol_tlv_merge_policy", merge_policy) {
        MergePolicy::AddIfAbsent => TlvMerge::AddIfAbsent,
        MergePolicy::OverwriteByTypeIfExistsOrAdd => TlvMerge::OverwriteByType,
        MergePolicy::AppendIfExistsOrAdd => TlvMerge::Append,
    };
    if entries.is_empty() {
        return None;
    }
    let mut tlvs = HeaderTlvs { merge, ..HeaderTlvs::default() };
    for (index, message) in entries.into_iter().enumerate() {
        match tlv(&at.item("proxy_protocol_tlvs", index), message) {
            Some((kind, TlvValue::Fixed(value))) => tlvs.fixed.push((kind, value)),
            Some((kind, TlvValue::Format(format))) => tlvs.formats.push((kind, format)),
            None => {}
        }
    }
    Some(tlvs)
}

/// What a TLV says.
enum TlvValue {
    Fixed(Box<[u8]>),
    Format(SubstitutionFormat),
}

/// One TLV: its type and value; `None`: it is wrong.
fn tlv(at: &At<'_>, message: pb::core::TlvEntry) -> Option<(u8, TlvValue)> {
    classify!(at, message => pb::core::TlvEntry {
        implemented: r#type, value, format_string = "of the TCP proxy's TLVs; of a transport socket's and an endpoint's it is refused";
    });
    let kind = u8::try_from(r#type);
    if kind.is_err() {
        at.field("type").error("must be less than 256");
    }
    let value = match format_string {
        Some(_) if !value.is_empty() => {
            at.error("only one of value, format_string may be set");
            return None;
        }
        Some(message) => TlvValue::Format(format::substitution(&at.field("format_string"), message)?),
        None if value.is_empty() => {
            at.field("value").error("must have at least one byte");
            return None;
        }
        None => TlvValue::Fixed(value.into()),
    };
    Some((kind.ok()?, value))
}
