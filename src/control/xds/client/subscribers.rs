//! Who has asked for something of the control plane: who hears of which resource, what is counted, and how long the start
//! waits for them. Clusters that come and go take their endpoints' names with them.
mod asked_hosts;
mod askers;
mod changes;
mod filters;
mod scopes;
mod shared;
mod virtual_hosts;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use self::asked_hosts::AskedHosts;
use self::askers::Askers;
pub(super) use self::changes::Changes;
use self::scopes::UsedScopes;
pub(super) use self::virtual_hosts::Hosted;
use super::counters::{Counters, Event};
use super::gate::Gate;
use super::judge::{Good, Kind, Outcome};
use super::known_secrets::KnownSecrets;
use super::quarantine::Quarantine;
use super::status::{ClientStatus, Missing};
use super::virtual_hosts::table_of;
use super::wanted::Wanted;
use super::{RoutesUpdate, RuntimeUpdate, Update, Updates, WholeUpdate};
use crate::base::packed;
use crate::config::ads::{Eds, ResourceSource, Rtds, SecretKind, Wildcard};
use crate::control::discovery::{Assignment, EndpointUpdate, KeptAssignment};
use crate::telemetry::{Cells, ClusterStat, Registry, Scope, ServerStat, Slot};

/// All of one source.
#[derive(Debug)]
pub(super) struct Subscribers {
    source: ResourceSource,
    lists: Mutex<Lists>,
    updates: mpsc::Sender<Updates>,
    quarantine: Quarantine,
    /// With those of other sources.
    secrets: KnownSecrets,
    gate: Gate,
    server: Cells<ServerStat>,
    /// Says that there are others now.
    changed: watch::Sender<()>,
    /// Says that requests ask for other virtual hosts, and nobody else for anything else.
    asked: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Lists {
    /// By the name of the layer's resource.
    runtime: BTreeMap<String, Arc<Subscriber>>,
    /// Who wants all clusters.
    clusters: Option<Arc<Subscriber>>,
    /// By the name under which endpoints are asked for, which clusters may share.
    endpoints: BTreeMap<Arc<str>, Endpoints>,
    /// How many clusters have asked for some since the source has looked.
    added: usize,
    /// The last of those that nobody wants any more, until the stream has said so: whoever asks again before it does is not told
    /// again.
    given_up: BTreeMap<String, Option<Arc<KeptAssignment>>>,
    /// Who wants all listeners.
    listeners: Option<Arc<Subscriber>>,
    /// By the secret's name.
    secrets: BTreeMap<String, UsedSecret>,
    /// Who wants all scopes, or has wanted them.
    scopes: Option<UsedScopes>,
    /// By the table's name. Which managers ask for one, the compiler knows.
    routes: BTreeMap<String, Table>,
    /// By the filter's name; the compiler knows as much of them.
    filters: BTreeMap<String, Filter>,
    /// Tables that have virtual hosts from here, by their names.
    hosts: BTreeMap<String, HostedTable>,
    /// Whether there has been one: all virtual hosts are asked for from then on, as no stream takes that back.
    asks_for_hosts: bool,
    /// Virtual hosts that requests ask for.
    asked_hosts: AskedHosts,
}

#[derive(Debug)]
struct UsedSecret {
    /// What contexts take it for, one for each.
    uses: Vec<SecretKind>,
    /// All of them as one.
    one: Arc<Subscriber>,
}

#[derive(Debug)]
struct Table {
    /// Listeners by their numbers, and the prefixes of their managers.
    users: Vec<(usize, Box<str>)>,
    /// All of them as one.
    one: Arc<Subscriber>,
}

#[derive(Debug)]
struct Filter {
    /// Listeners by their numbers, once for each of their managers that asks for it.
    users: Vec<usize>,
    /// All of them as one.
    one: Arc<Subscriber>,
}

#[derive(Debug)]
struct HostedTable {
    /// Where the table is told, and the prefixes of the managers that have it from there.
    users: BTreeMap<ResourceSource, BTreeSet<Box<str>>>,
    /// All of them as one.
    one: Arc<Subscriber>,
}

#[derive(Debug)]
struct Endpoints {
    askers: Askers,
    /// The last that were told, for those who ask later: they are not told again.
    last: Option<Arc<KeptAssignment>>,
}

/// There is one for each of thousands of clusters.
const _: () = assert!(size_of::<Endpoints>() <= 24);

#[derive(Debug)]
struct Subscriber {
    kind: Kind,
    /// Of the cluster, secret or table.
    name: Arc<str>,
    /// Of the cluster, see [`EndpointUpdate::instance`].
    instance: u64,
    counters: Counters,
    /// Until when it waits for the first answer; `None`: for ever.
    waits_until: Option<Instant>,
    /// Whether it could not ask yet when that was set.
    is_early: bool,
    /// Whether there was an answer, or the wait for it is over.
    answered: AtomicBool,
}

/// There is one for each of thousands of clusters.
const _: () = assert!(size_of::<Subscriber>() <= 64);

impl Lists {
    /// All who want something of a type.
    fn of_kind(&self, kind: Kind) -> Vec<Arc<Subscriber>> {
        match kind {
            Kind::Runtime => self.runtime.values().cloned().collect(),
            Kind::Clusters => self.clusters.iter().cloned().collect(),
            Kind::Endpoints => self.endpoints.values().flat_map(|of| of.askers.iter()).cloned().collect(),
            Kind::Listeners => self.listeners.iter().cloned().collect(),
            Kind::Secrets => self.secrets.values().map(|used| Arc::clone(&used.one)).collect(),
            Kind::Scopes => self.scopes.iter().map(|used| Arc::clone(&used.one)).collect(),
            Kind::Routes => self.routes.values().map(|table| Arc::clone(&table.one)).collect(),
            Kind::VirtualHosts => self.hosts.values().map(|table| Arc::clone(&table.one)).collect(),
            Kind::Filters => self.filters.values().map(|filter| Arc::clone(&filter.one)).collect(),
        }
    }

    /// Keeps endpoints for those who ask for them later; whether they are those that all who ask have by now.
    fn keep_endpoints(&mut self, name: &str, assignment: &Assignment) -> bool {
        let last = match self.endpoints.get_mut(name) {
            Some(endpoints) => Some(&mut endpoints.last),
            None => self.given_up.get_mut(name),
        };
        let Some(last) = last else { return false };
        let is_same = last.as_ref() == Some(assignment.kept());
        if !is_same {
            *last = Some(Arc::clone(assignment.kept()));
        }
        is_same
    }
}

impl Subscriber {
    /// There was a good answer, or what was one before is used again.
    fn succeed(&self, version: &str, is_restored: bool) {
        if !is_restored {
            self.counters.count(Event::Success);
            self.counters.count(Event::Attempt);
        }
        self.counters.show_version(version_number(version));
        self.answered.store(true, Ordering::Relaxed);
    }

    fn is_waiting(&self) -> bool {
        !self.answered.load(Ordering::Relaxed)
    }
}

impl Subscribers {
    /// Of a source that nobody has asked for anything.
    pub(super) fn new(
        source: ResourceSource,
        updates: mpsc::Sender<Updates>,
        quarantine: Quarantine,
        secrets: KnownSecrets,
        gate: Gate,
        server: Cells<ServerStat>,
    ) -> Self {
        let (changed, asked) = (watch::Sender::default(), watch::Sender::default());
        let lists = Mutex::default();
        Self { source, lists, updates, quarantine, secrets, gate, server, changed, asked }
    }

    /// A layer wants its values.
    pub(super) fn add_runtime(&self, rtds: &Rtds, registry: &Registry) {
        let counters = Counters::Runtime(registry.server(Slot::Control));
        let one = self.subscriber(Kind::Runtime, &rtds.name, 0, counters, rtds.initial_fetch_timeout);
        self.lock().runtime.insert(String::from(&*rtds.name), Arc::new(one));
    }

    /// What may be asked for is something else than before.
    pub(super) fn look_again(&self) {
        self.changed.send_replace(());
    }

    /// Whether something of that type may be asked for.
    fn may_ask(&self, kind: Kind) -> bool {
        kind == Kind::Runtime
            || matches!(self.source, ResourceSource::File(_))
            || self.gate.waited().is_some()
    }

    /// Somebody wants all clusters that are there.
    pub(super) fn add_clusters(&self, cds: &Wildcard, registry: &Registry) {
        let counters = Counters::Clusters(registry.server(Slot::Control));
        let one = self.subscriber(Kind::Clusters, &Arc::default(), 0, counters, cds.initial_fetch_timeout);
        self.lock().clusters = Some(Arc::new(one));
    }

    /// Somebody wants all listeners that are there.
    pub(super) fn add_listeners(&self, lds: &Wildcard, registry: &Registry) {
        let counters = Counters::Listeners(registry.server(Slot::Control));
        let one = self.subscriber(Kind::Listeners, &Arc::default(), 0, counters, lds.initial_fetch_timeout);
        self.lock().listeners = Some(Arc::new(one));
    }

    /// A cluster wants its endpoints; what was told of them already.
    pub(super) fn add(
        &self,
        cluster: &Arc<str>,
        instance: u64,
        eds: &Eds,
        scope: Arc<Scope<ClusterStat>>,
    ) -> Option<Assignment> {
        let counters = Counters::Cluster(scope);
        let one = self.subscriber(Kind::Endpoints, cluster, instance, counters, eds.initial_fetch_timeout);
        let mut lists = self.lock();
        let name = eds.name(cluster);
        lists.added += 1;
        let before = lists.given_up.remove(name).flatten();
        let last = lists.endpoints.get(name).map_or(before, |endpoints| endpoints.last.clone());
        match last {
            Some(_) => one.answered.store(true, Ordering::Relaxed),
            None => self.quarantine.ask(&self.source, Kind::Endpoints, name),
        }
        let one = Arc::new(one);
        if let Some(endpoints) = lists.endpoints.get_mut(name) {
            endpoints.askers.join(one);
        } else {
            let shared = if *name == **cluster { Arc::clone(cluster) } else { name.into() };
            lists.endpoints.insert(shared, Endpoints { askers: Askers::One(one), last: last.clone() });
        }
        drop(lists);
        self.changed.send_replace(());
        last.map(|kept| kept.assignment())
    }

    /// That cluster wants them no more.
    pub(super) fn remove(&self, cluster: &str, instance: u64, eds: &Eds) {
        let name = eds.name(cluster);
        let mut lists = self.lock();
        if lists.endpoints.get_mut(name).is_some_and(|endpoints| endpoints.askers.leave(instance)) {
            let last = lists.endpoints.remove(name).and_then(|endpoints| endpoints.last);
            lists.given_up.insert(String::from(name), last);
            self.quarantine.forget(&self.source, Kind::Endpoints, name);
        }
        drop(lists);
        self.changed.send_replace(());
    }

    /// Until when those wait who share one, of whom another waits for so long: who waits longest decides.
    fn waits_until(before: Option<&Arc<Subscriber>>, wait: Option<Duration>) -> Option<Instant> {
        let until = wait.map(|wait| sleep(wait).deadline());
        before.map_or(until, |before| before.waits_until.zip(until).map(|(before, until)| before.max(until)))
    }

    fn subscriber(
        &self,
        kind: Kind,
        name: &Arc<str>,
        instance: u64,
        counters: Counters,
        wait: Option<Duration>,
    ) -> Subscriber {
        self.attempt(&counters);
        Subscriber {
            kind,
            name: Arc::clone(name),
            instance,
            counters,
            waits_until: wait.map(|wait| sleep(wait).deadline()),
            is_early: !self.may_ask(kind),
            answered: AtomicBool::new(false),
        }
    }

    /// Counts that something is asked for. A file that is read is an attempt and its outcome in one.
    fn attempt(&self, counters: &Counters) {
        if !matches!(self.source, ResourceSource::File(_)) {
            counters.count(Event::Attempt);
        }
    }

    /// Whether nobody wants anything. Asked whenever one of many goes.
    pub(super) fn is_empty(&self) -> bool {
        let lists = self.lock();
        let Lists {
            runtime,
            clusters,
            endpoints,
            added: _,
            given_up: _,
            listeners,
            secrets,
            scopes,
            routes,
            filters,
            hosts,
            asks_for_hosts: _,
            asked_hosts: _,
        } = &*lists;
        let has_scopes = scopes.as_ref().is_some_and(|used| !used.users.is_empty());
        let has_one = clusters.is_some() || listeners.is_some();
        let has_named = !(endpoints.is_empty() && secrets.is_empty() && routes.is_empty());
        let has_rest = !(runtime.is_empty() && filters.is_empty() && hosts.is_empty());
        !has_one && !has_named && !has_scopes && !has_rest
    }

    /// Hears of changes from now on, but not of virtual hosts that requests ask for: those have their own time.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Hears of all changes from now on.
    pub(super) fn all_changes(&self) -> Changes {
        Changes::new(self.changes(), self.asked.subscribe())
    }

    /// What is asked for of a type.
    pub(super) fn wanted(&self, kind: Kind) -> Wanted {
        self.listed(&self.lock(), kind)
    }

    /// The same for who asks for that and nothing else from now on: what was given up is told anew to whoever asks for it later.
    pub(super) fn ask(&self, kind: Kind) -> Wanted {
        let mut lists = self.lock();
        if kind == Kind::Endpoints {
            lists.given_up.clear();
            let added = std::mem::take(&mut lists.added);
            packed::pack(&mut lists.endpoints, added);
        }
        if kind == Kind::VirtualHosts {
            lists.asked_hosts.said();
        }
        let wanted = self.listed(&lists, kind);
        // With what is asked for next.
        if kind == Kind::VirtualHosts && lists.asked_hosts.ask_again() {
            self.asked.send_replace(());
        }
        wanted
    }

    fn listed(&self, lists: &Lists, kind: Kind) -> Wanted {
        fn names<'a>(names: impl Iterator<Item = &'a String>) -> Wanted {
            Wanted::Names(names.map(|name| name.as_str().into()).collect())
        }
        match kind {
            _ if !self.may_ask(kind) => Wanted::Names(BTreeSet::new()),
            Kind::Runtime => names(lists.runtime.keys()),
            Kind::Clusters if lists.clusters.is_some() => Wanted::All,
            Kind::Listeners if lists.listeners.is_some() => Wanted::All,
            Kind::Scopes if lists.scopes.is_some() => Wanted::All,
            Kind::VirtualHosts if lists.asks_for_hosts => lists.asked_hosts.wanted(),
            Kind::Clusters | Kind::Listeners | Kind::Scopes | Kind::VirtualHosts => {
                Wanted::Names(BTreeSet::new())
            }
            Kind::Endpoints => Wanted::Names(lists.endpoints.keys().cloned().collect()),
            Kind::Secrets => names(lists.secrets.keys()),
            Kind::Routes => names(lists.routes.keys()),
            Kind::Filters => names(lists.filters.keys()),
        }
    }

    /// How many refusals control planes have heard of.
    pub(super) fn heard(&self) -> u64 {
        self.quarantine.heard()
    }

    /// A stream has told what there is of these types; before it so many refusals were heard of.
    pub(super) fn settle(&self, kinds: &[Kind], heard: u64) {
        self.quarantine.settle(&self.source, kinds, heard);
    }

    /// Counts for everybody who wants something of these types.
    pub(super) fn count(&self, kinds: &[Kind], event: Event) {
        let all = self.all();
        let is_meant = |one: &&Arc<Subscriber>| kinds.contains(&one.kind) && self.may_ask(one.kind);
        all.iter().filter(is_meant).for_each(|one| one.counters.count(event));
    }

    /// Hands on listeners, of which only who takes them finds out whether they can listen: those that cannot are refused. Comes
    /// before the answer and [`Self::apply`].
    pub(super) async fn try_out(&self, kind: Kind, outcome: &mut Outcome, version: &str) {
        if kind != Kind::Listeners || self.of_kind(kind).is_empty() {
            return;
        }
        let put = outcome.good.values().filter_map(|good| match good {
            Good::Listener(taken) => Some(taken.clone()),
            _ => None,
        });
        let update = WholeUpdate {
            put: put.collect(),
            removed: outcome.absent.iter().map(|name| name.as_str().into()).collect(),
            version: version.into(),
        };
        let (verdict, heard) = oneshot::channel();
        self.tell(vec![Update::Listeners(update, Some(verdict))]).await;
        for (name, reason) in heard.await.unwrap_or_default() {
            outcome.refuse(name, reason);
        }
    }

    /// Hands on what a response changes, all at once, and counts.
    pub(super) async fn apply(&self, kind: Kind, outcome: Outcome, version: &str) {
        self.quarantine.note(&self.source, kind, &outcome, version);
        self.server.add(ServerStat::DynamicUnknownFields, outcome.unknown);
        let updates = match kind {
            Kind::Clusters | Kind::Listeners | Kind::Scopes => self.whole_changes(kind, outcome, version),
            Kind::VirtualHosts => self.host_changes(outcome, version),
            Kind::Filters => self.filter_changes(outcome, version),
            Kind::Runtime | Kind::Endpoints | Kind::Secrets | Kind::Routes => {
                self.named_changes(kind, outcome, version)
            }
        };
        self.tell(updates).await;
    }

    /// What a response changes of resources that are asked for by name.
    fn named_changes(&self, kind: Kind, outcome: Outcome, version: &str) -> Updates {
        let mut updates = self.refuse_bad(kind, &outcome);
        let Outcome { good, absent, kept, is_restored, .. } = outcome;
        for name in &absent {
            for one in self.of_resource(kind, name) {
                let missing = Missing::new(ClientStatus::DoesNotExist);
                self.quarantine.miss(&self.source, kind, name, missing);
                one.counters.count(Event::Empty);
                one.counters.count(Event::Success);
                one.counters.count(Event::Attempt);
                updates.extend(self.give_up(&one));
                if kind == Kind::Runtime {
                    // As Envoy: the layer is there and has no values.
                    updates.extend(self.update(&one, Good::Runtime(Arc::default()), version));
                }
            }
        }
        updates.extend(self.keep(kind, &kept));
        for (name, good) in good {
            if kind == Kind::Secrets {
                self.secrets.set_version(&self.source, &name, version);
            }
            // A state of the world tells all of them again when those of one cluster change.
            let is_known = match &good {
                Good::Endpoints(assignment) => self.lock().keep_endpoints(&name, assignment),
                _ => false,
            };
            for one in self.of_resource(kind, &name) {
                one.succeed(version, is_restored);
                if !is_known {
                    updates.extend(self.update(&one, good.clone(), version));
                }
            }
        }
        updates
    }

    /// Counts what of a response is no good, and says why; what those hear who have waited for it.
    fn refuse_bad(&self, kind: Kind, Outcome { bad, nameless, .. }: &Outcome) -> Updates {
        let mut updates = Updates::new();
        for reason in nameless {
            log::warn!("xDS: refused: {reason}");
        }
        if bad.is_empty() && !nameless.is_empty() {
            updates.extend(self.of_kind(kind).iter().flat_map(|one| self.refuse(one)));
        }
        for (name, reason) in bad {
            log::warn!("xDS: {kind} {name} stay as they were: {reason}");
            updates.extend(self.of_resource(kind, name).iter().flat_map(|one| self.refuse(one)));
        }
        updates
    }

    /// Resources that the source has not, and that stay in use where they are; what those hear who have waited for them.
    fn keep(&self, kind: Kind, names: &BTreeMap<String, Missing>) -> Updates {
        let mut updates = Updates::new();
        for (name, missing) in names {
            for one in self.of_resource(kind, name) {
                self.quarantine.miss(&self.source, kind, name, missing.clone());
                // As in Envoy a layer that cannot be told counts for nothing.
                if kind != Kind::Runtime {
                    one.counters.count(Event::Success);
                    one.counters.count(Event::Attempt);
                }
                // As in Envoy what waits for it goes on: there is none.
                updates.extend(self.give_up(&one));
            }
        }
        updates
    }

    /// What a response brings and takes away where all are asked for.
    fn whole_changes(&self, kind: Kind, outcome: Outcome, version: &str) -> Updates {
        let Some(one) = self.of_kind(kind).pop() else { return Updates::new() };
        let Outcome { good, bad, nameless, absent, is_restored, .. } = outcome;
        for reason in &nameless {
            log::warn!("xDS: refused: {reason}");
        }
        for (name, reason) in &bad {
            log::warn!("xDS: of {kind} {name} stays as it was: {reason}");
        }
        if bad.is_empty() && nameless.is_empty() {
            one.succeed(version, is_restored);
        } else {
            one.counters.count(Event::Rejected);
            one.counters.count(Event::Attempt);
            one.answered.store(true, Ordering::Relaxed);
        }
        match kind {
            // They have been handed on to be tried.
            Kind::Listeners => return Updates::new(),
            Kind::Scopes => {
                let update = self.scopes_told(good, absent, version);
                // As in Envoy also where nothing has changed; of a response that is refused something may be good.
                let is_good = bad.is_empty() && nameless.is_empty();
                if is_good || !update.changed.is_empty() {
                    one.counters.reload();
                }
                return vec![Update::Scopes(update)];
            }
            _ => {}
        }
        let clusters = good.into_values().filter_map(|good| match good {
            Good::Cluster(cluster) => Some(cluster),
            _ => None,
        });
        let (put, removed) = (clusters.collect(), absent.into_iter().map(Into::into).collect());
        vec![Update::Clusters(WholeUpdate { put, removed, version: version.into() })]
    }

    /// What is heard of something good; `None`: nothing.
    fn update(&self, one: &Subscriber, good: Good, version: &str) -> Option<Update> {
        let name = Arc::clone(&one.name);
        Some(match good {
            Good::Runtime(values) => {
                Update::Runtime(RuntimeUpdate { source: self.source.clone(), name, values: Some(values) })
            }
            Good::Endpoints(assignment) => {
                Update::Endpoints(EndpointUpdate { cluster: name, instance: one.instance, assignment })
            }
            Good::Routes(resources, wire) => {
                let source = self.source.clone();
                Update::Routes(RoutesUpdate { source, name, resources, version: version.into(), wire })
            }
            Good::Secret => Update::Secret((self.source.clone(), name)),
            Good::Same
            | Good::Cluster(_)
            | Good::Listener(_)
            | Good::Scope(_)
            | Good::VirtualHost(_)
            | Good::Filter(_) => return None,
        })
    }

    /// Hands on what belongs together. Nobody hears it once the process is about to end.
    async fn tell(&self, updates: Updates) {
        if !updates.is_empty() {
            let _ = self.updates.send(updates).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        // Nothing under the lock can leave the lists half changed.
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<Arc<Subscriber>> {
        let lists = self.lock();
        Kind::ALL.into_iter().flat_map(|kind| lists.of_kind(kind)).collect()
    }

    /// Those of a type: of others there may be thousands.
    fn of_kind(&self, kind: Kind) -> Vec<Arc<Subscriber>> {
        self.lock().of_kind(kind)
    }

    fn of_resource(&self, kind: Kind, name: &str) -> Vec<Arc<Subscriber>> {
        let lists = self.lock();
        match kind {
            Kind::Runtime => lists.runtime.get(name).into_iter().cloned().collect(),
            Kind::Clusters => lists.clusters.iter().cloned().collect(),
            Kind::Listeners => lists.listeners.iter().cloned().collect(),
            Kind::Endpoints => {
                lists.endpoints.get(name).map_or_else(Vec::new, |endpoints| endpoints.askers.to_vec())
            }
            Kind::Secrets => lists.secrets.get(name).map(|used| Arc::clone(&used.one)).into_iter().collect(),
            Kind::Scopes => lists.scopes.iter().map(|used| Arc::clone(&used.one)).collect(),
            Kind::Routes => lists.routes.get(name).map(|table| Arc::clone(&table.one)).into_iter().collect(),
            Kind::VirtualHosts => {
                let table = lists.hosts.get(table_of(name));
                table.map(|table| Arc::clone(&table.one)).into_iter().collect()
            }
            Kind::Filters => {
                lists.filters.get(name).map(|filter| Arc::clone(&filter.one)).into_iter().collect()
            }
        }
    }
}

/// What the gauge `version` shows of a version: it tells versions apart, no more.
fn version_number(version: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(version.as_bytes());
    hasher.finish()
}
