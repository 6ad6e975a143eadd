//! From a request's bytes to the counters of the connections that carry them.
//!
//! What is read and queued for a request is noted in its record. Those of a connection of HTTP/1 are counted from there: when the
//! request is over, and before that at every turn in which a body or a tunnel has moved, so that a long one shows as it
//! passes. A connection that streams share counts its own. All of them are counted above TLS, as in Envoy
//! (`Network::ConnectionImpl` counts what its transport socket hands over).

use super::copy::BodyCopy;
use super::downstream::Connection;
use super::stream::Stream;
use crate::cluster::Cluster;
use crate::protocol::http::head::Version;
use crate::telemetry::names::ClusterStat;

/// What of a request the counters have already.
#[derive(Debug, Default)]
pub(super) struct Counted {
    downstream: Moved,
    upstream: Moved,
}

/// Bytes of one side.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    received: u64,
    sent: u64,
}

/// Moves what is known of the request's body into its record: once it is over, or before the tunnel that it has become.
pub(super) fn note_body(stream: &mut Stream, body: &mut BodyCopy) {
    stream.info.bytes_received += std::mem::take(&mut body.received_bytes);
    stream.info.downstream_bytes.wire_received += std::mem::take(&mut body.wire_bytes);
}

/// Counts what has come from the client and gone to it. `in_body`: bytes of the request's body that its record does not have yet.
pub(super) fn count_downstream(connection: &Connection, stream: &mut Stream, in_body: u64) {
    if connection.shared().is_some() {
        return;
    }
    let bytes = &stream.info.downstream_bytes;
    let now = Moved { received: bytes.wire_received + in_body, sent: bytes.wire_sent };
    let counted = std::mem::replace(&mut stream.counted.downstream, now);
    connection.count_bytes(now.received - counted.received, now.sent - counted.sent);
}

/// Counts what has gone to the endpoint of the present attempt and come from it.
pub(super) fn count_upstream(cluster: &Cluster, stream: &mut Stream) {
    let bytes = &stream.info.upstream_bytes;
    let now = Moved { received: bytes.wire_received, sent: bytes.wire_sent };
    let counted = std::mem::replace(&mut stream.counted.upstream, now);
    // Of a connection with streams the bytes are counted as they pass.
    if stream.info.upstream_protocol != Some(Version::Http2) {
        let stats = cluster.stats();
        stats.add(ClusterStat::UpstreamCxRxBytesTotal, now.received - counted.received);
        stats.add(ClusterStat::UpstreamCxTxBytesTotal, now.sent - counted.sent);
    }
}

/// What a tunnel has brought upwards and downwards, on its way into the record.
#[derive(Debug, Default)]
pub(super) struct Tunnelled {
    up: u64,
    down: u64,
}

impl Tunnelled {
    /// Notes and counts what was moved since the last call; whether anything was.
    pub(super) fn note(
        &mut self,
        connection: &Connection,
        cluster: &Cluster,
        stream: &mut Stream,
        (up, down): (u64, u64),
    ) -> bool {
        let (more_up, more_down) = (up - self.up, down - self.down);
        (self.up, self.down) = (up, down);
        let info = &mut stream.info;
        info.bytes_received += more_up;
        info.bytes_sent += more_down;
        info.downstream_bytes.wire_received += more_up;
        info.downstream_bytes.wire_sent += more_down;
        info.upstream_bytes.wire_sent += more_up;
        info.upstream_bytes.wire_received += more_down;
        count_downstream(connection, stream, 0);
        count_upstream(cluster, stream);
        more_up + more_down > 0
    }
}
