//! The client of a control plane: aggregated discovery, state of the world or delta, over one gRPC stream.
//!
//! What is asked, answered and believed is decided by pure state machines (`sotw`, `delta`, `judge`, `damping`,
//! `backoff`); `stream` moves messages, `channel` makes connections, `files` does without both. It runs on the control thread and hands whole
//! assignments to whoever publishes; what cannot be used leaves the last good one in place and goes back by name.
//!
//! Of resource types this version asks for clusters (CDS), endpoints (EDS) and routes (RDS), in this order: what routes lead
//! to is there before they are. There is one state machine per type.
mod backoff;
mod channel;
mod clusters;
mod counters;
mod damping;
mod delta;
mod files;
mod judge;
mod node;
mod quarantine;
mod sotw;
mod stream;
mod subscribers;
mod wanted;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::channel::Upstream;
use self::clusters::ClusterJudge;
use self::delta::Delta;
use self::files::File;
use self::judge::{Judge, Kind, Taken};
pub use self::quarantine::{Quarantine, Refused};
use self::sotw::Sotw;
use self::subscribers::Subscribers;
use self::wanted::Wanted;
use super::convert::Surroundings;
use crate::config::ads::{Eds, ResourceSource, Variant};
use crate::config::bootstrap::Bootstrap;
use crate::config::endpoint::ClusterLoadAssignment;
use crate::control::discovery::EndpointUpdate;
use crate::snapshot::{ClusterResource, RouteCompiler, RoutesResource};
use crate::telemetry::{ClusterCells, Registry, Slot};

/// Type URLs of the resources that are asked for.
const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// One of the two protocols for one type: what is sent, and what an answer means. Knows nothing of connections.
trait Protocol: Send + 'static {
    type Request: prost::Message + Default + 'static;
    type Response: prost::Message + Default + 'static;
    /// The method of the service.
    const METHOD: &'static str;

    /// Of which type.
    fn kind(&self) -> Kind;

    /// The type of a response.
    fn type_url(response: &Self::Response) -> &str;

    /// Whether it is for resources of that type.
    fn is_of(&self, type_url: &str) -> bool;

    /// The type's first request of a stream; `None`: there is nothing to ask for. `first`: it is the stream's first, too.
    fn open(&mut self, first: bool) -> Option<Self::Request>;

    /// Other things are wanted from now on; what to say of it on the stream that is open. `held`: the answer that is held
    /// back.
    fn want(&mut self, wanted: Wanted, held: Option<&mut Self::Request>) -> Option<Self::Request>;

    /// Takes a response; `None` when it is of another type.
    fn take(&mut self, response: Self::Response) -> Option<Taken<Self::Request>>;
}

/// What the client hands on, in the order in which it was told.
#[derive(Debug)]
pub enum Update {
    Clusters(ClustersUpdate),
    Endpoints(EndpointUpdate),
    Routes(RoutesUpdate),
}

/// What one response changes of clusters; nothing, where there are none for now.
#[derive(Debug, Default)]
pub struct ClustersUpdate {
    /// New ones, and others in place of those of the same name.
    pub put: Vec<TakenCluster>,
    /// Names of those that are gone.
    pub removed: Vec<Box<str>>,
    /// What the control plane calls this state of them.
    pub version: Box<str>,
}

/// A cluster that may be used.
#[derive(Clone, Debug)]
pub struct TakenCluster {
    pub resource: ClusterResource,
    /// As it was told.
    pub wire: Arc<[u8]>,
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

/// What the client works with.
#[derive(Debug)]
pub struct Surrounded<'a> {
    pub bootstrap: &'a Bootstrap,
    /// Compiles routes; `None`: nobody asks for any.
    pub routes: Option<&'a Arc<RouteCompiler>>,
    pub registry: &'a Registry,
    /// Where refused resources are listed.
    pub quarantine: Quarantine,
    /// What clusters are converted in; `None`: nobody asks for any.
    pub clusters: Option<Surroundings>,
    /// Spreads the waits.
    pub seed: u64,
}

/// The running client; dropping it ends it.
#[derive(Debug)]
pub struct XdsClient {
    sources: BTreeMap<ResourceSource, Running>,
    quarantine: Quarantine,
    updates: mpsc::Sender<Update>,
}

/// One source that is asked.
#[derive(Debug)]
struct Running {
    subscribers: Arc<Subscribers>,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    fn new(subscribers: Arc<Subscribers>) -> Self {
        let waiting = Arc::clone(&subscribers);
        let tasks = vec![tokio::spawn(async move { waiting.give_up_in_time().await })];
        Self { subscribers, tasks }
    }
}

impl XdsClient {
    /// Starts to ask for the clusters of the bootstrap's source and for the routes of managers, wherever they come from.
    /// Clusters ask for their endpoints by [`Self::subscribe`]. Must be called within a tokio runtime that has I/O and time.
    pub fn start(with: Surrounded<'_>, updates: mpsc::Sender<Update>) -> Self {
        let Surrounded { bootstrap, routes, registry, quarantine, mut clusters, seed } = with;
        let mut sources = BTreeSet::new();
        sources.extend(bootstrap.ads.as_ref().map(|_| ResourceSource::Ads));
        sources.extend(bootstrap.cds.as_ref().map(|cds| cds.source.clone()));
        sources.extend(routes.iter().flat_map(|routes| routes.asked()).map(|(_, rds)| rds.source.clone()));
        let mut client = Self { sources: BTreeMap::new(), quarantine, updates };
        for source in sources {
            let subscribers = client.subscribers(&source);
            let mut judges = Vec::new();
            if let Some(cds) = bootstrap.cds.as_ref().filter(|cds| cds.source == source) {
                subscribers.add_clusters(cds, registry);
                let fixed = bootstrap.clusters.iter().map(|cluster| cluster.name.clone()).collect();
                let judge = ClusterJudge::new(clusters.take().unwrap_or_default(), fixed);
                judges.push(Judge::Clusters(Box::new(judge)));
            }
            judges.push(Judge::Endpoints);
            if let Some(routes) = routes {
                subscribers.add_routes(routes, registry);
                let (compiler, source) = (Arc::clone(routes), source.clone());
                judges.push(Judge::Routes { compiler, source, known: BTreeMap::new() });
            }
            match &source {
                ResourceSource::Ads => client.stream(bootstrap, judges, subscribers, registry, seed),
                ResourceSource::File(_) => client.file(source, judges, subscribers),
            }
        }
        client
    }

    /// Asks for the endpoints of a cluster, which are told under this instance of it; what is known of them already.
    pub fn subscribe(
        &mut self,
        cluster: &str,
        instance: u64,
        eds: &Eds,
        cells: ClusterCells,
    ) -> Option<Arc<ClusterLoadAssignment>> {
        if let Some(running) = self.sources.get(&eds.source) {
            return running.subscribers.add(cluster, instance, eds, cells);
        }
        let subscribers = self.subscribers(&eds.source);
        let known = subscribers.add(cluster, instance, eds, cells);
        self.file(eds.source.clone(), vec![Judge::Endpoints], subscribers);
        known
    }

    /// That instance of a cluster is no more.
    pub fn unsubscribe(&mut self, instance: u64, eds: &Eds) {
        let Some(running) = self.sources.get(&eds.source) else { return };
        running.subscribers.remove(instance, eds);
        if running.subscribers.is_empty() && matches!(eds.source, ResourceSource::File(_)) {
            self.sources.remove(&eds.source);
        }
    }

    /// Of a source that nobody has asked for anything.
    fn subscribers(&self, source: &ResourceSource) -> Arc<Subscribers> {
        Arc::new(Subscribers::new(source.clone(), self.updates.clone(), self.quarantine.clone()))
    }

    /// A file; the aggregated stream is there from the start.
    fn file(&mut self, source: ResourceSource, judges: Vec<Judge>, subscribers: Arc<Subscribers>) {
        let ResourceSource::File(file) = &source else { return };
        let mut running = Running::new(Arc::clone(&subscribers));
        running.tasks.push(tokio::spawn(files::run(File::new(file.clone(), judges, subscribers))));
        self.sources.insert(source, running);
    }

    /// The aggregated stream.
    fn stream(
        &mut self,
        bootstrap: &Bootstrap,
        judges: Vec<Judge>,
        subscribers: Arc<Subscribers>,
        registry: &Registry,
        seed: u64,
    ) {
        let upstream = bootstrap.ads.as_ref().and_then(|ads| {
            let cluster = bootstrap.clusters.iter().find(|one| one.name == ads.cluster)?;
            Some((ads, Upstream::new(ads, cluster)))
        });
        let Some((ads, upstream)) = upstream else { return };
        let mut running = Running::new(Arc::clone(&subscribers));
        let node = node::node(&ads.node, &bootstrap.node);
        let once = ads.node_on_first_message_only;
        let types = judges.into_iter().map(|judge| (subscribers.wanted(judge.kind()), judge));
        let server = registry.server(Slot::Control);
        let asking = Arc::clone(&subscribers);
        running.tasks.push(match ads.variant {
            Variant::StateOfTheWorld => {
                let types = types.map(|(wanted, judge)| Sotw::new(judge, node.clone(), wanted, once));
                tokio::spawn(stream::run(types.collect(), upstream, asking, server, seed))
            }
            Variant::Delta => {
                let types = types.map(|(wanted, judge)| Delta::new(judge, node.clone(), wanted, once));
                tokio::spawn(stream::run(types.collect(), upstream, asking, server, seed))
            }
        });
        self.sources.insert(ResourceSource::Ads, running);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
