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
mod application_log;
mod at;
mod bootstrap;
mod circuit_breakers;
mod cluster;
mod config_source;
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
mod metadata_matcher;
mod network_filter;
mod original_dst;
mod proxy_protocol;
mod rbac;
mod references;
mod report;
mod route;
mod runtime;
mod scoped_routes;
mod socket;
mod stats;
mod tcp_proxy;
mod tls;
mod told_filter;
mod value;

#[cfg(test)]
mod tests;

use std::cell::RefCell;

use prost::Message;

pub use config_source::Planes;
pub use fields::{Classified, Field, markdown};
pub use report::{Class, Finding, Report, Unimplemented};
pub use runtime::{Runtime, RuntimeValues, runtime_text};
pub(super) use value::duration_of;

use self::at::At;
use super::pb;
use crate::config::bootstrap::Bootstrap;
use crate::config::cluster::Cluster;
use crate::config::endpoint::ClusterLoadAssignment;
use crate::config::error::ConfigError;
use crate::config::listener::Listener;
use crate::config::route::RouteConfiguration;
use crate::config::scoped_routes::ToldScope;
use crate::config::secret::Secret;
use crate::config::tls::CertificateValidation;
use crate::config::told_filter::TypedFilter;

/// Converts an encoded `envoy.config.bootstrap.v3.Bootstrap`.
///
/// # Errors
/// The report, when it has errors.
pub fn convert_bootstrap(
    wire: &[u8],
    unimplemented: Unimplemented,
) -> Result<(Bootstrap, Surroundings, Report), Report> {
    let message = match pb::bootstrap::Bootstrap::decode(wire) {
        Ok(message) => message,
        Err(error) => {
            return Err(ConfigError::new("", format!("not an encoded bootstrap: {error}")).into());
        }
    };
    let (converted, context) = bootstrap::bootstrap(message, unimplemented);
    let report = context.report.take();
    let surroundings = Surroundings {
        context: at::Context { unimplemented: Unimplemented::Accept, ..context },
        planes: config_source::Planes::of(&converted),
    };
    if report.errors.0.is_empty() { Ok((converted, surroundings, report)) } else { Err(report) }
}

/// What clusters and listeners of a control plane have of the bootstrap: defaults, static secrets, runtime values.
#[derive(Clone, Debug)]
pub struct Surroundings {
    context: at::Context,
    planes: config_source::Planes,
}

impl Surroundings {
    /// Converts a `envoy.config.cluster.v3.Cluster` of a control plane.
    ///
    /// # Errors
    /// The report, when it has errors.
    pub fn convert_cluster(&mut self, message: pb::cluster::Cluster) -> Result<(Cluster, Report), Report> {
        let at = At::root(&self.context);
        let converted = cluster::cluster(&at, message);
        converted.iter().for_each(|cluster| self.planes.check_cluster(&at, cluster));
        self.outcome(converted)
    }

    /// Converts a `envoy.config.listener.v3.Listener` of a control plane.
    ///
    /// # Errors
    /// The report, when it has errors.
    pub fn convert_listener(
        &mut self,
        message: pb::listener::Listener,
    ) -> Result<(Listener, Report), Report> {
        let at = At::root(&self.context);
        let converted = listener::listener(&at, message);
        converted.iter().for_each(|listener| self.planes.check_listener(&at, listener));
        self.outcome(converted)
    }

    /// The runtime that all configuration refers to.
    pub fn runtime(&self) -> &Runtime {
        &self.context.runtime
    }

    fn outcome<T>(&self, converted: Option<T>) -> Result<(T, Report), Report> {
        let report = self.context.report.take();
        match converted {
            Some(taken) if report.errors.0.is_empty() => Ok((taken, report)),
            _ => Err(report),
        }
    }
}

impl Default for Surroundings {
    /// Those of an empty bootstrap.
    fn default() -> Self {
        Self { context: dynamic(&Runtime::default()), planes: config_source::Planes::default() }
    }
}

/// Converts a `envoy.config.endpoint.v3.ClusterLoadAssignment` of a control plane.
///
/// # Errors
/// The report, when it has errors.
pub fn convert_endpoints(
    message: pb::endpoint::ClusterLoadAssignment,
) -> Result<(ClusterLoadAssignment, Report), Report> {
    let context = dynamic(&Runtime::default());
    let assignment = endpoint::assignment(&At::root(&context), message, false);
    let report = context.report.into_inner();
    if report.errors.0.is_empty() { Ok((assignment, report)) } else { Err(report) }
}

/// The same of an encoded one that was accepted before.
pub fn accepted_endpoints(wire: &[u8]) -> ClusterLoadAssignment {
    let message = pb::endpoint::ClusterLoadAssignment::decode(wire).ok();
    let converted = message.and_then(|message| convert_endpoints(message).ok());
    debug_assert!(converted.is_some(), "what was accepted can be converted again");
    converted.map(|(assignment, _)| assignment).unwrap_or_default()
}

/// Converts a `envoy.config.route.v3.RouteConfiguration` of a control plane. `lacking`: filters of the managers that ask
/// for it which this version lacks; `runtime`: what it may refer to; `is_accepted`: whether it was taken before, whatever runtime
/// values and clusters there were then.
///
/// # Errors
/// The report, when it has errors.
pub fn convert_routes(
    message: pb::route::RouteConfiguration,
    lacking: &[String],
    runtime: &Runtime,
    is_accepted: bool,
) -> Result<(RouteConfiguration, Report), Report> {
    let context = at::Context { is_accepted, ..dynamic(runtime) };
    let at = At::root(&context);
    let table = route::route_configuration(&at, message, false);
    http_filter::refuse_enabled(&at, &table, lacking);
    let report = context.report.into_inner();
    if report.errors.0.is_empty() { Ok((table, report)) } else { Err(report) }
}

/// Converts a `envoy.config.route.v3.ScopedRouteConfiguration` that was told.
///
/// # Errors
/// The report, when it has errors.
pub fn convert_scope(message: pb::route::ScopedRouteConfiguration) -> Result<(ToldScope, Report), Report> {
    let context = dynamic(&Runtime::default());
    let converted = scoped_routes::told(&At::root(&context), message);
    let report = context.report.into_inner();
    match converted {
        Some(scope) if report.errors.0.is_empty() => Ok((scope, report)),
        _ => Err(report),
    }
}

/// Converts a `envoy.config.core.v3.TypedExtensionConfig` of a filter. `runtime`: what it may refer to.
///
/// # Errors
/// The report, when it has errors.
pub fn convert_filter(
    message: pb::core::TypedExtensionConfig,
    runtime: &Runtime,
) -> Result<(TypedFilter, Report), Report> {
    let context = dynamic(runtime);
    let converted = told_filter::told(&At::root(&context), message);
    let report = context.report.into_inner();
    match converted {
        Some(filter) if report.errors.0.is_empty() => Ok((filter, report)),
        _ => Err(report),
    }
}

/// Converts a `envoy.service.runtime.v3.Runtime` of a control plane.
///
/// # Errors
/// The report, when it has errors.
pub fn convert_runtime(message: pb::runtime::Runtime) -> Result<(RuntimeValues, Report), Report> {
    let context = dynamic(&Runtime::default());
    let values = runtime::told(&At::root(&context), message);
    let report = context.report.into_inner();
    if report.errors.0.is_empty() { Ok((values, report)) } else { Err(report) }
}

/// Converts a `envoy.extensions.transport_sockets.tls.v3.Secret` that was told.
///
/// # Errors
/// The report, when it has errors.
pub fn convert_secret(message: pb::tls::Secret) -> Result<(Secret, Report), Report> {
    let context = dynamic(&Runtime::default());
    let converted = tls::told(&context, message);
    tls::outcome(context, converted)
}

/// Rules of verification that were told, merged into a default: both encoded `CertificateValidationContext`s.
///
/// # Errors
/// The report, when it has errors.
pub fn merge_validation(default: &[u8], told: &[u8]) -> Result<(CertificateValidation, Report), Report> {
    let context = dynamic(&Runtime::default());
    let converted = tls::merged(&context, default, told);
    tls::outcome(context, converted)
}

/// What resources of a control plane are converted in: what is not there yet is listed and without effect.
fn dynamic(runtime: &Runtime) -> at::Context {
    at::Context {
        report: RefCell::default(),
        unimplemented: Unimplemented::Accept,
        runtime: runtime.clone(),
        default_dns: crate::config::cluster::Dns::default(),
        default_bind: None,
        internal_buffer_bytes: None,
        secrets: tls::Secrets::default(),
        is_accepted: false,
        known_bytes: RefCell::default(),
    }
}
