//! The clusters whose endpoints come from the control plane: who hears of which resource, what is counted, and how long
//! the start waits for them.
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;

use super::judge::Outcome;
use crate::config::cluster::{Cluster, Discovery};
use crate::config::endpoint::{ClusterLoadAssignment, OVERPROVISIONING_FACTOR_PERCENT_DEFAULT};
use crate::control::discovery::EndpointUpdate;
use crate::telemetry::{ClusterCells, ClusterStat};

/// All of them.
#[derive(Debug)]
pub(super) struct Subscribers {
    /// By the name under which the endpoints are asked for, which clusters may share.
    by_resource: BTreeMap<String, Vec<Subscriber>>,
    updates: mpsc::Sender<EndpointUpdate>,
}

#[derive(Debug)]
struct Subscriber {
    cluster: Arc<str>,
    cells: ClusterCells,
    /// How long it waits for the first answer; `None`: for ever.
    initial_fetch_timeout: Option<Duration>,
    /// Whether there was an answer, or the wait for it is over.
    answered: AtomicBool,
}

impl Subscribers {
    /// `None` when there are none. `cells` gives those of the control thread, by the cluster's name in statistics.
    pub(super) fn of(
        clusters: &[Arc<Cluster>],
        cells: impl Fn(&str) -> ClusterCells,
        updates: mpsc::Sender<EndpointUpdate>,
    ) -> Option<Self> {
        let mut by_resource: BTreeMap<String, Vec<Subscriber>> = BTreeMap::new();
        for cluster in clusters {
            let Discovery::Eds(eds) = &cluster.discovery else { continue };
            by_resource.entry(String::from(&*eds.service_name)).or_default().push(Subscriber {
                cluster: Arc::from(&*cluster.name),
                cells: cells(cluster.stat_name()),
                initial_fetch_timeout: eds.initial_fetch_timeout,
                answered: AtomicBool::new(false),
            });
        }
        (!by_resource.is_empty()).then_some(Self { by_resource, updates })
    }

    /// What is asked for.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.by_resource.keys().cloned().collect()
    }

    /// Counts for every cluster.
    pub(super) fn count(&self, stat: ClusterStat) {
        self.by_resource.values().flatten().for_each(|one| one.cells.inc(stat));
    }

    /// Hands on what a response changes.
    pub(super) async fn apply(&self, outcome: Outcome, version: &str) {
        let Outcome { good, bad, nameless, absent } = outcome;
        for reason in &nameless {
            log::warn!("xDS: refused: {reason}");
        }
        if bad.is_empty() && !nameless.is_empty() {
            self.count(ClusterStat::UpdateRejected);
            self.count(ClusterStat::UpdateAttempt);
        }
        for (name, reason) in &bad {
            log::warn!("xDS: endpoints {name} stay as they were: {reason}");
            for one in self.of_resource(name) {
                one.cells.inc(ClusterStat::UpdateRejected);
                one.cells.inc(ClusterStat::UpdateAttempt);
            }
        }
        for name in &absent {
            for one in self.of_resource(name) {
                one.cells.inc(ClusterStat::UpdateEmpty);
                one.cells.inc(ClusterStat::UpdateSuccess);
                one.cells.inc(ClusterStat::UpdateAttempt);
                self.give_up(one).await;
            }
        }
        for (name, assignment) in &good {
            for one in self.of_resource(name) {
                one.cells.inc(ClusterStat::UpdateSuccess);
                one.cells.inc(ClusterStat::UpdateAttempt);
                one.cells.gauge_set(ClusterStat::Version, version_number(version));
                one.answered.store(true, Ordering::Relaxed);
                self.send(one, assignment.clone()).await;
            }
        }
    }

    /// Lets the clusters go without endpoints that have waited long enough for the first answer. Returns when none waits.
    pub(super) async fn give_up_in_time(&self) {
        let all = self.by_resource.values().flatten();
        let mut waits: Vec<_> = all.filter_map(|one| Some((one.initial_fetch_timeout?, one))).collect();
        waits.sort_by_key(|(wait, _)| *wait);
        let mut passed = Duration::ZERO;
        for (wait, one) in waits {
            sleep(wait.saturating_sub(passed)).await;
            passed = wait;
            if self.give_up(one).await {
                log::warn!("xDS: no endpoints of cluster {} within {wait:?}: it goes without", one.cluster);
                one.cells.inc(ClusterStat::InitFetchTimeout);
                one.cells.inc(ClusterStat::UpdateAttempt);
            }
        }
    }

    /// Whether the cluster was still waiting.
    async fn give_up(&self, one: &Subscriber) -> bool {
        if one.answered.swap(true, Ordering::Relaxed) {
            return false;
        }
        let none = ClusterLoadAssignment {
            overprovisioning_factor_percent: OVERPROVISIONING_FACTOR_PERCENT_DEFAULT,
            ..ClusterLoadAssignment::default()
        };
        self.send(one, none).await;
        true
    }

    async fn send(&self, one: &Subscriber, assignment: ClusterLoadAssignment) {
        // Nobody hears it once the process is about to end.
        let _ = self.updates.send(EndpointUpdate { cluster: Arc::clone(&one.cluster), assignment }).await;
    }

    fn of_resource(&self, name: &str) -> &[Subscriber] {
        self.by_resource.get(name).map_or(&[], Vec::as_slice)
    }
}

/// What the gauge `version` shows of a version: it tells versions apart, no more.
fn version_number(version: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(version.as_bytes());
    hasher.finish()
}
