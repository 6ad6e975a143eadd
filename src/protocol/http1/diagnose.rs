//! Which exact rule a refused head broke: the cold second look behind `parse`.
//!
//! `httparse` names only the part at fault. The text is walked line by line here until the fault is
//! found, so that logs, tests and counters have one cause each.

use crate::protocol::http::error::HeadError;
use crate::protocol::http::headers::is_token;
use crate::protocol::http::validate;

/// The fault of a request head.
#[cold]
pub(super) fn request(text: &[u8], error: httparse::Error) -> HeadError {
    let mut lines = lines(text);
    let line = lines.next().unwrap_or_default();
    request_line(line).or_else(|| fields(lines)).unwrap_or_else(|| by_kind(error))
}

/// The fault of a response head.
#[cold]
pub(super) fn response(text: &[u8], error: httparse::Error) -> HeadError {
    let mut lines = lines(text);
    let line = lines.next().unwrap_or_default();
    status_line(line).or_else(|| fields(lines)).unwrap_or_else(|| by_kind(error))
}

/// The fault of a trailer section.
#[cold]
pub(super) fn trailers(text: &[u8], error: httparse::Error) -> HeadError {
    fields(lines(text)).unwrap_or_else(|| by_kind(error))
}

/// The lines before the empty one, without their ends; the reader made sure all end in CR LF.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let bare = |line: &'_ [u8]| line.len() - usize::from(line.ends_with(b"\r"));
    text.split(|byte| *byte == b'\n').map(move |line| &line[..bare(line)]).take_while(|line| !line.is_empty())
}

fn request_line(line: &[u8]) -> Option<HeadError> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let (method, target, version) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    if !is_token(method) {
        return Some(HeadError::MethodBytes);
    }
    match (target, version) {
        (None | Some(b""), _) => Some(HeadError::RequestLine),
        (Some(target), _)
            if validate::path(target).is_err_and(|error| error != HeadError::TargetFragment) =>
        {
            validate::path(target).err()
        }
        // "GET /path" alone is a request of HTTP/0.9.
        (Some(_), None) => Some(HeadError::VersionUnsupported),
        (Some(_), Some(text)) => version_fault(text),
    }
}

fn status_line(line: &[u8]) -> Option<HeadError> {
    let mut parts = line.splitn(2, |byte| *byte == b' ');
    let (version, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if let Some(fault) = version_fault(version) {
        return Some(fault);
    }
    let Some((status, reason)) = rest.split_at_checked(3) else {
        return Some(HeadError::StatusLine);
    };
    let reason_ok = reason.is_empty() || (reason[0] == b' ' && !reason.iter().any(|byte| is_control(*byte)));
    let ok = status.iter().all(u8::is_ascii_digit) && reason_ok;
    (!ok).then_some(HeadError::StatusLine)
}

fn version_fault(version: &[u8]) -> Option<HeadError> {
    match version {
        b"HTTP/1.0" | b"HTTP/1.1" => None,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Some(HeadError::VersionUnsupported)
        }
        _ if version.contains(&b' ') => Some(HeadError::RequestLine),
        _ => Some(HeadError::Version),
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Option<HeadError> {
    lines.enumerate().find_map(|(index, line)| {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Some(if index == 0 { HeadError::SpaceInName } else { HeadError::ObsFold });
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Some(HeadError::ColonMissing);
        };
        let (name, value) = line.split_at(colon);
        match name.last() {
            None => Some(HeadError::NameEmpty),
            Some(b' ' | b'\t') => Some(HeadError::SpaceInName),
            Some(_) if !is_token(name) => Some(HeadError::NameBytes),
            Some(_) => value.iter().any(|byte| is_control(*byte)).then_some(HeadError::ValueControl),
        }
    })
}

fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// For what the walk takes for sound and `httparse` does not.
fn by_kind(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::HeaderName => HeadError::NameBytes,
        httparse::Error::HeaderValue => HeadError::ValueControl,
        httparse::Error::Status => HeadError::StatusLine,
        httparse::Error::TooManyHeaders => HeadError::TooManyHeaders,
        httparse::Error::Version => HeadError::Version,
        httparse::Error::NewLine | httparse::Error::Token => HeadError::RequestLine,
    }
}
