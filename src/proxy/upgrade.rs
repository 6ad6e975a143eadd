//! A tunnel: after 101, or 2xx to CONNECT, bytes pass both ways untouched until both sides have finished.

use std::future::poll_fn;
use std::task::Poll;

use super::copy::{BodyCopy, CopyError, Framing};
use super::deadlines::Deadlines;
use super::downstream::{After, Connection};
use super::error::ProxyError;
use super::stream::Stream;
use super::wire;
use crate::cluster::pool::UpstreamConnection;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http1::head_reader::HeadLimits;
use crate::protocol::transport::Channel;
use crate::telemetry::names::HttpStat;

/// How a tunnel ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) after: After,
    /// Which side went first, or which limit passed: every tunnel ends by one of them.
    pub(super) why: ProxyError,
}

/// Relays until both directions have ended, one breaks, or a limit of the stream passes.
pub(super) async fn tunnel(
    connection: &Connection,
    stream: &mut Stream,
    upstream: UpstreamConnection,
    deadlines: &mut Deadlines,
) -> Ended {
    let Connection { context, chain, channel: downstream, timer, .. } = connection;
    chain.stats.inc(HttpStat::DownstreamCxUpgradesTotal);
    let _active = chain.stats.active(HttpStat::DownstreamCxUpgradesActive);
    let raw = || BodyCopy::new(BodyLength::UntilClose, HeadLimits::default(), Framing::Plain);
    let (mut up, mut down) = (raw(), raw());
    let up_limit = wire::upstream_watermark(&upstream);
    let down_limit = connection.watermark();
    let now = context.runtime.now();
    // The response is there; what is left are the limits of the stream as a whole.
    (deadlines.last_activity, deadlines.request_complete, deadlines.response) = (now, Some(now), None);
    let mut moved = 0;
    let mut first = None;
    let after = poll_fn(|_| {
        let runtime = &context.runtime;
        upstream.channel().pump();
        downstream.pump();
        let directions = [
            relay(runtime, &mut up, downstream, upstream.channel(), up_limit, stream),
            relay(runtime, &mut down, upstream.channel(), downstream, down_limit, stream),
        ];
        if first.is_none() && (up.is_done() || directions[0].is_err()) {
            first = Some(ProxyError::DownstreamClosed);
        } else if first.is_none() && (down.is_done() || directions[1].is_err()) {
            first = Some(ProxyError::UpstreamTunnelClosed);
        }
        if directions.contains(&Err(())) {
            // What is queued is the client's, the 101 perhaps: it goes out before the connection breaks off.
            return Poll::Ready(After::Abort);
        }
        // What is queued towards the endpoint goes with its connection or stream, which ends here.
        if up.is_done() && down.is_done() && upstream.channel().poll_sent(0).is_ready() {
            return Poll::Ready(After::Close);
        }
        let total = up.bytes + down.bytes;
        if total != moved {
            (moved, deadlines.last_activity) = (total, runtime.now());
        }
        let Some(passed) = deadlines.poll(timer) else { return Poll::Pending };
        first = Some(passed);
        Poll::Ready(After::Close)
    })
    .await;
    // When a limit has passed, what is queued goes as far as the endpoint takes it.
    if after == After::Close {
        upstream.channel().shutdown_write();
    }
    stream.info.bytes_received += up.bytes;
    stream.info.bytes_sent += down.bytes;
    stream.info.downstream_bytes.wire_received += up.bytes;
    stream.info.upstream_bytes.wire_sent += up.bytes;
    stream.info.upstream_bytes.wire_received += down.bytes;
    stream.info.downstream_bytes.wire_sent += down.bytes;
    Ended { after, why: first.unwrap_or(ProxyError::DownstreamClosed) }
}

/// Moves one direction; at its end the receiver is told.
fn relay(
    runtime: &crate::runtime::Runtime,
    copy: &mut BodyCopy,
    from: &Channel,
    to: &Channel,
    limit: usize,
    stream: &mut Stream,
) -> Result<(), ()> {
    if copy.is_done() {
        return Ok(());
    }
    match copy.poll(runtime, from, to, limit, &mut stream.trailers, None) {
        Poll::Pending => Ok(()),
        Poll::Ready(Ok(())) => {
            to.shutdown_write();
            Ok(())
        }
        Poll::Ready(Err(
            CopyError::SourceGone
            | CopyError::SinkGone
            | CopyError::Exhausted
            | CopyError::Body(_)
            // What passes a tunnel passes no filter.
            | CopyError::Filter(_)
            | CopyError::Overflow,
        )) => Err(()),
    }
}
