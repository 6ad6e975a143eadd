//! The PROXY protocol towards endpoints, and choices of TLVs.
use std::sync::Arc;

use super::at::At;
use super::fields::classify;
use super::tls;
use super::value::type_name;
use crate::config::proxy_protocol::{ProxyProtocolVersion, TlvTypes, UpstreamProxyProtocol};
use crate::config::tls::UpstreamTls;
use crate::control::xds::pb::{self, Named};
use pb::core::{
    ProxyProtocolConfigVersion as Version, ProxyProtocolPassThroughTLVsPassTLVsMatchType as MatchType,
};

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

/// A transport socket towards endpoints: what connections begin with, and their TLS.
pub(super) fn transport_socket(
    at: &At<'_>,
    message: pb::core::TransportSocket,
) -> (Option<Arc<UpstreamProxyProtocol>>, Option<Arc<UpstreamTls>>) {
    let Some(pb::core::TransportSocketConfigTypeOneOf::TypedConfig(any)) = &message.config_type else {
        return (None, tls::upstream(at, message));
    };
    if type_name(any) == pb::extensions::InternalUpstreamTransport::NAME {
        let at = &at.field("typed_config");
        let Some(message) = at.unpack::<pb::extensions::InternalUpstreamTransport>(any) else {
            return (None, None);
        };
        return internal_upstream(at, message);
    }
    if type_name(any) != pb::extensions::ProxyProtocolUpstreamTransport::NAME {
        return (None, tls::upstream(at, message));
    }
    let at = &at.field("typed_config");
    let Some(message) = at.unpack::<pb::extensions::ProxyProtocolUpstreamTransport>(any) else {
        return (None, None);
    };
    classify!(at, message => pb::extensions::ProxyProtocolUpstreamTransport {
        implemented: config, transport_socket;
        no_effect: allow_unspecified_address = "a client's addresses are always known",
            tlv_as_pool_key = "connections are shared only where the whole header is the same";
    });
    let proxy_protocol = config.map(|message| Arc::new(upstream(&at.field("config"), message)));
    let Some(message) = transport_socket else {
        at.field("transport_socket").error("must be set");
        return (proxy_protocol, None);
    };
    let inner = &at.field("transport_socket");
    if is_proxy_protocol(&message) {
        inner.error("one header is enough: raw_buffer or TLS");
        return (proxy_protocol, None);
    }
    // Without a `config` Envoy sends version 1.
    (proxy_protocol.or_else(|| Some(Arc::default())), tls::upstream(inner, message))
}

/// What lies between the client's side and an internal listener: the socket within it, since nothing else is passed on.
fn internal_upstream(
    at: &At<'_>,
    message: pb::extensions::InternalUpstreamTransport,
) -> (Option<Arc<UpstreamProxyProtocol>>, Option<Arc<UpstreamTls>>) {
    classify!(at, message => pb::extensions::InternalUpstreamTransport {
        implemented: transport_socket;
        refused: passthrough_metadata = "filters of the internal listener would not see it";
    });
    match transport_socket {
        Some(message) => self::transport_socket(&at.field("transport_socket"), message),
        None => {
            at.field("transport_socket").error("must be set");
            (None, None)
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
    let mut added = Vec::with_capacity(added_tlvs.len());
    for (index, message) in added_tlvs.into_iter().enumerate() {
        let at = &at.item("added_tlvs", index);
        classify!(at, message => pb::core::TlvEntry {
            implemented: r#type, value;
            refused: format_string = "static values only";
        });
        if r#type > 255 {
            at.field("type").error("must be less than 256");
        }
        if value.is_empty() && format_string.is_none() {
            at.field("value").error("must have at least one byte");
        }
        added.push((r#type as u8, value.into()));
    }
    UpstreamProxyProtocol { version, pass_through, added }
}
