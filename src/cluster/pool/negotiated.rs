//! Connections to an endpoint that chooses the protocol: HTTP/2 ones are shared, HTTP/1.1 ones are a request's own. Source:
//! Envoy `HttpProtocolOptions.auto_config`.
//!
//! As long as nobody knows what it chooses, or it chose HTTP/2, one connection is dialed for all that wait; once it chose
//! HTTP/1.1 each dials for itself. An endpoint may change its mind: what counts is what a connection came to be.

use std::rc::Rc;

use super::connection::{ConnectError, UpstreamConnection};
use super::dial::{agreed_on_http2, dial};
use super::{http1, http2};
use crate::cluster::host::Host;
use crate::cluster::local::Cluster;
use crate::protocol::tls::Offer;
use crate::runtime::Timer;

/// How often an endpoint may change its mind before a request gives up.
const CHANGES_MAX: usize = 4;

/// A connection that is there, of either protocol.
///
/// # Errors
/// [`ConnectError::Overflow`]: there is one, and a circuit breaker lets no request begin.
pub fn checkout_either(
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
) -> Result<Option<UpstreamConnection>, ConnectError> {
    match http2::checkout_shared(cluster, host)? {
        Some(shared) => Ok(Some(shared)),
        // Those that wait have come before.
        None if !host.turns().streams().is_empty() => Ok(None),
        None => http1::checkout(cluster, host),
    }
}

/// A stream of a connection, or, of an endpoint that has the choice, a connection of its own. `next_id` gives numbers to connections that are dialed for it.
///
/// # Errors
/// The connection that was dialed for it failed.
pub async fn negotiate(
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
    timer: &Timer,
    offer: Offer,
    next_id: impl Fn() -> u64,
) -> Result<UpstreamConnection, ConnectError> {
    // One for all of it: who has dialed what others may use has not lost its place.
    let place = host.turns().place();
    for _ in 0..CHANGES_MAX {
        if let Some(ready) = http2::acquire(cluster, host, next_id(), offer, place).await? {
            return Ok(ready);
        }
        let transport = dial(cluster, host, timer, offer)
            .await
            .inspect_err(|failure| host.turns().fail(cluster, *failure))?;
        if !agreed_on_http2(&transport) {
            return http1::begin(transport, cluster, host, next_id());
        }
        http2::adopt(transport, cluster, host, next_id());
    }
    Err(ConnectError::Failed(libc::ECONNRESET))
}
