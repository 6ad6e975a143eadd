//! Heads, chunk framing and trailers to bytes, written into the spare room of a send chunk.
//!
//! Last step of the codec. Nothing here allocates: an encoder writes into the slice it is given and
//! answers the length, or the length it would have needed. Invariants: the framing headers written are
//! those of the [`BodyLength`] given, whatever the head says; a head that could split into two
//! messages ([`Head::is_sendable`] is false) is never written.

use super::status::reason_phrase;
use crate::config::http::HeaderKeyFormat;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::field::Field;
use crate::protocol::http::head::{Head, Version};
use crate::protocol::http::headers::Known;

/// Why nothing usable was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The slice is shorter than these bytes; offer as many.
    NeedsRoom(usize),
    /// The head is not fit to be sent: a bad edit, no method, target or status.
    Unsendable,
}

/// How a request is written.
#[derive(Clone, Copy, Debug)]
pub struct RequestEncoding {
    pub body: BodyLength,
    /// How header names are spelt. Source: Envoy `header_key_format`.
    pub names: HeaderKeyFormat,
    /// Write the target in absolute form. Default false. Source: Envoy `send_fully_qualified_url`.
    pub absolute_target: bool,
}

/// How a response is written.
#[derive(Clone, Copy, Debug)]
pub struct ResponseEncoding {
    pub body: BodyLength,
    /// How header names are spelt. Source: Envoy `header_key_format`.
    pub names: HeaderKeyFormat,
    /// The version in the status line: that of the client's request.
    pub version: Version,
}

/// Writes a request head. The framing of `body` is written as exactly one of `content-length` and
/// `transfer-encoding`, in place of those the head has; with [`BodyLength::None`] only a
/// `content-length: 0` is kept.
///
/// # Errors
/// See [`EncodeError`].
pub fn encode_request(
    head: &Head,
    encoding: &RequestEncoding,
    room: &mut [u8],
) -> Result<usize, EncodeError> {
    let (method, path, authority) = (head.method(), head.path(), head.authority());
    let is_connect = method == b"CONNECT";
    let target = if is_connect { authority } else { path };
    if method.is_empty() || target.is_empty() || !head.is_sendable() {
        return Err(EncodeError::Unsendable);
    }
    let mut out = Out { room, at: 0 };
    out.put(method);
    out.put(b" ");
    if encoding.absolute_target && !is_connect && path != b"*" {
        out.put(if head.scheme().is_empty() { b"http" } else { head.scheme() });
        out.put(b"://");
        out.put(authority);
    }
    out.put(target);
    out.put(b" HTTP/1.1\r\n");
    if head.has_authority() {
        match encoding.names {
            HeaderKeyFormat::LowerCase => out.put(b"host"),
            HeaderKeyFormat::PreserveCase { .. } if !head.host_name().is_empty() => out.put(head.host_name()),
            format => out.put_name(b"host", false, format),
        }
        out.put_value(authority);
    }
    let keeps_length = |value: &[u8]| encoding.body == BodyLength::None && value == b"0";
    put_fields(&mut out, head, encoding.body, encoding.names, keeps_length);
    out.finish()
}

/// Writes a response head. The framing of `body` is written as for requests; with
/// [`BodyLength::None`] the head's own `content-length` stays, as HEAD and 304 need it.
///
/// # Errors
/// See [`EncodeError`].
pub fn encode_response(
    head: &Head,
    encoding: &ResponseEncoding,
    room: &mut [u8],
) -> Result<usize, EncodeError> {
    if head.status() < 100 || !head.is_sendable() {
        return Err(EncodeError::Unsendable);
    }
    let mut out = Out { room, at: 0 };
    out.put(if encoding.version == Version::Http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.put(head.status_text());
    out.put(b" ");
    let forwards =
        matches!(encoding.names, HeaderKeyFormat::PreserveCase { forward_reason_phrase: true, .. });
    out.put(if forwards && !head.reason().is_empty() { head.reason() } else { reason_phrase(head.status()) });
    out.put(b"\r\n");
    put_fields(&mut out, head, encoding.body, encoding.names, |_| encoding.body == BodyLength::None);
    out.finish()
}

/// Longest text [`chunk_start`] writes.
pub const CHUNK_START_BYTES_MAX: usize = 18;

/// What ends a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";

/// What ends a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes the size line of a chunk of `bytes` data bytes and answers the line. `bytes` is not zero:
/// that would end the body.
pub fn chunk_start(bytes: usize, room: &mut [u8; CHUNK_START_BYTES_MAX]) -> &[u8] {
    debug_assert!(bytes > 0, "a chunk of no bytes ends the body");
    let mut at = CHUNK_START_BYTES_MAX - 2;
    room[at..].copy_from_slice(b"\r\n");
    let mut left = bytes as u64;
    while left > 0 || at == CHUNK_START_BYTES_MAX - 2 {
        at -= 1;
        room[at] = b"0123456789abcdef"[(left & 15) as usize];
        left >>= 4;
    }
    &room[at..]
}

/// Writes the last chunk with these trailers.
///
/// # Errors
/// See [`EncodeError`].
pub fn encode_trailers(
    trailers: &Head,
    names: HeaderKeyFormat,
    room: &mut [u8],
) -> Result<usize, EncodeError> {
    if !trailers.is_sendable() {
        return Err(EncodeError::Unsendable);
    }
    let mut out = Out { room, at: 0 };
    out.put(b"0\r\n");
    for field in trailers.fields() {
        out.put_field(&field, names);
    }
    out.put(b"\r\n");
    out.finish()
}

/// Digits of the largest 64-bit number.
pub const DECIMAL_DIGITS_MAX: usize = 20;

/// Writes `value` in decimal and answers the text.
pub fn decimal(value: u64, room: &mut [u8; DECIMAL_DIGITS_MAX]) -> &[u8] {
    let (mut at, mut left) = (DECIMAL_DIGITS_MAX, value);
    while left > 0 || at == DECIMAL_DIGITS_MAX {
        at -= 1;
        room[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    &room[at..]
}

/// All fields, with the framing headers that `body` asks for, and the empty line.
fn put_fields(
    out: &mut Out<'_>,
    head: &Head,
    body: BodyLength,
    names: HeaderKeyFormat,
    keeps_length: impl Fn(&[u8]) -> bool,
) {
    let (mut digits, mut framed) = ([0; DECIMAL_DIGITS_MAX], false);
    for field in head.fields() {
        match field.known {
            Some(Known::TRANSFER_ENCODING) => {}
            Some(Known::CONTENT_LENGTH) => match body {
                // In its place, with the true number.
                BodyLength::Length(bytes) if !framed => {
                    out.put_field_name(&field, names);
                    out.put_value(decimal(bytes, &mut digits));
                    framed = true;
                }
                _ if keeps_length(field.value) => out.put_field(&field, names),
                _ => {}
            },
            _ => out.put_field(&field, names),
        }
    }
    match body {
        BodyLength::Length(bytes) if !framed => {
            out.put_name(b"content-length", false, names);
            out.put_value(decimal(bytes, &mut digits));
        }
        BodyLength::Chunked => {
            out.put_name(b"transfer-encoding", false, names);
            out.put_value(b"chunked");
        }
        BodyLength::None | BodyLength::Length(_) | BodyLength::UntilClose => {}
    }
    out.put(b"\r\n");
}

/// The room written into. Counts on when it is full, so that one pass also tells what is needed.
struct Out<'a> {
    room: &'a mut [u8],
    at: usize,
}

impl Out<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        if let Some(slot) = self.next(bytes.len()) {
            slot.copy_from_slice(bytes);
        }
    }

    fn put_field(&mut self, field: &Field<'_>, names: HeaderKeyFormat) {
        self.put_field_name(field, names);
        self.put_value(field.value);
    }

    #[inline]
    fn put_field_name(&mut self, field: &Field<'_>, names: HeaderKeyFormat) {
        match field.known {
            // The table has them in lower case.
            Some(known) if names == HeaderKeyFormat::LowerCase => self.put(known.as_str().as_bytes()),
            _ => self.put_name(field.name, field.is_received, names),
        }
    }

    /// What stands behind a name: colon, value, the line's end.
    #[inline]
    fn put_value(&mut self, value: &[u8]) {
        if let Some([colon, space, slot @ .., cr, lf]) = self.next(value.len() + 4) {
            (*colon, *space, *cr, *lf) = (b':', b' ', b'\r', b'\n');
            slot.copy_from_slice(value);
        }
    }

    fn put_name(&mut self, name: &[u8], is_received: bool, names: HeaderKeyFormat) {
        let Some(slot) = self.next(name.len()) else { return };
        slot.copy_from_slice(name);
        match names {
            HeaderKeyFormat::PreserveCase { .. } if is_received => {}
            HeaderKeyFormat::ProperCaseWords
            | HeaderKeyFormat::PreserveCase { proper_case_added: true, .. } => {
                proper_case(slot);
            }
            HeaderKeyFormat::LowerCase | HeaderKeyFormat::PreserveCase { .. } => slot.make_ascii_lowercase(),
        }
    }

    #[inline]
    fn next(&mut self, len: usize) -> Option<&mut [u8]> {
        let from = self.at;
        self.at += len;
        self.room.get_mut(from..self.at)
    }

    fn finish(self) -> Result<usize, EncodeError> {
        if self.at <= self.room.len() { Ok(self.at) } else { Err(EncodeError::NeedsRoom(self.at)) }
    }
}

/// The first letter, and every letter behind a byte that is neither letter nor digit, in upper case;
/// the others in lower case.
fn proper_case(name: &mut [u8]) {
    let mut begins = true;
    for byte in name {
        *byte = if begins { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
        begins = !byte.is_ascii_alphanumeric();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::headers::{self, HeaderName};

    const PRESERVE: HeaderKeyFormat =
        HeaderKeyFormat::PreserveCase { proper_case_added: false, forward_reason_phrase: false };

    fn request(body: BodyLength) -> RequestEncoding {
        RequestEncoding { body, names: HeaderKeyFormat::LowerCase, absolute_target: false }
    }

    fn encoded(head: &Head, encoding: &RequestEncoding) -> String {
        let mut room = [0; 512];
        let len = encode_request(head, encoding, &mut room).unwrap();
        for short in 0..len {
            assert_eq!(encode_request(head, encoding, &mut room[..short]), Err(EncodeError::NeedsRoom(len)));
        }
        let len = encode_request(head, encoding, &mut room).unwrap();
        String::from_utf8_lossy(&room[..len]).into_owned()
    }

    fn post() -> Head {
        let mut head = Head::new();
        head.set_method(b"POST");
        head.set_path(b"/p?q");
        head.set_authority(b"h:1");
        head.append(&HeaderName::parse(b"x-a").unwrap(), b"1");
        head.append(&headers::CONTENT_LENGTH, b"7");
        head.append(&headers::VIA, b"v");
        head
    }

    #[test]
    fn encode_request_writes_the_framing_of_the_body() {
        let start = "POST /p?q HTTP/1.1\r\nhost: h:1\r\nx-a: 1\r\n";
        for (body, rest) in [
            (BodyLength::None, "via: v\r\n\r\n"),
            (BodyLength::Length(12), "content-length: 12\r\nvia: v\r\n\r\n"),
            (BodyLength::Chunked, "via: v\r\ntransfer-encoding: chunked\r\n\r\n"),
        ] {
            assert_eq!(encoded(&post(), &request(body)), format!("{start}{rest}"));
        }
        let mut head = post();
        head.remove(&headers::CONTENT_LENGTH);
        assert!(
            encoded(&head, &request(BodyLength::Length(0))).ends_with("via: v\r\ncontent-length: 0\r\n\r\n")
        );
    }

    #[test]
    fn encode_request_forms_of_the_target() {
        let mut head = post();
        let absolute = RequestEncoding { absolute_target: true, ..request(BodyLength::None) };
        assert!(encoded(&head, &absolute).starts_with("POST http://h:1/p?q HTTP/1.1\r\nhost: h:1\r\n"));
        head.set_method(b"CONNECT");
        assert!(encoded(&head, &absolute).starts_with("CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\n"));
    }

    #[test]
    fn encode_head_with_a_bad_edit_is_refused() {
        for edit in [
            (|head: &mut Head| head.set_path(b"/a b")) as fn(&mut Head),
            |head| head.set_path(b""),
            |head| head.append(&headers::VIA, b"a\r\nb: c"),
            |head| head.join(&headers::VIA, b"a\nb", b", "),
            |head| head.set(&headers::VIA, b"\0"),
        ] {
            let mut head = post();
            edit(&mut head);
            let outcome = encode_request(&head, &request(BodyLength::None), &mut [0; 512]);
            assert_eq!(outcome, Err(EncodeError::Unsendable));
        }
    }

    #[test]
    fn encode_response_keeps_the_length_of_a_bodiless_response() {
        let mut head = Head::new();
        head.set_status(304);
        head.append(&headers::CONTENT_LENGTH, b"5");
        let mut room = [0; 128];
        let mut write = |body, names, version| {
            let len = encode_response(&head, &ResponseEncoding { body, names, version }, &mut room).unwrap();
            String::from_utf8_lossy(&room[..len]).into_owned()
        };
        assert_eq!(
            write(BodyLength::None, HeaderKeyFormat::ProperCaseWords, Version::Http11),
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"
        );
        assert_eq!(
            write(BodyLength::UntilClose, PRESERVE, Version::Http10),
            "HTTP/1.0 304 Not Modified\r\n\r\n"
        );
    }

    #[test]
    fn names_are_spelt_as_the_format_says() {
        let mut head = post();
        head.push_received_text(Some(Known::ACCEPT), b"ACCept", b"");
        head.push_received_text(None, b"X-miNE", b"2");
        let start = "POST /p?q HTTP/1.1\r\nhost: h:1\r\nx-a: 1\r\n";
        let lower = format!("{start}content-length: 7\r\nvia: v\r\naccept: \r\nx-mine: 2\r\n\r\n");
        let proper = lower
            .replace("host:", "Host:")
            .replace("x-a:", "X-A:")
            .replace("content-length:", "Content-Length:")
            .replace("via:", "Via:")
            .replace("accept:", "Accept:")
            .replace("x-mine:", "X-Mine:");
        let preserved = lower.replace("accept:", "ACCept:").replace("x-mine:", "X-miNE:");
        for (names, expected) in [
            (HeaderKeyFormat::LowerCase, lower),
            (HeaderKeyFormat::ProperCaseWords, proper),
            (PRESERVE, preserved),
        ] {
            let encoding = RequestEncoding { names, ..request(BodyLength::Length(7)) };
            assert_eq!(encoded(&head, &encoding), expected);
        }
    }

    #[test]
    fn chunk_start_is_hexadecimal() {
        let mut room = [0; CHUNK_START_BYTES_MAX];
        for (bytes, text) in [(1, "1\r\n"), (0xabc, "abc\r\n"), (65_536, "10000\r\n")] {
            assert_eq!(chunk_start(bytes, &mut room), text.as_bytes());
        }
        assert_eq!(chunk_start(usize::MAX, &mut room), b"ffffffffffffffff\r\n");
    }

    #[test]
    fn decimal_writes_all_digits() {
        let mut room = [0; DECIMAL_DIGITS_MAX];
        for value in [0, 9, 10, 1234, u64::MAX] {
            assert_eq!(decimal(value, &mut room), value.to_string().as_bytes());
        }
    }

    #[test]
    fn proper_case_capitalizes_after_separators() {
        let mut name = *b"x-fOO$b#$are-2x";
        proper_case(&mut name);
        assert_eq!(&name, b"X-Foo$B#$Are-2x");
    }
}
