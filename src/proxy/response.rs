//! The upstream's response head on its way down: edited, framed for this client, queued.

use super::copy::Framing;
use super::downstream::Connection;
use super::error::ProxyError;
use super::filters;
use super::routing::Forward;
use super::stream::Stream;
use super::wire::{self, SendError};
use crate::base::clock::Now;
use crate::format::context::FormatContext;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::head::Version;
use crate::protocol::http::{forwarding, headers};
use crate::protocol::http1::encode::{self, ResponseEncoding};
use crate::protocol::http1::framing::ResponseMeta;
use crate::protocol::http1::hop_by_hop;
use crate::protocol::response_code_details as details;
use crate::protocol::stream_info::set_text;
use crate::telemetry::names::HttpStat;

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
    /// Its request has not arrived whole.
    pub(super) is_early: bool,
    /// When its request had arrived whole; one that asks for an upgrade never has.
    pub(super) request_complete: Option<Now>,
    /// It asked for an upgrade.
    pub(super) upgrade: bool,
    /// The endpoint's trailers pass, as far as its side is concerned.
    pub(super) trailers: bool,
}

/// Queues an interim response (1xx) as it came.
pub(super) fn send_interim(
    connection: &Connection,
    stream: &mut Stream,
    forward: &Forward<'_>,
    meta: &ResponseMeta,
) -> Result<(), ProxyError> {
    hop_by_hop::strip_response(&mut stream.response, meta);
    if let Some(downstream) = connection.channel.stream() {
        return downstream.send_interim(&stream.response).map_err(|_| ProxyError::HeadOverflow);
    }
    queue(connection, stream, forward, BodyLength::None, Version::Http11)?;
    // To the record the response begins with its own head.
    stream.info.downstream_timing.first_tx_ns = None;
    connection.channel.flush();
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
    queue(connection, stream, forward, BodyLength::UntilClose, Version::Http11)?;
    connection.channel.flush();
    Ok(())
}

/// Queues our own 200 to a CONNECT that ends here. `framed`: to a POST that stands for it and is HTTP/1.1's; in chunks, or not.
pub(super) fn send_connected(
    connection: &Connection,
    stream: &mut Stream,
    forward: &Forward<'_>,
    framed: Option<bool>,
) -> Result<(), ProxyError> {
    stream.response.clear();
    stream.response.set_status(200);
    edit(connection, stream, forward);
    let (body, version) = match framed {
        None => (BodyLength::UntilClose, Version::Http11),
        Some(true) => (BodyLength::Chunked, Version::Http11),
        Some(false) => (BodyLength::UntilClose, Version::Http10),
    };
    if framed.is_some() {
        stream.response.set(&headers::CONNECTION, b"close");
    }
    queue(connection, stream, forward, body, version)?;
    connection.channel.flush();
    Ok(())
}

/// Queues the final head; `None`: a filter holds it, [`finish_final`] is to go on.
pub(super) fn send_final(
    connection: &Connection,
    stream: &mut Stream,
    forward: &Forward<'_>,
    meta: &ResponseMeta,
    client: Client,
) -> Result<Option<Prepared>, ProxyError> {
    // RFC 9110 section 15.5.22: a 426 says what to upgrade to. Only who may upgrade here is told.
    let offered = (client.upgrade && stream.response.status() == 426)
        .then(|| stream.response.get(&headers::UPGRADE).map(<[u8]>::to_vec))
        .flatten();
    hop_by_hop::strip_response(&mut stream.response, meta);
    edit_as_router(connection, stream, forward, client.request_complete);
    if !filters::encode_head(
        connection,
        stream,
        matches!(meta.body, BodyLength::None | BodyLength::Length(0)),
    ) {
        return Ok(None);
    }
    finish_final(connection, stream, forward, meta, client, offered.as_deref()).map(Some)
}

/// Queues the final head once filters have seen it. `offered`: what a 426 says to upgrade to.
pub(super) fn finish_final(
    connection: &Connection,
    stream: &mut Stream,
    forward: &Forward<'_>,
    meta: &ResponseMeta,
    client: Client,
    offered: Option<&[u8]>,
) -> Result<Prepared, ProxyError> {
    edit_as_manager(connection, stream);
    let length = filters::length(stream, meta.body);
    // A body that only the connection's end delimits is chunked for clients that understand it.
    let body = match length {
        BodyLength::UntilClose | BodyLength::Chunked if client.is_11 => BodyLength::Chunked,
        BodyLength::Chunked => BodyLength::UntilClose,
        known => known,
    };
    let close_client = !client.keep_alive || body == BodyLength::UntilClose;
    hop_by_hop::strip_added(&mut stream.response);
    if let Some(offered) = offered {
        stream.response.set(&headers::UPGRADE, offered);
    }
    if offered.is_some() {
        let options: &[u8] = if close_client { b"upgrade, close" } else { b"upgrade" };
        stream.response.set(&headers::CONNECTION, options);
    } else if close_client {
        stream.response.set(&headers::CONNECTION, b"close");
    } else if !client.is_11 {
        stream.response.set(&headers::CONNECTION, b"keep-alive");
    }
    queue(connection, stream, forward, body, if client.is_11 { Version::Http11 } else { Version::Http10 })?;
    if client.is_early {
        connection.chain.stats.inc(HttpStat::DownstreamRqResponseBeforeRqComplete);
    }
    let http1 = &connection.chain.manager.config.http1;
    let framing = match body {
        _ if connection.shared().is_some() => Framing::Stream { trailers: client.trailers },
        BodyLength::Chunked => {
            // Trailers pass only where both sides take them.
            let takes = http1.enable_trailers && client.trailers;
            Framing::Chunked { trailers: takes.then_some(http1.header_key_format) }
        }
        _ => Framing::Plain,
    };
    Ok(Prepared { framing, close_client })
}

/// What the router and the connection manager write into every response from upstream that is no final one.
fn edit(connection: &Connection, stream: &mut Stream, forward: &Forward<'_>) {
    edit_as_router(connection, stream, forward, None);
    // A filter that would hold the head of a tunnel lets it go: nothing ends what follows.
    filters::encode_head(connection, stream, false);
    edit_as_manager(connection, stream);
}

/// What the router writes.
fn edit_as_router(
    connection: &Connection,
    stream: &mut Stream,
    forward: &Forward<'_>,
    request_complete: Option<Now>,
) {
    let Connection { context, chain, .. } = connection;
    let manager = &chain.manager;
    let now = context.runtime.now().0;
    let Stream { request, response: head, info, set_cookies, .. } = stream;
    info.response_code = Some(head.status());
    set_text(&mut info.response_code_details, details::VIA_UPSTREAM);
    if !manager.router.suppress_envoy_headers
        && let Some(complete) = request_complete
    {
        // How long the client took for its request is not the endpoint's.
        let mut digits = [0; encode::DECIMAL_DIGITS_MAX];
        let took = encode::decimal(now.saturating_sub(complete.0) / 1_000_000, &mut digits);
        head.set(&headers::X_ENVOY_UPSTREAM_SERVICE_TIME, took);
    }
    let matched = &forward.matched;
    if matched.virtual_host.include_attempt_count_in_response {
        let mut digits = [0; encode::DECIMAL_DIGITS_MAX];
        head.set(
            &headers::X_ENVOY_ATTEMPT_COUNT,
            encode::decimal(u64::from(info.attempt_count), &mut digits),
        );
    }
    for cookie in set_cookies.split(|&byte| byte == b'\n').filter(|cookie| !cookie.is_empty()) {
        head.append(&headers::SET_COOKIE, cookie);
    }
    let mut format = FormatContext::new(info, now, context.random());
    format.request = Some(request);
    manager.routes.mutate_response(
        Some(matched.virtual_host),
        Some(matched.route),
        matched.choice.as_ref(),
        head,
        &format,
        &mut chain.scratch.borrow_mut().route,
    );
}

/// What the connection manager writes.
fn edit_as_manager(connection: &Connection, stream: &mut Stream) {
    let Connection { context, chain, .. } = connection;
    let Stream { request, response: head, info, .. } = stream;
    // Filters may have changed it.
    info.response_code = Some(head.status());
    if !head.contains(&headers::DATE) {
        head.set(&headers::DATE, &context.date.at(context.runtime.wall_ns()));
    }
    forwarding::mutate_response(head, request, &chain.manager.forwarding);
}

fn queue(
    connection: &Connection,
    stream: &mut Stream,
    forward: &Forward<'_>,
    body: BodyLength,
    version: Version,
) -> Result<(), ProxyError> {
    let Connection { context, chain, channel: downstream, .. } = connection;
    let received_by = forward.cluster.config().http1.header_key_format;
    let names = received_by.towards(chain.manager.config.http1.header_key_format);
    let encoding = ResponseEncoding { body, names, version };
    let head = &stream.response;
    let ends = matches!(body, BodyLength::None | BodyLength::Length(0));
    let received = std::mem::take(&mut stream.received_response);
    let written = wire::send_response(&context.runtime, downstream, head, received, &encoding, ends);
    match written {
        Ok(bytes) => {
            let info = &mut stream.info;
            info.downstream_bytes.header_sent += bytes as u64;
            info.downstream_bytes.wire_sent += bytes as u64;
            info.downstream_timing.first_tx_ns =
                info.downstream_timing.first_tx_ns.or_else(|| Some(context.runtime.now().0));
            Ok(())
        }
        Err(SendError::Unsendable) => Err(ProxyError::HeadOverflow),
        Err(SendError::Exhausted) => Err(ProxyError::DownstreamClosed),
    }
}
