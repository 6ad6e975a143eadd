//! Addresses and CIDR ranges.
use std::net::{IpAddr, SocketAddr};

use super::at::At;
use super::fields::classify;
use super::report::Class;
use crate::base::socket_address::InternalAddress;
use crate::config::address::{Address, CidrRange, EndpointAddress, HostPort, Pipe};
use crate::control::xds::pb;
use pb::core::EnvoyInternalAddressAddressNameSpecifierOneOf::ServerListenerName;
use pb::core::{AddressAddressOneOf, SocketAddressPortSpecifierOneOf};

/// Bytes of a Unix socket's path: `sun_path` less its final zero.
const PIPE_PATH_BYTES_MAX: usize = 107;

/// An address as written, and whether an IPv6 one takes IPv4 too.
pub(super) struct Written {
    pub(super) address: EndpointAddress,
    pub(super) ipv4_compat: bool,
}

/// An address that may be a name; the message itself must be set.
pub(super) fn written(at: &At<'_>, message: Option<pb::core::Address>) -> Option<Written> {
    let Some(message) = message else {
        at.error("address is necessary");
        return None;
    };
    classify!(at, message => pb::core::Address {
        implemented: address = "envoy_internal_address of endpoints alone";
    });
    match address {
        Some(AddressAddressOneOf::SocketAddress(socket_address)) => {
            socket(&at.field("socket_address"), socket_address)
        }
        Some(AddressAddressOneOf::Pipe(pipe)) => {
            let pipe = self::pipe(&at.field("pipe"), pipe)?;
            Some(Written { address: EndpointAddress::Fixed(Address::Pipe(pipe)), ipv4_compat: false })
        }
        Some(AddressAddressOneOf::EnvoyInternalAddress(message)) => {
            let address = internal(&at.field("envoy_internal_address"), message)?;
            Some(Written { address: EndpointAddress::Fixed(Address::Internal(address)), ipv4_compat: false })
        }
        None => {
            at.error("one of socket_address, pipe, envoy_internal_address must be set");
            None
        }
    }
}

/// An address that must not be a name.
pub(super) fn fixed(at: &At<'_>, message: Option<pb::core::Address>) -> Option<(Address, bool)> {
    let Written { address, ipv4_compat } = written(at, message)?;
    match address {
        EndpointAddress::Fixed(Address::Internal(_)) => {
            at.field("envoy_internal_address")
                .error("is for endpoints alone: use the internal_listener field for internal listeners");
            None
        }
        EndpointAddress::Fixed(address) => Some((address, ipv4_compat)),
        EndpointAddress::Name(name) => {
            at.field("socket_address").field("address").error(format!("malformed IP address: {}", name.host));
            None
        }
    }
}

/// An IP address and port: of a resolver, of a source address.
pub(super) fn socket_address(at: &At<'_>, message: pb::core::SocketAddress) -> Option<SocketAddr> {
    match socket(at, message)?.address {
        EndpointAddress::Fixed(Address::Ip(address)) => Some(address),
        EndpointAddress::Fixed(Address::Pipe(_) | Address::Internal(_)) => None,
        EndpointAddress::Name(name) => {
            at.field("address").error(format!("malformed IP address: {}", name.host));
            None
        }
    }
}

fn socket(at: &At<'_>, message: pb::core::SocketAddress) -> Option<Written> {
    classify!(at, message => pb::core::SocketAddress {
        implemented: protocol = "TCP; UDP is refused", address, port_specifier, ipv4_compat;
        refused: resolver_name = "no resolver extensions", network_namespace_filepath = "no network namespaces";
    });
    if at.enumeration::<pb::core::SocketAddressProtocol>("protocol", protocol)
        == pb::core::SocketAddressProtocol::Udp
    {
        at.field("protocol").found(
            Class::Refused,
            "envoy.config.core.v3.SocketAddress.protocol.UDP",
            "no UDP",
        );
    }
    let port = match port_specifier {
        Some(SocketAddressPortSpecifierOneOf::PortValue(port)) => u16::try_from(port).unwrap_or_else(|_| {
            at.field("port_value").error(format!("{port} is no port: at most 65535"));
            0
        }),
        Some(SocketAddressPortSpecifierOneOf::NamedPort(_)) => {
            at.field("named_port").value_refused("envoy.config.core.v3.SocketAddress.named_port", "");
            0
        }
        None => {
            at.error("one of port_value, named_port must be set");
            0
        }
    };
    // A zone (`fe80::1%eth0`) needs the interface's number, which may change: refused with the malformed.
    let address = match address.parse::<IpAddr>() {
        Ok(ip) => EndpointAddress::Fixed(Address::Ip(SocketAddr::new(ip, port))),
        Err(_) => EndpointAddress::Name(HostPort { host: address.into(), port }),
    };
    if ipv4_compat && !may_be_ipv4_compat(&address) {
        at.field("ipv4_compat").error("only the IPv6 address :: or an IPv4-mapped IPv6 address can set it");
    }
    Some(Written { address, ipv4_compat })
}

fn may_be_ipv4_compat(address: &EndpointAddress) -> bool {
    match address {
        EndpointAddress::Fixed(Address::Ip(SocketAddr::V6(v6))) => {
            v6.ip().is_unspecified() || v6.ip().to_ipv4_mapped().is_some()
        }
        _ => false,
    }
}

/// A listener within the process. Whether there is one of that name shows when somebody connects.
fn internal(at: &At<'_>, message: pb::core::EnvoyInternalAddress) -> Option<InternalAddress> {
    classify!(at, message => pb::core::EnvoyInternalAddress {
        implemented: address_name_specifier, endpoint_id;
    });
    match address_name_specifier {
        Some(ServerListenerName(name)) => Some(InternalAddress::new(&name, &endpoint_id)),
        None => {
            at.error("server_listener_name must be set");
            None
        }
    }
}

fn pipe(at: &At<'_>, message: pb::core::Pipe) -> Option<Pipe> {
    classify!(at, message => pb::core::Pipe { implemented: path, mode; });
    if path.len() > PIPE_PATH_BYTES_MAX {
        at.field("path").error(format!("longer than {PIPE_PATH_BYTES_MAX} bytes: {path}"));
        return None;
    }
    if path.contains('\0') {
        at.field("path").error("contains a zero byte");
        return None;
    }
    if path.starts_with('@') && mode != 0 {
        at.field("mode").error("abstract sockets have no mode");
    }
    Some(Pipe { path: path.into(), mode })
}

/// Ranges of addresses.
pub(super) fn cidr_ranges(at: &At<'_>, field: &str, ranges: Vec<pb::core::CidrRange>) -> Vec<CidrRange> {
    let convert = |(index, range)| cidr_range(&at.item(field, index), range);
    ranges.into_iter().enumerate().filter_map(convert).collect()
}

/// A range of IP addresses.
pub(super) fn cidr_range(at: &At<'_>, range: pb::core::CidrRange) -> Option<CidrRange> {
    classify!(at, range => pb::core::CidrRange { implemented: address_prefix, prefix_len; });
    match address_prefix.parse() {
        Ok(address) => Some(CidrRange::new(address, prefix_len.unwrap_or(0))),
        Err(_) => {
            at.field("address_prefix").error(format!("malformed IP address: {address_prefix}"));
            None
        }
    }
}
