//! A tunnel: after 101, or 2xx to CONNECT, bytes pass both ways untouched until both sides have finished.

use std::future::poll_fn;
use std::task::Poll;

use super::connection_bytes::Tunnelled;
use super::deadlines::Deadlines;
use super::downstream::{After, Connection};
use super::error::ProxyError;
use super::relay::{Relay, RelayError, hand_over, has_answered};
use super::stream::Stream;
use crate::cluster::pool::UpstreamConnection;
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
    let (mut up, mut down) = (Relay::new(), Relay::new());
    let now = context.runtime.now();
    // The response is there; what is left are the limits of the stream as a whole.
    (deadlines.last_activity, deadlines.request_complete, deadlines.response) = (now, Some(now), None);
    let mut noted = Tunnelled::default();
    // The endpoint takes nothing more: what it has said before still goes to the client.
    let mut is_deaf = false;
    let mut first = None;
    let after = poll_fn(|_| {
        let runtime = &context.runtime;
        upstream.channel().pump();
        downstream.pump();
        let upwards = match is_deaf {
            true => {
                // Nobody reads what the client still says.
                downstream.gather();
                Poll::Pending
            }
            false => up.poll(runtime, downstream, upstream.channel(), connection.upload_watermark(&upstream)),
        };
        // As many as there are of them now.
        let down_limit = connection.watermark();
        let directions = [upwards, down.poll(runtime, upstream.channel(), downstream, down_limit)];
        is_deaf |= upwards == Poll::Ready(Err(RelayError::SinkGone));
        let broke = |direction: usize, error| directions[direction] == Poll::Ready(Err(error));
        // Whoever cannot be written to has broken off, as well as whoever cannot be read.
        let client_went = up.is_done() || broke(0, RelayError::SourceGone) || broke(1, RelayError::SinkGone);
        let endpoint_went =
            down.is_done() || broke(0, RelayError::SinkGone) || broke(1, RelayError::SourceGone);
        if first.is_none() && client_went {
            first = Some(ProxyError::DownstreamClosed);
        } else if first.is_none() && endpoint_went {
            first = Some(ProxyError::UpstreamTunnelClosed);
        }
        if is_deaf && down.is_done() && has_answered(upstream.channel()) {
            return Poll::Ready(After::Close);
        }
        if is_broken(directions[1]) || broke(0, RelayError::SourceGone) || is_deaf && down.is_done() {
            // What is queued is the client's, the 101 perhaps: it goes out before the connection breaks off.
            return Poll::Ready(After::Abort);
        }
        // What is queued towards the endpoint goes with its connection or stream, which ends here.
        if up.is_done() && down.is_done() && upstream.channel().poll_sent(0).is_ready() {
            return Poll::Ready(After::Close);
        }
        // Of a client whose stream nobody reads, for now or behind its end, it is not heard otherwise: what waits for an endpoint
        // that takes nothing would wait until a limit passes, and its client begins another.
        let is_unread = is_deaf || up.is_done() || up.is_paused();
        if is_unread && connection.shared().is_some() && downstream.poll_peer_closed().is_ready() {
            first = first.or(Some(ProxyError::DownstreamClosed));
            return Poll::Ready(After::Abort);
        }
        if noted.note(connection, upstream.cluster(), stream, (up.bytes, down.bytes)) {
            deadlines.last_activity = runtime.now();
        }
        let Some(passed) = deadlines.poll(timer) else { return Poll::Pending };
        first = Some(passed);
        Poll::Ready(After::Close)
    })
    .await;
    up.release(&context.runtime, upstream.channel());
    down.release(&context.runtime, downstream);
    if after == After::Abort {
        // What one side has said before it broke off goes before the break of the other. In recycled memory: the task is not to
        // carry the size of what few do.
        let sides = [upstream.channel(), downstream];
        context.runtime.recycled(hand_over(&context.runtime, timer, sides)).await;
    }
    // When a limit has passed, what is queued goes as far as the endpoint takes it.
    if after == After::Close {
        upstream.channel().shutdown_write();
    }
    let is_broken_behind = after == After::Abort && matches!(first, Some(ProxyError::UpstreamTunnelClosed));
    if is_broken_behind
        && stream.request.method() == b"CONNECT"
        && let Some(client) = downstream.stream()
    {
        client.break_tunnel();
    }
    // What came last before a break counts, too.
    noted.note(connection, upstream.cluster(), stream, (up.bytes, down.bytes));
    Ended { after, why: first.unwrap_or(ProxyError::DownstreamClosed) }
}

fn is_broken(direction: Poll<Result<(), RelayError>>) -> bool {
    matches!(direction, Poll::Ready(Err(_)))
}
