//! `/config_dump`: the bootstrap's resources in Envoy's sections, each rendered from its wire bytes when it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::process::timestamp;
use super::tables::TableKey;
use crate::control::admin::{DumpEntry, DumpField, DumpSection};
use crate::control::xds::client::{Refused, ShownSecret};
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
    /// What the control plane calls this state of it.
    pub(super) version: Box<str>,
    pub(super) wire: Arc<[u8]>,
    /// When, RFC 3339.
    pub(super) at: String,
}

/// The sections of a bootstrap that was loaded at `loaded` (RFC 3339), with what control planes have told; `failed`: listeners of
/// theirs that are not used.
pub(super) fn sections(
    bootstrap: &Arc<[u8]>,
    loaded: &str,
    [clusters, listeners]: [&ToldResources; 2],
    failed: &[Refused],
    tables: &BTreeMap<TableKey, Told>,
) -> Vec<DumpSection> {
    let dynamic_clusters = |told: &BTreeMap<Arc<str>, Arc<Told>>| {
        let entries = told.iter().map(|(name, told)| {
            dynamic("envoy.admin.v3.ClustersConfigDump.DynamicCluster", (CLUSTER, "cluster"), name, told)
        });
        DumpField::Repeated(entries.collect())
    };
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
                ("dynamic_active_clusters", dynamic_clusters(&clusters.active)),
                ("dynamic_warming_clusters", dynamic_clusters(&clusters.warming)),
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
                ("dynamic_listeners", DumpField::Repeated(dynamic_listeners(listeners, failed))),
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
                    DumpField::Repeated(
                        tables
                            .iter()
                            .map(|((_, name), told)| {
                                let type_name = "envoy.admin.v3.RoutesConfigDump.DynamicRouteConfig";
                                dynamic(type_name, (TABLE, "route_config"), name, told)
                            })
                            .collect(),
                    ),
                ),
            ],
        },
    ]
}

/// The section of filters that were told; `None`: there are none.
pub(super) fn filters(told: &BTreeMap<FilterKey, Told>) -> Option<DumpSection> {
    let entries = told.iter().map(|((_, name), told)| {
        dynamic("envoy.admin.v3.EcdsConfigDump.EcdsFilterConfig", (FILTER, "ecds_filter"), name, told)
    });
    (!told.is_empty()).then(|| DumpSection {
        type_url: "type.googleapis.com/envoy.admin.v3.EcdsConfigDump",
        fields: vec![("ecds_filters", DumpField::Repeated(entries.collect()))],
    })
}

/// The section of secrets: static ones, those that were told, and those that are waited for. What is secret is not in it.
pub(super) fn secrets(bootstrap: &[u8], loaded: &str, told: Vec<ShownSecret>) -> DumpSection {
    let named = |name: Arc<str>, version: Option<&str>, render: Box<dyn FnOnce() -> Value + Send>| {
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
            ..named(name, None, entry(bytes, SECRET, "secret", loaded))
        }
    });
    let (mut active, mut warming) = (Vec::new(), Vec::new());
    for ShownSecret { name, version, wire, unix_ns } in told {
        let (list, version, wire) = match wire {
            Some(wire) => (&mut active, version, wire),
            // As Envoy: its name, under which it is asked for.
            None => (&mut warming, "uninitialized".into(), only_named(&name)),
        };
        let render = entry(wire, SECRET, "secret", &timestamp(unix_ns));
        list.push(DumpEntry {
            type_name: "envoy.admin.v3.SecretsConfigDump.DynamicSecret",
            ..named(name, Some(&*version), render)
        });
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

/// A secret of which there is no more than its name.
fn only_named(name: &str) -> Arc<[u8]> {
    let mut bytes = Vec::new();
    wire::put_bytes(&mut bytes, 1, name.as_bytes());
    bytes.into()
}

/// Listeners of a control plane, each with the states that it has.
fn dynamic_listeners(told: &ToldResources, failed: &[Refused]) -> Vec<DumpEntry> {
    const STATE: &str = "envoy.admin.v3.ListenersConfigDump.DynamicListenerState";
    let mut errors: BTreeMap<Arc<str>, Refused> =
        failed.iter().map(|one| (one.name.as_str().into(), one.clone())).collect();
    let names: BTreeSet<_> =
        told.active.keys().chain(told.warming.keys()).chain(errors.keys()).cloned().collect();
    let state = |all: &BTreeMap<Arc<str>, Arc<Told>>, name: &Arc<str>| {
        all.get(name).map(|told| dynamic(STATE, (LISTENER, "listener"), name, told).render)
    };
    let entry = |name: Arc<str>| {
        let states = [
            ("active_state", state(&told.active, &name)),
            ("warming_state", state(&told.warming, &name)),
            ("error_state", errors.remove(&name).map(error_state)),
        ];
        let shown = Arc::clone(&name);
        DumpEntry {
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
        }
    };
    names.into_iter().map(entry).collect()
}

/// What was refused of a listener: an `envoy.admin.v3.UpdateFailureState`.
fn error_state(refused: Refused) -> Box<dyn FnOnce() -> Value + Send> {
    let Refused { reason, version, last_unix_ns, wire, .. } = refused;
    let at = timestamp(last_unix_ns);
    let failed = wire.map(|wire| entry(wire, LISTENER, "failed_configuration", &at));
    Box::new(move || {
        let mut shown = Map::new();
        if let Some(Value::Object(mut failed)) = failed.map(|render| render()) {
            failed.retain(|field, _| field == "failed_configuration");
            shown.append(&mut failed);
        }
        shown.insert("last_update_attempt".to_owned(), json!(at));
        shown.insert("details".to_owned(), json!(reason));
        shown.insert("version_info".to_owned(), json!(version));
        Value::Object(shown)
    })
}

/// A resource of a control plane, with its version. `(message, field)`: its type, and where it stands.
fn dynamic(
    type_name: &'static str,
    (message, field): (&'static str, &'static str),
    name: &Arc<str>,
    told: &Told,
) -> DumpEntry {
    let version = told.version.clone();
    let resource = entry(Arc::clone(&told.wire), message, field, &told.at);
    DumpEntry {
        type_name,
        name: Arc::clone(name),
        render: Box::new(move || {
            let mut shown = Map::new();
            shown.insert("version_info".to_owned(), json!(version));
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

/// The route configurations that a listener's connection managers hold.
fn route_configurations(listener: &[u8]) -> Vec<Arc<[u8]>> {
    let chains = children("envoy.config.listener.v3.Listener", listener, 3).into_iter().chain(children(
        "envoy.config.listener.v3.Listener",
        listener,
        25,
    ));
    chains
        .flat_map(|chain| children("envoy.config.listener.v3.FilterChain", &chain, 3))
        .flat_map(|filter| children("envoy.config.listener.v3.Filter", &filter, 4))
        .filter_map(|any| {
            let fields = Fields::decode(Message::find("google.protobuf.Any")?, &any).ok()?;
            let manager = fields.text(1).ends_with(MANAGER).then(|| fields.get(2))??;
            let wire::Value::Bytes(bytes) = manager else { return None };
            children(MANAGER, bytes, 4).into_iter().next()
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

/// Renders a resource below `field`, with its `@type` where Envoy has an Any.
fn entry(
    bytes: Arc<[u8]>,
    message: &'static str,
    field: &'static str,
    loaded: &str,
) -> Box<dyn FnOnce() -> Value + Send> {
    let loaded = loaded.to_owned();
    Box::new(move || {
        let mut shown = render(message, &bytes);
        if message == BOOTSTRAP {
            // Single fields are put in place by the section itself.
            return shown;
        }
        if let Value::Object(object) = &mut shown {
            let mut typed = Map::new();
            typed.insert("@type".to_owned(), Value::String(format!("type.googleapis.com/{message}")));
            typed.append(object);
            *object = typed;
        }
        let mut entry = Map::new();
        entry.insert(field.to_owned(), shown);
        entry.insert("last_updated".to_owned(), json!(loaded));
        Value::Object(entry)
    })
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
