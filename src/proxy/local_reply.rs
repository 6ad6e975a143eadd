//! Replies of our own: the only place that turns an error into a status.

use std::borrow::Cow;

use super::chain::Scratch;
use super::downstream::Connection;
use super::error::{ProxyError, Side};
use super::filters;
use super::routing::Matched;
use super::stream::Stream;
use super::wire;
use crate::cluster::pool::ConnectError;
use crate::config::http::HeaderKeyFormat;
use crate::format::context::FormatContext;
use crate::format::local_reply::LocalReply;
use crate::protocol::grpc;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::forwarding;
use crate::protocol::http::head::Version;
use crate::protocol::http::headers::{self, HeaderName};
use crate::protocol::http1::encode::{self, ResponseEncoding};
use crate::protocol::http1::hop_by_hop;
use crate::protocol::http2::Received;
use crate::protocol::stream_info::set_text;
use crate::protocol::transport::Channel;

/// Headers by which a client learns that its request was refused to spare endpoints.
const REFUSALS: [HeaderName; 3] = [
    headers::X_ENVOY_OVERLOADED,
    headers::X_ENVOY_DROP_OVERLOAD,
    headers::X_ENVOY_UNCONDITIONAL_DROP_OVERLOAD,
];

/// The one of an error, if it is such a refusal.
fn refusal(error: ProxyError) -> Option<HeaderName> {
    match error {
        ProxyError::Connect(ConnectError::Overflow) => Some(headers::X_ENVOY_OVERLOADED),
        ProxyError::DropOverload { unconditional: false } => Some(headers::X_ENVOY_DROP_OVERLOAD),
        ProxyError::DropOverload { unconditional: true } => {
            Some(headers::X_ENVOY_UNCONDITIONAL_DROP_OVERLOAD)
        }
        _ => None,
    }
}

/// What the client is told.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    pub(super) status: u16,
    pub(super) body: Cow<'a, [u8]>,
    /// `None`: noted when the request failed.
    pub(super) details: Option<&'static str>,
    /// A header besides those that every reply has.
    pub(super) header: Option<(HeaderName, Vec<u8>)>,
    /// Whether it becomes a gRPC status when the request is gRPC. Not so when the request's head is not understood.
    pub(super) may_be_grpc: bool,
    /// The gRPC status, where it is not that of `status`.
    pub(super) grpc_status: Option<u64>,
    /// Whether the router gave up on its hosts: a virtual host that counts attempts has them counted here too.
    pub(super) tells_attempts: bool,
    /// The route whose answer this is: its header changes apply.
    pub(super) matched: Option<Matched<'a>>,
}

impl<'a> Reply<'a> {
    /// The reply that an error is answered with.
    pub(super) fn error(error: ProxyError, matched: Option<Matched<'a>>) -> Self {
        Self {
            status: error.status().unwrap_or(503),
            body: Cow::Borrowed(error.body().as_bytes()),
            details: None,
            header: refusal(error).map(|name| (name, b"true".to_vec())),
            may_be_grpc: !matches!(error, ProxyError::RequestHead(_)),
            // As Envoy says it: DEADLINE_EXCEEDED.
            grpc_status: matches!(error, ProxyError::MaxStreamDuration { .. }).then_some(4),
            tells_attempts: error.side() == Side::Upstream || error == ProxyError::NoHealthyUpstream,
            matched,
        }
    }

    /// The same after `attempts`, of which Envoy tells when there was more than one.
    pub(super) fn after(mut self, attempts: u32) -> Self {
        const BEFORE_HEADERS: &[u8] = b"upstream connect error or disconnect/reset before headers. ";
        if attempts > 1
            && let Some(reason) = self.body.strip_prefix(BEFORE_HEADERS)
        {
            self.body = Cow::Owned([BEFORE_HEADERS, b"retried and the latest ", reason].concat());
        }
        self
    }

    /// A redirect to `location`.
    pub(super) fn redirect(status: u16, location: Vec<u8>, matched: Option<Matched<'a>>) -> Self {
        Self {
            status,
            body: Cow::Borrowed(b""),
            details: Some(crate::protocol::response_code_details::DIRECT_RESPONSE),
            header: Some((headers::LOCATION, location)),
            may_be_grpc: true,
            grpc_status: None,
            tells_attempts: false,
            matched,
        }
    }
}

/// Queues the reply and sets it going; whether there was memory for all of it.
pub(super) fn send(
    connection: &Connection,
    stream: &mut Stream,
    reply: &Reply<'_>,
    keep_alive: bool,
) -> bool {
    let Connection { context, chain, channel: downstream, .. } = connection;
    let manager = &chain.manager;
    let now = context.runtime.now().0;
    if let Some(details) = reply.details {
        set_text(&mut stream.info.response_code_details, details);
    }
    let head = &mut stream.response;
    head.clear();
    head.set_status(reply.status);
    if let Some((name, value)) = &reply.header
        && !(REFUSALS.contains(name) && manager.router.suppress_envoy_headers)
    {
        head.set(name, value);
    }
    let Scratch { matching, headers: added, text, route, .. } = &mut *chain.scratch.borrow_mut();
    // Before the reply is settled: to these headers there is no response code yet, as in Envoy.
    if let Some(matched) = &reply.matched {
        let mut format = FormatContext::new(&stream.info, now, context.random());
        format.request = Some(&stream.request);
        manager.routes.mutate_response(
            Some(matched.virtual_host),
            Some(matched.route),
            matched.choice.as_ref(),
            &mut stream.response,
            &format,
            route,
        );
        if matched.virtual_host.include_attempt_count_in_response && reply.tells_attempts {
            let mut digits = [0; encode::DECIMAL_DIGITS_MAX];
            let attempts = encode::decimal(u64::from(stream.info.attempt_count), &mut digits);
            stream.response.set(&headers::X_ENVOY_ATTEMPT_COUNT, attempts);
        }
    }
    let mut rewritten = LocalReply {
        request: Some(&stream.request),
        response: &mut stream.response,
        info: &mut stream.info,
        body: &reply.body,
        now_ns: now,
        random: context.random(),
    };
    let content_type = manager.local_replies.rewrite(&mut rewritten, matching, added, text);
    let is_grpc = || stream.filters.request_was_grpc().unwrap_or_else(|| grpc::is_request(&stream.request));
    if reply.may_be_grpc && is_grpc() {
        become_grpc(stream, reply.grpc_status, text);
    }
    // A type that the route wrote is that of the route's own text only.
    let rewritten = text.as_slice() != &*reply.body;
    if !text.is_empty() && (rewritten || !stream.response.contains(&headers::CONTENT_TYPE)) {
        stream.response.set(&headers::CONTENT_TYPE, content_type.as_bytes());
    }
    filters::encode_reply(connection, stream, text);
    if !stream.response.contains(&headers::DATE) {
        stream.response.set(&headers::DATE, &context.date.at(context.runtime.wall_ns()));
    }
    forwarding::mutate_response(&mut stream.response, &stream.request, &manager.forwarding);
    hop_by_hop::strip_added(&mut stream.response);
    // A version that is not spoken here is answered in one that is.
    let is_10 = stream.request.version() == Version::Http10 && manager.config.http1.accept_http_10;
    if !keep_alive {
        stream.response.set(&headers::CONNECTION, b"close");
    } else if is_10 {
        stream.response.set(&headers::CONNECTION, b"keep-alive");
    }
    let status = stream.response.status();
    if !text.is_empty() && status != 204 {
        let mut digits = [0; encode::DECIMAL_DIGITS_MAX];
        stream.response.set(&headers::CONTENT_LENGTH, encode::decimal(text.len() as u64, &mut digits));
    }
    let bodiless = stream.request.method() == b"HEAD" || status == 204 || status == 304;
    let encoding = ResponseEncoding {
        // What a 304 stands for has a length of its own: nothing is said of it.
        body: if status == 204 || status == 304 {
            BodyLength::None
        } else {
            BodyLength::Length(text.len() as u64)
        },
        names: HeaderKeyFormat::LowerCase.towards(manager.config.http1.header_key_format),
        version: if is_10 { Version::Http10 } else { Version::Http11 },
    };
    let head = &stream.response;
    let ends = bodiless || text.is_empty();
    let sent = wire::send_response(&context.runtime, downstream, head, Received::default(), &encoding, ends);
    let info = &mut stream.info;
    info.response_code = Some(status);
    info.downstream_timing.first_tx_ns = Some(now);
    info.downstream_timing.last_tx_ns = Some(now);
    let mut whole = sent.is_ok();
    if let Ok(bytes) = sent {
        info.downstream_bytes.header_sent += bytes as u64;
        info.downstream_bytes.wire_sent += bytes as u64;
        if !bodiless {
            whole = downstream.send_copy(text);
            if whole {
                info.bytes_sent += text.len() as u64;
                info.downstream_bytes.wire_sent += text.len() as u64;
            }
        }
    }
    match downstream {
        Channel::Connection(downstream) => downstream.flush(),
        Channel::Stream(downstream) if !ends && whole => downstream.finish(None),
        Channel::Stream(_) => {}
    }
    whole
}

/// Makes the reply a gRPC status without a message, as gRPC clients expect it: 200, the reason in headers, no body.
/// Source: gRPC over HTTP/2, "Responses" (Trailers-Only); Envoy `Utility::sendLocalReply`.
fn become_grpc(stream: &mut Stream, status: Option<u64>, text: &mut Vec<u8>) {
    let head = &mut stream.response;
    if !head.contains(&headers::GRPC_STATUS) {
        let mut digits = [0; encode::DECIMAL_DIGITS_MAX];
        let status =
            encode::decimal(status.unwrap_or_else(|| grpc::status_of_http(head.status())), &mut digits);
        head.set(&headers::GRPC_STATUS, status);
    }
    head.set_status(200);
    head.set(&headers::CONTENT_TYPE, grpc::CONTENT_TYPE);
    // A JSON text ends in a newline.
    let message = text.strip_suffix(b"\n").unwrap_or(text);
    if !message.is_empty() && stream.request.method() != b"HEAD" {
        let mut encoded = Vec::with_capacity(message.len());
        grpc::percent_encode(message, &mut encoded);
        head.set(&headers::GRPC_MESSAGE, &encoded);
    }
    text.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_tells_of_a_retry_before_the_reason() {
        let body =
            |error, attempts| String::from_utf8(Reply::error(error, None).after(attempts).body.into_owned());
        let closed = ProxyError::UpstreamClosed { reset: false };
        let begin = "upstream connect error or disconnect/reset before headers. ";
        assert_eq!(body(closed, 1).unwrap(), format!("{begin}reset reason: connection termination"));
        assert_eq!(
            body(closed, 2).unwrap(),
            format!("{begin}retried and the latest reset reason: connection termination")
        );
        assert_eq!(body(ProxyError::ResponseTimeout { status: 504 }, 2).unwrap(), "upstream request timeout");
    }

    #[test]
    fn refusal_names_itself_in_a_header_and_no_attempt() {
        for (error, header) in [
            (ProxyError::DropOverload { unconditional: false }, Some("x-envoy-drop-overload")),
            (ProxyError::DropOverload { unconditional: true }, Some("x-envoy-unconditional-drop-overload")),
            (ProxyError::NoRoute, None),
        ] {
            let reply = Reply::error(error, None);
            assert_eq!(reply.header.as_ref().map(|(name, _)| name.as_str()), header);
            assert!(reply.header.iter().all(|(name, value)| REFUSALS.contains(name) && value == b"true"));
            assert!(!reply.tells_attempts);
        }
    }
}
