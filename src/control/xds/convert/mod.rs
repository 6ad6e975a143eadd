//! Conversion: wire bytes of Envoy messages into `config` types, with a class for every field.
//!
//! File and control plane share it (`control::xds::load_bootstrap` brings files here). Every message is taken apart
//! exhaustively by `classify!`, so that no field can be overlooked: it is implemented, has no effect for a reason, is
//! not there yet, or is refused. A conversion does not stop at the first mistake: its [`Report`] has them all, each
//! with the field's path.
#![allow(
    clippy::needless_collect,
    reason = "every element is converted before the first failure is returned: all mistakes are reported"
)]

mod access_log;
mod address;
mod at;
mod bootstrap;
mod cluster;
mod dns;
mod endpoint;
mod fields;
mod filter_chain;
mod format;
mod http;
mod http2;
mod http_connection_manager;
mod http_filter;
mod listener;
mod listener_filter;
mod load_balancing;
mod matcher;
mod matching;
mod messages;
mod network_filter;
mod original_dst;
mod proxy_protocol;
mod rbac;
mod references;
mod report;
mod route;
mod runtime;
mod socket;
mod stats;
mod tcp_proxy;
mod tls;
mod value;

#[cfg(test)]
mod tests;

use prost::Message;

pub use fields::{Classified, Field, markdown};
pub use report::{Class, Finding, Report, Unimplemented};

use super::pb;
use crate::config::bootstrap::Bootstrap;
use crate::config::error::ConfigError;

/// Converts an encoded `envoy.config.bootstrap.v3.Bootstrap`.
///
/// # Errors
/// The report, when it has errors.
pub fn convert_bootstrap(wire: &[u8], unimplemented: Unimplemented) -> Result<(Bootstrap, Report), Report> {
    let message = match pb::bootstrap::Bootstrap::decode(wire) {
        Ok(message) => message,
        Err(error) => {
            return Err(ConfigError::new("", format!("not an encoded bootstrap: {error}")).into());
        }
    };
    let (converted, report) = bootstrap::bootstrap(message, unimplemented);
    if report.errors.0.is_empty() { Ok((converted, report)) } else { Err(report) }
}
