//! An HTTP/2 connection of a client: its task moves the frames, and each stream is a task of its own that serves one
//! request through the same steps as HTTP/1.
//!
//! The connection ends in order (GOAWAY twice, the streams finish) when the process drains, when it is too old or has served
//! its number of requests; at once when the client floods it, does not answer a ping, or resets most of what it asks for, or more
//! than it may.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::downstream::{self, After, Connection};
use super::http;
use crate::base::clock::Now;
use crate::base::limits;
use crate::config::http::CodecType;
use crate::protocol::http2::guard::{Flood, PREFACE, Seen};
use crate::protocol::http2::keepalive::{Action, Keepalive};
use crate::protocol::http2::{
    Incoming, ResetLimit, ServerConnection, ServerEvent, Settings, Stream, StreamError,
};
use crate::protocol::tls::{Agreed, Alpn, Facts, TlsStream};
use crate::protocol::transport::{Channel, Transport};
use crate::runtime::{Runtime, TaskId};
use crate::telemetry::names::{HttpStat, ServerStat};

/// What tells the preface from every request of HTTP/1.
const PREFACE_SIGN: &[u8] = b"PRI * HTTP/2";
/// Bytes of all streams that wait for the client, whatever the configured limit is. Reason: the kernel has buffers of its
/// own, so that more makes nothing faster, and a client with windows of zero makes every connection wait with so much.
const QUEUED_BYTES_MAX: usize = 512 * 1024;
/// For how long the end of a connection is waited for where no time is configured.
const END_MIN: Duration = Duration::from_secs(1);
/// Streams before the share of those that end by the client's doing counts. Source: Envoy
/// `overload.premature_reset_total_stream_count`.
const RESETS_COUNT_FROM: u32 = 500;
/// A stream that lives shorter than this, in nanoseconds, and is reset, is reset prematurely. Source: Envoy
/// `overload.premature_reset_min_stream_lifetime_seconds`.
const PREMATURE_NS: u64 = 1_000_000_000;

/// What the streams of a connection share with its task.
#[derive(Debug)]
pub(super) struct Shared {
    task: TaskId,
    /// Streams that are served.
    active: Cell<u32>,
    idle_since: Cell<Now>,
    /// Streams so far, and those of them that ended by the client's doing before they could be answered.
    streams: Cell<u32>,
    premature: Cell<u32>,
    /// How many the client may still reset, and whether it has reset more.
    resets: Cell<ResetLimit>,
    is_reset_too_often: Cell<bool>,
    /// The connection is to end in order.
    draining: Cell<bool>,
}

/// One stream's share of what may wait for the client, of `active` ones. Few large shares bound the connection by themselves.
/// Of many small ones, once there is too much or where they are no larger than that, a stream gets what one read brings and no
/// more: none would be too few, as a client may open one's window and no other's.
fn share(limit: usize, active: u32, queued: usize) -> usize {
    let share = (limit / active.max(1) as usize).min(limits::LARGE_CHUNK_BYTES);
    let is_full = queued >= limit || share < 2 * limits::SMALL_CHUNK_BYTES;
    if share < limits::LARGE_READ_ROOM_MIN && is_full { 0 } else { share }
}

/// A stream's share of what may wait for endpoints, of `active` ones. Of what they do not take the rest waits in the windows,
/// which all streams share; so much that frames of a few bytes are gathered.
fn upload_share(limit: usize, active: u32) -> usize {
    let share = QUEUED_BYTES_MAX / active.max(1) as usize;
    share.clamp(limits::SMALL_CHUNK_BYTES, limits::LARGE_CHUNK_BYTES).min(limit)
}

impl Shared {
    /// Bytes that may wait for one stream's endpoint, of `limit` ones.
    pub(super) fn upload_watermark(&self, limit: usize) -> usize {
        upload_share(limit, self.active.get())
    }

    /// Bytes that may wait for the client on one stream, of so many on the whole connection, where so many wait already.
    pub(super) fn watermark(&self, limit: usize, queued: usize) -> usize {
        share(limit.min(QUEUED_BYTES_MAX), self.active.get(), queued)
    }

    /// Has the connection end in order.
    pub(super) fn drain(&self, runtime: &Runtime) {
        if !self.draining.replace(true) {
            runtime.wake(self.task);
        }
    }

    /// A stream is over.
    pub(super) fn stream_ended(&self, runtime: &Runtime) {
        self.active.set(self.active.get() - 1);
        if self.active.get() == 0 {
            self.idle_since.set(runtime.now());
            runtime.wake(self.task);
        }
    }

    /// A request that began at `begun` ended for the client's doing, before it could be answered: the client has reset it,
    /// or made us do so ("MadeYouReset").
    pub(super) fn ended_by_client(&self, runtime: &Runtime, begun: Now) {
        if runtime.now().0.saturating_sub(begun.0) < PREMATURE_NS {
            self.premature.set(self.premature.get().saturating_add(1));
            if self.resets_too_much() {
                runtime.wake(self.task);
            }
        }
    }

    /// The client has reset a request that was under way.
    fn was_reset(&self, runtime: &Runtime) {
        let mut resets = self.resets.get();
        let is_within = resets.take(runtime.now());
        self.resets.set(resets);
        if !is_within {
            self.is_reset_too_often.set(true);
            runtime.wake(self.task);
        }
    }

    /// Whether the client resets most of what it asks for, and too early to mean it.
    fn resets_too_much(&self) -> bool {
        self.streams.get() >= RESETS_COUNT_FROM && self.premature.get() > self.streams.get() / 2
    }
}

/// Whether the client of a fresh connection speaks HTTP/2, by configuration or by its first bytes, which stay unread.
pub(super) async fn is_spoken(connection: &Connection) -> bool {
    match connection.chain.manager.config.codec_type {
        CodecType::Http1 => return false,
        CodecType::Http2 => return true,
        CodecType::Auto => {}
    }
    // What both have agreed on; as in Envoy, whatever else it is, is HTTP/1.
    match connection.channel.connection().and_then(Transport::tls).and_then(TlsStream::facts) {
        None | Some(Facts { agreed: Agreed { alpn: Alpn::None, .. }, .. }) => {}
        Some(facts) => return facts.agreed.alpn == Alpn::Http2,
    }
    let options = &connection.chain.manager.config;
    let limits = options.common.idle_timeout.into_iter().chain(options.request_headers_timeout);
    // From the first byte on: a connection may have waited for long before it.
    let begun = connection.context.runtime.now();
    let due = limits.min().map(|limit| begun.after(limit));
    poll_fn(|_| {
        loop {
            let Poll::Ready(received) = connection.channel.poll_recv() else { break };
            let Ok(Some(mut chunk)) = received else { return Poll::Ready(false) };
            let told = chunk.len().min(PREFACE_SIGN.len());
            let same = chunk[..told] == PREFACE_SIGN[..told];
            if !same || told == PREFACE_SIGN.len() {
                connection.channel.unread(chunk);
                return Poll::Ready(same);
            }
            // The beginning of it: the rest is put behind.
            let next = connection.channel.poll_recv();
            match next {
                Poll::Ready(Ok(Some(mut more))) => {
                    let wanted = more.len().min(PREFACE.len());
                    let joined = chunk.try_extend(&more[..wanted]);
                    if joined {
                        more.advance(wanted);
                    }
                    connection.channel.unread(more);
                    connection.channel.unread(chunk);
                    if !joined {
                        return Poll::Ready(false);
                    }
                }
                Poll::Ready(Ok(None) | Err(_)) => {
                    connection.channel.unread(chunk);
                    return Poll::Ready(false);
                }
                Poll::Pending => {
                    connection.channel.unread(chunk);
                    break;
                }
            }
        }
        // What then goes on as HTTP/1 has these limits, too, and answers in its own way.
        let is_due = |due: Option<Now>| due.is_some_and(|due| connection.timer.poll_at(due).is_ready());
        if is_due(due) || is_due(connection.idle_until()) {
            return Poll::Ready(false);
        }
        Poll::Pending
    })
    .await
}

/// Serves the connection until it is over; whether its end may be waited for.
pub(super) async fn serve(connection: &Connection) -> bool {
    let Connection { context, chain, channel, timer, .. } = connection;
    let Some(transport) = channel.connection() else { return false };
    let (runtime, options) = (&context.runtime, &chain.manager.config);
    let settings =
        Settings::of(&options.http2, options.max_request_headers_kb, options.common.max_headers_count);
    let opening = ServerConnection::open(runtime, transport, &settings);
    let due = options.common.idle_timeout.map(|idle| runtime.now().after(idle));
    let handshake = match due {
        Some(due) => timer.at(due, opening).await,
        None => Ok(opening.await),
    };
    let mut server = match handshake {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => {
            if error == StreamError::Protocol {
                chain.stats.inc(HttpStat::DownstreamCxProtocolError);
                connection.broke_protocol();
            }
            connection.closed_by_peer.set(true);
            return false;
        }
        Err(_) => {
            chain.stats.inc(HttpStat::DownstreamCxIdleTimeout);
            return true;
        }
    };
    let shared = Rc::new(Shared {
        task: runtime.current_task(),
        active: Cell::new(0),
        idle_since: Cell::new(runtime.now()),
        streams: Cell::new(0),
        premature: Cell::new(0),
        resets: Cell::new(ResetLimit::new(&options.http2, runtime.now())),
        is_reset_too_often: Cell::new(false),
        draining: Cell::new(false),
    });
    let fraction = || (context.random() >> 11) as f64 / (1u64 << 53) as f64;
    let mut keepalive = Keepalive::new(options.http2.connection_keepalive, runtime.now(), fraction());
    let mut counted = Seen::default();
    let life_due = connection.life_due();
    // When a connection that drains is closed, if it has no streams then.
    let mut drain_due: Option<Now> = None;
    // When a connection that was ended is given up, whatever of that the client has read.
    let mut end_due: Option<Now> = None;
    let patience = options.delayed_close_timeout.unwrap_or(END_MIN);
    let ended = poll_fn(|_| {
        loop {
            match server.poll() {
                Poll::Ready(ServerEvent::Request(head, stream)) => {
                    begin(connection, &shared, head, stream);
                    continue;
                }
                Poll::Ready(ServerEvent::Closed(error)) => return Poll::Ready(error),
                Poll::Pending => {}
            }
            count_seen(connection, &mut counted, server.seen());
            let is_due = |due: Option<Now>| due.is_some_and(|due| timer.poll_at(due).is_ready());
            if end_due.is_some() {
                return if is_due(end_due) { Poll::Ready(Some(StreamError::Closed)) } else { Poll::Pending };
            }
            let now = runtime.now();
            // Streams that are over may have left bytes for a client that reads slowly: they are waited for as the connection's
            // own are.
            let since_idle = |limit| shared.idle_since.get().after(limit);
            let idle = shared.active.get() == 0
                && (!server.has_unsent()
                    || is_due(options.stream_flush_timeout.or(options.common.idle_timeout).map(since_idle)));
            let end = |stat: Option<HttpStat>| {
                if let Some(stat) = stat {
                    chain.stats.inc(stat);
                }
            };
            let is_reset_too_often = shared.is_reset_too_often.get();
            if is_reset_too_often || shared.resets_too_much() {
                end(Some(match is_reset_too_often {
                    true => HttpStat::DownstreamCxProtocolError,
                    false => HttpStat::DownstreamRqTooManyPrematureResets,
                }));
                if is_reset_too_often {
                    connection.broke_protocol();
                }
                server.end(true);
                end_due = Some(now.after(patience));
                continue;
            }
            if drain_due.is_none() {
                let requests = options.common.max_requests_per_connection;
                let full = requests.is_some_and(|max| shared.streams.get() >= max);
                let old = is_due(life_due);
                if full || old || shared.draining.get() || connection.is_draining() {
                    end(if full {
                        Some(HttpStat::DownstreamCxMaxRequestsReached)
                    } else if old {
                        Some(HttpStat::DownstreamCxMaxDurationReached)
                    } else {
                        Some(HttpStat::DownstreamCxDrainClose)
                    });
                    server.drain();
                    let more = context.rng.borrow_mut().duration_below(options.drain_timeout_jitter);
                    drain_due = Some(now.after(options.drain_timeout + more));
                    continue;
                }
            }
            if idle {
                let idle_due = options.common.idle_timeout.map(|max| shared.idle_since.get().after(max));
                let given_up = is_due(drain_due) || is_due(connection.idle_until());
                if given_up || is_due(idle_due) {
                    end((!given_up).then_some(HttpStat::DownstreamCxIdleTimeout));
                    server.end(false);
                    end_due = Some(now.after(patience));
                    continue;
                }
            }
            let answered = server.poll_pong().is_ready();
            match keepalive.poll(now, answered, false, fraction()) {
                Action::Ping => {
                    server.ping();
                    continue;
                }
                Action::Dead => {
                    context.server.inc(ServerStat::Http2KeepaliveTimeout);
                    return Poll::Ready(Some(StreamError::Closed));
                }
                Action::Wait(due) if is_due(due) => {}
                Action::Wait(_) => return Poll::Pending,
            }
        }
    })
    .await;
    count_seen(connection, &mut counted, server.seen());
    connection.active.set(shared.active.get() > 0);
    if let Some(flood) = server.flood() {
        context.server.inc(match flood {
            Flood::Empty => ServerStat::Http2InboundEmptyFramesFlood,
            Flood::Priority => ServerStat::Http2InboundPriorityFramesFlood,
            Flood::WindowUpdate => ServerStat::Http2InboundWindowUpdateFramesFlood,
            Flood::Control => ServerStat::Http2OutboundControlFlood,
        });
        // It was told; closing on its unread frames would take that back.
        return true;
    }
    match ended {
        None => true,
        Some(StreamError::Protocol | StreamError::Head(_)) => {
            chain.stats.inc(HttpStat::DownstreamCxProtocolError);
            connection.broke_protocol();
            true
        }
        // It has said that it goes: what it still sends is read, as a reset would take back what it was sent.
        Some(StreamError::GoneAway) => {
            connection.closed_by_peer.set(end_due.is_none());
            true
        }
        Some(_) => {
            connection.closed_by_peer.set(end_due.is_none());
            false
        }
    }
}

/// Has a request served by a task of its own.
fn begin(connection: &Connection, shared: &Rc<Shared>, head: Incoming, stream: Box<Stream>) {
    shared.active.set(shared.active.get() + 1);
    shared.streams.set(shared.streams.get().saturating_add(1));
    connection.requests.set(connection.requests.get().saturating_add(1));
    stream.set_limits(&connection.chain.manager.request_limits);
    let shared_by_stream = Rc::clone(shared);
    let mut stream = connection.stream(Channel::from(stream), shared_by_stream);
    let head = Cell::new(Some(head));
    // Made where it is to be: it has room for all that a request may wait for, and its beginning is small.
    connection.context.runtime.spawn_isolated_with(move || async move {
        let begun = stream.context.runtime.now();
        let after = http::serve_request(&mut stream, Some(&head)).await;
        let connection = &stream;
        let (runtime, Some(shared)) = (&connection.context.runtime, connection.shared()) else { return };
        match after {
            // What is queued is the codec's before the stream is let go: it sends the rest, then ends the stream. A request
            // that was not read to its end is then not wanted any more (RFC 9113 section 8.1).
            After::KeepAlive | After::Close | After::Finish => {
                if !downstream::flush(connection).await {
                    // What is left is not for a client that does not take it, and what it has is no whole response.
                    connection.channel.set_reset_on_close();
                }
            }
            After::Abort | After::Reset => connection.channel.set_reset_on_close(),
        }
        let broken = connection.channel.stream().and_then(|stream| stream.broken());
        let is_reset = broken.is_some_and(StreamError::is_reset);
        if is_reset {
            shared.was_reset(runtime);
        }
        if (is_reset || broken == Some(StreamError::Protocol)) && after == After::Reset {
            shared.ended_by_client(runtime, begun);
        }
    });
}

/// Takes over into the counters what was seen since the last time.
fn count_seen(connection: &Connection, counted: &mut Seen, seen: Seen) {
    let server = &connection.context.server;
    connection
        .count_bytes(seen.bytes_received - counted.bytes_received, seen.bytes_sent - counted.bytes_sent);
    server.add(ServerStat::Http2RxReset, seen.resets_received - counted.resets_received);
    server.add(ServerStat::Http2TxReset, seen.resets_sent - counted.resets_sent);
    server.add(ServerStat::Http2GoawaySent, seen.goaways_sent - counted.goaways_sent);
    server.add(ServerStat::Http2HeaderOverflow, seen.head_overflows - counted.head_overflows);
    *counted = seen;
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 512 * 1024;

    #[test]
    fn share_of_few_streams_is_theirs_however_much_waits() {
        for (active, bytes) in [(0, 65_536), (1, 65_536), (8, 65_536), (16, 32_768)] {
            assert_eq!(share(LIMIT, active, 0), bytes, "{active}");
            assert_eq!(share(LIMIT, active, 2 * LIMIT), bytes, "{active}");
        }
    }

    #[test]
    fn share_of_uploads_is_a_part_and_never_nothing() {
        for (active, bytes) in
            [(0, 65_536), (8, 65_536), (16, 32_768), (128, 4_096), (1024, 4_096), (u32::MAX, 4_096)]
        {
            assert_eq!(upload_share(1 << 20, active), bytes, "{active}");
        }
        assert_eq!(upload_share(1000, 1), 1000, "no more than is configured");
    }

    #[test]
    fn share_of_many_streams_ends_where_the_connection_is_full() {
        assert_eq!(share(LIMIT, 64, LIMIT - 1), LIMIT / 64);
        assert_eq!(share(LIMIT, 65, 0), 0);
        assert_eq!(share(LIMIT, 17, LIMIT - 1), LIMIT / 17);
        for active in [17, 1024, u32::MAX] {
            assert_eq!(share(LIMIT, active, LIMIT), 0, "{active}");
        }
    }
}
