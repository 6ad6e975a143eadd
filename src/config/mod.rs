//! Plain immutable configuration types, as converted from the Envoy v3 API. No prost, no I/O.
//!
//! `control/xds/convert` fills them, `snapshot` compiles them, nobody changes them afterwards.
//! A value here has passed every check that needs one resource only; references between
//! resources (a route's cluster) are checked by whoever joins them.
//!
//! Durations that Envoy lets be switched off with `0s` are `Option<Duration>`, `None` being off.
pub mod access_log;
pub mod address;
pub mod ads;
pub mod bootstrap;
pub mod cluster;
pub mod endpoint;
pub mod error;
pub mod filter_chain;
pub mod http;
pub mod http2;
pub mod http_filter;
pub mod listener;
pub mod listener_filter;
pub mod load_metrics;
pub mod matcher;
pub mod matching;
pub mod metadata;
pub mod network_filter;
pub mod proxy_protocol;
pub mod rbac;
pub mod route;
pub mod runtime;
pub mod scoped_routes;
pub mod secret;
pub mod shared_bytes;
pub mod socket;
pub mod tcp_proxy;
pub mod tls;
pub mod told_filter;
pub mod transport_socket;
