//! Relaying through a tunnel that is a POST of HTTP/1.1: bytes go up in chunks, and come down as a response's body is framed.
//!
//! The ends are those of the messages: behind the client's last byte goes the last chunk, and the end of the response ends the
//! client's direction. Flow control is that of bodies.

use std::future::poll_fn;
use std::task::Poll;

use super::activity::Activity;
use super::relay::{Ended, Last, Why};
use super::{TcpConnection, record};
use crate::base::clock::Now;
use crate::cluster::pool::UpstreamConnection;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http::head::Head;
use crate::protocol::http1::head_reader::HeadLimits;
use crate::proxy::copy::{BodyCopy, CopyError, Framing, Way};
use crate::proxy::wire;
use crate::telemetry::{ClusterStat, TcpStat};

/// Relays until both messages have ended, one side breaks off, or a limit passes; `body`: how the response is framed.
pub(super) async fn relay(
    connection: &TcpConnection,
    upstream: &UpstreamConnection,
    body: BodyLength,
) -> Ended {
    let TcpConnection { context, chain, channel: downstream, timer, due, .. } = connection;
    let (runtime, endpoint) = (&context.runtime, upstream.channel());
    let mut up =
        BodyCopy::new(BodyLength::UntilClose, HeadLimits::default(), Framing::Chunked { trailers: None });
    let mut down = BodyCopy::new(body, HeadLimits::default(), Framing::Plain);
    let up_limit = wire::upstream_watermark(upstream);
    let down_limit = wire::watermark(connection.listener.config.per_connection_buffer_limit_bytes);
    let mut trailers = Head::default();
    let mut activity = Activity::new(runtime.now());
    let mut flush_due = chain.config.access_log_flush_interval.map(|every| runtime.now().after(every));
    let mut counted = Counted::default();
    let mut last = Last::Upstream;
    // The endpoint takes nothing more: what it has said before still goes to the client.
    let mut is_deaf = false;
    let why = poll_fn(|_| {
        if !up.is_done() && !is_deaf {
            match up.poll(runtime, downstream, endpoint, up_limit, &mut trailers, Way::Chunks) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => last = Last::Downstream,
                Poll::Ready(Err(CopyError::SourceGone)) => return Poll::Ready(Why::DownstreamReset),
                Poll::Ready(Err(CopyError::SinkGone)) => is_deaf = true,
                Poll::Ready(Err(_)) => return Poll::Ready(Why::UpstreamReset),
            }
            // Once it has ended it is not read any more: its break is only missed in writing, and what is sent to it would be
            // swallowed for ever.
            is_deaf |= matches!(endpoint.poll_sent(usize::MAX), Poll::Ready(Err(_)));
        }
        if !down.is_done() {
            match down.poll(runtime, endpoint, downstream, down_limit, &mut trailers, Way::Chunks) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => {
                    downstream.shutdown_write();
                    last = Last::Upstream;
                }
                Poll::Ready(Err(CopyError::SinkGone | CopyError::Exhausted)) => {
                    return Poll::Ready(Why::DownstreamReset);
                }
                Poll::Ready(Err(error)) => {
                    if matches!(error, CopyError::Body(_)) {
                        upstream.cluster().stats().inc(ClusterStat::UpstreamCxProtocolError);
                    }
                    return Poll::Ready(Why::UpstreamReset);
                }
            }
        }
        let has_moved = counted.count(connection, upstream, &up, &down);
        if has_moved {
            activity = Activity::new(runtime.now());
        }
        if down.is_done() && is_deaf {
            // What waits for the client would be lost with the reset that tells it.
            if downstream.poll_sent(0).is_ready() {
                return Poll::Ready(Why::UpstreamReset);
            }
        } else if down.is_done() && up.is_done() {
            return Poll::Ready(Why::Finished { last });
        }
        if has_moved && connection.is_drained() {
            return Poll::Ready(Why::Drained);
        }
        let is_due = |due: Option<Now>| due.is_some_and(|due| timer.poll_at(due).is_ready());
        if is_due(*due) {
            chain.stats.inc(TcpStat::MaxDownstreamConnectionDuration);
            return Poll::Ready(Why::TooOld);
        }
        let waiting = || endpoint.queued() + downstream.queued();
        if activity.is_over(chain.config.idle_timeout, timer, runtime, waiting) {
            chain.stats.inc(TcpStat::IdleTimeout);
            return Poll::Ready(Why::Idle);
        }
        if is_due(flush_due) {
            flush_due = chain.config.access_log_flush_interval.map(|every| runtime.now().after(every));
            // Armed for the next one.
            let _ = is_due(flush_due);
            record::periodic(connection, upstream, up.received_bytes, down.bytes);
        }
        Poll::Pending
    })
    .await;
    // What came last before a break counts, too.
    counted.count(connection, upstream, &up, &down);
    Ended { why, received: up.received_bytes, sent: down.bytes }
}

/// What was counted so far.
#[derive(Debug, Default)]
struct Counted {
    up: u64,
    down: u64,
    wire_up: u64,
    wire_down: u64,
    pauses: u64,
    resumes: u64,
}

impl Counted {
    /// Counts what was moved since the last call; whether anything was.
    fn count(
        &mut self,
        connection: &TcpConnection,
        upstream: &UpstreamConnection,
        up: &BodyCopy,
        down: &BodyCopy,
    ) -> bool {
        let now = Self {
            up: up.bytes,
            down: down.bytes,
            wire_up: up.sent_bytes,
            wire_down: down.wire_bytes,
            pauses: up.pauses,
            resumes: up.resumes,
        };
        let (stats, cluster) = (&connection.chain.stats, upstream.cluster().stats());
        stats.add(TcpStat::DownstreamCxRxBytesTotal, now.up - self.up);
        stats.add(TcpStat::DownstreamCxTxBytesTotal, now.down - self.down);
        stats.add(TcpStat::DownstreamFlowControlPausedReadingTotal, now.pauses - self.pauses);
        stats.add(TcpStat::DownstreamFlowControlResumedReadingTotal, now.resumes - self.resumes);
        cluster.add(ClusterStat::UpstreamCxTxBytesTotal, now.wire_up - self.wire_up);
        cluster.add(ClusterStat::UpstreamCxRxBytesTotal, now.wire_down - self.wire_down);
        let moved = (now.wire_up, now.wire_down) != (self.wire_up, self.wire_down);
        *self = now;
        moved
    }
}
