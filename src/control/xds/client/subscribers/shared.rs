//! What several may want at a time: tables, which managers share, and secrets, which contexts share. Who comes later has what was told.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::super::counters::Counters;
use super::super::judge::Kind;
use super::super::tables::KnownTables;
use super::{Subscriber, Subscribers, Table, UsedSecret};
use crate::config::ads::Sds;
use crate::snapshot::AskedTable;
use crate::telemetry::{Registry, Slot};

impl Subscribers {
    /// Managers of a listener want their tables, as far as these come from here; those of which there was no answer yet.
    pub(in super::super) fn add_tables(
        &self,
        listener: usize,
        asked: &[AskedTable],
        known: &KnownTables,
        registry: &Registry,
    ) -> Vec<Arc<str>> {
        let mut lists = self.lock();
        let mut awaited = Vec::new();
        for AskedTable { stat_prefix, rds } in asked.iter().filter(|asked| asked.rds.source == self.source) {
            let name = &*rds.name;
            let (mut users, before) = match lists.routes.remove(name) {
                Some(table) => (table.users, Some(table.one)),
                None => (Vec::new(), None),
            };
            let is_known = users.iter().any(|(_, prefix)| prefix == stat_prefix);
            users.push((listener, stat_prefix.clone()));
            if !is_known {
                let cells = registry.rds(stat_prefix, name).cells(Slot::Control);
                self.attempt(&Counters::Routes(std::iter::once(cells).collect()));
            }
            let one = Arc::new(Subscriber {
                kind: Kind::Routes,
                name: name.into(),
                instance: 0,
                counters: table_counters(name, &users, registry),
                waits_until: Self::waits_until(before.as_ref(), rds.initial_fetch_timeout),
                is_early: !self.may_ask(Kind::Routes),
                answered: AtomicBool::new(
                    known.get(name).is_some() || before.is_some_and(|before| !before.is_waiting()),
                ),
            });
            if one.is_waiting() {
                self.quarantine.ask(&self.source, Kind::Routes, name);
                awaited.push(Arc::clone(&one.name));
            }
            lists.routes.insert(name.to_owned(), Table { users, one });
        }
        drop(lists);
        self.changed.send_replace(());
        awaited
    }

    /// Whether a manager with this prefix of that listener has asked for the table.
    pub(in super::super) fn asks_for_table(&self, listener: usize, stat_prefix: &str, name: &str) -> bool {
        let lists = self.lock();
        let is_it = |(number, prefix): &(usize, Box<str>)| *number == listener && **prefix == *stat_prefix;
        lists.routes.get(name).is_some_and(|table| table.users.iter().any(is_it))
    }

    /// Whether one of its managers has, whichever.
    pub(in super::super) fn has_table(&self, listener: usize, name: &str) -> bool {
        let lists = self.lock();
        let is_its = |(number, _): &(usize, Box<str>)| *number == listener;
        lists.routes.get(name).is_some_and(|table| table.users.iter().any(is_its))
    }

    /// That listener wants its tables no more, but for those that it keeps; those that nobody wants now.
    pub(in super::super) fn remove_tables(
        &self,
        listener: usize,
        keeps: &dyn Fn(&str) -> bool,
        registry: &Registry,
    ) -> Vec<Arc<str>> {
        let mut gone = Vec::new();
        let mut lists = self.lock();
        lists.routes.retain(|name, table| {
            let before = table.users.len();
            table.users.retain(|(number, _)| *number != listener || keeps(name));
            if table.users.len() < before {
                let one = &table.one;
                table.one = Arc::new(Subscriber {
                    kind: Kind::Routes,
                    name: Arc::clone(&one.name),
                    instance: 0,
                    counters: table_counters(name, &table.users, registry),
                    waits_until: one.waits_until,
                    is_early: one.is_early,
                    answered: AtomicBool::new(!one.is_waiting()),
                });
            }
            if table.users.is_empty() {
                self.quarantine.forget(&self.source, Kind::Routes, name);
                gone.push(Arc::clone(&table.one.name));
            }
            !table.users.is_empty()
        });
        drop(lists);
        if !gone.is_empty() {
            self.changed.send_replace(());
        }
        gone
    }

    /// A context uses a secret; whether it is still waited for. One that was given up and is asked for again before anybody has
    /// looked is known: the control plane would not tell it again.
    pub(in super::super) fn refer(&self, secret: &Sds, registry: &Registry) -> bool {
        let name = &secret.name;
        let mut lists = self.lock();
        let (mut uses, before) = match lists.secrets.remove(&**name) {
            Some(used) => (used.uses, Some(used.one)),
            None => (Vec::new(), None),
        };
        let counters = Counters::Secret(registry.sds(name).cells(Slot::Control));
        if before.is_none() {
            self.attempt(&counters);
        }
        uses.push(secret.kind);
        let is_told = self.secrets.used(&self.source, name, &uses);
        let one = Arc::new(Subscriber {
            kind: Kind::Secrets,
            name: Arc::clone(name),
            instance: 0,
            counters,
            waits_until: Self::waits_until(before.as_ref(), secret.initial_fetch_timeout),
            is_early: !self.may_ask(Kind::Secrets),
            answered: AtomicBool::new(is_told || before.is_some_and(|before| !before.is_waiting())),
        });
        let waits = one.is_waiting();
        if waits {
            self.quarantine.ask(&self.source, Kind::Secrets, name);
        }
        lists.secrets.insert(String::from(&**name), UsedSecret { uses, one });
        drop(lists);
        self.changed.send_replace(());
        waits
    }

    /// A context uses it no more; whether nobody does now.
    pub(in super::super) fn release(&self, secret: &Sds) -> bool {
        let name = &secret.name;
        let mut lists = self.lock();
        let Some(used) = lists.secrets.get_mut(&**name) else { return false };
        if let Some(place) = used.uses.iter().position(|kind| *kind == secret.kind) {
            used.uses.swap_remove(place);
        }
        self.secrets.used(&self.source, name, &used.uses);
        if !used.uses.is_empty() {
            return false;
        }
        lists.secrets.remove(&**name);
        drop(lists);
        self.quarantine.forget(&self.source, Kind::Secrets, name);
        self.changed.send_replace(());
        true
    }
}

/// Counters of a table: one for each prefix of those who use it.
fn table_counters(name: &str, users: &[(usize, Box<str>)], registry: &Registry) -> Counters {
    let prefixes: BTreeSet<&str> = users.iter().map(|(_, prefix)| &**prefix).collect();
    let cells = prefixes.into_iter().map(|prefix| registry.rds(prefix, name).cells(Slot::Control));
    Counters::Routes(cells.collect())
}
