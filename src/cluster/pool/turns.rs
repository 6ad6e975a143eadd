//! Who may have a connection of a host, and when: what circuit breakers say.
//!
//! Where no more connections may be made, requests wait for one of those that the host has; a host that has none gets a first
//! one in any case, or they would wait for ever. Source: Envoy `ConnPoolImplBase`.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::connection::{ConnectError, UpstreamConnection};
use super::http1;
use crate::cluster::breakers::Resource;
use crate::cluster::host::Host;
use crate::cluster::local::Cluster;
use crate::config::http2::UpstreamProtocol;
use crate::protocol::tls::Offer;
use crate::runtime::TaskId;
use crate::telemetry::names::{ClusterStat, HostStat, Stats};

/// What a host keeps of its connections.
#[derive(Debug, Default)]
pub struct Turns {
    /// Those there are or that are being made: of HTTP/1.1, or whatever an endpoint will choose; of HTTP/2; others.
    connections: [Cell<u32>; 3],
    /// Dials that failed so far, and why the last did.
    failures: Cell<u64>,
    failure: Cell<Option<ConnectError>>,
    /// Who waits for a connection of its own.
    own: Line,
    /// Who waits for a stream, or for whatever an endpoint chooses.
    streams: Line,
    /// The first of those waits until a connection may be made.
    wants_room: Cell<bool>,
    /// Places given so far.
    places: Cell<u64>,
}

/// There is one for each endpoint of every core that is asked for.
const _: () = assert!(size_of::<Turns>() <= 72);

/// Tasks that wait, first come first. `None`: nobody does.
#[derive(Default)]
pub(super) struct Line(Cell<Option<Box<Waiters>>>);

type Waiters = VecDeque<(Place, TaskId)>;

/// When somebody came, among those that come to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

/// Who waits for a connection, for its host's circuit breakers; over when dropped.
#[derive(Debug)]
pub struct Pending<'a> {
    cluster: &'a Cluster,
    host: &'a Host,
}

/// Begins to wait for a connection.
///
/// # Errors
/// [`ConnectError::Overflow`]: as many as may are waiting already.
pub fn pend<'a>(cluster: &'a Cluster, host: &'a Host) -> Result<Pending<'a>, ConnectError> {
    let stats = cluster.stats();
    if !cluster.breakers().has_room(host.priority(), Resource::PendingRequests) {
        stats.inc(ClusterStat::UpstreamRqPendingOverflow);
        return Err(ConnectError::Overflow);
    }
    cluster.breakers().take(host.priority(), Resource::PendingRequests);
    stats.inc(ClusterStat::UpstreamRqPendingTotal);
    stats.gauge_inc(ClusterStat::UpstreamRqPendingActive);
    Ok(Pending { cluster, host })
}

/// Whether the host may have connections of this kind: it has some, or another pool is within the limit, perhaps in place of one that
/// nobody uses of those beside it; `origin`: the host from which names and clients set it apart. Source: Envoy `ConnPoolMap`.
pub fn may_pool(cluster: &Cluster, origin: &Host, host: &Host, kind: Offer) -> bool {
    let turns = host.turns();
    if kind == Offer::Opaque
        || turns.connections(kind) > 0
        || cluster.breakers().has_room(host.priority(), Resource::ConnectionPools)
        || origin.free_pool()
    {
        return true;
    }
    cluster.stats().inc(ClusterStat::UpstreamCxPoolOverflow);
    false
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.cluster.stats().gauge_dec(ClusterStat::UpstreamRqPendingActive);
        self.cluster.breakers().give_back(self.host.priority(), Resource::PendingRequests);
    }
}

/// Whether a request may begin on a connection that is there.
///
/// # Errors
/// [`ConnectError::Overflow`]: as many as may are in flight.
#[inline]
pub(super) fn may_begin(cluster: &Cluster, host: &Host) -> Result<(), ConnectError> {
    if cluster.breakers().has_room(host.priority(), Resource::Requests) {
        return Ok(());
    }
    cluster.stats().inc(ClusterStat::UpstreamRqActiveOverflow);
    host.stats().inc(HostStat::RqError);
    Err(ConnectError::Overflow)
}

/// Whether the cluster and the host may have another connection.
pub(super) fn has_room(cluster: &Cluster, host: &Host) -> bool {
    let (breakers, priority) = (cluster.breakers(), host.priority());
    breakers.has_room(priority, Resource::Connections)
        && breakers.connections_per_host_max(priority).is_none_or(|max| {
            let (active, _) = host.scope().value(HostStat::CxActive.index());
            active < u64::from(max)
        })
}

/// Waits until a connection of this kind may be made to the host: usually not at all. Where `reuses`, one that has become free meanwhile is
/// given instead, with a request begun on it; else it makes room for another.
///
/// # Errors
/// [`ConnectError::Overflow`]: one has become free, and as many requests as may are in flight. Any other: a dial to the host has
/// failed meanwhile, and as in Envoy those that wait fail with it.
pub(super) async fn wait(
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
    kind: Offer,
    reuses: bool,
) -> Result<Option<UpstreamConnection>, ConnectError> {
    let turns = host.turns();
    let has_room = has_room(cluster, host);
    if !has_room {
        cluster.stats().inc(ClusterStat::UpstreamCxOverflow);
    }
    let may_dial = has_room && !turns.wants_room.get();
    if turns.own.is_empty() && (may_dial || turns.connections(kind) == 0) {
        return Ok(None);
    }
    // In recycled memory: the task is not to carry the size of what few do.
    cluster.runtime().recycled(line_up(cluster, host, kind, reuses)).await
}

async fn line_up(
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
    kind: Offer,
    reuses: bool,
) -> Result<Option<UpstreamConnection>, ConnectError> {
    let turns = host.turns();
    let place = turns.place();
    let _standing = turns.stand(cluster, &turns.own, place);
    let failures = turns.failures();
    // There may be room again, of which nobody has told the first.
    turns.call_next(cluster);
    poll_fn(|_| {
        if let Some(failure) = turns.failed_since(failures) {
            turns.count_ejected(cluster, host, kind);
            return Poll::Ready(Err(failure));
        }
        if !turns.own.is_first(place) {
            return Poll::Pending;
        }
        if reuses {
            match http1::take_idle(cluster, host) {
                Ok(None) => {}
                ready => {
                    turns.count_still_waiting(cluster, host, &turns.own);
                    return Poll::Ready(ready);
                }
            }
        }
        let may_dial = || has_room(cluster, host) && !turns.wants_room_before(place);
        if !may_dial() && turns.connections(kind) > 0 {
            // One that nobody uses, and that is of no use here, makes room.
            let idle = host.idle().borrow_mut().pop();
            idle.into_iter().for_each(UpstreamConnection::close_local);
            if turns.connections(kind) > 0 && !may_dial() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(None))
    })
    .await
}

/// Who stands in a line; left when dropped.
pub(super) struct Standing<'a> {
    cluster: &'a Cluster,
    turns: &'a Turns,
    line: &'a Line,
    place: Place,
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        if self.line.leave(self.place) && std::ptr::eq(self.line, &self.turns.streams) {
            self.turns.wants_room.set(false);
        }
        self.turns.call_next(self.cluster);
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.look(|line| line.fmt(f))
    }
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.look(VecDeque::is_empty)
    }

    /// What something says of those who wait.
    fn look<R>(&self, look: impl FnOnce(&Waiters) -> R) -> R {
        match self.0.take() {
            None => look(&VecDeque::new()),
            Some(line) => {
                let seen = look(&line);
                self.0.set(Some(line));
                seen
            }
        }
    }

    /// Whether nobody stands before this place.
    pub(super) fn is_first(&self, place: Place) -> bool {
        self.first().is_none_or(|(first, _)| first >= place)
    }

    fn first(&self) -> Option<(Place, TaskId)> {
        self.look(|line| line.front().copied())
    }

    /// Who has stood here before comes back to where it was.
    fn join(&self, place: Place, task: TaskId) {
        let mut line = self.0.take().unwrap_or_default();
        let behind = line.iter().rposition(|(other, _)| *other < place).map_or(0, |before| before + 1);
        line.insert(behind, (place, task));
        self.0.set(Some(line));
    }

    /// Whether it was the first.
    fn leave(&self, place: Place) -> bool {
        let Some(mut line) = self.0.take() else { return false };
        let at = line.iter().position(|(other, _)| *other == place);
        at.and_then(|at| line.remove(at));
        // What a burst has left of an empty one would outlive the connection it was made for.
        self.0.set(Some(line).filter(|line| !line.is_empty()));
        at == Some(0)
    }

    fn wake_first(&self, cluster: &Cluster) {
        if let Some((_, task)) = self.first() {
            cluster.runtime().wake(task);
        }
    }

    fn wake_all(&self, cluster: &Cluster) {
        self.look(|line| line.iter().for_each(|(_, task)| cluster.runtime().wake(*task)));
    }
}

impl Turns {
    /// Who waits for a connection of its own.
    pub(super) fn own(&self) -> &Line {
        &self.own
    }

    /// Who waits for a stream, or for whatever an endpoint chooses.
    pub(super) fn streams(&self) -> &Line {
        &self.streams
    }

    /// For who comes now.
    pub(super) fn place(&self) -> Place {
        self.places.set(self.places.get() + 1);
        Place(self.places.get())
    }

    /// Has the current task stand in a line.
    pub(super) fn stand<'a>(&'a self, cluster: &'a Cluster, line: &'a Line, place: Place) -> Standing<'a> {
        line.join(place, cluster.runtime().current_task());
        Standing { cluster, turns: self, line, place }
    }

    /// The first of those that wait for a stream waits until a connection may be made, or does not any more.
    pub(super) fn set_wants_room(&self, cluster: &Cluster, wants: bool) {
        if self.wants_room.replace(wants) && !wants {
            self.own.wake_first(cluster);
        }
    }

    /// Whether somebody who waits for a stream came before, and would have a connection made.
    fn wants_room_before(&self, place: Place) -> bool {
        self.wants_room.get() && !self.streams.is_first(place)
    }

    /// Dials that have failed so far.
    pub(super) fn failures(&self) -> u64 {
        self.failures.get()
    }

    /// Why one has failed since there were so many.
    pub(super) fn failed_since(&self, failures: u64) -> Option<ConnectError> {
        self.failure.get().filter(|_| self.failures.get() > failures)
    }

    /// Counts who fails with somebody else's dial.
    pub(super) fn count_ejected(&self, cluster: &Cluster, host: &Host, kind: Offer) {
        cluster.stats().inc(ClusterStat::UpstreamRqPendingFailureEject);
        if kind != Offer::Opaque {
            host.stats().inc(HostStat::RqError);
        }
    }

    /// The first gets one that has become free: who still waits would have one made, as in Envoy.
    pub(super) fn count_still_waiting(&self, cluster: &Cluster, host: &Host, line: &Line) {
        if line.look(VecDeque::len) > 1 && !has_room(cluster, host) {
            cluster.stats().inc(ClusterStat::UpstreamCxOverflow);
        }
    }

    /// How many connections of this kind there are, or are being made: each kind has a first one beyond the limit, or who waits
    /// for it would wait for others that are of no use.
    pub(super) fn connections(&self, kind: Offer) -> u32 {
        let [http1, http2, opaque] = &self.connections;
        match kind {
            Offer::Http1 => http1.get(),
            Offer::Http2 => http2.get(),
            Offer::Either => http1.get() + http2.get(),
            Offer::Opaque => opaque.get(),
        }
    }

    /// Pools of connections for requests: one for each protocol, unless it is the endpoint that chooses.
    fn pools(&self, cluster: &Cluster) -> u32 {
        let [http1, http2, _] = self.connections.each_ref().map(Cell::get);
        if cluster.config().upstream_protocol == UpstreamProtocol::Negotiated {
            return u32::from(http1 + http2 > 0);
        }
        u32::from(http1 > 0) + u32::from(http2 > 0)
    }

    /// Whether there are connections for requests, and nobody uses any or waits for one: so many are idle and so many shared without a
    /// stream.
    pub(in crate::cluster) fn is_idle(&self, idle: usize, shared: usize) -> bool {
        let [http1, http2, _] = self.connections.each_ref().map(|count| count.get() as usize);
        let nobody_waits = self.own.is_empty() && self.streams.is_empty();
        nobody_waits && http1 + http2 > 0 && http1 == idle && http2 == shared
    }

    fn cell(&self, kind: Offer) -> &Cell<u32> {
        let [http1, http2, opaque] = &self.connections;
        match kind {
            Offer::Http1 | Offer::Either => http1,
            Offer::Http2 => http2,
            Offer::Opaque => opaque,
        }
    }

    /// A connection could not be made: so all that wait know.
    pub(super) fn fail(&self, cluster: &Cluster, failure: ConnectError) {
        self.failure.set(Some(failure));
        self.failures.set(self.failures.get() + 1);
        self.own.wake_all(cluster);
        self.streams.wake_all(cluster);
    }

    /// Has all that wait for streams look again.
    pub(super) fn call_all_for_streams(&self, cluster: &Cluster) {
        self.streams.wake_all(cluster);
    }

    /// Has the first of those that wait look again.
    pub(super) fn call_next(&self, cluster: &Cluster) {
        self.own.wake_first(cluster);
        self.streams.wake_first(cluster);
    }
}

/// Counts a connection that is there or is being made.
pub(super) fn count_active(cluster: &Cluster, host: &Host, kind: Offer) {
    cluster.stats().gauge_inc(ClusterStat::UpstreamCxActive);
    host.stats().gauge_inc(HostStat::CxActive);
    cluster.breakers().take(host.priority(), Resource::Connections);
    let turns = host.turns();
    let pools = turns.pools(cluster);
    let count = turns.cell(kind);
    count.set(count.get() + 1);
    if turns.pools(cluster) > pools {
        cluster.breakers().take(host.priority(), Resource::ConnectionPools);
    }
}

/// One that was counted is no more.
pub(super) fn count_gone(cluster: &Cluster, host: &Host, kind: Offer) {
    cluster.stats().gauge_dec(ClusterStat::UpstreamCxActive);
    host.stats().gauge_dec(HostStat::CxActive);
    cluster.breakers().give_back(host.priority(), Resource::Connections);
    let turns = host.turns();
    let pools = turns.pools(cluster);
    let count = turns.cell(kind);
    count.set(count.get().saturating_sub(1));
    if turns.pools(cluster) < pools {
        cluster.breakers().give_back(host.priority(), Resource::ConnectionPools);
    }
    host.turns().call_next(cluster);
}

/// A connection that is being made.
#[derive(Debug)]
pub(super) struct Connecting<'a> {
    cluster: &'a Cluster,
    host: &'a Host,
    kind: Offer,
}

impl<'a> Connecting<'a> {
    pub(super) fn new(cluster: &'a Cluster, host: &'a Host, kind: Offer) -> Self {
        count_active(cluster, host, kind);
        Self { cluster, host, kind }
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        count_gone(self.cluster, self.host, self.kind);
    }
}

/// Counts a request that begins on a connection.
pub(super) fn count_begun(cluster: &Cluster, host: &Host) {
    cluster.stats().inc(ClusterStat::UpstreamRqTotal);
    cluster.stats().gauge_inc(ClusterStat::UpstreamRqActive);
    host.stats().inc(HostStat::RqTotal);
    host.stats().gauge_inc(HostStat::RqActive);
    cluster.breakers().take(host.priority(), Resource::Requests);
}

/// A request that was counted is over.
pub(super) fn count_over(cluster: &Cluster, host: &Host) {
    cluster.stats().gauge_dec(ClusterStat::UpstreamRqActive);
    host.stats().gauge_dec(HostStat::RqActive);
    cluster.breakers().give_back(host.priority(), Resource::Requests);
}
