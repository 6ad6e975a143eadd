//! A client's connection: waits for a request, has it served, waits for the next, and ends well. An HTTP/2 connection
//! is `http2`'s; each stream of it is served like a connection of one request.
//!
//! While it waits it is this small future and a socket; everything a request needs lives in a recycled future that
//! `http::serve_request` fills and empties.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::access;
use super::chain::HttpChain;
use super::connection_record::ConnectionRecord;
use super::context::WorkerContext;
use super::deadlines::end_of_life;
use super::error::ProxyError;
use super::handover::Place;
use super::handshake::{self, Failed, Handshake};
use super::http;
use super::http2::{self, Shared};
use super::listener::{Admitted, Listener};
use super::pace;
use super::stream::Stream;
use super::wire;
use crate::base::clock::Now;
use crate::base::limits;
use crate::cluster::ProxiedClient;
use crate::cluster::pool::UpstreamConnection;
use crate::protocol::connection_info::ConnectionInfo;
use crate::protocol::http::forwarding;
use crate::protocol::http::head::Version;
use crate::protocol::stream_info::StreamAddress;
use crate::protocol::tls::{ServerTls, TlsFacts, Wanted};
use crate::protocol::transport::{Channel, Transport};
use crate::runtime::{Recycled, Timer};
use crate::telemetry::names::{HttpHistogram, HttpStat, ListenerStat, ServerStat};

/// A client's connection, or a stream of one: what serves one request at a time.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) context: Rc<WorkerContext>,
    pub(super) listener: Rc<Listener>,
    pub(super) chain: Rc<HttpChain>,
    pub(super) channel: Channel,
    /// One timer for all deadlines of the connection and its requests.
    pub(super) timer: Timer,
    pub(super) remote: StreamAddress,
    pub(super) local: StreamAddress,
    /// What listener filters have found; `None`: nothing that the socket does not say.
    pub(super) inspected: Option<Rc<ConnectionInfo>>,
    /// What its requests have in common in headers.
    pub(super) peer: Rc<forwarding::Downstream>,
    /// What its handshake agreed on; `None`: plain text, or there was none yet.
    pub(super) tls: Option<Rc<TlsFacts>>,
    pub(super) id: u64,
    pub(super) opened: Now,
    pub(super) requests: Cell<u32>,
    /// A request is being served.
    pub(super) active: Cell<bool>,
    /// The client ended the connection.
    pub(super) closed_by_peer: Cell<bool>,
    /// The empty line that may come before a request has come.
    pub(super) has_skipped: Cell<bool>,
    codec: Cell<Codec>,
    bearer: Bearer,
}

/// Which protocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codec {
    /// Its first bytes will tell.
    Unknown,
    Http1,
    /// The same, too old: it ends with its next response. Source: Envoy `http1_safe_max_connection_duration`.
    Http1SoftDrain,
    Http2,
}

/// What bears it.
#[derive(Debug)]
enum Bearer {
    /// A socket of its own, counted for its whole life.
    Socket { _place: Place, admitted: Admitted },
    /// A connection that it shares with other streams, and how long its finished response may wait for the client.
    Connection { shared: Rc<Shared>, flush_timeout: Cell<Option<Duration>> },
}

/// What is to become of a connection after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It waits for the next request.
    KeepAlive,
    /// Everything is sent, then it ends in order.
    Close,
    /// Everything is sent, then it ends at once: the client asked for that and has nothing more to say.
    Finish,
    /// The response is incomplete: what is queued is sent, then the connection breaks off.
    Abort,
    /// It ends at once: there is nothing sensible left to say.
    Reset,
}

/// Most bytes that an idle connection's task may take.
const TASK_BYTES_MAX: usize = 384;
/// Most bytes that a request's future may take: what a connection with a request costs beside its stream and buffers.
/// Debug builds make it somewhat larger than release builds do.
const REQUEST_BYTES_MAX: usize = 1848;

enum Waited {
    Request,
    /// The client went away.
    Gone,
    /// Idle for too long, too old, or draining.
    Expired(Option<HttpStat>),
}

/// Serves a new connection in a task of its own; `tls`: after a handshake.
pub(super) fn spawn(
    context: &Rc<WorkerContext>,
    listener: Place,
    chain: Rc<HttpChain>,
    stream: Transport,
    tls: Option<Arc<ServerTls>>,
    info: ConnectionInfo,
    mut admitted: Admitted,
) {
    let mut asked = admitted.asked.take();
    let (remote, local) = (info.remote.clone(), info.local.clone());
    let mut connection = Connection {
        timer: context.runtime.timer(),
        id: context.next_id(),
        opened: context.runtime.now(),
        peer: forwarding::Downstream::new(remote.ip(), local.socket(), false, &chain.manager.forwarding)
            .into(),
        tls: None,
        context: Rc::clone(context),
        listener: listener.listener(),
        chain,
        channel: stream.into(),
        remote,
        local,
        inspected: info.is_inspected().then(|| Rc::new(info)),
        requests: Cell::new(0),
        active: Cell::new(false),
        closed_by_peer: Cell::new(false),
        has_skipped: Cell::new(false),
        codec: Cell::new(Codec::Unknown),
        bearer: Bearer::Socket { _place: listener, admitted },
    };
    connection.count_open();
    connection.note(|record| record.id(connection.id));
    // The block borrows the connection it captured: moved into a local, or passed to an `async fn`, it would lie in the
    // future twice.
    let task = async move {
        if let Some(tls) = tls {
            match shake_hands(&connection, tls).await {
                Ok(facts) => connection.protect(facts),
                Err(failed) => {
                    connection.note(|record| record.failed(failed));
                    return connection.closed_by_peer.set(failed.by_peer);
                }
            }
        }
        loop {
            match wait_for_request(&connection).await {
                Waited::Request => {
                    if let Some(asked) = asked.take()
                        && let Err(denied) = decide(&connection, &asked)
                    {
                        connection.note(|record| record.denied(denied.details));
                        return deny(&connection, denied.delay).await;
                    }
                    if connection.codec.get() == Codec::Unknown {
                        if http2::is_spoken(&connection).await {
                            connection.speaks(Codec::Http2);
                            return serve_http2(&connection).await;
                        }
                        connection.speaks(Codec::Http1);
                    }
                }
                Waited::Gone => return connection.closed_by_peer.set(true),
                Waited::Expired(stat) => {
                    if let Some(stat) = stat {
                        connection.chain.stats.inc(stat);
                    }
                    return linger(&connection).await;
                }
            }
            if let Some(latest) = connection.chain.latest() {
                connection.chain = latest;
            }
            let after = serve_request(&mut connection).await;
            if let Some(resting) = connection.chain.resting() {
                connection.chain = resting;
            }
            match after {
                After::KeepAlive => pace::let_others_run(&connection).await,
                After::Close => return linger(&connection).await,
                After::Finish => {
                    // The close sends our end behind the last byte.
                    flush(&connection).await;
                    return;
                }
                After::Abort => {
                    // A reset, lest a body that only the connection's end delimits passes for complete.
                    flush(&connection).await;
                    return connection.channel.set_reset_on_close();
                }
                After::Reset => return connection.channel.set_reset_on_close(),
            }
        }
    };
    debug_assert!(
        size_of_val(&task) <= TASK_BYTES_MAX,
        "{} bytes for an idle connection",
        size_of_val(&task)
    );
    context.runtime.spawn_isolated(task);
}

/// Makes the handshake in recycled memory.
fn shake_hands(
    connection: &Connection,
    tls: Arc<ServerTls>,
) -> Recycled<impl Future<Output = Result<TlsFacts, Failed>>> {
    let Connection { context, listener, chain, channel, timer, opened, .. } = connection;
    let keeps_chain =
        chain.manager.forwarding.tells_client_cert_as_pem() || Wanted::DownstreamChain.is_noted();
    context.runtime.recycled(async move {
        let stream = channel.connection().and_then(Transport::tls).ok_or_else(|| Failed::gone(false))?;
        let opened = *opened;
        handshake::make(Handshake { context, listener, stream, timer, opened, keeps_chain }, &tls).await
    })
}

/// Asks whether a connection may go on; what is noted of it then is in its record.
fn decide(connection: &Connection, asked: &access::Asked) -> Result<(), access::Denied> {
    let decided = asked.decide(connection.tls.as_deref());
    connection.note(|record| record.noted(asked));
    decided
}

/// Ends a connection whose access is denied, in recycled memory.
fn deny(connection: &Connection, delay: Option<Duration>) -> Recycled<impl Future<Output = ()>> {
    connection.context.runtime.recycled(async move {
        if let Some(transport) = connection.channel.connection()
            && access::deny(&connection.context, transport, &connection.timer, delay).await
        {
            connection.note(|record| record.closed_for(access::DENY_CLOSE));
        }
    })
}

/// Serves an HTTP/2 connection in recycled memory, then ends it.
fn serve_http2(connection: &Connection) -> Recycled<impl Future<Output = ()>> {
    connection.context.runtime.recycled(async move {
        if http2::serve(connection).await {
            linger(connection).await;
        } else {
            flush(connection).await;
        }
    })
}

/// Serves a request in recycled memory. Apart from the task, whose future a local in it would enlarge.
fn serve_request(connection: &mut Connection) -> Recycled<impl Future<Output = After>> {
    let runtime = connection.context.runtime.clone();
    runtime.recycled_with(move || {
        let request = http::serve_request(connection, None);
        debug_assert!(
            size_of_val(&request) <= REQUEST_BYTES_MAX,
            "{} bytes for a request",
            size_of_val(&request)
        );
        request
    })
}

/// Waits for the first byte of a request, which stays unread.
async fn wait_for_request(connection: &Connection) -> Waited {
    let Connection { context, chain, channel: stream, timer, .. } = connection;
    let options = &chain.manager.config.common;
    let idle_from = context.runtime.now();
    let idle_due = options.idle_timeout.map(|idle| idle_from.after(idle));
    let life_due = connection.life_due();
    poll_fn(|_| {
        match pace::poll_recv(connection) {
            Poll::Ready(Ok(Some(chunk))) if connection.skips(&chunk) => {
                connection.count_bytes(chunk.len() as u64, 0);
                // What is behind it has its turn.
                let runtime = &connection.context.runtime;
                runtime.wake(runtime.current_task());
                return Poll::Pending;
            }
            Poll::Ready(Ok(Some(chunk))) => {
                stream.unread(chunk);
                return Poll::Ready(Waited::Request);
            }
            Poll::Ready(Ok(None) | Err(_)) => return Poll::Ready(Waited::Gone),
            Poll::Pending => {}
        }
        let is_due = |due: Option<Now>| due.is_some_and(|due| timer.poll_at(due).is_ready());
        if is_due(connection.idle_until()) {
            return Poll::Ready(Waited::Expired(Some(HttpStat::DownstreamCxDrainClose)));
        }
        if is_due(idle_due) {
            return Poll::Ready(Waited::Expired(Some(HttpStat::DownstreamCxIdleTimeout)));
        }
        if is_due(life_due) {
            if !chain.manager.config.http1_safe_max_connection_duration {
                return Poll::Ready(Waited::Expired(Some(HttpStat::DownstreamCxMaxDurationReached)));
            }
            connection.drain_softly();
        }
        Poll::Pending
    })
    .await
}

/// Ends a connection in order: sends what is queued and our end, then reads until the peer's end, for
/// `delayed_close_timeout` at most. Closing with unread bytes would reset the connection and could destroy the
/// response before the client has read it.
async fn linger(connection: &Connection) {
    let Connection { context, chain, channel: stream, timer, .. } = connection;
    stream.shutdown_write();
    let flushed = flush(connection).await;
    // A zero timeout means no waiting for the peer's end.
    let Some(delay) = chain.manager.config.delayed_close_timeout.filter(|_| flushed) else { return };
    let due = context.runtime.now().after(delay);
    let ended = poll_fn(|_| match stream.poll_rest() {
        Poll::Ready(()) => Poll::Ready(true),
        Poll::Pending => timer.poll_at(due).map(|()| false),
    })
    .await;
    if !ended {
        chain.stats.inc(HttpStat::DownstreamCxDelayedCloseTimeout);
    }
}

/// Waits until everything queued is with the kernel, or the codec, as long as `stream_flush_timeout` or a stream's route allows;
/// whether it is. A client that does not take it in time is counted.
pub(super) async fn flush(connection: &Connection) -> bool {
    let Connection { context, chain, channel: stream, timer, .. } = connection;
    let begun = context.runtime.now();
    let limit = match &connection.bearer {
        Bearer::Connection { flush_timeout, .. } => flush_timeout.get(),
        Bearer::Socket { .. } => chain.manager.config.stream_flush_timeout,
    };
    let due = limit.map(|patience| begun.after(patience));
    stream.flush();
    poll_fn(|_| {
        let sent = stream.poll_sent(0);
        if sent.is_pending() {
            // Of a request that goes on behind its response nobody reads the rest.
            stream.gather();
        }
        match sent {
            Poll::Ready(outcome) => Poll::Ready(outcome.is_ok()),
            Poll::Pending if due.is_some_and(|due| timer.poll_at(due).is_ready()) => {
                match &connection.bearer {
                    Bearer::Connection { .. } => context.server.inc(ServerStat::Http2TxFlushTimeout),
                    // Envoy bounds the end of a connection by one time and has one counter for it; HTTP/1 has none of its own.
                    Bearer::Socket { .. } => chain.stats.inc(HttpStat::DownstreamCxDelayedCloseTimeout),
                }
                Poll::Ready(false)
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

impl Connection {
    /// A stream of this connection, in the hands of the task that will serve it.
    pub(super) fn stream(&self, channel: Channel, shared: Rc<Shared>) -> Self {
        let chain = self.chain.latest().unwrap_or_else(|| Rc::clone(&self.chain));
        let flush_timeout = Cell::new(chain.manager.config.stream_flush_timeout);
        Self {
            context: Rc::clone(&self.context),
            listener: Rc::clone(&self.listener),
            chain,
            channel,
            timer: self.context.runtime.timer(),
            remote: self.remote.clone(),
            local: self.local.clone(),
            inspected: self.inspected.clone(),
            peer: Rc::clone(&self.peer),
            tls: self.tls.clone(),
            id: self.id,
            opened: self.opened,
            requests: Cell::new(0),
            active: Cell::new(false),
            closed_by_peer: Cell::new(false),
            has_skipped: Cell::new(false),
            codec: Cell::new(Codec::Http2),
            bearer: Bearer::Connection { shared, flush_timeout },
        }
    }

    /// Whether these bytes are the one empty line that may come behind a request and begins none (RFC 9112 section 2.2).
    fn skips(&self, bytes: &[u8]) -> bool {
        bytes == b"\r\n"
            && matches!(self.codec.get(), Codec::Http1 | Codec::Http1SoftDrain)
            && !self.has_skipped.replace(true)
    }

    /// When it is too old; `None`: it may become as old as it likes.
    pub(super) fn life_due(&self) -> Option<Now> {
        end_of_life(&self.chain.manager.config.common, self.opened, self.id)
    }

    /// Takes note that it is too old, which its next response will say.
    fn drain_softly(&self) {
        if self.codec.get() == Codec::Http1 {
            self.codec.set(Codec::Http1SoftDrain);
            self.chain.stats.inc(HttpStat::DownstreamCxMaxDurationReached);
            self.chain.stats.gauge_inc(HttpStat::DownstreamCxHttp1SoftDrain);
        }
    }

    /// Whether it is too old to go on after the request that begins.
    pub(super) fn is_too_old(&self) -> bool {
        if self.codec.get() == Codec::Http1SoftDrain {
            return true;
        }
        let is_due = self.life_due().is_some_and(|due| self.context.runtime.now() >= due);
        if is_due {
            self.chain.stats.inc(HttpStat::DownstreamCxMaxDurationReached);
        }
        is_due
    }

    /// Has the request served by the chain of its scope, of those that `whole` has.
    pub(super) fn enter_scope(&mut self, whole: &Rc<HttpChain>, stream: &mut Stream) {
        if whole.has_scopes() {
            self.chain = whole.scope(&stream.request, &mut stream.scratch);
        }
    }

    /// When it is closed if it has no request then; `None`: nothing drains.
    pub(super) fn idle_until(&self) -> Option<Now> {
        let own = match self.chain.latest() {
            None => self.chain.drain.idle_until(),
            Some(latest) => latest.drain.idle_until(),
        };
        self.context.drain.idle_until().into_iter().chain(own).min()
    }

    /// Whether everything drains that it is part of.
    pub(super) fn is_draining(&self) -> bool {
        self.context.drain.is_draining()
            || match self.chain.latest() {
                None => self.chain.drain.is_draining(),
                Some(latest) => latest.drain.is_draining(),
            }
    }

    /// The connection that it shares with other streams, if it is one.
    pub(super) fn shared(&self) -> Option<&Rc<Shared>> {
        match &self.bearer {
            Bearer::Socket { .. } => None,
            Bearer::Connection { shared, .. } => Some(shared),
        }
    }

    /// Bounds how long the finished response of a stream may wait for the client. With HTTP/1, where that is a matter of the
    /// connection's end, no route has a say in it, as in Envoy.
    pub(super) fn set_flush_timeout(&self, limit: Option<Duration>) {
        if let Bearer::Connection { flush_timeout, .. } = &self.bearer {
            flush_timeout.set(limit);
        }
    }

    /// As endpoints are told of it, or see it.
    pub(super) fn proxied(&self) -> ProxiedClient<'_> {
        let inspected = self.inspected.as_ref();
        let header = inspected.and_then(|known| known.proxy_protocol.as_deref());
        let tlvs = header.map_or(&[][..], |header| &header.tlvs);
        let source = inspected.and_then(|known| known.original_source);
        let ends = ConnectionInfo::ip_ends(&self.remote, &self.local);
        let is_told = header.is_some() || self.chain.manager.config.add_proxy_protocol_connection_state;
        ProxiedClient { ends, is_told, tlvs, source }
    }

    /// Where the client meant to connect to, if a listener filter has found it.
    pub(super) fn restored_destination(&self) -> Option<SocketAddr> {
        self.inspected.as_ref()?.restored_destination()
    }

    /// The error that says how the client went away.
    pub(super) fn gone(&self) -> ProxyError {
        match self.channel.stream().and_then(|stream| stream.broken()) {
            Some(broken) if broken.is_reset() => ProxyError::DownstreamReset,
            _ => ProxyError::DownstreamClosed,
        }
    }

    /// Bytes that may wait in either direction (`per_connection_buffer_limit_bytes`).
    #[inline]
    pub(super) fn buffer_limit(&self) -> usize {
        wire::watermark(self.listener.config.per_connection_buffer_limit_bytes)
    }

    /// Bytes that may wait for the client before reading for it pauses.
    #[inline]
    pub(super) fn watermark(&self) -> usize {
        let limit = self.buffer_limit();
        match &self.bearer {
            Bearer::Socket { .. } => limit,
            Bearer::Connection { shared, .. } => {
                let queued = self.channel.stream().map_or(0, |stream| stream.queued_on_connection());
                shared.watermark(limit, queued)
            }
        }
    }

    /// Bytes that may wait for an endpoint before reading for it pauses. Of one of many streams that are few, and then little is
    /// taken at a time: a client with a thousand uploads to an endpoint that takes none would have us hold them all.
    pub(super) fn upload_watermark(&self, upstream: &UpstreamConnection) -> usize {
        let limit = wire::upstream_watermark(upstream);
        let Bearer::Connection { shared, .. } = &self.bearer else { return limit };
        let share = shared.upload_watermark(limit);
        self.channel.set_sparing(share < limits::LARGE_READ_ROOM_MIN);
        share
    }

    /// Takes note of what its handshake agreed on.
    fn protect(&mut self, facts: TlsFacts) {
        let settings = &self.chain.manager.forwarding;
        let mut peer = forwarding::Downstream::new(self.remote.ip(), self.local.socket(), true, settings);
        if let Some(identity) = &facts.peer {
            peer = peer.with_client_cert(facts.local.as_deref(), identity, settings);
        }
        self.peer = Rc::new(peer);
        let facts = Rc::new(facts);
        self.note(|record| record.tls(&facts));
        self.tls = Some(facts);
    }

    /// Notes what the listener's logs say of it.
    fn note(&self, note: impl FnOnce(&ConnectionRecord)) {
        if let Bearer::Socket { admitted, .. } = &self.bearer {
            note(&admitted.record);
        }
    }

    /// The client broke the protocol that the connection speaks, in its first request or before, or later.
    pub(super) fn broke_protocol(&self) {
        self.note(|record| record.broke_protocol(self.requests.get() <= 1));
    }

    /// Counts bytes of the connection.
    pub(super) fn count_bytes(&self, received: u64, sent: u64) {
        let stats = &self.chain.stats;
        stats.add(HttpStat::DownstreamCxRxBytesTotal, received);
        stats.add(HttpStat::DownstreamCxTxBytesTotal, sent);
        self.note(|record| record.moved(received, sent));
    }

    /// The protocol is known: counts it.
    fn speaks(&self, codec: Codec) {
        self.codec.set(codec);
        let (total, active, version) = match codec {
            Codec::Unknown | Codec::Http1SoftDrain => return,
            Codec::Http1 => {
                (HttpStat::DownstreamCxHttp1Total, HttpStat::DownstreamCxHttp1Active, Version::Http11)
            }
            Codec::Http2 => {
                (HttpStat::DownstreamCxHttp2Total, HttpStat::DownstreamCxHttp2Active, Version::Http2)
            }
        };
        self.note(|record| record.protocol(version));
        self.chain.stats.inc(total);
        self.chain.stats.gauge_inc(active);
    }

    fn count_open(&self) {
        self.context.open.set(self.context.open.get() + 1);
        self.listener.count_open();
        let stats = &self.chain.stats;
        stats.inc(HttpStat::DownstreamCxTotal);
        stats.gauge_inc(HttpStat::DownstreamCxActive);
        if self.is_under_tls() {
            stats.inc(HttpStat::DownstreamCxSslTotal);
            stats.gauge_inc(HttpStat::DownstreamCxSslActive);
        }
    }

    fn is_under_tls(&self) -> bool {
        self.channel.connection().is_some_and(|connection| connection.tls().is_some())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Bearer::Connection { shared, .. } = &self.bearer {
            return shared.stream_ended(&self.context.runtime);
        }
        self.context.open.set(self.context.open.get() - 1);
        if self.requests.get() == 1 {
            self.listener.ended_after_one_request();
        }
        let lived = self.context.runtime.now().since(self.opened);
        self.listener.count_closed(lived);
        if self.channel.connection().is_some_and(Transport::has_broken_tls) {
            self.listener.stats.inc(ListenerStat::SslConnectionError);
        }
        let lived = u64::try_from(lived.as_millis()).unwrap_or(u64::MAX);
        let stats = &self.chain.stats;
        stats.gauge_dec(HttpStat::DownstreamCxActive);
        if self.is_under_tls() {
            stats.gauge_dec(HttpStat::DownstreamCxSslActive);
        }
        match self.codec.get() {
            Codec::Unknown => {}
            Codec::Http1 => stats.gauge_dec(HttpStat::DownstreamCxHttp1Active),
            Codec::Http1SoftDrain => {
                stats.gauge_dec(HttpStat::DownstreamCxHttp1SoftDrain);
                stats.gauge_dec(HttpStat::DownstreamCxHttp1Active);
            }
            Codec::Http2 => stats.gauge_dec(HttpStat::DownstreamCxHttp2Active),
        }
        stats.inc(HttpStat::DownstreamCxDestroy);
        stats.record(HttpHistogram::DownstreamCxLengthMs, lived);
        let (side, side_active) = if self.closed_by_peer.get() {
            (HttpStat::DownstreamCxDestroyRemote, HttpStat::DownstreamCxDestroyRemoteActiveRq)
        } else {
            (HttpStat::DownstreamCxDestroyLocal, HttpStat::DownstreamCxDestroyLocalActiveRq)
        };
        stats.inc(side);
        if self.active.get() {
            stats.inc(HttpStat::DownstreamCxDestroyActiveRq);
            stats.inc(side_active);
        }
    }
}
