//! Plain immutable configuration types, as converted from the Envoy v3 API. No prost, no I/O.
pub mod access_log;
pub mod error;
pub mod matcher;
pub mod route;
