//! Connection managers, chains and listeners whose routes, scopes and filters come from control planes: the workers have the last ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Awaited, Control, Sources};
use crate::config::ads::ResourceSource;
use crate::control::xds::client::{FiltersUpdate, ScopesUpdate, XdsClient};
use crate::server::tables::TableKey;
use crate::snapshot::{FilterKey, RoutesResource};

impl Control<'_> {
    /// Takes a routing table; nothing, where none is there.
    pub(super) fn publish_routes(
        &mut self,
        key: TableKey,
        resources: Arc<[RoutesResource]>,
        version: Box<str>,
        wire: Arc<[u8]>,
    ) {
        // None is there, or nobody asks for it any more.
        if wire.is_empty() || !self.routes.read().is_asked(&key.0, &key.1) {
            return;
        }
        if let Some(next) = self.next_generation() {
            next.put_routes(&resources);
        }
        self.process.set_routes(key.clone(), version, wire);
        self.tables.put(key, resources);
    }

    /// These tables have been told, or are waited for no more: puts together the managers whose scopes have them, and lets the listeners
    /// go on that have waited for them.
    pub(super) fn take_tables(
        &mut self,
        keys: BTreeSet<TableKey>,
        sources: &mut Sources,
        awaited: &mut Awaited,
    ) {
        if keys.is_empty() {
            return;
        }
        self.put_scoped(None, &keys, &sources.client);
        let mut late = Vec::new();
        for key in keys {
            // Who waits for the table waits for its virtual hosts, too.
            if sources.client.subscribe_hosts(&key) {
                continue;
            }
            awaited.routes.remove(&key);
            let (listeners, mut around) = self.around(sources);
            late.extend(listeners.take_table(&key, &mut around));
        }
        if let Some(next) = self.next_generation() {
            next.put_routes(&late);
        }
    }

    /// Takes what changes of scopes: the tables that they name are asked for from now on, and others are not. A listener that has
    /// waited for its scopes waits for their tables.
    pub(super) fn take_scopes(&mut self, update: ScopesUpdate, sources: &mut Sources, awaited: &mut Awaited) {
        let source = update.source.clone();
        let is_change = !update.changed.is_empty();
        self.process.set_scopes(update);
        let mut tables = BTreeMap::new();
        if is_change {
            for number in self.scoped_by(&source) {
                let (waits, gone) = sources.client.resubscribe_tables(number);
                for key in gone {
                    awaited.routes.remove(&key);
                    self.tables.forget(&key);
                    self.process.forget_routes(&key);
                }
                if self.start.is_some() && number < self.bootstrap.listeners.len() {
                    awaited.routes.extend(waits.iter().cloned());
                }
                tables.insert(number, waits);
            }
            self.put_scoped(Some(&source), &BTreeSet::new(), &sources.client);
            sources.client.show_scopes(&source);
        }
        awaited.scopes.remove(&source);
        let (listeners, mut around) = self.around(sources);
        listeners.take_scopes(&source, tables, &mut around);
    }

    /// The listeners whose managers have their scopes from there.
    fn scoped_by(&self, source: &ResourceSource) -> BTreeSet<usize> {
        let asked = self.routes.read().asked_scopes().into_iter();
        asked.filter(|(_, asked)| asked.srds.source == *source).map(|(number, _)| number).collect()
    }

    /// Has the workers given the managers that have their scopes from there, and those whose scopes have one of these tables.
    fn put_scoped(&mut self, source: Option<&ResourceSource>, keys: &BTreeSet<TableKey>, client: &XdsClient) {
        let in_use = |source: &ResourceSource, name: &str| self.process.table(source, name);
        let resources = client.with_scopes(source, keys, in_use);
        self.put_managers(&resources);
    }

    /// Has the workers given these managers.
    fn put_managers(&mut self, resources: &[RoutesResource]) {
        if let Some(next) = self.next_generation() {
            next.put_routes(resources);
        }
        self.tables.put_filtered(resources);
    }

    /// Has the workers given the managers, chains and listeners whose filters are others now; the filters that are waited for no more.
    pub(super) fn publish_filters(
        &mut self,
        update: FiltersUpdate,
        client: &XdsClient,
    ) -> BTreeSet<FilterKey> {
        let FiltersUpdate { source, changed, settled, version } = update;
        let mut keys = BTreeSet::new();
        for (name, wire) in changed {
            let key = (source.clone(), name);
            match wire {
                // Nobody asks for it any more.
                _ if !self.routes.read().asks_for_filter(&key) => continue,
                Some(wire) => self.process.set_filter(key.clone(), version.clone(), wire),
                None => self.process.forget_filter(&key),
            }
            keys.insert(key);
        }
        let in_use = |source: &ResourceSource, name: &str| self.process.table(source, name);
        let resources = client.with_filters(&keys, in_use);
        self.put_managers(&resources);
        let filters = self.routes.read().changed_filters(&keys);
        if let Some(next) = self.next_generation() {
            next.put_filters(filters);
        }
        settled.into_iter().map(|name| (source.clone(), name)).collect()
    }
}
