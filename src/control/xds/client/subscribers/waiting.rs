//! Who waits for a first answer: how long, and what they go on with where there is none.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, sleep_until};

use super::super::counters::Event;
use super::super::judge::{Good, Kind};
use super::super::status::{ClientStatus, Missing};
use super::super::{ClustersUpdate, FiltersUpdate, ListenersUpdate, RuntimeUpdate, Update, Updates};
use super::{Endpoints, Subscriber, Subscribers};
use crate::config::endpoint::{ClusterLoadAssignment, OVERPROVISIONING_FACTOR_PERCENT_DEFAULT};
use crate::control::discovery::Assignment;

impl Subscribers {
    /// Lets those go without that have waited long enough for the first answer. Never returns.
    pub(in super::super) async fn give_up_in_time(&self) {
        let mut changes = self.changes();
        loop {
            let waiting = self.all().into_iter().filter(|one| one.is_waiting());
            let next = waiting.filter_map(|one| Some((self.due(&one)?, one))).min_by_key(|(until, _)| *until);
            let Some((until, one)) = next else {
                // The sender lives as long as this.
                let _ = changes.changed().await;
                continue;
            };
            tokio::select! {
                () = sleep_until(until) => {
                    let updates = self.go_without(&one, ClientStatus::Timeout);
                    if !updates.is_empty() {
                        self.tell(updates).await;
                        log::warn!("xDS: no {} {} in time: going without", one.kind, one.name);
                        one.counters.count(Event::FetchTimeout);
                        one.counters.count(Event::Attempt);
                    }
                }
                _ = changes.changed() => {}
            }
        }
    }

    /// When somebody goes without; `None`: never, or not before it may ask.
    fn due(&self, one: &Subscriber) -> Option<Instant> {
        let until = one.waits_until?;
        if one.is_early { Some(until + self.gate.waited()?) } else { Some(until) }
    }

    /// The source has told all that it has: who still waits goes without.
    pub(in super::super) async fn give_up_rest(&self, kind: Kind) {
        let without = |one: &Arc<Subscriber>| self.go_without(one, ClientStatus::DoesNotExist);
        self.tell(self.of_kind(kind).iter().flat_map(without).collect()).await;
    }

    /// What the source has cannot be read.
    pub(in super::super) async fn fail(&self, kind: Kind, reason: &str) {
        let subscribers = self.of_kind(kind);
        if !subscribers.is_empty() {
            log::warn!("xDS: {kind} stay as they were: {reason}");
        }
        let missing = Missing { status: ClientStatus::ReceivedError, reason: reason.to_owned() };
        for name in subscribers.iter().filter_map(|one| self.asked_name(one)) {
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

    /// Lets somebody go without who still waits: there is nothing for it, and this is how that stands; what is heard then.
    fn go_without(&self, one: &Subscriber, status: ClientStatus) -> Updates {
        let updates = self.give_up(one);
        if !updates.is_empty()
            && let Some(name) = self.asked_name(one)
        {
            self.quarantine.give_up(&self.source, one.kind, &name, status);
        }
        updates
    }

    /// The name under which somebody asks for a resource, which of endpoints need not be the cluster's; `None`: it asks for all that
    /// there are, or for nothing any more.
    fn asked_name(&self, one: &Subscriber) -> Option<Arc<str>> {
        match one.kind {
            Kind::Clusters | Kind::Listeners | Kind::VirtualHosts => None,
            Kind::Endpoints => {
                let lists = self.lock();
                let is_its = |endpoints: &Endpoints| {
                    endpoints.subscribers.iter().any(|other| std::ptr::eq(&**other, one))
                };
                let found = lists.endpoints.iter().find(|(_, endpoints)| is_its(endpoints));
                found.map(|(name, _)| name.as_str().into())
            }
            Kind::Runtime | Kind::Secrets | Kind::Routes | Kind::Filters => Some(Arc::clone(&one.name)),
        }
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
            assert!(all.add(cluster, instance, eds, registry.cluster(cluster)).is_none());
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
