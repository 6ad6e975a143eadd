//! Listener filters, in their order, and the predicates that switch them off.

use super::at::At;
use super::fields::classify;
use super::listener::missing_typed_config;
use super::proxy_protocol::tlv_types;
use super::report::Class;
use super::told_filter;
use super::value::type_name;
use crate::config::listener_filter::{
    ListenerFilter, ListenerFilterKind, Predicate, ProxyProtocol, TlsInspector, TlvEncoding, TlvRule,
};
use crate::config::told_filter::FilterKind;
use crate::control::xds::pb::{self, Named};
use pb::core::ProxyProtocolConfigVersion as Version;
use pb::listener::{
    ListenerFilterChainMatchPredicateRuleOneOf as Rule, ListenerFilterConfigTypeOneOf as ConfigType,
};
use pb::listener_filters::{
    ProxyProtocolKeyValuePairValueStringEncoding as Encoding, ProxyProtocolTlvLocation as Location,
};

/// Filters that this version has, by the names of their messages.
pub(super) const IMPLEMENTED: [&str; 5] = [
    pb::listener_filters::OriginalDst::NAME,
    pb::listener_filters::OriginalSrc::NAME,
    pb::listener_filters::TlsInspector::NAME,
    pb::listener_filters::HttpInspector::NAME,
    pb::listener_filters::ProxyProtocol::NAME,
];

/// Longest hello that may be asked for, and the default, in bytes. Source: Envoy `TLS_MAX_CLIENT_HELLO`.
const CLIENT_HELLO_BYTES_MAX: u32 = 16 * 1024;
/// Namespace of metadata whose rule names none.
const NAMESPACE: &str = "envoy.filters.listener.proxy_protocol";
/// Predicates within one another. Source: Envoy bounds them by the depth of a message.
const DEPTH_MAX: u32 = 32;

/// All of a listener.
pub(super) fn listener_filters(
    at: &At<'_>,
    filters: Vec<pb::listener::ListenerFilter>,
) -> Vec<ListenerFilter> {
    let convert = |(index, message)| listener_filter(&at.item("listener_filters", index), message);
    filters.into_iter().enumerate().filter_map(convert).collect()
}

fn listener_filter(at: &At<'_>, message: pb::listener::ListenerFilter) -> Option<ListenerFilter> {
    classify!(at, message => pb::listener::ListenerFilter {
        implemented: config_type = "original_dst, original_src, tls_inspector, http_inspector, proxy_protocol, by typed_config or config_discovery; others are refused",
            filter_disabled, name = "of a filter that is told; others are found by the type of their typed_config";
    });
    let disabled = filter_disabled.map(|message| predicate(&at.field("filter_disabled"), message, DEPTH_MAX));
    let kind = match config_type {
        Some(ConfigType::TypedConfig(any)) => kind(&at.field("typed_config"), &any),
        Some(ConfigType::ConfigDiscovery(message)) => {
            let at = &at.field("config_discovery");
            let told = told_filter::asked(at, &name, FilterKind::Listener, message, false);
            told.map(|told| ListenerFilterKind::Told(Box::new(told)))
        }
        None => {
            missing_typed_config(at, &name);
            None
        }
    };
    // A predicate that is wrong was reported.
    Some(ListenerFilter { kind: kind?, disabled: disabled.map_or(Some(None), |found| found.map(Some))? })
}

pub(super) fn kind(at: &At<'_>, any: &pb::google::Any) -> Option<ListenerFilterKind> {
    use pb::listener_filters as messages;
    match type_name(any) {
        messages::OriginalDst::NAME => {
            let message = at.unpack::<messages::OriginalDst>(any)?;
            classify!(at, message => pb::listener_filters::OriginalDst {});
            Some(ListenerFilterKind::OriginalDst)
        }
        messages::OriginalSrc::NAME => {
            let message = at.unpack::<messages::OriginalSrc>(any)?;
            classify!(at, message => pb::listener_filters::OriginalSrc {
                implemented: mark;
                no_effect: bind_port = "Envoy does not read it either";
            });
            Some(ListenerFilterKind::OriginalSrc { mark })
        }
        messages::HttpInspector::NAME => {
            let message = at.unpack::<messages::HttpInspector>(any)?;
            classify!(at, message => pb::listener_filters::HttpInspector {});
            Some(ListenerFilterKind::HttpInspector)
        }
        messages::TlsInspector::NAME => {
            Some(ListenerFilterKind::TlsInspector(tls_inspector(at, at.unpack(any)?)))
        }
        messages::ProxyProtocol::NAME => {
            Some(ListenerFilterKind::ProxyProtocol(proxy_protocol(at, at.unpack(any)?)))
        }
        _ => {
            at.extension(Class::Refused, any, "");
            None
        }
    }
}

fn tls_inspector(at: &At<'_>, message: pb::listener_filters::TlsInspector) -> TlsInspector {
    classify!(at, message => pb::listener_filters::TlsInspector {
        implemented: close_connection_on_client_hello_parsing_errors, max_client_hello_size,
            initial_read_buffer_size = "checked; a read takes what has arrived";
        not_yet: enable_ja3_fingerprinting, enable_ja4_fingerprinting;
    });
    if initial_read_buffer_size.is_some_and(|bytes| !(256..=65_536).contains(&bytes)) {
        at.field("initial_read_buffer_size").error("must be from 256 to 65536");
    }
    let max = max_client_hello_size.unwrap_or(CLIENT_HELLO_BYTES_MAX);
    if !(256..=CLIENT_HELLO_BYTES_MAX).contains(&max) {
        at.field("max_client_hello_size").error("must be from 256 to 16384");
    }
    TlsInspector {
        max_client_hello_bytes: max as usize,
        close_on_errors: close_connection_on_client_hello_parsing_errors,
    }
}

fn proxy_protocol(at: &At<'_>, message: pb::listener_filters::ProxyProtocol) -> ProxyProtocol {
    classify!(at, message => pb::listener_filters::ProxyProtocol {
        implemented: rules = "metadata of the connection, for its records and the rbac filter of connections; requests do not see it, as in Envoy",
            allow_requests_without_proxy_protocol, pass_through_tlvs, disallowed_versions, stat_prefix,
            tlv_location = "of FILTER_STATE formats read single fields (FIELD), of requests, too";
    });
    let in_filter_state = at.enumeration::<Location>("tlv_location", tlv_location) == Location::FilterState;
    let refuses = |version: Version| disallowed_versions.contains(&(version as i32));
    for version in &disallowed_versions {
        at.enumeration::<Version>("disallowed_versions", *version);
    }
    let (allow_v1, allow_v2) = (!refuses(Version::V1), !refuses(Version::V2));
    if !allow_v1 && !allow_v2 {
        at.field("disallowed_versions")
            .error("Proxy Protocol filter is misconfigured: all proxy protocol versions are disallowed.");
    }
    let mut converted: Vec<TlvRule> = Vec::with_capacity(rules.len());
    for (index, message) in rules.into_iter().enumerate() {
        let at = &at.item("rules", index);
        classify!(at, message => pb::listener_filters::ProxyProtocolRule {
            implemented: tlv_type, on_tlv_present;
        });
        if tlv_type > 255 {
            at.field("tlv_type").error("must be less than 256");
        }
        let rule = match on_tlv_present {
            Some(message) => tlv_rule(&at.field("on_tlv_present"), tlv_type as u8, message),
            // The value has a key, though an empty one.
            None => TlvRule {
                tlv: tlv_type as u8,
                namespace: NAMESPACE.into(),
                key: Box::default(),
                encoding: TlvEncoding::default(),
            },
        };
        // Of two rules for one type the last counts.
        converted.retain(|other| other.tlv != rule.tlv);
        converted.push(rule);
    }
    let pass_through = pass_through_tlvs
        .map(|message| tlv_types(&at.field("pass_through_tlvs"), message))
        .unwrap_or_default();
    ProxyProtocol {
        allow_without: allow_requests_without_proxy_protocol,
        allow_v1,
        allow_v2,
        stat_prefix: stat_prefix.into(),
        pass_through,
        rules: converted,
        in_filter_state,
    }
}

fn tlv_rule(at: &At<'_>, tlv: u8, message: pb::listener_filters::ProxyProtocolKeyValuePair) -> TlvRule {
    classify!(at, message => pb::listener_filters::ProxyProtocolKeyValuePair {
        implemented: metadata_namespace, key, value_string_encoding;
    });
    if key.is_empty() {
        at.field("key").error("must have at least one character");
    }
    let encoding = match at.enumeration("value_string_encoding", value_string_encoding) {
        Encoding::Unspecified | Encoding::SanitizedUtf8 => TlvEncoding::Sanitized,
        Encoding::Base64 => TlvEncoding::Base64,
    };
    let namespace = if metadata_namespace.is_empty() { NAMESPACE.into() } else { metadata_namespace.into() };
    TlvRule { tlv, namespace, key: key.into(), encoding }
}

fn predicate(
    at: &At<'_>,
    message: pb::listener::ListenerFilterChainMatchPredicate,
    depth: u32,
) -> Option<Predicate> {
    classify!(at, message => pb::listener::ListenerFilterChainMatchPredicate { implemented: rule; });
    let Some(deeper) = depth.checked_sub(1) else {
        at.error(format!("more than {DEPTH_MAX} predicates within one another"));
        return None;
    };
    match rule {
        Some(Rule::OrMatch(message)) => match_set(&at.field("or_match"), message, deeper).map(Predicate::Or),
        Some(Rule::AndMatch(message)) => {
            match_set(&at.field("and_match"), message, deeper).map(Predicate::And)
        }
        Some(Rule::NotMatch(message)) => {
            predicate(&at.field("not_match"), *message, deeper).map(|inner| Predicate::Not(Box::new(inner)))
        }
        Some(Rule::AnyMatch(true)) => Some(Predicate::Any),
        Some(Rule::AnyMatch(false)) => {
            at.field("any_match").error("must be true");
            None
        }
        Some(Rule::DestinationPortRange(message)) => {
            Some(Predicate::DestinationPort(at.field("destination_port_range").range(message)))
        }
        None => {
            at.error("one of or_match, and_match, not_match, any_match, destination_port_range must be set");
            None
        }
    }
}

fn match_set(
    at: &At<'_>,
    message: pb::listener::ListenerFilterChainMatchPredicateMatchSet,
    depth: u32,
) -> Option<Vec<Predicate>> {
    classify!(at, message => pb::listener::ListenerFilterChainMatchPredicateMatchSet { implemented: rules; });
    if rules.len() < 2 {
        at.field("rules").error("must have at least two");
    }
    let rules: Vec<_> = rules
        .into_iter()
        .enumerate()
        .map(|(index, message)| predicate(&at.item("rules", index), message, depth))
        .collect();
    rules.into_iter().collect()
}
