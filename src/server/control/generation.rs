//! What the workers are told of the configuration: all that one response of a control plane changes, and what has come with it,
//! is one generation and one message to each of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{Control, Sources};
use crate::base::limits::ON_DEMAND_QUEUED_MAX;
use crate::filter::on_demand::AskedHost;
use crate::server::clusters::Change;
use crate::snapshot::Generation;
use crate::worker::Command;

/// Taking an update is code that serving does not need: it goes back once none has come for so long.
const SETTLES_AFTER: Duration = Duration::from_secs(5);

impl Control<'_> {
    /// What the workers are told next; `None`: what they start with has it.
    pub(super) fn next_generation(&mut self) -> Option<&mut Generation> {
        self.start.is_none().then_some(&mut self.generation)
    }

    /// Tells the workers all that has changed since the last call, as one, and gives them the sockets that are new.
    pub(super) fn send_generation(&mut self) {
        if self.start.is_some() {
            return;
        }
        let hands = self.sockets.deal(self.registry.workers(), self.succession.successor.is_some());
        if self.generation.is_empty() && hands.iter().all(Vec::is_empty) {
            return;
        }
        let generation = Arc::new(std::mem::take(&mut self.generation));
        for (worker, sockets) in hands.into_iter().enumerate() {
            self.workers.send(worker, Command::Generation { generation: Arc::clone(&generation), sockets });
        }
    }

    /// Asks for the virtual hosts that requests wait for; those of which nothing will be told need not wait.
    pub(super) fn ask_hosts(&mut self, first: AskedHost, sources: &Sources) {
        let queue = &mut self.asked_hosts;
        let more = std::iter::from_fn(|| queue.try_recv().ok()).take(ON_DEMAND_QUEUED_MAX);
        for asked in std::iter::once(first).chain(more) {
            let table = &asked.table;
            if !sources.client.ask_host(&table.source, &table.name, &asked.host) {
                self.generation.answered_hosts.insert(asked);
            }
        }
    }

    /// Has the workers told which clusters and listeners there are, if others than before.
    pub(super) fn publish(&mut self, sources: &mut Sources) {
        self.settling = Some(Box::pin(sleep(SETTLES_AFTER)));
        self.publish_clusters(sources);
        if self.start.is_none() {
            self.publish_listeners(sources);
        }
    }

    /// Has the workers told which listeners there are, if others than before.
    pub(super) fn publish_listeners(&mut self, sources: &mut Sources) {
        let (spread, stay) = (self.drain_spread(), self.options.drain_time);
        let (listeners, around) = self.around(sources);
        let Some(change) = listeners.publish(&around, spread, stay) else { return };
        self.generation.put_listeners(change);
        self.told_listeners = [false, true].map(|inbound_only| sources.listeners.count(inbound_only));
        self.process.set_tls(self.rotation.contexts());
        self.tls_has_changed = true;
    }

    /// Has the workers told which clusters there are, if others than before.
    fn publish_clusters(&mut self, sources: &mut Sources) {
        let change = sources.clusters.publish(&self.metrics, &mut self.rotation);
        let Some(Change { clusters, names, has_tls }) = change else { return };
        if has_tls {
            self.process.set_tls(self.rotation.contexts());
            self.tls_has_changed = true;
        }
        if let Some(next) = self.next_generation() {
            next.put_clusters(clusters, names);
        }
    }
}
