//! Is this HTTP, and of which version? A connection's first bytes in plain text, looked at before anybody serves it.
//!
//! A listener chooses among its filter chains by it. It is shown all bytes from the first on, changes none and keeps none.
//! Decisions are those of Envoy's `http_inspector`, whose parser reads the request line.

use super::headers::is_token;

/// What an HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes within which the request line must end, or the connection is closed. Source: Envoy `MAX_INSPECT_SIZE`.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Not to be told yet.
    More,
    /// HTTP.
    Http(Protocol),
    /// Something else.
    Other,
    /// A request line without end.
    TooLong,
}

/// Versions that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Whatever calls itself HTTP/x.y and is none of the others, or does not say.
    Http10,
    Http11,
    Http2,
}

impl Protocol {
    /// As filter chain matches name it.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Http10 => b"http/1.0",
            Self::Http11 => b"http/1.1",
            Self::Http2 => b"h2c",
        }
    }
}

/// Looks at all bytes received so far. `searched`, 0 at first: of how many it is known that the request line does not end in them.
pub fn look(bytes: &[u8], searched: &mut usize) -> Seen {
    let Some(first) = bytes.first() else { return Seen::More };
    // Not searched: with what comes next these bytes may be a request line, which then has its end in them.
    if bytes.iter().zip(PREFACE).all(|(byte, expected)| byte == expected) {
        return if bytes.len() < PREFACE.len() { Seen::More } else { Seen::Http(Protocol::Http2) };
    }
    if !is_token(std::slice::from_ref(first)) {
        return Seen::Other;
    }
    let fresh = bytes.get(*searched..).unwrap_or_default();
    match fresh.iter().position(|&byte| byte == b'\n') {
        Some(at) if *searched + at < LINE_BYTES_MAX => {
            of_line(bytes.get(..*searched + at).unwrap_or_default()).map_or(Seen::Other, Seen::Http)
        }
        None if bytes.len() < LINE_BYTES_MAX => {
            *searched = bytes.len();
            Seen::More
        }
        _ => Seen::TooLong,
    }
}

/// The version of a request line, without its end; `None`: it is none.
fn of_line(line: &[u8]) -> Option<Protocol> {
    let line = line.trim_ascii_end();
    let mut parts = line.split(|&byte| byte == b' ' || byte == b'\t').filter(|part| !part.is_empty());
    let (method, target) = (parts.next()?, parts.next()?);
    let (version, rest) = (parts.next(), parts.next());
    if !is_token(method) || !is_target(target, method == b"CONNECT") || rest.is_some() {
        return None;
    }
    match version {
        Some(b"HTTP/1.1") => Some(Protocol::Http11),
        None | Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']) => Some(Protocol::Http10),
        Some(_) => None,
    }
}

/// Whether it looks like a request's target: a path, `*`, a URL, or for CONNECT an authority.
fn is_target(target: &[u8], connect: bool) -> bool {
    let is_url = || {
        let scheme = |scheme: &[u8]| {
            target.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme))
        };
        scheme(b"http://") || scheme(b"https://")
    };
    target.is_ascii() && (target.starts_with(b"/") || target == b"*" || connect || is_url())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of bytes of which there are first so many, then so many, and so on.
    fn in_pieces(bytes: &[u8], ends: impl IntoIterator<Item = usize>) -> Seen {
        let mut searched = 0;
        let mut looks = ends.into_iter().map(|end| look(&bytes[..end], &mut searched));
        looks.find(|seen| *seen != Seen::More).unwrap_or(Seen::More)
    }

    fn whole(bytes: &[u8]) -> Seen {
        let seen = look(bytes, &mut 0);
        // However it is cut, nothing else comes of it, and it is told no later.
        assert_eq!(in_pieces(bytes, 1..=bytes.len()), seen, "{}", bytes.escape_ascii());
        for cut in 0..bytes.len() {
            assert_eq!(in_pieces(bytes, [cut, bytes.len()]), seen, "{} at {cut}", bytes.escape_ascii());
        }
        seen
    }

    /// What Envoy 1.40 counts of each.
    #[test]
    fn first_lines_are_taken_as_envoy_takes_them() {
        use Protocol::{Http2, Http10, Http11};
        for (line, protocol) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Http11)),
            (b"GET / HTTP/1.1\n", Some(Http11)),
            (b"GET / HTTP/1.0\r\n", Some(Http10)),
            (b"GET /\r\n", Some(Http10)),
            (b"GET / HTTP/1.2\r\n", Some(Http10)),
            (b"GET / HTTP/2.0\r\n", Some(Http10)),
            (b"GET / HTTP/3\r\n", None),
            (b"BREW / HTTP/1.1\r\n", Some(Http11)),
            (b"get / HTTP/1.1\r\n", Some(Http11)),
            (b"G(T / HTTP/1.1\r\n", None),
            (b"GET\r\n", None),
            (b" GET / HTTP/1.1\r\n", None),
            (b"GET  / HTTP/1.1\r\n", Some(Http11)),
            (b"GET /  HTTP/1.1\r\n", Some(Http11)),
            (b"GET\t/ HTTP/1.1\r\n", Some(Http11)),
            (b"GET / http/1.1\r\n", None),
            (b"OPTIONS * HTTP/1.1\r\n", Some(Http11)),
            (b"GET http://a/ HTTP/1.1\r\n", Some(Http11)),
            (b"CONNECT a:1 HTTP/1.1\r\n", Some(Http11)),
            (b"GET foo HTTP/1.1\r\n", None),
            (b"GET /\x01 HTTP/1.1\r\n", Some(Http11)),
            (b"GET /\xff HTTP/1.1\r\n", None),
            (b"GET / HTTP/1.1 \r\n", Some(Http11)),
            (b"GET / x HTTP/1.1\r\n", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Http2)),
            (b"SSH-2.0-OpenSSH\r\n", None),
            (b"EHLO a\r\n", None),
            (b"\r\nGET / HTTP/1.1\r\n", None),
            (b"\x16\x03\x01", None),
        ] {
            assert_eq!(whole(line), protocol.map_or(Seen::Other, Seen::Http), "{}", line.escape_ascii());
        }
        for more in [&b"GET / HT"[..], b"PRI * HT", b""] {
            assert_eq!(whole(more), Seen::More);
        }
        let mut long = b"GET /".to_vec();
        long.resize(LINE_BYTES_MAX, b'a');
        assert_eq!(look(&long, &mut (long.len() - 1)), Seen::TooLong);
        long.truncate(LINE_BYTES_MAX - 1);
        assert_eq!(look(&long, &mut (long.len() - 1)), Seen::More);
    }

    /// The end of its line came with bytes that might still have become HTTP/2.
    #[test]
    fn request_line_that_begins_as_the_preface_is_one_wherever_it_is_cut() {
        for rest in ["Host: a\r\n\r\n", "\r\nSM\r\n\rx", "\n"] {
            let bytes = format!("PRI * HTTP/2.0\r\n{rest}");
            assert_eq!(whole(bytes.as_bytes()), Seen::Http(Protocol::Http10), "{rest:?}");
        }
    }
}
