//! The upstream's response head on its way down: edited, framed for this client, queued.

use super::copy::Framing;
use super::downstream::Connection;
use super::error::ProxyError;
use super::routing::Forward;
use super::stream::Stream;
use super::wire::{self, SendError};
use crate::config::http::ServerHeaderTransformation;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::head::Version;
use crate::protocol::http::headers;
use crate::protocol::http1::encode::{self, ResponseEncoding, encode_response};
use crate::protocol::http1::framing::ResponseMeta;
use crate::protocol::http1::hop_by_hop;
use crate::protocol::response_code_details as details;
use crate::protocol::stream_info::set_text;

/// How the response continues.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prepared {
    pub(super) framing: Framing,
    /// The client was told, or will see, that the connection ends.
    pub(super) close_client: bool,
}

/// What is known of the client's side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) is_11: bool,
    pub(super) keep_alive: bool,
}

/// Queues an interim response (1xx) as it came.
pub(super) fn send_interim(
    connection: &Connection,
    stream: &mut Stream,
    meta: &ResponseMeta,
) -> Result<(), ProxyError> {
    hop_by_hop::strip_response(&mut stream.response, meta);
    queue(connection, stream, BodyLength::None, Version::Http11)?;
    connection.stream.flush();
    Ok(())
}

/// Queues the head that makes the connection a tunnel.
pub(super) fn send_tunnel(
    connection: &Connection,
    stream: &mut Stream,
    forward: &Forward<'_>,
    meta: &ResponseMeta,
) -> Result<(), ProxyError> {
    hop_by_hop::strip_response(&mut stream.response, meta);
    edit(connection, stream, forward);
    queue(connection, stream, BodyLength::UntilClose, Version::Http11)?;
    connection.stream.flush();
    Ok(())
}

/// Queues the final head.
pub(super) fn send_final(
    connection: &Connection,
    stream: &mut Stream,
    forward: &Forward<'_>,
    meta: &ResponseMeta,
    client: Client,
) -> Result<Prepared, ProxyError> {
    hop_by_hop::strip_response(&mut stream.response, meta);
    edit(connection, stream, forward);
    // A body that only the connection's end delimits is chunked for clients that understand it.
    let body = match meta.body {
        BodyLength::UntilClose | BodyLength::Chunked if client.is_11 => BodyLength::Chunked,
        BodyLength::Chunked => BodyLength::UntilClose,
        known => known,
    };
    let close_client = !client.keep_alive || body == BodyLength::UntilClose;
    if close_client {
        stream.response.set(&headers::CONNECTION, b"close");
    } else if !client.is_11 {
        stream.response.set(&headers::CONNECTION, b"keep-alive");
    }
    queue(connection, stream, body, if client.is_11 { Version::Http11 } else { Version::Http10 })?;
    let http1 = &connection.chain.config.http1;
    let framing = match body {
        BodyLength::Chunked => {
            Framing::Chunked { trailers: http1.enable_trailers.then_some(http1.header_key_format) }
        }
        _ => Framing::Plain,
    };
    Ok(Prepared { framing, close_client })
}

/// What the router and the connection manager write into every response from upstream.
fn edit(connection: &Connection, stream: &mut Stream, forward: &Forward<'_>) {
    let Connection { context, chain, .. } = connection;
    let head = &mut stream.response;
    stream.info.response_code = Some(head.status());
    set_text(&mut stream.info.response_code_details, details::VIA_UPSTREAM);
    if !chain.router.suppress_envoy_headers {
        let sent = stream.info.upstream_timing.first_tx_ns.unwrap_or(stream.info.start_ns);
        let took = context.runtime.now().0.saturating_sub(sent) / 1_000_000;
        let mut digits = [0; encode::DECIMAL_DIGITS_MAX];
        head.set(&headers::X_ENVOY_UPSTREAM_SERVICE_TIME, encode::decimal(took, &mut digits));
    }
    forward.edit_response(head);
    if !head.contains(&headers::DATE) {
        head.set(&headers::DATE, &context.date.at(context.runtime.wall_ns()));
    }
    let server = chain.config.server_name.as_bytes();
    match chain.config.server_header_transformation {
        ServerHeaderTransformation::Overwrite => head.set(&headers::SERVER, server),
        ServerHeaderTransformation::AppendIfAbsent if !head.contains(&headers::SERVER) => {
            head.set(&headers::SERVER, server);
        }
        ServerHeaderTransformation::AppendIfAbsent | ServerHeaderTransformation::PassThrough => {}
    }
}

fn queue(
    connection: &Connection,
    stream: &mut Stream,
    body: BodyLength,
    version: Version,
) -> Result<(), ProxyError> {
    let Connection { context, chain, stream: downstream, .. } = connection;
    let encoding = ResponseEncoding { body, names: chain.config.http1.header_key_format, version };
    let head = &stream.response;
    let written =
        wire::send_encoded(&context.runtime, downstream, |room| encode_response(head, &encoding, room));
    match written {
        Ok(bytes) => {
            let info = &mut stream.info;
            info.downstream_bytes.header_sent += bytes as u64;
            info.downstream_bytes.wire_sent += bytes as u64;
            info.downstream_timing.first_tx_ns =
                info.downstream_timing.first_tx_ns.or(Some(context.runtime.now().0));
            Ok(())
        }
        Err(SendError::Unsendable) => Err(ProxyError::HeadOverflow),
        Err(SendError::Exhausted) => Err(ProxyError::DownstreamClosed),
    }
}
