//! Connections to a host: opened on demand, kept while idle; of HTTP/1.1 the most recently used first, of HTTP/2 shared;
//! or whichever of the two an endpoint chooses.
mod connection;
mod dial;
mod http1;
mod http2;
mod negotiated;
pub mod tcp;
mod turns;

pub use connection::{ConnectError, UpstreamConnection};
pub use dial::dial;
pub use http1::{checkin, checkout, connect, sweep};
pub use http2::{Lease, SharedConnections, checkout_shared};
pub use negotiated::{checkout_either, negotiate};
pub use turns::{Turns, may_pool, pend};
