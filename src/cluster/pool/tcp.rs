//! Connections that are relayed: one for each client's, never used again.

use std::rc::Rc;

use super::connection::{ConnectError, UpstreamConnection};
use super::dial::dial;
use super::turns;
use crate::cluster::host::Host;
use crate::cluster::local::Cluster;
use crate::protocol::tls::Offer;
use crate::runtime::Timer;

/// Waits until circuit breakers let a connection be opened.
///
/// # Errors
/// [`ConnectError`].
pub async fn await_turn(cluster: &Rc<Cluster>, host: &Rc<Host>) -> Result<(), ConnectError> {
    turns::wait(cluster, host, Offer::Opaque, false).await.map(drop)
}

/// Opens a connection, after [`await_turn`]. The cluster's `connect_timeout` bounds it. It counts as a request; that there are too
/// many of those is no reason to refuse it, as in Envoy.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
    timer: &Timer,
    id: u64,
) -> Result<UpstreamConnection, ConnectError> {
    let begun = cluster.runtime().now();
    let transport = dial(cluster, host, timer, Offer::Opaque)
        .await
        .inspect_err(|failure| host.turns().fail(cluster, *failure))?;
    let now = cluster.runtime().now();
    let mut connection = UpstreamConnection::opaque(transport, cluster, host, id, begun, now);
    connection.begin();
    Ok(connection)
}
