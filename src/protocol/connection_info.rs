//! What is known of a client's connection before any network filter has seen it: its addresses, and what listener filters
//! have found in its first bytes. Filter chains are chosen by it. Source: Envoy `ConnectionInfoProvider`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use super::dynamic_metadata::{DynamicMetadata, MetadataValue};
use super::stream_info::StreamAddress;
use crate::base::socket_address::SocketAddress;

/// See the file's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The client: the peer of the socket, or whom the PROXY protocol names.
    pub remote: StreamAddress,
    /// The peer of the socket.
    pub direct_remote: StreamAddress,
    /// Where the client meant to connect to: the socket's own address, or the one before a redirection.
    pub local: StreamAddress,
    /// The socket's own address.
    pub direct_local: StreamAddress,
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
    /// Its filter state, in place of that; `None`: there is none. Source: Envoy `ProxyProtocol.tlv_location`.
    pub state: Option<TlvState>,
}

/// What TLVs say, by the keys of their rules. Source: Envoy `envoy.network.proxy_protocol.tlv` of filter state.
pub type TlvState = Rc<[(Box<str>, Box<str>)]>;

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
        Self::between(canonical(remote).into(), canonical(local).into())
    }

    /// The same for a socket of any family, with the address of its peer first.
    pub fn of_socket([remote, local]: [SocketAddress; 2]) -> Self {
        match (remote, local) {
            (SocketAddress::Ip(remote), SocketAddress::Ip(local)) => Self::new(remote, local),
            (remote, local) => {
                let shown = |address: &SocketAddress| match address {
                    SocketAddress::Ip(address) => (*address).into(),
                    SocketAddress::Pipe(path) => StreamAddress::Pipe(Rc::from(&**path)),
                    SocketAddress::Internal(address) => StreamAddress::Internal(Rc::new(address.clone())),
                };
                let ours = shown(&local);
                let theirs = match &ours {
                    StreamAddress::Internal(_) => StreamAddress::InternalClient,
                    _ if remote == local => ours.clone(),
                    _ => shown(&remote),
                };
                Self::between(theirs, ours)
            }
        }
    }

    fn between(remote: StreamAddress, local: StreamAddress) -> Self {
        Self {
            direct_remote: remote.clone(),
            remote,
            direct_local: local.clone(),
            local,
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
        self.local.socket().filter(|_| self.local_restored)
    }

    /// Whether the client is on this host, as far as Envoy tells: not one within the process; on a Unix socket, or at the loopback address alone, not its network. Source: Envoy
    /// `isSameIpOrLoopback`.
    pub fn is_from_this_host(&self) -> bool {
        match &self.remote {
            StreamAddress::Pipe(_) => true,
            StreamAddress::Ip(remote) => {
                let remote = remote.ip();
                remote == Ipv4Addr::LOCALHOST
                    || remote == Ipv6Addr::LOCALHOST
                    || Some(remote) == self.local.ip()
            }
            StreamAddress::None | StreamAddress::Internal(_) | StreamAddress::InternalClient => false,
        }
    }

    /// The client and where it meant to connect to, if both are addresses of IP.
    pub fn ip_ends(remote: &StreamAddress, local: &StreamAddress) -> Option<[SocketAddr; 2]> {
        Some([remote.socket()?, local.socket()?])
    }

    /// Notes the connection's metadata: what is kept of its header of the PROXY protocol.
    pub fn note_metadata(&self, metadata: &mut DynamicMetadata) {
        let noted = self.proxy_protocol.iter().flat_map(|data| &data.metadata);
        for Metadatum { namespace, key, value } in noted {
            metadata.set(namespace, key, MetadataValue::Text(value));
        }
    }

    /// Its filter state, which its requests share.
    pub fn tlv_state(&self) -> Option<TlvState> {
        self.proxy_protocol.as_ref()?.state.clone()
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
