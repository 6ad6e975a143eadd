//! What filter chains are compiled to: immutable, shared by all cores, made off the data path; the HTTP filters, and what
//! filters of requests and of connections share ([`rbac`]).
//!
//! A chain is one HTTP connection manager. Its HTTP filters ([`chain`]) see a request's head, data and trailers in order,
//! and those of the response in reverse; the router, always the last, is `proxy`'s.

pub mod access_log;
mod body;
pub mod chain;
mod connection_manager;
pub mod http;
pub mod network;
pub mod on_demand;
pub mod rbac;
#[cfg(test)]
mod tests;

pub use connection_manager::{CompileError, CompileServices, ConnectionManager, Scopes};
