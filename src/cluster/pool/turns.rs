//! Who may have a connection of a host, and when: what circuit breakers say.
//!
//! Where no more connections may be made, requests wait for one of those that the host has; a host that has none gets a first
//! one in any case, or they would wait for ever. Source: Envoy `ConnPoolImplBase`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::connection::{ConnectError, UpstreamConnection};
use super::http1;
use crate::cluster::breakers::Resource;
use crate::cluster::host::Host;
use crate::cluster::local::Cluster;
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
    /// Tasks that wait for one, in the order in which they came.
    waiting: RefCell<VecDeque<TaskId>>,
}

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
    if turns.is_empty() && (has_room || turns.connections(kind) == 0) {
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
    let runtime = cluster.runtime();
    let task = runtime.current_task();
    turns.waiting.borrow_mut().push_back(task);
    let _place = Place { cluster, host, task };
    let failures = turns.failures.get();
    // There may be room again, of which nobody has told the first.
    turns.call_next(cluster);
    poll_fn(|_| {
        if turns.failures.get() > failures
            && let Some(failure) = turns.failure.get()
        {
            cluster.stats().inc(ClusterStat::UpstreamRqPendingFailureEject);
            if kind != Offer::Opaque {
                host.stats().inc(HostStat::RqError);
            }
            return Poll::Ready(Err(failure));
        }
        if turns.waiting.borrow().front() != Some(&task) {
            return Poll::Pending;
        }
        if reuses {
            match http1::take_idle(cluster, host) {
                Ok(None) => {}
                ready => {
                    // Who still waits would have one made, as in Envoy.
                    if turns.waiting.borrow().len() > 1 && !has_room(cluster, host) {
                        cluster.stats().inc(ClusterStat::UpstreamCxOverflow);
                    }
                    return Poll::Ready(ready);
                }
            }
        }
        if !has_room(cluster, host) && turns.connections(kind) > 0 {
            // One that nobody uses, and that is of no use here, makes room.
            let idle = host.idle().borrow_mut().pop();
            idle.into_iter().for_each(UpstreamConnection::close_local);
            if turns.connections(kind) > 0 && !has_room(cluster, host) {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(None))
    })
    .await
}

/// A place among those that wait.
struct Place<'a> {
    cluster: &'a Cluster,
    host: &'a Host,
    task: TaskId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let turns = self.host.turns();
        {
            let mut waiting = turns.waiting.borrow_mut();
            let place = waiting.iter().position(|task| *task == self.task);
            place.and_then(|place| waiting.remove(place));
            if waiting.is_empty() {
                // What a burst has left of it would outlive the connection it was made for.
                *waiting = VecDeque::new();
            }
        }
        turns.call_next(self.cluster);
    }
}

impl Turns {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
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
        self.waiting.borrow().iter().for_each(|task| cluster.runtime().wake(*task));
    }

    /// Has the first of those that wait look again.
    pub(super) fn call_next(&self, cluster: &Cluster) {
        if let Some(task) = self.waiting.borrow().front() {
            cluster.runtime().wake(*task);
        }
    }
}

/// Counts a connection that is there or is being made.
pub(super) fn count_active(cluster: &Cluster, host: &Host, kind: Offer) {
    cluster.stats().gauge_inc(ClusterStat::UpstreamCxActive);
    host.stats().gauge_inc(HostStat::CxActive);
    cluster.breakers().take(host.priority(), Resource::Connections);
    let count = host.turns().cell(kind);
    count.set(count.get() + 1);
}

/// One that was counted is no more.
pub(super) fn count_gone(cluster: &Cluster, host: &Host, kind: Offer) {
    cluster.stats().gauge_dec(ClusterStat::UpstreamCxActive);
    host.stats().gauge_dec(HostStat::CxActive);
    cluster.breakers().give_back(host.priority(), Resource::Connections);
    let count = host.turns().cell(kind);
    count.set(count.get().saturating_sub(1));
    host.turns().call_next(cluster);
    // Requests that would share one have a list of their own.
    if let Some(shared) = host.find_shared() {
        shared.wake(cluster);
    }
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
