//! The client of control planes: state of the world or delta, over one gRPC stream for everything (aggregated discovery), or one
//! for each type.
//!
//! What is asked, answered and believed is decided by pure state machines (`sotw`, `delta`, `judge`, `damping`,
//! `backoff`, `ttl`); `stream` moves messages, `channel` makes connections, `files` does without both. It runs on the control thread and hands whole
//! assignments to whoever publishes; what cannot be used leaves the last good one in place and goes back by name.
//!
//! Of resource types this version asks for runtime values (RTDS), clusters (CDS), endpoints (EDS), listeners (LDS), secrets (SDS),
//! filters (ECDS), scopes of routes (SRDS), routes (RDS) and virtual hosts (VHDS), in this order: what routes lead to is there before
//! they are, and nothing is asked for before the runtime values are there. There is one state machine per type.
mod backoff;
mod cache;
mod channel;
mod clusters;
mod compiler;
mod counters;
mod damping;
mod delta;
mod files;
mod filters;
mod gate;
mod judge;
mod known_secrets;
mod listeners;
mod load_reports;
mod managers;
mod messages;
mod node;
mod quarantine;
mod scopes;
mod secrets;
mod sotw;
mod status;
mod stream;
mod subscribers;
mod tables;
mod ttl;
mod versions;
mod virtual_hosts;
mod wanted;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod connection_filter_tests;
#[cfg(test)]
mod filter_tests;
#[cfg(test)]
mod listener_tests;
#[cfg(test)]
mod load_report_tests;
#[cfg(test)]
mod runtime_tests;
#[cfg(test)]
mod scope_tests;
#[cfg(test)]
mod secret_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod ttl_tests;
#[cfg(test)]
mod virtual_host_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::cache::Restored;
pub use self::cache::{Cache, arbitrary as cache_arbitrary};
use self::channel::Upstream;
use self::clusters::ClusterJudge;
pub use self::clusters::ClusterNames;
pub use self::compiler::SharedCompiler;
use self::delta::Delta;
use self::files::File;
use self::filters::FilterJudge;
use self::gate::Gate;
use self::judge::{Considered, Judge, Kind, Outcome, Taken};
pub use self::known_secrets::{KnownSecrets, SecretKey, ShownSecret};
use self::listeners::{KnownListeners, ListenerJudge};
pub use self::load_reports::{ClusterLoads, Loads, LocalityLoads, Reported};
use self::quarantine::Failed;
pub use self::quarantine::{Quarantine, Refused};
use self::scopes::ScopeJudge;
use self::secrets::SecretJudge;
use self::sotw::Sotw;
pub use self::status::{ClientStatus, Failure, Standing, Standings};
use self::stream::Stream;
use self::subscribers::Subscribers;
use self::tables::KnownTables;
use self::ttl::Ttls;
use self::virtual_hosts::KnownHosts;
use self::wanted::Wanted;
use super::convert::{Planes, RuntimeValues, Surroundings};
use super::pb;
use crate::config::ads::{Ads, Eds, ResourceSource, Sds, Variant};
use crate::config::bootstrap::{Bootstrap, RuntimeLayerKind};
use crate::config::cluster::Cluster;
use crate::control::discovery::{Assignment, EndpointUpdate};
use crate::snapshot::{ClusterResource, ListenerCompiler, ListenerResource, RoutesResource, ScopeCounts};
use crate::telemetry::{ClusterStat, Registry, Scope, Slot};

/// Type URLs of the resources that are asked for.
const RUNTIME: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";
const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const LISTENERS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const SECRETS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const SCOPES: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const VIRTUAL_HOSTS: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
const FILTERS: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";

/// One of the two protocols for one type: what is sent, and what an answer means. Knows nothing of connections.
trait Protocol: Send + 'static {
    type Request: prost::Message + Default + 'static;
    type Response: prost::Message + Default + 'static;
    /// The method of the service: of the aggregated one, or of the type's own.
    fn method(&self, is_own: bool) -> &'static str;

    /// Of which type.
    fn kind(&self) -> Kind;

    /// The type of a response.
    fn type_url(response: &Self::Response) -> &str;

    /// Whether it is for resources of that type.
    fn is_of(&self, type_url: &str) -> bool;

    /// Whether the stream has asked for the type.
    fn is_open(&self) -> bool;

    /// The type's first request of a stream; `None`: there is nothing to ask for. `first`: it is the stream's first, too.
    fn open(&mut self, first: bool) -> Option<Self::Request>;

    /// Other things are wanted from now on; what to say of it on the stream that is open. `held`: the answer that is held
    /// back.
    fn want(&mut self, wanted: Wanted, held: Option<&mut Self::Request>) -> Option<Self::Request>;

    /// From now on outcomes have the resources as they came.
    fn keep(&mut self);

    /// The version that a resource has by itself; empty: none.
    fn version(&self, _name: &str) -> &str {
        ""
    }

    /// Looks at what was kept from before of what is wanted.
    fn restore(&mut self, restored: &Restored, wanted: &Wanted) -> Outcome;

    /// Takes of it what can be used.
    fn take_restored(&mut self, restored: Restored, outcome: &Outcome, wanted: &Wanted);

    /// Looks at a response; `None` when it is of another type. [`Self::answer`] is next.
    fn consider(&mut self, response: Self::Response) -> Option<Considered>;

    /// Takes of it what can be used, and answers it.
    fn answer(&mut self, considered: Considered) -> Taken<Self::Request>;

    /// Which resources go by themselves, and when.
    fn ttls(&self) -> &Ttls;

    /// Takes those away whose time is over by now, as if they were removed; `None`: of none is it.
    fn expire(&mut self, now: Instant) -> Option<Outcome>;

    /// Both, where nobody has to try first what can be used.
    #[cfg(test)]
    fn take(&mut self, response: Self::Response) -> Option<Taken<Self::Request>> {
        let considered = self.consider(response)?;
        Some(self.answer(considered))
    }
}

/// What the client hands on at once, in the order in which it was told: all that one response changes. Whoever takes it lets
/// nobody see a part.
pub type Updates = Vec<Update>;

/// A part of what the client hands on.
#[derive(Debug)]
pub enum Update {
    Runtime(RuntimeUpdate),
    Clusters(ClustersUpdate),
    Endpoints(EndpointUpdate),
    /// With who is to hear which of them cannot be used after all.
    Listeners(ListenersUpdate, Option<oneshot::Sender<ListenerFailures>>),
    /// One of those known is another now, or those who wait for it go without for now.
    Secret(SecretKey),
    Scopes(ScopesUpdate),
    /// Behind the routes that have them.
    Hosts(HostsUpdate),
    Routes(RoutesUpdate),
    Filters(FiltersUpdate),
}

/// What one response changes of resources of which all are taken; nothing, where there are none for now.
#[derive(Debug)]
pub struct WholeUpdate<T> {
    /// New ones, and others in place of those of the same name.
    pub put: Vec<T>,
    /// Names of those that are gone.
    pub removed: Vec<Box<str>>,
    /// What the control plane calls this state of them.
    pub version: Box<str>,
}

impl<T> Default for WholeUpdate<T> {
    fn default() -> Self {
        Self { put: Vec::new(), removed: Vec::new(), version: Box::default() }
    }
}

pub type ClustersUpdate = WholeUpdate<TakenCluster>;

pub type ListenersUpdate = WholeUpdate<TakenListener>;

/// Names of listeners that cannot listen, and why.
pub type ListenerFailures = Vec<(String, String)>;

/// A cluster that may be used.
#[derive(Clone, Debug)]
pub struct TakenCluster {
    pub resource: ClusterResource,
    /// As it was told.
    pub wire: Arc<[u8]>,
}

/// A listener that may be used.
#[derive(Clone, Debug)]
pub struct TakenListener {
    pub resource: Arc<ListenerResource>,
    /// As it was told.
    pub wire: Arc<[u8]>,
    /// By which it is known again.
    hash: u64,
}

/// The values of a layer.
#[derive(Clone, Debug)]
pub struct RuntimeUpdate {
    pub source: ResourceSource,
    pub name: Arc<str>,
    /// `None`: it is waited for no more.
    pub values: Option<Arc<RuntimeValues>>,
}

/// What one response changes of scopes, which the compiler of routes has by now; they are waited for no more.
#[derive(Clone, Debug)]
pub struct ScopesUpdate {
    pub source: ResourceSource,
    /// Those that are others now, as they were told; `None`: gone.
    pub changed: BTreeMap<Arc<str>, Option<Arc<[u8]>>>,
    /// What the control plane calls this state of them.
    pub version: Box<str>,
}

/// Virtual hosts that were asked for and of which there is an answer: what there is of them is in their tables by now.
#[derive(Clone, Debug)]
pub struct HostsUpdate {
    pub source: ResourceSource,
    /// `<table>/<host>`, as they were asked for.
    pub names: Vec<Box<str>>,
}

/// A routing table for all who have asked for it; empty: they go without for now.
#[derive(Clone, Debug)]
pub struct RoutesUpdate {
    pub source: ResourceSource,
    pub name: Arc<str>,
    pub resources: Arc<[RoutesResource]>,
    /// What the control plane calls this state of it.
    pub version: Box<str>,
    /// As it was told.
    pub wire: Arc<[u8]>,
}

/// What one response changes of filters, which the compiler of routes has by now.
#[derive(Clone, Debug)]
pub struct FiltersUpdate {
    pub source: ResourceSource,
    /// Those that are others now, as they were told; `None`: gone.
    pub changed: BTreeMap<Arc<str>, Option<Arc<[u8]>>>,
    /// Those that are waited for no more.
    pub settled: BTreeSet<Arc<str>>,
    /// What the control plane calls this state of them.
    pub version: Box<str>,
}

/// What the client works with.
#[derive(Debug)]
pub struct Surrounded<'a> {
    pub bootstrap: &'a Bootstrap,
    /// Compiles routes.
    pub routes: &'a SharedCompiler,
    pub registry: &'a Arc<Registry>,
    /// Where refused resources are listed.
    pub quarantine: Quarantine,
    /// Where secrets are that were told.
    pub secrets: &'a KnownSecrets,
    /// What clusters and listeners become resources with; `None`: nobody asks for any.
    pub resources: Option<Resources>,
    /// Where the aggregated stream's resources are kept; `None`: nowhere.
    pub cache: Option<Cache>,
    /// What load reports tell.
    pub loads: Arc<dyn Loads>,
    /// Spreads the waits.
    pub seed: u64,
}

/// See [`Surrounded::resources`].
#[derive(Debug)]
pub struct Resources {
    pub surroundings: Surroundings,
    pub listeners: ListenerCompiler,
    pub clusters: ClusterNames,
}

/// The running client; dropping it ends it.
#[derive(Debug)]
pub struct XdsClient {
    sources: BTreeMap<ResourceSource, Running>,
    routes: SharedCompiler,
    registry: Arc<Registry>,
    quarantine: Quarantine,
    secrets: KnownSecrets,
    /// Virtual hosts that have been told by themselves, of all sources.
    hosts: KnownHosts,
    /// Tables in use that have such, and where these come from.
    hosted: BTreeMap<(ResourceSource, Arc<str>), ResourceSource>,
    /// How the aggregated stream tells of changes; `None`: there is none.
    ads: Option<Variant>,
    /// Where listeners come from, and those that are in use.
    lds: Option<ResourceSource>,
    listeners: KnownListeners,
    /// Through which control planes are reached, and who asks.
    upstreams: Vec<Arc<Cluster>>,
    node: pb::core::Node,
    /// Tells them; `None`: nobody wants them.
    reports: Option<JoinHandle<()>>,
    /// Closed as long as runtime values are waited for.
    gate: Gate,
    seed: u64,
    updates: mpsc::Sender<Updates>,
}

/// One source that is asked.
#[derive(Debug)]
struct Running {
    subscribers: Arc<Subscribers>,
    tables: KnownTables,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    fn new<'a>(subscribers: Arc<Subscribers>, judges: impl IntoIterator<Item = &'a Judge>) -> Self {
        let waiting = Arc::clone(&subscribers);
        let tasks = vec![tokio::spawn(async move { waiting.give_up_in_time().await })];
        let tables = judges.into_iter().find_map(|judge| match judge {
            Judge::Routes { known, .. } => Some(known.clone()),
            _ => None,
        });
        Self { subscribers, tables: tables.unwrap_or_default(), tasks }
    }
}

impl XdsClient {
    /// Starts to ask for the clusters and listeners of the bootstrap's sources and for the routes and scopes of its managers, wherever
    /// they come from. Clusters ask for their endpoints by [`Self::subscribe`], other listeners for their scopes and routes by
    /// [`Self::subscribe_scopes`] and [`Self::subscribe_tables`], all listeners for their filters by [`Self::subscribe_filters`]. Must be called within a tokio runtime that has I/O and time.
    pub fn start(with: Surrounded<'_>, updates: mpsc::Sender<Updates>) -> Self {
        let Surrounded { bootstrap, routes, registry, quarantine, secrets, resources, cache, loads, seed } =
            with;
        let wildcards = || bootstrap.cds.iter().chain(&bootstrap.lds);
        let mut sources = BTreeSet::new();
        sources.extend(bootstrap.ads.as_ref().map(|_| ResourceSource::Ads));
        let layers = bootstrap.runtime_layers.iter().filter_map(|layer| match &layer.kind {
            RuntimeLayerKind::Rtds(rtds) => Some(rtds),
            _ => None,
        });
        let layers: Vec<_> = layers.collect();
        sources.extend(layers.iter().map(|rtds| rtds.source.clone()));
        sources.extend(wildcards().map(|wildcard| wildcard.source.clone()));
        sources.extend(routes.read().asked().into_iter().map(|asked| asked.rds.source));
        sources.extend(routes.read().asked_scopes().into_iter().map(|(_, asked)| asked.srds.source));
        let (mut clusters, mut listeners, mut cache) = (None, None, cache);
        if let Some(Resources { surroundings, listeners: compiler, clusters: names }) = resources {
            let fixed = bootstrap.clusters.iter().map(|cluster| cluster.name.clone()).collect();
            clusters = Some(ClusterJudge::new(surroundings.clone(), fixed, names));
            let fixed = bootstrap.listeners.iter().map(|listener| listener.name.clone()).collect();
            listeners = Some(ListenerJudge::new(surroundings, compiler, fixed));
        }
        let (routes, registry) = (routes.clone(), Arc::clone(registry));
        let known_listeners = listeners.as_ref().map(|judge| judge.known.clone());
        let mut client = Self {
            lds: bootstrap.lds.as_ref().map(|lds| lds.source.clone()),
            listeners: known_listeners.unwrap_or_default(),
            sources: BTreeMap::new(),
            routes,
            registry,
            hosts: KnownHosts::new(Planes::of(bootstrap), quarantine.clone()),
            hosted: BTreeMap::new(),
            ads: bootstrap.ads.as_ref().map(|ads| ads.variant),
            quarantine,
            secrets: secrets.clone(),
            upstreams: bootstrap.clusters.clone(),
            node: node::node(&bootstrap.node_message, &bootstrap.node),
            reports: None,
            gate: Gate::new(layers.is_empty()),
            seed,
            updates,
        };
        client.reports = bootstrap.load_reports.as_ref().and_then(|to| client.report(to, loads));
        for source in sources {
            let subscribers = client.subscribers(&source);
            let mut judges = Vec::new();
            for rtds in layers.iter().filter(|rtds| rtds.source == source) {
                subscribers.add_runtime(rtds, &client.registry);
                judges = vec![Judge::Runtime];
            }
            if let Some(cds) = bootstrap.cds.as_ref().filter(|cds| cds.source == source) {
                subscribers.add_clusters(cds, &client.registry);
                judges.extend(clusters.take().map(|judge| Judge::Clusters(Box::new(judge))));
            }
            judges.push(Judge::Endpoints);
            if let Some(lds) = bootstrap.lds.as_ref().filter(|lds| lds.source == source) {
                subscribers.add_listeners(lds, &client.registry);
                judges.extend(listeners.take().map(|judge| Judge::Listeners(Box::new(judge))));
            }
            for number in 0..bootstrap.listeners.len() {
                let asked = client.routes.read().asked_of(number);
                subscribers.add_tables(number, &asked, &KnownTables::default(), &client.registry);
                let asked = client.routes.read().asked_scopes_of(number);
                subscribers.add_scopes(number, &asked, ScopeCounts::default(), &client.registry);
            }
            judges.push(client.secret_judge(&source));
            judges.push(client.filter_judge(&source));
            judges.push(client.scope_judge(&source));
            judges.push(client.tables(&source));
            judges.extend(client.host_judge(&source));
            match &source {
                ResourceSource::Ads => {
                    if let Some(ads) = &bootstrap.ads {
                        client.streams(&source, ads, vec![judges], &subscribers, cache.take());
                    }
                }
                ResourceSource::Streams(_) | ResourceSource::File(_) => {
                    client.begin(&source, judges, &subscribers);
                }
            }
        }
        client
    }

    /// The runtime values are there, or waited for no more: everything else is asked for from now on.
    pub fn runtime_is_there(&self) {
        self.gate.open();
        self.sources.values().for_each(|running| running.subscribers.look_again());
    }

    /// Asks for the endpoints of a cluster, which are told under this instance of it; what is known of them already.
    pub fn subscribe(
        &mut self,
        cluster: &Arc<str>,
        instance: u64,
        eds: &Eds,
        scope: Arc<Scope<ClusterStat>>,
    ) -> Option<Assignment> {
        self.source(&eds.source)?.subscribers.add(cluster, instance, eds, scope)
    }

    /// That instance of a cluster is no more.
    pub fn unsubscribe(&mut self, cluster: &str, instance: u64, eds: &Eds) {
        let Some(running) = self.sources.get(&eds.source) else { return };
        running.subscribers.remove(cluster, instance, eds);
        self.leave(&eds.source);
    }

    /// A context uses this secret, which is asked for if nobody has; whether it is still waited for. What is known of it is
    /// among the known ones.
    pub fn refer(&mut self, secret: &Sds) -> bool {
        let registry = Arc::clone(&self.registry);
        self.source(&secret.source).is_some_and(|running| running.subscribers.refer(secret, &registry))
    }

    /// A context uses it no more. What nobody uses is not asked for.
    pub fn release(&mut self, secret: &Sds) {
        if self.sources.get(&secret.source).is_some_and(|running| running.subscribers.release(secret)) {
            self.leave(&secret.source);
        }
    }

    /// A listener that was taken cannot be used after all: it is taken when it is told again.
    pub fn refuse_listener(&self, name: &str, reason: String, version: &str, wire: &Arc<[u8]>) {
        self.listeners.forget(name);
        if let Some(source) = &self.lds {
            self.quarantine.add(
                (source.clone(), Kind::Listeners, name.to_owned()),
                reason,
                version,
                Some(&Failed::of(wire)),
            );
        }
    }

    /// Whoever asks there; a file or a control plane that nobody has asked is asked from now on. `None`: there is no stream.
    fn source(&mut self, source: &ResourceSource) -> Option<&Running> {
        if !self.sources.contains_key(source) {
            let mut judges = vec![
                Judge::Endpoints,
                self.secret_judge(source),
                self.filter_judge(source),
                self.scope_judge(source),
                self.tables(source),
            ];
            judges.extend(self.host_judge(source));
            self.begin(source, judges, &self.subscribers(source));
        }
        self.sources.get(source)
    }

    /// What nobody asks any more is not asked, but for the aggregated stream.
    fn leave(&mut self, source: &ResourceSource) {
        if *source == ResourceSource::Ads {
            return;
        }
        if self.sources.get(source).is_some_and(|running| running.subscribers.is_empty()) {
            self.sources.remove(source);
            self.secrets.forget_source(source);
            self.routes.forget_told(source);
            self.hosts.forget_source(source);
            self.quarantine.forget_source(source);
        }
    }

    /// Begins to tell load reports.
    fn report(&self, to: &Ads, loads: Arc<dyn Loads>) -> Option<JoinHandle<()>> {
        let cluster = self.upstreams.iter().find(|one| one.name == to.cluster)?;
        let upstream = Upstream::new(to, cluster, &self.secrets);
        let cells = self.registry.server(Slot::Control);
        Some(tokio::spawn(load_reports::run(upstream, self.node.clone(), loads, cells, self.seed)))
    }

    fn secret_judge(&self, source: &ResourceSource) -> Judge {
        Judge::Secrets(SecretJudge::new(source.clone(), self.secrets.clone()))
    }

    fn filter_judge(&self, source: &ResourceSource) -> Judge {
        Judge::Filters(FilterJudge::new(source.clone(), self.routes.clone()))
    }

    fn scope_judge(&self, source: &ResourceSource) -> Judge {
        Judge::Scopes(ScopeJudge::new(source.clone(), self.routes.clone()))
    }

    fn tables(&self, source: &ResourceSource) -> Judge {
        Judge::Routes {
            compiler: self.routes.clone(),
            source: source.clone(),
            known: KnownTables::default(),
            hosts: self.hosts.clone(),
        }
    }

    /// Of a source that nobody has asked for anything.
    fn subscribers(&self, source: &ResourceSource) -> Arc<Subscribers> {
        let (updates, quarantine) = (self.updates.clone(), self.quarantine.clone());
        Arc::new(Subscribers::new(
            source.clone(),
            updates,
            quarantine,
            self.secrets.clone(),
            self.gate.clone(),
            self.registry.server(Slot::Control),
        ))
    }

    /// Asks a file, or a control plane by a stream for each type; the aggregated stream is there from the start.
    fn begin(&mut self, source: &ResourceSource, judges: Vec<Judge>, subscribers: &Arc<Subscribers>) {
        match source {
            ResourceSource::Ads => {}
            ResourceSource::Streams(streams) => {
                let each = judges.into_iter().map(|judge| vec![judge]).collect();
                self.streams(source, streams, each, subscribers, None);
            }
            ResourceSource::File(file) => {
                let mut running = Running::new(Arc::clone(subscribers), &judges);
                let file = File::new(file.clone(), judges, Arc::clone(subscribers));
                running.tasks.push(tokio::spawn(files::run(file)));
                self.sources.insert(source.clone(), running);
            }
        }
    }

    /// Streams, each for these types.
    fn streams(
        &mut self,
        source: &ResourceSource,
        ads: &Ads,
        each: Vec<Vec<Judge>>,
        subscribers: &Arc<Subscribers>,
        mut cache: Option<Cache>,
    ) {
        let Some(cluster) = self.upstreams.iter().find(|one| one.name == ads.cluster) else { return };
        let mut running = Running::new(Arc::clone(subscribers), each.iter().flatten());
        let (node, once) = (node::asking(self.node.clone()), ads.node_on_first_message_only);
        let is_own = *source != ResourceSource::Ads;
        for (nth, judges) in each.into_iter().enumerate() {
            let stream = Stream {
                upstream: Upstream::new(ads, cluster, &self.secrets),
                subscribers: Arc::clone(subscribers),
                cache: cache.take(),
                server: (!is_own).then(|| self.registry.server(Slot::Control)),
                seed: self.seed.wrapping_add(nth as u64),
            };
            let types = judges.into_iter().map(|judge| (subscribers.wanted(judge.kind()), judge));
            running.tasks.push(match ads.variant {
                Variant::StateOfTheWorld => {
                    let types = types.map(|(wanted, judge)| Sotw::new(judge, node.clone(), wanted, once));
                    tokio::spawn(stream::run(types.collect(), stream))
                }
                Variant::Delta => {
                    let types = types.map(|(wanted, judge)| Delta::new(judge, node.clone(), wanted, once));
                    tokio::spawn(stream::run(types.collect(), stream))
                }
            });
        }
        self.sources.insert(source.clone(), running);
    }
}

impl Drop for XdsClient {
    fn drop(&mut self) {
        self.reports.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
