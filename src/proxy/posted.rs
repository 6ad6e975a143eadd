//! A tunnel that is a POST of HTTP/1.1 and ends here: what the request's body holds goes to the endpoint as plain bytes, and what
//! the endpoint says is the response's body. Over HTTP/2 it is a tunnel like others.

use std::future::poll_fn;
use std::task::Poll;

use super::connection_bytes;
use super::copy::{BodyCopy, CopyError, Framing, Way};
use super::downstream::{After, Connection};
use super::error::ProxyError;
use super::http::Request;
use super::relay::hand_over;
use super::stream::Stream;
use super::upgrade::Ended;
use crate::cluster::pool::UpstreamConnection;
use crate::protocol::http::body::BodyLength;
use crate::protocol::http1::framing::MethodKind;
use crate::protocol::http1::head_reader::HeadLimits;

/// Whether the tunnel of this request is one.
pub(super) fn is_framed(connection: &Connection, request: &Request) -> bool {
    connection.shared().is_none() && is_post(request)
}

/// Whether the tunnel of this request, which is allowed one, is neither CONNECT nor an upgrade.
pub(super) fn is_post(request: &Request) -> bool {
    let asked = request.meta.asked();
    asked.method == MethodKind::Plain && !asked.upgrade
}

/// Relays until both bodies have ended, one side breaks, or a limit of the stream passes.
pub(super) async fn tunnel(
    connection: &Connection,
    stream: &mut Stream,
    request: &mut Request,
    upstream: UpstreamConnection,
) -> Ended {
    let Connection { context, channel: downstream, timer, .. } = connection;
    let Request { body: up, deadlines, client_is_11, .. } = request;
    let (runtime, endpoint) = (&context.runtime, upstream.channel());
    up.set_receiver(Framing::Plain);
    let framing = if *client_is_11 { Framing::Chunked { trailers: None } } else { Framing::Plain };
    let mut down = BodyCopy::new(BodyLength::UntilClose, HeadLimits::default(), framing);
    let now = runtime.now();
    // The response is there; what is left are the limits of the stream as a whole.
    (deadlines.last_activity, deadlines.request_complete, deadlines.response) = (now, Some(now), None);
    let (mut moved, mut first, mut is_told) = (0, None, false);
    let mut noted = Noted::default();
    // The endpoint takes nothing more: what it has said before still goes to the client.
    let mut is_deaf = false;
    let after = poll_fn(|_| {
        // As many as there are streams now.
        let (up_limit, down_limit) = (connection.upload_watermark(&upstream), connection.watermark());
        if !up.is_done() && !is_deaf {
            match up.poll(runtime, downstream, endpoint, up_limit, &mut stream.request_trailers, Way::Chunks)
            {
                Poll::Pending | Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(CopyError::SinkGone)) => is_deaf = true,
                Poll::Ready(Err(CopyError::Body(error))) => {
                    first = first.or(Some(ProxyError::RequestBody(error)));
                    return Poll::Ready(After::Abort);
                }
                Poll::Ready(Err(_)) => {
                    first = first.or(Some(ProxyError::DownstreamClosed));
                    return Poll::Ready(After::Abort);
                }
            }
        }
        // Once it has ended nobody reads it any more: that it has broken off is only heard in writing.
        is_deaf |= !up.is_done() && matches!(endpoint.poll_sent(usize::MAX), Poll::Ready(Err(_)));
        if up.is_done() && !is_told {
            endpoint.shutdown_write();
            (is_told, first) = (true, first.or(Some(ProxyError::DownstreamClosed)));
        }
        if !down.is_done() {
            match down.poll(runtime, endpoint, downstream, down_limit, &mut stream.trailers, Way::Chunks) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => first = first.or(Some(ProxyError::UpstreamTunnelClosed)),
                Poll::Ready(Err(CopyError::SinkGone)) => {
                    first = first.or(Some(ProxyError::DownstreamClosed));
                    return Poll::Ready(After::Abort);
                }
                // Without its last chunk the client's side is known to be cut off.
                Poll::Ready(Err(_)) => {
                    first = first.or(Some(ProxyError::UpstreamTunnelClosed));
                    return Poll::Ready(After::Abort);
                }
            }
        }
        if is_deaf && down.is_done() {
            first = first.or(Some(ProxyError::UpstreamTunnelClosed));
            return Poll::Ready(After::Abort);
        }
        if up.is_done() && down.is_done() && endpoint.poll_sent(0).is_ready() {
            return Poll::Ready(After::Close);
        }
        let total = up.wire_bytes + down.wire_bytes;
        if total != moved {
            (moved, deadlines.last_activity) = (total, runtime.now());
            noted.note(connection, stream, &upstream, up, &down);
        }
        let Some(passed) = deadlines.poll(timer) else { return Poll::Pending };
        first = Some(passed);
        Poll::Ready(After::Abort)
    })
    .await;
    if after == After::Abort {
        // What the client has said before it broke off goes before the break; what waits for it does where its connection ends.
        hand_over(runtime, timer, [endpoint]).await;
    }
    // What came last before a break counts, too.
    noted.note(connection, stream, &upstream, up, &down);
    Ended { after, why: first.unwrap_or(ProxyError::DownstreamClosed) }
}

/// What of a tunnel is in the record.
#[derive(Debug, Default)]
struct Noted {
    sent_up: u64,
    received_down: u64,
    down: u64,
    sent_down: u64,
}

impl Noted {
    /// Notes and counts what was moved since the last call.
    fn note(
        &mut self,
        connection: &Connection,
        stream: &mut Stream,
        upstream: &UpstreamConnection,
        up: &BodyCopy,
        down: &BodyCopy,
    ) {
        let now = Self {
            sent_up: up.sent_bytes,
            received_down: down.wire_bytes,
            down: down.bytes,
            sent_down: down.sent_bytes,
        };
        let info = &mut stream.info;
        info.upstream_bytes.wire_sent += now.sent_up - self.sent_up;
        info.upstream_bytes.wire_received += now.received_down - self.received_down;
        info.bytes_sent += now.down - self.down;
        info.downstream_bytes.wire_sent += now.sent_down - self.sent_down;
        *self = now;
        // The request's own are noted with its body.
        connection_bytes::count_downstream(connection, stream, up.wire_bytes);
        connection_bytes::count_upstream(upstream.cluster(), stream);
    }
}
