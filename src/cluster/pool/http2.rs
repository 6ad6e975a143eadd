//! The HTTP/2 connections of a host: shared by its requests, one stream each.
//!
//! A connection lives in a task of its own, from its dialing to its end; a request gets a [`Lease`] of it. Requests that
//! find no room wait for the one that is being dialed, or have another dialed. A connection that its peer wants to end
//! (GOAWAY), that is too old, or that has served its number of requests takes no more and goes when its streams have.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use super::connection::{ConnectError, UpstreamConnection, count_opened, facts};
use super::dial::{agreed_on_http2, dial};
use super::http1;
use super::turns::{Place, count_gone, has_room, may_begin};
use crate::base::clock::Now;
use crate::base::rng::Rng;
use crate::cluster::host::Host;
use crate::cluster::local::Cluster;
use crate::protocol::http2::guard::{Flood, Seen};
use crate::protocol::http2::keepalive::{Action, Keepalive};
use crate::protocol::http2::{ClientConnection, Requests, Settings, StreamError};
use crate::protocol::tls::{Offer, TlsFacts};
use crate::protocol::transport::Transport;
use crate::runtime::TaskId;
use crate::telemetry::names::{ClusterHistogram, ClusterStat};

/// What a host keeps of its shared connections.
#[derive(Debug, Default)]
pub struct SharedConnections {
    /// Those that take requests.
    open: RefCell<Vec<Rc<Shared>>>,
    /// One is being dialed.
    dialing: Cell<bool>,
    /// Tasks that wait for what a peer says first.
    waiting: RefCell<Vec<TaskId>>,
    /// Dials that failed so far, and why the last did.
    failures: Cell<u64>,
    failure: Cell<Option<ConnectError>>,
    /// What the endpoint chose last, where it has a choice, was HTTP/1.1: requests have connections of their own.
    chose_http1: Cell<bool>,
}

/// A connection.
#[derive(Debug)]
struct Shared {
    cluster: Rc<Cluster>,
    host: Rc<Host>,
    id: u64,
    local: Option<SocketAddr>,
    /// What is known of its TLS, if anybody writes it.
    tls: Option<Rc<TlsFacts>>,
    opened: Now,
    /// `None`: it takes no more.
    requests: RefCell<Option<Requests>>,
    task: Cell<TaskId>,
    streams: Cell<u32>,
    /// Streams that the peer takes at a time, by the last of its SETTINGS; none once it takes no more.
    streams_max: Cell<usize>,
    served: Cell<u32>,
    idle_since: Cell<Now>,
    /// When something came last.
    received_at: Cell<Now>,
    /// A ping is to be sent, as nothing has come for long.
    ping_wanted: Cell<bool>,
    /// The peer has said how many streams it takes, and whether upgrades.
    settled: Cell<bool>,
    /// Its task has ended.
    over: Cell<bool>,
    /// The peer ended it.
    ended_by_peer: Cell<bool>,
    /// The peer has said that it takes no more requests.
    going_away: Cell<bool>,
}

/// A request's place on a connection; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    shared: Rc<Shared>,
}

/// A stream of a connection that is open and has room.
///
/// # Errors
/// [`ConnectError::Overflow`]: there is one, and a circuit breaker lets no request begin.
pub fn checkout_shared(
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
) -> Result<Option<UpstreamConnection>, ConnectError> {
    // Those that wait have come before.
    if host.turns().streams().is_empty() { take_stream(cluster, host) } else { Ok(None) }
}

/// The same for those that wait.
fn take_stream(cluster: &Rc<Cluster>, host: &Rc<Host>) -> Result<Option<UpstreamConnection>, ConnectError> {
    let room = u32::max(cluster.config().http2.max_concurrent_streams, 1);
    let Some(pool) = host.find_shared() else { return Ok(None) };
    let found = pool.open.borrow().iter().find(|shared| shared.has_room(room)).cloned();
    let Some(shared) = found else { return Ok(None) };
    may_begin(cluster, host)?;
    let stream = shared.requests.borrow().as_ref().map(Requests::stream);
    let Some(stream) = stream else { return Ok(None) };
    shared.streams.set(shared.streams.get() + 1);
    shared.served.set(shared.served.get().saturating_add(1));
    let now = cluster.runtime().now();
    if Keepalive::is_wanted(
        cluster.config().http2.connection_keepalive.as_ref(),
        shared.received_at.get(),
        now,
    ) {
        shared.ping_wanted.set(true);
        cluster.runtime().wake(shared.task.get());
    }
    let options = &cluster.config().common_http;
    if options.max_requests_per_connection.is_some_and(|max| shared.served.get() >= max) {
        cluster.stats().inc(ClusterStat::UpstreamCxMaxRequests);
        shared.retire();
    }
    let mut connection = UpstreamConnection::stream(stream, Lease { shared }, cluster, host, now);
    connection.begin();
    Ok(Some(connection))
}

/// A stream of a connection, once there is one with room; `id`: of the connection, if one is dialed for it. Of an endpoint that
/// has a choice also a connection to spare, or `None`: it speaks HTTP/1.1, and one may be made.
///
/// # Errors
/// The connection that was dialed for it failed.
pub(super) async fn acquire(
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
    id: u64,
    offer: Offer,
    place: Place,
) -> Result<Option<UpstreamConnection>, ConnectError> {
    let (pool, turns) = (host.shared(), host.turns());
    let chooses = offer == Offer::Either;
    let failures = (pool.failures.get(), turns.failures());
    let (mut standing, mut was_refused) = (None, false);
    poll_fn(|_| {
        let is_first = turns.streams().is_first(place);
        if is_first {
            turns.set_wants_room(cluster, false);
            let ready = match take_stream(cluster, host) {
                // What was dialed may have come to be HTTP/1.1, or one has become free. Not before: it may be that a fresh one is
                // wanted.
                Ok(None) if chooses && standing.is_some() => http1::checkout(cluster, host),
                ready => ready,
            };
            if !matches!(ready, Ok(None)) {
                if chooses && pool.chose_http1.get() {
                    turns.count_still_waiting(cluster, host, turns.streams());
                }
                return Poll::Ready(ready);
            }
        }
        if pool.failures.get() > failures.0
            && let Some(failure) = pool.failure.get()
        {
            return Poll::Ready(Err(failure));
        }
        if chooses && let Some(failure) = turns.failed_since(failures.1) {
            turns.count_ejected(cluster, host, offer);
            return Poll::Ready(Err(failure));
        }
        // One that has not said yet how many streams it takes may have room for all.
        let is_unsettled = |shared: &Rc<Shared>| !shared.settled.get();
        if !pool.open.borrow().iter().any(is_unsettled) && !pool.dialing.get() {
            let has_room = has_room(cluster, host);
            if !has_room && !was_refused {
                was_refused = true;
                cluster.stats().inc(ClusterStat::UpstreamCxOverflow);
            }
            let may_dial = is_first
                // Of those that the host has one may get room; it calls this one when it ends, too.
                && (has_room && turns.own().is_first(place) || turns.connections(offer) == 0);
            if may_dial && chooses && pool.chose_http1.get() {
                return Poll::Ready(Ok(None));
            }
            if may_dial {
                pool.dialing.set(true);
                let serving = serve(Rc::clone(cluster), Rc::clone(host), id, Origin::Dial(offer));
                cluster.runtime().spawn_isolated(serving);
            } else if is_first {
                turns.set_wants_room(cluster, true);
            }
        }
        if standing.is_none() {
            standing = Some(turns.stand(cluster, turns.streams(), place));
            if !is_first {
                // There may be room again, of which nobody has told the first.
                turns.call_next(cluster);
            }
        }
        Poll::Pending
    })
    .await
}

/// Takes a connection that came to be HTTP/2.
pub(super) fn adopt(transport: Transport, cluster: &Rc<Cluster>, host: &Rc<Host>, id: u64) {
    let pool = host.shared();
    pool.chose_http1.set(false);
    let is_first = !pool.dialing.replace(true);
    // It counts at once: who waits for room is not to take it for gone.
    let shared = Rc::new(Shared::new(cluster, host, id, &transport, cluster.runtime().now()));
    let origin = Origin::Connected { transport, shared, is_first };
    cluster.runtime().spawn_isolated(serve(Rc::clone(cluster), Rc::clone(host), id, origin));
}

/// Where a connection comes from.
enum Origin {
    /// It is dialed.
    Dial(Offer),
    /// It is there. `is_first`: it stands for the one that is dialed.
    Connected { transport: Transport, shared: Rc<Shared>, is_first: bool },
}

impl SharedConnections {
    /// Whether there is none that takes requests.
    pub(in crate::cluster) fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }

    fn wait(&self, task: TaskId) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.contains(&task) {
            waiting.push(task);
        }
    }

    /// Those that have no stream.
    pub(in crate::cluster) fn idle(&self) -> usize {
        self.open.borrow().iter().filter(|shared| shared.streams.get() == 0).count()
    }

    fn wake(&self, cluster: &Cluster) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(|task| cluster.runtime().wake(task));
    }

    /// Has all of them go once their streams have.
    pub(in crate::cluster) fn retire_all(&self) {
        let open = std::mem::take(&mut *self.open.borrow_mut());
        open.iter().for_each(|shared| shared.retire());
    }
}

/// Marks that a connection is being dialed; over when dropped, however that comes.
struct Dialing<'a>(&'a Rc<Cluster>, &'a Rc<Host>);

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.1.shared().dialing.set(false);
        self.1.turns().call_next(self.0);
    }
}

/// The life of a connection.
async fn serve(cluster: Rc<Cluster>, host: Rc<Host>, id: u64, origin: Origin) {
    let runtime = cluster.runtime().clone();
    let timer = runtime.timer();
    let is_first = !matches!(origin, Origin::Connected { is_first: false, .. });
    let dialing = is_first.then(|| Dialing(&cluster, &host));
    let fail = |error| {
        host.shared().failure.set(Some(error));
        host.shared().failures.set(host.shared().failures.get() + 1);
        host.turns().call_all_for_streams(&cluster);
    };
    let new = |transport: &Transport| Rc::new(Shared::new(&cluster, &host, id, transport, runtime.now()));
    let (transport, shared) = match origin {
        Origin::Connected { transport, shared, .. } => (transport, shared),
        Origin::Dial(offer) => match dial(&cluster, &host, &timer, offer).await {
            Ok(transport) if offer == Offer::Either && !agreed_on_http2(&transport) => {
                host.shared().chose_http1.set(true);
                return http1::admit(transport, &cluster, &host, id);
            }
            Ok(transport) => {
                let shared = new(&transport);
                (transport, shared)
            }
            Err(error) => return fail(error),
        },
    };
    shared.task.set(runtime.current_task());
    let common = &cluster.config().common_http;
    let settings =
        Settings::of(&cluster.config().http2, common.max_response_headers_kb, common.max_headers_count);
    let Ok((requests, mut connection)) = ClientConnection::open(&runtime, transport, &settings).await else {
        return fail(ConnectError::Failed(libc::ECONNRESET));
    };
    *shared.requests.borrow_mut() = Some(requests);
    shared.note_streams_max();
    host.shared().open.borrow_mut().push(Rc::clone(&shared));
    drop(dialing);
    // Whatever ends the task, a panic too: nobody finds the connection any more.
    let _listed = Listed(&shared);
    let mut random = Rng::from_seed(id);
    let mut fraction = move || (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let mut keepalive =
        Keepalive::new(cluster.config().http2.connection_keepalive, runtime.now(), fraction());
    let mut counted = Seen::default();
    let ended = poll_fn(|_| {
        let ended = connection.poll();
        let seen = connection.seen();
        if seen.bytes_received != counted.bytes_received {
            shared.received_at.set(runtime.now());
        }
        let settings = counted.settings_acknowledged;
        count_seen(&cluster, &mut counted, seen);
        if counted.settings_acknowledged > settings {
            shared.settled.set(true);
            shared.note_streams_max();
            host.shared().wake(&cluster);
            // It may take more streams than before.
            host.turns().call_next(&cluster);
        }
        if counted.goaways_received > 0 {
            shared.goes_away();
        }
        if ended.is_ready() {
            return ended;
        }
        if connection.is_over() {
            // What has come goes to its streams first; no other is to begin.
            shared.streams_max.set(0);
        }
        let now = runtime.now();
        shared.retire_when_due(&timer, now);
        loop {
            let answered = connection.poll_pong().is_ready();
            match keepalive.poll(now, answered, shared.ping_wanted.take(), fraction()) {
                Action::Ping => {
                    connection.ping();
                    // The codec sends it when it is polled.
                    runtime.wake(runtime.current_task());
                }
                Action::Dead => {
                    cluster.stats().inc(ClusterStat::Http2KeepaliveTimeout);
                    return Poll::Ready(Some(StreamError::Closed));
                }
                Action::Wait(None) => return Poll::Pending,
                Action::Wait(Some(due)) if timer.poll_at(due).is_pending() => return Poll::Pending,
                Action::Wait(Some(_)) => {}
            }
        }
    })
    .await;
    if let Some(flood) = connection.flood() {
        cluster.stats().inc(match flood {
            Flood::Empty => ClusterStat::Http2InboundEmptyFramesFlood,
            Flood::Priority => ClusterStat::Http2InboundPriorityFramesFlood,
            Flood::WindowUpdate => ClusterStat::Http2InboundWindowUpdateFramesFlood,
            Flood::Control => ClusterStat::Http2OutboundControlFlood,
        });
    }
    if connection.has_broken_tls() {
        cluster.stats().inc(ClusterStat::SslConnectionError);
    }
    if !shared.settled.get() {
        // Those that wait for it are not to dial it again and again.
        fail(ConnectError::Failed(libc::ECONNRESET));
    }
    match ended {
        Some(StreamError::Protocol) => cluster.stats().inc(ClusterStat::UpstreamCxProtocolError),
        Some(_) => shared.ended_by_peer.set(true),
        None => {}
    }
}

/// Takes over into the cluster's counters what was seen since the last time.
fn count_seen(cluster: &Cluster, counted: &mut Seen, seen: Seen) {
    let stats = cluster.stats();
    stats.add(ClusterStat::UpstreamCxRxBytesTotal, seen.bytes_received - counted.bytes_received);
    stats.add(ClusterStat::UpstreamCxTxBytesTotal, seen.bytes_sent - counted.bytes_sent);
    stats.add(ClusterStat::Http2RxReset, seen.resets_received - counted.resets_received);
    stats.add(ClusterStat::Http2TxReset, seen.resets_sent - counted.resets_sent);
    stats.add(ClusterStat::Http2GoawaySent, seen.goaways_sent - counted.goaways_sent);
    stats.add(ClusterStat::Http2HeaderOverflow, seen.head_overflows - counted.head_overflows);
    *counted = seen;
}

/// A connection on its host's list.
struct Listed<'a>(&'a Rc<Shared>);

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.0.over.set(true);
        self.0.retire();
        self.0.host.shared().wake(&self.0.cluster);
        self.0.host.turns().call_next(&self.0.cluster);
    }
}

impl Shared {
    fn new(cluster: &Rc<Cluster>, host: &Rc<Host>, id: u64, transport: &Transport, now: Now) -> Self {
        cluster.stats().inc(ClusterStat::UpstreamCxHttp2Total);
        count_opened(cluster, host, Offer::Http2);
        Self {
            cluster: Rc::clone(cluster),
            host: Rc::clone(host),
            id,
            local: transport.local_addr().ok(),
            tls: facts(transport),
            opened: now,
            requests: RefCell::default(),
            task: Cell::new(TaskId::NONE),
            streams: Cell::new(0),
            streams_max: Cell::new(0),
            served: Cell::new(0),
            idle_since: Cell::new(now),
            received_at: Cell::new(now),
            ping_wanted: Cell::new(false),
            settled: Cell::new(false),
            over: Cell::new(false),
            ended_by_peer: Cell::new(false),
            going_away: Cell::new(false),
        }
    }

    fn has_room(&self, room: u32) -> bool {
        let streams = self.streams.get();
        streams < room && (streams as usize) < self.streams_max.get()
    }

    /// The peer may have said how many streams it takes, or the connection takes no more.
    fn note_streams_max(&self) {
        let streams_max = self.requests.borrow().as_ref().map_or(0, Requests::streams_max);
        self.streams_max.set(streams_max);
    }

    /// Takes no more requests; ends once the present ones have.
    fn retire(self: &Rc<Self>) {
        self.host.shared().open.borrow_mut().retain(|other| !Rc::ptr_eq(other, self));
        let requests = self.requests.borrow_mut().take();
        drop(requests);
        self.note_streams_max();
        self.cluster.runtime().wake(self.task.get());
    }

    /// The peer takes no more requests on this connection.
    fn goes_away(self: &Rc<Self>) {
        if !self.going_away.replace(true) {
            self.cluster.stats().inc(ClusterStat::UpstreamCxCloseNotify);
            self.retire();
        }
    }

    fn retire_when_due(self: &Rc<Self>, timer: &crate::runtime::Timer, now: Now) {
        if self.requests.borrow().is_none() {
            return;
        }
        // It was dialed when its host was still there, or before a drain that does not wait for it.
        let is_of_use = self.served.get() == 0 || self.streams.get() > 0;
        if !is_of_use && self.cluster.keeps_none_of(&self.host) {
            return self.retire();
        }
        let options = &self.cluster.config().common_http;
        let passed = |due: Now| now >= due || timer.poll_at(due).is_ready();
        if options.max_connection_duration.is_some_and(|max| passed(self.opened.after(max))) {
            self.cluster.stats().inc(ClusterStat::UpstreamCxMaxDurationReached);
            self.retire();
        } else if self.streams.get() == 0
            && options.idle_timeout.is_some_and(|max| passed(self.idle_since.get().after(max)))
        {
            self.cluster.stats().inc(ClusterStat::UpstreamCxIdleTimeout);
            self.retire();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let stats = self.cluster.stats();
        stats.inc(ClusterStat::UpstreamCxDestroy);
        let (side, side_active) = if self.ended_by_peer.get() {
            (ClusterStat::UpstreamCxDestroyRemote, ClusterStat::UpstreamCxDestroyRemoteWithActiveRq)
        } else {
            (ClusterStat::UpstreamCxDestroyLocal, ClusterStat::UpstreamCxDestroyLocalWithActiveRq)
        };
        stats.inc(side);
        if self.streams.get() > 0 {
            stats.inc(ClusterStat::UpstreamCxDestroyWithActiveRq);
            stats.inc(side_active);
        }
        let lived = self.cluster.runtime().now().since(self.opened).as_millis();
        stats.record(ClusterHistogram::UpstreamCxLengthMs, u64::try_from(lived).unwrap_or(u64::MAX));
        stats.record(ClusterHistogram::UpstreamRqPerCx, u64::from(self.served.get()));
        // Those that wait to share one are called, too.
        count_gone(&self.cluster, &self.host, Offer::Http2);
    }
}

impl Lease {
    pub(super) fn id(&self) -> u64 {
        self.shared.id
    }

    pub(super) fn opened(&self) -> Now {
        self.shared.opened
    }

    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        self.shared.local
    }

    pub(super) fn tls(&self) -> Option<&Rc<TlsFacts>> {
        self.shared.tls.as_ref()
    }

    /// Ready once the peer's SETTINGS are in force, with true, or its connection has ended before they came. Pending wakes the
    /// current task later.
    pub fn poll_settled(&self) -> Poll<bool> {
        let Shared { cluster, host, settled, over, .. } = &*self.shared;
        if settled.get() || over.get() {
            return Poll::Ready(settled.get());
        }
        host.shared().wait(cluster.runtime().current_task());
        Poll::Pending
    }

    /// The peer takes no more requests on this connection.
    pub fn retire(&self) {
        self.shared.goes_away();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.streams.set(shared.streams.get() - 1);
        let runtime = shared.cluster.runtime();
        if shared.streams.get() == 0 {
            shared.idle_since.set(runtime.now());
            runtime.wake(shared.task.get());
        }
        shared.host.turns().call_next(&shared.cluster);
    }
}
