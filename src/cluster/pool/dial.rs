//! Opening a connection to a host, for pools of either kind: bound, bounded by `connect_timeout`, counted when it fails.

use std::rc::Rc;
use std::time::Duration;

use super::connection::ConnectError;
use crate::cluster::host::Host;
use crate::cluster::local::Cluster;
use crate::protocol::transport::Transport;
use crate::runtime::{TcpStream, Timer};
use crate::telemetry::names::{ClusterHistogram, ClusterStat, HostStat};

/// Opens a connection. `http2`: as which it is counted if it fails.
///
/// # Errors
/// [`ConnectError`].
pub(super) async fn dial(
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
    timer: &Timer,
    http2: bool,
) -> Result<Transport, ConnectError> {
    let runtime = cluster.runtime();
    let begun = runtime.now();
    let (source, options) = cluster.bind_for(host.address());
    let connect = TcpStream::connect(runtime, host.address(), source, options);
    let stats = cluster.stats();
    let outcome = timer.at(begun.after(cluster.config().connect_timeout), connect).await;
    let stream = match outcome {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            if source.is_some() && matches!(errno, libc::EADDRNOTAVAIL | libc::EADDRINUSE | libc::EACCES) {
                stats.inc(ClusterStat::BindErrors);
            }
            count_failed(cluster, host, runtime.now().since(begun), false, http2);
            return Err(ConnectError::Failed(errno));
        }
        Err(_) => {
            count_failed(cluster, host, runtime.now().since(begun), true, http2);
            return Err(ConnectError::Timeout);
        }
    };
    if let Some(keepalive) = cluster.keepalive() {
        // Probes are a help, not a promise: a refusal is no reason to fail the request.
        let _ = stream.set_keepalive(keepalive);
    }
    let took = u64::try_from(runtime.now().since(begun).as_millis()).unwrap_or(u64::MAX);
    stats.record(ClusterHistogram::UpstreamCxConnectMs, took);
    Ok(stream.into())
}

/// Counts a connection that was never there, as Envoy does: made, and gone at once; the
/// request it was for failed.
fn count_failed(cluster: &Cluster, host: &Host, lived: Duration, timed_out: bool, http2: bool) {
    let stats = cluster.stats();
    let side =
        if timed_out { ClusterStat::UpstreamCxDestroyLocal } else { ClusterStat::UpstreamCxDestroyRemote };
    for counter in [
        ClusterStat::UpstreamCxTotal,
        if http2 { ClusterStat::UpstreamCxHttp2Total } else { ClusterStat::UpstreamCxHttp1Total },
        ClusterStat::UpstreamCxConnectFail,
        ClusterStat::UpstreamCxDestroy,
        side,
    ] {
        stats.inc(counter);
    }
    if timed_out {
        stats.inc(ClusterStat::UpstreamCxConnectTimeout);
    }
    stats.record(ClusterHistogram::UpstreamCxLengthMs, u64::try_from(lived.as_millis()).unwrap_or(u64::MAX));
    host.stats().inc(HostStat::CxTotal);
    host.stats().inc(HostStat::CxConnectFail);
    host.stats().inc(HostStat::RqError);
}
