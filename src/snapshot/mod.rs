//! Configuration compiled for the workers: immutable, per resource, made off the data path.
//!
//! Everything that can fail has failed here; a worker only builds its own handles from it (`worker::apply`).
mod compile;
mod filter_chain;
mod generation;
mod hosts;
mod limits;
mod listeners;
mod routes;
mod sockets;
mod told_filters;
mod told_listeners;
mod told_scopes;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::base::balance::Balance;
use crate::cluster::ClusterSet;
use crate::config::listener::Listener;
use crate::config::listener_filter::ListenerFilter;
use crate::config::tcp_proxy::TcpProxy;
use crate::filter::ConnectionManager;
use crate::filter::chain::FilterScopes;
use crate::filter::network::{
    ChainChoice, ConnectionLimit, HeaderTlvs, ListenerLimit, LocalRateLimit, Tunneling,
};
use crate::filter::rbac::{CountersScope, NetworkRbac};
use crate::format::access_log::AccessLog;
use crate::protocol::tls::{Secured, ServerTls};
use crate::telemetry::{
    ConnectionLimitStat, HttpStat, ListenerStat, LocalRateLimitStat, ProxyProtocolStat, Scope, TcpStat,
};

pub use compile::Compiler;
pub use filter_chain::own_limit;
pub use generation::{ClustersChange, Generation};
pub use hosts::{note_members, resolve_hosts};
pub use listeners::ListenerCompiler;
pub use routes::{AskedTable, OpenSink, RouteCompiler, RouteSurroundings, RoutesResource};
pub use sockets::{ClusterCompiler, ClusterResource, SocketCompiler};
pub use told_filters::{AskedFilter, FilterKey};
pub use told_scopes::{AskedScopes, ScopeCounts};

/// All resources of one generation.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub clusters: Arc<ClusterSet>,
    /// In the order of the configuration.
    pub listeners: Vec<Arc<ListenerResource>>,
    /// TLS of their chains that has come since they were compiled.
    pub tls: Vec<ChainTls>,
    /// Bytes that wait within a connection to an internal listener for each of its ends; `None`: as Envoy's default.
    pub internal_buffer_bytes: Option<u32>,
}

/// TLS of a filter chain, in place of what was compiled with it.
#[derive(Clone, Debug)]
pub struct ChainTls {
    /// The listener's number.
    pub listener: usize,
    /// The place of the chain in it.
    pub chain: usize,
    pub tls: Arc<ServerTls>,
}

/// A listener.
#[derive(Clone, Debug)]
pub struct ListenerResource {
    pub config: Arc<Listener>,
    pub stats: Arc<Scope<ListenerStat>>,
    /// What looks at connections before a chain is chosen for them; `None`: one of these is told, and none is there.
    pub filters: Option<ListenerFiltersResource>,
    /// How its connections spread over the workers; `None`: there is one.
    pub balance: Option<Arc<Balance>>,
    /// How many of them there may be; `None`: any number.
    pub limit: Option<ListenerLimit>,
    /// What is recorded of every connection.
    pub access_logs: Arc<[AccessLog]>,
    /// Which chain takes a connection.
    pub choice: Arc<ChainChoice>,
    /// The chains: those that are chosen from, then the default chain, if there is one.
    pub chains: Box<[FilterChainResource]>,
}

/// Filters of a listener.
#[derive(Clone, Debug)]
pub struct ListenerFiltersResource {
    /// In their order; what was told is in the place of those that are told.
    pub filters: Arc<[ListenerFilter]>,
    /// Counters of those for the PROXY protocol, one each, in their order.
    pub proxy_protocol: Box<[Arc<Scope<ProxyProtocolStat>>]>,
}

/// A filter chain.
#[derive(Clone, Debug)]
pub struct FilterChainResource {
    pub name: Box<str>,
    /// TLS of its connections; `None`: plain text.
    pub tls: Option<Secured<ServerTls>>,
    /// Its filters, in order; without any connections are closed.
    pub filters: Arc<[FilterResource]>,
}

/// A filter of a chain. Clones are the same one, with its limits.
#[derive(Clone, Debug)]
pub enum FilterResource {
    /// It lets a connection pass or does not.
    Gate(Gate),
    /// Who may go on once the first byte is there.
    Access(Arc<AccessResource>),
    /// The server name of TLS is the name of the cluster that a TCP proxy relays to.
    SniCluster,
    /// One that is never on.
    Off,
    /// One that is told, and none is there: connections are closed.
    Missing,
    Http(Arc<HttpResource>),
    Tcp(Arc<TcpResource>),
    Echo,
    DirectResponse(Arc<[u8]>),
}

/// Filters of a listener some of which are told, as connections meet them from now on.
#[derive(Clone, Debug)]
pub struct FiltersResource {
    /// The listener's number.
    pub listener: usize,
    pub filters: NewFilters,
}

/// Which filters those are.
#[derive(Clone, Debug)]
pub enum NewFilters {
    /// Of the chain in this place.
    Network(usize, Arc<[FilterResource]>),
    /// The listener's own: see [`ListenerResource::filters`].
    Listener(Option<ListenerFiltersResource>),
}

/// A filter that lets a connection pass or does not.
#[derive(Clone, Debug)]
pub enum Gate {
    ConnectionLimit { limit: ConnectionLimit, stats: Arc<Scope<ConnectionLimitStat>> },
    LocalRateLimit { limit: LocalRateLimit, stats: Arc<Scope<LocalRateLimitStat>> },
}

/// A filter of access by role.
#[derive(Debug)]
pub struct AccessResource {
    pub filter: Arc<NetworkRbac>,
    pub stats: CountersScope,
}

/// An HTTP connection manager.
#[derive(Debug)]
pub struct HttpResource {
    pub manager: Arc<ConnectionManager>,
    pub stats: Arc<Scope<HttpStat>>,
    /// Counters of its HTTP filters.
    pub filter_stats: FilterScopes,
}

/// A TCP proxy.
#[derive(Debug)]
pub struct TcpResource {
    pub config: Arc<TcpProxy>,
    /// What an HTTP proxy is asked for; `None`: endpoints are none.
    pub tunneling: Option<Arc<Tunneling>>,
    /// TLVs of its own; `None`: none.
    pub tlvs: Option<Arc<HeaderTlvs>>,
    pub access_logs: Arc<[AccessLog]>,
    pub stats: Arc<Scope<TcpStat>>,
}

/// What changes of the listeners, as one.
#[derive(Debug, Default)]
pub struct ListenersChange {
    /// New ones, in their order.
    pub put: Vec<PutListener>,
    /// Numbers of those that are gone.
    pub removed: Vec<usize>,
    /// Over which time clients of what is gone or cannot go on are told to go, and until when they may stay.
    pub spread: Duration,
    pub stay: Duration,
}

/// A listener that is new, or takes another's place.
#[derive(Debug)]
pub struct PutListener {
    pub number: usize,
    pub resource: Arc<ListenerResource>,
    /// Its tables of a control plane.
    pub routes: Vec<RoutesResource>,
    /// Its TLS, where that is newer than the resource.
    pub tls: Vec<ChainTls>,
    /// Its filters that are told, and those beside them, where those are newer.
    pub filters: Vec<FiltersResource>,
    pub replaces: Option<Replaced>,
}

/// The listener whose place another takes.
#[derive(Debug)]
pub struct Replaced {
    pub number: usize,
    /// Its sockets stay.
    pub keeps_sockets: bool,
    /// The other differs in chains alone. Source: Envoy `filterChainOnlyChange`.
    pub in_place: bool,
    /// See [`Listener::successors`].
    pub successors: Vec<Option<usize>>,
    /// See [`Listener::kept_chains`].
    pub kept: Vec<Option<usize>>,
}

impl ListenersChange {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.removed.is_empty()
    }

    /// How many listeners drain with it, and how many chains of listeners that change in place. Those that workers were never told
    /// of have nothing to drain. Source: Envoy `total_listeners_draining`, `total_filter_chains_draining`.
    pub fn draining(&self) -> [u64; 2] {
        let new: BTreeSet<_> = self.put.iter().map(|put| put.number).collect();
        let removed = self.removed.iter().filter(|number| !new.contains(*number)).count();
        let (mut listeners, mut chains) = (removed, 0);
        let replaced = self.put.iter().filter_map(|put| put.replaces.as_ref());
        for before in replaced.filter(|before| !new.contains(&before.number)) {
            if before.in_place {
                chains += before.kept.iter().filter(|next| next.is_none()).count();
            } else {
                listeners += 1;
            }
        }
        [listeners as u64, chains as u64]
    }
}

impl ListenerResource {
    /// The chain that takes what no other does.
    pub fn default_chain(&self) -> Option<usize> {
        self.config.default_filter_chain.as_ref().map(|_| self.config.filter_chains.len())
    }
}
