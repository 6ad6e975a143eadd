//! The path of a connection and of a request through one core.
//!
//! `listener` accepts, `listener_filters` look at a connection's first bytes, `by_address` finds the listener that it meant, `downstream` serves a connection (`http2` one with streams), `http` lists the steps of a request, `routing` decides,
//! `router` forwards, `upstream_request` exchanges, `filters` and `copy` move bodies, `relay` a tunnel's bytes, both with `splice`, `load_metrics` takes what endpoints report of their load, `local_reply` answers for ourselves, `on_demand` lets requests wait for their virtual hosts.
mod access;
mod ahead;
mod by_address;
mod chain;
mod connection_bytes;
mod connection_record;
mod context;
mod copy;
mod date;
mod deadlines;
mod downstream;
mod drain;
mod error;
mod filter_chain;
mod filters;
mod handover;
mod handshake;
mod http;
mod http2;
mod listener;
mod listener_filters;
mod load_metrics;
mod local_reply;
mod on_demand;
mod pace;
mod posted;
mod preparation;
mod relay;
#[cfg(test)]
mod relay_tests;
mod replies;
mod response;
mod response_counts;
mod router;
mod routing;
mod splice;
mod stream;
mod tcp;
mod upgrade;
mod upstream_request;
mod wire;

pub use access::{Access, AccessFilter};
pub use by_address::ListenersByAddress;
pub use chain::HttpChain;
pub use context::WorkerContext;
pub use drain::Drain;
pub use error::{ProxyError, Retry, Side};
pub use filter_chain::{FilterChain, FilterChains, Gate, NetworkFilters, Terminal};
pub use handover::{Courier, Handover, Share};
pub use listener::{ConnectionLimit, ConnectionPermit, Listener, Seat, accept};
pub use listener_filters::ListenerFilters;
pub use on_demand::OnDemand;
pub use stream::{Stream, StreamPool};
pub use tcp::TcpChain;
