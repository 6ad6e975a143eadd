//! The PROXY protocol as connections to endpoints speak it, and which of its TLVs are kept for them. Source: Envoy
//! `config.core.v3.ProxyProtocolConfig`.

use super::access_log::SubstitutionFormat;

/// A TLV: its type and value.
pub type OwnedTlv = (u8, Box<[u8]>);

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
    pub added: Vec<OwnedTlv>,
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

/// TLVs of a TCP proxy's own, for connections to endpoints that pass TLVs of their types on. Source: Envoy
/// `TcpProxy.proxy_protocol_tlvs`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderTlvs {
    /// Type and value of those that all clients have alike, at least one byte each. Source: `value`.
    pub fixed: Vec<OwnedTlv>,
    /// Type and format of those that are written for each client, behind the others. Source: `format_string`.
    pub formats: Vec<(u8, SubstitutionFormat)>,
    /// What becomes of them where the client's connection has begun with a header. Source:
    /// `proxy_protocol_tlv_merge_policy`.
    pub merge: TlvMerge,
}

/// How TLVs go together with those of a client's header. Source: Envoy `ProxyProtocolTlvMergePolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlvMerge {
    /// The header's stay as they are, even if it has none. The default.
    #[default]
    AddIfAbsent,
    /// They come first, and of the header's those of other types follow. Source: `OVERWRITE_BY_TYPE_IF_EXISTS_OR_ADD`.
    OverwriteByType,
    /// They follow the header's. Source: `APPEND_IF_EXISTS_OR_ADD`.
    Append,
}
