//! Runtime values of the bootstrap's static layers, and the configuration that refers to them by key.
use std::collections::BTreeMap;

use serde_json::Value;

use super::at::At;
use super::fields::classify;
use super::value::json_object;
use crate::config::bootstrap::{RuntimeLayer, RuntimeLayerKind};
use crate::config::matcher::FractionalPercent;
use crate::control::xds::pb;
use pb::bootstrap::RuntimeLayerLayerSpecifierOneOf as Specifier;

/// The value of every key, from the topmost layer that has it.
#[derive(Debug, Clone, Default)]
pub(super) struct Runtime(BTreeMap<Box<str>, Value>);

impl Runtime {
    /// The values of all layers, later ones over earlier ones.
    pub(super) fn new(layers: &[RuntimeLayer]) -> Self {
        let mut values = BTreeMap::new();
        for layer in layers {
            if let RuntimeLayerKind::Static(entries) = &layer.kind {
                values.extend(entries.iter().cloned());
            }
        }
        Self(values)
    }

    /// A whole number; texts of digits count, as in Envoy.
    pub(super) fn integer(&self, key: &str) -> Option<u64> {
        match self.0.get(key)? {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A truth; texts of it count, as in Envoy.
    pub(super) fn boolean(&self, key: &str) -> Option<bool> {
        match self.0.get(key)? {
            Value::Bool(truth) => Some(*truth),
            Value::String(text) => text.to_ascii_lowercase().parse().ok(),
            _ => None,
        }
    }

    /// A share of requests: a `FractionalPercent` object, or a number, which is a percentage.
    pub(super) fn fraction(&self, key: &str) -> Option<FractionalPercent> {
        if let Value::Object(fields) = self.0.get(key)? {
            let numerator = fields.get("numerator").and_then(Value::as_u64).unwrap_or(0);
            let denominator = match fields.get("denominator").and_then(Value::as_str) {
                None | Some("HUNDRED") => 100,
                Some("TEN_THOUSAND") => 10_000,
                Some("MILLION") => 1_000_000,
                Some(_) => return None,
            };
            return Some(FractionalPercent { numerator: u32::try_from(numerator).ok()?, denominator });
        }
        let percent = self.integer(key)?;
        Some(FractionalPercent { numerator: u32::try_from(percent).ok()?, denominator: 100 })
    }
}

/// The layers of a bootstrap.
pub(super) fn layers(at: &At<'_>, runtime: pb::bootstrap::LayeredRuntime) -> Vec<RuntimeLayer> {
    classify!(at, runtime => pb::bootstrap::LayeredRuntime { implemented: layers; });
    let mut converted: Vec<RuntimeLayer> = Vec::with_capacity(layers.len());
    let mut admin_layers = 0;
    for (index, layer) in layers.into_iter().enumerate() {
        let at = &at.item("layers", index);
        classify!(at, layer => pb::bootstrap::RuntimeLayer {
            implemented: name, layer_specifier = "static_layer and admin_layer; disk_layer and rtds_layer are refused";
        });
        if converted.iter().any(|other| *other.name == *name) {
            at.field("name").error(format!("duplicate layer name {name:?}"));
        }
        let kind = match layer_specifier {
            Some(Specifier::StaticLayer(values)) => {
                let values = flatten(json_object(values));
                for (key, value) in &values {
                    if matches!(value, Value::Null | Value::Array(_)) {
                        at.field("static_layer").error(format!("invalid runtime entry value for {key}"));
                    }
                }
                RuntimeLayerKind::Static(values)
            }
            Some(Specifier::AdminLayer(_)) => {
                admin_layers += 1;
                if admin_layers > 1 {
                    at.error("only one admin layer is allowed");
                }
                RuntimeLayerKind::Admin
            }
            Some(Specifier::DiskLayer(_)) => {
                at.field("disk_layer").value_refused("envoy.config.bootstrap.v3.RuntimeLayer.disk_layer", "");
                continue;
            }
            Some(Specifier::RtdsLayer(_)) => {
                at.field("rtds_layer").value_refused("envoy.config.bootstrap.v3.RuntimeLayer.rtds_layer", "");
                continue;
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

/// Dotted keys of all scalars; an object that has `numerator` or `denominator` is one value, a `FractionalPercent`.
fn flatten(object: serde_json::Map<String, Value>) -> Vec<(Box<str>, Value)> {
    let mut flat = BTreeMap::new();
    flatten_into("", object, &mut flat);
    flat.into_iter().collect()
}

fn flatten_into(prefix: &str, object: serde_json::Map<String, Value>, flat: &mut BTreeMap<Box<str>, Value>) {
    for (key, value) in object {
        let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        match value {
            Value::Object(inner)
                if !inner.contains_key("numerator") && !inner.contains_key("denominator") =>
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

    fn runtime(json: &str) -> Runtime {
        let object: serde_json::Map<String, Value> = serde_json::from_str(json).unwrap();
        Runtime::new(&[RuntimeLayer { name: "a".into(), kind: RuntimeLayerKind::Static(flatten(object)) }])
    }

    #[test]
    fn runtime_of_nested_objects_is_read_by_dotted_keys() {
        let runtime = runtime(r#"{"a": {"b": {"c": 7}}, "a.d": "8"}"#);
        assert_eq!(runtime.integer("a.b.c"), Some(7));
        assert_eq!(runtime.integer("a.d"), Some(8));
        assert_eq!(runtime.integer("a.b"), None);
    }

    #[test]
    fn runtime_fraction_is_an_object_or_a_percentage() {
        let runtime = runtime(r#"{"a": {"numerator": 5, "denominator": "TEN_THOUSAND"}, "b": 20}"#);
        assert_eq!(runtime.fraction("a"), Some(FractionalPercent { numerator: 5, denominator: 10_000 }));
        assert_eq!(runtime.fraction("b"), Some(FractionalPercent { numerator: 20, denominator: 100 }));
        assert_eq!(runtime.fraction("c"), None);
    }
}
