//! Heads between the codec's maps and [`Head`], both ways, and what they say of their messages.
//!
//! Pure. What the codec has let pass is checked for what HTTP/1.1 could not carry or would read otherwise (RFC 9113
//! sections 8.2, 8.3 and 10.3): white space around values, a `host` beside `:authority`, targets outside the grammar.
//! An extended CONNECT (RFC 8441) becomes the HTTP/1.1 upgrade that it stands for, and the other way, as in Envoy.

use std::sync::LazyLock;

use bytes::Bytes;
use h2::ext::Protocol;
use http::header::{HeaderMap, HeaderName as WireName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, StatusCode, request, response};

use super::received::Received;
use crate::base::limits::HEADERS_MAX;
use crate::protocol::grpc;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::error::HeadError;
use crate::protocol::http::field::Field;
use crate::protocol::http::head::{Head, Version};
use crate::protocol::http::headers::{self, HeaderName, Known};
use crate::protocol::http::validate;
use crate::protocol::http1::encode::{DECIMAL_DIGITS_MAX, decimal};
use crate::protocol::http1::framing::{Asked, MethodKind, RequestMeta, ResponseKind, ResponseMeta};
use crate::protocol::http1::head_reader::HeadLimits;
use crate::protocol::http1::parse::is_barred_from_trailers;

/// The table's names as the codec has them; none for those of start lines.
static WIRE_NAMES: LazyLock<[Option<WireName>; headers::TEXTS.len()]> = LazyLock::new(|| {
    headers::TEXTS.each_ref().map(|text| (!text.starts_with(':')).then(|| WireName::from_static(text)))
});

/// A head cannot be written as HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsendable;

/// Puts a received request into `head`. `ended`: nothing follows it.
///
/// # Errors
/// The variants about targets, authorities, values and numbers of headers.
pub(crate) fn take_request(
    parts: &request::Parts,
    ended: bool,
    limits: &HeadLimits,
    head: &mut Head,
) -> Result<RequestMeta, HeadError> {
    head.set_version(Version::Http2);
    let upgrade = parts.extensions.get::<Protocol>();
    let is_connect = parts.method == Method::CONNECT && upgrade.is_none();
    // As Envoy: an extended CONNECT goes the way of HTTP/1.1's upgrades.
    head.set_method(if upgrade.is_some() { b"GET" } else { parts.method.as_str().as_bytes() });
    match parts.uri.scheme_str() {
        None => {}
        Some(lower @ ("http" | "https")) => head.set_scheme(lower.as_bytes()),
        Some(scheme) => head.set_scheme(scheme.to_ascii_lowercase().as_bytes()),
    }
    if let Some(path) = parts.uri.path_and_query().filter(|_| !is_connect) {
        head.set_path(path.as_str().as_bytes());
    }
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    if let Some(authority) = authority {
        head.set_authority(authority);
    }
    let host = take_fields(&parts.headers, limits, head)?;
    take_host(host, authority, head)?;
    if is_connect {
        validate::connect_target(head.authority())?;
    } else {
        // The codec drops an empty one.
        if authority.is_some() && head.scheme().is_empty() {
            return Err(HeadError::TargetScheme);
        }
        validate::authority(head.authority())?;
        validate::path(head.path())?;
        // RFC 9113 section 8.3.1: every request but CONNECT has a path, which begins with a slash; only OPTIONS may ask for no
        // resource.
        let is_asterisk = head.path() == b"*" && head.method() == b"OPTIONS";
        if !head.path().starts_with(b"/") && !is_asterisk {
            return Err(HeadError::Target);
        }
    }
    let scheme = head.scheme();
    if !scheme.is_empty() && scheme != b"http" && scheme != b"https" {
        return Err(HeadError::TargetScheme);
    }
    if let Some(protocol) = upgrade {
        head.set(&headers::UPGRADE, protocol.as_str().as_bytes());
        head.set(&headers::CONNECTION, b"Upgrade");
    }
    let method = match head.method() {
        b"HEAD" => MethodKind::Head,
        b"CONNECT" => MethodKind::Connect,
        _ => MethodKind::Plain,
    };
    let expect_continue = !ended && lists(head, &headers::EXPECT, b"100-continue");
    let te_trailers = lists(head, &headers::TE, b"trailers");
    let tunnels = upgrade.is_some() || is_connect;
    if tunnels {
        head.remove(&headers::CONTENT_LENGTH);
    }
    let body = match content_length(head)? {
        _ if tunnels => BodyLength::None,
        Some(0) | None if ended => BodyLength::None,
        // The codec has refused it.
        Some(_) if ended => return Err(HeadError::ContentLength),
        Some(bytes) => BodyLength::Length(bytes),
        None => BodyLength::Chunked,
    };
    Ok(RequestMeta {
        method,
        body,
        keep_alive: true,
        expect_continue,
        upgrade: upgrade.is_some(),
        te_trailers,
        nominates: false,
    })
}

/// Puts a received response into `head`. `ended`: nothing follows it.
///
/// # Errors
/// The variants about values, numbers of headers, lengths and statuses.
pub(crate) fn take_response(
    parts: &response::Parts,
    asked: Asked,
    ended: bool,
    limits: &HeadLimits,
    head: &mut Head,
) -> Result<ResponseMeta, HeadError> {
    head.set_version(Version::Http2);
    head.set_status(parts.status.as_u16());
    take_fields(&parts.headers, limits, head)?;
    let length = content_length(head)?;
    let status = parts.status.as_u16();
    // The codec refuses `Connection` (RFC 9113 section 8.2.2).
    let meta = |kind, body| Ok(ResponseMeta { kind, body, keep_alive: true, nominates: false });
    match status {
        // RFC 9113 section 8.6: there is no such response.
        101 => Err(HeadError::UnexpectedSwitch),
        100..200 => meta(ResponseKind::Interim, BodyLength::None),
        200..300 if asked.upgrade || asked.method == MethodKind::Connect => {
            head.remove(&headers::CONTENT_LENGTH);
            meta(ResponseKind::Tunnel, BodyLength::UntilClose)
        }
        204 if length.is_some_and(|bytes| bytes > 0) => Err(HeadError::BodyNotAllowed),
        204 | 304 => meta(ResponseKind::Final, BodyLength::None),
        _ if asked.method == MethodKind::Head => meta(ResponseKind::Final, BodyLength::None),
        // HTTP/1.1 has to be told that there is none.
        _ if ended => meta(ResponseKind::Final, BodyLength::Length(0)),
        // Trailers may follow no bytes.
        _ => meta(
            ResponseKind::Final,
            match length {
                Some(bytes @ 1..) => BodyLength::Length(bytes),
                Some(0) | None => BodyLength::UntilClose,
            },
        ),
    }
}

/// Whether no name and no value is longer than `bytes_max`; the codec's own limits are those of all together, and of a path.
///
/// # Errors
/// [`HeadError::TooLarge`].
pub(crate) fn check_lengths(map: &HeaderMap, limits: &HeadLimits, bytes_max: u32) -> Result<(), HeadError> {
    // Usually a head may not be so long as one of them.
    if limits.bytes_max <= bytes_max {
        return Ok(());
    }
    let mut lengths = map.iter().flat_map(|(name, value)| [name.as_str().len(), value.len()]);
    if lengths.all(|length| length <= bytes_max as usize) { Ok(()) } else { Err(HeadError::TooLarge) }
}

/// Puts received trailers into an empty head, without the fields that may not stand there.
///
/// # Errors
/// The variants about values and numbers of headers.
pub(crate) fn take_trailers(
    map: &HeaderMap,
    limits: &HeadLimits,
    trailers: &mut Head,
) -> Result<(), HeadError> {
    trailers.clear();
    take_fields(map, limits, trailers)?;
    trailers.retain_known(|known| !is_barred_from_trailers(known));
    Ok(())
}

/// What `host` says.
#[derive(Default)]
struct Host<'a> {
    first: Option<&'a [u8]>,
    is_repeated: bool,
}

/// Takes the fields over into `head`, but for `host`, which is returned.
fn take_fields<'a>(map: &'a HeaderMap, limits: &HeadLimits, head: &mut Head) -> Result<Host<'a>, HeadError> {
    if map.len() > limits.headers_max as usize {
        return Err(HeadError::TooManyHeaders);
    }
    let mut bytes_left = limits.bytes_max as usize;
    let mut host = Host::default();
    for (name, value) in map {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        // Each costs its name, its value and the four bytes that HTTP/1.1 puts around them.
        let bytes = name.len() + value.len() + 4;
        bytes_left = bytes_left.checked_sub(bytes).ok_or(HeadError::TooLarge)?;
        let known = Known::of_lower_case(name);
        if known == Some(Known::GRPC_MESSAGE)
            && let Some(message) = grpc::encode_white_ends(value)
        {
            head.push_received_text(known, name, &message);
            continue;
        }
        check_value(value)?;
        match known {
            // The authority has its own rules, and this is another name of it.
            Some(Known::AUTHORITY) if host.first.is_some() => host.is_repeated = true,
            Some(Known::AUTHORITY) => host.first = Some(value),
            Some(known) if known.is_pseudo() => {}
            // RFC 9113 section 8.2.3: crumbs of one header. An empty one would leave white space at its end.
            Some(Known::COOKIE) if value.is_empty() && head.contains(&headers::COOKIE) => {}
            Some(Known::COOKIE) => head.join(&headers::COOKIE, value, b"; "),
            known => head.push_received_text(known, name, value),
        }
    }
    Ok(host)
}

/// What a value may hold (RFC 9113 section 8.2.1): nothing that ends a line or a text, and no control bytes, which HTTP/1.1 does
/// not carry: that is what the codec's type promises; and no white space around it.
fn check_value(value: &[u8]) -> Result<(), HeadError> {
    match value {
        [b' ' | b'\t', ..] | [.., b' ' | b'\t'] => Err(HeadError::ValueControl),
        _ => Ok(()),
    }
}

/// `host` stands in for a missing `:authority`, and must not contradict one.
fn take_host(host: Host<'_>, authority: Option<&[u8]>, head: &mut Head) -> Result<(), HeadError> {
    if host.is_repeated {
        return Err(HeadError::HostRepeated);
    }
    match (authority, host.first) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => Err(HeadError::Authority),
        (None, Some(host)) => {
            head.set_authority(host);
            Ok(())
        }
        (None, None) => Err(HeadError::HostMissing),
        (Some(_), _) => Ok(()),
    }
}

fn lists(head: &Head, name: &HeaderName, token: &[u8]) -> bool {
    head.get_all(name).flat_map(validate::list).any(|listed| listed.eq_ignore_ascii_case(token))
}

fn content_length(head: &Head) -> Result<Option<u64>, HeadError> {
    let name = &headers::CONTENT_LENGTH;
    let mut lengths = head.get_all(name);
    let (first, second) = (lengths.next(), lengths.next());
    if second.is_some() {
        return Err(HeadError::ContentLengthRepeated);
    }
    first.map(validate::content_length).transpose()
}

/// The request of `head`, as which it was received, for an endpoint, framed as `body`.
pub(super) fn request(head: &Head, body: BodyLength, received: Received) -> Result<Request<()>, Unsendable> {
    if !head.is_sendable() {
        return Err(Unsendable);
    }
    let upgrade = head.get(&headers::UPGRADE);
    let is_connect = head.method() == b"CONNECT";
    let method = if upgrade.is_some() { Method::CONNECT } else { known_method(head.method())? };
    let received = received.kept();
    let was = received.uri.into_parts();
    let mut uri = http::uri::Parts::default();
    uri.authority = Some(match was.authority {
        Some(same) if same.as_str().as_bytes() == head.authority() => same,
        _ => Authority::from_maybe_shared(copy(head.authority())).map_err(|_| Unsendable)?,
    });
    if !is_connect {
        uri.scheme = Some(if head.scheme() == b"https" { Scheme::HTTPS } else { Scheme::HTTP });
        uri.path_and_query = Some(match was.path_and_query {
            Some(same) if same.as_str().as_bytes() == head.path() => same,
            _ => path_and_query(head.path())?,
        });
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Unsendable)?;
    *request.version_mut() = http::Version::HTTP_2;
    if let Some(protocol) = upgrade {
        let protocol = std::str::from_utf8(protocol).map_err(|_| Unsendable)?;
        request.extensions_mut().insert(Protocol::from(protocol));
    }
    // What follows is the tunnel's: of its length nothing is said (RFC 9110 section 9.3.6), and an upgrade that said it has none is
    // not to have its tunnel measured by that.
    let body = if upgrade.is_some() || is_connect { BodyLength::UntilClose } else { body };
    *request.headers_mut() = fields(head, body, received.fields)?;
    Ok(request)
}

/// The path as the codec takes it. Clients of HTTP/1.1 send some bytes as they are that no URI holds (RFC 3986 section 2), and that
/// the codec's type refuses: they are percent-encoded, which means the same.
fn path_and_query(path: &[u8]) -> Result<PathAndQuery, Unsendable> {
    if let Ok(path) = PathAndQuery::from_maybe_shared(copy(path)) {
        return Ok(path);
    }
    let mut encoded = Vec::with_capacity(path.len() + 16);
    for byte in path {
        match byte {
            b'"' => encoded.extend_from_slice(b"%22"),
            b'<' => encoded.extend_from_slice(b"%3C"),
            b'>' => encoded.extend_from_slice(b"%3E"),
            b'`' => encoded.extend_from_slice(b"%60"),
            plain => encoded.push(*plain),
        }
    }
    PathAndQuery::from_maybe_shared(Bytes::from(encoded)).map_err(|_| Unsendable)
}

/// The response of `head`, as which it was received, for a client, framed as `body`.
pub(super) fn response(
    head: &Head,
    body: BodyLength,
    received: Received,
) -> Result<Response<()>, Unsendable> {
    if !head.is_sendable() {
        return Err(Unsendable);
    }
    // RFC 8441 section 5: what HTTP/1.1 says with 101.
    let status = if head.status() == 101 { 200 } else { head.status() };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| Unsendable)?;
    *response.version_mut() = http::Version::HTTP_2;
    *response.headers_mut() = fields(head, body, received.kept().fields)?;
    Ok(response)
}

/// The trailers of `head`.
pub(crate) fn trailers(head: &Head) -> Result<HeaderMap, Unsendable> {
    if !head.is_sendable() {
        return Err(Unsendable);
    }
    let mut map = HeaderMap::with_capacity(head.len().min(HEADERS_MAX));
    for field in head.fields() {
        append(&mut map, &field)?;
    }
    Ok(map)
}

/// The fields of `head` that a stream carries. `map` has those that were received: heads are edited in place and at their end,
/// so that what is left of them stands in the same order.
fn fields(head: &Head, body: BodyLength, mut map: HeaderMap) -> Result<HeaderMap, Unsendable> {
    if map.len() != map.keys_len() {
        // Several of a name: crumbs were joined, others may have been taken out or put in between.
        map = HeaderMap::new();
    }
    let mut fields = head.fields();
    let mut has_length = false;
    // A loop: what finds a field otherwise is a call for each.
    let mut next_sent = || loop {
        let field = fields.next()?;
        if is_sent(&field, body, &mut has_length) {
            return Some(field);
        }
    };
    let mut next = next_sent();
    let mut gone = Vec::new();
    for (name, value) in &mut map {
        match next {
            Some(field) if field.name == name.as_str().as_bytes() => {
                if field.value != value.as_bytes() {
                    *value = value_of(&field)?;
                } else if is_singular(&field) {
                    value.set_sensitive(true);
                }
                next = next_sent();
            }
            _ => gone.push(name.clone()),
        }
    }
    for name in gone {
        map.remove(name);
    }
    if map.is_empty() {
        // More than are usual it makes room for as they come: asked for too much at once it panics.
        map.reserve(head.len().min(HEADERS_MAX) + 1);
    }
    while let Some(field) = next {
        append(&mut map, &field)?;
        next = next_sent();
    }
    // That there is no body a stream says by its end.
    if let BodyLength::Length(bytes @ 1..) = body
        && !has_length
    {
        map.try_append(http::header::CONTENT_LENGTH, HeaderValue::from(bytes)).map_err(|_| Unsendable)?;
    }
    Ok(map)
}

/// Whether a stream carries a field. `has_length`: whether the body's length was among those before.
#[inline]
fn is_sent(field: &Field<'_>, body: BodyLength, has_length: &mut bool) -> bool {
    match field.known {
        // RFC 9113 section 8.2.2.
        Some(
            Known::CONNECTION
            | Known::KEEP_ALIVE
            | Known::PROXY_CONNECTION
            | Known::TRANSFER_ENCODING
            | Known::UPGRADE
            | Known::HTTP2_SETTINGS,
        ) => false,
        // The length has one source, and this may be in its words.
        Some(Known::CONTENT_LENGTH) => match body {
            BodyLength::None | BodyLength::Length(0) => true,
            BodyLength::Length(bytes) if !*has_length => {
                *has_length = field.value == decimal(bytes, &mut [0; DECIMAL_DIGITS_MAX]);
                *has_length
            }
            _ => false,
        },
        Some(Known::TE) => field.value.eq_ignore_ascii_case(b"trailers"),
        _ => true,
    }
}

fn append(map: &mut HeaderMap, field: &Field<'_>) -> Result<(), Unsendable> {
    let name = match field.known.and_then(|known| WIRE_NAMES[known as usize].clone()) {
        Some(name) => name,
        // Takes any case and stores lower case.
        None => WireName::from_bytes(field.name).map_err(|_| Unsendable)?,
    };
    map.try_append(name, value_of(field)?).map_err(|_| Unsendable)?;
    Ok(())
}

fn value_of(field: &Field<'_>) -> Result<HeaderValue, Unsendable> {
    let value = validate::trim(field.value);
    if let Some(usual) = field.known.and_then(|known| usual_value(known, value)) {
        return Ok(usual);
    }
    let mut value = HeaderValue::from_maybe_shared(copy(value)).map_err(|_| Unsendable)?;
    value.set_sensitive(is_singular(field));
    Ok(value)
}

/// Values that the proxy itself writes most often: they need no memory.
#[inline]
fn usual_value(known: Known, value: &[u8]) -> Option<HeaderValue> {
    let usual = match (known, value) {
        (Known::X_FORWARDED_PROTO, b"http") => const { HeaderValue::from_static("http") },
        (Known::X_FORWARDED_PROTO, b"https") => const { HeaderValue::from_static("https") },
        (Known::X_ENVOY_UPSTREAM_SERVICE_TIME, [digit @ b'0'..=b'9']) => {
            let at = usize::from(digit - b'0');
            HeaderValue::from_static("0123456789".get(at..=at)?)
        }
        (Known::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, b"15000") => const { HeaderValue::from_static("15000") },
        (Known::SERVER, b"envoy") => const { HeaderValue::from_static("envoy") },
        (Known::TE, b"trailers") => const { HeaderValue::from_static("trailers") },
        _ => return None,
    };
    Some(usual)
}

/// Whether no two values of it are the same: in the tables of both sides they would only displace what is (RFC 7541 section
/// 6.2.3, as the codec has no way to say 6.2.2).
fn is_singular(field: &Field<'_>) -> bool {
    matches!(field.known, Some(Known::X_REQUEST_ID | Known::TRACEPARENT))
}

fn known_method(method: &[u8]) -> Result<Method, Unsendable> {
    Method::from_bytes(method).map_err(|_| Unsendable)
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// Response code details of a refused head, in Envoy's words for HTTP/2 where it has some.
pub const fn details(error: HeadError) -> &'static str {
    match error {
        HeadError::TooManyHeaders => "http2.too_many_headers",
        HeadError::TooLarge | HeadError::NameTooLong => "http2.too_large",
        HeadError::ValueControl | HeadError::NameBytes => "http2.invalid.header.field",
        HeadError::HostMissing | HeadError::TargetFragment => error.details(),
        _ => "http2.violation.of.messaging.rule",
    }
}

/// What may be said of a broken stream.
pub(super) fn describe(error: &h2::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes_max: 4096, headers_max: 10 };

    fn request_of(request: request::Builder, ended: bool) -> Result<(RequestMeta, Head), HeadError> {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let mut head = Head::new();
        take_request(&parts, ended, &LIMITS, &mut head).map(|meta| (meta, head))
    }

    fn get() -> request::Builder {
        Request::get("http://a/p?q")
    }

    fn refused(request: request::Builder) -> HeadError {
        request_of(request, true).expect_err("it is refused")
    }

    fn value(bytes: &[u8]) -> HeaderValue {
        HeaderValue::from_bytes(bytes).unwrap()
    }

    #[test]
    fn request_parts_become_one_head() {
        let request =
            get().header("cookie", "a=1").header("x-a", "1").header("cookie", "b=2").header("te", "trailers");
        let request = request.header("cookie", "");
        let (meta, head) = request_of(request, true).unwrap();
        assert_eq!(
            (head.method(), head.path(), head.authority(), head.scheme()),
            (&b"GET"[..], &b"/p?q"[..], &b"a"[..], &b"http"[..])
        );
        assert_eq!(head.get(&headers::COOKIE), Some(&b"a=1; b=2"[..]));
        assert_eq!((meta.body, meta.te_trailers, meta.upgrade), (BodyLength::None, true, false));
        assert_eq!(head.version(), Version::Http2);
    }

    #[test]
    fn length_of_a_request_body_is_announced_or_not() {
        let body = |request, ended| request_of(request, ended).unwrap().0.body;
        assert_eq!(body(get(), false), BodyLength::Chunked);
        assert_eq!(body(get().header("content-length", "5"), false), BodyLength::Length(5));
        assert_eq!(body(get().header("content-length", "0"), true), BodyLength::None);
        assert_eq!(refused(get().header("content-length", "5")), HeadError::ContentLength);
        assert_eq!(refused(get().header("content-length", "+1")), HeadError::ContentLength);
        let twice = get().header("content-length", "5").header("content-length", "5");
        assert_eq!(refused(twice), HeadError::ContentLengthRepeated);
    }

    /// What is sent is what the head says, be there much, little or nothing in common with what was received.
    #[test]
    fn fields_are_those_of_the_head_whatever_was_received() {
        let own = |name: &str| crate::protocol::http::headers::HeaderName::parse(name.as_bytes()).unwrap();
        type Edit<'a> = &'a dyn Fn(&mut Head);
        let edits: [Edit<'_>; 9] = [
            &|_| {},
            &|head| head.set(&own("x-a"), b"3"),
            &|head| {
                head.remove(&own("x-a"));
            },
            &|head| {
                head.remove(&own("x-a"));
                head.append(&own("x-a"), b"4");
            },
            &|head| head.append(&own("x-a"), b"second"),
            &|head| head.append(&own("x-b"), b" trimmed "),
            &|head| head.set(&headers::X_REQUEST_ID, b"id"),
            &|head| head.set(&headers::CONTENT_LENGTH, b"007"),
            &|head| {
                head.remove(&headers::USER_AGENT);
                head.append(&headers::X_FORWARDED_PROTO, b"http");
                head.append(&headers::UPGRADE, b"x");
            },
        ];
        let received = [
            get(),
            get()
                .header("x-a", "1")
                .header("user-agent", "u")
                .header("content-length", "7")
                .header("te", "trailers"),
            get()
                .header("user-agent", "u")
                .header("x-a", "1")
                .header("x-request-id", "r")
                .header("host", "a"),
            get().header("x-a", "1").header("cookie", "a=1").header("x-c", "2").header("cookie", "b=2"),
            get().header("x-a", "1").header("x-a", "2").header("te", "gzip"),
        ];
        let sorted = |map: HeaderMap| {
            let mut list: Vec<_> = map.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            // Values of one name stay in their order.
            list.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
            list.into_iter().map(|(name, value)| (name, value.is_sensitive(), value)).collect::<Vec<_>>()
        };
        for (index, request) in received.into_iter().enumerate() {
            let (parts, ()) = request.body(()).unwrap().into_parts();
            for (nth, edit) in edits.iter().enumerate() {
                let mut head = Head::new();
                take_request(&parts, false, &LIMITS, &mut head).unwrap();
                edit(&mut head);
                for body in
                    [BodyLength::None, BodyLength::Length(0), BodyLength::Length(7), BodyLength::Chunked]
                {
                    let anew = fields(&head, body, HeaderMap::new()).unwrap();
                    let kept = fields(&head, body, parts.headers.clone()).unwrap();
                    assert_eq!(sorted(kept), sorted(anew), "{index} {nth} {body:?}");
                    let others = Request::builder().header("x-z", "1").header("x-a", "5").body(()).unwrap();
                    let anew = fields(&head, body, HeaderMap::new()).unwrap();
                    let kept = fields(&head, body, others.headers().clone()).unwrap();
                    assert_eq!(sorted(kept), sorted(anew), "{index} {nth} {body:?}");
                }
            }
        }
    }

    #[test]
    fn usual_values_are_what_they_stand_for() {
        let (time, server) = (Known::X_ENVOY_UPSTREAM_SERVICE_TIME, Known::SERVER);
        for digit in b'0'..=b'9' {
            assert_eq!(usual_value(time, &[digit]).unwrap().as_bytes(), [digit]);
        }
        for (known, value) in [(time, &b"10"[..]), (time, b""), (time, b"x"), (time, b"/"), (server, b"1")] {
            assert_eq!(usual_value(known, value), None, "{value:?}");
        }
    }

    /// The codec's map makes room for some 24,000 names, and panics where it is asked for more.
    #[test]
    fn heads_of_very_many_fields_are_sent_or_refused() {
        let name = |n: usize| HeaderName::parse(format!("x-{n}").as_bytes()).unwrap();
        let head_of = |names: &[HeaderName]| {
            let mut head = Head::new();
            (0..40_000).for_each(|n| head.append(&names[n % names.len()], b"v"));
            head
        };
        let sent = |head: &Head| {
            let fields = fields(head, BodyLength::Length(7), HeaderMap::new()).map(|map| map.len());
            (fields, trailers(head).map(|map| map.len()))
        };
        assert_eq!(sent(&head_of(&[name(0)])), (Ok(40_001), Ok(40_000)));
        let names: Vec<_> = (0..40_000).map(name).collect();
        assert_eq!(sent(&head_of(&names)), (Err(Unsendable), Err(Unsendable)));
    }

    #[test]
    fn request_goes_on_to_where_the_head_says() {
        let (parts, ()) = Request::get("http://a:80/p?q").body(()).unwrap().into_parts();
        let received = || Received::new(parts.headers.clone(), parts.uri.clone());
        let mut head = Head::new();
        take_request(&parts, true, &LIMITS, &mut head).unwrap();
        let uri = |head: &Head| super::request(head, BodyLength::None, received()).unwrap().uri().to_string();
        assert_eq!(uri(&head), "http://a:80/p?q");
        head.set_authority(b"b");
        assert_eq!(uri(&head), "http://b/p?q");
        head.set_path(b"/other");
        head.set_scheme(b"https");
        assert_eq!(uri(&head), "https://b/other");
        head.set_path(b"/a`<b>|^{c}?q=[\"d\"]");
        assert_eq!(uri(&head), "https://b/a%60%3Cb%3E|^{c}?q=[%22d%22]");
    }

    /// Whatever a received path may hold.
    #[test]
    fn request_goes_on_with_every_path_that_is_valid() {
        let (_, mut head) = request_of(get(), true).unwrap();
        for byte in 0..=u8::MAX {
            for path in [b'/', b'?'].map(|before| [b'/', b'a', before, byte]) {
                if validate::path(&path).is_ok() {
                    head.set_path(&path);
                    let sent = super::request(&head, BodyLength::None, Received::default());
                    assert!(sent.is_ok(), "{}", path.escape_ascii());
                }
            }
        }
    }

    #[test]
    fn values_that_http1_would_read_otherwise_are_refused() {
        for text in [&b" a"[..], b"a ", b"\ta", b"a\t"] {
            assert_eq!(refused(get().header("x", value(text))), HeadError::ValueControl, "{text:?}");
        }
        for byte in (0..b' ').filter(|&byte| byte != b'\t').chain([0x7f]) {
            assert!(
                HeaderValue::from_bytes(&[b'a', byte, b'b']).is_err(),
                "the codec's type promises it: {byte}"
            );
        }
        assert_eq!(check_value(b"a\tb \xff"), Ok(()));
    }

    #[test]
    fn host_must_not_contradict_the_authority() {
        assert_eq!(refused(get().header("host", "b")), HeadError::Authority);
        assert_eq!(refused(get().header("host", "a").header("host", "a")), HeadError::HostRepeated);
        let (_, head) = request_of(get().header("host", "A"), true).unwrap();
        assert_eq!((head.authority(), head.len()), (&b"a"[..], 0));
        let (_, head) = request_of(Request::get("/p").header("host", "b:1"), true).unwrap();
        assert_eq!(head.authority(), b"b:1");
        assert_eq!(refused(Request::get("/p")), HeadError::HostMissing);
        assert_eq!(refused(Request::get("/p").header("host", "a/b")), HeadError::Authority);
    }

    #[test]
    fn targets_outside_the_grammar_are_refused() {
        assert_eq!(refused(Request::get("http://u@a/")), HeadError::AuthorityUserinfo);
        assert_eq!(refused(Request::get("ftp://a/")), HeadError::TargetScheme);
        assert_eq!(refused(Request::get("http://a/*").uri("*").header("host", "a")), HeadError::Target);
        assert_eq!(refused(Request::connect("a")), HeadError::Target);
        let (meta, head) = request_of(Request::connect("a:443"), false).unwrap();
        assert_eq!(
            (meta.method, head.authority(), head.path()),
            (MethodKind::Connect, &b"a:443"[..], &b""[..])
        );
    }

    #[test]
    fn heads_beyond_the_limits_are_refused() {
        let many = (0..11).fold(get(), |request, n| request.header("x", n));
        assert_eq!(refused(many), HeadError::TooManyHeaders);
        assert_eq!(refused(get().header("x", "v".repeat(4096))), HeadError::TooLarge);
    }

    #[test]
    fn extended_connect_is_an_upgrade_and_goes_out_as_one() {
        let mut request = Request::connect("http://a/chat").header("sec-websocket-version", "13");
        request = request.extension(Protocol::from_static("websocket"));
        let (meta, head) = request_of(request, false).unwrap();
        assert_eq!((meta.upgrade, meta.method, head.method()), (true, MethodKind::Plain, &b"GET"[..]));
        assert_eq!(head.get(&headers::UPGRADE), Some(&b"websocket"[..]));
        let out = super::request(&head, BodyLength::None, Received::default()).unwrap();
        assert_eq!((out.method(), out.uri().path()), (&Method::CONNECT, "/chat"));
        assert_eq!(out.extensions().get::<Protocol>().map(Protocol::as_str), Some("websocket"));
        assert!(out.headers().get("upgrade").is_none() && out.headers().get("connection").is_none());
    }

    #[test]
    fn request_for_a_tunnel_says_nothing_of_a_length() {
        let (_, mut head) = request_of(get().header("content-length", "0"), true).unwrap();
        let length = |head: &Head| {
            let sent = super::request(head, BodyLength::None, Received::default()).unwrap();
            sent.headers().get("content-length").cloned()
        };
        assert_eq!(length(&head), Some(value(b"0")));
        head.set(&headers::UPGRADE, b"websocket");
        assert_eq!(length(&head), None);
    }

    fn response_of(
        status: u16,
        length: Option<&str>,
        asked: Asked,
        ended: bool,
    ) -> Result<ResponseMeta, HeadError> {
        let mut response = Response::builder().status(status);
        if let Some(length) = length {
            response = response.header("content-length", length);
        }
        let (parts, ()) = response.body(()).unwrap().into_parts();
        take_response(&parts, asked, ended, &LIMITS, &mut Head::new())
    }

    #[test]
    fn response_body_ends_as_status_and_method_say() {
        let plain = Asked { method: MethodKind::Plain, upgrade: false };
        let body = |status, length, asked, ended| {
            response_of(status, length, asked, ended).map(|meta| (meta.kind, meta.body))
        };
        assert_eq!(body(200, None, plain, false), Ok((ResponseKind::Final, BodyLength::UntilClose)));
        assert_eq!(body(200, Some("3"), plain, false), Ok((ResponseKind::Final, BodyLength::Length(3))));
        assert_eq!(body(200, None, plain, true), Ok((ResponseKind::Final, BodyLength::Length(0))));
        assert_eq!(body(200, Some("0"), plain, false), Ok((ResponseKind::Final, BodyLength::UntilClose)));
        assert_eq!(body(103, None, plain, false), Ok((ResponseKind::Interim, BodyLength::None)));
        let head = Asked { method: MethodKind::Head, ..plain };
        assert_eq!(body(200, Some("3"), head, true), Ok((ResponseKind::Final, BodyLength::None)));
        let connect = Asked { method: MethodKind::Connect, ..plain };
        assert_eq!(body(200, None, connect, false), Ok((ResponseKind::Tunnel, BodyLength::UntilClose)));
        assert_eq!(response_of(101, None, plain, false), Err(HeadError::UnexpectedSwitch));
        assert_eq!(response_of(204, Some("3"), plain, false), Err(HeadError::BodyNotAllowed));
    }

    #[test]
    fn head_goes_out_without_what_concerns_one_connection() {
        let mut head = Head::new();
        head.set_status(101);
        for name in
            ["Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade", "TE", "X-Kept"]
        {
            head.append(&HeaderName::parse(name.as_bytes()).unwrap(), b"v");
        }
        head.append(&headers::CONTENT_LENGTH, b"9");
        let out = response(&head, BodyLength::Length(3), Received::default()).unwrap();
        assert_eq!(out.status(), 200);
        let left: Vec<_> =
            out.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(left, [("x-kept", &b"v"[..]), ("content-length", b"3")]);
        let chunked = response(&head, BodyLength::Chunked, Received::default()).unwrap();
        assert!(chunked.headers().get("content-length").is_none());
    }

    #[test]
    fn trailers_pass_but_the_barred_ones() {
        let mut map = HeaderMap::new();
        for name in ["grpc-status", "content-length", "te", "host", "x-sum"] {
            map.insert(WireName::from_bytes(name.as_bytes()).unwrap(), value(b"0"));
        }
        let mut head = Head::new();
        take_trailers(&map, &LIMITS, &mut head).unwrap();
        let names: Vec<_> = head.iter().map(|(name, _)| name.to_vec()).collect();
        assert_eq!(names, [b"grpc-status".to_vec(), b"x-sum".to_vec()]);
        assert_eq!(trailers(&head).unwrap().len(), 2);
        map.insert("x", value(b" space"));
        assert_eq!(take_trailers(&map, &LIMITS, &mut head), Err(HeadError::ValueControl));
        map.insert("x", value(b"none"));
        map.insert("grpc-message", value(b"failed: "));
        assert_eq!(take_trailers(&map, &LIMITS, &mut head), Ok(()));
        assert_eq!(head.get(&headers::GRPC_MESSAGE), Some(&b"failed:%20"[..]));
    }
}
