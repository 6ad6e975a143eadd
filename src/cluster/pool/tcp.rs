//! Connections that are relayed: one for each client's, never used again.

use std::rc::Rc;

use super::connection::{ConnectError, UpstreamConnection};
use super::dial::dial;
use crate::cluster::host::Host;
use crate::cluster::local::Cluster;
use crate::protocol::tls::Offer;
use crate::runtime::Timer;
use crate::telemetry::ClusterStat;

/// Opens a connection. The cluster's `connect_timeout` bounds it.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
    timer: &Timer,
    id: u64,
) -> Result<UpstreamConnection, ConnectError> {
    let stats = cluster.stats();
    stats.inc(ClusterStat::UpstreamRqPendingTotal);
    let pending = stats.active(ClusterStat::UpstreamRqPendingActive);
    let transport = dial(cluster, host, timer, Offer::Opaque).await?;
    drop(pending);
    let mut connection = UpstreamConnection::opaque(transport, cluster, host, id, cluster.runtime().now());
    connection.begin();
    Ok(connection)
}
