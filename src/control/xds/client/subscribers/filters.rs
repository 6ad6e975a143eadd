//! Filters, which listeners share: who comes later has what was told.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::counters::{Counters, Event};
use super::super::judge::{Good, Kind, Outcome};
use super::super::status::{ClientStatus, Missing};
use super::super::{FiltersUpdate, Update, Updates};
use super::{Filter, Subscriber, Subscribers};
use crate::snapshot::AskedFilter;
use crate::telemetry::{Registry, Slot};

impl Subscribers {
    /// A listener wants these filters, as far as they come from here; those of which there was no answer yet and
    /// for which the listener waits.
    pub(in super::super) fn add_filters(
        &self,
        listener: usize,
        asked: &[AskedFilter],
        registry: &Registry,
    ) -> Vec<Arc<str>> {
        let mut lists = self.lock();
        let mut awaited = Vec::new();
        for AskedFilter { ecds, is_known, conflicts } in asked {
            if ecds.source != self.source {
                continue;
            }
            let (mut users, before) = match lists.filters.remove(&*ecds.name) {
                Some(filter) => (filter.users, Some(filter.one)),
                None => (Vec::new(), None),
            };
            users.push(listener);
            let counters = Counters::Filter(registry.ecds(ecds.kind, &ecds.name).cells(Slot::Control));
            if before.is_none() {
                self.attempt(&counters);
            }
            if *conflicts {
                let name = &ecds.name;
                log::warn!(
                    "xDS: the filter {name} as it was told cannot stand where a listener asks for it now"
                );
                counters.conflict();
            }
            let one = Arc::new(Subscriber {
                kind: Kind::Filters,
                name: Arc::clone(&ecds.name),
                instance: 0,
                counters,
                waits_until: Self::waits_until(before.as_ref(), ecds.initial_fetch_timeout),
                is_early: !self.may_ask(Kind::Filters),
                answered: AtomicBool::new(*is_known || before.is_some_and(|before| !before.is_waiting())),
            });
            if one.is_waiting() {
                self.quarantine.ask(&self.source, Kind::Filters, &one.name);
                if ecds.is_awaited {
                    awaited.push(Arc::clone(&one.name));
                }
            }
            lists.filters.insert(String::from(&*ecds.name), Filter { users, one });
        }
        drop(lists);
        self.changed.send_replace(());
        awaited
    }

    /// That listener wants its filters no more; those that nobody wants now.
    pub(in super::super) fn remove_filters(&self, listener: usize) -> Vec<Arc<str>> {
        let mut gone = Vec::new();
        self.lock().filters.retain(|name, filter| {
            filter.users.retain(|number| *number != listener);
            if filter.users.is_empty() {
                self.quarantine.forget(&self.source, Kind::Filters, name);
                gone.push(Arc::clone(&filter.one.name));
            }
            !filter.users.is_empty()
        });
        if !gone.is_empty() {
            self.changed.send_replace(());
        }
        gone
    }

    /// What a response changes, as one.
    pub(super) fn filter_changes(&self, outcome: Outcome, version: &str) -> Updates {
        let mut updates = self.refuse_bad(Kind::Filters, &outcome);
        let Outcome { good, absent, kept, is_restored, .. } = outcome;
        updates.extend(self.keep(Kind::Filters, &kept));
        let mut update = self.no_filters(version);
        for name in &absent {
            for one in self.of_resource(Kind::Filters, name) {
                let missing = Missing::new(ClientStatus::DoesNotExist);
                self.quarantine.miss(&self.source, Kind::Filters, name, missing);
                one.counters.count(Event::Success);
                one.counters.count(Event::Attempt);
                one.counters.reload();
                one.answered.store(true, Ordering::Relaxed);
                update.changed.insert(Arc::clone(&one.name), None);
                update.settled.insert(Arc::clone(&one.name));
            }
        }
        for (name, good) in good {
            for one in self.of_resource(Kind::Filters, &name) {
                one.succeed(version, is_restored);
                if let Good::Filter(wire) = &good {
                    one.counters.reload();
                    update.changed.insert(Arc::clone(&one.name), Some(Arc::clone(wire)));
                }
                update.settled.insert(Arc::clone(&one.name));
            }
        }
        if !update.settled.is_empty() {
            updates.push(Update::Filters(update));
        }
        updates
    }

    /// Says nothing of any.
    pub(super) fn no_filters(&self, version: &str) -> FiltersUpdate {
        FiltersUpdate {
            source: self.source.clone(),
            changed: BTreeMap::new(),
            settled: Default::default(),
            version: version.into(),
        }
    }
}
