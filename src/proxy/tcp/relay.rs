//! Bytes between a client and an endpoint, in both directions at once, until both have ended.
//!
//! An end (FIN) is passed on behind the last byte; a break (RST) breaks the other side, too, behind what came before it, as far as
//! that is taken at once. A break behind an end shows when something is sent that way, or the idle timeout passes: there is nothing
//! to read any more that would tell of it, and Envoy does not look for it either. Flow control is that of bodies: reading from one
//! side pauses while the other has a watermark of bytes to take.

use std::future::poll_fn;
use std::task::Poll;

use super::activity::Activity;
use super::{TcpConnection, record};
use crate::base::clock::Now;
use crate::base::limits;
use crate::cluster::pool::UpstreamConnection;
use crate::protocol::transport::Channel;
use crate::proxy::access::Denied;
use crate::proxy::relay::{Relay, RelayError, hand_over, has_answered};
use crate::proxy::wire;
use crate::telemetry::{ClusterStat, TcpStat};

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Both sides have finished, this one last.
    Finished { last: Last },
    /// The client broke off.
    DownstreamReset,
    /// The endpoint broke off.
    UpstreamReset,
    /// Nothing was sent for too long.
    Idle,
    /// It has lasted as long as it may.
    TooOld,
    /// A drain has asked it to go.
    Drained,
}

/// Who ended its direction last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Downstream,
    Upstream,
}

/// What a relay came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) why: Why,
    /// Bytes from the client.
    pub(super) received: u64,
    /// Bytes to the client.
    pub(super) sent: u64,
}

/// Relays until both directions have ended, one side breaks off, or a limit passes.
pub(super) async fn relay(connection: &TcpConnection, upstream: &UpstreamConnection) -> Ended {
    let TcpConnection { context, chain, channel: downstream, timer, due, .. } = connection;
    let (mut up, mut down) = (Relay::of_connections(), Relay::of_connections());
    let up_limit = wire::upstream_watermark(upstream);
    let down_limit = wire::watermark(connection.listener.config.per_connection_buffer_limit_bytes);
    let mut flush_due =
        chain.config.access_log_flush_interval.map(|every| context.runtime.now().after(every));
    let mut counted = Counted { activity: Activity::new(context.runtime.now()), ..Counted::default() };
    // The endpoint takes nothing more: what it has said before still goes to the client.
    let mut is_deaf = false;
    let why = poll_fn(|_| {
        let runtime = &context.runtime;
        let endpoint = upstream.channel();
        endpoint.pump();
        let (up_had_ended, down_had_ended) = (up.is_done(), down.is_done());
        let upwards = if is_deaf { Poll::Pending } else { up.poll(runtime, downstream, endpoint, up_limit) };
        is_deaf |= matches!(upwards, Poll::Ready(Err(RelayError::SinkGone)));
        let downwards = down.poll(runtime, endpoint, downstream, down_limit);
        let has_moved = counted.count(connection, upstream, &up, &down);
        match (upwards, downwards) {
            // Whoever cannot be written to has broken off, as well as whoever cannot be read.
            (Poll::Ready(Err(RelayError::SourceGone)), _) | (_, Poll::Ready(Err(RelayError::SinkGone))) => {
                return Poll::Ready(Why::DownstreamReset);
            }
            (_, Poll::Ready(Err(RelayError::SourceGone))) => return Poll::Ready(Why::UpstreamReset),
            (_, Poll::Ready(Ok(()))) if is_deaf && has_answered(endpoint) => {
                return Poll::Ready(Why::Finished { last: Last::Upstream });
            }
            (_, Poll::Ready(Ok(()))) if is_deaf => return Poll::Ready(Why::UpstreamReset),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                let client_was_last = !up_had_ended && down_had_ended;
                let last = if client_was_last { Last::Downstream } else { Last::Upstream };
                return Poll::Ready(Why::Finished { last });
            }
            (_, Poll::Pending) | (Poll::Pending | Poll::Ready(Err(_)), Poll::Ready(Ok(()))) => {}
        }
        let is_due = |due: Option<Now>| due.is_some_and(|due| timer.poll_at(due).is_ready());
        if is_due(*due) {
            chain.stats.inc(TcpStat::MaxDownstreamConnectionDuration);
            return Poll::Ready(Why::TooOld);
        }
        if has_moved && connection.is_drained() {
            return Poll::Ready(Why::Drained);
        }
        let waiting = || up.waiting(endpoint) + down.waiting(downstream);
        if counted.activity.is_over(chain.config.idle_timeout, timer, runtime, waiting) {
            chain.stats.inc(TcpStat::IdleTimeout);
            return Poll::Ready(Why::Idle);
        }
        if is_due(flush_due) {
            flush_due = chain.config.access_log_flush_interval.map(|every| runtime.now().after(every));
            // Armed for the next one.
            let _ = is_due(flush_due);
            record::periodic(connection, upstream, up.bytes, down.bytes);
        }
        Poll::Pending
    })
    .await;
    up.release(&context.runtime, upstream.channel());
    down.release(&context.runtime, downstream);
    Ended { why, received: up.bytes, sent: down.bytes }
}

/// Why a connection that has reached an endpoint is not relayed.
#[derive(Debug)]
pub(super) enum Refused {
    /// It has no access.
    Denied(Denied),
    /// A limit has passed before anybody said something.
    Over(Why),
}

/// Waits for the first byte of either side, or an end, and asks whether the connection may go on.
pub(super) fn admit(
    connection: &TcpConnection,
    upstream: &UpstreamConnection,
) -> impl Future<Output = Result<(), Refused>> {
    let TcpConnection { context, channel: downstream, timer, due, chain, .. } = connection;
    let asked = connection.admitted.asked.as_deref();
    let idle_due = chain.config.idle_timeout.map(|idle| context.runtime.now().after(idle));
    poll_fn(move |_| {
        let Some(asked) = asked else { return Poll::Ready(Ok(())) };
        // What is there stays unread; ends and breaks are told again.
        let stirs = |channel: &Channel| match channel.poll_recv() {
            Poll::Ready(Ok(Some(chunk))) => {
                channel.unread(chunk);
                true
            }
            Poll::Ready(Ok(None) | Err(_)) => true,
            Poll::Pending => false,
        };
        if stirs(downstream) || stirs(upstream.channel()) {
            return Poll::Ready(asked.decide(connection.tls.as_deref()).map_err(Refused::Denied));
        }
        let is_due = |due: Option<Now>| due.is_some_and(|due| timer.poll_at(due).is_ready());
        if is_due(*due) {
            chain.stats.inc(TcpStat::MaxDownstreamConnectionDuration);
            return Poll::Ready(Err(Refused::Over(Why::TooOld)));
        }
        if is_due(idle_due) {
            chain.stats.inc(TcpStat::IdleTimeout);
            return Poll::Ready(Err(Refused::Over(Why::Idle)));
        }
        Poll::Pending
    })
}

/// Ends both connections: in order where both sides have finished, else as one side has, or at once. Whether the endpoint
/// has ended its own.
pub(super) async fn close(connection: &TcpConnection, upstream: &UpstreamConnection, ended: &Ended) -> bool {
    match ended.why {
        Why::Finished { last } => {
            flush(connection, upstream, last).await;
            last == Last::Upstream
        }
        Why::DownstreamReset => {
            break_off(connection, upstream.channel()).await;
            false
        }
        Why::UpstreamReset => {
            break_off(connection, &connection.channel).await;
            true
        }
        Why::Drained => {
            // What has been taken from one side goes to the other.
            flush(connection, upstream, Last::Upstream).await;
            // A stream that has not ended is reset.
            hand_over(&connection.context.runtime, &connection.timer, [upstream.channel()]).await;
            false
        }
        Why::Idle | Why::TooOld => false,
    }
}

/// Breaks a side off. What is there goes before the break, as far as it is taken at once.
async fn break_off(connection: &TcpConnection, side: &Channel) {
    hand_over(&connection.context.runtime, &connection.timer, [side]).await;
    side.set_reset_on_close();
}

/// Waits until both sides have taken what is queued for them, as long as the connection may last and one of them takes some.
async fn flush(connection: &TcpConnection, upstream: &UpstreamConnection, last: Last) {
    let TcpConnection { context, chain, channel: downstream, timer, due, .. } = connection;
    let endpoint = upstream.channel();
    // What a socket takes at once is not waited for: sends here are on their way for a moment, even so.
    let waits = last == Last::Downstream && endpoint.queued() > limits::LARGE_CHUNK_BYTES;
    if waits {
        chain.stats.inc(TcpStat::UpstreamFlushTotal);
    }
    let _active = waits.then(|| chain.stats.active(TcpStat::UpstreamFlushActive));
    let mut activity = Activity::new(context.runtime.now());
    poll_fn(|_| {
        let both = [endpoint.poll_sent(0), downstream.poll_sent(0)];
        // A side that is gone takes nothing more.
        if both.iter().all(Poll::is_ready) {
            return Poll::Ready(());
        }
        if due.is_some_and(|due| timer.poll_at(due).is_ready()) {
            chain.stats.inc(TcpStat::MaxDownstreamConnectionDuration);
            return Poll::Ready(());
        }
        // The task is woken when all is sent; how far it has come is looked at when the time is up.
        let waiting = || endpoint.queued() + downstream.queued();
        if activity.is_over(chain.config.idle_timeout, timer, &context.runtime, waiting) {
            chain.stats.inc(TcpStat::IdleTimeout);
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

/// What was counted of a relay so far.
#[derive(Debug, Default)]
struct Counted {
    up: u64,
    down: u64,
    pauses: u64,
    resumes: u64,
    activity: Activity,
}

impl Counted {
    /// Counts what was moved since the last call, and notes whether anything was, which is returned.
    fn count(
        &mut self,
        connection: &TcpConnection,
        upstream: &UpstreamConnection,
        up: &Relay,
        down: &Relay,
    ) -> bool {
        let activity = self.activity;
        let now = Self { up: up.bytes, down: down.bytes, pauses: up.pauses, resumes: up.resumes, activity };
        let (sent_up, sent_down) = (now.up - self.up, now.down - self.down);
        let (stats, cluster) = (&connection.chain.stats, upstream.cluster().stats());
        stats.add(TcpStat::DownstreamCxRxBytesTotal, sent_up);
        stats.add(TcpStat::DownstreamCxTxBytesTotal, sent_down);
        stats.add(TcpStat::DownstreamFlowControlPausedReadingTotal, now.pauses - self.pauses);
        stats.add(TcpStat::DownstreamFlowControlResumedReadingTotal, now.resumes - self.resumes);
        // Of a connection with streams the bytes are counted as they pass.
        if upstream.lease().is_none() {
            cluster.add(ClusterStat::UpstreamCxTxBytesTotal, sent_up);
            cluster.add(ClusterStat::UpstreamCxRxBytesTotal, sent_down);
        }
        *self = now;
        let has_moved = sent_up + sent_down > 0;
        if has_moved {
            self.activity = Activity::new(connection.context.runtime.now());
        }
        has_moved
    }
}
