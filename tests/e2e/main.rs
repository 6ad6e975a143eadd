//! Black-box tests: the built binary between scripted clients and scripted upstreams, over real sockets.
//!
//! Every test runs on both I/O back ends. Where the host refuses io_uring, those runs say so and count as passed; with
//! `RINGWAY_REQUIRE_IO_URING=1` that is a failure. Nothing sleeps to let something happen: a test waits for an event, and
//! every wait has a deadline (`harness::PATIENCE`).
#![allow(
    clippy::unwrap_used,
    clippy::needless_collect,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, start all threads before they join one, and have deadlines of their own"
)]

mod harness;

mod admin;
mod backends;
mod balance;
mod bodies;
mod circuit_breakers;
mod clusters;
mod config_dump;
mod connection_bytes;
mod doctor;
mod drop_overload;
mod extended_connect;
mod first_use;
mod grpc;
mod hashing;
mod http2;
mod http2_flow;
mod http2_limits;
mod interim;
mod internal_listeners;
mod isolation;
mod keep_alive;
mod lifecycle;
mod listener_filters;
mod load_reports;
mod logs;
mod network_filters;
mod original_dst;
mod pool;
mod rbac;
mod restart;
mod scoped_routes;
mod smuggling;
mod soak;
mod tcp;
mod timeouts;
mod tls;
mod tls_choice;
mod tls_names;
mod tls_over_time;
mod translation;
mod trusted_clients;
mod tunneling;
mod tunnels;
mod unix_endpoints;
mod unix_listeners;
mod upstream_failures;
mod xds;
mod xds_addresses;
mod xds_clusters;
mod xds_connection_filters;
mod xds_filters;
mod xds_generations;
mod xds_hosts;
mod xds_listeners;
mod xds_runtime;
mod xds_scopes;
mod xds_secrets;
