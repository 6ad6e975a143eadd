//! The client of a control plane: aggregated discovery, state of the world or delta, over one gRPC stream.
//!
//! What is asked, answered and believed is decided by pure state machines (`sotw`, `delta`, `judge`, `damping`,
//! `backoff`); `stream` moves messages, `channel` makes connections. It runs on the control thread and hands whole
//! assignments to whoever publishes; what cannot be used leaves the last good one in place and goes back by name.
//!
//! Of resource types this version asks for endpoints (EDS) and routes (RDS) of what the configuration has, in this order:
//! what routes lead to is there before they are. There is one state machine per type.
mod backoff;
mod channel;
mod counters;
mod damping;
mod delta;
mod judge;
mod node;
mod sotw;
mod stream;
mod subscribers;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::channel::Upstream;
use self::delta::Delta;
use self::judge::{Judge, Kind, Taken};
use self::sotw::Sotw;
use self::subscribers::Subscribers;
use crate::config::ads::Variant;
use crate::config::bootstrap::Bootstrap;
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
    pub name: Arc<str>,
    pub resources: Arc<[RoutesResource]>,
    /// What the control plane calls this state of it.
    pub version: Box<str>,
    /// As it was told.
    pub wire: Arc<[u8]>,
}

/// The running client; dropping it ends it.
#[derive(Debug)]
pub struct AdsClient(Vec<JoinHandle<()>>);

impl AdsClient {
    /// Starts to ask for the endpoints of the clusters and the routes of the managers that have them from there; `None`
    /// when there are none, or no control plane. `seed` spreads the waits. Must be called within a tokio runtime that has
    /// I/O and time.
    pub fn start(
        bootstrap: &Bootstrap,
        routes: Option<&Arc<RouteCompiler>>,
        registry: &Registry,
        seed: u64,
        updates: &Updates,
    ) -> Option<Self> {
        let ads = bootstrap.ads.as_ref()?;
        let subscribers =
            Subscribers::of(&bootstrap.clusters, routes.map(|routes| &**routes), registry, updates.clone())?;
        let subscribers = Arc::new(subscribers);
        let upstream = Upstream::new(ads, bootstrap.clusters.iter().find(|one| one.name == ads.cluster)?);
        let node = node::node(&ads.node, &bootstrap.node);
        let once = ads.node_on_first_message_only;
        let types = std::iter::once((Judge::Endpoints, subscribers.names(Kind::Endpoints))).chain(
            routes.map(|compiler| {
                (Judge::Routes(Arc::clone(compiler), BTreeMap::new()), subscribers.names(Kind::Routes))
            }),
        );
        let server = registry.server(Slot::Control);
        let waiting = Arc::clone(&subscribers);
        let wait = tokio::spawn(async move { waiting.give_up_in_time().await });
        let run = match ads.variant {
            Variant::StateOfTheWorld => {
                let types = types.map(|(judge, names)| Sotw::new(judge, node.clone(), names, once)).collect();
                tokio::spawn(stream::run(types, upstream, subscribers, server, seed))
            }
            Variant::Delta => {
                let types =
                    types.map(|(judge, names)| Delta::new(judge, node.clone(), names, once)).collect();
                tokio::spawn(stream::run(types, upstream, subscribers, server, seed))
            }
        };
        Some(Self(vec![run, wait]))
    }
}

impl Drop for AdsClient {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}
