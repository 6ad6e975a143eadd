//! The gRPC status of a response: `%GRPC_STATUS%` and the filter of that name.

use crate::protocol::grpc;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers;

use super::context::FormatContext;

/// How `%GRPC_STATUS%` writes a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GrpcStatusStyle {
    /// `DeadlineExceeded`
    Camel,
    /// `DEADLINE_EXCEEDED`
    Snake,
    /// `4`
    Number,
}

/// Camel and snake names in the order of the codes. Source: gRPC's status codes; Envoy spells
/// `Canceled` with one L in the one and with two in the other.
const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// Status of a `grpc-status` that is not a number.
const INVALID: i64 = -1;
const UNKNOWN: i64 = 2;

impl GrpcStatusStyle {
    /// The status's name; `None`: it has none in this style and is written as a number.
    pub(super) fn name(self, status: i64) -> Option<&'static str> {
        let (camel, snake) = NAMES.get(usize::try_from(status).ok()?)?;
        match self {
            Self::Camel => Some(camel),
            Self::Snake => Some(snake),
            Self::Number => None,
        }
    }
}

/// The status to log: only requests that are gRPC have one.
pub(super) fn of_logged_request(context: &FormatContext<'_>) -> Option<i64> {
    if grpc::is_request(context.request?) { of_response(context) } else { None }
}

/// The status in the trailers, else in the headers, else the one that the HTTP status stands for.
pub(super) fn of_response(context: &FormatContext<'_>) -> Option<i64> {
    let field = |head: Option<&Head>| {
        let value = head?.get(&headers::GRPC_STATUS).filter(|value| !value.is_empty())?;
        let number = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<u64>().ok());
        Some(number.and_then(|number| i64::try_from(number).ok()).unwrap_or(INVALID))
    };
    field(context.trailers)
        .or_else(|| field(context.response))
        .or_else(|| Some(grpc::status_of_http(context.info.response_code?) as i64))
}

/// The status that the access-log filter compares; without one it is `UNKNOWN`, as in Envoy.
pub(super) fn of_filtered_request(context: &FormatContext<'_>) -> i64 {
    of_response(context).unwrap_or(UNKNOWN)
}
