//! The process as the admin endpoint sees it: identity, resources, and a way to post commands.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::dump;
use crate::base::clock::{self, Clock};
use crate::cli::{self, Options};
use crate::cluster::HostSpec;
use crate::config::address::Address;
use crate::config::bootstrap::{Bootstrap, Node, RuntimeLayer};
use crate::config::endpoint::ClusterLoadAssignment;
use crate::control::admin::{
    AdminCommand, AdminState, ClusterStatus, DumpSection, HostStatus, ListenerStatus, ServerInfo, ServerState,
};
use crate::snapshot::{ClusterResource, HostRegistry};
use crate::telemetry::{ClusterStat, Registry, Slot};

/// What the control thread knows, shared with the admin endpoint.
#[derive(Debug)]
pub(super) struct Process {
    clock: Clock,
    options: Options,
    bootstrap: Bootstrap,
    /// The bootstrap's wire bytes.
    wire: Arc<[u8]>,
    /// When the bootstrap was taken, RFC 3339.
    loaded: String,
    registry: Arc<Registry>,
    backend: (String, String),
    workers: String,
    listeners: Vec<ListenerStatus>,
    endpoints: Mutex<HashMap<Box<str>, Endpoints>>,
    state: AtomicU8,
    commands: UnboundedSender<AdminCommand>,
}

/// Endpoints of a cluster as last published.
#[derive(Debug, Default)]
struct Endpoints {
    registry: HostRegistry,
    assignment: ClusterLoadAssignment,
    hosts: Arc<[HostSpec]>,
}

/// What the process is made of, for [`Process::new`].
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) options: Options,
    pub(super) bootstrap: Bootstrap,
    pub(super) wire: Vec<u8>,
    pub(super) registry: Arc<Registry>,
    /// What the workers start with: their hosts' counters are those that are shown.
    pub(super) clusters: &'a [Arc<ClusterResource>],
    pub(super) backend: (String, String),
    pub(super) workers: String,
    pub(super) listeners: Vec<ListenerStatus>,
    pub(super) commands: UnboundedSender<AdminCommand>,
}

impl Process {
    pub(super) fn new(parts: Parts<'_>) -> Arc<Self> {
        let Parts { options, bootstrap, wire, registry, clusters, backend, workers, listeners, commands } =
            parts;
        let process = Arc::new(Self {
            clock: Clock::start(),
            options,
            bootstrap,
            wire: wire.into(),
            loaded: timestamp(clock::wall_ns()),
            registry,
            backend,
            workers,
            listeners,
            endpoints: Mutex::default(),
            state: AtomicU8::new(ServerState::PreInitializing as u8),
            commands,
        });
        for ClusterResource { config, hosts, .. } in clusters.iter().map(AsRef::as_ref) {
            let endpoints = Endpoints { registry: HostRegistry::of(hosts), ..Endpoints::default() };
            process.lock().insert(config.name.clone(), endpoints);
            process.publish(&config.name, &config.load_assignment);
        }
        process
    }

    pub(super) fn set_state(&self, state: ServerState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// How long it has been there.
    pub(super) fn age(&self) -> Duration {
        Duration::from_nanos(self.clock.now().0)
    }

    fn state(&self) -> ServerState {
        let states = [
            ServerState::Live,
            ServerState::Draining,
            ServerState::PreInitializing,
            ServerState::Initializing,
        ];
        let number = self.state.load(Ordering::Relaxed);
        states.into_iter().find(|&state| state as u8 == number).unwrap_or(ServerState::Live)
    }

    /// Takes note of a cluster's endpoints; the hosts that workers balance over.
    pub(super) fn publish(&self, cluster: &str, assignment: &ClusterLoadAssignment) -> Arc<[HostSpec]> {
        let mut all = self.lock();
        let endpoints = all.entry(cluster.into()).or_default();
        endpoints.hosts = endpoints.registry.resolve(assignment, &self.registry);
        endpoints.assignment = assignment.clone();
        let config = self.bootstrap.clusters.iter().find(|config| &*config.name == cluster);
        if let Some(config) = config {
            use crate::config::endpoint::HealthStatus::{Degraded, Healthy, Unknown};
            let cells = self.registry.cluster(config.stat_name()).cells(Slot::Control);
            let count = |healthy: &dyn Fn(&HostSpec) -> bool| {
                endpoints.hosts.iter().filter(|host| healthy(host)).count()
            };
            let healthy = count(&|host| matches!(host.health, Unknown | Healthy));
            cells.inc(ClusterStat::MembershipChange);
            cells.gauge_set(ClusterStat::MembershipTotal, endpoints.hosts.len() as u64);
            cells.gauge_set(ClusterStat::MembershipHealthy, healthy as u64);
            cells.gauge_set(ClusterStat::MembershipDegraded, count(&|host| host.health == Degraded) as u64);
        }
        Arc::clone(&endpoints.hosts)
    }

    /// The hosts of a cluster as last published.
    pub(super) fn hosts(&self, cluster: &str) -> Option<Arc<[HostSpec]>> {
        self.lock().get(cluster).map(|endpoints| Arc::clone(&endpoints.hosts))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Endpoints>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AdminState for Process {
    fn server_info(&self) -> ServerInfo {
        ServerInfo {
            state: self.state(),
            uptime: self.age(),
            version: cli::build_version(),
            command_line_options: self.options.to_json(self.registry.workers()),
            node: node(&self.bootstrap.node),
            io_backend: self.backend.0.clone(),
            io_backend_reason: self.backend.1.clone(),
            workers: self.workers.clone(),
        }
    }

    fn clusters(&self) -> Vec<ClusterStatus> {
        let all = self.lock();
        let hosts = |name: &str| {
            let Some(endpoints) = all.get(name) else { return Vec::new() };
            endpoints.hosts.iter().map(|host| status(host, &endpoints.assignment)).collect()
        };
        self.bootstrap
            .clusters
            .iter()
            .map(|cluster| ClusterStatus {
                name: (*cluster.name).into(),
                observability_name: cluster.stat_name().into(),
                added_via_api: false,
                circuit_breakers: cluster.circuit_breakers.clone(),
                hosts: hosts(&cluster.name),
            })
            .collect()
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        self.listeners.clone()
    }

    fn config_dump(&self, _include_eds: bool) -> Vec<DumpSection> {
        // Endpoints of static clusters are shown within them.
        dump::sections(&self.wire, &self.loaded)
    }

    fn runtime_layers(&self) -> Vec<RuntimeLayer> {
        self.bootstrap.runtime_layers.clone()
    }

    fn command(&self, command: AdminCommand) {
        // Nobody listens any more: the process is about to end anyway.
        let _ = self.commands.send(command);
    }
}

fn status(host: &HostSpec, assignment: &ClusterLoadAssignment) -> HostStatus {
    use crate::config::address::EndpointAddress;
    let address = EndpointAddress::Fixed(Address::Ip(host.address));
    let locality =
        assignment.localities.iter().find(|locality| locality.endpoints.iter().any(|e| e.address == address));
    HostStatus {
        address: Address::Ip(host.address),
        hostname: (*host.hostname).into(),
        health: host.health,
        weight: host.weight,
        priority: host.priority,
        locality: locality.map(|locality| locality.locality.clone()).unwrap_or_default(),
        canary: false,
        stats: Arc::clone(&host.stats),
    }
}

/// A wall time as RFC 3339.
fn timestamp(wall_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(wall_ns)).map(|time| time.to_string()).unwrap_or_default()
}

fn node(node: &Node) -> Value {
    json!({
        "id": node.id,
        "cluster": node.cluster,
        "metadata": node.metadata,
        "locality": {
            "region": node.locality.region,
            "zone": node.locality.zone,
            "sub_zone": node.locality.sub_zone,
        },
    })
}
