//! The client of a control plane: aggregated discovery, state of the world or delta, over one gRPC stream.
//!
//! What is asked, answered and believed is decided by pure state machines (`sotw`, `delta`, `judge`, `damping`,
//! `backoff`); `stream` moves messages, `channel` makes connections, `files` does without both. It runs on the control thread and hands whole
//! assignments to whoever publishes; what cannot be used leaves the last good one in place and goes back by name.
//!
//! Of resource types this version asks for endpoints (EDS) and routes (RDS) of what the configuration has, in this order:
//! what routes lead to is there before they are. There is one state machine per type.
mod backoff;
mod channel;
mod counters;
mod damping;
mod delta;
mod files;
mod judge;
mod node;
mod sotw;
mod stream;
mod subscribers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::channel::Upstream;
use self::delta::Delta;
use self::files::File;
use self::judge::{Judge, Taken};
use self::sotw::Sotw;
use self::subscribers::Subscribers;
use crate::config::ads::{ResourceSource, Variant};
use crate::config::bootstrap::Bootstrap;
use crate::config::cluster::Discovery;
use crate::control::discovery::EndpointUpdate;
use crate::snapshot::{RouteCompiler, RoutesResource};
use crate::telemetry::{Registry, Slot};

/// Type URLs of the resources that are asked for.
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// One of the two protocols for one type: what is sent, and what an answer means. Knows nothing of connections.
trait Protocol: Send + 'static {
    type Request: prost::Message + Default + 'static;
    type Response: prost::Message + Default + 'static;
    /// The method of the service.
    const METHOD: &'static str;

    /// The type of a response.
    fn type_url(response: &Self::Response) -> &str;

    /// Whether it is for resources of that type.
    fn is_of(&self, type_url: &str) -> bool;

    /// The type's first request of a stream; `None`: there is nothing to ask for. `first`: it is the stream's first, too.
    fn open(&mut self, first: bool) -> Option<Self::Request>;

    /// Takes a response; `None` when it is of another type.
    fn take(&mut self, response: Self::Response) -> Option<Taken<Self::Request>>;
}

/// What the client hands on.
#[derive(Clone, Debug)]
pub struct Updates {
    pub endpoints: mpsc::Sender<EndpointUpdate>,
    pub routes: mpsc::Sender<RoutesUpdate>,
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

/// The running client; dropping it ends it.
#[derive(Debug)]
pub struct XdsClient(Vec<JoinHandle<()>>);

impl XdsClient {
    /// Starts to ask for the endpoints of clusters and the routes of managers, wherever they come from; does nothing when
    /// there are none. `seed` spreads the waits. Must be called within a tokio runtime that has I/O and time.
    pub fn start(
        bootstrap: &Bootstrap,
        routes: Option<&Arc<RouteCompiler>>,
        registry: &Registry,
        seed: u64,
        updates: &Updates,
    ) -> Self {
        let subscribers = |source: &ResourceSource| {
            let compiler = routes.map(|routes| &**routes);
            Subscribers::of(source, &bootstrap.clusters, compiler, registry, updates.clone())
        };
        let judges = |source: &ResourceSource| {
            let routes = routes.map(|compiler| Judge::Routes {
                compiler: Arc::clone(compiler),
                source: source.clone(),
                known: BTreeMap::new(),
            });
            std::iter::once(Judge::Endpoints).chain(routes).collect::<Vec<_>>()
        };
        let mut tasks = Vec::new();
        let clusters = bootstrap.clusters.iter().filter_map(|cluster| match &cluster.discovery {
            Discovery::Eds(eds) => Some(&eds.source),
            _ => None,
        });
        let tables = routes.iter().flat_map(|routes| routes.asked()).map(|(_, rds)| &rds.source);
        let sources: BTreeSet<_> = clusters.chain(tables).collect();
        let mut files = Vec::new();
        for source in sources {
            let ResourceSource::File(file) = source else { continue };
            if let Some(subscribers) = subscribers(source) {
                files.push(File::new(file.clone(), judges(source), subscribers));
            }
        }
        if !files.is_empty() {
            tasks.push(tokio::spawn(files::run(files)));
        }
        let source = ResourceSource::Ads;
        let upstream = bootstrap.ads.as_ref().and_then(|ads| {
            let cluster = bootstrap.clusters.iter().find(|one| one.name == ads.cluster)?;
            Some((ads, Upstream::new(ads, cluster)))
        });
        if let Some((ads, upstream)) = upstream
            && let Some(subscribers) = subscribers(&source)
        {
            let subscribers = Arc::new(subscribers);
            let node = node::node(&ads.node, &bootstrap.node);
            let once = ads.node_on_first_message_only;
            let types = judges(&source).into_iter().map(|judge| (subscribers.names(judge.kind()), judge));
            let server = registry.server(Slot::Control);
            let waiting = Arc::clone(&subscribers);
            tasks.push(tokio::spawn(async move { waiting.give_up_in_time().await }));
            let asking = Arc::clone(&subscribers);
            tasks.push(match ads.variant {
                Variant::StateOfTheWorld => {
                    let types = types.map(|(names, judge)| Sotw::new(judge, node.clone(), names, once));
                    tokio::spawn(stream::run(types.collect(), upstream, asking, server, seed))
                }
                Variant::Delta => {
                    let types = types.map(|(names, judge)| Delta::new(judge, node.clone(), names, once));
                    tokio::spawn(stream::run(types.collect(), upstream, asking, server, seed))
                }
            });
        }
        Self(tasks)
    }
}

impl Drop for XdsClient {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}
