//! Connections to a host: opened on demand, kept while idle, most recently used first.
mod connection;
mod http1;

pub use connection::{ConnectError, UpstreamConnection};
pub use http1::{checkin, checkout, connect, sweep};
