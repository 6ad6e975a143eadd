//! STRICT_DNS and LOGICAL_DNS: the names in a cluster's load assignment, resolved again and again.
//!
//! One task per cluster and one per name in it, on the control thread. Names are asked for by `resolver`, when `schedule`
//! says; `Members` turns answers into assignments of fixed addresses, which go to whoever publishes, and only when they
//! changed. A failed resolution never takes an address away.
//!
//! Source: Envoy `DnsClusterImpl`. An empty answer empties a STRICT_DNS name and counts as a failure of a LOGICAL_DNS one.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use log::{debug, info, warn};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use self::resolver::{Answer, NameResolver};
use self::schedule::Schedule;
use super::{Assignment, EndpointUpdate};
use crate::base::limits::ENDPOINT_UPDATES_QUEUED_MAX;
use crate::config::address::{Address, EndpointAddress, HostPort};
use crate::config::cluster::{Cluster, Discovery, Dns, DnsLookupFamily};
use crate::config::endpoint::ClusterLoadAssignment;
use crate::telemetry::{ClusterCells, ClusterStat};

mod resolver;
mod schedule;

/// The running resolution of one cluster; dropping it ends it.
#[derive(Debug)]
pub struct DnsDiscovery(JoinHandle<()>);

impl DnsDiscovery {
    /// Starts to resolve the names of this instance of `cluster`; `None` when it is not a DNS cluster. `cells` gives those of
    /// the control thread, `seed` spreads the waits. Must be called within a tokio runtime that has I/O and time.
    pub fn start(
        cluster: &Cluster,
        instance: u64,
        cells: impl FnOnce() -> ClusterCells,
        seed: u64,
        updates: mpsc::Sender<EndpointUpdate>,
    ) -> Option<Self> {
        let (dns, mode) = match &cluster.discovery {
            Discovery::Static | Discovery::OriginalDst(_) | Discovery::Eds(_) => return None,
            Discovery::StrictDns(dns) => (dns, Mode::Strict),
            Discovery::LogicalDns(dns) => (dns, Mode::Logical),
        };
        let members = Members { instance, ..Members::new(&cluster.name, &cluster.load_assignment, mode) };
        let task = run(members, dns.clone(), cells(), seed, updates, tokio::time::sleep);
        Some(Self(tokio::spawn(task)))
    }
}

/// The addresses of a name, for whoever connects to it by himself: by a cluster's settings, but that of two families the preferred one
/// is first and the other behind it.
///
/// # Errors
/// Why there are none.
pub async fn resolve(dns: &Dns, host: &str) -> Result<Vec<IpAddr>, String> {
    use DnsLookupFamily::{All, Auto, V4Only, V4Preferred, V6Only};
    let lookup_family = match dns.lookup_family {
        one @ (V4Only | V6Only) => one,
        Auto | V4Preferred | All => All,
    };
    let answer = match NameResolver::new(&Dns { lookup_family, ..dns.clone() }) {
        Ok(resolver) => resolver.resolve(host).await,
        Err(reason) => Err(reason),
    };
    let mut addresses = answer.map_err(|reason| format!("{host} cannot be resolved: {reason}"))?.addresses;
    addresses.sort_by_key(|address| address.is_ipv4() == (dns.lookup_family == Auto));
    if addresses.is_empty() { Err(format!("{host} has no address")) } else { Ok(addresses) }
}

impl Drop for DnsDiscovery {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What an answer means for endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Each address is an endpoint.
    Strict,
    /// The first address is the one endpoint.
    Logical,
}

/// Resolves every name until dropped, and reports each change.
async fn run<W, F>(
    mut members: Members,
    dns: Dns,
    cells: ClusterCells,
    seed: u64,
    updates: mpsc::Sender<EndpointUpdate>,
    wait: W,
) where
    W: Fn(Duration) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let resolver = match NameResolver::new(&dns) {
        Ok(resolver) => Arc::new(resolver),
        Err(error) => {
            warn!(target: "upstream", "cluster {}: no DNS resolver: {error}", members.cluster);
            cells.inc(ClusterStat::UpdateFailure);
            let _ = updates.send(members.update()).await;
            return;
        }
    };
    let (answers_in, mut answers) = mpsc::channel(ENDPOINT_UPDATES_QUEUED_MAX);
    // Dropped with this future, and then ends them all.
    let mut watchers = JoinSet::new();
    for (index, name) in members.names.iter().enumerate() {
        let watcher = Watcher {
            index,
            host: name.host.clone(),
            schedule: Schedule::new(&dns, seed ^ index as u64),
            resolver: Arc::clone(&resolver),
            cells: cells.clone(),
            mode: members.mode,
            answers: answers_in.clone(),
        };
        watchers.spawn(watcher.run(wait.clone()));
    }
    drop(answers_in);
    if members.names.is_empty() {
        let _ = updates.send(members.update()).await;
    }
    let mut first = true;
    while let Some((index, addresses)) = answers.recv().await {
        let changed = match addresses {
            Some(addresses) if members.set(index, &addresses) => true,
            Some(_) => {
                cells.inc(ClusterStat::UpdateNoRebuild);
                false
            }
            None => false,
        };
        if (changed || first) && updates.send(members.update()).await.is_err() {
            return;
        }
        first = false;
    }
}

/// Asks for one name, again and again.
struct Watcher {
    index: usize,
    host: Box<str>,
    schedule: Schedule,
    resolver: Arc<NameResolver>,
    cells: ClusterCells,
    mode: Mode,
    /// The addresses of the name; `None` after a failure.
    answers: mpsc::Sender<(usize, Option<Vec<IpAddr>>)>,
}

impl Watcher {
    async fn run<W, F>(mut self, wait: W)
    where
        W: Fn(Duration) -> F,
        F: Future<Output = ()>,
    {
        let mut failing = false;
        loop {
            self.cells.inc(ClusterStat::UpdateAttempt);
            let outcome = match self.resolver.resolve(&self.host).await {
                Ok(answer) if self.mode == Mode::Logical && answer.addresses.is_empty() => {
                    Err("the answer has no address".to_string())
                }
                Ok(answer) => Ok(answer),
                Err(error) => Err(error.to_string()),
            };
            let (addresses, pause) = match outcome {
                Ok(Answer { addresses, ttl }) => {
                    self.cells.inc(ClusterStat::UpdateSuccess);
                    if failing {
                        info!(target: "upstream", "DNS name {} resolves again", self.host);
                    }
                    failing = false;
                    (Some(addresses), self.schedule.after_success(ttl))
                }
                Err(reason) => {
                    self.cells.inc(ClusterStat::UpdateFailure);
                    if failing {
                        debug!(target: "upstream", "DNS name {} still does not resolve: {reason}", self.host);
                    } else {
                        warn!(target: "upstream", "DNS name {} does not resolve: {reason}", self.host);
                    }
                    failing = true;
                    (None, self.schedule.after_failure())
                }
            };
            if self.answers.send((self.index, addresses)).await.is_err() {
                return;
            }
            wait(pause).await;
        }
    }
}

/// What a cluster's names resolve to.
#[derive(Debug)]
struct Members {
    cluster: Arc<str>,
    /// See [`EndpointUpdate::instance`].
    instance: u64,
    mode: Mode,
    /// As configured, names and all.
    template: ClusterLoadAssignment,
    /// The names of the template, in its order.
    names: Vec<HostPort>,
    /// What each of them resolves to.
    resolved: Vec<Vec<SocketAddr>>,
}

impl Members {
    fn new(cluster: &str, template: &ClusterLoadAssignment, mode: Mode) -> Self {
        let endpoints = template.localities.iter().flat_map(|locality| &locality.endpoints);
        let names: Vec<HostPort> = endpoints
            .filter_map(|endpoint| match &endpoint.address {
                EndpointAddress::Name(name) => Some(name.clone()),
                EndpointAddress::Fixed(_) => None,
            })
            .collect();
        let resolved = vec![Vec::new(); names.len()];
        Self { cluster: cluster.into(), instance: 0, mode, template: template.clone(), names, resolved }
    }

    /// Takes the addresses of one name; whether that changes the endpoints.
    fn set(&mut self, index: usize, addresses: &[IpAddr]) -> bool {
        let (Some(name), Some(resolved)) = (self.names.get(index), self.resolved.get_mut(index)) else {
            return false;
        };
        let mut endpoints: Vec<SocketAddr> =
            addresses.iter().map(|address| SocketAddr::new(*address, name.port)).collect();
        match self.mode {
            Mode::Logical => endpoints.truncate(1),
            // The order of an answer often rotates; it means nothing where every address is an endpoint.
            Mode::Strict => {
                endpoints.sort_unstable();
                endpoints.dedup();
            }
        }
        let changed = *resolved != endpoints;
        *resolved = endpoints;
        changed
    }

    /// The assignment with every name replaced by an endpoint per address.
    fn update(&self) -> EndpointUpdate {
        let mut resolved = self.names.iter().zip(&self.resolved);
        let mut assignment = self.template.clone();
        for locality in &mut assignment.localities {
            // LOGICAL_DNS has one endpoint; its priority is of no meaning, and Envoy sets it to 0.
            if self.mode == Mode::Logical {
                locality.priority = 0;
            }
            let configured = std::mem::take(&mut locality.endpoints);
            for endpoint in configured {
                if matches!(endpoint.address, EndpointAddress::Fixed(_)) {
                    locality.endpoints.push(endpoint);
                } else if let Some((name, addresses)) = resolved.next() {
                    for address in addresses {
                        let mut endpoint = endpoint.clone();
                        endpoint.address = EndpointAddress::Fixed(Address::Ip(*address));
                        if endpoint.hostname.is_empty() {
                            endpoint.hostname.clone_from(&name.host);
                        }
                        locality.endpoints.push(endpoint);
                    }
                }
            }
        }
        EndpointUpdate {
            cluster: Arc::clone(&self.cluster),
            instance: self.instance,
            assignment: Assignment::found(assignment),
        }
    }
}

#[cfg(test)]
mod tests;
