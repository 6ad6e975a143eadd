//! Socket options, TCP keepalive, source addresses.
use super::address::socket_address;
use super::at::At;
use super::fields::classify;
use super::report::Class;
use crate::config::socket::{BindConfig, SocketOption, SocketOptionValue, SocketState, TcpKeepalive};
use crate::control::xds::pb;
use pb::core::{SocketOptionSocketIpVersion, SocketOptionSocketState, SocketOptionValueOneOf};

/// A list of options; those of another type of socket, or of no valid value, are left out.
pub(super) fn options(at: &At<'_>, options: Vec<pb::core::SocketOption>) -> Vec<SocketOption> {
    options
        .into_iter()
        .enumerate()
        .filter_map(|(index, message)| option(&at.item("socket_options", index), message))
        .collect()
}

fn option(at: &At<'_>, message: pb::core::SocketOption) -> Option<SocketOption> {
    classify!(at, message => pb::core::SocketOption {
        implemented: level, name, value, state, ip_version = "IPV4 and IPV6 are refused";
        no_effect: description = "for the reader of the configuration";
        refused: r#type = "options for one type of socket only";
    });
    let version: SocketOptionSocketIpVersion = at.enumeration("ip_version", ip_version);
    if version != SocketOptionSocketIpVersion::Unspecified {
        at.field("ip_version").found(Class::Refused, "envoy.config.core.v3.SocketOption.ip_version", "");
    }
    let state = match at.enumeration("state", state) {
        SocketOptionSocketState::StatePrebind => SocketState::Prebind,
        SocketOptionSocketState::StateBound => SocketState::Bound,
        SocketOptionSocketState::StateListening => SocketState::Listening,
    };
    let value = match value {
        Some(SocketOptionValueOneOf::IntValue(value)) => match i32::try_from(value) {
            Ok(value) => SocketOptionValue::Int(value),
            Err(_) => {
                at.field("int_value").error(format!("{value} does not fit a C int"));
                return None;
            }
        },
        Some(SocketOptionValueOneOf::BufValue(bytes)) => SocketOptionValue::Bytes(bytes.into()),
        None => {
            at.error("one of int_value, buf_value must be set");
            return None;
        }
    };
    let (Ok(level), Ok(name)) = (i32::try_from(level), i32::try_from(name)) else {
        at.error("level and name must fit a C int");
        return None;
    };
    Some(SocketOption { level, name, value, state })
}

/// TCP keepalive; `None`: one of its values is 0, which switches it off.
pub(super) fn tcp_keepalive(at: &At<'_>, message: pb::core::TcpKeepalive) -> Option<TcpKeepalive> {
    classify!(at, message => pb::core::TcpKeepalive {
        implemented: keepalive_probes, keepalive_time, keepalive_interval;
    });
    let is_off = [keepalive_probes, keepalive_time, keepalive_interval].contains(&Some(0));
    let keepalive =
        TcpKeepalive { probes: keepalive_probes, time_s: keepalive_time, interval_s: keepalive_interval };
    (!is_off).then_some(keepalive)
}

/// Source address and options of connections to endpoints. As in Envoy, such a connection has the state PREBIND only;
/// what is to be set in another is left out.
pub(super) fn bind_config(at: &At<'_>, message: pb::core::BindConfig) -> BindConfig {
    classify!(at, message => pb::core::BindConfig {
        implemented: source_address, freebind, socket_options;
        no_effect: validate_network_namespaces = "no network namespaces";
        refused: extra_source_addresses, additional_source_addresses, local_address_selector;
    });
    for (index, option) in socket_options.iter().enumerate() {
        if option.state != SocketOptionSocketState::StatePrebind as i32 {
            let (at, note) =
                (&at.item("socket_options", index), "a connection to an endpoint is set up in PREBIND only");
            at.field("state").found(Class::NoEffect, "envoy.config.core.v3.SocketOption.state", note);
        }
    }
    let mut socket_options = options(at, socket_options);
    socket_options.retain(|option| option.state == SocketState::Prebind);
    BindConfig {
        source_address: source_address
            .and_then(|address| socket_address(&at.field("source_address"), address)),
        freebind: freebind.unwrap_or(false),
        socket_options,
    }
}
