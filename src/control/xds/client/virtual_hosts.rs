//! Virtual hosts that control planes tell by themselves (VHDS), for tables that say so: each is held against its table, and all of
//! them are compiled with it, before they are acknowledged. What is in use is the table as it was told and, behind its own virtual
//! hosts, those.
//!
//! A virtual host belongs to the table that its name begins with: `<route configuration>/<host>`. All that a source has are told,
//! and those of tables that have not been told yet are kept for them: they are not told again.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;

use super::compiler::SharedCompiler;
use super::judge::{Good, Kind, Outcome, converted};
use super::quarantine::Quarantine;
use super::tables::{KnownTable, KnownTables};
use crate::config::ads::{ResourceSource, Vhds};
use crate::control::xds::convert::Planes;
use crate::control::xds::{pb, wire};
use crate::snapshot::RoutesResource;

/// The field of a route configuration that they stand in.
const VIRTUAL_HOSTS: u32 = 2;

/// Of a table by their names, as they were told.
type Hosts = BTreeMap<String, Arc<[u8]>>;

/// Where virtual hosts come from, and the table that they are for.
type Key = (ResourceSource, String);

/// What is compiled of a table, and the table as it is in use.
type TakenTable = (Arc<[RoutesResource]>, Arc<[u8]>);

/// The name of the table that a virtual host is for; empty: none.
pub(super) fn table_of(host: &str) -> &str {
    host.rsplit_once('/').map_or("", |(table, _)| table)
}

/// Those of all sources, and the tables that have them. Copies share them.
#[derive(Clone, Debug, Default)]
pub(super) struct KnownHosts {
    /// Where they can come from.
    planes: Arc<Planes>,
    quarantine: Quarantine,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    hosts: BTreeMap<Key, Hosts>,
    /// Who has tables of that name, by where these are told.
    users: BTreeMap<Key, BTreeMap<ResourceSource, KnownTables>>,
}

/// A table with other virtual hosts than before, compiled for all that ask for it.
#[derive(Debug)]
pub(super) struct ChangedTable {
    /// Where the table is told.
    pub(super) source: ResourceSource,
    pub(super) name: Arc<str>,
    pub(super) resources: Arc<[RoutesResource]>,
    pub(super) wire: Arc<[u8]>,
}

/// A table that virtual hosts are held against.
#[derive(Debug)]
struct User {
    source: ResourceSource,
    told: Arc<[u8]>,
    whole: Arc<[u8]>,
    /// What was told without virtual hosts.
    bare: Vec<u8>,
}

/// What can be used.
#[derive(Debug, Default)]
struct Held {
    tables: Vec<ChangedTable>,
    /// All of a table.
    hosts: Hosts,
    /// Why the others cannot.
    refused: BTreeMap<String, String>,
}

impl KnownHosts {
    /// `quarantine`: where those are listed that cannot stand in their table when it comes.
    pub(super) fn new(planes: Planes, quarantine: Quarantine) -> Self {
        Self { planes: Arc::new(planes), quarantine, state: Arc::default() }
    }

    /// Takes a table that was told, with the virtual hosts that have been told of it: as it is in use from now on.
    ///
    /// # Errors
    /// Why it cannot be used: it is no good, or does not go with the virtual hosts that are in use.
    pub(super) fn take_table(
        &self,
        compiler: &SharedCompiler,
        source: &ResourceSource,
        known: &KnownTables,
        message: pb::route::RouteConfiguration,
        told: &[u8],
    ) -> Result<TakenTable, String> {
        let name = message.name.clone();
        let table = converted(&compiler.read(), compiler.runtime(), source, message, false)?;
        let own = compiler.read().compile(source, &table).map_err(|error| error.to_string())?;
        let (mut resources, told): (Arc<[RoutesResource]>, Arc<[u8]>) = (own.into(), told.into());
        let mut whole = Arc::clone(&told);
        let vhds = table.vhds.clone();
        if let Some(Vhds { source: hosts_from, .. }) = &vhds {
            if let Some(problem) = self.planes.hosts_problem(hosts_from) {
                return Err(format!("vhds.config_source: {problem}"));
            }
            let user = User::new(source.clone(), Arc::clone(&told), Arc::clone(&told));
            let key = (hosts_from.clone(), name.clone());
            if let Some(changed) = self.join(compiler, &key, user)? {
                (resources, whole) = (changed.resources, changed.wire);
            }
        }
        let table = KnownTable { told, whole: Arc::clone(&whole), vhds: vhds.clone() };
        if let Some(before) = known.put(name.clone(), table) {
            self.leave(&before.source, &name, source);
        }
        if let Some(vhds) = vhds {
            let mut state = self.lock();
            state.users.entry((vhds.source, name)).or_default().insert(source.clone(), known.clone());
        }
        Ok((resources, whole))
    }

    /// A new table with the virtual hosts that are there; `None`: there are none.
    fn join(&self, compiler: &SharedCompiler, key: &Key, user: User) -> Result<Option<ChangedTable>, String> {
        let (hosts, are_in_use) = {
            let state = self.lock();
            (state.hosts.get(key).cloned().unwrap_or_default(), state.users.contains_key(key))
        };
        let users = [user];
        if are_in_use {
            // As Envoy: what would not go with them is refused, and the table stays as it was.
            let mut joined = joined(compiler, &key.1, &users, &hosts, true)
                .map_err(|reason| format!("with the virtual hosts that are in use: {reason}"))?;
            return Ok(joined.pop());
        }
        // Nobody has held them against a table yet.
        let Held { mut tables, hosts, refused } = hold(compiler, &key.1, &users, &Hosts::new(), hosts);
        for (name, reason) in refused {
            log::error!("xDS: virtual host {name} is left out: {reason}");
            self.quarantine.add((key.0.clone(), Kind::VirtualHosts, name), reason, "", None);
        }
        self.put(key.clone(), hosts);
        Ok(tables.pop())
    }

    /// A table is no more, or has its virtual hosts from elsewhere. `told_by`: where the table is told.
    pub(super) fn leave(&self, source: &ResourceSource, table: &str, told_by: &ResourceSource) {
        let mut state = self.lock();
        let key = (source.clone(), table.to_owned());
        if let Some(users) = state.users.get_mut(&key) {
            users.remove(told_by);
            if users.is_empty() {
                state.users.remove(&key);
            }
        }
    }

    /// Nobody asks there any more, neither for tables nor for virtual hosts.
    pub(super) fn forget_source(&self, source: &ResourceSource) {
        let mut state = self.lock();
        state.hosts.retain(|(of, _), _| of != source);
        state.users.values_mut().for_each(|users| drop(users.remove(source)));
        state.users.retain(|_, users| !users.is_empty());
    }

    /// Whether some have been told of that table.
    pub(super) fn has(&self, source: &ResourceSource, table: &str) -> bool {
        self.lock().hosts.contains_key(&(source.clone(), table.to_owned()))
    }

    /// Takes those of a table that are new or others; why not all of them.
    fn take(&self, compiler: &SharedCompiler, key: Key, mut new: Hosts) -> Held {
        let (others, users) = {
            let state = self.lock();
            (state.hosts.get(&key).cloned().unwrap_or_default(), state.users.get(&key).cloned())
        };
        let known = users.unwrap_or_default();
        let users: Vec<_> = known
            .iter()
            .filter_map(|(source, known)| {
                let KnownTable { told, whole, .. } = known.table(&key.1)?;
                Some(User::new(source.clone(), told, whole))
            })
            .collect();
        new.retain(|name, host| others.get(name) != Some(&*host));
        let mut held = hold(compiler, &key.1, &users, &others, new);
        for ChangedTable { source, wire, .. } in &held.tables {
            if let Some(known) = known.get(source) {
                known.complete(&key.1, wire);
            }
        }
        self.put(key, std::mem::take(&mut held.hosts));
        held
    }

    /// All of a table.
    fn put(&self, key: Key, hosts: Hosts) {
        let mut state = self.lock();
        if hosts.is_empty() {
            state.hosts.remove(&key);
        } else {
            state.hosts.insert(key, hosts);
        }
    }

    /// One is gone; whether it was there.
    fn remove(&self, key: &Key, name: &str) -> bool {
        let mut state = self.lock();
        let Some(hosts) = state.hosts.get_mut(key) else { return false };
        let was_there = hosts.remove(name).is_some();
        if hosts.is_empty() {
            state.hosts.remove(key);
        }
        was_there
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says of virtual hosts of one source whether they can be used.
#[derive(Debug)]
pub(super) struct HostJudge {
    source: ResourceSource,
    compiler: SharedCompiler,
    known: KnownHosts,
    /// Tables of which some have gone since [`Self::settle`] was called.
    lost: BTreeSet<String>,
}

impl HostJudge {
    pub(super) fn new(source: ResourceSource, compiler: SharedCompiler, known: KnownHosts) -> Self {
        Self { source, compiler, known, lost: BTreeSet::new() }
    }

    /// One is gone. [`Self::settle`] is next.
    pub(super) fn forget(&mut self, name: &str) {
        let table = table_of(name);
        if self.known.remove(&(self.source.clone(), table.to_owned()), name) {
            self.lost.insert(table.to_owned());
        }
    }

    /// Holds what a response has against its tables: one response is one change of each.
    pub(super) fn settle(&mut self, outcome: &mut Outcome) {
        let lost = std::mem::take(&mut self.lost).into_iter();
        let mut told: BTreeMap<String, Hosts> = lost.map(|table| (table, Hosts::new())).collect();
        for (name, good) in &outcome.good {
            if let Good::VirtualHost(wire) = good {
                let hosts = told.entry(table_of(name).to_owned()).or_default();
                hosts.insert(name.clone(), Arc::clone(wire));
            }
        }
        for (table, hosts) in told {
            let Held { tables, refused, .. } =
                self.known.take(&self.compiler, (self.source.clone(), table), hosts);
            refused.into_iter().for_each(|(name, reason)| outcome.refuse(name, reason));
            outcome.tables.extend(tables);
        }
    }
}

impl User {
    fn new(source: ResourceSource, told: Arc<[u8]>, whole: Arc<[u8]>) -> Self {
        // It was decoded before.
        let mut message = pb::route::RouteConfiguration::decode(&*told).unwrap_or_default();
        message.virtual_hosts.clear();
        Self { source, told, whole, bare: message.encode_to_vec() }
    }

    /// Whether a virtual host can stand in it, alone; its clusters are looked at as if it were one of the table's own.
    fn check(&self, compiler: &SharedCompiler, host: &[u8]) -> Result<(), String> {
        let alone = with_hosts(&self.bare, std::iter::once(host));
        // Where in the virtual host something is wrong.
        let told = |reason: String| reason.replace("virtual_hosts[0].", "");
        compiled(compiler, &self.source, &alone, false).map(drop).map_err(told)
    }
}

/// Holds new virtual hosts against their table. If they cannot be used as they are: each alone, then the good ones beside each other
/// and the others. Where two want the same domain the new ones stay away, and what was good before stays.
fn hold(compiler: &SharedCompiler, table: &str, users: &[User], others: &Hosts, new: Hosts) -> Held {
    let mut hosts = others.clone();
    hosts.extend(new.iter().map(|(name, host)| (name.clone(), Arc::clone(host))));
    if let Ok(tables) = joined(compiler, table, users, &hosts, false) {
        return Held { tables, hosts, refused: BTreeMap::new() };
    }
    let mut held = Held { hosts: others.clone(), ..Held::default() };
    let mut good = Vec::new();
    for (name, host) in new {
        match users.iter().try_for_each(|user| user.check(compiler, &host)) {
            Ok(()) => {
                good.push(name.clone());
                held.hosts.insert(name, host);
            }
            Err(reason) => drop(held.refused.insert(name, reason)),
        }
    }
    match joined(compiler, table, users, &held.hosts, true) {
        Ok(tables) => held.tables = tables,
        Err(reason) => {
            let reason = format!("with the others of {table}: {reason}");
            held.refused.extend(good.into_iter().map(|name| (name, reason.clone())));
            held.hosts.clone_from(others);
            held.tables = joined(compiler, table, users, others, true).unwrap_or_else(|reason| {
                log::error!("xDS: the virtual hosts of {table} stay as they were: {reason}");
                Vec::new()
            });
        }
    }
    held
}

/// The table with these virtual hosts, for those of its users for whom that is another. `are_accepted`: they were taken before.
fn joined(
    compiler: &SharedCompiler,
    table: &str,
    users: &[User],
    hosts: &Hosts,
    are_accepted: bool,
) -> Result<Vec<ChangedTable>, String> {
    let mut changed = Vec::new();
    for User { source, told, whole, .. } in users {
        let wire = with_hosts(told, hosts.values().map(|host| &**host));
        if *wire != **whole {
            let resources = compiled(compiler, source, &wire, are_accepted)?.into();
            let (source, name) = (source.clone(), table.into());
            changed.push(ChangedTable { source, name, resources, wire });
        }
    }
    Ok(changed)
}

/// A table as it was told, and virtual hosts behind its own.
fn with_hosts<'a>(told: &[u8], hosts: impl Iterator<Item = &'a [u8]>) -> Arc<[u8]> {
    let mut bytes = told.to_vec();
    hosts.for_each(|host| wire::put_bytes(&mut bytes, VIRTUAL_HOSTS, host));
    bytes.into()
}

/// `is_accepted`: its parts were taken before.
fn compiled(
    compiler: &SharedCompiler,
    source: &ResourceSource,
    table: &[u8],
    is_accepted: bool,
) -> Result<Vec<RoutesResource>, String> {
    let message = pb::route::RouteConfiguration::decode(table)
        .map_err(|error| format!("cannot be decoded: {error}"))?;
    let shared = compiler.read();
    let table = converted(&shared, compiler.runtime(), source, message, is_accepted)?;
    shared.compile(source, &table).map_err(|error| error.to_string())
}
