//! Version 1: a line of text.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::{Header, Seen, V1_BYTES_MAX, Version, are_unicast};

/// How far the line is.
pub(super) enum Line {
    More,
    /// Its length, with its end.
    Whole(usize),
    TooLong,
}

/// Looks for the end of the line. An end at the very start is none: a header of version 2 begins so.
pub(super) fn line(bytes: &[u8]) -> Line {
    let looked_at = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
    // The first end counts; one at the start keeps from looking behind it.
    match looked_at.windows(2).position(|pair| pair == b"\r\n") {
        Some(0) => Line::More,
        Some(at) => Line::Whole(at + 2),
        None if bytes.len() > V1_BYTES_MAX => Line::TooLong,
        None => Line::More,
    }
}

/// Reads a whole line.
pub(super) fn parse(line: &[u8]) -> Seen {
    let bad = Seen::Bad(Some(Version::V1));
    let header = |addresses| {
        Seen::Header(Header {
            version: Version::V1,
            addresses,
            bytes: line.len(),
            tlvs: line.len()..line.len(),
        })
    };
    let Ok(text) = std::str::from_utf8(line) else { return bad };
    let mut parts = text.trim_end_matches(SPACE).split(' ');
    if parts.next() != Some("PROXY") {
        return bad;
    }
    let family = parts.next();
    if family == Some("UNKNOWN") {
        return header(None);
    }
    let (Some(source), Some(destination), Some(source_port), Some(destination_port), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return bad;
    };
    let parse = match family {
        Some("TCP4") => v4,
        Some("TCP6") => v6,
        _ => return bad,
    };
    match (parse(source, source_port), parse(destination, destination_port)) {
        (Some(source), Some(destination)) => {
            let addresses = [source, destination];
            if are_unicast(&addresses) { header(Some(addresses)) } else { bad }
        }
        _ => bad,
    }
}

/// What C calls white space.
const SPACE: [char; 6] = [' ', '\t', '\n', '\r', '\x0b', '\x0c'];

/// Envoy's `SimpleAtoi`: white space around the number and a plus before it are let pass.
fn port(text: &str) -> Option<u16> {
    let text = text.trim_matches(SPACE);
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

fn v4(address: &str, of_port: &str) -> Option<SocketAddr> {
    Some((address.parse::<Ipv4Addr>().ok()?, port(of_port)?).into())
}

fn v6(address: &str, of_port: &str) -> Option<SocketAddr> {
    let (address, scope) = address.split_once('%').map_or((address, None), |(ip, scope)| (ip, Some(scope)));
    let scope = scope.map_or(Some(0), |scope| scope.parse().ok())?;
    Some(SocketAddrV6::new(address.parse::<Ipv6Addr>().ok()?, port(of_port)?, 0, scope).into())
}
