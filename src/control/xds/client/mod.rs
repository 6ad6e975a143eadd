//! The client of a control plane: aggregated discovery, state of the world or delta, over one gRPC stream.
//!
//! What is asked, answered and believed is decided by pure state machines (`sotw`, `delta`, `judge`, `damping`,
//! `backoff`); `stream` moves messages, `channel` makes connections. It runs on the control thread and hands whole
//! assignments to whoever publishes; what cannot be used leaves the last good one in place and goes back by name.
//!
//! Of resource types this version asks for endpoints (EDS) of the clusters of the configuration.
mod backoff;
mod channel;
mod damping;
mod delta;
mod judge;
mod node;
mod sotw;
mod stream;
mod subscribers;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::channel::Upstream;
use self::delta::Delta;
use self::judge::Taken;
use self::sotw::Sotw;
use self::subscribers::Subscribers;
use crate::config::ads::Variant;
use crate::config::bootstrap::Bootstrap;
use crate::control::discovery::EndpointUpdate;
use crate::telemetry::{Registry, Slot};

/// The type URL of the resources that are asked for.
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

/// One of the two protocols: what is sent, and what an answer means. Knows nothing of connections.
trait Protocol: Send + 'static {
    type Request: prost::Message + Default + 'static;
    type Response: prost::Message + Default + 'static;
    /// The method of the service.
    const METHOD: &'static str;

    /// The first request of a stream; `None`: there is nothing to ask for.
    fn open(&mut self) -> Option<Self::Request>;

    /// Takes a response; `None` when it is of a type that nobody asked for.
    fn take(&mut self, response: Self::Response) -> Option<Taken<Self::Request>>;
}

/// The running client; dropping it ends it.
#[derive(Debug)]
pub struct AdsClient(Vec<JoinHandle<()>>);

impl AdsClient {
    /// Starts to ask for the endpoints of the clusters that have them from there; `None` when there are none, or no
    /// control plane. `seed` spreads the waits. Must be called within a tokio runtime that has I/O and time.
    pub fn start(
        bootstrap: &Bootstrap,
        registry: &Registry,
        seed: u64,
        updates: &mpsc::Sender<EndpointUpdate>,
    ) -> Option<Self> {
        let ads = bootstrap.ads.as_ref()?;
        let cells = |cluster: &str| registry.cluster(cluster).cells(Slot::Control);
        let subscribers = Arc::new(Subscribers::of(&bootstrap.clusters, cells, updates.clone())?);
        let upstream = Upstream::new(ads, bootstrap.clusters.iter().find(|one| one.name == ads.cluster)?);
        let node = node::node(&ads.node, &bootstrap.node);
        let names = subscribers.names();
        let once = ads.node_on_first_message_only;
        let server = registry.server(Slot::Control);
        let waiting = Arc::clone(&subscribers);
        let wait = tokio::spawn(async move { waiting.give_up_in_time().await });
        let run = match ads.variant {
            Variant::StateOfTheWorld => {
                tokio::spawn(stream::run(Sotw::new(node, names, once), upstream, subscribers, server, seed))
            }
            Variant::Delta => {
                tokio::spawn(stream::run(Delta::new(node, names, once), upstream, subscribers, server, seed))
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
