//! The HTTP/1.1 pool of a host: one request per connection at a time.
//!
//! An idle connection is watched by the pool keeper (see `cluster::manager`): when the peer closes it, sends what
//! nobody asked for, or its idle time or its life is over, it goes.

use std::rc::Rc;
use std::task::Poll;

use super::connection::{ConnectError, UpstreamConnection};
use super::dial::dial;
use super::turns::{self, may_begin};
use crate::base::clock::Now;
use crate::base::heaps;
use crate::cluster::host::Host;
use crate::cluster::local::Cluster;
use crate::config::http::CommonHttpProtocolOptions;
use crate::protocol::tls::Offer;
use crate::protocol::transport::Transport;
use crate::runtime::{TcpStream, Timer};
use crate::telemetry::names::ClusterStat;

/// An idle connection that is alive as far as can be seen; begins a request on it.
///
/// # Errors
/// [`ConnectError::Overflow`]: there is one, and a circuit breaker lets no request begin.
pub fn checkout(cluster: &Cluster, host: &Host) -> Result<Option<UpstreamConnection>, ConnectError> {
    // Those that wait have come before.
    if host.turns().own().is_empty() { take_idle(cluster, host) } else { Ok(None) }
}

/// The same for those that wait.
pub(super) fn take_idle(cluster: &Cluster, host: &Host) -> Result<Option<UpstreamConnection>, ConnectError> {
    if host.idle().borrow().is_empty() {
        return Ok(None);
    }
    may_begin(cluster, host)?;
    loop {
        let Some(mut connection) = host.idle().borrow_mut().pop() else { return Ok(None) };
        if is_quiet(&mut connection) {
            connection.begin();
            return Ok(Some(connection));
        }
    }
}

/// Opens a connection and begins a request on it, or on one that has become free while none may be opened. The cluster's
/// `connect_timeout` bounds it, but for such waiting. `fresh`: only on one that has not served.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
    timer: &Timer,
    id: u64,
    fresh: bool,
) -> Result<UpstreamConnection, ConnectError> {
    if let Some(ready) = turns::wait(cluster, host, Offer::Http1, !fresh).await? {
        return Ok(ready);
    }
    let transport = dial(cluster, host, timer, Offer::Http1)
        .await
        .inspect_err(|failure| host.turns().fail(cluster, *failure))?;
    begin(transport, cluster, host, id)
}

/// Begins a request on a connection that is new. Where none may begin it is kept.
///
/// # Errors
/// [`ConnectError::Overflow`].
pub(super) fn begin(
    transport: Transport,
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
    id: u64,
) -> Result<UpstreamConnection, ConnectError> {
    if let Err(overflow) = may_begin(cluster, host) {
        admit(transport, cluster, host, id);
        return Err(overflow);
    }
    let mut connection = UpstreamConnection::new(transport, cluster, host, id, cluster.runtime().now());
    connection.begin();
    Ok(connection)
}

/// Keeps a connection that is new for whoever wants it.
pub(super) fn admit(transport: Transport, cluster: &Rc<Cluster>, host: &Rc<Host>, id: u64) {
    let now = cluster.runtime().now();
    keep(UpstreamConnection::new(transport, cluster, host, id, now), now);
}

/// Ends the request and keeps the connection if it may serve again.
pub fn checkin(mut connection: UpstreamConnection, now: Now) {
    connection.finish(now);
    if connection.lease().is_some() {
        return;
    }
    let cluster = Rc::clone(connection.cluster());
    let options = &cluster.config().common_http;
    if options.max_requests_per_connection.is_some_and(|max| connection.requests() >= max) {
        cluster.stats().inc(ClusterStat::UpstreamCxMaxRequests);
        return;
    }
    if options.max_connection_duration.is_some_and(|max| now >= connection.opened().after(max)) {
        cluster.stats().inc(ClusterStat::UpstreamCxMaxDurationReached);
        return;
    }
    keep(connection, now);
}

fn keep(mut connection: UpstreamConnection, now: Now) {
    let (cluster, host) = (Rc::clone(connection.cluster()), Rc::clone(connection.host()));
    let end = end_of(&cluster.config().common_http, now, connection.opened());
    // A panic may have left anything on the wire.
    if cluster.keeps_none_of(&host) || std::thread::panicking() || !is_quiet(&mut connection) {
        return;
    }
    let Some(transport) = connection.channel().connection() else { return };
    // Behind a body that went by pipe nobody has looked yet, and a ring tells of it after its next visit: whoever waits for a
    // connection has this one before.
    if transport.plain().is_some_and(TcpStream::has_any_unread) {
        cluster.stats().inc(ClusterStat::UpstreamCxProtocolError);
        return;
    }
    transport.set_bulk(false);
    transport.set_sparing(false);
    transport.watch_by(cluster.keeper());
    cluster.runtime().edit(|| {
        cluster.kept(&host, end.map(|(due, _)| due));
        let mut idle = host.idle().borrow_mut();
        if idle.capacity() == 0 {
            *idle = heaps::lasting_list(IDLE_ROOM_MIN);
        }
        idle.push(connection);
    });
    host.turns().call_next(&cluster);
}

/// When a connection that stays idle is over, and as what that counts; `None`: never.
fn end_of(options: &CommonHttpProtocolOptions, idle_since: Now, opened: Now) -> Option<(Now, ClusterStat)> {
    let CommonHttpProtocolOptions { idle_timeout, max_connection_duration, .. } = options;
    let idle = idle_timeout.map(|limit| (idle_since.after(limit), ClusterStat::UpstreamCxIdleTimeout));
    let life =
        max_connection_duration.map(|limit| (opened.after(limit), ClusterStat::UpstreamCxMaxDurationReached));
    idle.into_iter().chain(life).min_by_key(|(due, _)| *due)
}

/// Connections for which the list of a host that is in use keeps room at least.
const IDLE_ROOM_MIN: usize = 4;

/// Drops idle connections of a host whose peer has closed, that said something unasked, or whose time is over.
/// Returns when the next one is due; `None` when there is none, or no limit.
pub fn sweep(host: &Host, cluster: &Cluster, now: Now) -> Option<Now> {
    let options = &cluster.config().common_http;
    let mut next = None;
    let mut idle = host.idle().borrow_mut();
    let gone = idle.extract_if(.., |connection| {
        let end = end_of(options, connection.idle_since, connection.opened());
        if let Some((due, stat)) = end
            && now >= due
        {
            cluster.stats().inc(stat);
            return true;
        }
        let quiet = is_quiet(connection);
        if quiet {
            next = next.into_iter().chain(end.map(|(due, _)| due)).min();
        }
        !quiet
    });
    let gone: Vec<_> = gone.collect();
    if idle.is_empty() && !gone.is_empty() {
        // Nobody wants it as often as it could serve.
        *idle = Vec::new();
    } else if idle.capacity() > 0 {
        // Room for four times as many: a pool that breathes allocates nothing.
        let room = 4 * idle.len();
        heaps::settle(&mut idle, room, IDLE_ROOM_MIN);
    }
    drop(idle);
    drop(gone);
    next
}

/// Whether nothing has arrived on a connection that owes us nothing. Registers the current task for what may.
fn is_quiet(connection: &mut UpstreamConnection) -> bool {
    match connection.channel().poll_recv() {
        Poll::Pending if connection.channel().poll_peer_closed().is_pending() => true,
        Poll::Ready(Ok(Some(_))) => {
            // Bytes without a request: an answer to nothing could be taken for the answer to the next.
            connection.cluster().stats().inc(ClusterStat::UpstreamCxProtocolError);
            false
        }
        Poll::Pending | Poll::Ready(Ok(None) | Err(_)) => {
            connection.set_closed_by_peer();
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn idle_connection_ends_with_its_idle_time_or_its_life_whichever_is_over_first() {
        let [second, hour] = [1, 3600].map(|seconds| Some(Duration::from_secs(seconds)));
        let (opened, idle_since) = (Now(5), Now(7));
        let (idle, life) = (ClusterStat::UpstreamCxIdleTimeout, ClusterStat::UpstreamCxMaxDurationReached);
        for (idle_timeout, max_connection_duration, expected) in [
            (None, None, None),
            (second, None, Some((1_000_000_007, idle))),
            (None, second, Some((1_000_000_005, life))),
            (second, hour, Some((1_000_000_007, idle))),
            (hour, second, Some((1_000_000_005, life))),
        ] {
            let options = CommonHttpProtocolOptions {
                idle_timeout,
                max_connection_duration,
                ..CommonHttpProtocolOptions::default()
            };
            let end = end_of(&options, idle_since, opened);
            assert_eq!(end, expected.map(|(due, stat)| (Now(due), stat)));
        }
    }
}
