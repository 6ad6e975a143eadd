//! Scopes of routes that control planes and files have told, of which the managers that ask for them are put together.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::ads::{Rds, ResourceSource, Srds};
use crate::config::route::RouteConfiguration;
use crate::config::scoped_routes::{Scope, ScopedRoutes, ToldScope};

/// Scopes that a manager asks for.
#[derive(Clone, Debug)]
pub struct AskedScopes {
    /// Its prefix in statistics.
    pub stat_prefix: Box<str>,
    pub srds: Srds,
}

/// How many scopes there are in a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeCounts {
    pub all: u64,
    /// Of them those with `on_demand`.
    pub on_demand: u64,
}

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct ToldScopes(BTreeMap<ResourceSource, OfSource>);

#[derive(Debug, Default)]
struct OfSource {
    by_name: BTreeMap<Box<str>, Arc<ToldScope>>,
    /// How many of them name each table.
    tables: BTreeMap<Box<str>, usize>,
}

impl ToldScopes {
    /// Takes one that is good; `None`: it is gone.
    pub(super) fn set(&mut self, source: &ResourceSource, name: &str, scope: Option<Arc<ToldScope>>) {
        let of_source = self.0.entry(source.clone()).or_default();
        if let Some(scope) = &scope {
            *of_source.tables.entry(scope.table.clone()).or_default() += 1;
        }
        let before = match scope {
            Some(scope) => of_source.by_name.insert(name.into(), scope),
            None => of_source.by_name.remove(name),
        };
        if let Some(before) = before
            && let Some(count) = of_source.tables.get_mut(&before.table)
        {
            *count -= 1;
            if *count == 0 {
                of_source.tables.remove(&before.table);
            }
        }
    }

    /// Nobody asks there any more.
    pub(super) fn forget_source(&mut self, source: &ResourceSource) {
        self.0.remove(source);
    }

    /// Names of the tables of a manager's scopes, each once.
    pub(super) fn tables(&self, srds: &Srds) -> impl Iterator<Item = &str> {
        self.0.get(&srds.source).into_iter().flat_map(|told| told.tables.keys().map(|name| &**name))
    }

    /// Whether one of a manager's scopes has the table of that name from there.
    pub(super) fn has_table(&self, srds: &Srds, source: &ResourceSource, name: &str) -> bool {
        let has = |told: &OfSource| told.tables.contains_key(name);
        srds.table.source == *source && self.0.get(&srds.source).is_some_and(has)
    }

    /// How many there are.
    pub(super) fn counts(&self, source: &ResourceSource) -> ScopeCounts {
        let scopes = || self.0.get(source).into_iter().flat_map(|told| told.by_name.values());
        let on_demand = scopes().filter(|scope| scope.on_demand).count() as u64;
        ScopeCounts { all: scopes().count() as u64, on_demand }
    }

    /// A manager's scopes, those whose tables are there. `tables`: these.
    pub(super) fn filled(
        &self,
        scoped: &ScopedRoutes,
        srds: &Srds,
        tables: &mut dyn FnMut(&Rds) -> Option<Arc<RouteConfiguration>>,
    ) -> ScopedRoutes {
        let mut scopes = Vec::new();
        for scope in self.0.get(&srds.source).into_iter().flat_map(|told| told.by_name.values()) {
            if let Some(route_config) = tables(&srds.table(&scope.table)) {
                scopes.push(Scope { key: scope.key.clone(), route_config });
            }
        }
        ScopedRoutes { fragments: scoped.fragments.clone(), scopes, told: scoped.told.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn srds(source: ResourceSource) -> Srds {
        let (name, initial_fetch_timeout, lacking_filters) = ("".into(), None, Box::default());
        let table = Rds { source: ResourceSource::Ads, name, initial_fetch_timeout, lacking_filters };
        Srds { name: "s".into(), source, initial_fetch_timeout, table }
    }

    fn scope(key: &str, table: &str, on_demand: bool) -> Option<Arc<ToldScope>> {
        Some(Arc::new(ToldScope { key: vec![key.into()], table: table.into(), on_demand }))
    }

    #[test]
    fn table_is_asked_for_once_as_long_as_a_scope_names_it() {
        let (ads, srds) = (ResourceSource::Ads, srds(ResourceSource::Ads));
        let mut told = ToldScopes::default();
        for (name, scope, tables, all, on_demand) in [
            ("a", scope("1", "t", false), &["t"][..], 1, 0),
            ("b", scope("2", "t", true), &["t"], 2, 1),
            ("a", scope("1", "u", false), &["t", "u"], 2, 1),
            ("a", scope("3", "u", true), &["t", "u"], 2, 2),
            ("nobody", None, &["t", "u"], 2, 2),
            ("b", None, &["u"], 1, 1),
            ("a", None, &[], 0, 0),
        ] {
            told.set(&ads, name, scope);
            assert_eq!(told.tables(&srds).collect::<Vec<_>>(), tables);
            assert_eq!(told.counts(&ads), ScopeCounts { all, on_demand });
            assert!(["t", "u"].iter().all(|name| told.has_table(&srds, &ads, name) == tables.contains(name)));
        }
    }

    #[test]
    fn scope_without_its_table_is_not_there() {
        let (ads, srds) = (ResourceSource::Ads, srds(ResourceSource::Ads));
        let scoped = ScopedRoutes { fragments: Vec::new(), scopes: Vec::new(), told: Some(srds.clone()) };
        let mut told = ToldScopes::default();
        told.set(&ads, "a", scope("1", "here", false));
        told.set(&ads, "b", scope("2", "missing", false));
        let mut tables = |rds: &Rds| (&*rds.name == "here").then(Arc::<RouteConfiguration>::default);
        let filled = told.filled(&scoped, &srds, &mut tables);
        assert_eq!(filled.scopes.iter().map(|scope| &*scope.key[0]).collect::<Vec<_>>(), ["1"]);
        told.forget_source(&ads);
        assert!(told.filled(&scoped, &srds, &mut tables).scopes.is_empty());
    }
}
