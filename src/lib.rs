//! Ringway: an io_uring, thread-per-core, shared-nothing proxy that takes Envoy's configuration.
//!
//! Rooms in the order in which they may import each other (ARCHITECTURE.md has the table,
//! `tests/tidy.rs` checks it).
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod base;
pub mod buffer;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod filter;
pub mod format;
#[doc(hidden)]
pub mod fuzz;
pub mod matching;
pub mod protocol;
pub mod proxy;
pub mod route;
pub mod runtime;
pub mod server;
pub mod snapshot;
pub mod telemetry;
pub mod worker;
