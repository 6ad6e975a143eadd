//! Filters that control planes and files have told, by which the managers and chains that ask for them are compiled.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::ads::{Ecds, ResourceSource};
use crate::config::http::HttpConnectionManager;
use crate::config::http_filter::HttpFilterConfig;
use crate::config::told_filter::{ToldFilter, TypedFilter};

/// Where a filter comes from, and its name.
pub type FilterKey = (ResourceSource, Arc<str>);

/// Whether a filter is one of these.
pub(super) fn is_one_of<'a>(ecds: &Ecds, keys: impl IntoIterator<Item = &'a FilterKey>) -> bool {
    let Ecds { source, name, .. } = ecds;
    keys.into_iter().any(|(of, named)| of == source && named == name)
}

/// A filter that a manager, a chain or a listener asks for.
#[derive(Clone, Debug)]
pub struct AskedFilter {
    pub ecds: Ecds,
    /// Whether it was told already.
    pub is_known: bool,
    /// Whether one was told already that cannot stand in this place.
    pub conflicts: bool,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct ToldFilters(BTreeMap<FilterKey, Arc<TypedFilter>>);

impl ToldFilters {
    /// Takes one that is good for all who ask for it; `None`: it is gone.
    pub(super) fn set(&mut self, source: &ResourceSource, name: &str, filter: Option<Arc<TypedFilter>>) {
        let key = (source.clone(), name.into());
        match filter {
            Some(filter) => self.0.insert(key, filter),
            None => self.0.remove(&key),
        };
    }

    /// Nobody asks there any more.
    pub(super) fn forget_source(&mut self, source: &ResourceSource) {
        self.0.retain(|(of, _), _| of != source);
    }

    fn get(&self, ecds: &Ecds) -> Option<&Arc<TypedFilter>> {
        self.0.get(&(ecds.source.clone(), Arc::clone(&ecds.name)))
    }

    /// Whether one of these was told.
    pub(super) fn has_any(&self, config: &HttpConnectionManager) -> bool {
        config.told_filters().any(|filter| self.get(&filter.ecds).is_some())
    }

    /// What somebody asks for.
    pub(super) fn asked(&self, filter: &ToldFilter) -> AskedFilter {
        let told = self.get(&filter.ecds);
        AskedFilter {
            ecds: filter.ecds.clone(),
            is_known: told.is_some(),
            conflicts: told.is_some_and(|told| filter.check(told).is_err()),
        }
    }

    /// What was told for a place; what cannot stand there is not.
    pub(super) fn for_place(&self, filter: &ToldFilter) -> Option<Arc<TypedFilter>> {
        self.get(&filter.ecds).filter(|told| filter.check(told).is_ok()).cloned()
    }

    /// Puts what was told into the manager.
    pub(super) fn fill(&self, config: &mut HttpConnectionManager) {
        for filter in &mut config.http_filters {
            if let HttpFilterConfig::Told(filter) = &mut filter.config {
                filter.told = self.for_place(filter);
            }
        }
    }
}
