//! What filter chains are compiled to: immutable, shared by all cores, made off the data path.
//!
//! In this version a chain is one HTTP connection manager whose only HTTP filter is the router.
mod connection_manager;

pub use connection_manager::{CompileError, CompileServices, ConnectionManager};
