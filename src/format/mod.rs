//! Envoy command operators: parsed when configuration is converted, evaluated into bytes.
//!
//! Access logs, header values and the bodies of local replies are all written here. What a format reads
//! is a [`context::FormatContext`]; nothing is allocated, locked or asked of a clock while it is written.
pub mod access_log;
pub mod access_log_buffer;
pub mod access_log_queue;
mod coalesce;
pub mod context;
mod environment;
pub mod error;
pub mod filter;
pub mod formatter;
pub mod grpc_status;
pub mod header_additions;
pub mod json;
pub mod local_reply;
mod metadata;
mod operator;
mod operators;
mod parse;
mod query;
pub mod substitution;
mod text;
mod time;
mod tls;

#[cfg(test)]
mod tests;
