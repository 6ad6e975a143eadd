//! `/config_dump`: the bootstrap's resources and those of control planes in Envoy's sections, each rendered from its wire bytes when it
//! is asked for.

pub(super) mod endpoints;
pub(super) mod scoped_routes;
mod standing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use self::standing::with_standing;
use super::process::timestamp;
use super::tables::TableKey;
use crate::base::clock;
use crate::control::admin::{DumpEntry, DumpField, DumpSection};
use crate::control::xds::client::{Quarantine, ShownSecret, Standing, Standings};
use crate::control::xds::json::{self, Style};
use crate::control::xds::schema::Message;
use crate::control::xds::wire::{self, Fields};
use crate::snapshot::FilterKey;

const LISTENER: &str = "envoy.config.listener.v3.Listener";
const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const TABLE: &str = "envoy.config.route.v3.RouteConfiguration";
const FILTER: &str = "envoy.config.core.v3.TypedExtensionConfig";
const SECRET: &str = "envoy.extensions.transport_sockets.tls.v3.Secret";
const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
pub(super) const SCOPE: &str = "envoy.config.route.v3.ScopedRouteConfiguration";
const SCOPED: &str = "envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes";

/// Resources of a type of which all are taken, as a control plane has told them, by name.
#[derive(Debug, Default)]
pub(super) struct ToldResources {
    /// Of the last response that was used.
    pub(super) version: Box<str>,
    pub(super) active: BTreeMap<Arc<str>, Arc<Told>>,
    /// Those that wait for what they need.
    pub(super) warming: BTreeMap<Arc<str>, Arc<Told>>,
}

/// A resource as a control plane has told it.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) state: Arc<ToldState>,
    pub(super) wire: Arc<[u8]>,
}

/// There is one for each of thousands of clusters.
const _: () = assert!(size_of::<Told>() <= 24);

/// A state of resources, which all have that were told together.
#[derive(Debug)]
pub(super) struct ToldState {
    /// What the control plane calls it.
    pub(super) version: Box<str>,
    /// When it was told, ns since the Unix epoch.
    pub(super) unix_ns: u64,
}

impl ToldState {
    /// One that is told now.
    pub(super) fn now(version: &str) -> Arc<Self> {
        Arc::new(Self { version: version.into(), unix_ns: clock::wall_ns() })
    }
}

/// The sections of a bootstrap that was loaded at `loaded` (RFC 3339), with what control planes have told; `quarantine`: how that
/// stands of it which is not used as it was told last.
pub(super) fn sections(
    bootstrap: &Arc<[u8]>,
    loaded: &str,
    [clusters, listeners]: [&ToldResources; 2],
    quarantine: &Quarantine,
    tables: &BTreeMap<TableKey, Told>,
) -> Vec<DumpSection> {
    let [active_clusters, warming_clusters] =
        dynamic_clusters(clusters, &by_name(quarantine.standings(CLUSTER)));
    let dynamic_listeners = dynamic_listeners(listeners, by_name(quarantine.standings(LISTENER)));
    let whole = DumpEntry {
        type_name: "",
        name: "".into(),
        render: entry(Arc::clone(bootstrap), BOOTSTRAP, "bootstrap", loaded),
    };
    let static_listeners = resources(bootstrap, 1);
    let routes = static_listeners.iter().flat_map(|listener| route_configurations(listener)).collect();
    vec![
        DumpSection {
            type_url: "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
            fields: vec![("bootstrap", DumpField::Single(whole))],
        },
        DumpSection {
            type_url: "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            fields: vec![
                ("version_info", DumpField::Text(clusters.version.clone())),
                (
                    "static_clusters",
                    entries(
                        resources(bootstrap, 2),
                        ("envoy.admin.v3.ClustersConfigDump.StaticCluster", CLUSTER, "cluster"),
                        loaded,
                    ),
                ),
                ("dynamic_active_clusters", active_clusters),
                ("dynamic_warming_clusters", warming_clusters),
            ],
        },
        DumpSection {
            type_url: "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            fields: vec![
                ("version_info", DumpField::Text(listeners.version.clone())),
                (
                    "static_listeners",
                    entries(
                        static_listeners,
                        ("envoy.admin.v3.ListenersConfigDump.StaticListener", LISTENER, "listener"),
                        loaded,
                    ),
                ),
                ("dynamic_listeners", DumpField::Repeated(dynamic_listeners)),
            ],
        },
        DumpSection {
            type_url: "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
            fields: vec![
                (
                    "static_route_configs",
                    entries(
                        routes,
                        ("envoy.admin.v3.RoutesConfigDump.StaticRouteConfig", TABLE, "route_config"),
                        loaded,
                    ),
                ),
                (
                    "dynamic_route_configs",
                    named(
                        "envoy.admin.v3.RoutesConfigDump.DynamicRouteConfig",
                        (TABLE, "route_config"),
                        tables,
                        quarantine.standings(TABLE),
                    ),
                ),
            ],
        },
    ]
}

/// The section of filters that are asked for; `None`: there are none.
pub(super) fn filters(told: &BTreeMap<FilterKey, Told>, quarantine: &Quarantine) -> Option<DumpSection> {
    let standings = quarantine.standings(FILTER);
    let type_name = "envoy.admin.v3.EcdsConfigDump.EcdsFilterConfig";
    let is_asked_for = !(told.is_empty() && standings.is_empty());
    is_asked_for.then(|| DumpSection {
        type_url: "type.googleapis.com/envoy.admin.v3.EcdsConfigDump",
        fields: vec![("ecds_filters", named(type_name, (FILTER, "ecds_filter"), told, standings))],
    })
}

/// The section of secrets: static ones, those that were told, and those that are waited for. What is secret is not in it.
pub(super) fn secrets(
    bootstrap: &[u8],
    loaded: &str,
    told: Vec<ShownSecret>,
    quarantine: &Quarantine,
) -> DumpSection {
    let mut standings = quarantine.standings(SECRET);
    let under_name = |name: Arc<str>, version: Option<&str>, render: Box<dyn FnOnce() -> Value + Send>| {
        let mut shown = Map::new();
        shown.insert("name".to_owned(), json!(*name));
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            shown.insert("version_info".to_owned(), json!(version));
        }
        let render = Box::new(move || {
            if let Value::Object(mut secret) = render() {
                shown.append(&mut secret);
            }
            Value::Object(shown)
        });
        DumpEntry { type_name: "", name, render }
    };
    let of_file = resources(bootstrap, 3).into_iter().map(|bytes| {
        let name: Arc<str> = name_of(SECRET, &bytes).into();
        DumpEntry {
            type_name: "envoy.admin.v3.SecretsConfigDump.StaticSecret",
            ..under_name(name, None, entry(bytes, SECRET, "secret", loaded))
        }
    });
    let (mut active, mut warming) = (Vec::new(), Vec::new());
    for ShownSecret { source, name, version, wire, unix_ns } in told {
        let standing = standings.remove(&(source, Arc::clone(&name)));
        let (list, version, wire) = match wire {
            Some(wire) => (&mut active, version, wire),
            // As Envoy: its name, under which it is asked for.
            None => (&mut warming, "uninitialized".into(), only_named(&name)),
        };
        let render = entry(wire, SECRET, "secret", &timestamp(unix_ns));
        let entry = DumpEntry {
            type_name: "envoy.admin.v3.SecretsConfigDump.DynamicSecret",
            ..under_name(name, Some(&*version), render)
        };
        list.push(with_standing(entry, SECRET, standing));
    }
    DumpSection {
        type_url: "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
        fields: vec![
            ("static_secrets", DumpField::Repeated(of_file.collect())),
            ("dynamic_active_secrets", DumpField::Repeated(active)),
            ("dynamic_warming_secrets", DumpField::Repeated(warming)),
        ],
    }
}

/// A message of which there is no more than its name, which is field 1 of every resource.
fn only_named(name: &str) -> Arc<[u8]> {
    let mut bytes = Vec::new();
    wire::put_bytes(&mut bytes, 1, name.as_bytes());
    bytes.into()
}

/// Of resources that all come from one source.
fn by_name(standings: Standings) -> BTreeMap<Arc<str>, Standing> {
    standings.into_iter().map(|((_, name), standing)| (name, standing)).collect()
}

/// Clusters of a control plane, those in use and those that wait. One that was never any good is among the latter: no traffic has it.
fn dynamic_clusters(told: &ToldResources, standings: &BTreeMap<Arc<str>, Standing>) -> [DumpField; 2] {
    const CLUSTERS: &str = "envoy.admin.v3.ClustersConfigDump.DynamicCluster";
    let shown = |all: &BTreeMap<Arc<str>, Arc<Told>>| -> Vec<DumpEntry> {
        let entries = all.iter().map(|(name, told)| {
            let entry = dynamic(CLUSTERS, (CLUSTER, "cluster"), name, told);
            with_standing(entry, CLUSTER, standings.get(name).cloned())
        });
        entries.collect()
    };
    let (active, mut warming) = (shown(&told.active), shown(&told.warming));
    for (name, standing) in standings {
        if !told.active.contains_key(name) && !told.warming.contains_key(name) {
            let entry = untold(CLUSTERS, (CLUSTER, "cluster"), name);
            warming.push(with_standing(entry, CLUSTER, Some(standing.clone())));
        }
    }
    [DumpField::Repeated(active), DumpField::Repeated(warming)]
}

/// Listeners of a control plane, each with the states that it has.
fn dynamic_listeners(told: &ToldResources, mut standings: BTreeMap<Arc<str>, Standing>) -> Vec<DumpEntry> {
    const STATE: &str = "envoy.admin.v3.ListenersConfigDump.DynamicListenerState";
    let names: BTreeSet<_> =
        told.active.keys().chain(told.warming.keys()).chain(standings.keys()).cloned().collect();
    let state = |all: &BTreeMap<Arc<str>, Arc<Told>>, name: &Arc<str>| {
        all.get(name).map(|told| dynamic(STATE, (LISTENER, "listener"), name, told).render)
    };
    let entry = |name: Arc<str>| {
        let states =
            [("active_state", state(&told.active, &name)), ("warming_state", state(&told.warming, &name))];
        let (shown, standing) = (Arc::clone(&name), standings.remove(&name));
        let entry = DumpEntry {
            type_name: "envoy.admin.v3.ListenersConfigDump.DynamicListener",
            name,
            render: Box::new(move || {
                let mut listener = Map::new();
                listener.insert("name".to_owned(), json!(*shown));
                for (field, state) in states {
                    listener.extend(state.map(|render| (field.to_owned(), render())));
                }
                Value::Object(listener)
            }),
        };
        with_standing(entry, LISTENER, standing)
    };
    names.into_iter().map(entry).collect()
}

/// Resources that are asked for by name: those of which something is in use, then the others.
fn named(
    type_name: &'static str,
    (message, field): (&'static str, &'static str),
    told: &BTreeMap<TableKey, Told>,
    mut standings: Standings,
) -> DumpField {
    let mut entries = Vec::new();
    for (key, told) in told {
        let entry = dynamic(type_name, (message, field), &key.1, told);
        entries.push(with_standing(entry, message, standings.remove(key)));
    }
    for ((_, name), standing) in standings {
        let entry = untold(type_name, (message, field), &name);
        entries.push(with_standing(entry, message, Some(standing)));
    }
    DumpField::Repeated(entries)
}

/// A resource of which nothing is in use: its name.
fn untold(
    type_name: &'static str,
    (message, field): (&'static str, &'static str),
    name: &Arc<str>,
) -> DumpEntry {
    DumpEntry { type_name, name: Arc::clone(name), render: entry(only_named(name), message, field, "") }
}

/// A resource of a control plane, with its version. `(message, field)`: its type, and where it stands.
fn dynamic(
    type_name: &'static str,
    (message, field): (&'static str, &'static str),
    name: &Arc<str>,
    told: &Told,
) -> DumpEntry {
    let state = Arc::clone(&told.state);
    let resource = entry(Arc::clone(&told.wire), message, field, &timestamp(state.unix_ns));
    DumpEntry {
        type_name,
        name: Arc::clone(name),
        render: Box::new(move || {
            let mut shown = Map::new();
            shown.insert("version_info".to_owned(), json!(&*state.version));
            if let Value::Object(mut resource) = resource() {
                shown.append(&mut resource);
            }
            Value::Object(shown)
        }),
    }
}

/// The static resources in field `number` of `static_resources`.
fn resources(bootstrap: &[u8], number: u32) -> Vec<Arc<[u8]>> {
    let Some(static_resources) = children(BOOTSTRAP, bootstrap, 2).into_iter().next() else {
        return Vec::new();
    };
    children("envoy.config.bootstrap.v3.Bootstrap.StaticResources", &static_resources, number)
}

/// The route configurations that a listener's connection managers hold, in scopes or not.
fn route_configurations(listener: &[u8]) -> Vec<Arc<[u8]>> {
    let tables = managers(listener).into_iter().flat_map(|manager| {
        let scopes = children(MANAGER, &manager, 31).into_iter().flat_map(|scoped| inline_scopes(&scoped));
        let of_scopes = scopes.flat_map(|scope| children(SCOPE, &scope, 5));
        children(MANAGER, &manager, 4).into_iter().chain(of_scopes)
    });
    tables.collect()
}

/// The scopes that stand in scoped routes themselves.
fn inline_scopes(scoped: &[u8]) -> Vec<Arc<[u8]>> {
    const LIST: &str =
        "envoy.extensions.filters.network.http_connection_manager.v3.ScopedRouteConfigurationsList";
    children(SCOPED, scoped, 4).into_iter().flat_map(|list| children(LIST, &list, 1)).collect()
}

/// A listener's connection managers.
fn managers(listener: &[u8]) -> Vec<Arc<[u8]>> {
    let chains = children(LISTENER, listener, 3).into_iter().chain(children(LISTENER, listener, 25));
    chains
        .flat_map(|chain| children("envoy.config.listener.v3.FilterChain", &chain, 3))
        .flat_map(|filter| children("envoy.config.listener.v3.Filter", &filter, 4))
        .filter_map(|any| {
            let fields = Fields::decode(Message::find("google.protobuf.Any")?, &any).ok()?;
            let manager = fields.text(1).ends_with(MANAGER).then(|| fields.get(2))??;
            let wire::Value::Bytes(bytes) = manager else { return None };
            Some(Arc::from(&**bytes))
        })
        .collect()
}

/// The messages in field `number`.
fn children(type_name: &str, bytes: &[u8], number: u32) -> Vec<Arc<[u8]>> {
    let Some(message) = Message::find(type_name) else { return Vec::new() };
    let (Some(field), Ok(fields)) = (message.field_by_number(number), Fields::decode(message, bytes)) else {
        return Vec::new();
    };
    let bytes = |value: &wire::Value<'_>| match value {
        wire::Value::Message(bytes) => Some(Arc::from(bytes.as_ref())),
        _ => None,
    };
    fields.of(field).iter().filter_map(|(_, value)| bytes(value)).collect()
}

fn entries(
    all: Vec<Arc<[u8]>>,
    names: (&'static str, &'static str, &'static str),
    loaded: &str,
) -> DumpField {
    let (type_name, message, field) = names;
    let entries = all.into_iter().map(|bytes| DumpEntry {
        type_name,
        name: name_of(message, &bytes).into(),
        render: entry(bytes, message, field, loaded),
    });
    DumpField::Repeated(entries.collect())
}

/// `name` is field 1 of every resource.
fn name_of(type_name: &str, bytes: &[u8]) -> String {
    let fields = Message::find(type_name).and_then(|message| Fields::decode(message, bytes).ok());
    fields.map(|fields| fields.text(1).to_owned()).unwrap_or_default()
}

/// Renders a resource below `field`, with its `@type` where Envoy has an Any, and when it came; empty: it has not.
fn entry(
    bytes: Arc<[u8]>,
    message: &'static str,
    field: &'static str,
    loaded: &str,
) -> Box<dyn FnOnce() -> Value + Send> {
    let loaded = loaded.to_owned();
    Box::new(move || {
        if message == BOOTSTRAP {
            // Single fields are put in place by the section itself.
            return render(message, &bytes);
        }
        let mut entry = Map::new();
        entry.insert(field.to_owned(), typed(message, &bytes));
        if !loaded.is_empty() {
            entry.insert("last_updated".to_owned(), json!(loaded));
        }
        Value::Object(entry)
    })
}

/// A resource with its `@type`; null: it cannot be read.
fn typed(message: &str, bytes: &[u8]) -> Value {
    let mut shown = render(message, bytes);
    if let Value::Object(object) = &mut shown {
        object.shift_insert(0, "@type".to_owned(), format!("type.googleapis.com/{message}").into());
    }
    shown
}

fn render(type_name: &str, bytes: &[u8]) -> Value {
    let mut text = String::new();
    let style = Style { redact: true, ..Style::default() };
    let written = Message::find(type_name).map(|message| json::write(&mut text, message, bytes, style));
    match written {
        Some(Ok(())) => serde_json::from_str(&text).unwrap_or(Value::Null),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ads::ResourceSource;
    use crate::control::xds::client::ClientStatus;

    fn told(name: &str) -> Told {
        let state = Arc::new(ToldState { version: "1".into(), unix_ns: 0 });
        Told { state, wire: only_named(name) }
    }

    fn refused() -> Standing {
        Standing { status: ClientStatus::Nacked, failure: None }
    }

    /// Of each entry the resource's name, its version and its status.
    fn shown(field: DumpField, resource: &str) -> Vec<String> {
        let DumpField::Repeated(entries) = field else { panic!("no list") };
        let shown = entries.into_iter().map(|entry| {
            let name = Arc::clone(&entry.name);
            let entry = (entry.render)();
            assert_eq!(entry[resource]["name"].as_str(), Some(&*name));
            let [version, status] =
                ["version_info", "client_status"].map(|key| entry[key].as_str().unwrap_or("-"));
            format!("{name} {version} {status}")
        });
        shown.collect()
    }

    #[test]
    fn cluster_stands_where_it_is_and_one_that_was_never_good_among_those_that_wait() {
        let all = |names: [&str; 2]| -> BTreeMap<Arc<str>, Arc<Told>> {
            names.map(|name| (name.into(), Arc::new(told(name)))).into()
        };
        let (active, warming) = (all(["a", "b"]), all(["b", "c"]));
        let told = ToldResources { version: Box::default(), active, warming };
        let standings = BTreeMap::from(["b", "d"].map(|name| (Arc::<str>::from(name), refused())));
        let [active, warming] = dynamic_clusters(&told, &standings).map(|field| shown(field, "cluster"));
        assert_eq!(active, ["a 1 ACKED", "b 1 NACKED"]);
        assert_eq!(warming, ["b 1 NACKED", "c 1 ACKED", "d - NACKED"]);
    }

    #[test]
    fn resources_that_are_asked_for_follow_those_in_use() {
        let key = |name: &str| -> TableKey { (ResourceSource::Ads, name.into()) };
        let told = BTreeMap::from(["b", "c"].map(|name| (key(name), told(name))));
        let asked = Standing { status: ClientStatus::Requested, failure: None };
        let standings = Standings::from([(key("a"), asked), (key("b"), refused())]);
        let field = named("", (TABLE, "route_config"), &told, standings);
        assert_eq!(shown(field, "route_config"), ["b 1 NACKED", "c 1 ACKED", "a - REQUESTED"]);
    }

    #[test]
    fn listener_that_was_never_good_has_its_name_and_what_is_wrong() {
        let told = ToldResources::default();
        let entries = dynamic_listeners(&told, [("a".into(), refused())].into());
        let rendered: Vec<_> = entries.into_iter().map(|entry| (entry.render)()).collect();
        assert_eq!(rendered, [json!({ "name": "a", "client_status": "NACKED" })]);
    }
}
