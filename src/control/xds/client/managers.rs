//! What the managers of listeners have told: scopes, routing tables and filters.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;

use super::judge::Judge;
use super::subscribers::Hosted;
use super::virtual_hosts::HostJudge;
use super::{Running, XdsClient, judge, pb};
use crate::config::ads::{Rds, ResourceSource, Variant};
use crate::config::route::RouteConfiguration;
use crate::snapshot::{AskedTable, FilterKey, RouteCompiler, RoutesResource};

/// A table: where it is told, and its name.
type NamedTable = (ResourceSource, Arc<str>);

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
        for asked in &asked {
            let key: (ResourceSource, Arc<str>) = (asked.rds.source.clone(), (*asked.rds.name).into());
            // The table may be there without the virtual hosts that it waits for.
            if self.subscribe_hosts(&key) {
                awaited.push(key);
            }
        }
        awaited
    }

    /// A table is there, or other managers have it: asks for the virtual hosts that are told of it by themselves, if such are. Whether
    /// the first of them are still to come.
    pub fn subscribe_hosts(&mut self, key: &(ResourceSource, Arc<str>)) -> bool {
        let (source, name) = key;
        let known = self.sources.get(source).and_then(|running| running.tables.table(name));
        let vhds = known.and_then(|table| table.vhds);
        if vhds.is_none() && !self.hosted.contains_key(key) {
            return false;
        }
        let prefixes = self.routes.read().prefixes_of(source, name);
        let vhds = vhds.filter(|_| !prefixes.is_empty());
        if self.hosted.get(key) != vhds.as_ref().map(|vhds| &vhds.source) {
            self.release_hosts(key);
        }
        let Some(vhds) = vhds else { return false };
        self.hosted.insert(key.clone(), vhds.source.clone());
        let has_some = self.hosts.has(&vhds.source, name);
        let hosted = Hosted { source: source.clone(), name: Arc::clone(name), vhds, prefixes, has_some };
        let registry = Arc::clone(&self.registry);
        let running = self.source(&hosted.vhds.source);
        running.is_some_and(|running| running.subscribers.add_hosts(hosted, &registry))
    }

    /// A request asks for a virtual host of a table whose virtual hosts come from there. Whether an answer will be heard of it
    /// ([`super::Update::Hosts`]).
    pub fn ask_host(&self, source: &ResourceSource, table: &str, host: &str) -> bool {
        self.sources.get(source).is_some_and(|running| running.subscribers.ask_host(table, host))
    }

    /// A table is no more, or has its virtual hosts from elsewhere.
    fn release_hosts(&mut self, key: &(ResourceSource, Arc<str>)) {
        let Some(before) = self.hosted.remove(key) else { return };
        if let Some(running) = self.sources.get(&before) {
            running.subscribers.remove_hosts(&key.0, &key.1, &self.registry);
            self.leave(&before);
        }
    }

    /// Whether another state of that table is on its way, or was there before this one: of sources each goes its own, and what the table
    /// and its virtual hosts have become last counts.
    pub fn is_stale(&self, (source, name): &NamedTable, wire: &Arc<[u8]>) -> bool {
        self.sources.get(source).is_some_and(|running| running.tables.is_other(name, wire))
    }

    /// Who says of a source's virtual hosts, which are told by delta alone; `None`: it tells none.
    pub(super) fn host_judge(&self, source: &ResourceSource) -> Option<Judge> {
        let variant = match source {
            ResourceSource::Ads => self.ads?,
            ResourceSource::Streams(streams) => streams.variant,
            ResourceSource::File(_) => return None,
        };
        let judge = || HostJudge::new(source.clone(), self.routes.clone(), self.hosts.clone());
        (variant == Variant::Delta).then(|| Judge::VirtualHosts(judge()))
    }

    /// That listener is no more; the tables that nobody asks for any more.
    pub fn unsubscribe_tables(&mut self, number: usize) -> Vec<(ResourceSource, Arc<str>)> {
        let hosted = self.hosted_of(number);
        let mut gone = Vec::new();
        for (source, running) in &self.sources {
            let names = running.subscribers.remove_tables(number, &|_| false, &self.registry);
            gone.extend(names.into_iter().map(|name| (source.clone(), name)));
        }
        for key in &hosted {
            self.subscribe_hosts(key);
        }
        for (source, _) in &gone {
            self.leave(source);
        }
        gone
    }

    /// The tables of that listener that have virtual hosts told by themselves: of thousands of others nothing changes with it.
    fn hosted_of(&self, number: usize) -> Vec<NamedTable> {
        let is_its = |(source, name): &&NamedTable| {
            self.sources.get(source).is_some_and(|running| running.subscribers.has_table(number, name))
        };
        self.hosted.keys().filter(is_its).cloned().collect()
    }

    /// The scopes of the listener of that number are others now: asks for the tables that they name and gives up those that they do not.
    /// Those whose first answer is still to come, and those that nobody asks for any more.
    pub fn resubscribe_tables(&mut self, number: usize) -> (Vec<NamedTable>, Vec<NamedTable>) {
        let asked = self.routes.read().asked_of(number);
        let (mut awaited, mut gone, mut begun) = (Vec::new(), Vec::new(), Vec::new());
        let sources: BTreeSet<_> = asked.iter().map(|asked| &asked.rds.source).collect();
        for source in sources {
            let registry = Arc::clone(&self.registry);
            let Some(Running { subscribers, tables, .. }) = self.source(source) else { continue };
            let is_new = |asked: &&AskedTable| {
                let AskedTable { stat_prefix, rds } = asked;
                rds.source == *source && !subscribers.asks_for_table(number, stat_prefix, &rds.name)
            };
            let new: Vec<_> = asked.iter().filter(is_new).cloned().collect();
            if !new.is_empty() {
                let names = subscribers.add_tables(number, &new, tables, &registry);
                awaited.extend(names.into_iter().map(|name| (source.clone(), name)));
                begun.extend(new.iter().map(|asked| (source.clone(), Arc::<str>::from(&*asked.rds.name))));
            }
        }
        let kept: BTreeSet<(&ResourceSource, &str)> =
            asked.iter().map(|asked| (&asked.rds.source, &*asked.rds.name)).collect();
        let mut left = self.hosted_of(number);
        left.retain(|(source, name)| !kept.contains(&(source, &**name)));
        for (source, running) in &self.sources {
            let keeps = |name: &str| kept.contains(&(source, name));
            let names = running.subscribers.remove_tables(number, &keeps, &self.registry);
            gone.extend(names.into_iter().map(|name| (source.clone(), name)));
        }
        for key in &left {
            self.subscribe_hosts(key);
        }
        for key in begun {
            // The table may be there without the virtual hosts that it waits for.
            if self.subscribe_hosts(&key) {
                awaited.push(key);
            }
        }
        for (source, _) in &gone {
            self.leave(source);
        }
        (awaited, gone)
    }

    /// Asks for the scopes of the listener of that number; where their first answer is still to come from.
    pub fn subscribe_scopes(&mut self, number: usize) -> BTreeSet<ResourceSource> {
        let asked = self.routes.read().asked_scopes_of(number);
        let mut awaited = BTreeSet::new();
        let sources: BTreeSet<_> = asked.iter().map(|asked| &asked.srds.source).collect();
        for source in sources {
            let registry = Arc::clone(&self.registry);
            let counts = self.routes.read().scope_counts(source);
            let Some(Running { subscribers, .. }) = self.source(source) else { continue };
            if subscribers.add_scopes(number, &asked, counts, &registry) {
                awaited.insert(source.clone());
            }
        }
        awaited
    }

    /// That listener is no more.
    pub fn unsubscribe_scopes(&mut self, number: usize) {
        let has_left = |running: &Running| running.subscribers.remove_scopes(number, &self.registry);
        let left = self.sources.iter().filter(|(_, running)| has_left(running));
        let left: Vec<_> = left.map(|(source, _)| source.clone()).collect();
        left.iter().for_each(|source| self.leave(source));
    }

    /// Shows how many scopes there are.
    pub fn show_scopes(&self, source: &ResourceSource) {
        if let Some(running) = self.sources.get(source) {
            running.subscribers.show_scopes(self.routes.read().scope_counts(source));
        }
    }

    /// The managers that have their scopes from there, and those whose scopes have one of these tables. `in_use`: the tables that workers
    /// have.
    pub fn with_scopes(
        &self,
        source: Option<&ResourceSource>,
        keys: &BTreeSet<FilterKey>,
        in_use: impl Fn(&ResourceSource, &str) -> Option<Arc<[u8]>>,
    ) -> Vec<RoutesResource> {
        let wire = |rds: &Rds| in_use(&rds.source, &rds.name).or_else(|| self.table(&rds.source, &rds.name));
        self.filtered(&wire, |compiler, tables| compiler.with_scopes(source, keys, tables))
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
        judge::table(&self.routes, source, message, number)
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

    /// The managers of the listener of that number whose scopes are told, or of whose filters some have been.
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
