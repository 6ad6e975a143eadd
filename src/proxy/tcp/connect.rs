//! Finding an endpoint for a client's connection: the cluster, a host, and as many attempts as are allowed.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::tunnel::{self, NotOpened};
use super::{TcpChain, TcpConnection, record};
use crate::base::clock::Now;
use crate::base::xx_hash::xx_hash;
use crate::cluster::pool::{ConnectError, UpstreamConnection, pend, tcp};
use crate::cluster::{Cluster, Host, Resource, Wanted};
use crate::config::cluster::RoutingPriority;
use crate::config::proxy_protocol::OwnedTlv;
use crate::config::tcp_proxy::{Backoff, TcpCluster};
use crate::format::context::FormatContext;
use crate::protocol::response_flags::ResponseFlag;
use crate::protocol::transport::Transport;
use crate::telemetry::{ClusterStat, TcpStat};

/// Why a client's connection reached no endpoint.
#[derive(Debug, Default)]
pub(super) struct Failure {
    /// In the order in which they were set.
    pub(super) flags: Vec<ResponseFlag>,
    pub(super) cluster: Option<Rc<Cluster>>,
    /// The host that was tried last.
    pub(super) host: Option<Rc<Host>>,
    /// The same, whoever is to blame for the failure.
    pub(super) attempted: Option<Rc<Host>>,
    /// When the first attempt began.
    pub(super) begun: Option<Now>,
    /// What its connection failed of.
    pub(super) error: Option<ConnectError>,
    pub(super) attempts: u32,
    /// Why this side closes the client's connection.
    pub(super) close_reason: &'static str,
}

impl Failure {
    /// The client has gone, or the process is going.
    pub(super) fn client_gone() -> Self {
        Self::default()
    }

    /// A limit has stopped it.
    pub(super) fn stopped(flag: Option<ResponseFlag>, close_reason: &'static str) -> Self {
        Self { flags: flag.into_iter().collect(), close_reason, ..Self::default() }
    }

    /// It has lasted as long as it may.
    pub(super) fn too_old() -> Self {
        Self {
            flags: vec![ResponseFlag::DurationTimeout],
            close_reason: record::MAX_DURATION,
            ..Self::default()
        }
    }

    /// A limit has passed while it tried.
    fn late(self, late: Late, chain: &TcpChain) -> Self {
        match late {
            Late::TooOld => {
                chain.stats.inc(TcpStat::MaxDownstreamConnectionDuration);
                self.final_for(ResponseFlag::DurationTimeout, record::MAX_DURATION)
            }
            Late::Idle => {
                chain.stats.inc(TcpStat::IdleTimeout);
                Self { close_reason: record::IDLE_TIMEOUT, ..self }
            }
        }
    }

    /// This is why no more is tried.
    fn final_for(mut self, flag: ResponseFlag, close_reason: &'static str) -> Self {
        self.flags.push(flag);
        self.close_reason = close_reason;
        self
    }

    /// Nothing has come for too long.
    pub(super) fn idle() -> Self {
        Self { close_reason: record::IDLE_TIMEOUT, ..Self::default() }
    }
}

/// Which limit has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    /// It has lasted as long as it may.
    TooOld,
    /// Nothing has come for too long.
    Idle,
}

/// What comes of this before the connection has lasted as long as it may, and before this time.
async fn in_time<F: Future>(
    connection: &TcpConnection,
    idle_due: Option<Now>,
    future: F,
) -> Result<F::Output, Late> {
    let first = connection.due.into_iter().chain(idle_due).min();
    let Some(first) = first else { return Ok(future.await) };
    // The timer is that of the attempt, too: it wakes for whichever is first.
    let outcome = connection.timer.at(first, future).await;
    outcome.map_err(|_| if connection.due == Some(first) { Late::TooOld } else { Late::Idle })
}

/// What comes of this; `None`: the client's connection has broken before. Without a look at it the task would outlive it by as much as
/// it waits. What the client says waits, too, and so does its end: they are passed on.
pub(super) async fn unless_broken<F: Future>(connection: &TcpConnection, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| {
        if let Poll::Ready(outcome) = future.as_mut().poll(context) {
            return Poll::Ready(Some(outcome));
        }
        let client = connection.channel.connection();
        client.map_or(Poll::Pending, Transport::poll_broken).map(|()| None)
    })
    .await
}

/// A connection to an endpoint.
pub(super) async fn connect(connection: &TcpConnection) -> Result<UpstreamConnection, Failure> {
    let TcpConnection { context, chain, timer, due, .. } = connection;
    let begun = context.runtime.now();
    let mut failure = Failure { begun: Some(begun), ..Failure::default() };
    let tlvs = merged_tlvs(connection);
    loop {
        // As in Envoy for each attempt anew: of clusters with weights another one may be drawn.
        let Some(cluster) = cluster(connection) else {
            chain.stats.inc(TcpStat::DownstreamCxNoRoute);
            return Err(failure.final_for(ResponseFlag::NoClusterFound, record::NO_ROUTE));
        };
        failure.cluster = Some(Rc::clone(&cluster));
        // None of its connections becomes free for another client: there is nothing to wait for.
        if !cluster.breakers().has_room(RoutingPriority::Default, Resource::Connections) {
            cluster.stats().inc(ClusterStat::UpstreamCxOverflow);
            return Err(failure.final_for(ResponseFlag::UpstreamOverflow, record::LIMIT_EXCEEDED));
        }
        let wanted = Wanted {
            destination: connection.inspected.as_ref().and_then(|known| known.restored_destination()),
            request: None,
            // As Envoy hashes it: the address alone, as text.
            hash: connection
                .remote
                .ip()
                .filter(|_| chain.config.hashes_source_ip && cluster.hashes())
                .map(|address| xx_hash(address.to_string().as_bytes(), 0)),
        };
        let picked = cluster.pick_for(wanted, &mut context.rng.borrow_mut());
        let Some(host) = picked else {
            return Err(failure.final_for(ResponseFlag::NoHealthyUpstream, record::NO_HEALTHY_UPSTREAM));
        };
        let origin = Rc::clone(&host);
        let host = if chain.tunneling.is_some() && tunnel::shares_connections(&cluster) {
            cluster.for_client(host, &connection.proxied(tlvs.as_deref()), &mut Vec::new())
        } else {
            cluster.once_for_client(host, &connection.proxied(tlvs.as_deref()))
        };
        failure.attempts += 1;
        connection.attempts.set(failure.attempts);
        if let Some(before) = failure.attempted.replace(Rc::clone(&host)) {
            connection.note_earlier_attempt(&before);
        }
        failure.host = Some(Rc::clone(&host));
        let attempt = async {
            match &chain.tunneling {
                None => {
                    let _pending = pend(&cluster, &host).map_err(NotOpened::Connect)?;
                    match unless_broken(connection, tcp::await_turn(&cluster, &host)).await {
                        None => return Err(NotOpened::Over(Failure::client_gone())),
                        Some(turn) => turn.map_err(NotOpened::Connect)?,
                    }
                    tcp::connect(&cluster, &host, timer, context.next_id()).await.map_err(NotOpened::Connect)
                }
                Some(tunneling) => tunnel::open(connection, tunneling, &cluster, &origin, &host).await,
            }
        };
        // A tunnel watches by itself. Once an attempt has failed nothing does before there is an endpoint, as in Envoy.
        let is_watched = failure.attempts == 1 && chain.tunneling.is_none();
        let idle_due = chain.config.idle_timeout.filter(|_| is_watched).map(|idle| begun.after(idle));
        let outcome = match in_time(connection, idle_due, attempt).await {
            Ok(outcome) => outcome,
            Err(late) => {
                cluster.stats().inc(ClusterStat::UpstreamRqCancelled);
                return Err(failure.late(late, chain));
            }
        };
        failure.error = match outcome {
            Ok(upstream) => {
                connection.note_reached(&upstream, begun);
                return Ok(upstream);
            }
            Err(NotOpened::Connect(error)) => Some(error),
            Err(NotOpened::Refused) => None,
            Err(NotOpened::Over(over)) => {
                let Failure { cluster, host, attempted, attempts, begun, .. } = failure;
                return Err(Failure { cluster, host, attempted, attempts, begun, ..over });
            }
        };
        // The endpoint has nothing to do with a circuit breaker.
        let is_local = failure.error == Some(ConnectError::Overflow);
        connection.has_failed.set(connection.has_failed.get() || !is_local);
        if is_local {
            // As in Envoy no host counts as tried.
            failure.host = None;
        }
        if !is_local && !failure.flags.contains(&ResponseFlag::UpstreamConnectionFailure) {
            failure.flags.push(ResponseFlag::UpstreamConnectionFailure);
        }
        if due.is_some_and(|due| context.runtime.now() >= due) {
            return Err(failure.late(Late::TooOld, chain));
        }
        if failure.attempts >= chain.config.connect_attempts_max {
            cluster.stats().inc(ClusterStat::UpstreamCxConnectAttemptsExceeded);
            return Err(failure.final_for(ResponseFlag::UpstreamRetryLimitExceeded, record::CONNECT_FAILED));
        }
        let pause = pause(connection, failure.attempts);
        match in_time(connection, None, unless_broken(connection, pause)).await {
            Err(late) => return Err(failure.late(late, chain)),
            Ok(None) => return Err(failure),
            Ok(Some(())) => {}
        }
    }
}

/// The time between two attempts. Where there is none others have their turn: an attempt that fails at once waits for nobody.
async fn pause(connection: &TcpConnection, attempts: u32) {
    let TcpConnection { context, chain, .. } = connection;
    let runtime = &context.runtime;
    if let Some(backoff) = chain.config.backoff {
        let wait = wait(backoff, attempts, context.random());
        return runtime.sleep_until(runtime.now().after(wait)).await;
    }
    let mut is_next_turn = false;
    poll_fn(|_| {
        if is_next_turn {
            return Poll::Ready(());
        }
        is_next_turn = true;
        runtime.wake(runtime.current_task());
        Poll::Pending
    })
    .await;
}

/// What the header to an endpoint may have in place of the client's own TLVs, of all attempts alike; `None`: nothing else.
fn merged_tlvs(connection: &TcpConnection) -> Option<Vec<OwnedTlv>> {
    let TcpConnection { context, chain, .. } = connection;
    let theirs = connection.header_tlvs();
    let tlvs = chain.tlvs.as_ref().filter(|tlvs| tlvs.apply(theirs.is_some()))?;
    let mut stream = context.streams.take();
    record::describe(connection, &mut stream.info);
    let now = context.runtime.now();
    Some(tlvs.merged(theirs, &FormatContext::new(&stream.info, now.0, context.random())))
}

/// A random time below what doubles with each attempt. Source: Envoy `JitteredExponentialBackOffStrategy`.
fn wait(backoff: Backoff, attempts: u32, random: u64) -> Duration {
    let doubled = backoff.base.saturating_mul(1u32.checked_shl(attempts - 1).unwrap_or(u32::MAX));
    let bound = u64::try_from(doubled.min(backoff.max).as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(random % bound)
}

/// The cluster that the connection goes to, if there is one of its name.
fn cluster(connection: &TcpConnection) -> Option<Rc<Cluster>> {
    let TcpConnection { context, chain, .. } = connection;
    match &chain.config.cluster {
        TcpCluster::One(name) => match connection.server_name().filter(|_| chain.sni_cluster) {
            Some(name) => context.clusters.find(name),
            None => chain.cluster.get(&context.clusters, || Some(name)),
        },
        // As in Envoy a server's name stands for one cluster alone.
        TcpCluster::Weighted(clusters) => {
            let total: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
            let mut left = context.random() % total.max(1);
            let chosen = clusters.iter().find(|cluster| {
                let weight = u64::from(cluster.weight);
                let is_it = left < weight;
                left = left.saturating_sub(weight);
                is_it
            });
            context.clusters.find(&chosen?.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_bound() {
        let backoff = Backoff { base: Duration::from_millis(10), max: Duration::from_millis(25) };
        let longest = |attempts| wait(backoff, attempts, u64::from(u32::MAX) * 100 * 20 * 40 - 1);
        assert!(longest(1) < Duration::from_millis(10));
        assert_eq!(wait(backoff, 2, 19), Duration::from_millis(19));
        assert_eq!(wait(backoff, 3, 24), Duration::from_millis(24));
        assert!(longest(60) < Duration::from_millis(25));
    }
}
