//! Replies of our own: the only place that turns an error into a status.

use super::downstream::Connection;
use super::error::ProxyError;
use super::stream::Stream;
use super::wire;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::head::Version;
use crate::protocol::http::headers::{self, HeaderName};
use crate::protocol::http1::encode::{ResponseEncoding, encode_response};
use crate::protocol::stream_info::set_text;

/// What the client is told.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    pub(super) status: u16,
    pub(super) body: &'a [u8],
    pub(super) content_type: &'a [u8],
    pub(super) details: &'a str,
    /// A header besides those that every reply has.
    pub(super) header: Option<(&'static HeaderName, Vec<u8>)>,
}

impl Reply<'static> {
    /// The reply that an error is answered with.
    pub(super) fn error(error: ProxyError) -> Self {
        Self {
            status: error.status().unwrap_or(503),
            body: error.body().as_bytes(),
            content_type: b"text/plain",
            details: error.details(),
            header: None,
        }
    }
}

/// Queues the reply and sets it going.
pub(super) fn send(connection: &Connection, stream: &mut Stream, reply: &Reply<'_>, keep_alive: bool) {
    let Connection { context, chain, stream: downstream, .. } = connection;
    let head = &mut stream.response;
    head.clear();
    head.set_status(reply.status);
    if !reply.body.is_empty() {
        head.set(&headers::CONTENT_TYPE, reply.content_type);
    }
    if let Some((name, value)) = &reply.header {
        head.set(name, value);
    }
    head.set(&headers::DATE, &context.date.at(context.runtime.wall_ns()));
    head.set(&headers::SERVER, chain.config.server_name.as_bytes());
    let is_10 = stream.request.version() == Version::Http10;
    if !keep_alive {
        head.set(&headers::CONNECTION, b"close");
    } else if is_10 {
        head.set(&headers::CONNECTION, b"keep-alive");
    }
    let is_head = stream.request.method() == b"HEAD";
    let encoding = ResponseEncoding {
        body: BodyLength::Length(reply.body.len() as u64),
        names: chain.config.http1.header_key_format,
        version: if is_10 { Version::Http10 } else { Version::Http11 },
    };
    let sent =
        wire::send_encoded(&context.runtime, downstream, |room| encode_response(head, &encoding, room));
    let info = &mut stream.info;
    info.response_code = Some(reply.status);
    set_text(&mut info.response_code_details, reply.details);
    let now = context.runtime.now().0;
    info.downstream_timing.first_tx_ns = Some(now);
    info.downstream_timing.last_tx_ns = Some(now);
    if let Ok(bytes) = sent {
        info.downstream_bytes.header_sent += bytes as u64;
        info.downstream_bytes.wire_sent += bytes as u64;
        if !is_head && downstream.send_copy(reply.body) {
            info.bytes_sent += reply.body.len() as u64;
            info.downstream_bytes.wire_sent += reply.body.len() as u64;
        }
    }
    downstream.flush();
}
