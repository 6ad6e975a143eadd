//! Who has asked for something of the control plane: who hears of which resource, what is counted, and how long the start
//! waits for them.
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::counters::{Counters, Event};
use super::judge::{Good, Kind, Outcome};
use super::{RoutesUpdate, Updates};
use crate::config::ads::ResourceSource;
use crate::config::cluster::{Cluster, Discovery};
use crate::config::endpoint::{ClusterLoadAssignment, OVERPROVISIONING_FACTOR_PERCENT_DEFAULT};
use crate::control::discovery::EndpointUpdate;
use crate::snapshot::RouteCompiler;
use crate::telemetry::{Registry, Slot};

/// All of them.
#[derive(Debug)]
pub(super) struct Subscribers {
    source: ResourceSource,
    /// Clusters, by the name under which their endpoints are asked for, which they may share.
    endpoints: BTreeMap<String, Vec<Subscriber>>,
    /// Routing tables by their names. Which managers ask for one, the compiler knows.
    routes: BTreeMap<String, Vec<Subscriber>>,
    updates: Updates,
}

#[derive(Debug)]
struct Subscriber {
    kind: Kind,
    /// Of the cluster or table.
    name: Arc<str>,
    counters: Counters,
    /// How long it waits for the first answer; `None`: for ever.
    initial_fetch_timeout: Option<Duration>,
    /// Whether there was an answer, or the wait for it is over.
    answered: AtomicBool,
}

impl Subscribers {
    /// Those of one source; `None` when there are none.
    pub(super) fn of(
        source: &ResourceSource,
        clusters: &[Arc<Cluster>],
        compiler: Option<&RouteCompiler>,
        registry: &Registry,
        updates: Updates,
    ) -> Option<Self> {
        let mut endpoints: BTreeMap<String, Vec<Subscriber>> = BTreeMap::new();
        for cluster in clusters {
            let Discovery::Eds(eds) = &cluster.discovery else { continue };
            if eds.source != *source {
                continue;
            }
            endpoints.entry(String::from(&*eds.service_name)).or_default().push(Subscriber {
                kind: Kind::Endpoints,
                name: Arc::from(&*cluster.name),
                counters: Counters::Cluster(registry.cluster(cluster.stat_name()).cells(Slot::Control)),
                initial_fetch_timeout: eds.initial_fetch_timeout,
                answered: AtomicBool::new(false),
            });
        }
        let mut routes: BTreeMap<String, Vec<Subscriber>> = BTreeMap::new();
        let mut prefixes = BTreeSet::new();
        for (prefix, rds) in compiler.into_iter().flat_map(RouteCompiler::asked) {
            if rds.source != *source {
                continue;
            }
            let (name, wait) = (&*rds.name, rds.initial_fetch_timeout);
            let subscribers = routes.entry(name.to_owned()).or_insert_with(|| {
                vec![Subscriber {
                    kind: Kind::Routes,
                    name: Arc::from(name),
                    counters: Counters::Routes(Vec::new()),
                    initial_fetch_timeout: wait,
                    answered: AtomicBool::new(false),
                }]
            });
            for one in subscribers {
                // Who waits longest decides.
                one.initial_fetch_timeout = one.initial_fetch_timeout.zip(wait).map(|(a, b)| a.max(b));
                if let Counters::Routes(cells) = &mut one.counters
                    && prefixes.insert((name.to_owned(), prefix))
                {
                    cells.push(registry.rds(prefix, name).cells(Slot::Control));
                }
            }
        }
        (!endpoints.is_empty() || !routes.is_empty()).then_some(Self {
            source: source.clone(),
            endpoints,
            routes,
            updates,
        })
    }

    /// What is asked for of a type.
    pub(super) fn names(&self, kind: Kind) -> BTreeSet<String> {
        self.of_kind(kind).keys().cloned().collect()
    }

    /// Counts for everybody.
    pub(super) fn count(&self, event: Event) {
        self.all().for_each(|one| one.counters.count(event));
    }

    /// Hands on what a response changes.
    pub(super) async fn apply(&self, kind: Kind, outcome: Outcome, version: &str) {
        let Outcome { good, bad, nameless, absent } = outcome;
        for reason in &nameless {
            log::warn!("xDS: refused: {reason}");
        }
        if bad.is_empty() && !nameless.is_empty() {
            for one in self.of_kind(kind).values().flatten() {
                self.refuse(one).await;
            }
        }
        for (name, reason) in &bad {
            log::warn!("xDS: {kind} {name} stay as they were: {reason}");
            for one in self.of_resource(kind, name) {
                self.refuse(one).await;
            }
        }
        for name in &absent {
            for one in self.of_resource(kind, name) {
                one.counters.count(Event::Empty);
                one.counters.count(Event::Success);
                one.counters.count(Event::Attempt);
                self.give_up(one).await;
            }
        }
        for (name, good) in good {
            for one in self.of_resource(kind, &name) {
                one.counters.count(Event::Success);
                one.counters.count(Event::Attempt);
                one.counters.show_version(version_number(version));
                one.answered.store(true, Ordering::Relaxed);
                self.send(one, good.clone(), version).await;
            }
        }
    }

    /// Lets those go without that have waited long enough for the first answer. Returns when none waits.
    pub(super) async fn give_up_in_time(&self) {
        let mut waits: Vec<_> =
            self.all().filter_map(|one| Some((one.initial_fetch_timeout?, one))).collect();
        waits.sort_by_key(|(wait, _)| *wait);
        let mut passed = Duration::ZERO;
        for (wait, one) in waits {
            sleep(wait.saturating_sub(passed)).await;
            passed = wait;
            if self.give_up(one).await {
                log::warn!("xDS: no {} {} within {wait:?}: going without", one.kind, one.name);
                one.counters.count(Event::FetchTimeout);
                one.counters.count(Event::Attempt);
            }
        }
    }

    /// The source has told all that it has: who still waits goes without.
    pub(super) async fn give_up_rest(&self, kind: Kind) {
        for one in self.of_kind(kind).values().flatten() {
            self.give_up(one).await;
        }
    }

    /// What the source has cannot be read.
    pub(super) async fn fail(&self, kind: Kind, reason: &str) {
        log::warn!("xDS: {kind} stay as they were: {reason}");
        for one in self.of_kind(kind).values().flatten() {
            self.refuse(one).await;
        }
    }

    /// As Envoy: a first answer that is no good does not keep the process from its start.
    async fn refuse(&self, one: &Subscriber) {
        one.counters.count(Event::Rejected);
        one.counters.count(Event::Attempt);
        self.give_up(one).await;
    }

    /// Whether it was still waiting.
    async fn give_up(&self, one: &Subscriber) -> bool {
        if one.answered.swap(true, Ordering::Relaxed) {
            return false;
        }
        let nothing = match one.kind {
            Kind::Endpoints => Good::Endpoints(ClusterLoadAssignment {
                overprovisioning_factor_percent: OVERPROVISIONING_FACTOR_PERCENT_DEFAULT,
                ..ClusterLoadAssignment::default()
            }),
            Kind::Routes => Good::Routes(Arc::default(), Arc::default()),
        };
        self.send(one, nothing, "").await;
        true
    }

    /// Nobody hears it once the process is about to end.
    async fn send(&self, one: &Subscriber, good: Good, version: &str) {
        let name = Arc::clone(&one.name);
        match good {
            Good::Endpoints(assignment) => {
                let _ = self.updates.endpoints.send(EndpointUpdate { cluster: name, assignment }).await;
            }
            Good::Same => {}
            Good::Routes(resources, wire) => {
                let source = self.source.clone();
                let update = RoutesUpdate { source, name, resources, version: version.into(), wire };
                let _ = self.updates.routes.send(update).await;
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &Subscriber> {
        self.endpoints.values().chain(self.routes.values()).flatten()
    }

    fn of_kind(&self, kind: Kind) -> &BTreeMap<String, Vec<Subscriber>> {
        match kind {
            Kind::Endpoints => &self.endpoints,
            Kind::Routes => &self.routes,
        }
    }

    fn of_resource(&self, kind: Kind, name: &str) -> &[Subscriber] {
        self.of_kind(kind).get(name).map_or(&[], Vec::as_slice)
    }
}

/// What the gauge `version` shows of a version: it tells versions apart, no more.
fn version_number(version: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(version.as_bytes());
    hasher.finish()
}
