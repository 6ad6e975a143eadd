//! Version 2: binary.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tlv::Tlvs;
use super::{Header, SIGNATURE_V2, Seen, V2_BYTES_MIN, Version, are_unicast};

/// High half of the byte behind the signature.
const VERSION: u8 = 2;
/// Low half: the proxy speaks for itself, its health checks for example.
const LOCAL: u8 = 0;
/// Low half: it speaks for a client.
const PROXY: u8 = 1;
/// High half of the byte behind it.
const INET: u8 = 1;
const INET6: u8 = 2;
/// Low half of it. Envoy takes both for connections.
const STREAM: u8 = 1;
const DATAGRAM: u8 = 2;

/// Reads what begins with the signature and has all bytes before the addresses.
pub(super) fn parse(bytes: &[u8]) -> Seen {
    let bad = Seen::Bad(Some(Version::V2));
    let Some(&[command, family, high, low]) = bytes.get(SIGNATURE_V2.len()..V2_BYTES_MIN) else {
        return Seen::More;
    };
    let len = usize::from(high) << 8 | usize::from(low);
    let end = V2_BYTES_MIN + len;
    let address_bytes = match (command >> 4, command & 0xf, family >> 4, family & 0xf) {
        // What it says of families and addresses is to be ignored.
        (VERSION, LOCAL, ..) => 0,
        (VERSION, PROXY, INET, STREAM | DATAGRAM) => 12,
        (VERSION, PROXY, INET6, STREAM | DATAGRAM) => 36,
        _ => return bad,
    };
    if len < address_bytes {
        return bad;
    }
    let tlvs = V2_BYTES_MIN + address_bytes..end;
    let Some(body) = bytes.get(V2_BYTES_MIN..end) else { return Seen::More };
    let header = |addresses, tlvs| Seen::Header(Header { version: Version::V2, addresses, bytes: end, tlvs });
    let addresses = match body.get(..address_bytes).unwrap_or_default() {
        [] => return header(None, end..end),
        &[a, b, c, d, e, f, g, h, source_high, source_low, high, low] => {
            let address =
                |ip: [u8; 4], port| SocketAddr::from((Ipv4Addr::from(ip), u16::from_be_bytes(port)));
            [address([a, b, c, d], [source_high, source_low]), address([e, f, g, h], [high, low])]
        }
        both => {
            let Some((source, rest)) = both.split_first_chunk::<16>() else { return bad };
            let Some((destination, &[source_high, source_low, high, low])) = rest.split_first_chunk::<16>()
            else {
                return bad;
            };
            let address =
                |ip: &[u8; 16], port| SocketAddr::from((Ipv6Addr::from(*ip), u16::from_be_bytes(port)));
            [address(source, [source_high, source_low]), address(destination, [high, low])]
        }
    };
    if !are_unicast(&addresses) || !Tlvs::new(bytes.get(tlvs.clone()).unwrap_or_default()).are_whole() {
        return bad;
    }
    header(Some(addresses), tlvs)
}
