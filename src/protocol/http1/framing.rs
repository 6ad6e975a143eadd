//! What a parsed head says about its message: body, persistence, upgrade, expectations.
//!
//! Called by `parse` once per head, so that nobody reads those headers again. Everything that two
//! implementations could read differently is an error here; nothing is guessed (RFC 9112 §6).

use crate::base::limits::CONNECTION_OPTIONS_MAX;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::error::HeadError;
use crate::protocol::http::head::{Head, Version};
use crate::protocol::http::headers::{self, HeaderName, Known};
use crate::protocol::http::validate;

/// The methods whose semantics the codec must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodKind {
    /// Its response has no body, whatever its headers say.
    Head,
    /// A 2xx makes a tunnel.
    Connect,
    /// Any other.
    Plain,
}

/// What a request's head says about the message and the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestMeta {
    pub method: MethodKind,
    pub body: BodyLength,
    /// Whether the client lets the connection persist (RFC 9112 §9.3); `Proxy-Connection: close`
    /// counts too, as in Envoy.
    pub keep_alive: bool,
    /// The client waits for 100 before it sends the body (RFC 9110 §10.1.1).
    pub expect_continue: bool,
    /// `Connection: upgrade` with an `Upgrade` header, other than to `h2c`, which is ignored.
    pub upgrade: bool,
    /// The client takes trailers (`TE: trailers`, RFC 9110 §6.5.1).
    pub te_trailers: bool,
    /// `Connection` lists what may be names of headers, which then go no further, besides those that are always dealt with.
    pub nominates: bool,
}

impl RequestMeta {
    /// What a response parser must know of this request.
    pub fn asked(&self) -> Asked {
        Asked { method: self.method, upgrade: self.upgrade }
    }
}

/// What the request asked for, as far as it decides how its response is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: MethodKind,
    /// Whether the forwarded request asks for an upgrade.
    pub upgrade: bool,
}

/// What a response's head says about the message and the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseMeta {
    pub kind: ResponseKind,
    pub body: BodyLength,
    /// Whether the connection may carry another request after this response.
    pub keep_alive: bool,
    /// `Connection` lists what may be names of headers, which then go no further, besides those that are always dealt with.
    pub nominates: bool,
}

/// What a response does to the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    /// 1xx but 101: another head follows.
    Interim,
    /// 101, or 2xx to CONNECT: from here on the connection is a tunnel.
    Tunnel,
    /// The response.
    Final,
}

/// Reads a request's framing. The head's `Host` has become its authority.
///
/// # Errors
/// The variants about `Content-Length`, `Transfer-Encoding`, `Connection` and CONNECT bodies.
pub(super) fn of_request(head: &mut Head, allow_chunked_length: bool) -> Result<RequestMeta, HeadError> {
    let method = match head.method() {
        b"HEAD" => MethodKind::Head,
        b"CONNECT" => MethodKind::Connect,
        _ => MethodKind::Plain,
    };
    let version = head.version();
    let options = connection_options(head)?;
    let declared = declared_length(head, version, allow_chunked_length)?;
    let body = match (declared.body, method) {
        (Some(BodyLength::Chunked), MethodKind::Connect) => return Err(HeadError::TransferEncoding),
        (Some(BodyLength::Length(_)), MethodKind::Connect) => return Err(HeadError::ConnectWithBody),
        // CONNECT has no content (RFC 9110 §9.3.6); a zero length says just that.
        (Some(_), MethodKind::Connect) => {
            head.remove(&headers::CONTENT_LENGTH);
            BodyLength::None
        }
        (declared, _) => declared.unwrap_or(BodyLength::None),
    };
    let is_11 = version == Version::Http11;
    Ok(RequestMeta {
        method,
        body,
        keep_alive: options.keeps_alive(head, version) && !declared.conflict,
        expect_continue: is_11 && body != BodyLength::None && lists(head, &headers::EXPECT, b"100-continue"),
        upgrade: is_11 && options.upgrade && names_upgrade(head),
        te_trailers: is_11 && lists(head, &headers::TE, b"trailers"),
        nominates: options.nominates,
    })
}

/// Reads a response's framing.
///
/// # Errors
/// As [`of_request`], and `BodyNotAllowed`, `UnexpectedSwitch`.
pub(super) fn of_response(
    head: &mut Head,
    asked: Asked,
    allow_chunked_length: bool,
) -> Result<ResponseMeta, HeadError> {
    let (status, version) = (head.status(), head.version());
    let options = connection_options(head)?;
    let keep_alive = options.keeps_alive(head, version);
    if status == 101 && !asked.upgrade {
        return Err(HeadError::UnexpectedSwitch);
    }
    let tunnels = asked.method == MethodKind::Connect && (200..300).contains(&status);
    if tunnels {
        // A client ignores both (RFC 9110 §9.3.6), so they must not reach one that does not.
        head.remove(&headers::CONTENT_LENGTH);
        head.remove(&headers::TRANSFER_ENCODING);
    }
    let declared = declared_length(head, version, allow_chunked_length)?;
    let bodiless = status < 200 || status == 204;
    if bodiless && declared.body.is_some() {
        if declared.body != Some(BodyLength::None) {
            return Err(HeadError::BodyNotAllowed);
        }
        // Seen in the wild and harmless; forwarded it would break RFC 9110 §8.6.
        head.remove(&headers::CONTENT_LENGTH);
    }
    let (kind, body) = match status {
        _ if tunnels => (ResponseKind::Tunnel, BodyLength::UntilClose),
        101 => (ResponseKind::Tunnel, BodyLength::UntilClose),
        0..200 => (ResponseKind::Interim, BodyLength::None),
        204 | 304 => (ResponseKind::Final, BodyLength::None),
        _ if asked.method == MethodKind::Head => (ResponseKind::Final, BodyLength::None),
        _ => (ResponseKind::Final, declared.body.unwrap_or(BodyLength::UntilClose)),
    };
    let keep_alive = keep_alive && body != BodyLength::UntilClose && !declared.conflict;
    Ok(ResponseMeta { kind, body, keep_alive, nominates: options.nominates })
}

struct Declared {
    /// `None`: neither header is there.
    body: Option<BodyLength>,
    /// Both were there and `allow_chunked_length` resolved it: the connection must not persist.
    conflict: bool,
}

fn declared_length(head: &mut Head, version: Version, allow_both: bool) -> Result<Declared, HeadError> {
    let (mut has_length, has_coding) = (head.has(Known::CONTENT_LENGTH), head.has(Known::TRANSFER_ENCODING));
    let conflict = has_length && has_coding;
    if has_coding {
        check_coding(head, version)?;
        if conflict && !allow_both {
            return Err(HeadError::ContentLengthWithTransferEncoding);
        }
        // RFC 9112 §6.3: the coding overrides the length, which must not be forwarded.
        has_length = has_length && !head.remove(&headers::CONTENT_LENGTH);
    }
    let body = match (has_length, has_coding) {
        (_, true) => Some(BodyLength::Chunked),
        (true, false) => match content_length(head)? {
            0 => Some(BodyLength::None),
            bytes => Some(BodyLength::Length(bytes)),
        },
        (false, false) => None,
    };
    Ok(Declared { body, conflict })
}

/// Exactly one `chunked`, in HTTP/1.1: every other spelling is read differently somewhere.
fn check_coding(head: &Head, version: Version) -> Result<(), HeadError> {
    if version == Version::Http10 {
        return Err(HeadError::TransferEncodingInHttp10);
    }
    let mut codings = head.values(Known::TRANSFER_ENCODING);
    match (codings.next(), codings.next()) {
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(HeadError::TransferEncoding),
    }
}

/// The one `Content-Length`; with leading zeros it is rewritten, so that no peer reads it as octal.
fn content_length(head: &mut Head) -> Result<u64, HeadError> {
    let mut lengths = head.values(Known::CONTENT_LENGTH);
    let text = lengths.next().ok_or(HeadError::ContentLength)?;
    if lengths.next().is_some() {
        return Err(HeadError::ContentLengthRepeated);
    }
    let bytes = validate::content_length(text)?;
    if text.len() > 1 && text[0] == b'0' {
        drop(lengths);
        let mut digits = [0; super::encode::DECIMAL_DIGITS_MAX];
        let text = super::encode::decimal(bytes, &mut digits);
        head.set(&headers::CONTENT_LENGTH, text);
    }
    Ok(bytes)
}

/// What the `Connection` headers list.
#[derive(Clone, Copy, Debug, Default)]
struct ConnectionOptions {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    /// Others are listed that may be names of headers.
    nominates: bool,
}

impl ConnectionOptions {
    fn keeps_alive(self, head: &Head, version: Version) -> bool {
        let proxy_close =
            head.get(&headers::PROXY_CONNECTION).is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        let persists = version >= Version::Http11 || self.keep_alive;
        persists && !self.close && !proxy_close
    }
}

fn connection_options(head: &Head) -> Result<ConnectionOptions, HeadError> {
    let mut found = ConnectionOptions::default();
    if !head.has(Known::CONNECTION) {
        return Ok(found);
    }
    let mut count = 0;
    for value in head.values(Known::CONNECTION) {
        for option in validate::list(value) {
            count += 1;
            if count > CONNECTION_OPTIONS_MAX {
                return Err(HeadError::Connection);
            }
            match Known::of(option) {
                // For these headers the strip has rules of its own.
                Some(Known::KEEP_ALIVE) => found.keep_alive = true,
                Some(Known::UPGRADE) => found.upgrade = true,
                Some(Known::TE) => {}
                known if may_not_be_nominated(option, known) => return Err(HeadError::Connection),
                _ => {
                    found.close |= option.eq_ignore_ascii_case(b"close");
                    found.nominates = true;
                }
            }
        }
    }
    Ok(found)
}

/// Names whose removal would change where a message goes, how long it is or who is said to have sent
/// it. Envoy refuses the forwarding headers and pseudo headers; it also removes a nominated `Host`
/// (and then answers 400) and `Content-Length`, which would change the framing of what is forwarded.
fn may_not_be_nominated(option: &[u8], known: Option<Known>) -> bool {
    option.first() == Some(&b':')
        || matches!(
            known,
            Some(
                Known::AUTHORITY
                    | Known::CONTENT_LENGTH
                    | Known::X_FORWARDED_FOR
                    | Known::X_FORWARDED_HOST
                    | Known::X_FORWARDED_PROTO
            )
        )
}

fn names_upgrade(head: &Head) -> bool {
    let name = &headers::UPGRADE;
    let mut protocols = head.get_all(name).flat_map(validate::list).peekable();
    protocols.peek().is_some() && !protocols.any(|protocol| protocol.eq_ignore_ascii_case(b"h2c"))
}

fn lists(head: &Head, name: &HeaderName, element: &[u8]) -> bool {
    head.contains(name)
        && head.get_all(name).flat_map(validate::list).any(|listed| listed.eq_ignore_ascii_case(element))
}
