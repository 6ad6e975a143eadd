//! Numbers, addresses and JSON strings written into a byte sink without the formatting machinery.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::protocol::stream_info::StreamAddress;

/// Appends a decimal number.
pub(super) fn push_u64(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends a decimal number with a sign if it is negative.
pub(super) fn push_i64(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    push_u64(out, value.unsigned_abs());
}

/// Appends a decimal number, filled with `pad` to at least `width` bytes (255 at most).
pub(super) fn push_padded(out: &mut Vec<u8>, value: u64, width: u8, pad: u8) {
    let start = out.len();
    push_u64(out, value);
    pad_left(out, start, width, pad);
}

/// Fills what stands in `out` from `start` on to `width` bytes, at its left.
pub(super) fn pad_left(out: &mut Vec<u8>, start: usize, width: u8, pad: u8) {
    let missing = usize::from(width).saturating_sub(out.len() - start);
    if missing > 0 {
        let end = out.len();
        out.resize(end + missing, pad);
        out.copy_within(start..end, start + missing);
        out[start..start + missing].fill(pad);
    }
}

/// The part of an address that an operator writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressPart {
    /// `127.0.0.1:80`, `[::1]:80`.
    Whole,
    /// `127.0.0.1`, `::1`.
    WithoutPort,
    /// `80`.
    Port,
    /// `127.0.0.0/8`: the network of that many bits, held to the family's 32 or 128.
    Network(u8),
}

/// Appends a part of an address; false, and nothing is written, if the address has no such part.
/// One that is none of IP is written whole in place of its IP address, as in Envoy.
pub(super) fn push_address(out: &mut Vec<u8>, address: &StreamAddress, part: AddressPart) -> bool {
    match (address, part) {
        (StreamAddress::None, _) => return false,
        (
            StreamAddress::Pipe(_) | StreamAddress::Internal(_) | StreamAddress::InternalClient,
            AddressPart::Port,
        ) => return false,
        (StreamAddress::Pipe(_) | StreamAddress::Internal(_) | StreamAddress::InternalClient, _) => {
            out.extend_from_slice(address.name().as_bytes());
        }
        (StreamAddress::Ip(address), AddressPart::Whole) => push_socket_address(out, *address),
        (StreamAddress::Ip(address), AddressPart::WithoutPort) => push_ip(out, address.ip()),
        (StreamAddress::Ip(address), AddressPart::Port) => push_u64(out, u64::from(address.port())),
        (StreamAddress::Ip(address), AddressPart::Network(bits)) => push_network(out, address.ip(), bits),
    }
    true
}

fn push_socket_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => push_ipv4(out, ip),
        IpAddr::V6(ip) => {
            out.push(b'[');
            push_ipv6(out, ip);
            out.push(b']');
        }
    }
    out.push(b':');
    push_u64(out, u64::from(address.port()));
}

fn push_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => push_ipv4(out, ip),
        IpAddr::V6(ip) => push_ipv6(out, ip),
    }
}

fn push_network(out: &mut Vec<u8>, ip: IpAddr, bits: u8) {
    let bits = match ip {
        IpAddr::V4(ip) => {
            let bits = bits.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            push_ipv4(out, Ipv4Addr::from_bits(ip.to_bits() & mask));
            bits
        }
        IpAddr::V6(ip) => {
            let bits = bits.min(128);
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            push_ipv6(out, Ipv6Addr::from_bits(ip.to_bits() & mask));
            bits
        }
    };
    out.push(b'/');
    push_u64(out, u64::from(bits));
}

fn push_ipv4(out: &mut Vec<u8>, ip: Ipv4Addr) {
    for (index, octet) in ip.octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        push_u64(out, u64::from(octet));
    }
}

/// RFC 5952: the first of the longest runs of two zero groups or more becomes `::`, mapped IPv4
/// addresses keep their dots.
fn push_ipv6(out: &mut Vec<u8>, ip: Ipv6Addr) {
    if let Some(mapped) = ip.to_ipv4_mapped() {
        out.extend_from_slice(b"::ffff:");
        return push_ipv4(out, mapped);
    }
    let groups = ip.segments();
    let (mut run_start, mut run_length) = (groups.len(), 1);
    let mut index = 0;
    while index < groups.len() {
        let length = groups[index..].iter().take_while(|group| **group == 0).count();
        if length > run_length {
            (run_start, run_length) = (index, length);
        }
        index += length.max(1);
    }
    let mut index = 0;
    while index < groups.len() {
        if index == run_start {
            out.extend_from_slice(b"::");
            index += run_length;
            continue;
        }
        if index > 0 && index != run_start + run_length {
            out.push(b':');
        }
        push_hex(out, groups[index]);
        index += 1;
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn push_hex(out: &mut Vec<u8>, value: u16) {
    let mut shift = 12;
    while shift > 0 && value >> shift == 0 {
        shift -= 4;
    }
    loop {
        out.push(HEX[usize::from(value >> shift & 0xf)]);
        if shift == 0 {
            break;
        }
        shift -= 4;
    }
}

/// Appends a UUID of version 4 made of random bits.
pub(super) fn push_uuid(out: &mut Vec<u8>, random: u128) {
    let bits = random & !(0xf << 76) & !(0b11 << 62) | 4 << 76 | 0b10 << 62;
    for (index, byte) in bits.to_be_bytes().into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
    }
}

/// Makes what stands in `out` from `start` on the inside of a JSON string.
///
/// Like Envoy: UTF-8 stays as it is but for quotes, backslashes and control characters; of text that is
/// not UTF-8 every byte that is not plain printable ASCII becomes `\u00XX`, so that a peer can neither
/// break the record's JSON nor its line.
pub(super) fn escape_json(out: &mut Vec<u8>, start: usize) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if out[start..].iter().all(|byte| plain(*byte) && byte.is_ascii()) {
        return;
    }
    let end = out.len();
    let is_utf8 = std::str::from_utf8(&out[start..]).is_ok();
    for index in start..end {
        let byte = out[index];
        if plain(byte) && (is_utf8 || byte.is_ascii()) {
            out.push(byte);
            continue;
        }
        let short = match byte {
            b'"' | b'\\' if is_utf8 => byte,
            0x08 if is_utf8 => b'b',
            b'\t' if is_utf8 => b't',
            b'\n' if is_utf8 => b'n',
            0x0c if is_utf8 => b'f',
            b'\r' if is_utf8 => b'r',
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
                continue;
            }
        };
        out.extend([b'\\', short]);
    }
    out.drain(start..end);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"before ".to_vec();
        write(&mut out);
        String::from_utf8(out).unwrap().strip_prefix("before ").unwrap().to_owned()
    }

    #[test]
    fn numbers_at_limits_are_decimal() {
        for value in [0, 1, 9, 10, 99, 100, u64::MAX] {
            assert_eq!(written(|out| push_u64(out, value)), value.to_string());
        }
        for value in [0, -1, i64::MIN, i64::MAX] {
            assert_eq!(written(|out| push_i64(out, value)), value.to_string());
        }
        assert_eq!(written(|out| push_padded(out, 7, 3, b'0')), "007");
        assert_eq!(written(|out| push_padded(out, 1234, 3, b' ')), "1234");
    }

    #[test]
    fn ip_addresses_are_written_as_the_standard_library_does() {
        let mut bits = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834_u128;
        for round in 0..4096_u32 {
            bits = bits.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(1);
            // Zero some groups, so that runs of zeros occur.
            let mut groups = Ipv6Addr::from_bits(bits).segments();
            for (index, group) in groups.iter_mut().enumerate() {
                *group *= u16::from(round >> index & 1 == 0);
                *group >>= round % 13;
            }
            let ip = Ipv6Addr::from(groups);
            if ip.to_ipv4_mapped().is_none() {
                assert_eq!(written(|out| push_ipv6(out, ip)), ip.to_string());
            }
            let ip = Ipv4Addr::from_bits(bits as u32);
            assert_eq!(written(|out| push_ipv4(out, ip)), ip.to_string());
        }
        for text in ["::", "::1", "1::", "::ffff:1.2.3.4", "1:0:0:2::3", "1:0:2:0:3:0:4:0", "fe80::1:0:0"] {
            let ip: Ipv6Addr = text.parse().unwrap();
            assert_eq!(written(|out| push_ipv6(out, ip)), ip.to_string(), "{text}");
        }
    }

    #[test]
    fn address_parts_are_written_as_envoy_does() {
        let v4 = StreamAddress::Ip("10.1.2.3:80".parse().unwrap());
        let v6 = StreamAddress::Ip("[2001:db8::1]:443".parse().unwrap());
        let pipe = StreamAddress::Pipe("/run/x.sock".into());
        let table = [
            (&v4, AddressPart::Whole, Some("10.1.2.3:80")),
            (&v4, AddressPart::WithoutPort, Some("10.1.2.3")),
            (&v4, AddressPart::Port, Some("80")),
            (&v4, AddressPart::Network(0), Some("0.0.0.0/0")),
            (&v4, AddressPart::Network(8), Some("10.0.0.0/8")),
            (&v4, AddressPart::Network(200), Some("10.1.2.3/32")),
            (&v6, AddressPart::Whole, Some("[2001:db8::1]:443")),
            (&v6, AddressPart::Network(16), Some("2001::/16")),
            (&v6, AddressPart::Network(0), Some("::/0")),
            (&pipe, AddressPart::Whole, Some("/run/x.sock")),
            (&pipe, AddressPart::Port, None),
            (&StreamAddress::None, AddressPart::Whole, None),
        ];
        for (address, part, expected) in table {
            let mut present = false;
            let text = written(|out| present = push_address(out, address, part));
            assert_eq!(present.then_some(text.as_str()), expected, "{address:?} {part:?}");
        }
    }

    /// The expected texts are what Envoy 1.40 wrote for these header values.
    #[test]
    fn json_escapes_are_those_of_envoy() {
        let table: [(&[u8], &str); 8] = [
            (b"plain", "plain"),
            (b"a/b\\c\"d", "a/b\\\\c\\\"d"),
            (b"a\tb", "a\\tb"),
            (b"<>&'=\x7f", "<>&'=\x7f"),
            (b"\x01\n", "\\u0001\\n"),
            ("é€😀\u{2028}\u{80}".as_bytes(), "é€😀\u{2028}\u{80}"),
            (b"a\xff\xc3\xa9z\"\\/<", "a\\u00ff\\u00c3\\u00a9z\\u0022\\u005c/<"),
            (b"\xed\xa0\x80", "\\u00ed\\u00a0\\u0080"),
        ];
        for (raw, expected) in table {
            let text = written(|out| {
                let start = out.len();
                out.extend_from_slice(raw);
                escape_json(out, start);
            });
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn uuid_is_of_version_four() {
        assert_eq!(written(|out| push_uuid(out, u128::MAX)), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(written(|out| push_uuid(out, 0)), "00000000-0000-4000-8000-000000000000");
    }
}
