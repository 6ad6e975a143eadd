//! Addresses as configuration writes them: where a listener binds, where an endpoint is, which
//! ranges count as internal.
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::base::socket_address::{InternalAddress, SocketAddress};

/// An address that can be bound or connected to without a look-up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// IPv4 or IPv6 with a port; port 0 lets the kernel choose, for listeners only. Source: Envoy
    /// `core.v3.SocketAddress` whose `address` is an IP.
    Ip(SocketAddr),
    /// A Unix stream socket. Source: Envoy `core.v3.Pipe`.
    Pipe(Pipe),
    /// A listener within the process. Source: Envoy `core.v3.EnvoyInternalAddress`.
    Internal(InternalAddress),
}

/// A Unix domain socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pipe {
    /// Path in the file system; a leading `@` names Linux's abstract space. At most 107 bytes
    /// (`sun_path`), longer is refused. Source: `Pipe.path`.
    pub path: PathBuf,
    /// Permission bits set on the socket file after bind; 0 leaves it to the umask. Ignored for
    /// abstract sockets. Source: `Pipe.mode`, at most 0o777.
    pub mode: u32,
}

/// Where an endpoint is: an address, or a name the cluster resolves by DNS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddress {
    /// Usable as it is.
    Fixed(Address),
    /// To be resolved on the control thread; only in STRICT_DNS and LOGICAL_DNS clusters.
    Name(HostPort),
}

/// A DNS name and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// The name as configured. Source: `SocketAddress.address`.
    pub host: Box<str>,
    /// TCP port, 1..=65535. Source: `SocketAddress.port_value`.
    pub port: u16,
}

/// A range of IP addresses. Source: Envoy `core.v3.CidrRange`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CidrRange {
    /// First address; bits beyond the prefix are zero.
    network: IpAddr,
    /// Leading bits that must be equal, 0..=32 or 0..=128.
    prefix_len: u8,
}

impl CidrRange {
    /// The range of `prefix_len` leading bits around `address`; bits beyond are dropped, and a
    /// prefix longer than the address is cut to its length, as Envoy does.
    pub fn new(address: IpAddr, prefix_len: u32) -> Self {
        let width: u8 = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = u8::try_from(prefix_len).unwrap_or(width).min(width);
        Self { network: mask(address, prefix_len), prefix_len }
    }

    /// The first address.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// Leading bits that must be equal.
    pub fn prefix_len(&self) -> u8 {
        self.prefix_len
    }

    /// Whether `address` lies in the range; families never match each other.
    pub fn contains(&self, address: IpAddr) -> bool {
        mask(address, self.prefix_len) == self.network
    }
}

fn mask(address: IpAddr, prefix_len: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & keep).into())
        }
        IpAddr::V6(v6) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(prefix_len.min(128))).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & keep).into())
        }
    }
}

impl Address {
    /// Whether both name the same place; the mode of a file is none.
    pub fn is_at(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pipe(one), Self::Pipe(two)) => one.path == two.path,
            (one, two) => one == two,
        }
    }

    /// Without what only a listener has; `None`: no text, which no file has.
    pub fn socket_address(&self) -> Option<SocketAddress> {
        match self {
            Self::Ip(address) => Some(SocketAddress::Ip(*address)),
            Self::Pipe(pipe) => pipe.path.to_str().map(|path| SocketAddress::Pipe(path.into())),
            Self::Internal(address) => Some(SocketAddress::Internal(address.clone())),
        }
    }
}

impl From<&SocketAddress> for Address {
    fn from(address: &SocketAddress) -> Self {
        match address {
            SocketAddress::Ip(address) => Self::Ip(*address),
            SocketAddress::Pipe(path) => Self::Pipe(Pipe { path: (**path).into(), mode: 0 }),
            SocketAddress::Internal(address) => Self::Internal(address.clone()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Pipe(pipe) => pipe.path.display().fmt(f),
            Self::Internal(address) => f.write_str(address.text()),
        }
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for CidrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidr_range_of_zero_bits_contains_every_address_of_its_family() {
        let all = CidrRange::new("10.1.2.3".parse().unwrap(), 0);
        assert!(all.contains("255.255.255.255".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
        assert!(CidrRange::new("::".parse().unwrap(), 0).contains("::1".parse().unwrap()));
    }

    #[test]
    fn cidr_range_with_host_bits_is_normalised() {
        let range = CidrRange::new("10.1.2.3".parse().unwrap(), 8);
        assert_eq!(range.to_string(), "10.0.0.0/8");
        assert!(range.contains("10.200.0.1".parse().unwrap()));
        assert!(!range.contains("11.0.0.1".parse().unwrap()));
    }

    #[test]
    fn cidr_range_with_overlong_prefix_means_one_address() {
        let range = CidrRange::new("10.1.2.3".parse().unwrap(), 99);
        assert!(range.contains("10.1.2.3".parse().unwrap()));
        assert!(!range.contains("10.1.2.2".parse().unwrap()));
    }
}
