//! The process as the admin endpoint sees it: identity, resources, and a way to post commands.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::clusters::KnownClusters;
use super::drains::Drains;
use super::runtime_layers::RuntimeLayers;
use super::tables::TableKey;
use super::{breakers, dump, loads, memory, restart};
use crate::base::clock::{self, Clock};
use crate::base::packed;
use crate::base::socket_address::SocketAddress;
use crate::cli::{self, Options};
use crate::cluster::{ClusterSet, ClusterSpec, HostSpec, HostSpecs, PublishedCluster};
use crate::config::ads::ResourceSource;
use crate::config::bootstrap::{Bootstrap, Node};
use crate::config::endpoint::{Endpoint, Locality};
use crate::control::admin::{
    AdminCommand, AdminState, ClusterStatus, DumpSection, HostStatus, ListenerStatus, Quarantined,
    ServerInfo, ServerState, ShownLayer, TlsContext,
};
use crate::control::discovery::{Assignment, KeptAssignment};
use crate::control::xds::client::{KnownSecrets, Quarantine, Refused, ScopesUpdate};
use crate::runtime::allocator;
use crate::snapshot::{AskedScopes, FilterKey, note_members, resolve_hosts};
use crate::telemetry::{Registry, ServerStat, Slot};

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
    started: memory::Started,
    backend: (String, String),
    workers: String,
    listeners: Mutex<Vec<ListenerStatus>>,
    /// Listeners that a control plane has told, by name.
    told_listeners: Mutex<dump::ToldResources>,
    /// Those, and their chains, that others have replaced.
    drains: Mutex<Drains>,
    /// Those of the workers: their hosts' counters are those that are shown.
    clusters: KnownClusters,
    /// Clusters that a control plane has told, by name, those that still wait for their endpoints beside those in use.
    told_clusters: Mutex<dump::ToldResources>,
    /// Endpoints that discovery has found, in place of those the workers start with.
    endpoints: Mutex<BTreeMap<Arc<str>, Endpoints>>,
    /// Routing tables in use that a control plane has told.
    routes: Mutex<BTreeMap<TableKey, dump::Told>>,
    /// Filters in use that one has told.
    filters: Mutex<BTreeMap<FilterKey, dump::Told>>,
    /// Scopes of routes in use that one has told, and who has them.
    scopes: Mutex<dump::scoped_routes::ToldScopes>,
    /// What control planes have told and is not used.
    quarantine: Quarantine,
    secrets: KnownSecrets,
    pub(super) runtime: RuntimeLayers,
    /// TLS contexts in use.
    tls: Mutex<Vec<TlsContext>>,
    state: AtomicU8,
    commands: UnboundedSender<AdminCommand>,
    chain: Chain,
}

/// Endpoints of a cluster as last published by discovery.
#[derive(Debug)]
struct Endpoints {
    assignment: Arc<KeptAssignment>,
    hosts: Arc<HostSpecs>,
}

/// A cluster and what is known of its endpoints.
#[derive(Debug)]
pub(super) struct KnownCluster {
    pub(super) spec: Arc<ClusterSpec>,
    pub(super) hosts: Arc<HostSpecs>,
    /// What discovery has found, of which they are made; `None`: they are the configuration's.
    pub(super) found: Option<Arc<KeptAssignment>>,
}

impl Chain {
    /// Of which this process has that place; `None`: of itself.
    pub(super) fn of(place: Option<&restart::Place>) -> Self {
        let alone = Self { started_s: u64::MAX, generation: 1 };
        place.map_or(alone, |place| Self { started_s: place.started_s, generation: place.generation })
    }
}

/// What the process is made of, for [`Process::new`].
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) options: Options,
    pub(super) bootstrap: Bootstrap,
    pub(super) wire: Arc<[u8]>,
    pub(super) registry: Arc<Registry>,
    pub(super) started: memory::Started,
    pub(super) clusters: KnownClusters,
    pub(super) tls: Vec<TlsContext>,
    pub(super) secrets: KnownSecrets,
    pub(super) runtime: RuntimeLayers,
    pub(super) backend: (String, String),
    pub(super) workers: String,
    pub(super) listeners: Vec<ListenerStatus>,
    pub(super) commands: UnboundedSender<AdminCommand>,
    pub(super) chain: Chain,
}

/// The chain of processes that have replaced each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    /// When the first began, seconds since 1970.
    pub(super) started_s: u64,
    /// How many there were, this one included.
    pub(super) generation: u64,
}

impl Process {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            options,
            bootstrap,
            wire,
            registry,
            started,
            clusters,
            tls,
            secrets,
            runtime,
            backend,
            workers,
            listeners,
            commands,
            chain,
        } = parts;
        Arc::new(Self {
            clock: Clock::start(),
            options,
            bootstrap,
            wire,
            loaded: timestamp(clock::wall_ns()),
            registry,
            started,
            backend,
            workers,
            listeners: Mutex::new(listeners),
            told_listeners: Mutex::default(),
            drains: Mutex::default(),
            clusters,
            told_clusters: Mutex::default(),
            endpoints: Mutex::default(),
            routes: Mutex::default(),
            filters: Mutex::default(),
            scopes: Mutex::default(),
            quarantine: Quarantine::default(),
            secrets,
            runtime,
            tls: Mutex::new(tls),
            state: AtomicU8::new(ServerState::PreInitializing as u8),
            commands,
            chain,
        })
    }

    pub(super) fn set_state(&self, state: ServerState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Where it is listed what control planes have told and is not used.
    pub(super) fn quarantine_list(&self) -> Quarantine {
        self.quarantine.clone()
    }

    /// Takes note of the TLS contexts that are in use now.
    pub(super) fn set_tls(&self, contexts: Vec<TlsContext>) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = contexts;
    }

    /// Takes note of a routing table that is in use now.
    pub(super) fn set_routes(&self, key: TableKey, version: Box<str>, wire: Arc<[u8]>) {
        let told = dump::Told { state: dump::ToldState::now(&version), wire };
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).insert(key, told);
    }

    /// A routing table that is in use, as it was told.
    pub(super) fn table(&self, source: &ResourceSource, name: &str) -> Option<Arc<[u8]>> {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&routes.get(&(source.clone(), name.into()))?.wire))
    }

    /// Nobody uses that table any more.
    pub(super) fn forget_routes(&self, key: &TableKey) {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Takes note of scopes of routes that are in use now, or are not any more.
    pub(super) fn set_scopes(&self, update: ScopesUpdate) {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        scopes.take(update, clock::wall_ns());
    }

    /// Takes note of who asks for scopes.
    pub(super) fn show_scoped(&self, asked: Vec<(usize, AskedScopes)>) {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner).show(asked);
    }

    /// Takes note of a filter that is in use now.
    pub(super) fn set_filter(&self, key: FilterKey, version: Box<str>, wire: Arc<[u8]>) {
        let told = dump::Told { state: dump::ToldState::now(&version), wire };
        self.filters.lock().unwrap_or_else(PoisonError::into_inner).insert(key, told);
    }

    /// That filter is gone, or nobody uses it any more.
    pub(super) fn forget_filter(&self, key: &FilterKey) {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Takes note of the listeners that a control plane has told, and of all that there are now. `gone`: names of those that
    /// are not any more.
    pub(super) fn set_listeners(
        &self,
        told: dump::ToldResources,
        put: Vec<ListenerStatus>,
        gone: &[Arc<str>],
    ) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let names: HashSet<Arc<str>> = gone.iter().chain(put.iter().map(|one| &one.name)).cloned().collect();
        listeners.retain(|one| !names.contains(&one.name));
        listeners.extend(put);
        *self.told_listeners.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// Where listeners listen.
    pub(super) fn listening(&self) -> Vec<ListenerStatus> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the one of that name does: they may be thousands.
    pub(super) fn listens(&self, name: &str) -> Option<ListenerStatus> {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().find(|status| *status.name == *name).cloned()
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

    /// Takes note of the endpoints that discovery has found for a cluster; the hosts that workers balance over. `first`: those that it
    /// has without discovery; `None`: it is another than the one that had its name, whose hosts keep their counters.
    pub(super) fn publish(
        &self,
        name: &Arc<str>,
        spec: &ClusterSpec,
        first: Option<&[Arc<HostSpec>]>,
        assignment: &Assignment,
    ) -> Arc<HostSpecs> {
        let mut all = self.lock();
        let found = all.get(name).map(|endpoints| &endpoints.hosts[..]);
        let old = found.or(first).unwrap_or_default();
        let hosts = resolve_hosts(old, &spec.config, assignment, &self.registry);
        let own = if first.is_some() { old } else { &[] };
        note_members(&spec.stats, own, &hosts, &spec.config);
        let kept = Arc::clone(assignment.kept());
        all.insert(Arc::clone(name), Endpoints { assignment: kept, hosts: Arc::clone(&hosts) });
        hosts
    }

    /// These clusters with the endpoints that discovery has found for them by now.
    pub(super) fn with_latest_hosts(
        &self,
        clusters: impl Iterator<Item = PublishedCluster>,
    ) -> Vec<PublishedCluster> {
        let all = self.lock();
        let latest = |one: PublishedCluster| match all.get(&*one.config.name) {
            Some(endpoints) => PublishedCluster { hosts: Arc::clone(&endpoints.hosts), ..one },
            None => one,
        };
        clusters.map(latest).collect()
    }

    /// Takes note of the clusters that there are now, of which so many were not there or were others. `gone`: what was known of their
    /// endpoints is forgotten.
    pub(super) fn set_clusters(&self, clusters: Arc<ClusterSet>, changed: usize, gone: &[Arc<str>]) {
        let mut all = self.lock();
        for name in gone {
            all.remove(name);
        }
        packed::pack(&mut all, changed);
        self.clusters.set(clusters);
        self.runtime.limit_clusters();
    }

    /// So many listeners, and chains of others, drain from now on, which takes so long.
    pub(super) fn begin_drains(&self, counts: [u64; 2], takes: Duration) {
        self.drains.lock().unwrap_or_else(PoisonError::into_inner).begin(counts, self.age(), takes);
    }

    /// Takes note of the clusters that a control plane has told.
    pub(super) fn set_told_clusters(&self, told: dump::ToldResources) {
        *self.told_clusters.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// What discovery has found so far, beyond what the clusters have.
    pub(super) fn discovered(&self) -> Vec<(Arc<str>, Arc<HostSpecs>)> {
        let (all, clusters) = (self.lock(), self.clusters.get());
        let newer = all.iter().filter(|(name, endpoints)| {
            clusters.find(name).is_none_or(|one| !Arc::ptr_eq(&one.hosts, &endpoints.hosts))
        });
        newer.map(|(name, endpoints)| (Arc::clone(name), Arc::clone(&endpoints.hosts))).collect()
    }

    /// The clusters of the workers, with the endpoints that they have by now.
    pub(super) fn known_clusters(&self) -> Vec<KnownCluster> {
        let (all, clusters) = (self.lock(), self.clusters.get());
        let known = |one: &PublishedCluster| {
            let endpoints = all.get(&*one.config.name);
            KnownCluster {
                spec: Arc::clone(&one.spec),
                hosts: Arc::clone(endpoints.map_or(&one.hosts, |endpoints| &endpoints.hosts)),
                found: endpoints.map(|endpoints| Arc::clone(&endpoints.assignment)),
            }
        };
        clusters.iter().map(known).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Endpoints>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AdminState for Process {
    fn refresh_metrics(&self) {
        self.clusters.get().iter().for_each(|one| breakers::show(one));
        let drains = self.drains.lock().unwrap_or_else(PoisonError::into_inner);
        let [listeners, chains] = drains.at(self.age());
        let server = self.registry.server(Slot::Control);
        server.gauge_set(ServerStat::ListenerManagerTotalListenersDraining, listeners);
        server.gauge_set(ServerStat::ListenerManagerTotalFilterChainsDraining, chains);
    }

    fn live_heap_bytes(&self) -> u64 {
        allocator::live_bytes()
    }

    fn memory_ledger(&self) -> Value {
        memory::ledger(&self.registry, self.started)
    }

    fn server_info(&self) -> ServerInfo {
        ServerInfo {
            state: self.state(),
            uptime: self.age(),
            uptime_all_epochs: restart::age_of_chain(self.chain.started_s).max(self.age()),
            restart_epoch: self.options.hot_restart.epoch,
            restart_generation: self.chain.generation,
            hot_restart_version: match self.options.hot_restart.disabled {
                true => "disabled".to_owned(),
                false => cli::HOT_RESTART_VERSION.to_owned(),
            },
            version: cli::build_version(),
            command_line_options: self.options.to_json(self.registry.workers()),
            node: node(&self.bootstrap.node),
            io_backend: self.backend.0.clone(),
            io_backend_reason: self.backend.1.clone(),
            workers: self.workers.clone(),
        }
    }

    fn clusters(&self) -> Vec<ClusterStatus> {
        let (all, clusters) = (self.lock(), self.clusters.get());
        let told = self.told_clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = self.runtime.limits();
        let status_of = |PublishedCluster { spec, hosts }: &PublishedCluster| {
            let config = &spec.config;
            let endpoints = all.get(&*config.name);
            let hosts = endpoints.map_or(hosts, |endpoints| &endpoints.hosts);
            let found = endpoints.map(|endpoints| endpoints.assignment.endpoints());
            let assignment = found.as_deref().unwrap_or(&config.load_assignment);
            let known = assignment.by_address();
            ClusterStatus {
                name: (*config.name).into(),
                observability_name: config.stat_name().into(),
                added_via_api: told.active.contains_key(&*config.name),
                eds_service_name: loads::service_name(config).into(),
                circuit_breakers: limits.of(config).into_owned(),
                hosts: hosts.iter().map(|host| status(host, &known)).collect(),
            }
        };
        clusters.iter().map(status_of).collect()
    }

    fn tls_contexts(&self) -> Vec<TlsContext> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn quarantine(&self) -> (Vec<Quarantined>, u64) {
        let (refused, unlisted) = self.quarantine.list();
        let shown = |refused: Refused| {
            let Refused { type_url, name, reason, version, first_unix_ns, last_unix_ns, times, wire: _ } =
                refused;
            let (first, last) = (timestamp(first_unix_ns), timestamp(last_unix_ns));
            Quarantined { type_url, name, reason, version, first, last, times }
        };
        (refused.into_iter().map(shown).collect(), unlisted)
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        self.listening()
    }

    fn config_dump(&self, include_eds: bool) -> Vec<DumpSection> {
        let known = include_eds.then(|| self.known_clusters());
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let clusters = self.told_clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners = self.told_listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let quarantine = &self.quarantine;
        let mut sections =
            dump::sections(&self.wire, &self.loaded, [&clusters, &listeners], quarantine, &routes);
        // Both behind the clusters, as in Envoy, and filters before endpoints.
        if let Some(known) = known {
            let is_told = |name: &str| clusters.active.contains_key(name);
            let standings = quarantine.standings(dump::endpoints::ASSIGNMENT);
            sections.insert(2, dump::endpoints::section(known, is_told, standings));
        }
        let filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filters) = dump::filters(&filters, quarantine) {
            sections.insert(2, filters);
        }
        let scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        let standings = quarantine.standings(dump::SCOPE);
        let scopes = dump::scoped_routes::section(&self.wire, &self.loaded, &listeners, &scopes, &standings);
        if let Some(scopes) = scopes {
            // Before the routes, as in Envoy.
            sections.insert(sections.len() - 1, scopes);
        }
        sections.push(dump::secrets(&self.wire, &self.loaded, self.secrets.list(), quarantine));
        sections
    }

    fn runtime_layers(&self) -> Vec<ShownLayer> {
        self.runtime.shown()
    }

    fn modify_runtime(&self, changes: &[(String, String)]) -> Result<(), &'static str> {
        self.runtime.modify(changes)
    }

    fn command(&self, command: AdminCommand) {
        // Nobody listens any more: the process is about to end anyway.
        let _ = self.commands.send(command);
    }
}

fn status(host: &HostSpec, known: &HashMap<SocketAddress, (&Locality, &Endpoint)>) -> HostStatus {
    let address = host.address();
    let known = known.get(&address);
    HostStatus {
        address: (&address).into(),
        hostname: host.hostname().into(),
        health: host.health(),
        weight: host.weight(),
        priority: host.priority.into(),
        locality: known.map(|(locality, _)| (*locality).clone()).unwrap_or_default(),
        canary: known.is_some_and(|(_, endpoint)| endpoint.is_canary()),
        stats: host.counted().cloned(),
    }
}

/// A wall time as RFC 3339.
pub(super) fn timestamp(wall_ns: u64) -> String {
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
