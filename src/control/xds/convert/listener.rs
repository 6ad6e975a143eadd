//! Listeners and their filter chains.
use super::address;
use super::at::At;
use super::fields::classify;
use super::filter_chain;
use super::{access_log, listener_filter, socket};
use crate::base::balance::Policy;
use crate::base::socket_address::InternalAddress;
use crate::config::address::Address;
use crate::config::listener::{
    BUFFER_LIMIT_BYTES_DEFAULT, DrainType, LISTENER_FILTERS_TIMEOUT_DEFAULT, ListenAddress, Listener,
    TrafficDirection,
};
use crate::config::listener_filter::{ListenerFilter, ListenerFilterKind};
use crate::config::socket::{SocketOption, TcpKeepalive};
use crate::control::xds::pb::{self, Named};
use pb::listener::ListenerConnectionBalanceConfigBalanceTypeOneOf as BalanceTypeOneOf;
use pb::listener::ListenerListenerSpecifierOneOf::InternalListener;

/// One listener.
pub(super) fn listener(at: &At<'_>, mut message: pb::listener::Listener) -> Option<Listener> {
    let fingerprint = fingerprint(&mut message);
    classify!(at, message => pb::listener::Listener {
        implemented: name, address, additional_addresses, stat_prefix, filter_chains, filter_chain_matcher, default_filter_chain,
            per_connection_buffer_limit_bytes, deprecated_v1,
            listener_filters, listener_filters_timeout, continue_on_listener_filters_timeout, transparent, freebind,
            socket_options, traffic_direction, drain_type,
            enable_reuse_port, access_log = "of every connection, when it is over; bytes are counted of relayed ones; requests are the connection manager's to record",
            connection_balance_config = "without it: the accepting worker unless it is ahead of another",
            tcp_backlog_size, tcp_keepalive, tcp_fast_open_queue_length = "where net.ipv4.tcp_fastopen lets servers have it (bit 2)",
            max_connections_to_accept_per_socket_event, bind_to_port, ignore_global_conn_limit, use_original_dst,
            listener_specifier = "internal_listener, which needs its bootstrap extension and a name";
        no_effect: reuse_port = "enable_reuse_port has taken its place, in Envoy too",
            bypass_overload_manager = "no overload action exists", metadata = "nothing of this version reads it";
        not_yet: stats_matcher, per_connection_buffer_high_watermark_timeout;
        refused: fcds_config, udp_listener_config, api_listener,
            enable_mptcp;
    });
    let is_internal = listener_specifier.is_some();
    if let Some(InternalListener(message)) = listener_specifier {
        let at = &at.field("internal_listener");
        classify!(at, message => pb::listener::ListenerInternalListenerConfig {});
    }
    if is_internal {
        let exact_balance = matches!(
            connection_balance_config,
            Some(pb::listener::ListenerConnectionBalanceConfig {
                balance_type: Some(BalanceTypeOneOf::ExactBalance(_))
            })
        );
        let of_sockets = [
            ("address", address.is_some()),
            ("additional_addresses", !additional_addresses.is_empty()),
            ("socket_options", !socket_options.is_empty()),
            ("enable_reuse_port", enable_reuse_port.is_some()),
            ("freebind", freebind == Some(true)),
            ("transparent", transparent == Some(true)),
            ("tcp_backlog_size", tcp_backlog_size.is_some()),
            ("connection_balance_config", exact_balance),
            ("tcp_fast_open_queue_length", tcp_fast_open_queue_length.is_some()),
        ];
        check_internal(at, &name, of_sockets);
    }
    let options = socket::options(at, socket_options);
    let tcp_keepalive =
        tcp_keepalive.and_then(|message| socket::tcp_keepalive(&at.field("tcp_keepalive"), message));
    let main = if is_internal {
        if tcp_keepalive.is_some() {
            at.field("tcp_keepalive").warn("without effect: an internal listener has no sockets");
        }
        let address = Address::Internal(InternalAddress::new(&name, ""));
        Some(ListenAddress { address, ipv4_compat: false, socket_options: Vec::new(), tcp_keepalive: None })
    } else {
        address::fixed(&at.field("address"), address).map(|(address, ipv4_compat)| ListenAddress {
            address,
            ipv4_compat,
            socket_options: options.clone(),
            tcp_keepalive,
        })
    };
    let additional = additional_addresses.into_iter().enumerate().map(|(index, message)| {
        additional_address(&at.item("additional_addresses", index), message, &options, tcp_keepalive)
    });
    // Every address is converted before the first failure counts: all mistakes are reported.
    let addresses: Vec<_> = std::iter::once(main).chain(additional).collect();

    let mut listener_filters = listener_filter::listener_filters(at, listener_filters);
    let use_original_dst = use_original_dst.unwrap_or(false);
    if use_original_dst {
        // As in Envoy: behind those that are listed.
        listener_filters.push(ListenerFilter { kind: ListenerFilterKind::OriginalDst, disabled: None });
    }
    let listener_filters_timeout = at.timeout(
        "listener_filters_timeout",
        listener_filters_timeout,
        Some(LISTENER_FILTERS_TIMEOUT_DEFAULT),
    );
    let matched_by_name = filter_chain_matcher.is_some();
    let filter_chain_matcher = filter_chain_matcher
        .and_then(|message| filter_chain::matcher(&at.field("filter_chain_matcher"), message));
    let (filter_chains, default_filter_chain) =
        filter_chain::chains(at, filter_chains, default_filter_chain, matched_by_name);
    let traffic_direction = match at.enumeration("traffic_direction", traffic_direction) {
        pb::core::TrafficDirection::Unspecified => TrafficDirection::Unspecified,
        pb::core::TrafficDirection::Inbound => TrafficDirection::Inbound,
        pb::core::TrafficDirection::Outbound => TrafficDirection::Outbound,
    };
    let drain_type = match at.enumeration("drain_type", drain_type) {
        pb::listener::ListenerDrainType::Default => DrainType::Default,
        pb::listener::ListenerDrainType::ModifyOnly => DrainType::ModifyOnly,
    };
    let connection_balance = connection_balance_config.map_or_else(Policy::default, |message| {
        connection_balance(&at.field("connection_balance_config"), message)
    });
    let access_log = access_log::access_logs(at, "access_log", access_log);
    let deprecated_bind_to_port = deprecated_v1.and_then(|message| {
        classify!(&at.field("deprecated_v1"), message => pb::listener::ListenerDeprecatedV1 {
            implemented: bind_to_port;
        });
        bind_to_port
    });

    let addresses: Vec<_> = addresses.into_iter().collect::<Option<_>>()?;
    let name = if name.is_empty() { generated_name(&addresses) } else { name.into() };
    let limit = format!("envoy.resource_limits.listener.{name}.connection_limit");
    Some(Listener {
        name,
        stat_prefix: stat_prefix.into(),
        addresses,
        filter_chains,
        filter_chain_matcher,
        default_filter_chain,
        listener_filters,
        listener_filters_timeout,
        continue_on_listener_filters_timeout,
        per_connection_buffer_limit_bytes: per_connection_buffer_limit_bytes
            .unwrap_or(BUFFER_LIMIT_BYTES_DEFAULT),
        bind_to_port: !is_internal && bind_to_port.or(deprecated_bind_to_port).unwrap_or(true),
        use_original_dst,
        enable_reuse_port: enable_reuse_port.unwrap_or(true),
        connection_balance,
        freebind: freebind.unwrap_or(false),
        transparent: transparent.unwrap_or(false),
        tcp_backlog_size,
        tcp_fast_open_queue_length: tcp_fast_open_queue_length.filter(|length| *length > 0),
        accepts_per_event_max: max_connections_to_accept_per_socket_event,
        // The limit is one of sockets.
        ignore_global_conn_limit: ignore_global_conn_limit || is_internal,
        connection_limit: at.context.runtime.key(&limit).filter(|_| !is_internal),
        traffic_direction,
        drain_type,
        access_log,
        fingerprint,
    })
}

/// What tells a listener from others, whatever chains both have, and however one is chosen.
fn fingerprint(message: &mut pb::listener::Listener) -> u64 {
    let chains = std::mem::take(&mut message.filter_chains);
    let (matcher, default) = (message.filter_chain_matcher.take(), message.default_filter_chain.take());
    let fingerprint = filter_chain::fingerprint(message);
    (message.filter_chains, message.filter_chain_matcher) = (chains, matcher);
    message.default_filter_chain = default;
    fingerprint
}

/// What an internal listener cannot do without, and what only those with sockets have; which of that is set.
fn check_internal<const N: usize>(at: &At<'_>, name: &str, of_sockets: [(&str, bool); N]) {
    if at.context.internal_buffer_bytes.is_none() {
        at.field("internal_listener").error_with_fix(
            "the bootstrap extension of internal listeners is mandatory",
            "bootstrap_extensions:\n- name: envoy.bootstrap.internal_listener\n  typed_config:\n    \
             \"@type\": type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
        );
    }
    if name.is_empty() {
        at.field("name").error("an internal listener must have a name: endpoints find it by that");
    }
    for (field, is_set) in of_sockets {
        if is_set {
            at.field(field).error("an internal listener has no sockets, and so none of their features");
        }
    }
}

/// How connections spread over the workers.
fn connection_balance(at: &At<'_>, message: pb::listener::ListenerConnectionBalanceConfig) -> Policy {
    classify!(at, message => pb::listener::ListenerConnectionBalanceConfig {
        implemented: balance_type = "exact_balance; extend_balance and cpu_locality_balance are refused";
    });
    match balance_type {
        Some(BalanceTypeOneOf::ExactBalance(message)) => {
            let at = &at.field("exact_balance");
            classify!(at, message => pb::listener::ListenerConnectionBalanceConfigExactBalance {});
            return Policy::Exact;
        }
        Some(BalanceTypeOneOf::ExtendBalance(_)) => at.field("extend_balance").value_refused(
            "envoy.config.listener.v3.Listener.ConnectionBalanceConfig.extend_balance",
            "exact_balance needs no extension",
        ),
        Some(BalanceTypeOneOf::CpuLocalityBalance(_)) => at.field("cpu_locality_balance").value_refused(
            "envoy.config.listener.v3.Listener.ConnectionBalanceConfig.cpu_locality_balance",
            "",
        ),
        None => at.error("exact_balance must be set: {exact_balance: {}}"),
    }
    Policy::default()
}

/// Envoy names an unnamed listener by a random UUID; its address says more and stays the same.
fn generated_name(addresses: &[ListenAddress]) -> Box<str> {
    addresses.first().map(|first| first.address.to_string().into()).unwrap_or_default()
}

fn additional_address(
    at: &At<'_>,
    message: pb::listener::AdditionalAddress,
    inherited_options: &[SocketOption],
    inherited_keepalive: Option<TcpKeepalive>,
) -> Option<ListenAddress> {
    classify!(at, message => pb::listener::AdditionalAddress {
        implemented: address, socket_options, tcp_keepalive;
    });
    let tcp_keepalive = match tcp_keepalive {
        None => inherited_keepalive,
        Some(message) => socket::tcp_keepalive(&at.field("tcp_keepalive"), message),
    };
    let socket_options = match socket_options {
        None => inherited_options.to_vec(),
        Some(message) => {
            let at = &at.field("socket_options");
            classify!(at, message => pb::core::SocketOptionsOverride { implemented: socket_options; });
            socket::options(at, socket_options)
        }
    };
    let (address, ipv4_compat) = address::fixed(&at.field("address"), address)?;
    Some(ListenAddress { address, ipv4_compat, socket_options, tcp_keepalive })
}

/// A filter by name only, as v2 and old v3 files have it.
pub(super) fn missing_typed_config(at: &At<'_>, name: &str) {
    let types = [
        ("http_connection_manager", pb::http_connection_manager::HttpConnectionManager::NAME),
        ("tcp_proxy", pb::tcp_proxy::TcpProxy::NAME),
        ("router", pb::extensions::Router::NAME),
        ("tls_inspector", pb::listener_filters::TlsInspector::NAME),
        ("http_inspector", pb::listener_filters::HttpInspector::NAME),
        ("original_dst", pb::listener_filters::OriginalDst::NAME),
        ("proxy_protocol", pb::listener_filters::ProxyProtocol::NAME),
    ];
    let known = types.iter().find(|(suffix, _)| name.rsplit('.').next() == Some(suffix));
    let Some((_, message)) = known else {
        at.error("typed_config must be set: a filter is found by its type, not by its name");
        return;
    };
    at.error_with_fix(
        "typed_config must be set: a filter is found by its type, not by its name",
        format!("- name: {name}\n  typed_config:\n    \"@type\": type.googleapis.com/{message}"),
    );
}
