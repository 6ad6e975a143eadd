//! The PROXY protocol, versions 1 and 2: by it a proxy says at the start of a connection for whom it speaks.
//!
//! [`look`] is shown a connection's bytes from the first on and says what they are as soon as that can be told; it keeps
//! nothing, and never asks for more than the header. Decisions are those of Envoy's listener filter. Source: "The PROXY
//! protocol", versions 1 & 2 (HAProxy's `proxy-protocol.txt`).

mod encode;
mod tlv;
mod v1;
mod v2;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

pub use encode::{encode_local, encode_v1, encode_v2};
pub use tlv::{Tlv, Tlvs};

use crate::config::listener_filter::ProxyProtocol;

/// What a header of version 2 begins with.
const SIGNATURE_V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What a header of version 1 begins with.
const SIGNATURE_V1: &[u8; 6] = b"PROXY ";
/// Longest header of version 1, its end included. Source: Envoy `MAX_PROXY_PROTO_LEN_V1`.
pub const V1_BYTES_MAX: usize = 108;
/// Bytes of a header of version 2 before the addresses.
const V2_BYTES_MIN: usize = 16;
/// Longest header of version 2: its length has two bytes.
pub const V2_BYTES_MAX: usize = V2_BYTES_MIN + u16::MAX as usize;

/// Version of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Not to be told yet.
    More,
    /// A whole header.
    Header(Header),
    /// No header, and none is asked for.
    Absent,
    /// No header, or a malformed one, of this version if its beginning was right.
    Bad(Option<Version>),
    /// A header of a version that is not taken.
    Denied(Version),
}

/// A whole header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub version: Version,
    /// The client, and where it meant to connect to; `None`: the connection is the proxy's own, or its client unknown.
    pub addresses: Option<[SocketAddr; 2]>,
    /// Bytes of it; what follows is the connection's.
    pub bytes: usize,
    /// Where its TLVs are.
    pub tlvs: Range<usize>,
}

/// Looks at all bytes received so far.
pub fn look(bytes: &[u8], rules: &ProxyProtocol) -> Seen {
    if bytes.is_empty() {
        return Seen::More;
    }
    let begins = |signature: &[u8]| bytes.iter().zip(signature).all(|(byte, expected)| byte == expected);
    if rules.allow_without
        && !(rules.allow_v2 && begins(SIGNATURE_V2))
        && !(rules.allow_v1 && begins(SIGNATURE_V1))
    {
        return Seen::Absent;
    }
    if bytes.len() >= V2_BYTES_MIN {
        if begins(SIGNATURE_V2) {
            return if rules.allow_v2 { v2::parse(bytes) } else { Seen::Denied(Version::V2) };
        }
        if !begins(SIGNATURE_V1) {
            return Seen::Bad(None);
        }
    }
    match v1::line(bytes) {
        v1::Line::More => Seen::More,
        v1::Line::TooLong => Seen::Bad(None),
        v1::Line::Whole(_) if !rules.allow_v1 => Seen::Denied(Version::V1),
        v1::Line::Whole(len) => v1::parse(bytes.get(..len).unwrap_or_default()),
    }
}

/// Whether TCP can have such ends.
fn are_unicast(addresses: &[SocketAddr; 2]) -> bool {
    addresses.iter().all(|address| match address.ip() {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_broadcast() && !v4.is_multicast(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast(),
    })
}

#[cfg(test)]
pub(crate) mod tests;
