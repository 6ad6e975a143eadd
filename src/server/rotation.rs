//! Certificates, keys and lists that change while the process runs: read again, compiled, handed to the workers.
//!
//! New handshakes use what is new; connections that are there go on. What cannot be read or compiled leaves the last good
//! one in place, and is said once and counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{ClusterSpec, TransportSockets};
use crate::config::cluster::Cluster;
use crate::config::tls::{DownstreamTls, Source};
use crate::control::admin::TlsContext;
use crate::control::tls_files::read_again;
use crate::protocol::tls::ServerTls;
use crate::snapshot::{ListenerResource, Snapshot, SocketCompiler};

/// How long a key of this process seals tickets. The one before opens them as long again.
pub(super) const TICKET_KEY_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// All TLS contexts of the process.
#[derive(Debug)]
pub(super) struct Rotation {
    servers: Vec<Server>,
    /// By the cluster's name.
    clients: BTreeMap<Box<str>, Client>,
}

/// Something new for the workers.
#[derive(Debug, Clone)]
pub(super) enum Update {
    /// TLS of the listener of this number.
    Server { listener: usize, chain: usize, tls: Arc<ServerTls> },
    /// Transport sockets of a cluster.
    Client { cluster: Arc<str>, sockets: Arc<TransportSockets> },
}

/// What came of reading files again.
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
    tls: Arc<ServerTls>,
}

#[derive(Debug)]
struct Client {
    config: Cluster,
    refused: Option<Refused<Cluster>>,
    sockets: Arc<TransportSockets>,
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
                tls: Arc::clone(compiled.tls.as_ref()?),
            })
        })
    }
}

impl Client {
    /// That of a cluster; `None`: it is reached in plain text.
    fn of(cluster: &Arc<ClusterSpec>) -> Option<Self> {
        let (config, sockets) = (&cluster.config, &cluster.sockets);
        (!sockets.is_plain()).then(|| Self {
            config: Cluster::clone(config),
            refused: None,
            sockets: Arc::clone(sockets),
        })
    }
}

/// A context that is not used.
#[derive(Debug, PartialEq)]
enum Refused<T> {
    Compiled(T),
    Unreadable(String),
}

impl Rotation {
    /// The contexts of a snapshot.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let listeners = snapshot.listeners.iter().enumerate();
        let servers = listeners.flat_map(|(number, resource)| Server::of(number, resource));
        let clients = snapshot.clusters.iter().filter_map(Client::of);
        let clients = clients.map(|client| (client.config.name.clone(), client));
        Self { servers: servers.collect(), clients: clients.collect() }
    }

    /// Takes a listener, in place of the one of the number `before`; whether either has TLS.
    pub(super) fn put_listener(
        &mut self,
        number: usize,
        resource: &ListenerResource,
        before: Option<usize>,
    ) -> bool {
        let had = before.is_some_and(|before| self.remove_listener(before));
        let old = self.servers.len();
        self.servers.extend(Server::of(number, resource));
        had || self.servers.len() > old
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
            Some(client) => {
                self.clients.insert(name.into(), client);
                true
            }
            None => self.clients.remove(name).is_some(),
        }
    }

    /// Whether there is nothing that could change.
    pub(super) fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.clients.is_empty()
    }

    /// What is in use, for `/certs`.
    pub(super) fn contexts(&self) -> Vec<TlsContext> {
        let servers = self.servers.iter().map(|server| TlsContext::Server(Arc::clone(&server.tls)));
        let clients = self.clients.values().flat_map(|client| client.sockets.0.iter().flatten());
        servers.chain(clients.map(|tls| TlsContext::Client(Arc::clone(tls)))).collect()
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
        for client in self.clients.values_mut() {
            client.config.tls_sources(&mut note);
        }
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// Reads every file again and compiles what has changed.
    pub(super) fn refresh(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        for server in &mut self.servers {
            let mut next = server.config.clone();
            let read = server_changed(&mut next);
            let what = format!("listener {}", server.name);
            match changed(read, &server.config, next, &mut server.refused, &what, &mut outcome) {
                None => {}
                Some(next) => {
                    match ServerTls::compile(&next, server.tls.handshake_timeout, Some(&server.tls)) {
                        Ok(tls) => {
                            server.tls = Arc::new(tls);
                            server.config = next;
                            server.refused = None;
                            let tls = Arc::clone(&server.tls);
                            let Server { listener, chain, .. } = *server;
                            outcome.updates.push(Update::Server { listener, chain, tls });
                        }
                        Err(error) => {
                            outcome.rejected.push(format!("{what}: {error}"));
                            server.refused = Some(Refused::Compiled(next));
                        }
                    }
                }
            }
        }
        // Clusters with the same files share what is compiled of them only until these change.
        for client in self.clients.values_mut() {
            let mut next = client.config.clone();
            let read = client_changed(&mut next);
            let what = format!("cluster {}", client.config.name);
            match changed(read, &client.config, next, &mut client.refused, &what, &mut outcome) {
                None => {}
                Some(next) => match SocketCompiler::default().of(&next) {
                    Ok(sockets) => {
                        client.sockets = sockets;
                        client.config = next;
                        client.refused = None;
                        let (cluster, sockets) = ((*client.config.name).into(), Arc::clone(&client.sockets));
                        outcome.updates.push(Update::Client { cluster, sockets });
                    }
                    Err(error) => {
                        outcome.rejected.push(format!("{what}: {error}"));
                        client.refused = Some(Refused::Compiled(next));
                    }
                },
            }
        }
        outcome
    }

    /// Gives every context that seals tickets under a key of this process a new one.
    pub(super) fn rotate_ticket_keys(&mut self) -> Vec<Update> {
        let mut updates = Vec::new();
        for server in &mut self.servers {
            let Some(tls) = server.tls.with_new_ticket_key() else { continue };
            server.tls = Arc::new(tls);
            let (listener, chain) = (server.listener, server.chain);
            updates.push(Update::Server { listener, chain, tls: Arc::clone(&server.tls) });
        }
        updates
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

fn server_changed(config: &mut DownstreamTls) -> Result<(), String> {
    config.sources_mut().try_for_each(read_again)
}

fn client_changed(config: &mut Cluster) -> Result<(), String> {
    let mut outcome = Ok(());
    config.tls_sources(&mut |source| {
        if outcome.is_ok() {
            outcome = read_again(source);
        }
    });
    outcome
}

#[cfg(test)]
mod tests;
