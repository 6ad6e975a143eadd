//! Runtime values: the layers of a bootstrap, resources that hold one, and the keys that configuration refers to.
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use serde_json::{Map, Value};

use super::at::At;
use super::config_source;
use super::fields::classify;
use super::value::json_object;
use crate::config::ads::Rtds;
use crate::config::bootstrap::{DiskLayer, RuntimeLayer, RuntimeLayerKind};
use crate::config::runtime::{RuntimeKey, RuntimeState, RuntimeValue};
use crate::control::xds::loader::{self, Format, Source};
use crate::control::xds::pb::{self, Named};
use crate::control::xds::schema::Message;
use pb::bootstrap::RuntimeLayerLayerSpecifierOneOf as Specifier;

/// Keys beyond which those are looked for that nobody refers to any more.
const KEYS_MIN: usize = 64;

/// The values of a layer by their dotted keys, sorted.
pub type RuntimeValues = Vec<(Box<str>, Value)>;

/// The value of every key, from the topmost layer that has it, and the keys that configuration refers to. Copies share them.
#[derive(Clone, Debug, Default)]
pub struct Runtime(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: RuntimeState,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    values: BTreeMap<Box<str>, RuntimeValue>,
    /// Whether values may change.
    is_live: bool,
    keys: HashMap<Box<str>, RuntimeKey>,
    /// When those are looked for that nobody refers to.
    keys_max: usize,
}

impl Runtime {
    /// That of a bootstrap, as far as its layers are there.
    pub(super) fn of(layers: &[RuntimeLayer]) -> Self {
        let own = Self::default();
        own.lock().is_live = layers.iter().any(|layer| !matches!(layer.kind, RuntimeLayerKind::Static(_)));
        own.set(layers.iter().filter_map(|layer| match &layer.kind {
            RuntimeLayerKind::Static(values) => Some(&**values),
            RuntimeLayerKind::Admin | RuntimeLayerKind::Rtds(_) | RuntimeLayerKind::Disk(_) => None,
        }));
        own
    }

    /// Takes the values of all layers, later ones over earlier ones; how many keys there are. Of all callers one at a time.
    pub fn set<'a>(&self, layers: impl Iterator<Item = &'a [(Box<str>, Value)]>) -> usize {
        let mut known = self.lock();
        known.values = layers.flatten().map(|(key, value)| (key.clone(), RuntimeValue::of(value))).collect();
        known.keys.retain(|_, key| !key.is_unused());
        for (name, key) in &known.keys {
            key.prepare(known.values.get(name).copied().unwrap_or_default());
        }
        self.0.state.proceed();
        known.values.len()
    }

    /// The whole numbers under keys that begin so, by the rest of these keys.
    pub fn integers_under(&self, prefix: &str) -> Vec<(Box<str>, u64)> {
        let known = self.lock();
        let from: (Bound<&str>, Bound<&str>) = (Bound::Included(prefix), Bound::Unbounded);
        let mut found: Vec<(Box<str>, u64)> = Vec::new();
        for (key, value) in known.values.range::<str, _>(from) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            found.extend(value.integer.map(|integer| (Box::<str>::from(rest), integer)));
        }
        found
    }

    /// What reads a value while requests are served; `None`: there is none, and none can come.
    pub(super) fn key(&self, name: &str) -> Option<RuntimeKey> {
        let mut known = self.lock();
        let Known { values, is_live, keys, keys_max } = &mut *known;
        if name.is_empty() || !*is_live && !values.contains_key(name) {
            return None;
        }
        if let Some(key) = keys.get(name) {
            return Some(key.clone());
        }
        if keys.len() >= (*keys_max).max(KEYS_MIN) {
            keys.retain(|_, key| !key.is_unused());
            *keys_max = 2 * keys.len();
        }
        let key = RuntimeKey::new(name, values.get(name).copied().unwrap_or_default(), &self.0.state);
        keys.insert(name.into(), key.clone());
        Some(key)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing under the lock can leave it half changed.
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The layers of a bootstrap.
pub(super) fn layers(at: &At<'_>, runtime: pb::bootstrap::LayeredRuntime) -> Vec<RuntimeLayer> {
    classify!(at, runtime => pb::bootstrap::LayeredRuntime { implemented: layers; });
    let mut converted: Vec<RuntimeLayer> = Vec::with_capacity(layers.len());
    let mut admin_layers = 0;
    for (index, layer) in layers.into_iter().enumerate() {
        let at = &at.item("layers", index);
        classify!(at, layer => pb::bootstrap::RuntimeLayer { implemented: name, layer_specifier; });
        if converted.iter().any(|other| *other.name == *name) {
            at.field("name").error(format!("duplicate layer name {name:?}"));
        }
        let kind = match layer_specifier {
            Some(Specifier::StaticLayer(values)) => {
                RuntimeLayerKind::Static(layer_values(&at.field("static_layer"), values))
            }
            Some(Specifier::AdminLayer(_)) => {
                admin_layers += 1;
                if admin_layers > 1 {
                    at.error("only one admin layer is allowed");
                }
                RuntimeLayerKind::Admin
            }
            Some(Specifier::DiskLayer(message)) => {
                classify!(&at.field("disk_layer"), message => pb::bootstrap::RuntimeLayerDiskLayer {
                    implemented: symlink_root, subdirectory, append_service_cluster;
                });
                let (symlink_root, subdirectory) = (symlink_root.into(), subdirectory.into());
                RuntimeLayerKind::Disk(DiskLayer { symlink_root, subdirectory, append_service_cluster })
            }
            Some(Specifier::RtdsLayer(message)) => {
                let at = &at.field("rtds_layer");
                classify!(at, message => pb::bootstrap::RuntimeLayerRtdsLayer { implemented: name, rtds_config; });
                if name.is_empty() {
                    at.field("name").error("must be set: the name under which the values are asked for");
                }
                let Some((source, initial_fetch_timeout)) =
                    config_source::source(at, "rtds_config", rtds_config)
                else {
                    continue;
                };
                RuntimeLayerKind::Rtds(Rtds { source, name: name.into(), initial_fetch_timeout })
            }
            None => {
                at.error("one of static_layer, disk_layer, admin_layer, rtds_layer must be set");
                continue;
            }
        };
        converted.push(RuntimeLayer { name: name.into(), kind });
    }
    converted
}

/// A resource that holds the values of a layer.
pub(super) fn told(at: &At<'_>, message: pb::runtime::Runtime) -> RuntimeValues {
    classify!(at, message => pb::runtime::Runtime { implemented: name, layer; });
    // Who asked for it knows its name.
    drop(name);
    layer.map(|values| layer_values(&at.field("layer"), values)).unwrap_or_default()
}

/// What stands for a value in a file or at the admin endpoint: a text, or a `FractionalPercent` in YAML.
pub fn runtime_text(text: &str) -> Value {
    let object = || {
        let source = Source { name: "", text, format: Format::Yaml };
        let loaded = loader::read(Message::find(pb::google::Struct::NAME)?, &[source], true).ok()?;
        Some(Value::Object(json_object(pb::google::Struct::decode(&*loaded.bytes).ok()?)))
    };
    let is_object = text.contains(':').then(object).flatten();
    is_object.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn layer_values(at: &At<'_>, values: pb::google::Struct) -> RuntimeValues {
    let values = flatten(json_object(values));
    for (key, value) in &values {
        if matches!(value, Value::Null | Value::Array(_)) {
            at.error(format!("invalid runtime entry value for {key}"));
        }
    }
    values
}

/// Dotted keys of all scalars; an object that is empty or has `numerator` or `denominator` is one value, a `FractionalPercent`.
fn flatten(object: Map<String, Value>) -> RuntimeValues {
    let mut flat = BTreeMap::new();
    flatten_into("", object, &mut flat);
    flat.into_iter().collect()
}

fn flatten_into(prefix: &str, object: Map<String, Value>, flat: &mut BTreeMap<Box<str>, Value>) {
    for (key, value) in object {
        let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            Value::Object(inner)
                if !inner.is_empty()
                    && !inner.contains_key("numerator")
                    && !inner.contains_key("denominator") =>
            {
                flatten_into(&key, inner, flat);
            }
            value => {
                flat.insert(key.into(), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(json: &str) -> RuntimeValues {
        flatten(serde_json::from_str(json).unwrap())
    }

    fn layer(kind: RuntimeLayerKind) -> RuntimeLayer {
        RuntimeLayer { name: "a".into(), kind }
    }

    #[test]
    fn runtime_of_nested_objects_is_read_by_dotted_keys() {
        let values = flat(r#"{"a": {"b": {"c": 7}}, "a.d": "8", "e": {}, "f": {"numerator": 3}}"#);
        let runtime = Runtime::of(&[layer(RuntimeLayerKind::Static(values))]);
        let integer = |key: &str| runtime.key(key)?.integer();
        assert_eq!((integer("a.b.c"), integer("a.d"), integer("a.b")), (Some(7), Some(8), None));
        assert_eq!(runtime.key("e").unwrap().fraction().unwrap().numerator, 0);
        assert_eq!(runtime.key("f").unwrap().fraction().unwrap().numerator, 3);
    }

    #[test]
    fn key_is_there_only_where_it_has_a_value_or_one_can_come() {
        let fixed = Runtime::of(&[layer(RuntimeLayerKind::Static(flat(r#"{"a": 1}"#)))]);
        assert!(fixed.key("a").is_some() && fixed.key("b").is_none() && fixed.key("").is_none());
        let live = Runtime::of(&[layer(RuntimeLayerKind::Admin)]);
        assert!(live.key("b").is_some() && live.key("").is_none());
    }

    #[test]
    fn later_layers_count_and_keys_follow() {
        let runtime = Runtime::of(&[layer(RuntimeLayerKind::Admin)]);
        let key = runtime.key("a").unwrap();
        assert_eq!(key.integer(), None);
        let (low, high) = (flat(r#"{"a": 1, "b": 2}"#), flat(r#"{"a": 3}"#));
        assert_eq!(runtime.set([&*low, &*high].into_iter()), 2);
        assert_eq!((key.integer(), runtime.key("b").unwrap().integer()), (Some(3), Some(2)));
        runtime.set([&*low].into_iter());
        assert_eq!(key.integer(), Some(1));
        runtime.set(std::iter::empty());
        assert_eq!(key.integer(), None);
    }

    #[test]
    fn whole_numbers_are_found_by_the_beginning_of_their_keys() {
        let values = r#"{"a": 1, "a.b": 2, "a.c": {"d": "3", "e": "x"}, "a.f": -1, "ab": 4, "a/": 5}"#;
        let runtime = Runtime::of(&[layer(RuntimeLayerKind::Static(flat(values)))]);
        let found = runtime.integers_under("a.");
        let found: Vec<_> = found.iter().map(|(rest, integer)| (&**rest, *integer)).collect();
        assert_eq!(found, [("b", 2), ("c.d", 3)]);
        assert!(runtime.integers_under("a.c.d.").is_empty() && runtime.integers_under("b").is_empty());
    }

    #[test]
    fn keys_that_nobody_refers_to_go() {
        let runtime = Runtime::of(&[layer(RuntimeLayerKind::Admin)]);
        let kept = runtime.key("kept").unwrap();
        for number in 0..10 * KEYS_MIN {
            runtime.key(&number.to_string());
        }
        assert!(runtime.lock().keys.len() <= KEYS_MIN + 1);
        assert_eq!(runtime.key("kept"), Some(kept));
    }

    #[test]
    fn text_is_a_fraction_where_it_says_so() {
        assert_eq!(runtime_text("{numerator: 5, denominator: MILLION}")["denominator"], "MILLION");
        assert_eq!(runtime_text("numerator: 5")["numerator"], 5);
        for text in ["7", "true", "a: b: c", "", "x"] {
            assert_eq!(runtime_text(text), Value::String(text.to_owned()));
        }
    }
}
