//! The text of a complete head to a [`Head`] and what it says about its message.
//!
//! Second step of the codec, behind `head_reader` (which has already refused bare CR, bare LF and
//! NUL). `httparse` splits the text; this file checks the parts against RFC 9110/9112, and `framing`
//! draws the conclusions. A head that was refused may be logged, never forwarded.

use std::mem::MaybeUninit;

use super::diagnose;
use super::framing::{self, Asked, RequestMeta, ResponseMeta};
use crate::base::limits::HEADERS_MAX;
use crate::protocol::http::error::HeadError;
use crate::protocol::http::field::Span;
use crate::protocol::http::head::{Head, Version};
use crate::protocol::http::headers::{Known, NAME_BYTES_MAX};
use crate::protocol::http::validate;

/// Options of the listener (or cluster) that change what is accepted.
/// Source: Envoy `core.v3.Http1ProtocolOptions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseOptions {
    /// Serve HTTP/1.0 requests; without it they get 426. Default false.
    pub accept_http_10: bool,
    /// Understand `GET http://host/path`; without it the URL is taken for a path. Default true.
    pub allow_absolute_url: bool,
    /// Take any token for a method; without it only those Envoy knows. Default false.
    pub allow_custom_methods: bool,
    /// Where both `Content-Length` and `Transfer-Encoding: chunked` are given, drop the length, serve
    /// and close, instead of refusing. Default false.
    pub allow_chunked_length: bool,
}

impl Default for ParseOptions {
    fn default() -> Self {
        Self {
            accept_http_10: false,
            allow_absolute_url: true,
            allow_custom_methods: false,
            allow_chunked_length: false,
        }
    }
}

/// Header lines for which the usual parse has room; longer heads are parsed a second time with more.
const USUAL_HEADERS: usize = 128;

/// Parses a complete request head that `HeadReader` has put into `head`.
///
/// An absolute target becomes scheme, authority and path, and its authority wins over `Host`
/// (RFC 9112 §3.2.2); the target of CONNECT becomes the authority. `Host` becomes the authority and
/// leaves the list.
///
/// # Errors
/// Every variant that concerns requests. What was read before the fault stays in the head, for logs.
pub fn parse_request(head: &mut Head, options: &ParseOptions) -> Result<RequestMeta, HeadError> {
    let line = split(head, split_request::<USUAL_HEADERS>, split_request::<HEADERS_MAX>, diagnose::request)?;
    head.set_method_span(line.method);
    head.set_path_span(line.target);
    head.set_version(if line.is_http_11 { Version::Http11 } else { Version::Http10 });
    if !line.is_http_11 && !options.accept_http_10 {
        return Err(HeadError::VersionUnsupported);
    }
    if line.fields.name_too_long {
        return Err(HeadError::NameTooLong);
    }
    if !options.allow_custom_methods && !validate::is_known_method(head.method()) {
        return Err(HeadError::MethodUnknown);
    }
    let target = classify(head.method(), head.bytes(line.target), options.allow_absolute_url)?;
    match (line.fields.host, line.fields.host_count) {
        (_, 2..) => return Err(HeadError::HostRepeated),
        (Some(host), _) => {
            validate::authority(head.bytes(host))?;
            head.set_authority_span(host);
            head.set_host_name_span(line.fields.host_name);
        }
        (None, _) if line.is_http_11 => return Err(HeadError::HostMissing),
        (None, _) => {}
    }
    match target {
        Target::Path => {}
        Target::Authority => {
            head.set_authority_span(line.target);
            head.set_path_span(Span::default());
        }
        Target::Absolute { is_https, authority, path } => {
            head.set_scheme(if is_https { b"https" } else { b"http" });
            head.set_authority_span(authority.within(line.target));
            head.set_path_at_root(path.within(line.target));
        }
    }
    framing::of_request(head, options.allow_chunked_length)
}

/// Parses a complete response head that `HeadReader` has put into `head`, given what was asked.
///
/// # Errors
/// Every variant that concerns responses; the upstream connection is of no further use.
pub fn parse_response(
    head: &mut Head,
    asked: Asked,
    options: &ParseOptions,
) -> Result<ResponseMeta, HeadError> {
    let line =
        split(head, split_response::<USUAL_HEADERS>, split_response::<HEADERS_MAX>, diagnose::response)?;
    head.set_status(line.status);
    head.set_reason_span(line.reason);
    head.set_version(if line.is_http_11 { Version::Http11 } else { Version::Http10 });
    if line.fields.name_too_long {
        return Err(HeadError::NameTooLong);
    }
    if line.status < 100 {
        return Err(HeadError::StatusCode);
    }
    if let Some(host) = line.fields.host {
        // `Host` means nothing in a response: it may be read and logged, and is not sent on.
        head.set_authority_span(host);
    }
    framing::of_response(head, asked, options.allow_chunked_length)
}

/// Parses a complete trailer section that `HeadReader` has put into `trailers`. Fields that decide
/// framing, routing, authentication or how the content is read may not stand in trailers
/// (RFC 9110 §6.5.1) and are left out.
///
/// # Errors
/// The variants about header lines.
pub(super) fn parse_trailers(trailers: &mut Head) -> Result<(), HeadError> {
    let fields =
        split(trailers, split_trailers::<USUAL_HEADERS>, split_trailers::<HEADERS_MAX>, diagnose::trailers)?;
    if fields.name_too_long {
        return Err(HeadError::NameTooLong);
    }
    trailers.retain_known(|known| !is_barred_from_trailers(known));
    Ok(())
}

struct RequestLine {
    method: Span,
    target: Span,
    is_http_11: bool,
    fields: Fields,
}

struct StatusLine {
    status: u16,
    reason: Span,
    is_http_11: bool,
    fields: Fields,
}

/// What was seen of the header lines besides those now in the head.
#[derive(Clone, Copy, Default)]
struct Fields {
    host: Option<Span>,
    /// How `Host` was spelt.
    host_name: Span,
    host_count: u32,
    name_too_long: bool,
}

type Split<L> = fn(&mut Head, &[u8]) -> Result<L, httparse::Error>;

/// Splits the head's text, with much room for headers only when little did not suffice.
fn split<L>(
    head: &mut Head,
    usual: Split<L>,
    large: Split<L>,
    diagnose: fn(&[u8], httparse::Error) -> HeadError,
) -> Result<L, HeadError> {
    let text = std::mem::take(&mut head.text);
    let line = match usual(head, &text) {
        Err(httparse::Error::TooManyHeaders) => large(head, &text),
        outcome => outcome,
    };
    let line = line.map_err(|error| diagnose(&text, error));
    head.text = text;
    line
}

fn split_request<const N: usize>(head: &mut Head, text: &[u8]) -> Result<RequestLine, httparse::Error> {
    let mut room = [const { MaybeUninit::uninit() }; N];
    let mut request = httparse::Request::new(&mut []);
    complete(request.parse_with_uninit_headers(text, &mut room)?)?;
    Ok(RequestLine {
        method: span_in(text, request.method.unwrap_or_default().as_bytes()),
        target: span_in(text, request.path.unwrap_or_default().as_bytes()),
        is_http_11: request.version == Some(1),
        fields: take_fields(head, text, request.headers),
    })
}

fn split_response<const N: usize>(head: &mut Head, text: &[u8]) -> Result<StatusLine, httparse::Error> {
    let mut room = [const { MaybeUninit::uninit() }; N];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    complete(config.parse_response_with_uninit_headers(&mut response, text, &mut room)?)?;
    Ok(StatusLine {
        status: response.code.unwrap_or_default(),
        reason: span_in(text, response.reason.unwrap_or_default().as_bytes()),
        is_http_11: response.version == Some(1),
        fields: take_fields(head, text, response.headers),
    })
}

fn split_trailers<const N: usize>(trailers: &mut Head, text: &[u8]) -> Result<Fields, httparse::Error> {
    let mut room = [httparse::EMPTY_HEADER; N];
    match httparse::parse_headers(text, &mut room)? {
        httparse::Status::Complete((_, headers)) => Ok(take_fields(trailers, text, headers)),
        httparse::Status::Partial => Err(httparse::Error::NewLine),
    }
}

/// The reader has seen the end of the head, so a parser that wants more has not understood it.
fn complete(status: httparse::Status<usize>) -> Result<(), httparse::Error> {
    if status.is_complete() { Ok(()) } else { Err(httparse::Error::NewLine) }
}

fn take_fields(head: &mut Head, text: &[u8], headers: &[httparse::Header<'_>]) -> Fields {
    let mut fields = Fields::default();
    for header in headers {
        let (name, value) = (header.name.as_bytes(), span_in(text, header.value));
        match Known::of(name) {
            Some(Known::AUTHORITY) => {
                fields.host_count += 1;
                fields.host = Some(value);
                fields.host_name = span_in(text, name);
            }
            _ if name.len() > NAME_BYTES_MAX => fields.name_too_long = true,
            known => head.push_received(known, span_in(text, name), value),
        }
    }
    fields
}

/// Where `part`, a piece of `text`, stands in it.
fn span_in(text: &[u8], part: &[u8]) -> Span {
    let start = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    if start > text.len() { Span::default() } else { Span::of(start, part.len()) }
}

/// The form of a request target (RFC 9112 §3.2).
enum Target {
    /// Origin or asterisk form.
    Path,
    /// Authority form.
    Authority,
    /// Absolute form; the spans are relative to the target.
    Absolute { is_https: bool, authority: Span, path: Span },
}

fn classify(method: &[u8], target: &[u8], allow_absolute_url: bool) -> Result<Target, HeadError> {
    if method == b"CONNECT" {
        return validate::connect_target(target).map(|()| Target::Authority);
    }
    validate::path(target)?;
    if target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS") {
        return Ok(Target::Path);
    }
    let scheme_len = target.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(target.len());
    let (scheme, rest) = target.split_at(scheme_len);
    let Some(rest) = rest.strip_prefix(b"://").filter(|_| scheme_len > 0) else {
        return Err(HeadError::Target);
    };
    if !allow_absolute_url {
        return Ok(Target::Path);
    }
    let is_https = scheme.eq_ignore_ascii_case(b"https");
    if !is_https && !scheme.eq_ignore_ascii_case(b"http") {
        return Err(HeadError::TargetScheme);
    }
    let authority_len = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    if authority_len == 0 {
        return Err(HeadError::Target);
    }
    validate::authority(&rest[..authority_len])?;
    let authority_start = target.len() - rest.len();
    let path_start = authority_start + authority_len;
    Ok(Target::Absolute {
        is_https,
        authority: Span::of(authority_start, authority_len),
        path: Span::of(path_start, target.len() - path_start),
    })
}

pub(in crate::protocol) fn is_barred_from_trailers(known: Known) -> bool {
    matches!(
        known,
        Known::CONNECTION
            | Known::KEEP_ALIVE
            | Known::PROXY_CONNECTION
            | Known::TRANSFER_ENCODING
            | Known::CONTENT_LENGTH
            | Known::TE
            | Known::TRAILER
            | Known::UPGRADE
            | Known::HTTP2_SETTINGS
            | Known::EXPECT
            | Known::MAX_FORWARDS
            | Known::CACHE_CONTROL
            | Known::RANGE
            | Known::CONTENT_ENCODING
            | Known::CONTENT_RANGE
            | Known::CONTENT_TYPE
            | Known::AUTHORIZATION
            | Known::PROXY_AUTHENTICATE
            | Known::PROXY_AUTHORIZATION
            | Known::WWW_AUTHENTICATE
            | Known::COOKIE
            | Known::SET_COOKIE
    )
}
