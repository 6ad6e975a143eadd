//! How long a request may take: the route's word, a trusted client's, gRPC's.

use std::time::Duration;

use super::forward::{Details, Forward};
use crate::protocol::grpc;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::{self, HeaderName};

/// What the router filter says about timeouts. Source: `Router`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeoutOptions {
    /// Whether `x-envoy-expected-rq-timeout-ms` of the request counts. Source: `respect_expected_rq_timeout`.
    pub respect_expected: bool,
    /// Whether the endpoint is not told how long the request may take. Source: `suppress_envoy_headers`.
    pub suppress_envoy_headers: bool,
    /// Longest life of a stream where its route says nothing; none, zero: no limit. Source: the connection manager's
    /// `common_http_protocol_options.max_stream_duration`.
    pub max_stream_duration: Option<Duration>,
}

/// The limits of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestTimeouts {
    /// Longest time from the end of the request to the end of the response; none: no limit.
    pub response: Option<Duration>,
    /// Longest time of one attempt until its response begins, from the end of the request; none: no limit of its own.
    pub per_try: Option<Duration>,
    /// Longest life of the stream, from its begin; zero: no limit; none: the connection manager's.
    pub stream: Option<Duration>,
    /// The stream's time is over before it is forwarded: its client granted none, or less than the route takes off.
    pub over: bool,
    /// Longest life of the upstream request, in place of the cluster's; zero: no limit.
    pub upstream: Option<Duration>,
    /// Whether the client wants 204 and not 504 when one of the first two has passed.
    pub alternative: bool,
}

impl Forward {
    /// Settles the limits of a request and edits its head accordingly: takes out `x-envoy-upstream-rq-timeout-ms`, its
    /// per-try sibling, `x-envoy-upstream-rq-timeout-alt-response` and `x-envoy-upstream-stream-duration-ms` (present only where the client is trusted), writes `x-envoy-expected-rq-timeout-ms`.
    /// Source: Envoy's `finalTimeout`.
    pub fn timeouts(&self, head: &mut Head, options: TimeoutOptions) -> RequestTimeouts {
        let grpc = grpc::is_request(head);
        // `max_stream_duration` in the route switches its other timeouts off.
        let Details { max_stream_duration, max_grpc_timeout, grpc_timeout_offset, .. } = self.details();
        let old_style = max_stream_duration.is_none();
        let mut response = match max_grpc_timeout.filter(|_| grpc && old_style) {
            Some(max) => capped(offset(grpc_timeout(head).unwrap_or_default(), *grpc_timeout_offset), max),
            None if old_style => self.timeout,
            None => Duration::ZERO,
        };
        let expected = milliseconds(head, &headers::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS);
        if options.respect_expected && head.contains(&headers::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS) {
            response = expected.unwrap_or(response);
        } else {
            response = milliseconds(head, &headers::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS).unwrap_or(response);
            head.remove(&headers::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS);
        }
        let per_try =
            milliseconds(head, &headers::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS).unwrap_or_default();
        head.remove(&headers::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS);
        let per_try = if per_try >= response && !response.is_zero() { Duration::ZERO } else { per_try };

        let upstream = milliseconds(head, &headers::X_ENVOY_UPSTREAM_STREAM_DURATION_MS);
        head.remove(&headers::X_ENVOY_UPSTREAM_STREAM_DURATION_MS);
        // With any value, as in Envoy.
        let alternative = head.remove(&headers::X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE);

        let told = if per_try.is_zero() { response } else { per_try };
        if !told.is_zero() {
            let mut digits = [0; 20];
            if !options.suppress_envoy_headers {
                let text = decimal(told.as_millis().try_into().unwrap_or(u64::MAX), &mut digits);
                head.set(&headers::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, text);
            }
            if grpc && old_style && max_grpc_timeout.is_some() {
                write_grpc_timeout(head, told);
            }
        }
        let (stream, grants) = self.stream_limit(head, grpc, options.max_stream_duration);
        let some = |limit: Duration| (!limit.is_zero()).then_some(limit);
        RequestTimeouts {
            response: some(response),
            per_try: some(per_try),
            stream,
            over: grants && stream == Some(Duration::ZERO),
            upstream,
            alternative,
        }
    }

    /// What `grpc-timeout` asks for where the route reads it, and that it does; else the route's own limit; none: the
    /// connection manager's.
    /// A gRPC request of a route that has such a word is told what came of it, or nothing where there is no limit. Source:
    /// `max_stream_duration`, `grpc_timeout_header_max`, `grpc_timeout_header_offset`; Envoy's `refreshDurationTimeout`.
    fn stream_limit(
        &self,
        head: &mut Head,
        grpc: bool,
        general: Option<Duration>,
    ) -> (Option<Duration>, bool) {
        let Some(config) = &self.details().max_stream_duration else { return (None, false) };
        let limit = match (grpc_timeout(head), config.grpc_timeout_header_max) {
            (Some(asked), Some(max)) => {
                let capped = if max.is_zero() { asked } else { asked.min(max) };
                let limit = capped.saturating_sub(config.grpc_timeout_header_offset.unwrap_or_default());
                if grpc {
                    write_grpc_timeout(head, limit);
                }
                return (Some(limit), true);
            }
            _ => config.max_stream_duration,
        };
        let general = general.filter(|limit| !limit.is_zero());
        match limit.or(general).filter(|limit| !limit.is_zero()) {
            Some(limit) if grpc => write_grpc_timeout(head, limit),
            None if grpc && general.is_some() => drop(head.remove(&headers::GRPC_TIMEOUT)),
            _ => {}
        }
        (limit, false)
    }
}

/// At most `max`; zero stands for no limit in both.
fn capped(limit: Duration, max: Duration) -> Duration {
    if !max.is_zero() && (limit.is_zero() || limit > max) { max } else { limit }
}

/// Less `offset`, unless nothing would be left: zero would mean no limit.
fn offset(limit: Duration, offset: Option<Duration>) -> Duration {
    match offset {
        Some(offset) if offset < limit => limit - offset,
        _ => limit,
    }
}

fn milliseconds(head: &Head, name: &HeaderName) -> Option<Duration> {
    let value = std::str::from_utf8(head.get(name)?.trim_ascii()).ok()?;
    Some(Duration::from_millis(value.parse().ok()?))
}

/// `grpc-timeout`: up to eight digits and a unit. Source: gRPC over HTTP/2, "Timeout". Fractions of a millisecond are
/// rounded up, as in Envoy.
fn grpc_timeout(head: &Head) -> Option<Duration> {
    let value = head.get(&headers::GRPC_TIMEOUT)?;
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    let milliseconds = match unit {
        b'H' => number * 3_600_000,
        b'M' => number * 60_000,
        b'S' => number * 1000,
        b'm' => number,
        b'u' => number.div_ceil(1000),
        b'n' => number.div_ceil(1_000_000),
        _ => return None,
    };
    Some(Duration::from_millis(milliseconds))
}

/// Sets `grpc-timeout` in the finest unit that needs at most eight digits.
fn write_grpc_timeout(head: &mut Head, timeout: Duration) {
    let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let units = [(1, b'm'), (1000, b'S'), (60_000, b'M'), (3_600_000, b'H')];
    let (number, unit) = units
        .into_iter()
        .map(|(length, unit)| (milliseconds / length, unit))
        .find(|&(number, _)| number < 100_000_000)
        .unwrap_or((99_999_999, b'H'));
    let mut digits = [0; 20];
    let mut text = [0; 9];
    let number = decimal(number, &mut digits);
    let len = number.len().min(8);
    text[..len].copy_from_slice(&number[..len]);
    text[len] = unit;
    head.set(&headers::GRPC_TIMEOUT, &text[..=len]);
}

/// `number` in decimal, at the end of `digits`.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[start..];
        }
    }
}
