//! Certificates, keys and lists that change while the process runs, in files or as secrets that are told: read again, compiled,
//! handed to the workers.
//!
//! New handshakes use what is new; connections that are there go on. What cannot be read or compiled leaves the last good
//! one in place, and is said once and counted. A context whose secrets are still to come is compiled when they are there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{ClusterSpec, TransportSockets};
use crate::config::cluster::Cluster;
use crate::config::shared_bytes::KnownBytes;
use crate::config::tls::{DownstreamTls, Source, UpstreamTls};
use crate::control::admin::TlsContext;
use crate::control::tls_files::read_again;
use crate::control::xds::client::{KnownSecrets, SecretKey};
use crate::protocol::tls::{Secured, ServerTls};
use crate::snapshot::{ChainTls, ListenerResource, Replaced, Snapshot, SocketCompiler};
use crate::telemetry::{ClusterStat, ListenerStat, Scope, Slot};

/// How long a key of this process seals tickets. The one before opens them as long again.
pub(super) const TICKET_KEY_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// All TLS contexts of the process.
#[derive(Debug)]
pub(super) struct Rotation {
    secrets: KnownSecrets,
    servers: Vec<Server>,
    /// By the cluster's name.
    clients: BTreeMap<Box<str>, Client>,
    /// What files had that were read again.
    known: KnownBytes,
}

/// Something new for the workers.
#[derive(Debug, Clone)]
pub(super) enum Update {
    /// TLS of a chain of a listener.
    Server(ChainTls),
    /// Transport sockets of a cluster.
    Client { cluster: Arc<str>, sockets: Arc<TransportSockets> },
}

/// What came of reading files and secrets again.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) updates: Vec<Update>,
    /// Contexts that stay as they were, and why; each is said once.
    pub(super) rejected: Vec<String>,
}

#[derive(Debug)]
struct Server {
    listener: usize,
    /// The place of the chain in it.
    chain: usize,
    name: Box<str>,
    config: DownstreamTls,
    /// What could not be compiled, so that it is said once.
    refused: Option<Refused<DownstreamTls>>,
    /// `None`: a secret is still to come.
    tls: Option<Arc<ServerTls>>,
    /// Whether it is newer than the listener.
    is_newer: bool,
    handshake_timeout: Option<Duration>,
    stats: Arc<Scope<ListenerStat>>,
}

#[derive(Debug)]
struct Client {
    /// As it was told: the cluster's own.
    config: Arc<Cluster>,
    /// Its contexts with what is known of their files and secrets.
    contexts: Contexts,
    refused: Option<Refused<Contexts>>,
    sockets: Arc<TransportSockets>,
    stats: Arc<Scope<ClusterStat>>,
}

impl Server {
    /// Those of a listener.
    fn of(listener: usize, resource: &ListenerResource) -> impl Iterator<Item = Self> {
        let config = &resource.config;
        config.chains().zip(&resource.chains).enumerate().filter_map(move |(chain, (of, compiled))| {
            Some(Self {
                listener,
                chain,
                name: config.name.clone(),
                config: DownstreamTls::clone(of.tls.as_ref()?),
                refused: None,
                tls: compiled.tls.as_ref()?.ready().cloned(),
                is_newer: false,
                handshake_timeout: of.transport_socket_connect_timeout,
                stats: Arc::clone(&resource.stats),
            })
        })
    }

    /// Takes what has changed of its files and secrets; whether it is another now.
    fn renew(&mut self, secrets: &KnownSecrets, known: &mut KnownBytes, outcome: &mut Outcome) -> bool {
        let mut next = self.config.clone();
        let read = secrets.fill_server(&mut next).and_then(|()| server_changed(&mut next, known));
        if read.is_ok() && !next.is_whole() {
            return false;
        }
        let what = format!("listener {}", self.name);
        let Some(next) = changed(read, &self.config, next, &mut self.refused, &what, outcome) else {
            return false;
        };
        match ServerTls::compile(&next, self.handshake_timeout, self.tls.as_deref()) {
            Ok(tls) => {
                self.config = next;
                self.refused = None;
                outcome.updates.extend(self.put(tls));
                true
            }
            Err(error) => {
                outcome.rejected.push(format!("{what}: {error}"));
                self.refused = Some(Refused::Compiled(next));
                false
            }
        }
    }

    fn put(&mut self, tls: ServerTls) -> Option<Update> {
        self.tls = Some(Arc::new(tls));
        self.is_newer = true;
        self.newer().map(Update::Server)
    }

    /// What is newer than the listener.
    fn newer(&self) -> Option<ChainTls> {
        let tls = self.tls.as_ref().filter(|_| self.is_newer)?;
        Some(ChainTls { listener: self.listener, chain: self.chain, tls: Arc::clone(tls) })
    }
}

/// Contexts of a cluster, in the order of its transport sockets.
#[derive(Debug, PartialEq)]
struct Contexts(Box<[Arc<UpstreamTls>]>);

impl Contexts {
    fn of(cluster: &Cluster) -> Self {
        let alone = |tls: &Arc<UpstreamTls>| {
            let mut tls = Arc::clone(tls);
            if is_named_and_known(&tls) {
                Arc::make_mut(&mut tls).common.named = None;
            }
            tls
        };
        Self(cluster.sockets().contexts().map(alone).collect())
    }
}

impl Client {
    /// That of a cluster; `None`: it is reached in plain text.
    fn of(cluster: &Arc<ClusterSpec>) -> Option<Self> {
        let ClusterSpec { config, sockets, stats, .. } = &**cluster;
        (!sockets.is_plain()).then(|| Self {
            contexts: Contexts::of(config),
            config: Arc::clone(config),
            refused: None,
            sockets: Arc::clone(sockets),
            stats: Arc::clone(stats),
        })
    }

    /// Takes what has changed of its files and secrets; whether it is another now.
    fn renew(&mut self, secrets: &KnownSecrets, known: &mut KnownBytes, outcome: &mut Outcome) -> bool {
        let mut next = Cluster::clone(&self.config);
        let read = secrets.fill_cluster(&mut next).and_then(|()| client_changed(&mut next, known));
        let what = format!("cluster {}", self.config.name);
        let contexts = Contexts::of(&next);
        let Some(contexts) = changed(read, &self.contexts, contexts, &mut self.refused, &what, outcome)
        else {
            return false;
        };
        // Clusters with the same context share it only until its files change.
        match SocketCompiler::default().of(&next) {
            Ok(sockets) => {
                self.sockets = sockets;
                self.contexts = contexts;
                self.refused = None;
                let (cluster, sockets) = ((*self.config.name).into(), Arc::clone(&self.sockets));
                outcome.updates.push(Update::Client { cluster, sockets });
                true
            }
            Err(error) => {
                outcome.rejected.push(format!("{what}: {error}"));
                self.refused = Some(Refused::Compiled(contexts));
                false
            }
        }
    }
}

/// A context that is not used.
#[derive(Debug, PartialEq)]
enum Refused<T> {
    Compiled(T),
    Unreadable(String),
}

impl Rotation {
    /// The contexts of a snapshot, which have their secrets from there.
    pub(super) fn of(snapshot: &Snapshot, secrets: &KnownSecrets) -> Self {
        let listeners = snapshot.listeners.iter().enumerate();
        let servers = listeners.flat_map(|(number, resource)| Server::of(number, resource));
        let clients = snapshot.clusters.iter().filter_map(|one| Client::of(&one.spec));
        let clients = clients.map(|client| (client.config.name.clone(), client));
        Self {
            secrets: secrets.clone(),
            servers: servers.collect(),
            clients: clients.collect(),
            known: KnownBytes::default(),
        }
    }

    /// Takes a listener, in place of the one that it replaces; whether either has TLS. Tickets of chains that are kept stay good, as
    /// in Envoy, which keeps their contexts.
    pub(super) fn put_listener(
        &mut self,
        number: usize,
        resource: &ListenerResource,
        replaced: Option<&Replaced>,
    ) -> bool {
        let mut servers: Vec<_> = Server::of(number, resource).collect();
        let mut outcome = Outcome::default();
        for server in &mut servers {
            if server.config.told().next().is_some() {
                server.renew(&self.secrets, &mut self.known, &mut outcome);
            }
            let before = replaced.and_then(|replaced| self.kept(replaced, server.chain));
            let both = server.tls.as_deref().zip(before);
            if let Some(tls) = both.and_then(|(tls, before)| tls.with_ticket_keys_of(before)) {
                outcome.updates.extend(server.put(tls));
            }
        }
        warn(&outcome);
        let had = replaced.is_some_and(|replaced| self.remove_listener(replaced.number));
        let has = !servers.is_empty();
        self.servers.append(&mut servers);
        had || has
    }

    /// What the chain at this place of a listener had in the one that it replaces, where it was the very same.
    fn kept(&self, replaced: &Replaced, chain: usize) -> Option<&ServerTls> {
        let is_it = |server: &&Server| {
            server.listener == replaced.number && replaced.kept.get(server.chain) == Some(&Some(chain))
        };
        self.servers.iter().find(is_it)?.tls.as_deref()
    }

    /// That listener is no more; whether it had TLS.
    pub(super) fn remove_listener(&mut self, number: usize) -> bool {
        let old = self.servers.len();
        self.servers.retain(|server| server.listener != number);
        self.servers.len() < old
    }

    /// Takes a cluster in place of the one that had its name (`None`: there is none any more); whether either has TLS.
    pub(super) fn put_cluster(&mut self, name: &str, cluster: Option<&Arc<ClusterSpec>>) -> bool {
        match cluster.and_then(Client::of) {
            Some(mut client) => {
                if client.config.told_secrets().next().is_some() {
                    let mut outcome = Outcome::default();
                    client.renew(&self.secrets, &mut self.known, &mut outcome);
                    warn(&outcome);
                }
                self.clients.insert(name.into(), client);
                true
            }
            None => self.clients.remove(name).is_some(),
        }
    }

    /// A cluster as it is reached by now.
    pub(super) fn latest(&self, cluster: &Arc<ClusterSpec>) -> Arc<ClusterSpec> {
        match self.clients.get(&cluster.config.name) {
            Some(client) if !Arc::ptr_eq(&client.sockets, &cluster.sockets) => {
                Arc::new(cluster.with_sockets(Arc::clone(&client.sockets)))
            }
            _ => Arc::clone(cluster),
        }
    }

    /// TLS of chains that is newer than their listeners; `of`: of this one alone.
    pub(super) fn newer(&self, of: Option<usize>) -> Vec<ChainTls> {
        let servers = self.servers.iter().filter(|server| of.is_none_or(|of| server.listener == of));
        servers.filter_map(Server::newer).collect()
    }

    /// Whether there is nothing that could change.
    pub(super) fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.clients.is_empty()
    }

    /// What is in use, for `/certs`.
    pub(super) fn contexts(&self) -> Vec<TlsContext> {
        let servers = self.servers.iter().filter_map(|server| server.tls.clone()).map(TlsContext::Server);
        let clients = self.clients.values().flat_map(|client| client.sockets.0.iter().flatten());
        let clients =
            clients.filter_map(Secured::ready).map(|context| TlsContext::Client(Arc::clone(context)));
        servers.chain(clients).collect()
    }

    /// Files and directories whose changes matter.
    pub(super) fn paths(&mut self) -> Vec<Box<str>> {
        let mut paths = Vec::new();
        let mut note = |source: &mut Source| {
            if let Some(file) = &source.file {
                paths.push(file.clone());
                paths.extend(source.watched_directory.clone());
            }
        };
        self.servers.iter_mut().for_each(|server| server.config.sources_mut().for_each(&mut note));
        for client in self.clients.values() {
            // What is visited may be changed, and so is a copy's own.
            Cluster::clone(&client.config).tls_sources(&mut note);
        }
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// Reads every file again and compiles what has changed.
    pub(super) fn refresh(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        for server in &mut self.servers {
            server.renew(&self.secrets, &mut self.known, &mut outcome);
        }
        for client in self.clients.values_mut() {
            client.renew(&self.secrets, &mut self.known, &mut outcome);
        }
        outcome
    }

    /// A secret is another now: compiles what uses it.
    pub(super) fn renew(&mut self, (source, name): &SecretKey) -> Outcome {
        let mut outcome = Outcome::default();
        for server in &mut self.servers {
            let uses = server.config.told().any(|told| told.source == *source && told.name == *name);
            if uses && server.renew(&self.secrets, &mut self.known, &mut outcome) {
                server.stats.cells(Slot::Control).inc(ListenerStat::SslContextUpdateBySds);
            }
        }
        for client in self.clients.values_mut() {
            let uses = client.config.told_secrets().any(|told| told.source == *source && told.name == *name);
            if uses && client.renew(&self.secrets, &mut self.known, &mut outcome) {
                client.stats.cells(Slot::Control).inc(ClusterStat::SslContextUpdateBySds);
            }
        }
        outcome
    }

    /// Gives every context that seals tickets under a key of this process a new one.
    pub(super) fn rotate_ticket_keys(&mut self) -> Vec<Update> {
        let mut updates = Vec::new();
        for server in &mut self.servers {
            let Some(tls) = server.tls.as_ref().and_then(|tls| tls.with_new_ticket_key()) else { continue };
            updates.extend(server.put(tls));
        }
        updates
    }
}

/// Says why a context that is new has not what its secrets have.
fn warn(outcome: &Outcome) {
    for reason in &outcome.rejected {
        log::warn!("TLS: {reason}");
    }
}

/// What is to be compiled, if anything.
fn changed<T: PartialEq>(
    read: Result<(), String>,
    current: &T,
    next: T,
    refused: &mut Option<Refused<T>>,
    what: &str,
    outcome: &mut Outcome,
) -> Option<T> {
    if let Err(reason) = read {
        let now = Refused::Unreadable(reason);
        if refused.as_ref() != Some(&now) {
            if let Refused::Unreadable(reason) = &now {
                outcome.rejected.push(format!("{what}: {reason}"));
            }
            *refused = Some(now);
        }
        return None;
    }
    if next == *current {
        *refused = None;
        return None;
    }
    let next = Refused::Compiled(next);
    if refused.as_ref() == Some(&next) {
        return None;
    }
    match next {
        Refused::Compiled(next) => Some(next),
        Refused::Unreadable(_) => None,
    }
}

fn server_changed(config: &mut DownstreamTls, known: &mut KnownBytes) -> Result<(), String> {
    config.sources_mut().try_for_each(|source| read_again(source, known))
}

/// Whether nothing is needed any more of where its secrets come from: the cluster as it was told says that.
fn is_named_and_known(tls: &UpstreamTls) -> bool {
    tls.common.named.is_some() && tls.common.is_whole()
}

fn client_changed(config: &mut Cluster, known: &mut KnownBytes) -> Result<(), String> {
    config.change_tls(|tls| {
        tls.common.sources_mut().try_for_each(|source| read_again(source, known))?;
        if is_named_and_known(tls) {
            tls.common.named = None;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests;
