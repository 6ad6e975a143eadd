//! One HTTP request from its first byte to the last of its response: the list of steps, a call each.
//!
//! The head is read and parsed, or refused; the connection manager edits it; a route is found; it answers itself, or the
//! router forwards; the request is counted and logged.

use std::cell::Cell;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::task::Poll;

use super::chain::HttpChain;
use super::connection_bytes;
use super::copy::{BodyCopy, CopyError, Framing};
use super::deadlines::Deadlines;
use super::downstream::{After, Connection};
use super::drain::Drains;
use super::error::{ProxyError, Side};
use super::local_reply::{self, Reply};
use super::posted;
use super::preparation;
use super::router::{self, Forwarded};
use super::routing::{self, Decision};
use super::stream::Stream;
use super::upgrade;
use crate::base::clock::Now;
use crate::config::http::HttpConnectionManager;
use crate::filter::chain::RESPONSE_TOO_LARGE;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::head::Version;
use crate::protocol::http::headers;
use crate::protocol::http1::framing::{MethodKind, RequestMeta};
use crate::protocol::http1::head_reader::HeadReader;
use crate::protocol::http1::{hop_by_hop, parse};
use crate::protocol::http2::{self, Incoming};
use crate::protocol::stream_info::set_text;
use crate::protocol::transport::Channel;
use crate::telemetry::names::{HttpHistogram, HttpStat, ServerStat};

/// A request whose head was accepted.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) meta: RequestMeta,
    /// How its body is framed towards the endpoint.
    pub(super) length: BodyLength,
    /// Its body, not read yet.
    pub(super) body: BodyCopy,
    pub(super) deadlines: Deadlines,
    /// The client speaks HTTP/1.1.
    pub(super) client_is_11: bool,
    /// It came without WebSocket's key, and was given one for HTTP/1.1.
    pub(super) was_given_key: bool,
    /// The connection may serve another request after this one.
    pub(super) keep_alive: bool,
    /// The port that was cut from the host of a CONNECT: it leads nowhere without.
    pub(super) connect_port: Option<u32>,
}

/// Serves the request whose first bytes wait unread, or, on a stream, the one whose head has arrived, which is taken and let
/// go at once: of a hostile client it may be large.
pub(super) async fn serve_request(
    connection: &mut Connection,
    head: Option<&Cell<Option<Incoming>>>,
) -> After {
    let mut stream = connection.context.streams.take();
    // The chain of the request's scope may take its place.
    let whole = Rc::clone(&connection.chain);
    let _active = whole.stats.active(HttpStat::DownstreamRqActive);
    begin(connection, &mut stream);
    let read = match head {
        None => read_head(connection, &mut stream).await,
        Some(head) => match head.take() {
            Some(mut head) => take_head(connection, &mut stream, &mut head),
            None => Err(connection.gone()),
        },
    };
    let after = match read {
        Ok(mut request) => {
            let after = respond(connection, &whole, &mut stream, &mut request).await;
            connection_bytes::note_body(&mut stream, &mut request.body);
            after
        }
        // Nobody asked for anything yet, or waits for an answer.
        Err(error) if error.client_is_gone() => {
            fail(connection, &mut stream, error);
            After::Reset
        }
        Err(error) => {
            fail(connection, &mut stream, error);
            let reply = Reply::error(error, None);
            if local_reply::send(connection, &mut stream, &reply, false) {
                After::Close
            } else {
                After::Abort
            }
        }
    };
    finish(connection, &mut stream);
    after
}

/// What is done with a request of a chain that may have scopes. As in Envoy its scope is looked for by its head as it came,
/// before its route is looked for, and again with it.
#[expect(clippy::manual_async_fn, reason = "it would keep its arguments twice: as such and across its waits")]
fn respond<'a>(
    connection: &'a mut Connection,
    whole: &'a Rc<HttpChain>,
    stream: &'a mut Stream,
    request: &'a mut Request,
) -> impl Future<Output = After> + 'a {
    async move {
        connection.enter_scope(whole, stream);
        let decision = match routing::receive(connection, stream, request) {
            ControlFlow::Continue(origin) => {
                connection.enter_scope(whole, stream);
                let prepared = match preparation::prepare(connection, whole, stream, request) {
                    None => Ok(None),
                    Some(preparing) => preparing.await,
                };
                let told = match prepared {
                    Ok(told) => told,
                    Err(error) => return give_up(connection, stream, request, error),
                };
                if let Some(told) = &told {
                    connection.chain = Rc::clone(told);
                    connection.enter_scope(told, stream);
                }
                let whole = told.as_ref().unwrap_or(whole);
                match routing::decide(connection, whole, stream, request, origin) {
                    Some(decision) => decision,
                    None => {
                        connection.enter_scope(whole, stream);
                        routing::decide_filtered(connection, stream, request, origin)
                    }
                }
            }
            ControlFlow::Break(decision) => decision,
        };
        match decision {
            Decision::Reply(reply) => reply_and_go_on(connection, stream, request, &reply),
            Decision::Fail(error, matched) => {
                fail(connection, stream, error);
                // As Envoy: who sends what is refused may have lost its place in the stream.
                request.keep_alive &=
                    error.side() != Side::Downstream || costs_only_itself(connection, error);
                let reply = Reply::error(error, matched);
                reply_and_go_on(connection, stream, request, &reply)
            }
            Decision::Wait => {
                let error = wait(connection, stream, request).await;
                give_up(connection, stream, request, error)
            }
            Decision::Forward(forward) => {
                match router::forward(connection, stream, request, &forward).await {
                    Forwarded::Complete { close } if close => ending(connection, request),
                    Forwarded::Complete { .. } => After::KeepAlive,
                    Forwarded::Tunnel(upstream) if posted::is_framed(connection, request) => {
                        let tunnel = posted::tunnel(connection, stream, request, upstream);
                        // In recycled memory: the task is not to carry the size of what few do.
                        let ended = connection.context.runtime.recycled(tunnel).await;
                        fail(connection, stream, ended.why);
                        ended.after
                    }
                    Forwarded::Tunnel(upstream) => {
                        connection_bytes::note_body(stream, &mut request.body);
                        let ended =
                            upgrade::tunnel(connection, stream, upstream, &mut request.deadlines).await;
                        fail(connection, stream, ended.why);
                        ended.after
                    }
                    Forwarded::Failed { error, response_begun: false } => {
                        fail(connection, stream, error);
                        if error.client_is_gone() {
                            return After::Reset;
                        }
                        let reply =
                            Reply::error(error, Some(forward.matched)).after(stream.info.attempt_count);
                        reply_and_go_on(connection, stream, request, &reply)
                    }
                    Forwarded::Failed { error, response_begun: true } => {
                        fail(connection, stream, error);
                        if !error.client_is_gone() {
                            let stats = &connection.chain.stats;
                            stats.inc(HttpStat::RqResetAfterDownstreamResponseStarted);
                            stats.inc(HttpStat::DownstreamRqTxReset);
                        }
                        After::Abort
                    }
                }
            }
        }
    }
}

/// The end of a request that nothing has answered.
fn give_up(connection: &Connection, stream: &mut Stream, request: &mut Request, error: ProxyError) -> After {
    fail(connection, stream, error);
    if error.client_is_gone() {
        return After::Reset;
    }
    reply_and_go_on(connection, stream, request, &Reply::error(error, None))
}

/// Whether the connection may go on after a request that is at fault: what Envoy's codec takes and its connection manager refuses,
/// where that is configured.
fn costs_only_itself(connection: &Connection, error: ProxyError) -> bool {
    connection.chain.manager.config.stream_error_on_invalid_http_message && error.flag().is_none()
}

/// A chain without filters answers nothing, as in Envoy: its requests are taken in until a limit passes.
async fn wait(connection: &Connection, stream: &mut Stream, request: &mut Request) -> ProxyError {
    let Connection { context, channel: downstream, timer, .. } = connection;
    poll_fn(|_| {
        let moved = request.body.wire_bytes;
        if !request.body.is_done() {
            stream.request_splicer.abandon();
            match request.body.discard(downstream, &mut stream.request_trailers) {
                Err(CopyError::Body(error)) => return Poll::Ready(ProxyError::RequestBody(error)),
                Err(_) => return Poll::Ready(connection.gone()),
                Ok(()) => {}
            }
            let now = context.runtime.now();
            if request.body.wire_bytes != moved {
                request.deadlines.last_activity = now;
                context.runtime.wake(context.runtime.current_task());
            }
            if request.body.is_done() {
                request.deadlines.request_complete = Some(now);
            }
        }
        if request.body.is_done() && downstream.poll_peer_closed().is_ready() {
            return Poll::Ready(connection.gone());
        }
        request.deadlines.poll(timer).map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Sends a reply of our own. The connection goes on only if the request was read to its end.
fn reply_and_go_on(
    connection: &Connection,
    stream: &mut Stream,
    request: &mut Request,
    reply: &Reply<'_>,
) -> After {
    let complete = discard_body(connection, stream, request);
    let keep_alive = complete && goes_on(connection, request);
    if !complete {
        connection.chain.stats.inc(HttpStat::DownstreamRqResponseBeforeRqComplete);
    }
    match local_reply::send(connection, stream, reply, keep_alive) {
        // Part of it is missing, of which the client is told by the connection's end.
        false => After::Abort,
        true if keep_alive => After::KeepAlive,
        true => ending(connection, request),
    }
}

/// How a connection ends after a complete response. A client that asked for its end, and whose request was read whole,
/// sends nothing more that could reset the connection under the response: nothing to wait for, as in Envoy.
fn ending(connection: &Connection, request: &Request) -> After {
    let is_silent = !request.meta.keep_alive && request.body.is_done() && connection.channel.ends_by_close();
    if is_silent { After::Finish } else { After::Close }
}

/// Reads what has already arrived of a body nobody wants; whether that was all of it.
fn discard_body(connection: &Connection, stream: &mut Stream, request: &mut Request) -> bool {
    if !request.body.is_done() {
        stream.request_splicer.abandon();
        let _ = request.body.discard(&connection.channel, &mut stream.request_trailers);
    }
    request.body.is_done()
}

fn begin(connection: &Connection, stream: &mut Stream) {
    let Connection { context, chain, .. } = connection;
    connection.active.set(true);
    connection.requests.set(connection.requests.get().saturating_add(1));
    chain.stats.inc(HttpStat::DownstreamRqTotal);
    let is_stream = connection.channel.stream().is_some();
    chain.stats.inc(if is_stream {
        HttpStat::DownstreamRqHttp2Total
    } else {
        HttpStat::DownstreamRqHttp1Total
    });
    let info = &mut stream.info;
    info.start_ns = context.runtime.now().0;
    info.start_time_unix_ns = context.runtime.wall_ns();
    info.connection_id = connection.id;
    let inspected = connection.inspected.as_deref();
    info.downstream_direct_remote_address =
        inspected.map_or(&connection.remote, |known| &known.direct_remote).clone();
    info.downstream_remote_address = connection.remote.clone();
    info.downstream_local_address = connection.local.clone();
    info.downstream_direct_local_address =
        inspected.map_or(&connection.local, |known| &known.direct_local).clone();
    // Until its head says otherwise.
    info.protocol = Some(if is_stream { Version::Http2 } else { Version::Http11 });
    info.downstream_timing.connection_start_ns = Some(connection.opened.0);
    set_text(&mut info.listener_name, &connection.listener.config.name);
    set_text(&mut info.filter_chain_name, &chain.name);
    if let Some(known) = inspected {
        set_text(&mut info.requested_server_name, known.server_name.as_deref().unwrap_or_default());
        info.proxy_tlvs = known.tlv_state();
    }
    if let Some(tls) = &connection.tls {
        info.downstream_tls = Some(Rc::clone(tls));
    }
}

/// Takes note of why a request failed.
fn fail(connection: &Connection, stream: &mut Stream, error: ProxyError) {
    if let Some(flag) = error.flag() {
        stream.info.response_flags.set(flag);
    }
    let stats = &connection.chain.stats;
    match error {
        ProxyError::RequestHead(_) | ProxyError::RequestBody(_) => {
            stats.inc(HttpStat::DownstreamCxProtocolError);
            if error.flag().is_some() {
                connection.broke_protocol();
            }
            if error.status() == Some(431) {
                stats.inc(HttpStat::DownstreamRqTooLarge);
            }
            if let Some(shared) = connection.shared() {
                if error.status() == Some(431) {
                    connection.context.server.inc(ServerStat::Http2HeaderOverflow);
                }
                if matches!(error, ProxyError::RequestBody(_)) {
                    shared.ended_by_client(&connection.context.runtime, Now(stream.info.start_ns));
                }
            }
        }
        ProxyError::DownstreamClosed => {
            connection.closed_by_peer.set(true);
            stats.inc(HttpStat::DownstreamRqRxReset);
        }
        ProxyError::DownstreamReset => stats.inc(HttpStat::DownstreamRqRxReset),
        ProxyError::RequestHeadersTimeout => stats.inc(HttpStat::DownstreamRqHeaderTimeout),
        ProxyError::RequestTimeout => stats.inc(HttpStat::DownstreamRqTimeout),
        ProxyError::StreamIdleTimeout { .. } => stats.inc(HttpStat::DownstreamRqIdleTimeout),
        ProxyError::MaxStreamDuration { .. } => stats.inc(HttpStat::DownstreamRqMaxDurationReached),
        ProxyError::PathNotAbsolute => stats.inc(HttpStat::DownstreamRqNonRelativePath),
        ProxyError::PathRejected => stats.inc(HttpStat::DownstreamRqFailedPathNormalization),
        ProxyError::UpgradeRefused => stats.inc(HttpStat::DownstreamRqWsOnNonWsRoute),
        ProxyError::Filter(reply) if reply.status == 413 => stats.inc(HttpStat::DownstreamRqTooLarge),
        ProxyError::Filter(reply) if reply == RESPONSE_TOO_LARGE => stats.inc(HttpStat::RsTooLarge),
        _ => {}
    }
    let info = &mut stream.info;
    // A filter may have noted more than its reply tells.
    let has_noted = matches!(error, ProxyError::Filter(reply) if reply.details.is_empty());
    if !has_noted {
        let details = match error {
            ProxyError::RequestHead(error) if connection.shared().is_some() => http2::details(error),
            error => error.details(),
        };
        set_text(&mut info.response_code_details, details);
    }
    if let ProxyError::DownstreamClosed = error {
        // A stream may end in order, and its connection go on.
        if connection.channel.stream().is_none_or(|stream| stream.broken().is_some()) {
            info.downstream_timing.connection_end_ns = Some(connection.context.runtime.now().0);
        }
        if let Some(failure) = connection.channel.connection().and_then(|it| it.tls()?.failure())
            && !failure.is_io()
        {
            info.downstream_transport_failure_reason = format!("TLS error: {failure}");
        }
    }
    if let ProxyError::Connect(_) = error
        && !info.upstream_transport_failure_reason.is_empty()
    {
        // As Envoy: `…{remote_connection_failure|delayed_connect_error:_Connection_refused}`.
        info.response_code_details.pop();
        info.response_code_details.push('|');
        info.response_code_details.push_str(&info.upstream_transport_failure_reason);
        info.response_code_details.push('}');
    }
}

fn finish(connection: &Connection, stream: &mut Stream) {
    let Connection { context, chain, .. } = connection;
    let now = context.runtime.now();
    connection.active.set(false);
    stream.info.complete_ns = Some(now.0);
    let stats = &chain.stats;
    if let Some(status) = stream.info.response_code {
        stats.downstream_response(status);
    }
    connection_bytes::count_downstream(connection, stream, 0);
    let took = now.0.saturating_sub(stream.info.start_ns) / 1_000_000;
    stats.record(HttpHistogram::DownstreamRqTime, took);
    context.log_access(chain, stream);
}

/// The deadlines of a request that begins.
fn deadlines(options: &HttpConnectionManager, begun: Now) -> Deadlines {
    Deadlines {
        idle: options.stream_idle_timeout,
        last_activity: begun,
        request_due: options.request_timeout.map(|limit| begun.after(limit)),
        stream_due: options.common.max_stream_duration.map(|limit| begun.after(limit)),
        upstream_due: None,
        response: None,
        request_complete: None,
    }
}

/// Takes over the head of a stream's request.
fn take_head(
    connection: &Connection,
    stream: &mut Stream,
    incoming: &mut Incoming,
) -> Result<Request, ProxyError> {
    let Connection { context, chain, channel, .. } = connection;
    if channel.poll_peer_closed().is_ready() {
        return Err(connection.gone());
    }
    let begun = context.runtime.now();
    let limits = &chain.manager.request_limits;
    let taken = incoming.take_head(limits, &mut stream.request, &mut stream.received_request);
    let bytes = stream.request.text_bytes() as u64;
    stream.info.downstream_bytes.header_received += bytes;
    stream.info.downstream_bytes.wire_received += bytes;
    let meta = taken.map_err(|error| {
        context.server.inc(ServerStat::Http2RxMessagingError);
        ProxyError::RequestHead(error)
    })?;
    // What follows an upgrade or CONNECT is the tunnel's, once there is one.
    let ended = incoming.has_ended() || meta.upgrade || meta.method == MethodKind::Connect;
    // The stream's end is the body's.
    let read_as = if ended { BodyLength::None } else { BodyLength::UntilClose };
    let mut deadlines = deadlines(&chain.manager.config, begun);
    if ended {
        deadlines.request_complete = Some(begun);
        stream.info.downstream_timing.last_rx_ns = Some(begun.0);
    }
    Ok(Request {
        keep_alive: true,
        length: meta.body,
        meta,
        body: BodyCopy::new(read_as, *limits, Framing::Plain),
        deadlines,
        client_is_11: true,
        was_given_key: false,
        connect_port: None,
    })
}

/// Reads and parses the head, then strips what concerns only this connection.
async fn read_head(connection: &Connection, stream: &mut Stream) -> Result<Request, ProxyError> {
    let Connection { context, chain, channel: downstream, timer, .. } = connection;
    let options = &chain.manager.config;
    let begun = context.runtime.now();
    let headers_due = options.request_headers_timeout.map(|limit| begun.after(limit));
    let mut deadlines = deadlines(options, begun);
    let mut reader = HeadReader::request().behind_empty_line(connection.has_skipped.take());
    poll_fn(|_| {
        loop {
            match downstream.poll_recv() {
                Poll::Ready(Ok(Some(mut chunk))) => {
                    deadlines.last_activity = context.runtime.now();
                    let fed = reader
                        .feed(&mut stream.request, &chunk, &chain.manager.request_limits)
                        .map_err(|error| {
                            // The record has what was understood, the counter what was read.
                            connection.count_bytes(chunk.len() as u64, 0);
                            ProxyError::RequestHead(error)
                        })?;
                    stream.info.downstream_bytes.header_received += fed.consumed as u64;
                    stream.info.downstream_bytes.wire_received += fed.consumed as u64;
                    chunk.advance(fed.consumed);
                    downstream.unread(chunk);
                    if fed.complete {
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Ok(None) | Err(_)) => return Poll::Ready(Err(ProxyError::DownstreamClosed)),
                Poll::Pending => break,
            }
        }
        if headers_due.is_some_and(|due| timer.poll_at(due).is_ready()) {
            return Poll::Ready(Err(ProxyError::RequestHeadersTimeout));
        }
        match deadlines.poll(timer) {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    })
    .await?;

    let parsed = parse::parse_request(&mut stream.request, &chain.manager.parse_options);
    let client_is_11 = stream.request.version() >= Version::Http11;
    stream.info.protocol = Some(stream.request.version());
    let meta = parsed.map_err(ProxyError::RequestHead)?;
    hop_by_hop::strip_request(&mut stream.request, &meta);
    let framing = match meta.body {
        BodyLength::Chunked => Framing::Chunked { trailers: None },
        _ => Framing::Plain,
    };
    let body = BodyCopy::new(meta.body, chain.manager.request_limits, framing);
    if body.is_done() {
        let now = context.runtime.now();
        deadlines.request_complete = Some(now);
        stream.info.downstream_timing.last_rx_ns = Some(now.0);
    }
    Ok(Request {
        // What follows a CONNECT that is refused may be meant for the tunnel: it must not be read as a request.
        keep_alive: may_go_on(connection, &meta) && stream.request.method() != b"CONNECT",
        length: meta.body,
        meta,
        body,
        deadlines,
        client_is_11,
        was_given_key: false,
        connect_port: None,
    })
}

/// Whether the connection may serve another request after this one.
fn may_go_on(connection: &Connection, meta: &RequestMeta) -> bool {
    if !meta.keep_alive {
        return false;
    }
    let chain = &connection.chain;
    let options = &chain.manager.config.common;
    if options.max_requests_per_connection.is_some_and(|max| connection.requests.get() >= max) {
        chain.stats.inc(HttpStat::DownstreamCxMaxRequestsReached);
        return false;
    }
    !connection.is_too_old()
}

/// Whether the connection goes on after the response that is about to begin. The drain is asked about only now: it may
/// have begun while the request was served.
pub(super) fn goes_on(connection: &Connection, request: &Request) -> bool {
    // What follows an upgrade that is not made may be meant for its protocol: it must not be read as a request.
    if request.meta.upgrade && connection.shared().is_none() {
        return false;
    }
    let context = &connection.context;
    let drains = Drains::of(&connection.listener.config);
    let below = |bound| context.rng.borrow_mut().below(bound);
    let (now, own) = (context.runtime.now(), &connection.chain.drain);
    if request.keep_alive && (context.drain.closes(now, drains, below) || own.closes(now, drains, below)) {
        // The connection is told once, and by itself.
        if let Some(shared) = connection.shared() {
            shared.drain(&context.runtime);
            return true;
        }
        connection.chain.stats.inc(HttpStat::DownstreamCxDrainClose);
        return false;
    }
    request.keep_alive
}

/// The interim response that this proxy gives.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Tells a client that waits for it to send its body, unless the endpoint is to say so.
pub(super) fn answer_expectation(connection: &Connection, stream: &mut Stream, request: &Request) -> bool {
    if !request.meta.expect_continue || connection.chain.manager.config.proxy_100_continue {
        return true;
    }
    stream.request.remove(&headers::EXPECT);
    // A body that is already on its way needs no invitation (RFC 9110 §10.1.1).
    if connection.channel.has_unread() {
        return true;
    }
    let sent = match &connection.channel {
        Channel::Connection(downstream) => {
            let sent = downstream.send_copy(CONTINUE);
            downstream.flush();
            if sent {
                let bytes = &mut stream.info.downstream_bytes;
                bytes.header_sent += CONTINUE.len() as u64;
                bytes.wire_sent += CONTINUE.len() as u64;
            }
            sent
        }
        Channel::Stream(downstream) => {
            stream.response.set_status(100);
            let sent = downstream.send_interim(&stream.response);
            stream.response.clear();
            sent.is_ok()
        }
    };
    if sent {
        connection.chain.stats.downstream_response(100);
    }
    sent
}
