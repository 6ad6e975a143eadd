//! Tables that have virtual hosts told by themselves.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::super::counters::{Counters, Event};
use super::super::judge::{Kind, Outcome};
use super::super::virtual_hosts::{ChangedTable, table_of};
use super::super::{HostsUpdate, RoutesUpdate, Update, Updates};
use super::asked_hosts::Ask;
use super::{HostedTable, Subscriber, Subscribers};
use crate::base::limits::ON_DEMAND_WAIT;
use crate::config::ads::{ResourceSource, Vhds};
use crate::telemetry::{Registry, Slot};

/// A table that has virtual hosts told by themselves.
#[derive(Debug)]
pub(in super::super) struct Hosted {
    /// Where the table is told, and its name.
    pub(in super::super) source: ResourceSource,
    pub(in super::super) name: Arc<str>,
    /// Where they come from.
    pub(in super::super) vhds: Vhds,
    /// Of managers that have it.
    pub(in super::super) prefixes: BTreeSet<Box<str>>,
    /// Whether some of them are there.
    pub(in super::super) has_some: bool,
}

impl Subscribers {
    /// A table wants its virtual hosts, or other managers have it now; whether it waits for the first of them.
    pub(in super::super) fn add_hosts(&self, hosted: Hosted, registry: &Registry) -> bool {
        let Hosted { source, name, vhds, prefixes, has_some } = hosted;
        let mut lists = self.lock();
        lists.asks_for_hosts = true;
        let (mut users, before) = match lists.hosts.remove(&*name) {
            Some(table) => (table.users, Some(table.one)),
            None => (BTreeMap::new(), None),
        };
        let is_known = users.insert(source, prefixes.clone()) == Some(prefixes);
        let one = match before {
            Some(before) if is_known => before,
            before => {
                let counters = host_counters(&name, &users, registry);
                if before.is_none() {
                    self.attempt(&counters);
                }
                Arc::new(Subscriber {
                    kind: Kind::VirtualHosts,
                    name: Arc::clone(&name),
                    instance: 0,
                    counters,
                    waits_until: Self::waits_until(before.as_ref(), vhds.initial_fetch_timeout),
                    is_early: !self.may_ask(Kind::VirtualHosts),
                    answered: AtomicBool::new(has_some || before.is_some_and(|before| !before.is_waiting())),
                })
            }
        };
        let waits = one.is_waiting();
        lists.hosts.insert(String::from(&*name), HostedTable { users, one });
        drop(lists);
        if !is_known {
            self.changed.send_replace(());
        }
        waits
    }

    /// The table of that name, which is told there, wants none any more.
    pub(in super::super) fn remove_hosts(&self, source: &ResourceSource, name: &str, registry: &Registry) {
        let mut lists = self.lock();
        let Some(HostedTable { mut users, one }) = lists.hosts.remove(name) else { return };
        users.remove(source);
        if users.is_empty() {
            lists.asked_hosts.forget(name);
        } else {
            let one = Arc::new(Subscriber {
                kind: Kind::VirtualHosts,
                name: Arc::clone(&one.name),
                instance: 0,
                counters: host_counters(name, &users, registry),
                waits_until: one.waits_until,
                is_early: one.is_early,
                answered: AtomicBool::new(!one.is_waiting()),
            });
            lists.hosts.insert(name.to_owned(), HostedTable { users, one });
        }
        drop(lists);
        self.changed.send_replace(());
    }

    /// A request asks for a virtual host of a table; whether an answer will be heard of it.
    pub(in super::super) fn ask_host(&self, table: &str, host: &str) -> bool {
        let (now, until) = (sleep(Duration::ZERO).deadline(), sleep(ON_DEMAND_WAIT).deadline());
        let mut lists = self.lock();
        if !lists.hosts.contains_key(table) {
            return false;
        }
        let ask = lists.asked_hosts.ask(table, host, now, until);
        drop(lists);
        if ask == Ask::New {
            self.asked.send_replace(());
        }
        ask != Ask::No
    }

    /// What those hear who wait for names that were asked for; `None`: there are none. What is not there is asked for no longer, nor
    /// is what has gone.
    fn answered_hosts(&self, outcome: &Outcome) -> Option<Update> {
        let Outcome { answered, good, absent, .. } = outcome;
        let mut lists = self.lock();
        let mut has_changed = lists.asked_hosts.lose(absent);
        for (name, by) in answered {
            let by = by.as_deref().filter(|by| good.contains_key(*by));
            has_changed |= lists.asked_hosts.answer(name, by);
        }
        drop(lists);
        if has_changed {
            self.asked.send_replace(());
        }
        let names: Vec<Box<str>> = answered.keys().map(|name| name.as_str().into()).collect();
        (!names.is_empty()).then(|| Update::Hosts(HostsUpdate { source: self.source.clone(), names }))
    }

    /// The tables that a response changes, as one; counts. An answer without anything in it says that there is nothing: nobody waits
    /// any longer.
    pub(super) fn host_changes(&self, outcome: Outcome, version: &str) -> Updates {
        let heard = self.answered_hosts(&outcome);
        let Outcome { good, bad, nameless, absent, tables, answered, is_restored, .. } = outcome;
        for reason in &nameless {
            log::warn!("xDS: refused: {reason}");
        }
        for (name, reason) in &bad {
            log::warn!("xDS: virtual host {name} stays as it was: {reason}");
        }
        let refused: BTreeSet<_> = bad.keys().map(|name| table_of(name)).collect();
        // What there is not of a name that was asked for says something of its table alone.
        let told = good.keys().chain(&absent).chain(answered.keys());
        let told: BTreeSet<_> = told.map(|name| table_of(name)).collect();
        let is_of_none = refused.is_empty() && told.is_empty();
        // There may be thousands of them.
        let others: BTreeSet<_> = tables.iter().map(|table| Arc::clone(&table.name)).collect();
        let mut settled = Vec::new();
        for one in self.of_kind(Kind::VirtualHosts) {
            let waited = one.is_waiting();
            if refused.contains(&*one.name) || (is_of_none && !nameless.is_empty()) {
                one.counters.count(Event::Rejected);
                one.counters.count(Event::Attempt);
                one.answered.store(true, Ordering::Relaxed);
            } else if told.contains(&*one.name) || is_of_none {
                if is_of_none {
                    one.counters.count(Event::Empty);
                }
                one.succeed(version, is_restored);
            }
            if others.contains(&one.name) {
                one.counters.reload();
            } else if waited && !one.is_waiting() {
                settled.push(one);
            }
        }
        let changed = tables.into_iter().map(|ChangedTable { source, name, resources, wire }| {
            Update::Routes(RoutesUpdate { source, name, resources, version: version.into(), wire })
        });
        changed.chain(settled.iter().flat_map(|one| self.without_hosts(&one.name))).chain(heard).collect()
    }

    /// What is heard once the virtual hosts of that table are waited for no longer: wherever it is told, it goes on as it is.
    pub(super) fn without_hosts(&self, name: &Arc<str>) -> Updates {
        let lists = self.lock();
        let sources = lists.hosts.get(&**name).into_iter().flat_map(|table| table.users.keys());
        let update = |source: &ResourceSource| {
            let (source, name) = (source.clone(), Arc::clone(name));
            let (resources, wire) = (Arc::default(), Arc::default());
            Update::Routes(RoutesUpdate { source, name, resources, version: Box::default(), wire })
        };
        sources.map(update).collect()
    }
}

/// Counters of a table's virtual hosts: one for each prefix of those who have it.
fn host_counters(
    name: &str,
    users: &BTreeMap<ResourceSource, BTreeSet<Box<str>>>,
    registry: &Registry,
) -> Counters {
    let prefixes: BTreeSet<&str> = users.values().flatten().map(|prefix| &**prefix).collect();
    let cells = prefixes.into_iter().map(|prefix| registry.vhds(prefix, name).cells(Slot::Control));
    Counters::VirtualHosts(cells.collect())
}
