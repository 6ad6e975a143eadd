//! Filter chains: what they ask of connections, and their network filters.
use std::collections::HashSet;
use std::sync::Arc;

use prost::Message;

use super::address;
use super::at::At;
use super::fields::classify;
use super::listener::missing_typed_config;
use super::matching::{self, Subject};
use super::report::Class;
use super::value::type_name;
use super::{network_filter, tls, told_filter};
use crate::base::xx_hash::xx_hash;
use crate::config::filter_chain::{FilterChain, FilterChainMatch, NetworkFilter, SourceType};
use crate::config::matching::Matcher;
use crate::config::told_filter::FilterKind;
use crate::control::xds::pb;
use pb::listener::{FilterChainMatchConnectionSourceType, FilterConfigTypeOneOf};

/// A text as an `Any` holds it.
const STRING_VALUE: &str = "google.protobuf.StringValue";

/// What tells a message from others.
pub(super) fn fingerprint(message: &impl Message) -> u64 {
    xx_hash(&message.encode_to_vec(), 0)
}

/// One chain.
pub(super) fn filter_chain(at: &At<'_>, message: pb::listener::FilterChain) -> FilterChain {
    let fingerprint = fingerprint(&message);
    classify!(at, message => pb::listener::FilterChain {
        implemented: filter_chain_match, filters,
            transport_socket = "raw_buffer and TLS; others are refused", name,
            transport_socket_connect_timeout = "15 s where there is none";
        no_effect: metadata = "nothing of this version reads it";
        refused: use_proxy_proto = "the proxy_protocol listener filter does it";
    });
    let tls = transport_socket.and_then(|socket| tls::downstream(&at.field("transport_socket"), socket));
    FilterChain {
        name: name.into(),
        filter_chain_match: filter_chain_match
            .map(|message| asked(&at.field("filter_chain_match"), message))
            .unwrap_or_default(),
        filters: network_filters(at, filters),
        tls,
        transport_socket_connect_timeout: at.timeout(
            "transport_socket_connect_timeout",
            transport_socket_connect_timeout,
            None,
        ),
        fingerprint,
    }
}

fn asked(at: &At<'_>, message: pb::listener::FilterChainMatch) -> FilterChainMatch {
    classify!(at, message => pb::listener::FilterChainMatch {
        implemented: destination_port, prefix_ranges, direct_source_prefix_ranges, source_type,
            source_prefix_ranges, source_ports, server_names, transport_protocol, application_protocols;
        refused: address_suffix = "Envoy refuses it, too", suffix_len = "Envoy refuses it, too";
    });
    let port = |field: &str, port: u32| {
        let valid = u16::try_from(port).ok().filter(|port| *port > 0);
        if valid.is_none() {
            at.field(field).error(format!("{port} is no port: 1 to 65535"));
        }
        valid
    };
    let server_name = |(index, name): (usize, String)| {
        if name.contains('*') && !name.starts_with("*.") {
            at.item("server_names", index)
                .error(format!("{name:?}: a wildcard is \"*.\" and what names end with"));
        }
        name.to_ascii_lowercase().into()
    };
    FilterChainMatch {
        destination_port: destination_port.and_then(|number| port("destination_port", number)),
        prefix_ranges: address::cidr_ranges(at, "prefix_ranges", prefix_ranges),
        server_names: server_names.into_iter().enumerate().map(server_name).collect(),
        transport_protocol: transport_protocol.into(),
        application_protocols: application_protocols.into_iter().map(Into::into).collect(),
        direct_source_prefix_ranges: address::cidr_ranges(
            at,
            "direct_source_prefix_ranges",
            direct_source_prefix_ranges,
        ),
        source_type: match at.enumeration("source_type", source_type) {
            FilterChainMatchConnectionSourceType::Any => SourceType::Any,
            FilterChainMatchConnectionSourceType::SameIpOrLoopback => SourceType::SameIpOrLoopback,
            FilterChainMatchConnectionSourceType::External => SourceType::External,
        },
        source_prefix_ranges: address::cidr_ranges(at, "source_prefix_ranges", source_prefix_ranges),
        source_ports: source_ports.into_iter().filter_map(|number| port("source_ports", number)).collect(),
    }
}

fn network_filters(at: &At<'_>, filters: Vec<pb::listener::Filter>) -> Vec<NetworkFilter> {
    let mut converted = Vec::with_capacity(filters.len());
    let last = filters.len().saturating_sub(1);
    for (index, message) in filters.into_iter().enumerate() {
        let at = &at.item("filters", index);
        let Some(filter) = network_filter(at, message, index == last) else { continue };
        if filter.ends_chain() && index != last {
            at.error("it serves the connection itself and must be the last filter of its chain");
        }
        if !filter.ends_chain() && index == last {
            at.error("it does not serve the connection itself: the last filter of a chain must");
        }
        converted.push(filter);
    }
    converted
}

fn network_filter(at: &At<'_>, message: pb::listener::Filter, is_last: bool) -> Option<NetworkFilter> {
    classify!(at, message => pb::listener::Filter {
        implemented: config_type = "http_connection_manager, tcp_proxy, rbac, connection_limit, local_ratelimit, sni_cluster, echo, direct_response, by typed_config or, all but the first, by config_discovery; other filters are refused",
            name = "of a filter that is told; others are found by the type of their typed_config";
    });
    match config_type {
        Some(FilterConfigTypeOneOf::TypedConfig(any)) => {
            network_filter::convert(&at.field("typed_config"), &any)
        }
        Some(FilterConfigTypeOneOf::ConfigDiscovery(message)) => {
            let at = &at.field("config_discovery");
            let told = told_filter::asked(at, &name, FilterKind::Network, message, is_last)?;
            Some(NetworkFilter::Told(Box::new(told)))
        }
        None => {
            missing_typed_config(at, &name);
            None
        }
    }
}

/// What a listener's matcher leads to: names of chains.
pub(super) fn matcher(at: &At<'_>, message: pb::matching::Matcher) -> Option<Matcher<Box<str>>> {
    let name = |at: &At<'_>, any: &pb::google::Any| {
        if type_name(any) != STRING_VALUE {
            at.extension(Class::Refused, any, "the name of a filter chain is a google.protobuf.StringValue");
            return None;
        }
        match String::decode(&*any.value) {
            Ok(name) => Some(name.into_boxed_str()),
            Err(error) => {
                at.error(format!("not a valid {STRING_VALUE}: {error}"));
                None
            }
        }
    };
    matching::matcher(at, message, Subject::FilterChain, name)
}

/// A chain that a matcher chooses by its name: it has one of its own, and its match is without effect.
fn named(at: &At<'_>, message: &mut pb::listener::FilterChain, names: &mut HashSet<String>) {
    if message.name.is_empty() {
        at.field("name").error("must be set where a filter_chain_matcher chooses");
    } else if !names.insert(message.name.clone()) {
        at.field("name").error(format!("duplicate: {}", message.name));
    }
    // What is refused in it is refused here, too.
    if message
        .filter_chain_match
        .as_ref()
        .is_some_and(|asked| asked.address_suffix.is_empty() && asked.suffix_len.is_none())
    {
        message.filter_chain_match = None;
        at.field("filter_chain_match").warn("without effect: the listener's filter_chain_matcher chooses");
    }
}

/// Chains in common: the list, and the default.
pub(super) fn chains(
    at: &At<'_>,
    filter_chains: Vec<pb::listener::FilterChain>,
    default_filter_chain: Option<pb::listener::FilterChain>,
    matched_by_name: bool,
) -> (Vec<Arc<FilterChain>>, Option<Arc<FilterChain>>) {
    if filter_chains.is_empty() && default_filter_chain.is_none() {
        at.error("no filter chains specified");
    }
    let mut names = HashSet::new();
    let convert = |(index, mut message): (usize, pb::listener::FilterChain)| {
        let at = &at.item("filter_chains", index);
        if matched_by_name {
            named(at, &mut message, &mut names);
        }
        Arc::new(filter_chain(at, message))
    };
    let chains = filter_chains.into_iter().enumerate().map(convert).collect();
    let default = default_filter_chain.map(|mut message| {
        let at = &at.field("default_filter_chain");
        if message.filter_chain_match.take().is_some() {
            at.field("filter_chain_match").warn("without effect: the default chain takes what no other does");
        }
        Arc::new(filter_chain(at, message))
    });
    (chains, default)
}
