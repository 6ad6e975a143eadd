//! The PROXY protocol as connections to endpoints speak it, and which of its TLVs are kept for them. Source: Envoy
//! `config.core.v3.ProxyProtocolConfig`.

/// Types of TLVs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlvTypes {
    /// Source: `INCLUDE_ALL`.
    All,
    /// These. Source: `INCLUDE`.
    These(Box<[u8]>),
}

impl Default for TlvTypes {
    fn default() -> Self {
        Self::These(Box::default())
    }
}

impl TlvTypes {
    /// Whether `tlv` is one of them.
    pub fn contains(&self, tlv: u8) -> bool {
        match self {
            Self::All => true,
            Self::These(types) => types.contains(&tlv),
        }
    }
}

/// What a connection to an endpoint begins with. Source: Envoy `ProxyProtocolUpstreamTransport.config`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamProxyProtocol {
    /// Source: `version`.
    pub version: ProxyProtocolVersion,
    /// TLVs of the client's own header that are passed on, in version 2. Source: `pass_through_tlvs`.
    pub pass_through: TlvTypes,
    /// TLVs added in version 2, type and value, before those passed on, of which they replace those of their types. Source:
    /// `added_tlvs`.
    pub added: Vec<(u8, Box<[u8]>)>,
}

/// Source: Envoy `ProxyProtocolConfig.Version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ProxyProtocolVersion {
    /// A line of text. The default.
    #[default]
    V1,
    /// Binary.
    V2,
}
