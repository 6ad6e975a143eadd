//! The grammar of the parts a head is made of, for every HTTP version: pure functions over bytes.
//!
//! `http1::parse` calls them on received heads. They accept what RFC 9110 and RFC 3986 accept and,
//! where Envoy is laxer (bytes a path may hold), what Envoy accepts without ambiguity.

use super::error::HeadError;

/// Methods Envoy 1.40 knows; others need `allow_custom_methods`.
pub fn is_known_method(method: &[u8]) -> bool {
    matches!(
        method,
        b"ACL"
            | b"BIND"
            | b"CHECKOUT"
            | b"CONNECT"
            | b"COPY"
            | b"DELETE"
            | b"GET"
            | b"HEAD"
            | b"LINK"
            | b"LOCK"
            | b"MERGE"
            | b"MKACTIVITY"
            | b"MKCALENDAR"
            | b"MKCOL"
            | b"MOVE"
            | b"MSEARCH"
            | b"NOTIFY"
            | b"OPTIONS"
            | b"PATCH"
            | b"POST"
            | b"PROPFIND"
            | b"PROPPATCH"
            | b"PURGE"
            | b"PUT"
            | b"QUERY"
            | b"REBIND"
            | b"REPORT"
            | b"SEARCH"
            | b"SOURCE"
            | b"SUBSCRIBE"
            | b"TRACE"
            | b"UNBIND"
            | b"UNLINK"
            | b"UNLOCK"
            | b"UNSUBSCRIBE"
    )
}

/// Checks `host [":" port]` (RFC 9110 §7.2, RFC 3986 §3.2); the host may be empty, as in a request
/// for a URI without authority.
///
/// # Errors
/// `AuthorityUserinfo` for user information, `Authority` for everything else that does not fit.
pub fn authority(text: &[u8]) -> Result<(), HeadError> {
    // Nearly every one is a host without escapes and brackets.
    let host_len = text.iter().position(|byte| !IS_PLAIN[usize::from(*byte)]).unwrap_or(text.len());
    if is_port(&text[host_len..]) {
        return Ok(());
    }
    if text.contains(&b'@') {
        return Err(HeadError::AuthorityUserinfo);
    }
    let (host_ok, port) = match text.strip_prefix(b"[") {
        Some(literal) => {
            let end = literal.iter().position(|byte| *byte == b']').ok_or(HeadError::Authority)?;
            (is_ipv6(&literal[..end]), &literal[end + 1..])
        }
        None => {
            let end = text.iter().position(|byte| *byte == b':').unwrap_or(text.len());
            (is_reg_name(&text[..end]), &text[end..])
        }
    };
    if host_ok && is_port(port) { Ok(()) } else { Err(HeadError::Authority) }
}

/// Whether `text` may stand behind a host: nothing, or a colon and digits, of which there may be none.
fn is_port(text: &[u8]) -> bool {
    match text.split_first() {
        None => true,
        Some((b':', digits)) => digits.iter().all(u8::is_ascii_digit),
        Some(_) => false,
    }
}

/// Checks the target of CONNECT: an authority whose host and port are both present (RFC 9112 §3.2.3).
///
/// # Errors
/// `Target` when host or port is missing or the authority is malformed.
pub fn connect_target(text: &[u8]) -> Result<(), HeadError> {
    let port = text.iter().rposition(|byte| *byte == b':').ok_or(HeadError::Target)?;
    if port == 0 || port + 1 == text.len() || text.ends_with(b"]") {
        return Err(HeadError::Target);
    }
    authority(text).map_err(|_| HeadError::Target)
}

/// Checks path and query as the wire carries them: every visible ASCII byte but `#`. RFC 3986 allows
/// fewer; like Envoy, a proxy has no reason to break clients that send `|` or `"`.
///
/// # Errors
/// `TargetControl`, `TargetNotAscii`, `TargetFragment`.
pub fn path(text: &[u8]) -> Result<(), HeadError> {
    if !text.is_ascii() {
        return Err(HeadError::TargetNotAscii);
    }
    if text.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Err(HeadError::TargetControl);
    }
    if text.contains(&b'#') {
        return Err(HeadError::TargetFragment);
    }
    Ok(())
}

/// The value of a `Content-Length`: decimal digits only, below 2^63 (peers that count in signed
/// 64-bit numbers must not read another length than we do). Leading zeros are legal (RFC 9110 §8.6).
///
/// # Errors
/// `ContentLength`.
pub fn content_length(text: &[u8]) -> Result<u64, HeadError> {
    if text.is_empty() {
        return Err(HeadError::ContentLength);
    }
    text.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        let value = value.checked_mul(10).and_then(|value| value.checked_add(u64::from(digit)));
        value.filter(|value| digit < 10 && *value <= i64::MAX as u64).ok_or(HeadError::ContentLength)
    })
}

/// The elements of a comma-separated list header value, trimmed, without the empty ones
/// (RFC 9110 §5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|element| !element.is_empty())
}

/// Without spaces and tabs at both ends.
pub fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

fn is_ipv6(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

/// `unreserved` and `sub-delims` of RFC 3986 §2.
static IS_PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        plain[byte] = matches!(byte as u8,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~'
            | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=');
        byte += 1;
    }
    plain
};

/// `reg-name` of RFC 3986 §3.2.2, which covers IPv4 addresses.
fn is_reg_name(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some((byte, tail)) = rest.split_first() {
        rest = match (*byte, tail) {
            (b'%', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => tail,
            (byte, tail) if IS_PLAIN[usize::from(byte)] => tail,
            _ => return false,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_of_rfc_3986_is_accepted() {
        for text in
            ["", "a", "a.b:80", "a:", "127.0.0.1:1", "[::1]", "[::1]:8080", "a_b%20c", "x!$&'()*+,;=~"]
        {
            assert_eq!(authority(text.as_bytes()), Ok(()), "{text}");
        }
    }

    #[test]
    fn authority_outside_the_grammar_is_refused() {
        for text in [
            "a b", "a/b", "a:x", "a:1:2", "[::1", "[::1]x", "[g]", "a%2", "a%zz", "a?b", "\u{e9}", "a\\b",
            "a:+1",
        ] {
            assert_eq!(authority(text.as_bytes()), Err(HeadError::Authority), "{text}");
        }
        assert_eq!(authority(b"u:p@a"), Err(HeadError::AuthorityUserinfo));
    }

    /// Plain hosts are taken at once: what else is taken, and what is refused as what, is as without that.
    #[test]
    fn authority_of_any_byte_is_that_of_the_grammar() {
        for (before, after) in
            [("", ""), ("a", ""), ("", "a"), ("a", ":80"), ("a:", ""), ("[::1]", ""), ("a%4", "1")]
        {
            for byte in 0..=u8::MAX {
                let text = [before.as_bytes(), &[byte], after.as_bytes()].concat();
                let host = text.split(|byte| *byte == b':').next().unwrap_or_default();
                let taken = match text.strip_prefix(b"[::1]") {
                    Some(port) => is_port(port),
                    None => is_reg_name(host) && is_port(&text[host.len()..]),
                };
                let expected = match taken {
                    true => Ok(()),
                    false if text.contains(&b'@') => Err(HeadError::AuthorityUserinfo),
                    false => Err(HeadError::Authority),
                };
                assert_eq!(authority(&text), expected, "{text:?}");
            }
        }
    }

    #[test]
    fn connect_target_needs_host_and_port() {
        assert_eq!(connect_target(b"a:443"), Ok(()));
        assert_eq!(connect_target(b"[::1]:443"), Ok(()));
        for text in ["a", "a:", ":443", "[::1]", "/", "a:443/x", "u@a:443", "http://a:443"] {
            assert_eq!(connect_target(text.as_bytes()), Err(HeadError::Target), "{text}");
        }
    }

    #[test]
    fn content_length_takes_digits_only() {
        assert_eq!(content_length(b"0"), Ok(0));
        assert_eq!(content_length(b"007"), Ok(7));
        assert_eq!(content_length(b"9223372036854775807"), Ok(i64::MAX as u64));
        for text in
            ["", "+1", "-1", "1 ", "1,1", "0x1", "9223372036854775808", "99999999999999999999", "1e3", "1.0"]
        {
            assert_eq!(content_length(text.as_bytes()), Err(HeadError::ContentLength), "{text}");
        }
    }

    #[test]
    fn list_drops_empty_elements_and_white_space() {
        let elements: Vec<_> = list(b" a ,,\tb\t, ,c d").collect();
        assert_eq!(elements, [&b"a"[..], b"b", b"c d"]);
    }
}
