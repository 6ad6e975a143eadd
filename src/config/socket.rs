//! Options set on sockets: of listeners, of the admin server, and of connections to endpoints.
use std::net::SocketAddr;

/// One `setsockopt`. Source: Envoy `core.v3.SocketOption`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SocketOption {
    /// Level as numbered by the kernel (`SOL_SOCKET` is 1). Source: `level`.
    pub level: i32,
    /// Option as numbered by the kernel. Source: `name`.
    pub name: i32,
    /// What is set. An option the kernel refuses fails the bind or the connect. Source: `value`.
    pub value: SocketOptionValue,
    /// When it is set. Source: `state`.
    pub state: SocketState,
}

/// The bytes handed to `setsockopt`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SocketOptionValue {
    /// A C `int`. Source: `int_value`.
    Int(i32),
    /// Raw bytes. Source: `buf_value`.
    Bytes(Box<[u8]>),
}

impl SocketOptionValue {
    /// As the kernel takes it.
    pub fn bytes(&self) -> Box<[u8]> {
        match self {
            Self::Int(value) => value.to_ne_bytes().into(),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// The moment at which an option is set. Source: Envoy `SocketOption.SocketState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SocketState {
    /// After `socket`, before `bind` or `connect`. The default.
    #[default]
    Prebind,
    /// After `bind`, before `listen`.
    Bound,
    /// After `listen`.
    Listening,
}

/// TCP keepalive of connections, of clients or to endpoints; what is `None` keeps the kernel's setting. Source:
/// Envoy `core.v3.TcpKeepalive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpKeepalive {
    /// Unanswered probes before the connection is dead (`TCP_KEEPCNT`; kernel: 9).
    pub probes: Option<u32>,
    /// Idle seconds before the first probe (`TCP_KEEPIDLE`; kernel: 7200).
    pub time_s: Option<u32>,
    /// Seconds between probes (`TCP_KEEPINTVL`; kernel: 75).
    pub interval_s: Option<u32>,
}

/// How connections to endpoints are bound. Source: Envoy `core.v3.BindConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BindConfig {
    /// Source address for endpoints of the same family; port 0 lets the kernel choose. Default: the
    /// kernel's choice. Source: `source_address`.
    pub source_address: Option<SocketAddr>,
    /// `IP_FREEBIND`: bind to an address no interface has. Default off. Source: `freebind`.
    pub freebind: bool,
    /// Options set on each socket, all of state [`SocketState::Prebind`]. Source: `socket_options`.
    pub socket_options: Vec<SocketOption>,
}
