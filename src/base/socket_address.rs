//! Where a stream socket is: an IP address and a port, a name in the Unix domain, or a listener of this process. What
//! configuration publishes to all cores.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// See the file's head.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SocketAddress {
    Ip(SocketAddr),
    /// A path in the file system, or behind a `@` a name of Linux's abstract space. At most 107 bytes.
    Pipe(Arc<str>),
    /// A listener within the process, which every worker has for itself.
    Internal(InternalAddress),
}

/// Where an internal listener is, and which of those that it stands for is meant. Source: Envoy `EnvoyInternalAddress`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InternalAddress {
    /// As Envoy writes it: `envoy://NAME/ENDPOINT_ID`.
    text: Arc<str>,
    /// Bytes of the name.
    name_bytes: u32,
}

/// How Envoy calls the other end of a connection to an internal listener: the client of all of them.
pub const INTERNAL_CLIENT: &str = "envoy://internal_client_address/";

const SCHEME: &str = "envoy://";

impl InternalAddress {
    /// That of a listener; `endpoint_id` may be empty.
    pub fn new(listener: &str, endpoint_id: &str) -> Self {
        let text = format!("{SCHEME}{listener}/{endpoint_id}").into();
        Self { text, name_bytes: u32::try_from(listener.len()).unwrap_or(u32::MAX) }
    }

    /// The listener's name.
    pub fn listener(&self) -> &str {
        self.text.get(SCHEME.len()..self.name_end()).unwrap_or_default()
    }

    /// Which of those that the listener stands for; may be empty.
    pub fn endpoint_id(&self) -> &str {
        self.text.get(self.name_end() + 1..).unwrap_or_default()
    }

    /// As Envoy writes it.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn name_end(&self) -> usize {
        SCHEME.len() + self.name_bytes as usize
    }
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
            Self::Pipe(_) | Self::Internal(_) => None,
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
            Self::Internal(address) => f.write_str(address.text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_address_has_its_parts_whatever_is_in_the_name() {
        for (listener, id) in [("a", ""), ("a", "b/c"), ("main/inner", "1"), ("é", "é"), ("", "")] {
            let address = InternalAddress::new(listener, id);
            assert_eq!((address.listener(), address.endpoint_id()), (listener, id));
            assert_eq!(address.text(), format!("envoy://{listener}/{id}"));
        }
    }
}
