//! All scopes of the process, on the control side.
//!
//! Whoever compiles configuration asks for a scope by its tags and puts the handle next to the compiled resource;
//! asking again for the same tags gives the same scope, so counters survive an update. Nobody removes a scope:
//! the registry forgets it at the next `sweep` after its last handle and its last cells are gone.
use super::family::ViewKind;
use super::metrics::{Cells, Scope, Slot};
use super::names::{
    ClusterStat, ConnectionLimitStat, EcdsStat, HttpStat, Kind, ListenerStat, LocalRateLimitStat,
    ProxyProtocolStat, RbacStat, RdsStat, ScopedRdsStat, SdsStat, ServerStat, Stats, TcpStat, VhdsStat,
};
use super::plain::{Plain, PlainKind};
use super::view::{Interval, RbacRows, Source, Totals, View};
use crate::base::packed;
use crate::config::told_filter::FilterKind;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The scopes. Shared by the control thread, the thread that compiles configuration, and tests; never touched by
/// a worker on the path, which holds its own cells.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    server: Arc<Scope<ServerStat>>,
    scopes: Mutex<Scopes>,
}

impl Registry {
    /// A registry for this many workers.
    pub fn new(workers: usize) -> Self {
        Self { workers, server: Arc::new(Scope::new(workers)), scopes: Mutex::default() }
    }

    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The process's own metrics, for one writer.
    pub fn server(&self, slot: Slot) -> Cells<ServerStat> {
        self.server.cells(slot)
    }

    /// The listener bound to `address`, or named so by its `stat_prefix`. Characters that Envoy replaces in
    /// names are replaced here as well.
    pub fn listener(&self, address: &str) -> Arc<Scope<ListenerStat>> {
        let tag = sanitized(address);
        let mut scopes = self.lock();
        Arc::clone(scopes.listeners.entry(tag).or_insert_with(|| self.scope()))
    }

    /// A connection manager, by its `stat_prefix` and the address of its listener. `http.<stat_prefix>` is the
    /// sum over listeners, so several managers may share a prefix.
    pub fn http(&self, stat_prefix: &str, listener_address: &str) -> Arc<Scope<HttpStat>> {
        let tags = (sanitized(stat_prefix), sanitized(listener_address));
        let mut scopes = self.lock();
        Arc::clone(scopes.https.entry(tags).or_insert_with(|| self.scope()))
    }

    /// A cluster by its name, or `alt_stat_name`.
    pub fn cluster(&self, name: &str) -> Arc<Scope<ClusterStat>> {
        let tag = sanitized(name);
        let mut scopes = self.lock();
        let Scopes { clusters, clusters_added, .. } = &mut *scopes;
        let make = || {
            *clusters_added += 1;
            self.scope()
        };
        Arc::clone(clusters.entry(tag).or_insert_with(make))
    }

    /// TCP proxies of one `stat_prefix`.
    pub fn tcp(&self, stat_prefix: &str) -> Arc<Scope<TcpStat>> {
        let mut scopes = self.lock();
        let make = || Plain::Tcp(self.scope());
        match scopes.plain.entry((PlainKind::Tcp, sanitized(stat_prefix))).or_insert_with(make) {
            Plain::Tcp(scope) => Arc::clone(scope),
            _ => self.scope(),
        }
    }

    /// Connection limits of one `stat_prefix`.
    pub fn connection_limit(&self, stat_prefix: &str) -> Arc<Scope<ConnectionLimitStat>> {
        let mut scopes = self.lock();
        let make = || Plain::ConnectionLimit(self.scope());
        match scopes.plain.entry((PlainKind::ConnectionLimit, sanitized(stat_prefix))).or_insert_with(make) {
            Plain::ConnectionLimit(scope) => Arc::clone(scope),
            _ => self.scope(),
        }
    }

    /// Local rate limits of one `stat_prefix`.
    pub fn local_rate_limit(&self, stat_prefix: &str) -> Arc<Scope<LocalRateLimitStat>> {
        let mut scopes = self.lock();
        let make = || Plain::LocalRateLimit(self.scope());
        match scopes.plain.entry((PlainKind::LocalRateLimit, sanitized(stat_prefix))).or_insert_with(make) {
            Plain::LocalRateLimit(scope) => Arc::clone(scope),
            _ => self.scope(),
        }
    }

    /// Access by role: the rules of one part of a filter, or one policy of them. Filters of the same owner and prefix count
    /// together, and with equal prefixes both parts do. Policies show what was counted, as in Envoy.
    pub fn rbac(
        &self,
        owner: RbacOwner<'_>,
        part: RbacPart,
        rules_prefix: &str,
        policy: Option<&str>,
    ) -> Arc<Scope<RbacStat>> {
        let (kind, prefix, labels) = rbac_names(owner, rules_prefix, policy);
        let mut scopes = self.lock();
        let entry = scopes.rbacs.entry((kind, prefix)).or_insert_with(|| RbacScope {
            scope: self.scope(),
            rows: RbacRows::default(),
            labels,
        });
        let shown = match part {
            RbacPart::Enforced => &mut entry.rows.enforced,
            RbacPart::Shadow => &mut entry.rows.shadow,
        };
        *shown |= policy.is_none();
        Arc::clone(&entry.scope)
    }

    /// Listener filters for the PROXY protocol, by their `stat_prefix`, which may be empty.
    pub fn proxy_protocol(&self, stat_prefix: &str) -> Arc<Scope<ProxyProtocolStat>> {
        let tag = sanitized(stat_prefix);
        let mut scopes = self.lock();
        Arc::clone(scopes.proxy_protocols.entry(tag).or_insert_with(|| self.scope()))
    }

    /// A routing table that managers of this `stat_prefix` have from a control plane.
    pub fn rds(&self, stat_prefix: &str, table: &str) -> Arc<Scope<RdsStat>> {
        let tags = (sanitized(stat_prefix), sanitized(table));
        let mut scopes = self.lock();
        Arc::clone(scopes.tables.entry(tags).or_insert_with(|| self.scope()))
    }

    /// Virtual hosts that are told of it.
    pub fn vhds(&self, stat_prefix: &str, table: &str) -> Arc<Scope<VhdsStat>> {
        let tags = (sanitized(stat_prefix), sanitized(table));
        let mut scopes = self.lock();
        Arc::clone(scopes.hosts.entry(tags).or_insert_with(|| self.scope()))
    }

    /// Scopes that managers of this `stat_prefix` have from a control plane, by the name of their scoped routes.
    pub fn scoped_rds(&self, stat_prefix: &str, name: &str) -> Arc<Scope<ScopedRdsStat>> {
        let tags = (sanitized(stat_prefix), sanitized(name));
        let mut scopes = self.lock();
        Arc::clone(scopes.told_scopes.entry(tags).or_insert_with(|| self.scope()))
    }

    /// A secret of that name, wherever it is told.
    pub fn sds(&self, name: &str) -> Arc<Scope<SdsStat>> {
        let tag = sanitized(name);
        let mut scopes = self.lock();
        Arc::clone(scopes.secrets.entry(tag).or_insert_with(|| self.scope()))
    }

    /// A filter of that kind and name, wherever it is told.
    pub fn ecds(&self, kind: FilterKind, name: &str) -> Arc<Scope<EcdsStat>> {
        let tag = (kind, sanitized(name));
        let mut scopes = self.lock();
        Arc::clone(scopes.filters.entry(tag).or_insert_with(|| self.scope()))
    }

    fn scope<S: Stats>(&self) -> Arc<Scope<S>> {
        Arc::new(Scope::new(self.workers))
    }

    /// Everything there is to show, sorted by prefix, the process last. Scopes without holders are forgotten.
    pub fn views(&self) -> Vec<View> {
        self.views_of(|_| true)
    }

    /// The same, of the clusters that are wanted.
    fn views_of(&self, is_wanted: impl Fn(&Scope<ClusterStat>) -> bool) -> Vec<View> {
        let mut scopes = self.lock();
        scopes.sweep();
        let mut views = scopes.views(is_wanted);
        views.push(scopes.view(
            ViewKind::Server,
            String::new(),
            Vec::new(),
            Source::Server(Arc::clone(&self.server)),
        ));
        views
    }

    /// Connections of clients that are open, of all listeners and whatever they carry.
    pub fn connections(&self) -> u64 {
        let active = ListenerStat::DownstreamCxActive.index();
        self.lock().listeners.values().map(|scope| scope.value(active).0).sum()
    }

    /// Sets all counters to zero, as far as anybody can see: writers' cells are left alone, what they had counted
    /// is subtracted from now on. Gauges and histograms stay, as in Envoy.
    pub fn reset_counters(&self) {
        let bases = self.views().into_iter().map(|view| (view.key(), Arc::new(view.totals()))).collect();
        self.lock().bases = bases;
    }

    /// Ends an interval of the histograms. Called every flush interval.
    pub fn flush(&self) {
        let mut history = BTreeMap::new();
        // A control plane may have told tens of thousands that nobody asks.
        let has_inherited = !self.lock().inherited.is_empty();
        for view in self.views_of(|scope| has_inherited || scope.has_cells()) {
            let before = |index| view.history.as_ref().and_then(|history| history.get(index));
            let intervals = (0..view.histogram_count()).map(|index| {
                let flushed = view.histogram(index);
                let gathered =
                    before(index).map_or_else(|| flushed.clone(), |before| flushed.since(&before.flushed));
                Interval { flushed, gathered }
            });
            let intervals: Vec<_> = intervals.collect();
            if intervals.iter().any(|interval| !interval.flushed.is_empty()) {
                history.insert(view.key(), Arc::new(intervals));
            }
        }
        self.lock().history = history;
    }

    /// Keeps what scopes had in the process before this one, as far as they are here too.
    pub(super) fn put_inherited(&self, given: impl Iterator<Item = (ViewKey, Arc<Totals>)>) {
        let keys: BTreeSet<_> = self.views().iter().map(View::key).collect();
        self.lock().inherited.extend(given.filter(|(key, _)| keys.contains(key)));
    }

    /// Changes what was inherited.
    pub(super) fn map_inherited(&self, change: impl Fn(ViewKind, &mut Totals)) {
        for ((kind, _), totals) in &mut self.lock().inherited {
            change(*kind, Arc::make_mut(totals));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Scopes> {
        // Nothing under the lock can leave the maps half changed.
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose rules of access by role are counted.
#[derive(Clone, Copy, Debug)]
pub enum RbacOwner<'a> {
    /// A connection manager, by its `stat_prefix`.
    Http(&'a str),
    /// A network filter, by its `stat_prefix`.
    Network(&'a str),
    /// An HTTP filter that is told, by its name.
    Told(&'a str),
}

/// Which rules of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RbacPart {
    Enforced,
    Shadow,
}

type Labels = Vec<(&'static str, Box<str>, usize)>;

/// The kind of a scope of access by role, its prefix and its labels. Source: Envoy's `generateStats`.
fn rbac_names(owner: RbacOwner<'_>, rules_prefix: &str, policy: Option<&str>) -> (ViewKind, String, Labels) {
    let mut prefix = String::new();
    let mut labels = Labels::new();
    let mut add = |prefix: &mut String, label, value: Box<str>| {
        labels.push((label, value.clone(), prefix.len()));
        prefix.push_str(&value);
        prefix.push('.');
    };
    let rules_label = match owner {
        RbacOwner::Http(stat_prefix) => {
            prefix.push_str(HTTP_PREFIX);
            add(&mut prefix, "envoy_http_conn_manager_prefix", sanitized(stat_prefix));
            "envoy_rbac_http_prefix"
        }
        RbacOwner::Network(stat_prefix) => {
            let stat_prefix = stat_prefix.strip_suffix('.').unwrap_or(stat_prefix);
            add(&mut prefix, "envoy_rbac_prefix", sanitized(stat_prefix));
            // Ours: in Envoy it is a part of the metric's name.
            "envoy_rbac_shadow_prefix"
        }
        RbacOwner::Told(name) => {
            prefix.push_str(ecds_prefix(FilterKind::Http));
            add(&mut prefix, "envoy_xds_resource_name", sanitized(name));
            "envoy_rbac_http_prefix"
        }
    };
    prefix.push_str("rbac.");
    let rules_prefix = rules_prefix.strip_suffix('.').unwrap_or(rules_prefix);
    if !rules_prefix.is_empty() {
        add(&mut prefix, rules_label, sanitized(rules_prefix));
    }
    if let Some(policy) = policy {
        prefix.push_str("policy.");
        add(&mut prefix, "envoy_rbac_policy_name", policy.into());
    }
    labels.reverse();
    let kind = match (owner, policy) {
        (RbacOwner::Http(_), None) => ViewKind::HttpRbac,
        (RbacOwner::Http(_), Some(_)) => ViewKind::HttpRbacPolicy,
        (RbacOwner::Network(_), _) => ViewKind::Rbac,
        (RbacOwner::Told(_), None) => ViewKind::ToldRbac,
        (RbacOwner::Told(_), Some(_)) => ViewKind::ToldRbacPolicy,
    };
    (kind, prefix, labels)
}

#[derive(Debug)]
struct RbacScope {
    scope: Arc<Scope<RbacStat>>,
    rows: RbacRows,
    labels: Labels,
}

/// What the full names of a kind's metrics begin with.
const CLUSTER_PREFIX: &str = "cluster.";
const HTTP_PREFIX: &str = "http.";
const RDS_INFIX: &str = ".rds.";
const VHDS_INFIX: &str = ".vhds.";
const SCOPED_RDS_INFIX: &str = ".scoped_rds.";
const PROXY_PROTOCOL_PREFIX: &str = "proxy_proto.";
const LISTENER_PREFIX: &str = "listener.";
const SDS_PREFIX: &str = "sds.";

fn cluster_prefix(name: &str) -> String {
    format!("{CLUSTER_PREFIX}{name}.")
}

fn ecds_prefix(kind: FilterKind) -> &'static str {
    match kind {
        FilterKind::Http => "extension_config_discovery.http_filter.",
        FilterKind::Network => "extension_config_discovery.network_filter.",
        FilterKind::Listener => "extension_config_discovery.tcp_listener_filter.",
    }
}

type HttpTags = (Box<str>, Box<str>);
pub(super) type ViewKey = (ViewKind, String);
const SERVER_KEY: ViewKey = (ViewKind::Server, String::new());

#[derive(Debug, Default)]
struct Scopes {
    listeners: BTreeMap<Box<str>, Arc<Scope<ListenerStat>>>,
    /// By stat prefix and listener.
    https: BTreeMap<HttpTags, Arc<Scope<HttpStat>>>,
    clusters: BTreeMap<Box<str>, Arc<Scope<ClusterStat>>>,
    /// How many of them have come since the last sweep.
    clusters_added: usize,
    /// Those of network filters, by kind and stat prefix.
    plain: BTreeMap<(PlainKind, Box<str>), Plain>,
    rbacs: BTreeMap<ViewKey, RbacScope>,
    proxy_protocols: BTreeMap<Box<str>, Arc<Scope<ProxyProtocolStat>>>,
    /// Routing tables from a control plane, by stat prefix and name.
    tables: BTreeMap<HttpTags, Arc<Scope<RdsStat>>>,
    /// Virtual hosts that are told of one, likewise.
    hosts: BTreeMap<HttpTags, Arc<Scope<VhdsStat>>>,
    /// Scopes of routes from a control plane, by stat prefix and name.
    told_scopes: BTreeMap<HttpTags, Arc<Scope<ScopedRdsStat>>>,
    secrets: BTreeMap<Box<str>, Arc<Scope<SdsStat>>>,
    /// Filters that are told, by kind and name.
    filters: BTreeMap<(FilterKind, Box<str>), Arc<Scope<EcdsStat>>>,
    /// What managers that are gone had counted, while others with their prefix remain.
    retired: BTreeMap<Box<str>, Arc<Totals>>,
    /// Counters at the last reset.
    bases: BTreeMap<ViewKey, Arc<Totals>>,
    /// What the process before this one had counted, after a hot restart.
    inherited: BTreeMap<ViewKey, Arc<Totals>>,
    history: BTreeMap<ViewKey, Arc<Vec<Interval>>>,
    /// How many views have been made of them.
    #[cfg(test)]
    viewed: std::cell::Cell<usize>,
}

impl Scopes {
    /// Forgets scopes that nobody holds. A cluster or listener takes its metrics along; a connection manager
    /// leaves its counts to the others of its prefix, so that the sum never shrinks.
    #[expect(clippy::needless_collect, reason = "removing borrows the map")]
    fn sweep(&mut self) {
        let mut clusters_gone = Vec::new();
        self.clusters.retain(|name, scope| {
            let is_held = scope.is_held();
            if !is_held {
                clusters_gone.push((ViewKind::Cluster, cluster_prefix(name)));
            }
            is_held
        });
        packed::pack(&mut self.clusters, std::mem::take(&mut self.clusters_added));
        let before = self.others();
        self.listeners.retain(|_, scope| scope.is_held());
        self.plain.retain(|_, scope| scope.is_held());
        self.rbacs.retain(|_, entry| entry.scope.is_held());
        self.proxy_protocols.retain(|_, scope| scope.is_held());
        self.tables.retain(|_, scope| scope.is_held());
        self.hosts.retain(|_, scope| scope.is_held());
        self.told_scopes.retain(|_, scope| scope.is_held());
        self.secrets.retain(|_, scope| scope.is_held());
        self.filters.retain(|_, scope| scope.is_held());
        let gone = self.https.iter().filter(|(_, scope)| !scope.is_held()).map(|(tags, _)| tags.clone());
        let gone: Vec<_> = gone.collect();
        let gone: Vec<_> = gone.into_iter().filter_map(|tags| self.https.remove_entry(&tags)).collect();
        for ((prefix, _), scope) in gone {
            let before = self.retired.remove(&prefix);
            if self
                .https
                .range((prefix.clone(), Box::default())..)
                .next()
                .is_some_and(|(tags, _)| tags.0 == prefix)
            {
                let view =
                    self.view(ViewKind::Http, String::new(), Vec::new(), Source::Http(vec![scope], before));
                let mut totals = view.totals();
                for (value, row) in totals.values.iter_mut().zip(HttpStat::ROWS) {
                    // Its connections are gone with it.
                    if row.kind == Kind::Gauge {
                        *value = 0;
                    }
                }
                self.retired.insert(prefix, Arc::new(totals));
            }
        }
        // A later scope of the same name begins anew.
        for key in &clusters_gone {
            self.bases.remove(key);
            self.inherited.remove(key);
            self.history.remove(key);
        }
        if before > self.others() {
            let keys: BTreeSet<_> = self.views(|_| false).iter().map(View::key).chain([SERVER_KEY]).collect();
            // Of clusters there may be tens of thousands.
            let stays = |key: &ViewKey| key.0 == ViewKind::Cluster || keys.contains(key);
            self.bases.retain(|key, _| stays(key));
            self.inherited.retain(|key, _| stays(key));
            self.history.retain(|key, _| stays(key));
        }
    }

    /// How many scopes there are beside those of clusters.
    fn others(&self) -> usize {
        self.listeners.len()
            + self.https.len()
            + self.plain.len()
            + self.rbacs.len()
            + self.proxy_protocols.len()
            + self.tables.len()
            + self.hosts.len()
            + self.told_scopes.len()
            + self.secrets.len()
            + self.filters.len()
    }

    /// Of clusters those that are wanted.
    fn views(&self, is_wanted: impl Fn(&Scope<ClusterStat>) -> bool) -> Vec<View> {
        let mut views = Vec::new();
        for (name, scope) in self.clusters.iter().filter(|(_, scope)| is_wanted(scope)) {
            let labels = vec![("envoy_cluster_name", name.clone(), CLUSTER_PREFIX.len())];
            let source = Source::Cluster(Arc::clone(scope));
            views.push(self.view(ViewKind::Cluster, cluster_prefix(name), labels, source));
        }
        let https: Vec<_> = self.https.iter().collect();
        for managers in https.chunk_by(|(a, _), (b, _)| a.0 == b.0) {
            let prefix = &managers[0].0.0;
            let labels = vec![("envoy_http_conn_manager_prefix", prefix.clone(), HTTP_PREFIX.len())];
            let scopes = managers.iter().map(|(_, scope)| Arc::clone(scope)).collect();
            let source = Source::Http(scopes, self.retired.get(prefix).cloned());
            views.push(self.view(ViewKind::Http, format!("http.{prefix}."), labels, source));
        }
        for ((prefix, table), scope) in &self.tables {
            let below = HTTP_PREFIX.len() + prefix.len() + RDS_INFIX.len();
            let labels = vec![
                ("envoy_http_conn_manager_prefix", prefix.clone(), HTTP_PREFIX.len()),
                ("envoy_rds_route_config", table.clone(), below),
            ];
            let text = format!("{HTTP_PREFIX}{prefix}{RDS_INFIX}{table}.");
            views.push(self.view(ViewKind::HttpRds, text, labels, Source::Rds(Arc::clone(scope))));
        }
        for ((prefix, table), scope) in &self.hosts {
            let below = HTTP_PREFIX.len() + prefix.len() + VHDS_INFIX.len();
            let labels = vec![
                ("envoy_http_conn_manager_prefix", prefix.clone(), HTTP_PREFIX.len()),
                // Ours: in Envoy it is a part of the metric's name.
                ("envoy_vhds_route_config", table.clone(), below),
            ];
            let text = format!("{HTTP_PREFIX}{prefix}{VHDS_INFIX}{table}.");
            views.push(self.view(ViewKind::HttpVhds, text, labels, Source::Vhds(Arc::clone(scope))));
        }
        for ((prefix, name), scope) in &self.told_scopes {
            let below = HTTP_PREFIX.len() + prefix.len() + SCOPED_RDS_INFIX.len();
            let labels = vec![
                ("envoy_http_conn_manager_prefix", prefix.clone(), HTTP_PREFIX.len()),
                ("envoy_scoped_rds_config", name.clone(), below),
            ];
            let text = format!("{HTTP_PREFIX}{prefix}{SCOPED_RDS_INFIX}{name}.");
            let source = Source::ScopedRds(Arc::clone(scope));
            views.push(self.view(ViewKind::HttpScopedRds, text, labels, source));
        }
        for (address, scope) in &self.listeners {
            let labels = vec![("envoy_listener_address", address.clone(), LISTENER_PREFIX.len())];
            let source = Source::Listener(Arc::clone(scope));
            views.push(self.view(ViewKind::Listener, format!("listener.{address}."), labels, source));
        }
        for (prefix, scope) in &self.proxy_protocols {
            let source = Source::ProxyProtocol(Arc::clone(scope));
            let (text, labels) = if prefix.is_empty() {
                (PROXY_PROTOCOL_PREFIX.to_owned(), Vec::new())
            } else {
                let label = ("envoy_proxy_protocol_prefix", prefix.clone(), PROXY_PROTOCOL_PREFIX.len());
                (format!("{PROXY_PROTOCOL_PREFIX}{prefix}."), vec![label])
            };
            views.push(self.view(ViewKind::ProxyProtocol, text, labels, source));
        }
        for (name, scope) in &self.secrets {
            let labels = vec![("envoy_xds_resource_name", name.clone(), SDS_PREFIX.len())];
            let source = Source::Sds(Arc::clone(scope));
            views.push(self.view(ViewKind::Sds, format!("{SDS_PREFIX}{name}."), labels, source));
        }
        for ((kind, name), scope) in &self.filters {
            let prefix = ecds_prefix(*kind);
            let labels = vec![("envoy_xds_resource_name", name.clone(), prefix.len())];
            let source = Source::Ecds(Arc::clone(scope));
            views.push(self.view(ViewKind::Ecds(*kind), format!("{prefix}{name}."), labels, source));
        }
        for ((prefix, address), scope) in &self.https {
            let below = LISTENER_PREFIX.len() + address.len() + ".".len() + HTTP_PREFIX.len();
            let labels = vec![
                ("envoy_http_conn_manager_prefix", prefix.clone(), below),
                ("envoy_listener_address", address.clone(), LISTENER_PREFIX.len()),
            ];
            let source = Source::Http(vec![Arc::clone(scope)], None);
            views.push(self.view(
                ViewKind::ListenerHttp,
                format!("listener.{address}.http.{prefix}."),
                labels,
                source,
            ));
        }
        for ((kind, tag), scope) in &self.plain {
            let labels = vec![(kind.label(), tag.clone(), kind.prefix().len())];
            let prefix = format!("{}{tag}.", kind.prefix());
            views.push(self.view((*kind).into(), prefix, labels, Source::Plain(scope.clone())));
        }
        for ((kind, prefix), entry) in &self.rbacs {
            let source = Source::Rbac(Arc::clone(&entry.scope), entry.rows);
            views.push(self.view(*kind, prefix.clone(), entry.labels.clone(), source));
        }
        views.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        views
    }

    fn view(&self, kind: ViewKind, prefix: String, labels: Labels, source: Source) -> View {
        #[cfg(test)]
        self.viewed.set(self.viewed.get() + 1);
        let mut view = View { kind, prefix, labels, source, base: None, inherited: None, history: None };
        let key = view.key();
        view.base = self.bases.get(&key).cloned();
        view.inherited = self.inherited.get(&key).cloned();
        view.history = self.history.get(&key).cloned();
        view
    }
}

impl View {
    fn key(&self) -> ViewKey {
        (self.kind, self.prefix.clone())
    }
}

/// A tag as Envoy writes it into a name: `://`, `:/`, `:` and NUL become `_`.
fn sanitized(tag: &str) -> Box<str> {
    if !tag.contains([':', '\0']) {
        return tag.into();
    }
    tag.replace("://", "_").replace(":/", "_").replace([':', '\0'], "_").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::ClusterCells;
    use crate::telemetry::codes::Origin;
    use crate::telemetry::names::HttpHistogram;
    use crate::telemetry::view::Histograms;

    #[test]
    fn scope_asked_for_twice_is_the_same() {
        let registry = Registry::new(2);
        let first = registry.cluster("a");
        assert!(Arc::ptr_eq(&first, &registry.cluster("a")));
        assert!(!Arc::ptr_eq(&first, &registry.cluster("b")));
        assert!(!Arc::ptr_eq(&registry.http("p", "x"), &registry.http("p", "y")));
    }

    #[test]
    fn tag_with_colons_is_written_as_envoy_does() {
        assert_eq!(&*sanitized("[::1]:80"), "[__1]_80");
        assert_eq!(&*sanitized("http://a:1/b"), "http_a_1/b");
    }

    /// The value of a counter or gauge as `/stats` names it.
    fn value(registry: &Registry, name: &str) -> Option<u64> {
        let mut found = None;
        for view in registry.views() {
            for family in view.kind.families(registry.workers()) {
                view.points(&family, |point| {
                    if view.name(&family, point.code) == name {
                        assert!(found.replace(point.value).is_none(), "{name} is there twice");
                    }
                });
            }
        }
        found
    }

    fn histograms(registry: &Registry, name: &str) -> Histograms {
        let views = registry.views();
        let find = |view: &View| {
            let families = view.kind.families(2).into_iter();
            let found = families.filter(|family| view.name(family, None) == name).collect::<Vec<_>>();
            found.first().map(|family| view.histograms(family))
        };
        views.iter().find_map(find).unwrap()
    }

    #[test]
    fn managers_of_one_prefix_add_up_and_stay_apart_below_their_listeners() {
        let registry = Registry::new(1);
        let managers = ["l1", "l2"].map(|listener| registry.http("p", listener));
        for (manager, times) in managers.iter().zip([1, 2]) {
            let cells = manager.cells(Slot::Worker(0));
            (0..times).for_each(|_| cells.downstream_response(200));
        }
        assert_eq!(value(&registry, "http.p.downstream_rq_2xx"), Some(3));
        assert_eq!(value(&registry, "listener.l1.http.p.downstream_rq_2xx"), Some(1));
        assert_eq!(value(&registry, "listener.l2.http.p.downstream_rq_completed"), Some(2));
        assert_eq!(value(&registry, "listener.l2.http.p.downstream_cx_total"), None);
    }

    #[test]
    fn scope_without_holders_is_forgotten_and_the_sum_of_its_prefix_does_not_shrink() {
        let registry = Registry::new(1);
        let stays = registry.http("p", "l1");
        let goes = registry.http("p", "l2");
        let cells = goes.cells(Slot::Worker(0));
        cells.downstream_response(200);
        cells.gauge_inc(HttpStat::DownstreamCxActive);
        cells.record(HttpHistogram::DownstreamRqTime, 5);
        drop(goes);
        assert_eq!(
            value(&registry, "listener.l2.http.p.downstream_rq_2xx"),
            Some(1),
            "a worker still has cells"
        );
        drop(cells);
        assert_eq!(value(&registry, "listener.l2.http.p.downstream_rq_2xx"), None);
        assert_eq!(value(&registry, "http.p.downstream_rq_2xx"), Some(1));
        assert_eq!(value(&registry, "http.p.downstream_cx_active"), Some(0));
        assert_eq!(histograms(&registry, "http.p.downstream_rq_time").cumulative.count(), 1);
        drop(stays);
        assert_eq!(value(&registry, "http.p.downstream_rq_2xx"), None);
        let again = registry.http("p", "l1");
        assert_eq!(value(&registry, "http.p.downstream_rq_2xx"), Some(0));
        drop(again);
    }

    #[test]
    fn connections_are_those_of_all_listeners() {
        let registry = Registry::new(1);
        let cells = ["l1", "l2"].map(|address| registry.listener(address).cells(Slot::Worker(0)));
        cells.iter().for_each(|cells| cells.gauge_inc(ListenerStat::DownstreamCxActive));
        assert_eq!(registry.connections(), 2);
        cells[0].gauge_dec(ListenerStat::DownstreamCxActive);
        assert_eq!(registry.connections(), 1);
    }

    #[test]
    fn reset_counters_leaves_gauges_and_histograms() {
        let registry = Registry::new(1);
        let cluster = registry.cluster("c");
        let cells = cluster.cells(Slot::Worker(0));
        let count = |cells: &ClusterCells| {
            cells.inc(ClusterStat::UpstreamCxTotal);
            cells.gauge_inc(ClusterStat::UpstreamCxActive);
            cells.upstream_response(Origin::External, 200);
            cells.upstream_rq_time(Origin::External, 7);
        };
        count(&cells);
        registry.reset_counters();
        assert_eq!(value(&registry, "cluster.c.upstream_cx_total"), Some(0));
        assert_eq!(value(&registry, "cluster.c.upstream_rq_200"), Some(0));
        assert_eq!(value(&registry, "cluster.c.upstream_cx_active"), Some(1));
        count(&cells);
        for (name, expected) in [
            ("upstream_cx_total", 1),
            ("upstream_rq_200", 1),
            ("upstream_rq_2xx", 1),
            ("upstream_rq_completed", 1),
            ("external.upstream_rq_200", 1),
            ("external.upstream_rq_completed", 1),
            ("upstream_cx_active", 2),
        ] {
            assert_eq!(value(&registry, &format!("cluster.c.{name}")), Some(expected), "{name}");
        }
        assert_eq!(value(&registry, "cluster.c.internal.upstream_rq_completed"), None);
        assert_eq!(histograms(&registry, "cluster.c.upstream_rq_time").cumulative.count(), 2);
        drop((cells, cluster));
        assert_eq!(value(&registry, "cluster.c.upstream_cx_total"), None);
        let again = registry.cluster("c");
        again.cells(Slot::Worker(0)).inc(ClusterStat::UpstreamCxTotal);
        assert_eq!(
            value(&registry, "cluster.c.upstream_cx_total"),
            Some(1),
            "the reset is forgotten with the scope"
        );
    }

    /// A control plane may tell tens of thousands of clusters and take one away at a time.
    #[test]
    fn scope_that_goes_has_no_cluster_named_that_stays() {
        let registry = Registry::new(1);
        let mut clusters: Vec<_> = (0..50).map(|number| registry.cluster(&format!("c{number}"))).collect();
        let listeners = ["l1", "l2"].map(|listener| registry.listener(listener));
        clusters.iter().for_each(|cluster| cluster.cells(Slot::Worker(0)).inc(ClusterStat::UpstreamCxTotal));
        registry.reset_counters();
        let swept = || {
            let mut scopes = registry.lock();
            let before = scopes.viewed.get();
            scopes.sweep();
            scopes.viewed.get() - before
        };
        assert_eq!(swept(), 0, "nothing has gone");
        clusters.remove(7);
        assert_eq!(swept(), 0);
        let [stays, goes] = listeners;
        drop(goes);
        assert_eq!(swept(), 1, "the other listener");
        let again = registry.cluster("c7");
        again.cells(Slot::Worker(0)).inc(ClusterStat::UpstreamCxTotal);
        let total = |name: &str| value(&registry, &format!("cluster.{name}.upstream_cx_total"));
        assert_eq!((total("c7"), total("c8")), (Some(1), Some(0)), "the reset of the others stays");
        drop((clusters, stays, again));
    }

    #[test]
    fn flush_separates_intervals_of_histograms() {
        let registry = Registry::new(1);
        let cluster = registry.cluster("c");
        let cells = cluster.cells(Slot::Worker(0));
        let counts = || {
            let both = histograms(&registry, "cluster.c.upstream_rq_time");
            (both.cumulative.count(), both.interval.count())
        };
        cells.upstream_rq_time(Origin::External, 1);
        assert_eq!(counts(), (1, 0));
        registry.flush();
        assert_eq!(counts(), (1, 1));
        cells.upstream_rq_time(Origin::Internal, 1);
        cells.upstream_rq_time(Origin::Internal, 2);
        registry.flush();
        assert_eq!(counts(), (3, 2));
        registry.flush();
        assert_eq!(counts(), (3, 0));
    }

    #[test]
    fn access_by_role_is_named_as_envoy_does_and_policies_show_once_counted() {
        let registry = Registry::new(1);
        let http = RbacOwner::Http("p");
        let enforced = registry.rbac(http, RbacPart::Enforced, "main", None);
        let shadow = registry.rbac(http, RbacPart::Shadow, "shadow.", None);
        let policy = registry.rbac(http, RbacPart::Enforced, "main", Some("a.b:c"));
        let network = registry.rbac(RbacOwner::Network("net."), RbacPart::Enforced, "", None);
        assert!(Arc::ptr_eq(&enforced, &registry.rbac(http, RbacPart::Enforced, "main.", None)));
        enforced.cells(Slot::Worker(0)).inc(RbacStat::Allowed);
        for (name, expected) in [
            ("http.p.rbac.main.allowed", Some(1)),
            ("http.p.rbac.main.denied", Some(0)),
            ("http.p.rbac.main.shadow_denied", None),
            ("http.p.rbac.shadow.shadow_allowed", Some(0)),
            ("http.p.rbac.shadow.allowed", None),
            ("http.p.rbac.main.policy.a.b:c.allowed", None),
            ("net.rbac.allowed", Some(0)),
            ("net.rbac.shadow_allowed", None),
        ] {
            assert_eq!(value(&registry, name), expected, "{name}");
        }
        policy.cells(Slot::Worker(0)).inc(RbacStat::Denied);
        assert_eq!(value(&registry, "http.p.rbac.main.policy.a.b:c.denied"), Some(1));
        assert_eq!(value(&registry, "http.p.rbac.main.policy.a.b:c.allowed"), None);
        let view = registry.views().into_iter().find(|view| view.kind == ViewKind::HttpRbacPolicy).unwrap();
        let named: Vec<_> = view.labels.iter().map(|(_, value, start)| (&**value, *start)).collect();
        assert_eq!(named, [("a.b:c", 24), ("main", 12), ("p", 5)]);
        drop((enforced, shadow, policy, network));
        assert_eq!(value(&registry, "http.p.rbac.main.allowed"), None);
    }

    #[test]
    fn listener_shows_the_part_of_each_worker() {
        let registry = Registry::new(2);
        let listener = registry.listener("127.0.0.1:80");
        listener.cells(Slot::Worker(1)).add(ListenerStat::DownstreamCxTotal, 4);
        listener.cells(Slot::Worker(0)).inc(ListenerStat::DownstreamCxTotal);
        assert_eq!(value(&registry, "listener.127.0.0.1_80.downstream_cx_total"), Some(5));
        assert_eq!(value(&registry, "listener.127.0.0.1_80.worker_1.downstream_cx_total"), Some(4));
    }
}
