//! What is counted of an attempt for its host, and of a forwarded request for its cluster, when it is over.

use super::connection_bytes;
use super::downstream::Connection;
use super::error::ProxyError;
use super::router::Forwarded;
use super::routing::Forward;
use super::stream::Stream;
use super::upstream_request::Ended;
use crate::base::clock::Now;
use crate::cluster::Host;
use crate::telemetry::names::{ClusterStat, HostStat};

/// Counts an attempt. As in Envoy a response counts with its head, whatever becomes of the rest, and that a client goes away says
/// nothing of the host.
pub(super) fn count_for_host(host: &Host, stream: &Stream, outcome: &Result<Ended, ProxyError>) {
    let stats = host.stats();
    match (stream.info.response_code, outcome) {
        (Some(status), _) => {
            stats.inc(if status < 500 { HostStat::RqSuccess } else { HostStat::RqError });
        }
        (None, Ok(_)) => stats.inc(HostStat::RqError),
        (None, Err(error)) if error.counts_for_cluster() => stats.inc(HostStat::RqError),
        (None, Err(_)) => {}
    }
    if outcome.is_err_and(ProxyError::is_upstream_timeout) {
        stats.inc(HostStat::RqTimeout);
    }
}

/// Counts a forwarded request and its answer. `complete`: when the request had arrived whole.
pub(super) fn count_response(
    connection: &Connection,
    stream: &mut Stream,
    complete: Option<Now>,
    forward: &Forward<'_>,
    outcome: &Forwarded,
) {
    let stats = forward.cluster.stats();
    let origin = forward.origin;
    match outcome {
        Forwarded::Complete { .. } | Forwarded::Tunnel(_) => {
            stats.upstream_response(origin, stream.info.response_code.unwrap_or(0));
            // How long the client took for its request is not the endpoint's, and of an early answer there is nothing to say.
            if let Some(complete) = complete {
                let took = connection.context.runtime.now().0.saturating_sub(complete.0) / 1_000_000;
                stats.upstream_rq_time(origin, took);
            }
        }
        Forwarded::Failed { error, .. } => {
            match error {
                ProxyError::ResponseTimeout { .. } => stats.inc(ClusterStat::UpstreamRqTimeout),
                ProxyError::PerTryTimeout { .. } => stats.inc(ClusterStat::UpstreamRqPerTryTimeout),
                ProxyError::UpstreamMaxStreamDuration { .. } => {
                    stats.inc(ClusterStat::UpstreamRqMaxDurationReached);
                }
                ProxyError::UpstreamClosed { .. }
                | ProxyError::UpstreamReset { .. }
                | ProxyError::UpstreamTruncated => {
                    stats.inc(ClusterStat::UpstreamRqRxReset);
                }
                ProxyError::DownstreamClosed | ProxyError::DownstreamReset => {
                    stats.inc(ClusterStat::UpstreamRqCancelled);
                }
                // Of one that still waited for a connection nothing is reset.
                ProxyError::RequestBody(_) | ProxyError::StreamIdleTimeout { .. }
                    if stream.info.upstream_timing.first_tx_ns.is_some() =>
                {
                    stats.inc(ClusterStat::UpstreamRqTxReset);
                }
                _ => {}
            }
            let own = error.status().filter(|_| error.counts_for_cluster());
            if let Some(status) = stream.info.response_code.or(own) {
                stats.upstream_response(origin, status);
            }
        }
    }
    connection_bytes::count_upstream(&forward.cluster, stream);
}
