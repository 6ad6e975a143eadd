//! The router: has a request answered by a host of the chosen cluster.
//!
//! One attempt is one [`Exchange`]. A reused connection that dies before a byte of the response was closed by its host
//! while idle, so the host saw nothing of the request: it is sent once more if the method is idempotent and nothing of
//! its body is gone (RFC 9110 §9.2.2; Envoy answers 503 UC instead).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use super::ahead::{Ahead, Seen};
use super::connection_bytes;
use super::copy::{CopyError, Framing};
use super::downstream::Connection;
use super::error::{ProxyError, Retry};
use super::http::{self, Request};
use super::posted;
use super::response;
use super::response_counts;
use super::routing::Forward;
use super::stream::Stream;
use super::upstream_request::{Download, Ended, Exchange};
use super::wire::{self, SendError};
use crate::base::limits;
use crate::cluster::pool::{self, ConnectError, UpstreamConnection};
use crate::cluster::{Cluster, Host, Wanted};
use crate::config::proxy_protocol::ProxyProtocolVersion;
use crate::config::route::ConnectConfig;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::head::Version;
use crate::protocol::http::{headers, websocket};
use crate::protocol::http1::encode::{DECIMAL_DIGITS_MAX, RequestEncoding, decimal, encode_request};
use crate::protocol::http1::framing::MethodKind;
use crate::protocol::http1::head_reader::{HeadLimits, HeadReader};
use crate::protocol::http1::parse::ParseOptions;
use crate::protocol::http2::{Received, SendRequestError, StreamError};
use crate::protocol::proxy_protocol;
use crate::protocol::stream_info::{StreamAddress, set_text};
use crate::protocol::tls::Offer;
use crate::protocol::transport::Channel;
use crate::runtime::Recycled;
use crate::telemetry::names::ClusterStat;

/// How forwarding ended.
#[derive(Debug)]
pub(super) enum Forwarded {
    /// The response is complete and queued.
    Complete { close: bool },
    /// The connection has become a tunnel to this one.
    Tunnel(UpstreamConnection),
    /// There is no (complete) response.
    Failed { error: ProxyError, response_begun: bool },
}

/// Forwards the request and relays the response.
pub(super) async fn forward(
    connection: &Connection,
    stream: &mut Stream,
    request: &mut Request,
    forward: &Forward<'_>,
) -> Forwarded {
    let failed = |error| Forwarded::Failed { error, response_begun: false };
    if !http::answer_expectation(connection, stream, request) {
        return failed(ProxyError::DownstreamClosed);
    }
    let outcome = if let Some(error) = spare(connection, forward) {
        failed(error)
    } else if let Some(config) = forward.terminate_connect {
        terminate_connect(connection, stream, request, forward, config).await
    } else {
        attempts(connection, stream, request, forward).await
    };
    let outcome = match outcome {
        Forwarded::Failed { error, response_begun } if stream.alternative_on_timeout => {
            Forwarded::Failed { error: error.with_alternative(), response_begun }
        }
        outcome => outcome,
    };
    let complete = request.deadlines.request_complete;
    response_counts::count_response(connection, stream, complete, forward, &outcome);
    outcome
}

/// Whether the endpoints are to be spared the request, before any of them is chosen for it.
fn spare(connection: &Connection, forward: &Forward<'_>) -> Option<ProxyError> {
    let dropped = forward.cluster.spare(&mut connection.context.rng.borrow_mut())?;
    Some(ProxyError::DropOverload { unconditional: dropped.unconditional })
}

async fn attempts(
    connection: &Connection,
    stream: &mut Stream,
    request: &mut Request,
    forward: &Forward<'_>,
) -> Forwarded {
    let failed = |error| Forwarded::Failed { error, response_begun: false };
    let (mut retried, mut fresh) = (false, false);
    let was_done = request.body.is_done();
    loop {
        let mut upstream = match acquire(connection, stream, request, forward, fresh, false).await {
            Ok(upstream) => upstream,
            Err(error) => return failed(error),
        };
        let (outcome, response_begun) = attempt(connection, stream, request, forward, &upstream).await;
        response_counts::count_for_host(upstream.host(), stream, &outcome);
        match outcome {
            Ok(Ended::Complete { reuse_upstream, close_client }) => {
                let early = !request.body.is_done();
                if reuse_upstream {
                    pool::checkin(upstream, connection.context.runtime.now());
                } else if early {
                    upstream.abandon(false);
                }
                return Forwarded::Complete { close: close_client || early };
            }
            Ok(Ended::Tunnel) => return Forwarded::Tunnel(upstream),
            Err(error) => {
                if matches!(error, ProxyError::UpstreamClosed { .. } | ProxyError::UpstreamTruncated) {
                    upstream.set_closed_by_peer();
                } else {
                    upstream.abandon(request.body.is_done());
                }
                // An empty body has an end, perhaps with trailers, which is gone with the first attempt.
                let body = &request.body;
                let untouched = body.wire_bytes == 0 && body.is_done() == was_done && !body.is_broken();
                let again = match error.retry() {
                    Retry::Never => false,
                    Retry::IfReused => upstream.is_reused() && is_idempotent(stream.request.method()),
                    // Whatever it is, nobody has seen it.
                    Retry::Unprocessed => true,
                };
                if upstream.channel().stream().is_some_and(|s| s.broken() == Some(StreamError::GoneAway))
                    && let Some(lease) = upstream.lease()
                {
                    lease.retire();
                }
                if !again || !untouched || response_begun || retried {
                    return Forwarded::Failed { error, response_begun: stream.info.response_code.is_some() };
                }
                if error.retry() == Retry::IfReused {
                    forward.cluster.stats().inc(ClusterStat::UpstreamRqRetryReusedConnection);
                } else {
                    forward.cluster.stats().inc(ClusterStat::UpstreamRqRetryUnprocessed);
                }
                // The next connection may speak another version.
                connection_bytes::count_upstream(&forward.cluster, stream);
                stream.info.begin_next_attempt();
                stream.response.clear();
                if forward.matched.virtual_host.include_request_attempt_count {
                    let mut digits = [0; DECIMAL_DIGITS_MAX];
                    let next = decimal(u64::from(stream.info.attempt_count) + 1, &mut digits);
                    stream.request.set(&headers::X_ENVOY_ATTEMPT_COUNT, next);
                }
                (retried, fresh) = (true, error.retry() == Retry::IfReused);
            }
        }
    }
}

/// Ends a CONNECT here: what follows in the tunnel goes to a host as plain bytes. Source: Envoy `connect_config`.
async fn terminate_connect(
    connection: &Connection,
    stream: &mut Stream,
    request: &mut Request,
    forward: &Forward<'_>,
    config: ConnectConfig,
) -> Forwarded {
    let outcome = match acquire(connection, stream, request, forward, true, true).await {
        Ok(upstream) => {
            let announced = match config.proxy_protocol {
                Some(version) => announce_client(connection, stream, &upstream, version),
                None => Ok(()),
            };
            let framed = posted::is_framed(connection, request).then_some(request.client_is_11);
            announced
                .and_then(|()| response::send_connected(connection, stream, forward, framed))
                .map(|()| upstream)
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(upstream) => Forwarded::Tunnel(upstream),
        Err(error) => Forwarded::Failed { error, response_begun: false },
    }
}

/// Begins an endpoint's connection with the PROXY header of the client.
fn announce_client(
    connection: &Connection,
    stream: &mut Stream,
    upstream: &UpstreamConnection,
    version: ProxyProtocolVersion,
) -> Result<(), ProxyError> {
    let (scratch, ends) = (&mut stream.scratch, connection.proxied().ends);
    scratch.clear();
    match version {
        ProxyProtocolVersion::V1 => proxy_protocol::encode_v1(ends, scratch),
        ProxyProtocolVersion::V2 => {
            let _ = proxy_protocol::encode_v2(ends, std::iter::empty(), scratch);
        }
    }
    if !upstream.channel().send_copy(scratch) {
        return Err(ProxyError::UpstreamClosed { reset: false });
    }
    upstream.channel().flush();
    stream.info.upstream_bytes.wire_sent += scratch.len() as u64;
    Ok(())
}

/// A connection to a host of the cluster; `fresh`: one that has not served; `raw`: for other bytes than requests.
async fn acquire(
    connection: &Connection,
    stream: &mut Stream,
    request: &mut Request,
    forward: &Forward<'_>,
    fresh: bool,
    raw: bool,
) -> Result<UpstreamConnection, ProxyError> {
    let Connection { context, chain, .. } = connection;
    let cluster = &forward.cluster;
    stream.info.attempt_count += 1;
    let wanted = Wanted {
        destination: connection.restored_destination(),
        request: Some(&stream.request),
        hash: stream.hash,
    };
    let host =
        cluster.pick_for(wanted, &mut context.rng.borrow_mut()).ok_or(ProxyError::NoHealthyUpstream)?;
    stream.info.upstream_host = host.stream_address();
    stream.info.upstream_timing.begin_ns = Some(context.runtime.now().0);
    let origin = cluster.for_priority(host, forward.action.priority);
    let host = Rc::clone(&origin);
    let host =
        if forward.gives_name { cluster.for_name(host, &stream.info.upstream_server_name) } else { host };
    let host = cluster.for_client(host, &connection.proxied(), &mut stream.scratch);
    host.with_hostname(|name| set_text(&mut stream.info.upstream_host_name, name));
    if forward.action.takes_host_of_endpoint() && !stream.info.upstream_host_name.is_empty() {
        let keep_original = !chain.manager.router.suppress_envoy_headers;
        let name = stream.info.upstream_host_name.as_bytes();
        forward.action.set_host(
            &mut stream.request,
            name,
            keep_original,
            &mut chain.scratch.borrow_mut().text,
        );
    }
    let offer = if raw { Offer::Opaque } else { cluster.offer(connection.shared().is_some()) };
    let ready = match (fresh, offer) {
        (_, Offer::Http2) | (true, Offer::Either) => pool::checkout_shared(cluster, &host),
        (false, Offer::Http1) => pool::checkout(cluster, &host),
        (false, Offer::Either) => pool::checkout_either(cluster, &host),
        (true, Offer::Http1) | (_, Offer::Opaque) => Ok(None),
    };
    let ready = ready.map_err(ProxyError::Connect)?;
    if ready.is_none() && !pool::may_pool(cluster, &origin, &host, offer) {
        // As in Envoy no host counts as chosen.
        stream.info.upstream_host = StreamAddress::None;
        stream.info.upstream_host_name.clear();
        return Err(ProxyError::NoHealthyUpstream);
    }
    // The request's future is not to carry it.
    drop(origin);
    if matches!(offer, Offer::Http1 | Offer::Opaque) {
        // It goes on in other words.
        stream.received_request = Received::default();
    }
    let upstream = match ready {
        Some(ready) => ready,
        None => connect(connection, stream, request, (cluster, &host), offer, fresh).await?,
    };
    let info = &mut stream.info;
    info.upstream_connection_id = upstream.id();
    info.upstream_tls = upstream.tls().cloned();
    info.upstream_remote_address = host.stream_address();
    info.upstream_local_address = upstream.local_address();
    info.upstream_protocol = Some(if upstream.lease().is_some() { Version::Http2 } else { Version::Http11 });
    info.upstream_timing.pool_answered(context.runtime.now().0);
    info.counts_last_attempt = true;
    Ok(upstream)
}

/// A connection that is made or, unless it is to be `fresh`, has become free meanwhile. The request's deadlines run and its client is
/// watched meanwhile.
async fn connect(
    connection: &Connection,
    stream: &mut Stream,
    request: &mut Request,
    (cluster, host): (&Rc<Cluster>, &Rc<Host>),
    offer: Offer,
    fresh: bool,
) -> Result<UpstreamConnection, ProxyError> {
    let Connection { context, timer, .. } = connection;
    let pending = match pool::pend(cluster, host) {
        Ok(pending) => pending,
        Err(error) => {
            // As in Envoy no host counts as chosen.
            stream.info.upstream_host = StreamAddress::None;
            stream.info.upstream_host_name.clear();
            stream.info.upstream_timing.pool_answered(context.runtime.now().0);
            return Err(ProxyError::Connect(error));
        }
    };
    stream.info.upstream_timing.connect_start_ns = Some(context.runtime.now().0);
    let next_id = || context.next_id();
    let outcome = match offer {
        Offer::Http1 => {
            let connecting = pin!(pool::connect(cluster, host, timer, next_id(), fresh));
            unless_given_up(connection, request, connecting).await
        }
        Offer::Opaque => {
            let connecting = pin!(context.runtime.recycled(async {
                pool::tcp::await_turn(cluster, host).await?;
                pool::tcp::connect(cluster, host, timer, next_id()).await
            }));
            unless_given_up(connection, request, connecting).await
        }
        // In recycled memory: the task is not to carry the size of what few do.
        Offer::Http2 | Offer::Either => {
            let connecting =
                pin!(context.runtime.recycled(pool::negotiate(cluster, host, timer, offer, next_id)));
            unless_given_up(connection, request, connecting).await
        }
    };
    drop(pending);
    let outcome = outcome.inspect_err(|error| {
        // Who goes away is counted with its request.
        if !error.client_is_gone() {
            cluster.stats().inc(ClusterStat::UpstreamRqCancelled);
        }
    })?;
    match outcome {
        Ok(upstream) => {
            // As connection's own: the future is not to carry another reference.
            stream.info.upstream_timing.connect_end_ns = Some(connection.context.runtime.now().0);
            Ok(upstream)
        }
        Err(error) => {
            stream.info.upstream_timing.pool_answered(connection.context.runtime.now().0);
            let reason = &mut stream.info.upstream_transport_failure_reason;
            error.write_reason(Some(host), reason);
            Err(ProxyError::Connect(error))
        }
    }
}

/// An upgrade over HTTP/2 is for endpoints that have said that they take it (RFC 8441 section 3). They may take as long as for
/// a connection to say so. In recycled memory: the task is not to carry the size of what few do.
fn await_consent(
    connection: &Connection,
    request: &mut Request,
    upstream: &UpstreamConnection,
) -> Recycled<impl Future<Output = Result<(), ProxyError>>> {
    connection.context.runtime.recycled(async move {
        let (Some(lease), Some(stream)) = (upstream.lease(), upstream.channel().stream()) else {
            return Ok(());
        };
        let cluster = upstream.cluster();
        let due = upstream.opened().after(cluster.config().connect_timeout);
        let settled = pin!(poll_fn(|_| match lease.poll_settled() {
            Poll::Ready(settled) => Poll::Ready(Some(settled)),
            Poll::Pending => connection.timer.poll_at(due).map(|()| None),
        }));
        match unless_given_up(connection, request, settled).await? {
            Some(true) if !stream.may_extend_connect() => {
                cluster.stats().inc(ClusterStat::UpstreamRqExtendedConnectNotTaken);
                Err(ProxyError::ExtendedConnectNotTaken)
            }
            // On a connection that has ended nothing goes out.
            Some(_) => Ok(()),
            None => {
                cluster.stats().inc(ClusterStat::UpstreamCxConnectTimeout);
                Err(ProxyError::Connect(ConnectError::Timeout))
            }
        }
    })
}

/// Waits for a connection as long as the client does and the request's deadlines allow: that of the response begins once the
/// request has arrived whole, whoever takes it later.
fn unless_given_up<F: Future>(
    connection: &Connection,
    request: &mut Request,
    mut connecting: Pin<&mut F>,
) -> impl Future<Output = Result<F::Output, ProxyError>> {
    // Boxed: most requests have no body, or a connection at once.
    let mut ahead: Option<Box<Ahead<'_>>> = None;
    poll_fn(move |task| {
        if let Poll::Ready(outcome) = connecting.as_mut().poll(task) {
            return Poll::Ready(Ok(outcome));
        }
        let Connection { context, channel, timer, .. } = connection;
        let Request { body, deadlines, .. } = &mut *request;
        if !body.is_done() && deadlines.awaits_request() {
            let ahead = ahead.get_or_insert_with(|| Box::new(Ahead::new(channel, body.decoder())));
            let seen = ahead.poll(connection.buffer_limit(), context.runtime.pool());
            if seen != Seen::Nothing {
                deadlines.last_activity = context.runtime.now();
            }
            if seen == Seen::Whole {
                deadlines.request_complete = Some(deadlines.last_activity);
            }
        } else {
            // Behind an upgrade or CONNECT, too: what follows waits for the tunnel.
            channel.gather();
        }
        // The rest of a body may lie behind the client's end, but not behind a reset.
        let gone = if body.is_done() { channel.poll_peer_closed() } else { channel.poll_broken() };
        if gone.is_ready() {
            return Poll::Ready(Err(connection.gone()));
        }
        deadlines.poll(timer).map_or(Poll::Pending, |passed| Poll::Ready(Err(passed)))
    })
}

/// One exchange on one connection; and whether a byte of the response arrived.
async fn attempt(
    connection: &Connection,
    stream: &mut Stream,
    request: &mut Request,
    forward: &Forward<'_>,
    upstream: &UpstreamConnection,
) -> (Result<Ended, ProxyError>, bool) {
    if upstream.lease().is_some()
        && stream.request.contains(&headers::UPGRADE)
        && let Err(error) = await_consent(connection, request, upstream).await
    {
        return (Err(error), false);
    }
    let Connection { context, .. } = connection;
    let cluster = forward.cluster.config();
    let manager = &connection.chain.manager.config;
    let tunnels = request.meta.upgrade || request.meta.method == MethodKind::Connect;
    let encoding = RequestEncoding {
        // A method that anticipates content says when it has none (RFC 9110 8.6).
        body: match request.length {
            BodyLength::None if anticipates_content(stream.request.method()) => BodyLength::Length(0),
            length => length,
        },
        names: manager.http1.header_key_format.towards(cluster.http1.header_key_format),
        absolute_target: cluster.http1.send_fully_qualified_url,
    };
    request.body.set_receiver(match (upstream.channel(), request.length) {
        (Channel::Connection(_), BodyLength::Chunked) => {
            // Trailers pass only where both sides take them.
            let takes = (connection.shared().is_some() || manager.http1.enable_trailers)
                && cluster.http1.enable_trailers;
            Framing::Chunked { trailers: takes.then_some(cluster.http1.header_key_format) }
        }
        (Channel::Connection(_), _) => Framing::Plain,
        (Channel::Stream(_), _) if tunnels => Framing::Tunnel,
        (Channel::Stream(_), _) => {
            Framing::Stream { trailers: connection.shared().is_some() || manager.http1.enable_trailers }
        }
    });
    if connection.shared().is_some() {
        // Before anything is read: one of many streams whose client may not take what comes.
        upstream.channel().set_sparing(connection.watermark() < 2 * limits::SMALL_CHUNK_BYTES);
    }
    if tunnels && connection.shared().is_some() && upstream.lease().is_none() {
        request.was_given_key |=
            websocket::give_key(&mut stream.request, [context.random(), context.random()]);
    }
    let head = &stream.request;
    let received = std::mem::take(&mut stream.received_request);
    let sent = match upstream.channel() {
        Channel::Connection(to) => {
            wire::send_encoded(&context.runtime, to, |room| encode_request(head, &encoding, room))
        }
        Channel::Stream(to) => {
            match to.send_request(head, received, request.length, request.body.is_done() && !tunnels) {
                Ok(()) => Ok(head.text_bytes()),
                Err(SendRequestError::Unsendable) => Err(SendError::Unsendable),
                // Nothing of it is on the wire.
                Err(SendRequestError::Broken(_)) => {
                    return (Err(ProxyError::UpstreamReset { refused: true, begun: false }), false);
                }
            }
        }
    };
    match sent {
        Ok(bytes) => {
            let info = &mut stream.info;
            info.upstream_bytes.header_sent += bytes as u64;
            info.upstream_bytes.wire_sent += bytes as u64;
            info.upstream_timing.first_tx_ns = Some(context.runtime.now().0);
        }
        Err(SendError::Unsendable) => return (Err(ProxyError::HeadOverflow), false),
        Err(SendError::Exhausted) => return (Err(ProxyError::UpstreamClosed { reset: false }), false),
    }
    request.deadlines.upstream_due = forward.upstream_limit.map(|limit| context.runtime.now().after(limit));
    if request.body.is_done() {
        // With a body the head goes out with its first bytes.
        upstream.channel().flush();
        stream.info.upstream_timing.last_tx_ns = Some(context.runtime.now().0);
    }
    let mut exchange = Exchange {
        connection,
        upstream,
        stream,
        forward,
        request,
        response_limits: HeadLimits {
            bytes_max: cluster.common_http.max_response_headers_kb.saturating_mul(1024),
            headers_max: cluster.common_http.max_headers_count,
        },
        response_options: ParseOptions {
            accept_http_10: true,
            allow_chunked_length: cluster.http1.allow_chunked_length,
            ..ParseOptions::default()
        },
        state: Download::Head(HeadReader::response()),
        upload_broken: false,
        response_begun: false,
        interim_bytes_left: cluster.common_http.max_response_headers_kb.saturating_mul(1024),
        interim_sent: false,
    };
    let outcome = poll_fn(|_| exchange.poll()).await;
    let begun = exchange.response_begun;
    (outcome, begun)
}

/// Methods to which a missing `content-length` could mean that it is missing; those Envoy leaves without are none.
fn anticipates_content(method: &[u8]) -> bool {
    !matches!(method, b"GET" | b"HEAD" | b"DELETE" | b"TRACE" | b"CONNECT")
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE")
}

impl From<CopyError> for ProxyError {
    /// What a failed download means.
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::SourceGone => Self::UpstreamTruncated,
            CopyError::Body(error) => Self::ResponseBody(error),
            CopyError::SinkGone | CopyError::Exhausted => Self::DownstreamClosed,
            CopyError::Filter(reply) => Self::Filter(reply),
            CopyError::Overflow => Self::HeadOverflow,
        }
    }
}
