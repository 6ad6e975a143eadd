//! TLS contexts while the process runs: the files and secrets that they have, and what becomes of those that are others now.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::{Control, Sources};
use crate::control::file_watch::FileWatch;
use crate::control::xds::client::{SecretKey, XdsClient};
use crate::server::rotation::{Outcome, Update};

impl Control<'_> {
    /// Asks for the secrets of the bootstrap's listeners and clusters; those that the start waits for.
    pub(super) fn refer_secrets(&self, client: &mut XdsClient) -> HashSet<SecretKey> {
        let mut awaited = HashSet::new();
        let listeners = self.bootstrap.listeners.iter().flat_map(|one| one.told_secrets());
        let of_clusters = self.bootstrap.clusters.iter().flat_map(|one| {
            let waits = one.wait_for_warm_on_init;
            one.told_secrets().map(move |secret| (secret, waits))
        });
        for (secret, waits) in listeners.map(|secret| (secret, true)).chain(of_clusters) {
            if client.refer(secret) && waits {
                awaited.insert((secret.source.clone(), Arc::clone(&secret.name)));
            }
        }
        awaited
    }

    /// Takes a secret that is there, or is waited for no more: the contexts that use it first, then who has waited for it.
    pub(super) fn take_secret(&mut self, key: &SecretKey, sources: &mut Sources) {
        let outcome = self.rotation.renew(key);
        self.take_tls(outcome);
        sources.clusters.take_secret(key, &mut sources.client);
        let (listeners, mut around) = self.around(sources);
        listeners.take_secret(key, &mut around);
        // It may have files of its own.
        self.tls_has_changed = true;
    }

    /// Watches the files of all TLS contexts.
    pub(super) fn watch(&mut self, watch: &mut Option<FileWatch>) {
        if self.rotation.is_empty() {
            return;
        }
        let watch = watch.get_or_insert_with(FileWatch::new);
        let paths = self.rotation.paths();
        watch.watch(paths.iter().map(|path| Path::new(&**path)));
    }

    /// Takes what has changed of certificates, keys and lists.
    pub(super) fn refresh_tls(&mut self) {
        let outcome = self.rotation.refresh();
        self.take_tls(outcome);
    }

    fn take_tls(&mut self, outcome: Outcome) {
        for reason in &outcome.rejected {
            log::warn!("TLS stays as it was: {reason}");
        }
        self.metrics.tls_updated(outcome.updates.len(), outcome.rejected.len());
        if !outcome.updates.is_empty() {
            log::info!("{} TLS contexts have changed: new handshakes use them", outcome.updates.len());
        }
        self.publish_tls(outcome.updates);
    }

    /// Has the workers given new TLS contexts.
    pub(super) fn publish_tls(&mut self, updates: Vec<Update>) {
        if updates.is_empty() {
            return;
        }
        self.process.set_tls(self.rotation.contexts());
        // What they start with has them.
        let Some(next) = self.next_generation() else { return };
        for update in updates {
            match update {
                Update::Server(tls) => next.put_tls(tls),
                Update::Client { cluster, sockets } => next.put_transport_sockets(cluster, sockets),
            }
        }
    }
}
