//! gRPC over HTTP, as far as a proxy has to know it: which messages are gRPC, what an HTTP status means to a gRPC client,
//! how texts stand in `grpc-message`, how a frame begins.
//!
//! Source: "gRPC over HTTP2" of the gRPC project; Envoy's `Grpc::Common` where it says more.

use super::http::head::Head;
use super::http::{headers, validate};

/// The content type of gRPC itself; a codec may follow it behind a plus sign.
pub const CONTENT_TYPE: &[u8] = b"application/grpc";

/// Bytes before each message of a gRPC stream: flags, then the message's length, big-endian.
pub const FRAME_HEADER_BYTES: usize = 5;

/// Whether the content type is `application/grpc` or `application/grpc+…`; `application/grpc-web` is another protocol.
pub fn has_content_type(head: &Head) -> bool {
    head.get(&headers::CONTENT_TYPE)
        .and_then(|kind| kind.strip_prefix(CONTENT_TYPE))
        .is_some_and(|rest| matches!(rest, [] | [b'+', ..]))
}

/// Whether the request is gRPC. Source: Envoy's `isGrpcRequestHeaders`.
pub fn is_request(head: &Head) -> bool {
    has_content_type(head) && !head.path().is_empty()
}

/// Whether the response is gRPC; one that is over with its head need only have a status. Source: Envoy's
/// `isGrpcResponseHeaders`.
pub fn is_response(head: &Head, ends: bool) -> bool {
    if ends {
        return head.contains(&headers::GRPC_STATUS);
    }
    head.status() == 200 && has_content_type(head)
}

/// The status that an HTTP status stands for. Source:
/// <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>
pub fn status_of_http(status: u16) -> u64 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Appends `text` as it stands in `grpc-message`: what is not printable ASCII, and `%` and `~`, percent-encoded. Source:
/// gRPC over HTTP2, "Status-Message"; that `~` is among them is Envoy's.
pub fn percent_encode(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b'%' | ..b' ' | b'~'.. => out.extend_from_slice(&escaped(byte)),
            plain => out.push(plain),
        }
    }
}

fn escaped(byte: u8) -> [u8; 3] {
    let hex = |digit: u8| b"0123456789ABCDEF"[usize::from(digit & 15)];
    [b'%', hex(byte >> 4), hex(byte)]
}

/// What stands in `grpc-message`, with the white space at its ends percent-encoded; `None`: there is none. Senders leave spaces as they
/// are, as gRPC has it, wherever they stand, and HTTP/2 has no value that begins or ends with one (RFC 9113 section 8.2.1).
pub fn encode_white_ends(message: &[u8]) -> Option<Vec<u8>> {
    let inner = validate::trim(message);
    let white = message.len() - inner.len();
    if white == 0 {
        return None;
    }
    let before = message.iter().take_while(|&&byte| byte == b' ' || byte == b'\t').count();
    let (begin, rest) = message.split_at(before);
    let end = rest.get(inner.len()..).unwrap_or_default();
    let mut out = Vec::with_capacity(message.len() + 2 * white);
    begin.iter().for_each(|&byte| out.extend_from_slice(&escaped(byte)));
    out.extend_from_slice(inner);
    end.iter().for_each(|&byte| out.extend_from_slice(&escaped(byte)));
    Some(out)
}

/// The five bytes before a message of `bytes`; `None`: no frame can be that long.
pub fn frame_header(bytes: usize) -> Option<[u8; FRAME_HEADER_BYTES]> {
    let [a, b, c, d] = u32::try_from(bytes).ok()?.to_be_bytes();
    Some([0, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(kind: &[u8]) -> Head {
        let mut head = Head::new();
        head.set_path(b"/package.Service/Method");
        head.set(&headers::CONTENT_TYPE, kind);
        head
    }

    #[test]
    fn request_with_grpcs_own_content_type_and_a_path_is_grpc() {
        assert!(is_request(&head(b"application/grpc")));
        assert!(is_request(&head(b"application/grpc+proto")));
        for other in
            [&b"application/grpc-web"[..], b"application/grpcx", b"application/grpc;a", b"text/plain", b""]
        {
            assert!(!is_request(&head(other)), "{}", String::from_utf8_lossy(other));
        }
        let mut connect = head(b"application/grpc");
        connect.set_path(b"");
        assert!(!is_request(&connect));
    }

    #[test]
    fn response_is_grpc_by_its_type_or_when_it_ends_at_once_by_its_status() {
        let mut response = head(b"application/grpc");
        response.set_status(200);
        assert!(is_response(&response, false) && !is_response(&response, true));
        response.set(&headers::GRPC_STATUS, b"0");
        assert!(is_response(&response, true));
        response.set_status(503);
        assert!(!is_response(&response, false));
    }

    #[test]
    fn message_is_encoded_where_it_is_not_printable() {
        let mut out = Vec::new();
        percent_encode("a b%~\n\u{e9}}".as_bytes(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "a b%25%7E%0A%C3%A9}");
    }

    #[test]
    fn white_space_at_the_ends_of_a_message_is_encoded() {
        for plain in [&b""[..], b"a", b"a b", b"%20a"] {
            assert_eq!(encode_white_ends(plain), None);
        }
        for (message, encoded) in [
            (&b"failed: "[..], &b"failed:%20"[..]),
            (b" \ta b", b"%20%09a b"),
            (b" a\t ", b"%20a%09%20"),
            (b"  ", b"%20%20"),
        ] {
            assert_eq!(encode_white_ends(message).as_deref(), Some(encoded));
        }
    }

    #[test]
    fn frame_header_holds_the_length() {
        assert_eq!(frame_header(0x0102_0304), Some([0, 1, 2, 3, 4]));
        #[cfg(target_pointer_width = "64")]
        assert_eq!(frame_header(1 << 32), None);
    }
}
