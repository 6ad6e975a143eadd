//! What the managers of listeners have told: routing tables and filters.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;

use super::{Running, XdsClient, judge, pb};
use crate::config::ads::{Rds, ResourceSource};
use crate::config::route::RouteConfiguration;
use crate::snapshot::{FilterKey, RouteCompiler, RoutesResource};

impl XdsClient {
    /// Asks for the tables of the listener of that number, which the compiler of routes knows; those whose first answer is
    /// still to come.
    pub fn subscribe_tables(&mut self, number: usize) -> Vec<(ResourceSource, Arc<str>)> {
        let asked = self.routes.read().asked_of(number);
        let mut awaited = Vec::new();
        let sources: BTreeSet<_> = asked.iter().map(|asked| &asked.rds.source).collect();
        for source in sources {
            let registry = Arc::clone(&self.registry);
            if let Some(Running { subscribers, tables, .. }) = self.source(source) {
                let names = subscribers.add_tables(number, &asked, tables, &registry);
                awaited.extend(names.into_iter().map(|name| (source.clone(), name)));
            }
        }
        awaited
    }

    /// That listener is no more; the tables that nobody asks for any more.
    pub fn unsubscribe_tables(&mut self, number: usize) -> Vec<(ResourceSource, Arc<str>)> {
        let mut gone = Vec::new();
        for (source, running) in &self.sources {
            let names = running.subscribers.remove_tables(number, &self.registry);
            gone.extend(names.into_iter().map(|name| (source.clone(), name)));
        }
        for (source, _) in &gone {
            self.leave(source);
        }
        gone
    }

    /// A table that was taken before.
    pub fn table(&self, source: &ResourceSource, name: &str) -> Option<Arc<[u8]>> {
        self.sources.get(source)?.tables.get(name)
    }

    /// The same for the listener of that number.
    ///
    /// # Errors
    /// It is not for this one: filters that the listener lacks are turned on in it.
    pub fn table_for(
        &self,
        number: usize,
        source: &ResourceSource,
        wire: &[u8],
    ) -> Result<Vec<RoutesResource>, String> {
        let message = pb::route::RouteConfiguration::decode(wire)
            .map_err(|error| format!("cannot be decoded: {error}"))?;
        judge::table(&self.routes, source, message, Some(number))
    }

    /// Asks for the filters that the listener of that number has told; those whose first answer it waits for.
    pub fn subscribe_filters(&mut self, number: usize) -> Vec<FilterKey> {
        let asked = self.routes.read().asked_filters_of(number);
        let mut awaited = Vec::new();
        let sources: BTreeSet<_> = asked.iter().map(|asked| &asked.ecds.source).collect();
        for source in sources {
            let registry = Arc::clone(&self.registry);
            if let Some(Running { subscribers, .. }) = self.source(source) {
                let names = subscribers.add_filters(number, &asked, &registry);
                awaited.extend(names.into_iter().map(|name| (source.clone(), name)));
            }
        }
        awaited
    }

    /// That listener is no more; the filters that nobody asks for any more.
    pub fn unsubscribe_filters(&mut self, number: usize) -> Vec<FilterKey> {
        let mut gone = Vec::new();
        for (source, running) in &self.sources {
            let names = running.subscribers.remove_filters(number);
            gone.extend(names.into_iter().map(|name| (source.clone(), name)));
        }
        for (source, _) in &gone {
            self.leave(source);
        }
        gone
    }

    /// The managers that have one of these filters, with what has been told by now. `in_use`: the tables that workers have; a
    /// later one waits for its turn, before which clusters may come that it leads to.
    pub fn with_filters(
        &self,
        keys: &BTreeSet<FilterKey>,
        in_use: impl Fn(&ResourceSource, &str) -> Option<Arc<[u8]>>,
    ) -> Vec<RoutesResource> {
        let wire = |rds: &Rds| in_use(&rds.source, &rds.name).or_else(|| self.table(&rds.source, &rds.name));
        self.filtered(&wire, |compiler, tables| compiler.with_filters(keys, tables))
    }

    /// The managers of the listener of that number of whose filters some have been told.
    pub fn with_filters_of(&self, number: usize) -> Vec<RoutesResource> {
        let wire = |rds: &Rds| self.table(&rds.source, &rds.name);
        self.filtered(&wire, |compiler, tables| compiler.with_filters_of(number, tables))
    }

    fn filtered(
        &self,
        wire: &dyn Fn(&Rds) -> Option<Arc<[u8]>>,
        compile: impl FnOnce(
            &RouteCompiler,
            &mut dyn FnMut(&Rds) -> Option<Arc<RouteConfiguration>>,
        ) -> Vec<Result<RoutesResource, String>>,
    ) -> Vec<RoutesResource> {
        let compiler = self.routes.read();
        let mut known = BTreeMap::new();
        let mut tables = |rds: &Rds| {
            let key = (rds.source.clone(), rds.name.clone());
            let table = || self.converted(&compiler, &rds.source, &wire(rds)?);
            known.entry(key).or_insert_with(table).clone()
        };
        let compiled = compile(&compiler, &mut tables).into_iter();
        compiled
            .filter_map(|resource| match resource {
                Ok(resource) => Some(resource),
                // Its parts were tried before they were taken.
                Err(error) => {
                    log::error!("xDS: a connection manager stays as it was: {error}");
                    None
                }
            })
            .collect()
    }

    /// A table that was taken, as it is compiled.
    fn converted(
        &self,
        compiler: &RouteCompiler,
        source: &ResourceSource,
        wire: &[u8],
    ) -> Option<Arc<RouteConfiguration>> {
        let message = pb::route::RouteConfiguration::decode(wire).ok()?;
        judge::converted(compiler, self.routes.runtime(), source, message, true).ok()
    }
}
