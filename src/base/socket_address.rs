//! Where a stream socket is: an IP address and a port, or a name in the Unix domain. What configuration publishes to all cores.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// See the file's head.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SocketAddress {
    Ip(SocketAddr),
    /// A path in the file system, or behind a `@` a name of Linux's abstract space. At most 107 bytes.
    Pipe(Arc<str>),
}

impl SocketAddress {
    /// The IP address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.socket().map(|address| address.ip())
    }

    /// From its text, as it is displayed.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Pipe(text.into()), Self::Ip)
    }

    /// The IP address and port, if it is one.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Pipe(_) => None,
        }
    }
}

impl From<SocketAddr> for SocketAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Pipe(path) => f.write_str(path),
        }
    }
}
