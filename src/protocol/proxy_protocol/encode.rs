//! Headers as connections to endpoints begin with them.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use super::SIGNATURE_V2;
use super::tlv::{PREFIX_BYTES, Tlv};

/// Writes a header of version 1. Source and destination of different families: the protocol has no line for them, and Envoy
/// goes by the source; here both are then written as IPv6. No addresses, as those of Unix sockets are none:
/// the family is unknown.
pub fn encode_v1(ends: impl Into<Option<[SocketAddr; 2]>>, out: &mut Vec<u8>) {
    let Some([source, destination]) = ends.into() else {
        return out.extend_from_slice(b"PROXY UNKNOWN\r\n");
    };
    let (source_ip, destination_ip) = alike(source.ip(), destination.ip());
    let family = if source_ip.is_ipv4() { "TCP4" } else { "TCP6" };
    // Writing to a Vec cannot fail.
    let _ = write!(
        out,
        "PROXY {family} {source_ip} {destination_ip} {} {}\r\n",
        source.port(),
        destination.port()
    );
}

/// Writes a header of version 2 with those of the TLVs for which there is room; whether there was for all.
pub fn encode_v2<'a>(
    ends: impl Into<Option<[SocketAddr; 2]>>,
    tlvs: impl Iterator<Item = Tlv<'a>>,
    out: &mut Vec<u8>,
) -> bool {
    out.extend_from_slice(SIGNATURE_V2);
    let ends = ends.into().map(|[source, destination]| {
        (alike(source.ip(), destination.ip()), [source.port(), destination.port()])
    });
    let (command, family) = match &ends {
        // Receivers refuse a client of no family, Envoy among them.
        None => (0x20, 0),
        Some(((source, _), _)) if source.is_ipv4() => (0x21, 0x11),
        Some(_) => (0x21, 0x21),
    };
    out.extend_from_slice(&[command, family, 0, 0]);
    let start = out.len();
    if let Some(((source, destination), ports)) = ends {
        for ip in [source, destination] {
            match ip {
                IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
            }
        }
        for port in ports {
            out.extend_from_slice(&port.to_be_bytes());
        }
    }
    let mut all = true;
    for Tlv { kind, value } in tlvs {
        let len = u16::try_from(value.len()).ok();
        let fits = out.len() - start + PREFIX_BYTES + value.len() <= usize::from(u16::MAX);
        let Some(len) = len.filter(|_| fits) else {
            all = false;
            continue;
        };
        out.push(kind);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(value);
    }
    // It fits: what is longer was left out.
    let len = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    if let Some(place) = out.get_mut(start - 2..start) {
        place.copy_from_slice(&len.to_be_bytes());
    }
    all
}

/// Writes the header of version 2 of a connection that stands for no client.
pub fn encode_local(out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE_V2);
    out.extend_from_slice(&[0x20, 0, 0, 0]);
}

/// Both in one family.
fn alike(source: IpAddr, destination: IpAddr) -> (IpAddr, IpAddr) {
    let mapped = |ip| match ip {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    };
    if source.is_ipv4() == destination.is_ipv4() {
        (source, destination)
    } else {
        (mapped(source), mapped(destination))
    }
}
