//! What of a response is used: each resource by itself. The good ones go on; each bad one is named with its reason, and
//! what was good of it before stays.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;

use super::clusters::ClusterJudge;
use super::compiler::SharedCompiler;
use super::filters::FilterJudge;
use super::listeners::ListenerJudge;
use super::quarantine::Failed;
use super::scopes::{ScopeJudge, TakenScope};
use super::secrets::SecretJudge;
use super::status::{ClientStatus, Missing};
use super::tables::KnownTables;
use super::virtual_hosts::{ChangedTable, HostJudge, KnownHosts};
use super::wanted::Wanted;
use super::{
    CLUSTERS, ENDPOINTS, FILTERS, LISTENERS, ROUTES, RUNTIME, SCOPES, SECRETS, TakenCluster, TakenListener,
    VIRTUAL_HOSTS,
};
use crate::base::limits::{
    XDS_LACKING_SAID_MAX, XDS_NAME_BYTES_SHOWN_MAX, XDS_QUARANTINED_MAX, XDS_REASON_BYTES_MAX,
    XDS_REFUSAL_BYTES_MAX,
};
use crate::config::ads::ResourceSource;
use crate::config::error::{ConfigError, beginning};
use crate::config::route::RouteConfiguration;
use crate::control::discovery::Assignment;
use crate::control::xds::convert::{
    Class, Finding, Report, Runtime, RuntimeValues, convert_endpoints, convert_routes, convert_runtime,
};
use crate::control::xds::pb;
use crate::control::xds::schema::Message;
use crate::control::xds::validate::{self, Checked};
use crate::runtime::allocator;
use crate::snapshot::{RouteCompiler, RoutesResource};

/// `google.rpc.Code.INVALID_ARGUMENT`
const INVALID_ARGUMENT: i32 = 3;
/// `NOT_FOUND` and `PERMISSION_DENIED`: there is no such resource for whoever asks. With any other code it cannot be told for now.
/// Source: gRFC A88.
const OF_THE_RESOURCE: [i32; 2] = [5, 7];

/// The fields that this version lacks and of which a warning has told: each once, since a control plane may set it in thousands of resources.
static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The same of fields that the API does not have.
static SAID_UNKNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A type of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Runtime,
    Clusters,
    Endpoints,
    Listeners,
    Secrets,
    Scopes,
    Routes,
    VirtualHosts,
    Filters,
}

impl Kind {
    /// All types.
    pub(super) const ALL: [Self; 9] = [
        Self::Runtime,
        Self::Clusters,
        Self::Endpoints,
        Self::Listeners,
        Self::Secrets,
        Self::Scopes,
        Self::Routes,
        Self::Filters,
        Self::VirtualHosts,
    ];

    /// Those that are kept over the end of the process: all but secrets, which are never written to a disk.
    pub(super) const KEPT: [Self; 8] = [
        Self::Runtime,
        Self::Clusters,
        Self::Endpoints,
        Self::Listeners,
        Self::Scopes,
        Self::Routes,
        Self::VirtualHosts,
        Self::Filters,
    ];

    /// The methods of its own service: for the state of the world, and for delta.
    pub(super) fn methods(self) -> (&'static str, &'static str) {
        match self {
            Self::Runtime => (
                "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
                "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime",
            ),
            Self::Clusters => (
                "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
                "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
            ),
            Self::Endpoints => (
                "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
                "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
            ),
            Self::Listeners => (
                "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
                "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
            ),
            Self::Secrets => (
                "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
                "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
            ),
            Self::Scopes => (
                "/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes",
                "/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes",
            ),
            Self::Routes => (
                "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
                "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
            ),
            Self::VirtualHosts => (
                // It has none: they are told by delta alone, and nobody asks by this.
                "",
                "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts",
            ),
            Self::Filters => (
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs",
            ),
        }
    }

    /// Its URL.
    pub(super) fn type_url(self) -> &'static str {
        match self {
            Self::Runtime => RUNTIME,
            Self::Clusters => CLUSTERS,
            Self::Endpoints => ENDPOINTS,
            Self::Listeners => LISTENERS,
            Self::Secrets => SECRETS,
            Self::Scopes => SCOPES,
            Self::Routes => ROUTES,
            Self::VirtualHosts => VIRTUAL_HOSTS,
            Self::Filters => FILTERS,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Runtime => "runtime values",
            Self::Clusters => "clusters",
            Self::Endpoints => "endpoints",
            Self::Listeners => "listeners",
            Self::Secrets => "secrets",
            Self::Scopes => "scopes",
            Self::Routes => "routes",
            Self::VirtualHosts => "virtual hosts",
            Self::Filters => "filters",
        })
    }
}

/// Who says of a type's resources whether they can be used.
#[derive(Debug)]
pub(super) enum Judge {
    Runtime,
    Clusters(Box<ClusterJudge>),
    Endpoints,
    Listeners(Box<ListenerJudge>),
    Secrets(SecretJudge),
    Scopes(ScopeJudge),
    /// With the tables in use: a state of the world tells all of them again when one changes.
    Routes {
        compiler: SharedCompiler,
        source: ResourceSource,
        known: KnownTables,
        hosts: KnownHosts,
    },
    VirtualHosts(HostJudge),
    Filters(FilterJudge),
}

/// A resource that can be used.
#[derive(Clone, Debug)]
pub(super) enum Good {
    /// The values of a layer.
    Runtime(Arc<RuntimeValues>),
    Cluster(TakenCluster),
    Endpoints(Assignment),
    Listener(TakenListener),
    /// One that is among those known.
    Secret,
    Scope(TakenScope),
    /// A table, compiled for all that have asked for it, and its wire bytes.
    Routes(Arc<[RoutesResource]>, Arc<[u8]>),
    /// One that its table may have, as it was told.
    VirtualHost(Arc<[u8]>),
    /// A filter that the compiler has, as it was told.
    Filter(Arc<[u8]>),
    /// What is in use already.
    Same,
}

/// A response that was looked at and is to be answered.
#[derive(Debug)]
pub(super) struct Considered {
    /// What would change.
    pub(super) outcome: Outcome,
    /// The version that the control plane gives the response.
    pub(super) version: String,
    /// A hash of its content.
    pub(super) content: u64,
    /// Delta: what the answer refers to, and the names and versions of single resources, good or not.
    pub(super) nonce: String,
    pub(super) versions: Vec<(String, String)>,
    /// Times to live that resources were told with, good or not.
    pub(super) ttls: BTreeMap<String, Duration>,
}

/// What a response means, and its answer.
#[derive(Debug)]
pub(super) struct Taken<R> {
    /// Of which type it is.
    pub(super) kind: Kind,
    /// The ACK or NACK.
    pub(super) reply: R,
    /// What changes.
    pub(super) outcome: Outcome,
    /// The version that the control plane gives the response.
    pub(super) version: String,
    /// With a NACK: a hash of what was refused.
    pub(super) refused: Option<u64>,
}

/// What a response changes.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Resources to use from now on, by name.
    pub(super) good: BTreeMap<String, Good>,
    /// Resources that stay as they were, and why.
    pub(super) bad: BTreeMap<String, String>,
    /// Of those the first ones as they came, but for secrets, and for values of layers, which `/config_dump` does not have.
    pub(super) failed: BTreeMap<String, Failed>,
    /// Why parts without a name are no good.
    pub(super) nameless: Vec<String>,
    /// Names of which the control plane says that it has nothing.
    pub(super) absent: BTreeSet<String>,
    /// Names of which it says so, or that it cannot tell them, and that stay in use nevertheless.
    pub(super) kept: BTreeMap<String, Missing>,
    /// Tables that have other virtual hosts by it.
    pub(super) tables: Vec<ChangedTable>,
    /// Names that were asked for beside everything and that it answers, and by which resource; `None`: there is none.
    pub(super) answered: BTreeMap<String, Option<String>>,
    /// The good ones as they came, where they are kept.
    pub(super) accepted: Option<BTreeMap<String, Vec<u8>>>,
    /// How many fields stand in it that the API does not have and of which a warning has not told before.
    pub(super) unknown: u64,
    /// They were kept from before: no control plane has told them.
    pub(super) is_restored: bool,
}

impl Outcome {
    /// The reason of a NACK; `None`: everything is good.
    pub(super) fn error(&self) -> Option<pb::discovery::Status> {
        if self.bad.is_empty() && self.nameless.is_empty() {
            return None;
        }
        let mut message = String::new();
        // Each is far shorter than all of them may be: the first ones are always there.
        let named = self.bad.iter().map(|(name, reason)| {
            let name = beginning(name, XDS_NAME_BYTES_SHOWN_MAX);
            format!("{name}: {reason}")
        });
        let reasons: Vec<String> = named.chain(self.nameless.iter().cloned()).collect();
        for (index, reason) in reasons.iter().enumerate() {
            if message.len() + reason.len() > XDS_REFUSAL_BYTES_MAX {
                message.push_str(&format!("and {} more", reasons.len() - index));
                break;
            }
            message.push_str(reason);
            message.push('\n');
        }
        let message = message.trim_end().to_owned();
        Some(pb::discovery::Status { code: INVALID_ARGUMENT, message, details: Vec::new() })
    }

    /// Takes note of which of these names, if asked for beside everything, are answered, and by which resource.
    pub(super) fn note_answered<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a String>,
        by: Option<&String>,
        asked: &Wanted,
    ) {
        for name in names.into_iter().filter(|name| asked.adds(name)) {
            let answer = self.answered.entry(name.clone()).or_default();
            if answer.is_none() {
                *answer = by.cloned();
            }
        }
    }

    /// Whether nothing changes and nothing is wrong.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.good.is_empty() && self.bad.is_empty() && self.nameless.is_empty() && self.absent.is_empty()
    }

    /// Names of what goes out of use. Endpoints and tables of which the control plane has nothing do not.
    pub(super) fn gone(&self, kind: Kind) -> impl Iterator<Item = &String> {
        let stays = matches!(kind, Kind::Endpoints | Kind::Routes);
        self.absent.iter().filter(move |_| !stays)
    }

    /// Takes the resources of a response, each with what its envelope calls it; empty: nothing.
    pub(super) fn resources(
        &mut self,
        told: &[(String, pb::google::Any)],
        judge: &mut Judge,
        asked: &Wanted,
    ) {
        let twice = repeated(told, judge.type_url());
        for (name, any) in told {
            self.resource(name, any, &twice, judge, asked);
        }
    }

    /// Takes one of them. `twice`: names that stand more than once.
    fn resource(
        &mut self,
        name: &str,
        any: &pb::google::Any,
        twice: &BTreeSet<String>,
        judge: &mut Judge,
        asked: &Wanted,
    ) {
        let decoded = briefly(|| judge.decode(any));
        let own = decoded.as_ref().map_or("", Decoded::name);
        let key = if name.is_empty() { own } else { name }.to_owned();
        if key.is_empty() {
            let reason = decoded.err().unwrap_or_else(|| "its name must be set".to_owned());
            self.nameless.push(cut(format!("a resource without a name: {reason}")));
            return;
        }
        // A control plane may send more than was asked for.
        if !asked.contains(&key) {
            return;
        }
        // None of them is judged: judges take note of what they find good.
        if twice.contains(&key) {
            self.bad.insert(key, "stands more than once in the response".to_owned());
            return;
        }
        // As Envoy: a virtual host may call itself something else.
        let may_differ = judge.kind() == Kind::VirtualHosts;
        let judged = decoded.and_then(|decoded| {
            if may_differ || decoded.name() == key {
                judge.judge(decoded, any, &mut self.unknown)
            } else {
                Err(format!("calls itself {:?}", decoded.name()))
            }
        });
        match judged {
            Ok(good) => {
                if let Some(accepted) = &mut self.accepted {
                    accepted.insert(key.clone(), any.value.clone());
                }
                self.good.insert(key, good);
            }
            Err(reason) => {
                self.keep_failed(judge.kind(), &key, &any.value);
                self.bad.insert(key, cut(reason));
            }
        }
    }

    /// Refuses scopes that do not agree with each other or with those that stay, all of a response, which takes none away then.
    /// Comes once it is known what it takes away.
    pub(super) fn agree(&mut self, told: &[(String, pb::google::Any)], judge: &Judge) {
        let Judge::Scopes(judge) = judge else { return };
        let names: Vec<_> = told.iter().map(|(name, any)| called(name, any, SCOPES)).collect();
        let mut twice = repeated(told, SCOPES);
        // What cannot be read has no name.
        twice.remove("");
        let reason = match twice.first() {
            Some(name) => Some(format!("duplicate scoped route configuration '{name}' found")),
            None => judge.conflict(names.iter().map(String::as_str), &self.good, &self.absent),
        };
        let Some(reason) = reason else { return };
        let reason = format!("Error adding/updating scoped route(s): {reason}");
        self.absent.clear();
        for name in names {
            if twice.contains(&name) || matches!(self.good.get(&name), Some(Good::Scope(_))) {
                self.refuse(name, reason.clone());
            }
        }
    }

    /// A resource that seemed good cannot be used.
    pub(super) fn refuse(&mut self, name: String, reason: String) {
        match self.good.remove(&name) {
            Some(Good::Listener(taken)) => self.keep_failed(Kind::Listeners, &name, &taken.wire),
            Some(Good::Scope(taken)) => self.keep_failed(Kind::Scopes, &name, &taken.wire),
            Some(Good::VirtualHost(wire)) => self.keep_failed(Kind::VirtualHosts, &name, &wire),
            _ => {}
        }
        self.accepted.iter_mut().for_each(|accepted| drop(accepted.remove(&name)));
        self.bad.insert(name, cut(reason));
    }

    /// Refuses a resource for what its envelope says, before it is judged. `name`: what it is called there; empty: nothing.
    pub(super) fn refuse_untried(&mut self, name: String, reason: String, asked: &Wanted) {
        if name.is_empty() {
            self.nameless.push(format!("a resource without a name: {reason}"));
        } else if asked.contains(&name) {
            self.bad.insert(name, reason);
        }
    }

    /// A resource of that type was taken away.
    pub(super) fn remove(&mut self, name: String, kind: Kind) {
        if kind == Kind::Secrets {
            // As Envoy (issue 32961): whoever uses it goes away by itself. On the next stream it is asked for anew.
            self.kept.insert(name, Missing::new(ClientStatus::DoesNotExist));
        } else {
            self.absent.insert(name);
        }
    }

    /// Keeps what was refused to be shown: as many as can be listed.
    fn keep_failed(&mut self, kind: Kind, name: &str, wire: &[u8]) {
        let is_shown = !matches!(kind, Kind::Secrets | Kind::Runtime);
        if is_shown && self.failed.len() < XDS_QUARANTINED_MAX {
            self.failed.insert(name.to_owned(), Failed::of(wire));
        }
    }

    /// What the control plane says of resources of that type that it does not send.
    pub(super) fn errors(&mut self, kind: Kind, errors: Vec<pb::discovery::ResourceError>, asked: &Wanted) {
        for error in errors {
            let pb::discovery::ResourceError { resource_name, error_detail } = error;
            let name = resource_name.map(|name| name.name).unwrap_or_default();
            if asked.contains(&name) {
                let pb::discovery::Status { code, message: reason, .. } = error_detail.unwrap_or_default();
                log::warn!("xDS: the control plane does not send {name}: {reason}");
                let is_of_it = OF_THE_RESOURCE.contains(&code);
                let status = if is_of_it { ClientStatus::DoesNotExist } else { ClientStatus::ReceivedError };
                let missing = Missing { status, reason: cut(reason) };
                match kind {
                    // A layer has no values once it is gone, which this does not say; a filter that is used stays.
                    Kind::Runtime | Kind::Filters => drop(self.kept.insert(name, missing)),
                    // Where everything is asked for, what is gone is left out or removed.
                    _ if asked.is_all() => {}
                    _ if is_of_it => drop(self.absent.insert(name)),
                    _ => drop(self.kept.insert(name, missing)),
                }
            }
        }
    }
}

/// A reason as it is told and listed.
fn cut(mut reason: String) -> String {
    let end = beginning(&reason, XDS_REASON_BYTES_MAX).len();
    if end < reason.len() {
        reason.truncate(end);
        reason.push_str("...");
    }
    reason
}

/// Names that stand more than once among what was told of that type.
fn repeated(told: &[(String, pb::google::Any)], type_url: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let names = told.iter().map(|(name, any)| called(name, any, type_url));
    names.filter(|name| !seen.insert(name.clone())).collect()
}

/// What a resource of that type is called by its envelope, or calls itself; empty: nothing that can be read.
pub(super) fn called(name: &str, any: &pb::google::Any, type_url: &str) -> String {
    if name.is_empty() { own_name(any, type_url) } else { name.to_owned() }
}

/// What a resource of that type calls itself; empty: nothing that can be read.
fn own_name(any: &pb::google::Any, type_url: &str) -> String {
    if any.type_url != type_url {
        return String::new();
    }
    NameAlone::decode(&*any.value).map(|alone| alone.name).unwrap_or_default()
}

/// Of a resource of any type its name, which is the first field of all of them.
#[derive(Clone, PartialEq, prost::Message)]
struct NameAlone {
    #[prost(string, tag = "1")]
    name: String,
}

/// A resource as it came.
pub(super) enum Decoded {
    Runtime(pb::runtime::Runtime),
    Cluster(Box<pb::cluster::Cluster>),
    Endpoints(pb::endpoint::ClusterLoadAssignment),
    Listener(Box<pb::listener::Listener>),
    Secret(Box<pb::tls::Secret>),
    Scope(Box<pb::route::ScopedRouteConfiguration>),
    Routes(Box<pb::route::RouteConfiguration>),
    VirtualHost(Box<pb::route::VirtualHost>),
    Filter(pb::core::TypedExtensionConfig),
}

impl Decoded {
    fn name(&self) -> &str {
        match self {
            Self::Runtime(message) => &message.name,
            Self::Cluster(message) => &message.name,
            Self::Endpoints(message) => &message.cluster_name,
            Self::Listener(message) => &message.name,
            Self::Secret(message) => &message.name,
            Self::Scope(message) => &message.name,
            Self::Routes(message) => &message.name,
            Self::VirtualHost(message) => &message.name,
            Self::Filter(message) => &message.name,
        }
    }
}

impl Judge {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Runtime => Kind::Runtime,
            Self::Clusters(_) => Kind::Clusters,
            Self::Endpoints => Kind::Endpoints,
            Self::Listeners(_) => Kind::Listeners,
            Self::Secrets(_) => Kind::Secrets,
            Self::Scopes(_) => Kind::Scopes,
            Self::Routes { .. } => Kind::Routes,
            Self::VirtualHosts(_) => Kind::VirtualHosts,
            Self::Filters(_) => Kind::Filters,
        }
    }

    /// The type's URL.
    pub(super) fn type_url(&self) -> &'static str {
        self.kind().type_url()
    }

    /// Takes note of what is used from now on.
    pub(super) fn know(&mut self, outcome: &Outcome) {
        if let Self::Clusters(judge) = self {
            judge.took(outcome.good.values().filter(|good| matches!(good, Good::Cluster(_))).count());
        }
        for (name, good) in &outcome.good {
            match (&mut *self, good) {
                (Self::Listeners(judge), Good::Listener(taken)) => judge.know(name, taken),
                (Self::Scopes(judge), Good::Scope(taken)) => judge.know(name, taken),
                _ => {}
            }
        }
    }

    /// All of a response has been looked at, and what it says is gone has been lost: what only all of it can say.
    pub(super) fn settle(&mut self, outcome: &mut Outcome) {
        if let Self::VirtualHosts(judge) = self {
            judge.settle(outcome);
        }
    }

    /// A resource of that name is gone. A table stays in use until there is another: who asks for it later is given it, and when it
    /// is told again it is nothing new.
    pub(super) fn lose(&mut self, name: &str) {
        if !matches!(self, Self::Routes { .. }) {
            self.forget(name);
        }
    }

    /// Nobody asks for a resource of that name any more, or it is gone and of no use.
    pub(super) fn forget(&mut self, name: &str) {
        match self {
            Self::Clusters(judge) => judge.forget(name),
            Self::Listeners(judge) => judge.forget(name),
            Self::Secrets(judge) => judge.forget(name),
            Self::Scopes(judge) => judge.forget(name),
            Self::Filters(judge) => judge.forget(name),
            Self::VirtualHosts(judge) => judge.forget(name),
            Self::Routes { source, known, hosts, .. } => {
                if let Some(vhds) = known.forget(name) {
                    hosts.leave(&vhds.source, name, source);
                }
            }
            Self::Runtime | Self::Endpoints => {}
        }
    }

    fn decode(&self, any: &pb::google::Any) -> Result<Decoded, String> {
        if any.type_url != self.type_url() {
            return Err(format!("has the type {:?}, not {:?}", any.type_url, self.type_url()));
        }
        match self {
            Self::Runtime => pb::runtime::Runtime::decode(&*any.value).map(Decoded::Runtime),
            Self::Clusters(_) => {
                pb::cluster::Cluster::decode(&*any.value).map(|message| Decoded::Cluster(Box::new(message)))
            }
            Self::Endpoints => {
                pb::endpoint::ClusterLoadAssignment::decode(&*any.value).map(Decoded::Endpoints)
            }
            Self::Listeners(_) => pb::listener::Listener::decode(&*any.value)
                .map(|message| Decoded::Listener(Box::new(message))),
            Self::Secrets(_) => {
                pb::tls::Secret::decode(&*any.value).map(|message| Decoded::Secret(Box::new(message)))
            }
            Self::Scopes(_) => pb::route::ScopedRouteConfiguration::decode(&*any.value)
                .map(|message| Decoded::Scope(Box::new(message))),
            Self::Routes { .. } => pb::route::RouteConfiguration::decode(&*any.value)
                .map(|message| Decoded::Routes(Box::new(message))),
            Self::VirtualHosts(_) => pb::route::VirtualHost::decode(&*any.value)
                .map(|message| Decoded::VirtualHost(Box::new(message))),
            Self::Filters(_) => pb::core::TypedExtensionConfig::decode(&*any.value).map(Decoded::Filter),
        }
        .map_err(|error| format!("cannot be decoded: {error}"))
    }

    /// Holds it against the API's own rules, converts and compiles it.
    fn judge(&mut self, decoded: Decoded, any: &pb::google::Any, unknown: &mut u64) -> Result<Good, String> {
        let type_name = any.type_url.rsplit('/').next().unwrap_or_default();
        if let Some(schema) = Message::find(type_name) {
            let Checked { violations, unknown: fields, deprecated: _ } =
                briefly(|| validate::check(schema, &any.value));
            *unknown += tell_of_unknown(decoded.name(), &fields);
            if !violations.is_empty() {
                let reasons: Vec<_> = violations.iter().map(ToString::to_string).collect();
                return Err(reasons.join("; "));
            }
        }
        let name = decoded.name().to_owned();
        match (self, decoded) {
            (Self::Clusters(judge), Decoded::Cluster(message)) => judge.judge(*message, any),
            (Self::Listeners(judge), Decoded::Listener(message)) => judge.judge(*message, any),
            (Self::Secrets(judge), Decoded::Secret(message)) => judge.judge(*message, any),
            (Self::Scopes(judge), Decoded::Scope(message)) => judge.judge(*message, any),
            (Self::Filters(judge), Decoded::Filter(message)) => judge.judge(message, any),
            (Self::Routes { compiler, source, known, hosts }, Decoded::Routes(message)) => {
                if known.is_told(&name, &any.value) {
                    return Ok(Good::Same);
                }
                let (compiled, wire) = hosts.take_table(compiler, source, known, *message, &any.value)?;
                Ok(Good::Routes(compiled, wire))
            }
            // With its table, once all of them are known.
            (Self::VirtualHosts(_), Decoded::VirtualHost(_)) => {
                Ok(Good::VirtualHost(any.value.as_slice().into()))
            }
            (Self::Runtime, Decoded::Runtime(message)) => {
                Ok(Good::Runtime(Arc::new(taken(&name, convert_runtime(message))?)))
            }
            (Self::Endpoints, Decoded::Endpoints(message)) => {
                let assignment = taken(&name, briefly(|| convert_endpoints(message)))?;
                let assignment = briefly(|| Arc::new(assignment));
                Ok(Good::Endpoints(Assignment::told(assignment, &any.value)))
            }
            // Nothing decodes to another type than its own.
            _ => Err("is of another type".to_owned()),
        }
    }
}

/// A table that was accepted before, for the listener of this number.
pub(super) fn table(
    shared: &SharedCompiler,
    source: &ResourceSource,
    message: pb::route::RouteConfiguration,
    number: usize,
) -> Result<Vec<RoutesResource>, String> {
    let compiler = shared.read();
    let table = converted(&compiler, shared.runtime(), source, message, true)?;
    compiler.compile_for(number, source, &table).map_err(|error| error.to_string())
}

/// A table as it is compiled; `is_accepted`: it was taken before.
pub(super) fn converted(
    compiler: &RouteCompiler,
    runtime: &Runtime,
    source: &ResourceSource,
    message: pb::route::RouteConfiguration,
    is_accepted: bool,
) -> Result<Arc<RouteConfiguration>, String> {
    let name = message.name.clone();
    let lacking = compiler.lacking_filters(source, &name);
    let table = briefly(|| convert_routes(message, &lacking, runtime, is_accepted));
    Ok(Arc::new(taken(&name, table)?))
}

/// Makes something that is needed until a resource is compiled: of a large response it takes megabytes, and what lasts would lie in
/// between.
pub(super) fn briefly<T>(make: impl FnOnce() -> T) -> T {
    allocator::passing(make)
}

/// What was converted, or why it was not.
pub(super) fn taken<T>(name: &str, converted: Result<(T, Report), Report>) -> Result<T, String> {
    match converted {
        Ok((taken, report)) => {
            let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
            for finding in &report.findings {
                let level = if is_news(&mut said, finding) { log::Level::Warn } else { log::Level::Debug };
                log::log!(target: "config", level, "xDS: {name}: {finding}");
            }
            for left_out in report.left_out() {
                log::debug!(target: "config", "xDS: {name}: {left_out}");
            }
            Ok(taken)
        }
        Err(report) => Err(report.reasons()),
    }
}

/// Whether an operator has not been told yet that a control plane sets this field, which this version lacks.
fn is_news(said: &mut BTreeSet<String>, finding: &Finding) -> bool {
    finding.class == Class::NotYet && said.len() < XDS_LACKING_SAID_MAX && said.insert(finding.field.clone())
}

/// Warns of fields that the API does not have, as Envoy of each once; of how many.
fn tell_of_unknown(name: &str, fields: &[ConfigError]) -> u64 {
    let mut said = SAID_UNKNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut count = 0;
    for field in fields {
        let what = beginning(&field.reason, XDS_REASON_BYTES_MAX);
        if said.len() < XDS_LACKING_SAID_MAX && said.insert(what.to_owned()) {
            log::warn!(target: "config", "xDS: {name}: {}: passed over", cut(field.to_string()));
            count += 1;
        }
    }
    count
}

/// A hash of a response's content, by which it is known again.
pub(super) fn content<'a>(version: &str, parts: impl Iterator<Item = &'a pb::google::Any>) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(version.as_bytes());
    parts.for_each(|part| {
        hasher.write_usize(part.value.len());
        hasher.write(&part.value);
    });
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_names_what_it_refuses_however_long_names_and_reasons_are() {
        let long = "x".repeat(XDS_REFUSAL_BYTES_MAX + 1);
        let mut outcome = Outcome::default();
        for name in ["a", "b", long.as_str()] {
            outcome.refuse(name.to_owned(), long.clone());
        }
        let message = outcome.error().unwrap().message;
        let starts: Vec<_> = message.lines().filter_map(|line| line.split(": ").next()).collect();
        assert_eq!(starts, ["a", "b", &long[..XDS_NAME_BYTES_SHOWN_MAX]]);
        assert!(message.len() < XDS_REFUSAL_BYTES_MAX);
    }

    #[test]
    fn long_reasons_are_cut_at_a_character() {
        let mut outcome = Outcome::default();
        outcome.refuse("a".into(), format!("x{}", "é".repeat(XDS_REASON_BYTES_MAX)));
        outcome.refuse("b".into(), "short".into());
        let [long, short] = ["a", "b"].map(|name| outcome.bad[name].as_str());
        assert_eq!(long, format!("x{}...", "é".repeat(XDS_REASON_BYTES_MAX / 2 - 1)));
        assert_eq!(short, "short");
    }

    #[test]
    fn endpoints_and_tables_that_the_control_plane_has_no_more_are_not_gone() {
        let outcome = Outcome { absent: BTreeSet::from(["a".to_owned()]), ..Outcome::default() };
        assert_eq!(Kind::KEPT.map(|kind| outcome.gone(kind).count()), [1, 1, 0, 1, 1, 0, 1, 1]);
    }

    #[test]
    fn field_that_is_lacking_is_told_of_once() {
        let mut said = BTreeSet::new();
        let finding = |class, field: &str| Finding {
            class,
            path: "here".into(),
            field: field.into(),
            note: "",
            position: None,
        };
        assert!(is_news(&mut said, &finding(Class::NotYet, "a")));
        assert!(!is_news(&mut said, &finding(Class::NotYet, "a")), "another resource");
        assert!(is_news(&mut said, &finding(Class::NotYet, "b")));
        assert!(!is_news(&mut said, &finding(Class::NoEffect, "c")), "nothing is lacking");
        said.extend((0..XDS_LACKING_SAID_MAX).map(|index| index.to_string()));
        assert!(!is_news(&mut said, &finding(Class::NotYet, "d")), "bounded");
    }
}
