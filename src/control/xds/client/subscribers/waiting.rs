//! Who waits for a first answer: how long, and what they go on with where there is none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, sleep_until};

use super::super::counters::Event;
use super::super::gate::now;
use super::super::judge::{Good, Kind};
use super::super::status::{ClientStatus, Missing};
use super::super::{ClustersUpdate, FiltersUpdate, ListenersUpdate, RuntimeUpdate, Update, Updates};
use super::{Subscriber, Subscribers};
use crate::config::endpoint::{ClusterLoadAssignment, OVERPROVISIONING_FACTOR_PERCENT_DEFAULT};
use crate::control::discovery::Assignment;

impl Subscribers {
    /// Lets those go without that have waited long enough for the first answer, all at once whose time is up: they may be thousands.
    /// Never returns.
    pub(in super::super) async fn give_up_in_time(&self) {
        let mut changes = self.changes();
        loop {
            let next = self.all().iter().filter_map(|one| self.due(one)).min();
            let Some(until) = next else {
                // The sender lives as long as this.
                let _ = changes.changed().await;
                continue;
            };
            tokio::select! {
                () = sleep_until(until) => {
                    let now = now().max(until);
                    let is_due = |one: &Arc<Subscriber>| self.due(one).is_some_and(|due| due <= now);
                    let late: Vec<_> = self.all().into_iter().filter(is_due).collect();
                    self.tell(self.go_without(&late, ClientStatus::Timeout)).await;
                    for one in &late {
                        log::warn!("xDS: no {} {} in time: going without", one.kind, one.name);
                        one.counters.count(Event::FetchTimeout);
                        one.counters.count(Event::Attempt);
                    }
                }
                _ = changes.changed() => {}
            }
        }
    }

    /// When somebody goes without; `None`: never, or not before it may ask, or it does not wait.
    fn due(&self, one: &Subscriber) -> Option<Instant> {
        let until = one.waits_until.filter(|_| one.is_waiting())?;
        if one.is_early { Some(until + self.gate.waited()?) } else { Some(until) }
    }

    /// The source has told all that it has: who still waits goes without.
    pub(in super::super) async fn give_up_rest(&self, kind: Kind) {
        self.tell(self.go_without(&self.of_kind(kind), ClientStatus::DoesNotExist)).await;
    }

    /// What the source has cannot be read.
    pub(in super::super) async fn fail(&self, kind: Kind, reason: &str) {
        let subscribers = self.of_kind(kind);
        if !subscribers.is_empty() {
            log::warn!("xDS: {kind} stay as they were: {reason}");
        }
        let missing = Missing { status: ClientStatus::ReceivedError, reason: reason.to_owned() };
        for name in self.asked_names(&subscribers).into_iter().flatten() {
            self.quarantine.miss(&self.source, kind, &name, missing.clone());
        }
        self.tell(subscribers.iter().flat_map(|one| self.refuse(one)).collect()).await;
    }

    /// As Envoy: a first answer that is no good does not keep the process from its start.
    pub(super) fn refuse(&self, one: &Subscriber) -> Updates {
        one.counters.count(Event::Rejected);
        one.counters.count(Event::Attempt);
        self.give_up(one)
    }

    /// Lets those of them go without who still wait: there is nothing for them, and this is how that stands; what is heard then.
    fn go_without(&self, all: &[Arc<Subscriber>], status: ClientStatus) -> Updates {
        let mut updates = Updates::new();
        for (one, name) in all.iter().zip(self.asked_names(all)) {
            let own = self.give_up(one);
            if let Some(name) = name.filter(|_| !own.is_empty()) {
                self.quarantine.give_up(&self.source, one.kind, &name, status);
            }
            updates.extend(own);
        }
        updates
    }

    /// The name under which each of them asks for a resource, which of endpoints need not be the cluster's; `None`: it asks for all
    /// that there are, or for nothing any more. Names are looked for once, not once for each of thousands.
    fn asked_names(&self, all: &[Arc<Subscriber>]) -> Vec<Option<Arc<str>>> {
        let lists = self.lock();
        let of_clusters = lists
            .endpoints
            .iter()
            .flat_map(|(name, endpoints)| endpoints.askers.iter().map(move |one| (Arc::as_ptr(one), name)));
        let of_clusters: HashMap<_, _> = of_clusters.collect();
        let asked = |one: &Arc<Subscriber>| match one.kind {
            Kind::Clusters | Kind::Listeners | Kind::Scopes | Kind::VirtualHosts => None,
            Kind::Endpoints => of_clusters.get(&Arc::as_ptr(one)).map(|&name| Arc::clone(name)),
            Kind::Runtime | Kind::Secrets | Kind::Routes | Kind::Filters => Some(Arc::clone(&one.name)),
        };
        all.iter().map(asked).collect()
    }

    /// Lets somebody go without who still waits; what is heard then, nothing where nobody waits.
    pub(super) fn give_up(&self, one: &Subscriber) -> Updates {
        if one.answered.swap(true, Ordering::Relaxed) {
            return Updates::new();
        }
        let nothing = match one.kind {
            Kind::Runtime => {
                let (source, name) = (self.source.clone(), Arc::clone(&one.name));
                return vec![Update::Runtime(RuntimeUpdate { source, name, values: None })];
            }
            Kind::Clusters => return vec![Update::Clusters(ClustersUpdate::default())],
            Kind::Listeners => return vec![Update::Listeners(ListenersUpdate::default(), None)],
            Kind::Scopes => {
                let nothing = self.scopes_told(BTreeMap::new(), BTreeSet::new(), "");
                return vec![Update::Scopes(nothing)];
            }
            Kind::Endpoints => Good::Endpoints(Assignment::found(ClusterLoadAssignment {
                overprovisioning_factor_percent: OVERPROVISIONING_FACTOR_PERCENT_DEFAULT,
                ..ClusterLoadAssignment::default()
            })),
            Kind::Filters => {
                let settled = [Arc::clone(&one.name)].into();
                return vec![Update::Filters(FiltersUpdate { settled, ..self.no_filters("") })];
            }
            Kind::VirtualHosts => return self.without_hosts(&one.name),
            Kind::Secrets => Good::Secret,
            Kind::Routes => Good::Routes(Arc::default(), Arc::default()),
        };
        self.update(one, nothing, "").into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;
    use crate::config::ads::{Eds, ResourceSource};
    use crate::control::xds::client::gate::Gate;
    use crate::control::xds::client::judge::Outcome;
    use crate::control::xds::client::known_secrets::KnownSecrets;
    use crate::control::xds::client::quarantine::Quarantine;
    use crate::telemetry::{Registry, Slot};

    fn eds(name: &str, wait_s: u64) -> Eds {
        let initial_fetch_timeout = Some(Duration::from_secs(wait_s));
        Eds { source: ResourceSource::Ads, service_name: Some(name.into()), initial_fetch_timeout }
    }

    #[tokio::test(start_paused = true)]
    async fn those_whose_time_is_up_together_go_without_together() {
        let (registry, quarantine) = (Registry::new(1), Quarantine::default());
        let (updates, mut told) = mpsc::channel(8);
        let (secrets, gate) = (KnownSecrets::default(), Gate::new(true));
        let server = registry.server(Slot::Control);
        let all = Subscribers::new(ResourceSource::Ads, updates, quarantine, secrets, gate, server);
        for (cluster, instance, wait_s) in [("a", 1, 1), ("b", 2, 1), ("c", 3, 9)] {
            let (name, eds) = (cluster.into(), eds(cluster, wait_s));
            assert!(all.add(&name, instance, &eds, registry.cluster(cluster)).is_none());
        }
        assert!(timeout(Duration::from_secs(2), all.give_up_in_time()).await.is_err());
        assert_eq!(told.try_recv().unwrap().len(), 2);
        assert!(told.try_recv().is_err(), "the third still waits");
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_stand_by_the_name_under_which_they_are_asked_for() {
        let (registry, quarantine) = (Registry::new(1), Quarantine::default());
        let (updates, _told) = mpsc::channel(8);
        let server = registry.server(Slot::Control);
        let (secrets, gate) = (KnownSecrets::default(), Gate::new(true));
        let all = Subscribers::new(ResourceSource::Ads, updates, quarantine.clone(), secrets, gate, server);
        let stand = || {
            let standings = quarantine.standings("envoy.config.endpoint.v3.ClusterLoadAssignment");
            let shown =
                standings.iter().map(|((_, name), standing)| format!("{name} {}", standing.status.name()));
            shown.collect::<Vec<_>>()
        };
        let (short, long) = (eds("short", 1), eds("long", 9));
        for (cluster, instance, eds) in [("a", 1, &short), ("b", 2, &long)] {
            assert!(all.add(&cluster.into(), instance, eds, registry.cluster(cluster)).is_none());
        }
        assert_eq!(stand(), ["long REQUESTED", "short REQUESTED"]);
        assert!(timeout(Duration::from_secs(2), all.give_up_in_time()).await.is_err());
        assert_eq!(stand(), ["long REQUESTED", "short TIMEOUT"]);
        let told = Good::Endpoints(Assignment::found(ClusterLoadAssignment::default()));
        let good = [("short".to_owned(), told)].into();
        all.apply(Kind::Endpoints, Outcome { good, ..Outcome::default() }, "1").await;
        assert_eq!(stand(), ["long REQUESTED"], "the other one is used as it was told");
        all.give_up_rest(Kind::Endpoints).await;
        assert_eq!(stand(), ["long DOES_NOT_EXIST"]);
        let busy = Missing { status: ClientStatus::ReceivedError, reason: "busy".to_owned() };
        let (absent, kept) = (["short".to_owned()].into(), [("long".to_owned(), busy)].into());
        all.apply(Kind::Endpoints, Outcome { absent, kept, ..Outcome::default() }, "2").await;
        assert_eq!(stand(), ["long RECEIVED_ERROR", "short DOES_NOT_EXIST"]);
        all.fail(Kind::Endpoints, "cannot be read").await;
        assert_eq!(stand(), ["long RECEIVED_ERROR", "short RECEIVED_ERROR"]);
        for (cluster, instance, eds) in [("a", 1, &short), ("b", 2, &long)] {
            all.remove(cluster, instance, eds);
        }
        assert!(stand().is_empty(), "nobody asks for them");
    }
}
