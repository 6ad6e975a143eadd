//! Hosts with and without ports: what the connection manager cuts from them, where a port begins.

use super::head::Head;
use crate::config::http::StripPort;

/// Where the port's colon stands in `host` (`a:80`, `[::1]:80`); none without a port. An IPv6 address stands in
/// brackets (RFC 3986 §3.2.2), so a colon inside brackets is not it.
pub fn port_start(host: &[u8]) -> Option<usize> {
    let colon = memchr::memrchr(b':', host)?;
    match memchr::memrchr(b']', host) {
        Some(bracket) if bracket > colon => None,
        _ => Some(colon),
    }
}

/// The host without its port.
pub fn without_port(host: &[u8]) -> &[u8] {
    &host[..port_start(host).unwrap_or(host.len())]
}

/// The name that a host is to TLS: without its port, an address without its brackets. Source: Envoy `parseAuthority`.
pub fn name(host: &[u8]) -> &[u8] {
    let name = match memchr::memrchr(b':', host) {
        Some(colon) if host.last() != Some(&b']') => &host[..colon],
        _ => host,
    };
    let inner = name.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")).unwrap_or(name);
    let is_address = std::str::from_utf8(inner).is_ok_and(|text| text.parse::<std::net::IpAddr>().is_ok());
    if is_address { inner } else { name }
}

/// Cuts the trailing dot and the port from the request's host, as configured. `listener_port` is that of the address the
/// connection came in on. Answers the port cut off, which a CONNECT needs back. Source: Envoy `strip_trailing_host_dot`,
/// `strip_matching_host_port`, `strip_any_host_port`.
pub fn strip(
    head: &mut Head,
    trailing_dot: bool,
    port: StripPort,
    listener_port: Option<u16>,
    scratch: &mut Vec<u8>,
) -> Option<u32> {
    if !trailing_dot && port == StripPort::None {
        return None;
    }
    let host = head.authority();
    let colon = port_start(host);
    let number = colon.and_then(|colon| std::str::from_utf8(&host[colon + 1..]).ok()?.parse::<u32>().ok());
    let cut = number.filter(|&number| match port {
        StripPort::None => false,
        StripPort::Matching => listener_port.map(u32::from) == Some(number),
        StripPort::Any => true,
    });
    let (name, rest) = host.split_at(colon.unwrap_or(host.len()));
    let dot = trailing_dot && name.ends_with(b".");
    if !dot && cut.is_none() {
        return None;
    }
    scratch.clear();
    scratch.extend_from_slice(&name[..name.len() - usize::from(dot)]);
    if cut.is_none() {
        scratch.extend_from_slice(rest);
    }
    head.set_authority(scratch);
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_host_is_without_port_and_an_address_without_brackets() {
        for (host, expected) in [
            ("a.example", "a.example"),
            ("a.example:443", "a.example"),
            ("10.0.0.1:443", "10.0.0.1"),
            ("[::1]:443", "::1"),
            ("[::1]", "::1"),
            ("[x]", "[x]"),
            ("", ""),
            (":", ""),
            ("[", "["),
        ] {
            assert_eq!(name(host.as_bytes()), expected.as_bytes(), "{host}");
        }
    }

    fn stripped(host: &str, trailing_dot: bool, port: StripPort) -> (String, Option<u32>) {
        let mut head = Head::new();
        head.set_authority(host.as_bytes());
        let cut = strip(&mut head, trailing_dot, port, Some(8080), &mut Vec::new());
        (String::from_utf8(head.authority().to_vec()).unwrap(), cut)
    }

    /// Every line as observed from Envoy 1.40 with `strip_any_host_port` and `strip_trailing_host_dot`.
    #[test]
    fn strip_any_port_and_dot_follows_envoy() {
        for (host, expected) in [
            ("foo.com.", "foo.com"),
            ("foo.com.:80", "foo.com"),
            ("foo.com:80", "foo.com"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("foo.com:", "foo.com:"),
            ("foo.com:abc", "foo.com:abc"),
            ("foo.com:99999", "foo.com"),
            ("FOO.com", "FOO.com"),
            ("foo.com..", "foo.com."),
            ("1.2.3.4:80", "1.2.3.4"),
            ("", ""),
        ] {
            assert_eq!(stripped(host, true, StripPort::Any).0, expected, "{host}");
        }
    }

    #[test]
    fn strip_matching_port_cuts_only_the_listeners() {
        assert_eq!(stripped("a:8080", false, StripPort::Matching), ("a".into(), Some(8080)));
        assert_eq!(stripped("a:80", false, StripPort::Matching), ("a:80".into(), None));
        assert_eq!(stripped("a.:8080", true, StripPort::None), ("a:8080".into(), None));
        assert_eq!(stripped("a.:8080", false, StripPort::None), ("a.:8080".into(), None));
    }

    #[test]
    fn port_start_ignores_colons_in_brackets() {
        assert_eq!(port_start(b"a:1"), Some(1));
        assert_eq!(port_start(b"[::1]"), None);
        assert_eq!(port_start(b"[::1]:1"), Some(5));
        assert_eq!(port_start(b"a"), None);
        assert_eq!(without_port(b"[::1]:1"), b"[::1]");
    }
}
