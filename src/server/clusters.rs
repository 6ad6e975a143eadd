//! Clusters of a control plane: which are in use, which still wait for their endpoints and secrets, and what becomes of them when
//! there are others. A cluster that changes serves as it was until its successor is warm.
//!
//! Who takes an update calls [`Clusters::publish`] when it has taken all there are for now: the workers hear of them as one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::Sender;

use super::dump::{Told, ToldResources, ToldState};
use super::metrics::ServerMetrics;
use super::process::Process;
use super::rotation::Rotation;
use super::seed;
use crate::base::packed;
use crate::cluster::{ClusterSet, ClusterSpec, HostSpecs, PublishedCluster};
use crate::config::cluster::{Cluster, Discovery};
use crate::control::discovery::dns::DnsDiscovery;
use crate::control::discovery::{Assignment, EndpointUpdate, KeptAssignment};
use crate::control::xds::client::{ClustersUpdate, SecretKey, TakenCluster, XdsClient};
use crate::snapshot::ClusterResource;
use crate::telemetry::names::Stats;
use crate::telemetry::{ClusterStat, Registry, Slot};

/// So many changes of endpoints, and one of so many clusters, stand beside a set.
const NEWER_MIN: usize = 64;
const NEWER_PART: usize = 8;

/// The clusters of the workers, for whoever asks which there are.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownClusters(Arc<Mutex<Arc<ClusterSet>>>);

impl KnownClusters {
    pub(super) fn new(clusters: Arc<ClusterSet>) -> Self {
        Self(Arc::new(Mutex::new(clusters)))
    }

    pub(super) fn get(&self) -> Arc<ClusterSet> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set(&self, clusters: Arc<ClusterSet>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = clusters;
    }
}

/// All clusters, as the control thread sees them.
#[derive(Debug)]
pub(super) struct Clusters {
    process: Arc<Process>,
    registry: Arc<Registry>,
    /// Those of the bootstrap.
    fixed: Arc<ClusterSet>,
    /// Resolution of the names that those of the bootstrap have.
    _resolving: Vec<DnsDiscovery>,
    active: BTreeMap<Arc<str>, Dynamic>,
    warming: BTreeMap<Arc<str>, Dynamic>,
    /// Those of the workers, once [`Self::publish`] has been called.
    set: Arc<ClusterSet>,
    /// New, changed and gone since then.
    changed: BTreeSet<Arc<str>>,
    /// How often one of them has had other endpoints since then.
    newer: usize,
    /// How often one that was warm has had other endpoints since [`Self::publish`] was called.
    updated: u64,
    /// What the control plane calls the last state of them.
    version: Box<str>,
    instances: u64,
    updates: Sender<EndpointUpdate>,
}

/// A cluster that a control plane has told.
#[derive(Debug)]
struct Dynamic {
    instance: u64,
    spec: Arc<ClusterSpec>,
    told: Arc<Told>,
    /// What it waits for beside its endpoints; `None`: nothing.
    waits: Option<Box<Waiting>>,
    _resolving: Option<DnsDiscovery>,
}

/// There is one for each of thousands of clusters.
const _: () = assert!(size_of::<Dynamic>() <= 40);

/// A cluster's wait for secrets.
#[derive(Debug)]
struct Waiting {
    /// Of which there was none.
    secrets: BTreeSet<SecretKey>,
    /// Endpoints that have come meanwhile.
    endpoints: Option<Arc<KeptAssignment>>,
}

/// What the workers are to be told.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) clusters: Arc<ClusterSet>,
    /// Names of those that are new, changed or gone.
    pub(super) names: BTreeSet<Arc<str>>,
    /// Whether one of them has TLS, or had.
    pub(super) has_tls: bool,
}

impl Clusters {
    /// Those of the bootstrap: their discovery begins, over `client` and with what is resolved to `updates`.
    pub(super) fn start(
        process: &Arc<Process>,
        registry: &Arc<Registry>,
        fixed: Arc<ClusterSet>,
        client: &mut XdsClient,
        updates: Sender<EndpointUpdate>,
    ) -> Self {
        let mut all = Self {
            process: Arc::clone(process),
            registry: Arc::clone(registry),
            fixed: Arc::clone(&fixed),
            _resolving: Vec::new(),
            active: BTreeMap::new(),
            warming: BTreeMap::new(),
            set: Arc::clone(&fixed),
            changed: BTreeSet::new(),
            newer: 0,
            updated: 0,
            version: Box::default(),
            instances: 0,
            updates,
        };
        for (nth, spec) in fixed.iter().enumerate() {
            let name = (*spec.config.name).into();
            let (resolving, _) = all.discover(&name, &spec.config, 0, nth, client);
            all._resolving.extend(resolving);
            show_warming(spec, !is_warm_by_itself(&spec.config));
        }
        all
    }

    /// Those that are there now, but for what [`Self::publish`] is still to say, reached as they are by now.
    pub(super) fn set(&mut self, rotation: &Rotation) -> &Arc<ClusterSet> {
        let latest = self.set.iter().cloned().map(|one| reached_by_now(one, rotation));
        let latest: Vec<_> = latest.collect();
        if latest.iter().zip(self.set.iter()).any(|(latest, one)| !Arc::ptr_eq(&latest.spec, &one.spec)) {
            self.set = Arc::new(ClusterSet::new(latest));
            self.process.set_clusters(Arc::clone(&self.set), 0, &[]);
        }
        &self.set
    }

    /// Takes a response.
    pub(super) fn take(&mut self, update: ClustersUpdate, client: &mut XdsClient) {
        let ClustersUpdate { put, removed, version } = update;
        let state = ToldState::now(&version);
        for TakenCluster { resource: ClusterResource { config, sockets }, wire } in put {
            let name: Arc<str> = (*config.name).into();
            self.instances += 1;
            let instance = self.instances;
            let nth = self.fixed.iter().len() + usize::try_from(instance).unwrap_or_default();
            let (resolving, known) = self.discover(&name, &config, instance, nth, client);
            let configured = || Assignment::found(Arc::clone(&config.load_assignment));
            let known = known.or_else(|| is_warm_by_itself(&config).then(configured));
            let spec = Arc::new(ClusterSpec::new(config, sockets, &self.registry));
            show_warming(&spec, true);
            let told = Arc::new(Told { state: Arc::clone(&state), wire });
            let mut secrets = BTreeSet::new();
            for secret in spec.config.told_secrets() {
                if client.refer(secret) {
                    secrets.insert((secret.source.clone(), Arc::clone(&secret.name)));
                }
            }
            let waits = (!secrets.is_empty()).then(|| Box::new(Waiting { secrets, endpoints: None }));
            let dynamic = Dynamic { instance, spec, told, waits, _resolving: resolving };
            let before = self.warming.insert(Arc::clone(&name), dynamic);
            before.iter().for_each(|before| forget(before, client));
            if let Some(assignment) = known {
                self.warm(&name, assignment, client);
            }
        }
        for name in removed {
            let (warming, active) = (self.warming.remove(&*name), self.active.remove(&*name));
            // Its statistics may be another's, too.
            warming.iter().for_each(|gone| show_warming(&gone.spec, false));
            warming.iter().chain(&active).for_each(|gone| forget(gone, client));
            if active.is_some() {
                log::info!("cluster {name} is gone");
                self.changed.insert(name.into());
            }
        }
        if !version.is_empty() {
            self.version = version;
        }
        self.show();
    }

    /// Takes endpoints of a cluster; its name and hosts, where it is one of the workers'.
    pub(super) fn take_endpoints(
        &mut self,
        update: EndpointUpdate,
        client: &mut XdsClient,
    ) -> Option<(Arc<str>, Arc<HostSpecs>)> {
        let EndpointUpdate { cluster: name, instance, assignment } = update;
        let is_it = |dynamic: &&Dynamic| dynamic.instance == instance;
        if self.warming.get(&name).filter(is_it).is_some() {
            self.warm(&name, assignment, client);
            return None;
        }
        let (spec, first) = match instance {
            0 => self.fixed.find(&name).map(|one| (&one.spec, &one.hosts[..]))?,
            // Else its source is one of a cluster that is no more.
            _ => (&self.active.get(&name).filter(is_it)?.spec, &[][..]),
        };
        let hosts = self.process.publish(&name, spec, Some(first), &assignment);
        if instance == 0 && is_warming(spec) {
            show_warming(spec, false);
        } else {
            self.updated += 1;
        }
        self.newer += 1;
        (!self.changed.contains(&name)).then_some((name, hosts))
    }

    /// A secret is there, or is waited for no more.
    pub(super) fn take_secret(&mut self, key: &SecretKey, client: &mut XdsClient) {
        let mut warm = Vec::new();
        for (name, dynamic) in &mut self.warming {
            let Some(waiting) = &mut dynamic.waits else { continue };
            if waiting.secrets.remove(key) {
                warm.extend(waiting.endpoints.take().map(|kept| (Arc::clone(name), kept.assignment())));
            }
        }
        for (name, endpoints) in warm {
            self.warm(&name, endpoints, client);
        }
    }

    /// What has changed since the last call; `None`: nothing, or endpoints alone, and so few that workers keep them beside their set.
    /// What is new is reached as `rotation` has it.
    pub(super) fn publish(&mut self, metrics: &ServerMetrics, rotation: &mut Rotation) -> Option<Change> {
        metrics.clusters_warm_up(self.warming.len() as u64);
        metrics.endpoints_changed(std::mem::take(&mut self.updated));
        if self.changed.is_empty() && !is_worth_a_set(self.newer, self.set.iter().len()) {
            return None;
        }
        self.newer = 0;
        packed::pack(&mut self.active, self.changed.len());
        let before = std::mem::take(&mut self.set);
        let mut has_tls = false;
        for name in &self.changed {
            has_tls |= rotation.put_cluster(name, self.active.get(name).map(|dynamic| &dynamic.spec));
        }
        // Those that were told have all theirs from discovery.
        let none = Arc::<HostSpecs>::default();
        let active = self
            .active
            .values()
            .map(|dynamic| PublishedCluster { spec: Arc::clone(&dynamic.spec), hosts: Arc::clone(&none) });
        let all = self.fixed.iter().cloned().chain(active).map(|one| reached_by_now(one, rotation));
        self.set = Arc::new(ClusterSet::new(self.process.with_latest_hosts(all)));
        let names = std::mem::take(&mut self.changed);
        let (mut added, mut modified, mut gone) = (0, 0, Vec::new());
        for name in &names {
            match (before.find(name).is_some(), self.set.find(name).is_some()) {
                (false, true) => added += 1,
                (true, true) => modified += 1,
                (_, false) => gone.push(Arc::clone(name)),
            }
        }
        let counts = [self.set.iter().len(), added, modified, gone.len()];
        metrics.clusters_changed(counts.map(|count| count as u64));
        self.process.set_clusters(Arc::clone(&self.set), names.len(), &gone);
        self.show();
        Some(Change { clusters: Arc::clone(&self.set), names, has_tls })
    }

    /// Whether the start waits for one.
    pub(super) fn is_awaited(&self) -> bool {
        self.warming.values().any(|dynamic| dynamic.spec.config.wait_for_warm_on_init)
    }

    /// A cluster has its first endpoints: it takes the place of the one that had its name, once it has its secrets, too.
    fn warm(&mut self, name: &Arc<str>, assignment: Assignment, client: &mut XdsClient) {
        let Some(mut dynamic) = self.warming.remove(name) else { return };
        if let Some(waiting) = dynamic.waits.as_mut().filter(|waiting| !waiting.secrets.is_empty()) {
            waiting.endpoints = Some(Arc::clone(assignment.kept()));
            self.warming.insert(Arc::clone(name), dynamic);
            return;
        }
        dynamic.waits = None;
        show_warming(&dynamic.spec, false);
        let before = self.active.remove(name);
        before.iter().for_each(|before| forget(before, client));
        // Hosts that stay keep their counters: they are known by the name.
        self.process.publish(name, &dynamic.spec, None, &assignment);
        self.active.insert(Arc::clone(name), dynamic);
        self.changed.insert(Arc::clone(name));
    }

    /// Starts to look for the endpoints of a cluster, if they have to be looked for; what is known of them already.
    fn discover(
        &self,
        name: &Arc<str>,
        config: &Cluster,
        instance: u64,
        nth: usize,
        client: &mut XdsClient,
    ) -> (Option<DnsDiscovery>, Option<Assignment>) {
        let scope = || self.registry.cluster(config.stat_name());
        if let Discovery::Eds(eds) = &config.discovery {
            return (None, client.subscribe(name, instance, eds, scope()));
        }
        let cells = || scope().cells(Slot::Control);
        (DnsDiscovery::start(config, instance, cells, seed(nth), self.updates.clone()), None)
    }

    /// Shows the admin endpoint what there is.
    fn show(&self) {
        let told = |all: &BTreeMap<Arc<str>, Dynamic>| {
            all.iter().map(|(name, dynamic)| (Arc::clone(name), Arc::clone(&dynamic.told))).collect()
        };
        self.process.set_told_clusters(ToldResources {
            version: self.version.clone(),
            active: told(&self.active),
            warming: told(&self.warming),
        });
    }
}

/// A cluster as it is reached by now.
fn reached_by_now(one: PublishedCluster, rotation: &Rotation) -> PublishedCluster {
    PublishedCluster { spec: rotation.latest(&one.spec), ..one }
}

/// Whether changes of endpoints are worth a new set of so many clusters. Each worker keeps those that its set has not, with their
/// predecessors in the set; making one takes as long as it has clusters, and is spread over so many changes.
fn is_worth_a_set(newer: usize, clusters: usize) -> bool {
    newer > NEWER_MIN.max(clusters / NEWER_PART)
}

/// Whether a cluster need not wait for endpoints: they are in its configuration, or its connections bring them.
fn is_warm_by_itself(config: &Cluster) -> bool {
    matches!(config.discovery, Discovery::Static | Discovery::OriginalDst(_))
}

/// Shows in its statistics whether a cluster waits for its first endpoints or for secrets. Source: Envoy `warming_state`.
fn show_warming(spec: &ClusterSpec, is_warming: bool) {
    spec.stats.note(&[(ClusterStat::WarmingState, u64::from(is_warming))]);
}

/// Whether they show that it does.
fn is_warming(spec: &ClusterSpec) -> bool {
    spec.stats.value(ClusterStat::WarmingState.index()).0 != 0
}

/// A cluster is no more: nobody asks for its endpoints and secrets on its behalf.
fn forget(dynamic: &Dynamic, client: &mut XdsClient) {
    dynamic.spec.config.told_secrets().for_each(|secret| client.release(secret));
    if let Discovery::Eds(eds) = &dynamic.spec.config.discovery {
        client.unsubscribe(&dynamic.spec.config.name, dynamic.instance, eds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_changes_of_endpoints_are_no_reason_for_a_new_set() {
        for (clusters, few, many) in [(0, 64, 65), (100, 64, 65), (10_000, 1_250, 1_251)] {
            assert!(!is_worth_a_set(few, clusters) && is_worth_a_set(many, clusters), "{clusters}");
        }
    }
}
