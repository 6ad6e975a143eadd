//! WebSocket's opening handshake where one side speaks HTTP/1.1 (RFC 6455 section 4), the other HTTP/2 (RFC 8441).
//!
//! HTTP/1.1 has a key and its answer, which prove to a client that the server means it; HTTP/2 has neither. So who passes from
//! HTTP/2 to HTTP/1.1 is that client, and who passes the other way that server. A key that came is passed on as it is, and
//! so is an answer: there may be HTTP/1.1 behind the next proxy.

use std::convert::Infallible;

use crate::base::base64::Encoder;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers;
use crate::protocol::tls;

/// Source: RFC 6455 section 1.3.
const GUID: &[u8; 36] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a key, 16 random ones in Base64, and of its answer, a SHA-1 in Base64.
const KEY_BYTES: usize = 24;
const ACCEPT_BYTES: usize = 28;

/// Gives the request a key if it has to have one for HTTP/1.1; whether it was given.
pub fn give_key(request: &mut Head, random: [u64; 2]) -> bool {
    if !asks_for_websocket(request) || request.contains(&headers::SEC_WEBSOCKET_KEY) {
        return false;
    }
    let [a, b] = random.map(u64::to_be_bytes);
    request.set(&headers::SEC_WEBSOCKET_KEY, &base64::<KEY_BYTES>(&[a, b].concat()));
    true
}

/// Takes the answer to a key that was given out of the response; whether it is the right one.
pub fn take_accept(request: &Head, response: &mut Head) -> bool {
    let answer = accept(request);
    let is_right = answer.is_some_and(|right| response.get(&headers::SEC_WEBSOCKET_ACCEPT) == Some(&right));
    response.remove(&headers::SEC_WEBSOCKET_ACCEPT);
    is_right
}

/// Answers the request's key, unless somebody has.
pub fn give_accept(request: &Head, response: &mut Head) {
    if asks_for_websocket(request)
        && !response.contains(&headers::SEC_WEBSOCKET_ACCEPT)
        && let Some(answer) = accept(request)
    {
        response.set(&headers::SEC_WEBSOCKET_ACCEPT, &answer);
    }
}

fn asks_for_websocket(request: &Head) -> bool {
    request.get(&headers::UPGRADE).is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

fn accept(request: &Head) -> Option<[u8; ACCEPT_BYTES]> {
    let key = request.get(&headers::SEC_WEBSOCKET_KEY)?;
    Some(base64(&tls::sha1(&[key, GUID])))
}

/// `bytes` in Base64, which takes `N`.
fn base64<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let (mut text, mut at) = ([0; N], 0);
    let mut take = |piece: &[u8]| -> Result<(), Infallible> {
        if let Some(room) = text.get_mut(at..at + piece.len()) {
            room.copy_from_slice(piece);
        }
        at += piece.len();
        Ok(())
    };
    let mut encoder = Encoder::default();
    let Ok(()) = encoder.encode(bytes, &mut take);
    let Ok(()) = encoder.finish(&mut take);
    debug_assert_eq!(at, N);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of RFC 6455 section 1.3.
    const KEY: &[u8] = b"dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn request(protocol: &[u8], key: Option<&[u8]>) -> Head {
        let mut head = Head::new();
        head.set(&headers::UPGRADE, protocol);
        if let Some(key) = key {
            head.set(&headers::SEC_WEBSOCKET_KEY, key);
        }
        head
    }

    #[test]
    fn key_is_given_to_who_has_none_and_its_answer_alone_is_right() {
        let random = [0x7468_6520_7361_6d70, 0x6c65_206e_6f6e_6365];
        let mut given = request(b"WebSocket", None);
        assert!(give_key(&mut given, random));
        assert_eq!(given.get(&headers::SEC_WEBSOCKET_KEY), Some(KEY), "of \"the sample nonce\"");
        for (answer, is_right) in
            [(Some(ACCEPT), true), (Some(KEY), false), (Some(b"".as_slice()), false), (None, false)]
        {
            let mut response = Head::new();
            if let Some(answer) = answer {
                response.set(&headers::SEC_WEBSOCKET_ACCEPT, answer);
            }
            assert_eq!(take_accept(&given, &mut response), is_right, "{answer:?}");
            assert!(!response.contains(&headers::SEC_WEBSOCKET_ACCEPT));
        }
        assert!(!give_key(&mut request(b"websocket", Some(b"x")), random), "it has one");
        assert!(!give_key(&mut request(b"h2c", None), random), "another protocol");
    }

    #[test]
    fn answer_is_given_to_a_key_that_nobody_has_answered() {
        let mut response = Head::new();
        give_accept(&request(b"websocket", Some(KEY)), &mut response);
        assert_eq!(response.get(&headers::SEC_WEBSOCKET_ACCEPT), Some(ACCEPT));
        response.set(&headers::SEC_WEBSOCKET_ACCEPT, b"theirs");
        give_accept(&request(b"websocket", Some(KEY)), &mut response);
        assert_eq!(response.get(&headers::SEC_WEBSOCKET_ACCEPT), Some(&b"theirs"[..]));
        for request in [request(b"websocket", None), request(b"h2c", Some(KEY))] {
            let mut response = Head::new();
            give_accept(&request, &mut response);
            assert!(!response.contains(&headers::SEC_WEBSOCKET_ACCEPT));
        }
    }
}
