//! Why a head or a body was refused: one cause per variant.
//!
//! Given by the codecs to the connection glue, which answers requests with [`HeadError::status`] and
//! closes, and treats responses as a broken upstream (502). Nothing refused here is ever forwarded.

use crate::protocol::response_code_details as details;

/// Why a request or response head (or a trailer section) was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeadError {
    /// More bytes than `max_request_headers_kb` / `max_response_headers_kb`.
    TooLarge,
    /// More header lines than `max_headers_count`.
    TooManyHeaders,
    /// A header name of more than 65,535 bytes.
    NameTooLong,
    /// CR without LF (RFC 9112 §2.2).
    BareCr,
    /// LF without CR: accepted by some, so a way to hide a line from them or from us.
    BareLf,
    /// A NUL byte anywhere.
    Nul,
    /// An empty line where the start line belongs (one is skipped before a request, RFC 9112 §2.2).
    EmptyStartLine,
    /// The request line is not `method SP target SP version`.
    RequestLine,
    /// The method is not a token.
    MethodBytes,
    /// A method that Envoy's parser does not know, without `allow_custom_methods`.
    MethodUnknown,
    /// The target fits none of the four forms of RFC 9112 §3.2, or not the one its method needs.
    Target,
    /// The target holds a control byte or DEL.
    TargetControl,
    /// The target holds bytes outside ASCII.
    TargetNotAscii,
    /// The target holds a fragment (`#`), which is never sent in a request (RFC 9112 §3.2).
    TargetFragment,
    /// An absolute target with a scheme other than `http` and `https`.
    TargetScheme,
    /// The authority of the target or `Host` holds user information (RFC 9110 §4.2.4).
    AuthorityUserinfo,
    /// The authority of the target or `Host` is not `host [":" port]` (RFC 9110 §7.2).
    Authority,
    /// An HTTP/1.1 request without `Host` (RFC 9112 §3.2).
    HostMissing,
    /// More than one `Host` (RFC 9112 §3.2).
    HostRepeated,
    /// What should be the version is none.
    Version,
    /// A version other than 1.0 and 1.1, or 1.0 where `accept_http_10` is off.
    VersionUnsupported,
    /// The status line is not `version SP three digits [SP reason]`.
    StatusLine,
    /// A status code below 100.
    StatusCode,
    /// A header line that continues the one before (obs-fold, RFC 9112 §5.2).
    ObsFold,
    /// White space between the start line and the first header, or between name and colon (§5.1).
    SpaceInName,
    /// A header line that begins with its colon.
    NameEmpty,
    /// A header name that is not a token.
    NameBytes,
    /// A header line without a colon.
    ColonMissing,
    /// A control byte or DEL in a header value.
    ValueControl,
    /// `Content-Length` is not a plain decimal number below 2^63.
    ContentLength,
    /// More than one `Content-Length`, equal or not.
    ContentLengthRepeated,
    /// `Content-Length` beside `Transfer-Encoding` (RFC 9112 §6.3).
    ContentLengthWithTransferEncoding,
    /// `Transfer-Encoding` other than exactly one `chunked`.
    TransferEncoding,
    /// `Transfer-Encoding` in HTTP/1.0 (RFC 9112 §6.1).
    TransferEncodingInHttp10,
    /// A CONNECT request with a body (RFC 9110 §9.3.6).
    ConnectWithBody,
    /// `Connection` nominates too many names, or one that this proxy or its routing relies on.
    Connection,
    /// A 1xx or 204 response that announces a body (RFC 9110 §8.6, RFC 9112 §6.1).
    BodyNotAllowed,
    /// 101 to a request that asked for no upgrade (RFC 9110 §15.2.2).
    UnexpectedSwitch,
}

impl HeadError {
    /// The status a request refused for this reason is answered with; Envoy's choice in each case.
    pub const fn status(self) -> u16 {
        match self {
            Self::TooLarge | Self::TooManyHeaders | Self::NameTooLong => 431,
            Self::VersionUnsupported => 426,
            Self::TransferEncoding => 501,
            _ => 400,
        }
    }

    /// The response code details, in Envoy's words where it has some.
    pub const fn details(self) -> &'static str {
        match self {
            Self::TooLarge | Self::NameTooLong => "http1.headers_too_large",
            Self::TooManyHeaders => "http1.too_many_headers",
            Self::Nul | Self::TargetControl | Self::ValueControl | Self::BareCr => "http1.invalid_characters",
            Self::Target => "http1.invalid_url",
            Self::TargetScheme => "http1.invalid_scheme",
            Self::TargetFragment => details::PATH_NORMALIZATION_FAILED,
            Self::Authority | Self::AuthorityUserinfo | Self::HostRepeated => "http.invalid_authority",
            Self::HostMissing => details::MISSING_HOST_HEADER,
            Self::VersionUnsupported => details::LOW_VERSION,
            Self::ContentLengthWithTransferEncoding => "http1.content_length_and_chunked_not_allowed",
            Self::TransferEncoding | Self::TransferEncodingInHttp10 => "http1.invalid_transfer_encoding",
            Self::ConnectWithBody => "http1.body_disallowed",
            Self::Connection => "http1.connection_header_rejected",
            Self::BodyNotAllowed => "http1.content_length_not_allowed",
            Self::BareLf
            | Self::EmptyStartLine
            | Self::RequestLine
            | Self::MethodBytes
            | Self::MethodUnknown
            | Self::TargetNotAscii
            | Self::Version
            | Self::StatusLine
            | Self::StatusCode
            | Self::ObsFold
            | Self::SpaceInName
            | Self::NameEmpty
            | Self::NameBytes
            | Self::ColonMissing
            | Self::ContentLength
            | Self::ContentLengthRepeated
            | Self::UnexpectedSwitch => "http1.codec_error",
        }
    }
}

impl std::fmt::Display for HeadError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::TooLarge => "head larger than the limit",
            Self::TooManyHeaders => "more headers than the limit",
            Self::NameTooLong => "header name too long",
            Self::BareCr => "CR without LF",
            Self::BareLf => "LF without CR",
            Self::Nul => "NUL byte",
            Self::EmptyStartLine => "empty line instead of a start line",
            Self::RequestLine => "malformed request line",
            Self::MethodBytes => "method is not a token",
            Self::MethodUnknown => "unknown method",
            Self::Target => "malformed request target",
            Self::TargetControl => "control byte in the request target",
            Self::TargetNotAscii => "byte outside ASCII in the request target",
            Self::TargetFragment => "fragment in the request target",
            Self::TargetScheme => "scheme other than http and https",
            Self::AuthorityUserinfo => "user information in the authority",
            Self::Authority => "malformed authority",
            Self::HostMissing => "no Host header",
            Self::HostRepeated => "more than one Host header",
            Self::Version => "malformed HTTP version",
            Self::VersionUnsupported => "unsupported HTTP version",
            Self::StatusLine => "malformed status line",
            Self::StatusCode => "status code below 100",
            Self::ObsFold => "folded header line",
            Self::SpaceInName => "white space before a header name or its colon",
            Self::NameEmpty => "empty header name",
            Self::NameBytes => "header name is not a token",
            Self::ColonMissing => "header line without colon",
            Self::ValueControl => "control byte in a header value",
            Self::ContentLength => "malformed Content-Length",
            Self::ContentLengthRepeated => "more than one Content-Length",
            Self::ContentLengthWithTransferEncoding => "both Content-Length and Transfer-Encoding",
            Self::TransferEncoding => "unsupported Transfer-Encoding",
            Self::TransferEncodingInHttp10 => "Transfer-Encoding in HTTP/1.0",
            Self::ConnectWithBody => "CONNECT with a body",
            Self::Connection => "Connection nominates a header it may not",
            Self::BodyNotAllowed => "body announced where none may be",
            Self::UnexpectedSwitch => "101 without an upgrade request",
        })
    }
}

impl std::error::Error for HeadError {}

/// Why a body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BodyError {
    /// A chunk begins with something else than one to sixteen hexadecimal digits.
    ChunkSize,
    /// The size line or the data of a chunk does not end in CR LF.
    ChunkEnd,
    /// A chunk extension holds a control byte.
    ChunkExtensionBytes,
    /// Chunk extensions larger than their limits (`base::limits`).
    ChunkExtensionTooLarge,
    /// The trailer section was refused.
    Trailers(HeadError),
    /// The peer closed before the body was complete.
    Truncated,
}

impl BodyError {
    /// The status a request refused for this reason is answered with, if its response has not begun.
    pub const fn status(self) -> u16 {
        match self {
            Self::Trailers(error) => error.status(),
            _ => 400,
        }
    }

    /// The response code details, in Envoy's words.
    pub const fn details(self) -> &'static str {
        match self {
            Self::Trailers(error) => error.details(),
            _ => "http1.codec_error",
        }
    }
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::ChunkSize => "malformed chunk size",
            Self::ChunkEnd => "chunk line or data not ended by CR LF",
            Self::ChunkExtensionBytes => "control byte in a chunk extension",
            Self::ChunkExtensionTooLarge => "chunk extensions larger than the limit",
            Self::Trailers(_) => "refused trailers",
            Self::Truncated => "peer closed inside the body",
        })
    }
}

impl std::error::Error for BodyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Trailers(error) => Some(error),
            _ => None,
        }
    }
}
