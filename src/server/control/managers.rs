//! Connection managers, chains and listeners whose routes and filters come from control planes: the workers have the last ones.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Control;
use crate::config::ads::ResourceSource;
use crate::control::xds::client::{FiltersUpdate, XdsClient};
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
        let filters = self.routes.read().changed_filters(&keys);
        if let Some(next) = self.next_generation() {
            next.put_routes(&resources);
            next.put_filters(filters);
        }
        self.tables.put_filtered(&resources);
        settled.into_iter().map(|name| (source.clone(), name)).collect()
    }
}
