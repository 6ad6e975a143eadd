//! Runtime values of the bootstrap's static layers: what the keys in a configuration stand for.

use std::collections::HashMap;

use serde_json::Value;

use crate::config::bootstrap::{RuntimeLayer, RuntimeLayerKind};
use crate::config::matcher::FractionalPercent;

/// The values of all layers, later ones over earlier ones.
#[derive(Debug)]
pub(super) struct Values<'a>(HashMap<&'a str, &'a Value>);

impl<'a> Values<'a> {
    pub(super) fn of(layers: &'a [RuntimeLayer]) -> Self {
        let entries = layers.iter().flat_map(|layer| match &layer.kind {
            RuntimeLayerKind::Static(entries) => entries.as_slice(),
            RuntimeLayerKind::Admin => &[],
        });
        Self(entries.map(|(key, value)| (&**key, value)).collect())
    }

    /// A non-negative integer, also one written as text.
    pub(super) fn integer(&self, key: &str) -> Option<u64> {
        match self.0.get(key)? {
            Value::Number(number) => number.as_u64().or_else(|| number.as_f64().map(|float| float as u64)),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A fraction, or an integer as a percentage.
    pub(super) fn fraction(&self, key: &str) -> Option<FractionalPercent> {
        let Some(Value::Object(object)) = self.0.get(key) else {
            let percent = u32::try_from(self.integer(key)?).unwrap_or(u32::MAX);
            return Some(FractionalPercent { numerator: percent, denominator: 100 });
        };
        let numerator = object.get("numerator").and_then(Value::as_u64).unwrap_or(0);
        let denominator = match object.get("denominator").and_then(Value::as_str) {
            Some("TEN_THOUSAND") => 10_000,
            Some("MILLION") => 1_000_000,
            _ => 100,
        };
        Some(FractionalPercent { numerator: u32::try_from(numerator).unwrap_or(u32::MAX), denominator })
    }
}
