//! Removes what concerns one connection only, before a message goes to the next (RFC 9110 §7.6.1).
//!
//! Between `parse` and the edits that routes and the connection manager make: it must run before this
//! proxy adds headers of its own, or a peer could nominate those. `parse` has refused heads that
//! nominate `Host`, `Content-Length` or the forwarding headers.

use super::framing::{RequestMeta, ResponseKind, ResponseMeta};
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::{self, Known, NameSet};

/// Strips a request. `TE` stays as `trailers` if the client takes trailers, and an upgrade request
/// keeps `Upgrade`, with `Connection: Upgrade`. `Transfer-Encoding` goes: the encoder writes its own.
pub fn strip_request(head: &mut Head, meta: &RequestMeta) {
    strip(head, meta.nominates, meta.upgrade);
    if meta.te_trailers {
        head.set(&headers::TE, b"trailers");
    } else {
        head.remove(&headers::TE);
    }
}

/// Strips a response; a 101 keeps `Upgrade`, with `Connection: Upgrade`.
pub fn strip_response(head: &mut Head, meta: &ResponseMeta) {
    strip(head, meta.nominates, meta.kind == ResponseKind::Tunnel && head.status() == 101);
    head.remove(&headers::TE);
}

/// Takes out of a response that ends an exchange what routes and filters have added of this: what becomes of the connection is
/// not theirs to say. `Keep-Alive` stays. Source: Envoy's `mutateResponseHeaders`.
pub fn strip_added(head: &mut Head) {
    head.remove_set(ADDED);
}

fn strip(head: &mut Head, nominates: bool, upgrade: bool) {
    if nominates {
        head.remove_nominated();
    }
    head.remove_set(HOP_BY_HOP);
    if upgrade {
        // The spelling of RFC 6455: some servers compare it as it stands.
        head.set(&headers::CONNECTION, b"Upgrade");
    } else {
        head.remove_set(UPGRADES);
    }
}

const HOP_BY_HOP: NameSet =
    NameSet::of(&[Known::CONNECTION, Known::KEEP_ALIVE, Known::PROXY_CONNECTION, Known::TRANSFER_ENCODING]);
const UPGRADES: NameSet = NameSet::of(&[Known::UPGRADE, Known::HTTP2_SETTINGS]);
const ADDED: NameSet =
    NameSet::of(&[Known::CONNECTION, Known::PROXY_CONNECTION, Known::TRANSFER_ENCODING, Known::UPGRADE]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::headers::HeaderName;
    use crate::protocol::http1::head_reader::{HeadLimits, HeadReader};
    use crate::protocol::http1::parse::{ParseOptions, parse_request};

    fn stripped(fields: &str) -> Head {
        let mut head = Head::new();
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let fed = HeadReader::request().feed(&mut head, text.as_bytes(), &HeadLimits::default()).unwrap();
        assert!(fed.complete);
        let meta = parse_request(&mut head, &ParseOptions::default()).unwrap();
        strip_request(&mut head, &meta);
        head
    }

    #[test]
    fn strip_nominated_headers_go_in_any_case() {
        let head = stripped(
            "Connection: X-A, keep-alive\r\nX-a: 1\r\nKeep-Alive: 5\r\nX-B: 2\r\nconnection: x-c\r\nX-C: 3\r\n",
        );
        assert_eq!(head.iter().collect::<Vec<_>>(), [(&b"X-B"[..], &b"2"[..])]);
        assert_eq!(head.authority(), b"a");
    }

    /// Lists that name no header to be looked for are not read again; `close` may be one.
    #[test]
    fn strip_lists_that_nominate_nothing_are_stripped_all_the_same() {
        let rest = "keep-alive: 5\r\nX: 1\r\nClose: 2\r\n";
        for (list, close) in [
            ("Keep-Alive", true),
            (" , KEEP-ALIVE,", true),
            ("te", true),
            ("keep-alive, Upgrade", true),
            ("close", false),
            ("keep-alive, close", false),
        ] {
            let head = stripped(&format!("Connection: {list}\r\n{rest}"));
            let expected: &[_] = &[(&b"X"[..], &b"1"[..]), (b"Close", b"2")];
            let expected = if close { expected } else { &expected[..1] };
            assert_eq!(head.iter().collect::<Vec<_>>(), expected, "{list}");
        }
    }

    #[test]
    fn strip_te_keeps_trailers_only() {
        let head = stripped("TE: gzip, trailers\r\nConnection: TE\r\n");
        assert_eq!(head.iter().collect::<Vec<_>>(), [(&b"TE"[..], &b"trailers"[..])]);
        assert!(stripped("TE: gzip\r\n").is_empty());
    }

    #[test]
    fn strip_upgrade_request_keeps_its_upgrade() {
        let head = stripped("Upgrade: websocket\r\nConnection: Upgrade, x\r\nX: 1\r\n");
        assert_eq!(head.get(&headers::UPGRADE), Some(&b"websocket"[..]));
        assert_eq!(head.get(&headers::CONNECTION), Some(&b"Upgrade"[..]));
        assert!(!head.contains(&HeaderName::parse(b"x").unwrap()));
    }

    #[test]
    fn strip_upgrade_without_connection_option_goes() {
        assert!(stripped("Upgrade: websocket\r\n").is_empty());
        assert!(
            stripped("Upgrade: h2c\r\nHTTP2-Settings: x\r\nConnection: Upgrade, HTTP2-Settings\r\n")
                .is_empty()
        );
    }
}
