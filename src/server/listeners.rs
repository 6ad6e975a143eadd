//! Listeners of a control plane: which are in use, which still wait for their routes, filters and secrets, and what becomes of them
//! when there are others. A listener that changes serves as it was until its successor has them; where the address
//! is the same, the sockets stay.
//!
//! Who takes an update calls [`Listeners::publish`] when it has taken all there are for now: the workers hear of them as one.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::dump::{Told, ToldResources, ToldState};
use super::metrics::ServerMetrics;
use super::process::Process;
use super::restart::Predecessor;
use super::rotation::Rotation;
use super::sockets::{ListenSocketSet, internal_status};
use super::tables::{TableKey, Tables};
use crate::config::address::Address;
use crate::config::ads::ResourceSource;
use crate::config::listener::{ListenAddress, Listener, TrafficDirection};
use crate::control::admin::ListenerStatus;
use crate::control::xds::client::{
    ListenerFailures, ListenersUpdate, SecretKey, SharedCompiler, TakenListener, XdsClient,
};
use crate::snapshot::{FilterKey, ListenerResource, ListenersChange, PutListener, Replaced, RoutesResource};

/// A listener that cannot listen is tried so often again, with this time between: a second in all.
const TRIES_MAX: u32 = 50;
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// All of them, as the control thread sees them.
#[derive(Debug)]
pub(super) struct Listeners {
    process: Arc<Process>,
    routes: SharedCompiler,
    active: BTreeMap<Arc<str>, Dynamic>,
    warming: BTreeMap<Arc<str>, Dynamic>,
    /// Those that the response which is being taken leaves out: another may have their sockets.
    leaving: Vec<Dynamic>,
    /// Addresses of the bootstrap's listeners.
    fixed: Vec<ListenAddress>,
    /// What the control plane calls the last state of them.
    version: Box<str>,
    /// The number of the next one: those of the bootstrap have the first.
    next: usize,
    /// Those that bind, since [`Self::publish`] was called.
    bound: Vec<ListenerStatus>,
    change: ListenersChange,
    /// Since then: added, modified; names of those that are gone.
    counts: [u64; 2],
    gone: Vec<Arc<str>>,
    /// Addresses that a listener had until a moment ago, and the process's age then: workers may still have its sockets.
    left: Vec<(ListenAddress, Duration)>,
    /// When those are tried again that could not listen.
    pub(super) retry: Option<Pin<Box<Sleep>>>,
}

/// A listener that a control plane has told.
#[derive(Debug)]
struct Dynamic {
    number: usize,
    resource: Arc<ListenerResource>,
    told: Arc<Told>,
    /// Tables of which there was no answer yet.
    awaited: BTreeSet<TableKey>,
    /// Secrets of which there was none.
    secrets: BTreeSet<SecretKey>,
    /// Filters of which there was no answer yet.
    filters: BTreeSet<FilterKey>,
    /// Where scopes come from of which there was none.
    scopes: BTreeSet<ResourceSource>,
    /// How often it could not listen.
    tries: u32,
}

/// What taking and giving up listeners has to do with.
#[derive(Debug)]
pub(super) struct Around<'a> {
    pub(super) client: &'a mut XdsClient,
    pub(super) sockets: &'a mut ListenSocketSet,
    pub(super) rotation: &'a mut Rotation,
    pub(super) tables: &'a mut Tables,
    pub(super) metrics: &'a ServerMetrics,
    pub(super) predecessor: Option<&'a Predecessor>,
    pub(super) workers: usize,
    pub(super) stopped: Stopped,
}

/// Which listeners have stopped: none of them takes another's place any more, and none comes. Source: Envoy `/drain_listeners`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stopped {
    #[default]
    None,
    Inbound,
    All,
}

impl Stopped {
    /// Whether a listener is among them.
    fn has(self, config: &Listener) -> bool {
        match self {
            Self::None => false,
            Self::Inbound => config.traffic_direction == TrafficDirection::Inbound,
            Self::All => true,
        }
    }
}

impl Listeners {
    /// There are none but those of the bootstrap.
    pub(super) fn new(process: &Arc<Process>, routes: &SharedCompiler, fixed: &[Arc<Listener>]) -> Self {
        Self {
            process: Arc::clone(process),
            routes: routes.clone(),
            active: BTreeMap::new(),
            warming: BTreeMap::new(),
            leaving: Vec::new(),
            fixed: fixed.iter().flat_map(|listener| bound_addresses(listener)).cloned().collect(),
            version: Box::default(),
            next: fixed.len(),
            bound: Vec::new(),
            change: ListenersChange::default(),
            counts: [0; 2],
            gone: Vec::new(),
            left: Vec::new(),
            retry: None,
        }
    }

    /// Takes a response; those of it that cannot listen, which stay as they were, and why.
    pub(super) fn take(&mut self, update: ListenersUpdate, around: &mut Around<'_>) -> ListenerFailures {
        let mut failures = ListenerFailures::new();
        let ListenersUpdate { put, removed, version } = update;
        for name in removed {
            if let Some(warming) = self.warming.remove(&*name) {
                self.forget(&warming, around);
            }
            if let Some((name, active)) = self.active.remove_entry(&*name) {
                log::info!("listener {name} is gone");
                self.leaving.push(active);
                self.gone.push(name);
            }
        }
        let (passed, mut rest): (Vec<_>, Vec<_>) =
            put.into_iter().partition(|taken| around.stopped.has(&taken.resource.config));
        for taken in passed {
            log::info!("listener {} is passed over: those like it have stopped", taken.resource.config.name);
        }
        // What cannot be had may be what another of them leaves, whichever comes first: tried as long as that helps.
        loop {
            let tried = rest.len();
            let mut refused = Vec::new();
            for taken in rest {
                match self.may_listen(&taken.resource.config, around) {
                    Ok(()) => self.warm(taken, &version, around),
                    Err(reason) => refused.push((taken, reason)),
                }
            }
            if refused.len() == tried {
                failures.extend(refused.into_iter().map(|(taken, reason)| {
                    around.metrics.listener_failed();
                    (String::from(&*taken.resource.config.name), reason)
                }));
                break;
            }
            rest = refused.into_iter().map(|(taken, _)| taken).collect();
        }
        for gone in std::mem::take(&mut self.leaving) {
            around.rotation.remove_listener(gone.number);
            self.close(&gone, around);
            self.forget(&gone, around);
            self.change.removed.push(gone.number);
        }
        if !version.is_empty() {
            self.version = version;
        }
        self.show();
        failures
    }

    /// Takes a listener that can listen, as soon as it has what it waits for.
    fn warm(&mut self, taken: TakenListener, version: &str, around: &mut Around<'_>) {
        let TakenListener { resource, wire, .. } = taken;
        let name: Arc<str> = (*resource.config.name).into();
        let resource = match self.active.get(&name) {
            Some(before) => resource.with_limits_of(&before.resource),
            None => resource,
        };
        let number = self.next;
        self.next += 1;
        self.routes.add(number, &resource);
        let scopes = around.client.subscribe_scopes(number);
        let awaited: BTreeSet<_> = around.client.subscribe_tables(number).into_iter().collect();
        for key in self.asked_of(number) {
            if !self.has_table(number, &key) {
                continue;
            }
            let resources = known_table(number, &name, &key, around);
            if !resources.is_empty() {
                around.tables.extend(&key, resources);
            }
        }
        let filters: BTreeSet<_> = around.client.subscribe_filters(number).into_iter().collect();
        around.tables.put_filtered(&around.client.with_filters_of(number));
        let mut secrets = BTreeSet::new();
        for secret in resource.config.told_secrets() {
            if around.client.refer(secret) {
                secrets.insert((secret.source.clone(), Arc::clone(&secret.name)));
            }
        }
        let is_known = self.active.contains_key(&name) || self.warming.contains_key(&name);
        self.counts[usize::from(is_known)] += 1;
        let told = Arc::new(Told { state: ToldState::now(version), wire });
        let dynamic = Dynamic { number, resource, told, awaited, secrets, filters, scopes, tries: 0 };
        if let Some(before) = self.warming.insert(Arc::clone(&name), dynamic) {
            self.forget(&before, around);
        }
        self.activate(&name, around);
    }

    /// There was an answer for that table, which the workers are about to be told. What it has for listeners that are in use and are
    /// new since it was compiled.
    pub(super) fn take_table(&mut self, key: &TableKey, around: &mut Around<'_>) -> Vec<RoutesResource> {
        let mut late = Vec::new();
        let all = self.active.iter().map(|one| (true, one));
        for (is_active, (name, dynamic)) in all.chain(self.warming.iter().map(|one| (false, one))) {
            let number = dynamic.number;
            if around.tables.has(key, number) || !self.has_table(number, key) {
                continue;
            }
            let resources = known_table(number, name, key, around);
            around.tables.extend(key, resources.clone());
            late.extend(resources.into_iter().filter(|_| is_active));
        }
        let mut warm = Vec::new();
        for (name, dynamic) in &mut self.warming {
            if dynamic.awaited.remove(key) {
                warm.push(Arc::clone(name));
            }
        }
        for name in warm {
            self.activate(&name, around);
        }
        late
    }

    /// A secret is there, or is waited for no more.
    pub(super) fn take_secret(&mut self, key: &SecretKey, around: &mut Around<'_>) {
        let mut warm = Vec::new();
        for (name, dynamic) in &mut self.warming {
            if dynamic.secrets.remove(key) {
                warm.push(Arc::clone(name));
            }
        }
        for name in warm {
            self.activate(&name, around);
        }
    }

    /// There was an answer for these filters, of which the workers are about to be told, or they are waited for no more.
    pub(super) fn take_filters(&mut self, keys: &BTreeSet<FilterKey>, around: &mut Around<'_>) {
        let mut warm = Vec::new();
        for (name, dynamic) in &mut self.warming {
            let before = dynamic.filters.len();
            dynamic.filters.retain(|key| !keys.contains(key));
            if dynamic.filters.len() < before {
                warm.push(Arc::clone(name));
            }
        }
        for name in warm {
            self.activate(&name, around);
        }
    }

    /// There was an answer for the scopes from there, or they are waited for no more. `tables`: by listener those that its scopes have
    /// begun to ask for and that are still to come.
    pub(super) fn take_scopes(
        &mut self,
        source: &ResourceSource,
        mut tables: BTreeMap<usize, Vec<TableKey>>,
        around: &mut Around<'_>,
    ) {
        let names: Vec<_> = self.warming.keys().cloned().collect();
        for name in names {
            let Some(dynamic) = self.warming.get_mut(&name) else { continue };
            let is_awaited = dynamic.scopes.remove(source);
            let Some(more) = tables.remove(&dynamic.number).or_else(|| is_awaited.then(Vec::new)) else {
                continue;
            };
            let number = dynamic.number;
            let asked: BTreeSet<_> = self.asked_of(number).into_iter().collect();
            if let Some(dynamic) = self.warming.get_mut(&name) {
                dynamic.awaited.extend(more);
                dynamic.awaited.retain(|key| asked.contains(key));
            }
            self.activate(&name, around);
        }
    }

    /// Tries again what could not listen.
    pub(super) fn try_again(&mut self, around: &mut Around<'_>) {
        self.retry = None;
        let tried = self.warming.iter().filter(|(_, dynamic)| dynamic.tries > 0);
        let names: Vec<_> = tried.map(|(name, _)| Arc::clone(name)).collect();
        names.iter().for_each(|name| self.activate(name, around));
    }

    /// The tables that a listener asks for.
    fn asked_of(&self, number: usize) -> Vec<TableKey> {
        let asked = self.routes.read().asked_of(number);
        asked.into_iter().map(|asked| (asked.rds.source, Arc::from(&*asked.rds.name))).collect()
    }

    /// Whether a listener asks for a table by itself, not for a scope.
    fn has_table(&self, number: usize, (source, name): &TableKey) -> bool {
        self.routes.read().has_table(number, source, name)
    }

    /// Whether the start waits for one.
    pub(super) fn is_awaited(&self, stopped: Stopped) -> bool {
        self.warming.values().any(|dynamic| !stopped.has(&dynamic.resource.config))
    }

    /// How many of them accept, of those that the filter names.
    pub(super) fn count(&self, inbound_only: bool) -> usize {
        let is_meant = |dynamic: &&Dynamic| {
            !inbound_only || dynamic.resource.config.traffic_direction == TrafficDirection::Inbound
        };
        self.active.values().filter(is_meant).count()
    }

    /// What has changed since the last call; `None`: nothing.
    pub(super) fn publish(
        &mut self,
        around: &Around<'_>,
        spread: Duration,
        stay: Duration,
    ) -> Option<ListenersChange> {
        let [added, modified] = std::mem::take(&mut self.counts);
        let gone = std::mem::take(&mut self.gone);
        around.metrics.listeners_are(self.active.len() as u64, self.warming.len() as u64);
        let created = (self.change.put.len() * around.workers) as u64;
        around.metrics.listeners_changed([added, modified, gone.len() as u64, created]);
        if self.change.put.is_empty() && self.change.removed.is_empty() {
            return None;
        }
        self.show_all(&gone);
        let mut change = std::mem::take(&mut self.change);
        self.process.begin_drains(change.draining(), stay);
        for put in &mut change.put {
            // Whatever has come meanwhile: no worker sees it without.
            put.tls = around.rotation.newer(Some(put.number));
            put.filters = self.routes.read().filters_of(put.number..put.number + 1);
        }
        Some(ListenersChange { spread, stay, ..change })
    }

    /// Lets a listener that has its routes, filters and secrets take the place of the one that had its name, or its sockets. One that cannot listen
    /// is given up.
    fn activate(&mut self, name: &Arc<str>, around: &mut Around<'_>) {
        let Some(mut new) = self.warming.remove(name) else { return };
        let has_tables = new.awaited.is_empty() && new.scopes.is_empty();
        let waits = !has_tables || !new.secrets.is_empty() || !new.filters.is_empty();
        if waits || around.stopped.has(&new.resource.config) {
            self.warming.insert(Arc::clone(name), new);
            return;
        }
        let config = &new.resource.config;
        let leaves = |gone: &Dynamic| gone.resource.config.has_sockets_of(config);
        let has_left = self.leaving.iter().position(leaves);
        let before = match (self.active.get(name), has_left) {
            (Some(before), _) => Some(before),
            (None, Some(index)) => self.leaving.get(index),
            (None, None) => None,
        };
        // Whose workers have closed theirs has none to keep.
        let keeps = |before: &Dynamic| leaves(before) && !around.stopped.has(&before.resource.config);
        let keeps_sockets = before.is_some_and(keeps);
        let replaces = before.map(|before| Replaced {
            number: before.number,
            keeps_sockets,
            in_place: before.resource.config.fingerprint == config.fingerprint,
            successors: before.resource.config.successors(config),
            kept: before.resource.config.kept_chains(config),
        });
        if !keeps_sockets {
            let listening =
                self.check_addresses(config, false).and_then(|()| listen(new.number, config, around));
            match listening {
                Ok(status) => self.bound.extend(status),
                // Workers may still have the sockets of one that is gone.
                Err(_) if new.tries < TRIES_MAX => {
                    new.tries += 1;
                    self.retry.get_or_insert_with(|| Box::pin(sleep(RETRY_EVERY)));
                    self.warming.insert(Arc::clone(name), new);
                    return;
                }
                Err(reason) => {
                    log::error!("listener {name}: {reason}; it stays as it was");
                    around.metrics.listener_failed();
                    let Told { state, wire } = &*new.told;
                    around.client.refuse_listener(name, reason, &state.version, wire);
                    self.forget(&new, around);
                    // The workers are told nothing of it.
                    return self.show();
                }
            }
        }
        let is_other = self.active.contains_key(name);
        let before = match &replaces {
            Some(_) if is_other => self.active.remove(name),
            Some(_) => has_left.map(|index| self.leaving.remove(index)),
            None => None,
        };
        around.rotation.put_listener(new.number, &new.resource, replaces.as_ref());
        if let Some(before) = &before {
            if keeps_sockets {
                around.sockets.pass_on(before.number, new.number, name);
                self.bound.extend(listening_as(&self.process, before, name));
            } else {
                self.close(before, around);
            }
        }
        let (number, resource) = (new.number, Arc::clone(&new.resource));
        let routes = around.tables.of_listener(number);
        let (tls, filters) = (Vec::new(), Vec::new());
        self.change.put.push(PutListener { number, resource, routes, tls, filters, replaces });
        // A response before this one may have left it out.
        self.gone.retain(|gone| gone != name);
        self.active.insert(Arc::clone(name), new);
        if let Some(before) = before {
            self.forget(&before, around);
        }
    }

    /// Whether a listener that has been told can listen, as far as that can be seen before it has what it waits for.
    fn may_listen(&mut self, config: &Listener, around: &Around<'_>) -> Result<(), String> {
        self.forget_left();
        let mut had = self.active.get(&*config.name).into_iter().chain(&self.leaving);
        if !config.bind_to_port || had.any(|before| before.resource.config.has_sockets_of(config)) {
            return Ok(());
        }
        self.check_addresses(config, true)?;
        // The process before this one has its sockets until it is asked for them.
        if around.predecessor.is_some() {
            return Ok(());
        }
        let numbers: Vec<_> = self.leaving.iter().map(|gone| gone.number).collect();
        // Of those leaving workers have the sockets, too: it is tried again until they are closed.
        let leaving = || self.leaving.iter().flat_map(|gone| bound_addresses(&gone.resource.config));
        let is_left = |listen: &ListenAddress| {
            leaving().chain(self.left.iter().map(|(left, _)| left)).any(|left| left.overlaps(listen))
        };
        let mut all = config.addresses.iter();
        all.try_for_each(|listen| around.sockets.probe(config, listen, &numbers, is_left(listen)))
    }

    /// The sockets of a listener are nobody's from now on.
    fn close(&mut self, gone: &Dynamic, around: &mut Around<'_>) {
        around.sockets.remove(gone.number);
        self.forget_left();
        let now = self.process.age();
        self.left.extend(bound_addresses(&gone.resource.config).map(|listen| (listen.clone(), now)));
    }

    /// Forgets addresses whose sockets the workers have closed by now.
    fn forget_left(&mut self) {
        let now = self.process.age();
        self.left.retain(|(_, since)| now.saturating_sub(*since) < RETRY_EVERY * TRIES_MAX);
    }

    /// Of two listeners on one address the kernel would give each a share of the connections. `soon`: those do not count that
    /// leave theirs as soon as they can.
    fn check_addresses(&self, config: &Listener, soon: bool) -> Result<(), String> {
        let leaves = |name: &str| soon && self.warming.get(name).is_some_and(|next| next.tries > 0);
        let active = self.active.iter().filter(|(name, _)| !leaves(name));
        let others = active.chain(&self.warming).filter(|(other, _)| ***other != *config.name);
        let mut taken =
            others.flat_map(|(_, other)| bound_addresses(&other.resource.config)).chain(&self.fixed);
        let is_own =
            |other: &&ListenAddress| bound_addresses(config).any(|own| own.address.is_at(&other.address));
        match taken.find(is_own) {
            Some(other) => {
                Err(format!("cannot listen on {}: another listener has the address", other.address))
            }
            None => Ok(()),
        }
    }

    /// That listener is no more: nobody asks for its tables, filters and secrets on its behalf.
    fn forget(&self, gone: &Dynamic, around: &mut Around<'_>) {
        let number = gone.number;
        gone.resource.config.told_secrets().for_each(|secret| around.client.release(secret));
        self.routes.remove(number);
        around.client.unsubscribe_scopes(number);
        around.tables.forget_listener(number);
        for key in around.client.unsubscribe_tables(number) {
            around.tables.forget(&key);
            self.process.forget_routes(&key);
        }
        for key in around.client.unsubscribe_filters(number) {
            self.process.forget_filter(&key);
        }
    }

    /// Shows the admin endpoint what there is.
    fn show(&mut self) {
        self.show_all(&[]);
    }

    fn show_all(&mut self, gone: &[Arc<str>]) {
        let told = |all: &BTreeMap<Arc<str>, Dynamic>| {
            all.iter().map(|(name, dynamic)| (Arc::clone(name), Arc::clone(&dynamic.told))).collect()
        };
        let told = ToldResources {
            version: self.version.clone(),
            active: told(&self.active),
            warming: told(&self.warming),
        };
        self.process.set_listeners(told, std::mem::take(&mut self.bound), gone);
        self.process.show_scoped(self.routes.read().asked_scopes());
    }
}

/// Sockets of a listener that binds.
fn listen(
    number: usize,
    config: &Listener,
    around: &mut Around<'_>,
) -> Result<Option<ListenerStatus>, String> {
    if !config.bind_to_port {
        return Ok(internal_status(config));
    }
    // Nobody is waited for: the traffic of others goes on meanwhile.
    let at_once = |_: &str, bind: &dyn Fn() -> _| bind();
    around.sockets.add(number, config, around.workers, around.predecessor, at_once).map(Some)
}

/// What a table that was told before has for a listener.
fn known_table(number: usize, name: &str, key: &TableKey, around: &Around<'_>) -> Vec<RoutesResource> {
    let (source, table) = key;
    let Some(wire) = around.client.table(source, table) else { return Vec::new() };
    around.client.table_for(number, source, &wire).unwrap_or_else(|reason| {
        log::warn!("xDS: listener {name} goes without the routes {table}: {reason}");
        Vec::new()
    })
}

/// What a listener binds; port 0 is another port for each.
fn bound_addresses(listener: &Listener) -> impl Iterator<Item = &ListenAddress> {
    let addresses = listener.addresses.iter().filter(|_| listener.bind_to_port);
    addresses.filter(|listen| !matches!(listen.address, Address::Ip(ip) if ip.port() == 0))
}

/// Where a listener listens that has the sockets of another.
fn listening_as(process: &Process, before: &Dynamic, name: &Arc<str>) -> Option<ListenerStatus> {
    let status = process.listens(&before.resource.config.name)?;
    Some(ListenerStatus { name: Arc::clone(name), ..status })
}
