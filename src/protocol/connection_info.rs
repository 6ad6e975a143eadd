//! What is known of a client's connection before any network filter has seen it: its addresses, and what listener filters
//! have found in its first bytes. Filter chains are chosen by it. Source: Envoy `ConnectionInfoProvider`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// See the file's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The client: the peer of the socket, or whom the PROXY protocol names.
    pub remote: SocketAddr,
    /// The peer of the socket.
    pub direct_remote: SocketAddr,
    /// Where the client meant to connect to: the socket's own address, or the one before a redirection.
    pub local: SocketAddr,
    /// The socket's own address.
    pub direct_local: SocketAddr,
    /// Whether a listener filter has replaced `local` (Envoy `localAddressRestored`).
    pub local_restored: bool,
    /// What the first bytes are.
    pub transport: TransportProtocol,
    /// The server's name of a TLS hello, in lower case; `None`: there is none, or nobody has looked.
    pub server_name: Option<Box<str>>,
    /// Protocols that the client offers by ALPN, or that its first bytes show, its favourite first.
    pub application_protocols: Vec<Box<[u8]>>,
    /// What the header of the PROXY protocol says besides; `None`: there was none.
    pub proxy_protocol: Option<Box<ProxyProtocolData>>,
    /// Where connections to endpoints are to come from; `None`: from this host.
    pub original_source: Option<OriginalSource>,
}

/// An address of somebody else from which connections to endpoints come. Source: Envoy `original_src`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginalSource {
    pub address: IpAddr,
    /// `SO_MARK` of those connections; 0: none.
    pub mark: u32,
}

/// What is kept of a header of the PROXY protocol beside the addresses. At most a header's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyProtocolData {
    /// TLVs for connections to endpoints, type and value, in their order. Source: Envoy `pass_through_tlvs`.
    pub tlvs: Vec<(u8, Box<[u8]>)>,
    /// The connection's metadata. Source: Envoy `ProxyProtocol.rules`.
    pub metadata: Vec<Metadatum>,
}

/// A value of a connection's dynamic metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadatum {
    pub namespace: Box<str>,
    pub key: Box<str>,
    pub value: Box<str>,
}

impl ProxyProtocolData {
    /// The metadata of this name.
    pub fn value(&self, namespace: &str, key: &str) -> Option<&str> {
        let is_it = |datum: &&Metadatum| &*datum.namespace == namespace && &*datum.key == key;
        self.metadata.iter().find(is_it).map(|datum| &*datum.value)
    }
}

/// Envoy's `detectedTransportProtocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransportProtocol {
    /// Nobody has looked. Once all listener filters are through, what is unknown is no TLS.
    #[default]
    Unknown,
    /// No TLS.
    RawBuffer,
    /// A TLS hello.
    Tls,
}

impl ConnectionInfo {
    /// Of a connection whose addresses are those of its socket. IPv4 on a socket of both families is IPv4, as in Envoy.
    pub fn new(remote: SocketAddr, local: SocketAddr) -> Self {
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (remote, local) = (canonical(remote), canonical(local));
        Self {
            remote,
            direct_remote: remote,
            local,
            direct_local: local,
            local_restored: false,
            transport: TransportProtocol::Unknown,
            server_name: None,
            application_protocols: Vec::new(),
            proxy_protocol: None,
            original_source: None,
        }
    }

    /// Where the client meant to connect to, if something else than the socket says so.
    pub fn restored_destination(&self) -> Option<SocketAddr> {
        self.local_restored.then_some(self.local)
    }

    /// Whether the client is on this host: the loopback address alone, not its network. Source: Envoy `isSameIpOrLoopback`.
    pub fn is_from_this_host(&self) -> bool {
        let remote = self.remote.ip();
        remote == Ipv4Addr::LOCALHOST || remote == Ipv6Addr::LOCALHOST || remote == self.local.ip()
    }

    /// Whether more is known than the socket says.
    pub fn is_inspected(&self) -> bool {
        self.remote != self.direct_remote
            || self.local != self.direct_local
            || self.local_restored
            || self.server_name.is_some()
            || self.proxy_protocol.is_some()
            || self.original_source.is_some()
    }
}

impl TransportProtocol {
    /// As filter chain matches name it; empty: unknown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::RawBuffer => "raw_buffer",
            Self::Tls => "tls",
        }
    }
}
