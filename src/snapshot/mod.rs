//! Configuration compiled for the workers: immutable, per resource, made off the data path.
//!
//! Everything that can fail has failed here; a worker only builds its own handles from it (`worker::apply`).
mod compile;
mod hosts;

use std::sync::Arc;

use crate::base::balance::Balance;
use crate::cluster::ClusterSet;
use crate::config::listener::Listener;
use crate::filter::ConnectionManager;
use crate::protocol::tls::ServerTls;
use crate::telemetry::{HttpStat, ListenerStat, ProxyProtocolStat, Scope};

pub use compile::{Compiler, SocketCompiler};
pub use hosts::{HostRegistry, note_members};

/// All resources of one generation.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub clusters: Arc<ClusterSet>,
    /// In the order of the configuration.
    pub listeners: Vec<Arc<ListenerResource>>,
}

/// A listener.
#[derive(Debug)]
pub struct ListenerResource {
    pub config: Arc<Listener>,
    pub stats: Arc<Scope<ListenerStat>>,
    /// Counters of its filters for the PROXY protocol, one each, in their order.
    pub proxy_protocol: Box<[Arc<Scope<ProxyProtocolStat>>]>,
    /// How its connections spread over the workers; `None`: there is one.
    pub balance: Option<Arc<Balance>>,
    /// TLS of its connections; `None`: plain text.
    pub tls: Option<Arc<ServerTls>>,
    /// What serves its connections; `None`: no chain matches any.
    pub http: Option<Arc<HttpResource>>,
}

/// An HTTP connection manager.
#[derive(Debug)]
pub struct HttpResource {
    pub manager: Arc<ConnectionManager>,
    /// Name of the filter chain.
    pub chain: Box<str>,
    pub stats: Arc<Scope<HttpStat>>,
}
