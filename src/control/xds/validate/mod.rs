//! Checks wire bytes against the API's constraints, whoever made them: the loader or a control plane.
//!
//! What Envoy checks before it looks at a configuration at all: protoc-gen-validate's rules, durations that are
//! neither negative nor beyond 292 years, fields and enum values that are disallowed. Unlike Envoy, which
//! stops at the first, all violations are found. An `Any` is entered where its type is known, apart from
//! `typed_filter_metadata`, which Envoy never looks into.
mod rules;

use super::schema::{Class, Field, Kind, Message, Rule, Rules};
use super::wire::{Fields, Value, WireError};
use crate::base::limits::{CONFIG_DEPTH_MAX, CONFIG_ERRORS_MAX};
use crate::config::error::{ConfigError, shown_key};
use std::fmt::Write;

/// Seconds of the longest duration that Envoy takes: as nanoseconds they fit 64 bits.
const DURATION_SECONDS_MAX: i64 = (i64::MAX - 999_999_999) / 1_000_000_000;

/// What a check has found, each at most `limits::CONFIG_ERRORS_MAX` times.
#[derive(Debug, Default)]
pub struct Checked {
    /// Constraints that do not hold: the message is to be refused.
    pub violations: Vec<ConfigError>,
    /// Fields that the API does not have. Refused in a file, counted from a control plane.
    pub unknown: Vec<ConfigError>,
    /// Deprecated fields and enum values in use.
    pub deprecated: Vec<ConfigError>,
}

/// Checks `bytes` as a `message`.
pub fn check(message: Message, bytes: &[u8]) -> Checked {
    let mut checker = Checker { path: String::new(), out: Checked::default() };
    checker.message(message, bytes, 1);
    checker.out
}

struct Checker {
    path: String,
    out: Checked,
}

/// Rules that apply at one level: of a field, or of the elements, keys or values of it.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Field,
    Items,
    Keys,
    Values,
}

/// The rules of one level of a field.
fn rules_at(rules: Rules, level: Level) -> impl Iterator<Item = Rule> {
    let mut at = Level::Field;
    rules.filter(move |rule| {
        at = match rule {
            Rule::Items => Level::Items,
            Rule::Keys => Level::Keys,
            Rule::Values => Level::Values,
            _ => return at == level,
        };
        false
    })
}

impl Checker {
    // === Paths and findings ===

    fn violation(&mut self, reason: impl Into<String>) {
        if self.out.violations.len() < CONFIG_ERRORS_MAX {
            self.out.violations.push(ConfigError::new(self.path.clone(), reason));
        }
    }

    fn deprecated(&mut self, reason: impl Into<String>) {
        if self.out.deprecated.len() < CONFIG_ERRORS_MAX {
            self.out.deprecated.push(ConfigError::new(self.path.clone(), reason));
        }
    }

    fn within(&mut self, segment: std::fmt::Arguments<'_>, check: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        // Writing to a String cannot fail.
        let _ = self.path.write_fmt(segment);
        check(self);
        self.path.truncate(length);
    }

    fn within_field(&mut self, name: &str, check: impl FnOnce(&mut Self)) {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.within(format_args!("{dot}{name}"), check);
    }

    // === Messages ===

    fn message(&mut self, message: Message, bytes: &[u8], depth: usize) {
        let fields = match Fields::decode(message, bytes) {
            _ if depth > CONFIG_DEPTH_MAX => return self.violation(WireError::TooDeep.to_string()),
            Ok(fields) => fields,
            Err(error) => return self.violation(format!("not a {}: {error}", message.name())),
        };
        if !fields.unknown.is_empty() && self.out.unknown.len() < CONFIG_ERRORS_MAX {
            let numbers: Vec<_> = fields.unknown.iter().map(u32::to_string).collect();
            let mut reason = format!("no such field in {}: number {}", message.name(), numbers.join(", "));
            if fields.unknown_left_out > 0 {
                // Writing to a String cannot fail.
                let _ = write!(reason, " and {} more", fields.unknown_left_out);
            }
            self.out.unknown.push(ConfigError::new(self.path.clone(), reason));
        }
        match message.class() {
            Class::Any => return self.any(&fields, depth),
            Class::Duration => return self.duration(&fields),
            // Anything may stand in them, and three levels on the wire are one of the text.
            Class::Struct | Class::Value | Class::ListValue => return,
            _ => {}
        }
        for (index, _) in message.oneofs().enumerate().filter(|(_, oneof)| oneof.required) {
            let mut members = message.fields().filter(|field| field.oneof() == Some(index));
            if !members.clone().any(|field| !fields.of(field).is_empty()) {
                let first: Vec<_> = members.by_ref().take(8).map(Field::name).collect();
                let more = if members.next().is_some() { ", ..." } else { "" };
                let reason = match first.as_slice() {
                    [only] => format!("{only} is required ({})", message.name()),
                    _ => format!("one of {}{more} is required ({})", first.join(", "), message.name()),
                };
                self.violation(reason);
            }
        }
        for field in message.fields() {
            let values = fields.of(field);
            let has_rules = !field.rules().is_empty();
            if values.is_empty() && !has_rules && field.kind() != Kind::Enum {
                continue;
            }
            self.within_field(field.name(), |checker| checker.field(message, field, values, depth));
        }
    }

    fn any(&mut self, fields: &Fields<'_>, depth: usize) {
        let bytes = match fields.get(2) {
            Some(Value::Bytes(bytes)) => bytes,
            _ => &[][..],
        };
        // A type that is not in the API is for the converter, which knows what it can do without.
        if let Some(message) = Message::find_by_url(fields.text(1)) {
            self.message(message, bytes, depth + 1);
        }
    }

    fn duration(&mut self, fields: &Fields<'_>) {
        let (seconds, nanos) = seconds_and_nanos(fields);
        if seconds < 0 || nanos < 0 {
            self.violation(format!(
                "must not be negative, it is {}",
                show_duration(nanoseconds(seconds, nanos))
            ));
        } else if seconds > DURATION_SECONDS_MAX || nanos > 999_999_999 {
            self.violation(format!("is beyond the longest duration, {DURATION_SECONDS_MAX}s"));
        }
    }

    // === Fields ===

    fn field(&mut self, message: Message, field: Field, values: &[(Field, Value<'_>)], depth: usize) {
        if !values.is_empty() && field.is_disallowed() {
            self.violation(format!("{} is deprecated and disabled: Envoy 1.40 refuses it", field.name()));
        } else if !values.is_empty() && field.is_deprecated() {
            self.deprecated(format!("{}.{} is deprecated", message.name(), field.name()));
        }
        if field.is_map() {
            self.map(field, values, depth);
        } else if field.is_repeated() {
            self.repeated(field, values, depth);
        } else {
            match values.first() {
                Some((_, value)) => self.value(field, value, Level::Field, depth),
                None => self.absent(field),
            }
        }
    }

    fn absent(&mut self, field: Field) {
        // Rules of a oneof's member hold only while it is the one that is set.
        if field.oneof().is_some() {
            return;
        }
        if field.kind() == Kind::Message {
            if rules_at(field.rules(), Level::Field).any(|rule| rule == Rule::Required) {
                self.violation("is required");
            }
        } else {
            // Without presence, absence is a zero, and rules hold for zeros.
            self.scalar_rules(field, &zero(field.kind()), Level::Field);
            self.enum_value(field, 0);
        }
    }

    fn repeated(&mut self, field: Field, values: &[(Field, Value<'_>)], depth: usize) {
        self.count_rules(field, values.len(), "item");
        if rules_at(field.rules(), Level::Field).any(|rule| rule == Rule::Unique) {
            let mut seen: Vec<String> = values.iter().map(|(_, value)| format!("{value:?}")).collect();
            seen.sort_unstable();
            if seen.windows(2).any(|pair| pair[0] == pair[1]) {
                self.violation("must not have the same item twice");
            }
        }
        for (index, (_, value)) in values.iter().enumerate() {
            self.within(format_args!("[{index}]"), |checker| {
                checker.value(field, value, Level::Items, depth)
            });
        }
    }

    fn count_rules(&mut self, field: Field, count: usize, what: &str) {
        for rule in rules_at(field.rules(), Level::Field) {
            match rule {
                Rule::MinItems(least) if count < least as usize => {
                    self.violation(format!(
                        "must have at least {least} {what}{}",
                        if least == 1 { "" } else { "s" }
                    ));
                }
                Rule::MaxItems(most) if count > most as usize => {
                    self.violation(format!(
                        "must have at most {most} {what}{}",
                        if most == 1 { "" } else { "s" }
                    ));
                }
                _ => {}
            }
        }
    }

    fn map(&mut self, field: Field, values: &[(Field, Value<'_>)], depth: usize) {
        self.count_rules(field, values.len(), "entry");
        let Some((entry, (key_field, value_field))) = field.message().zip(field.map_entry()) else { return };
        for (_, value) in values {
            let Value::Message(bytes) = value else { continue };
            let fields = match Fields::decode(entry, bytes) {
                Ok(fields) => fields,
                Err(error) => {
                    self.violation(format!("not an entry of the map: {error}"));
                    continue;
                }
            };
            let key = fields.get(1).cloned().unwrap_or_else(|| zero(key_field.kind()));
            let shown = match &key {
                Value::Text(text) => shown_key(text).to_owned(),
                other => show(other),
            };
            self.within(format_args!("[\"{shown}\"]"), |checker| {
                // The rules stand at the map; they speak of its entry's fields.
                checker.scalar_rules_of(field, key_field, &key, Level::Keys);
                let value = fields.get(2).cloned().unwrap_or_else(|| zero(value_field.kind()));
                checker.scalar_rules_of(field, value_field, &value, Level::Values);
                if field.name() != "typed_filter_metadata" {
                    checker.nested(value_field, &value, depth);
                }
            });
        }
    }

    /// A value that is set: its rules, then what is within it.
    fn value(&mut self, field: Field, value: &Value<'_>, level: Level, depth: usize) {
        self.scalar_rules(field, value, level);
        if let Value::Enum(number) = value {
            self.enum_value(field, *number);
        }
        if !rules_at(field.rules(), level).any(|rule| rule == Rule::Skip) {
            self.nested(field, value, depth);
        }
    }

    fn nested(&mut self, field: Field, value: &Value<'_>, depth: usize) {
        if let (Some(message), Value::Message(bytes)) = (field.message(), value) {
            self.message(message, bytes, depth + 1);
        }
    }

    fn enum_value(&mut self, field: Field, number: i32) {
        let Some(value) = field.enumeration().and_then(|of| of.value(number)) else { return };
        if value.disallowed {
            self.violation(format!("{} is deprecated and disabled: Envoy 1.40 refuses it", value.name));
        } else if value.deprecated {
            self.deprecated(format!("{} is deprecated", value.name));
        }
    }
}

/// The value that absence stands for.
fn zero(kind: Kind) -> Value<'static> {
    match kind {
        Kind::Bool => Value::Bool(false),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(0),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(0),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(0),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(0),
        Kind::Float => Value::F32(0.0),
        Kind::Double => Value::F64(0.0),
        Kind::Enum => Value::Enum(0),
        Kind::String => Value::Text(""),
        Kind::Bytes => Value::Bytes(b""),
        Kind::Message => Value::Message((&[][..]).into()),
    }
}

fn show(value: &Value<'_>) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::I32(number) | Value::Enum(number) => number.to_string(),
        Value::U32(number) => number.to_string(),
        Value::I64(number) => number.to_string(),
        Value::U64(number) => number.to_string(),
        // Keys of maps are nothing else.
        _ => String::new(),
    }
}

fn seconds_and_nanos(fields: &Fields<'_>) -> (i64, i32) {
    let seconds = match fields.get(1) {
        Some(Value::I64(seconds)) => *seconds,
        _ => 0,
    };
    let nanos = match fields.get(2) {
        Some(Value::I32(nanos)) => *nanos,
        _ => 0,
    };
    (seconds, nanos)
}

fn nanoseconds(seconds: i64, nanos: i32) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

fn show_duration(nanoseconds: i128) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let magnitude = nanoseconds.unsigned_abs();
    let text = format!("{sign}{}.{:09}", magnitude / 1_000_000_000, magnitude % 1_000_000_000);
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::super::schema::Message;
    use super::super::wire::{put_bytes, put_nested, put_varint};
    use super::*;
    use crate::base::limits::{CONFIG_KEY_BYTES_SHOWN_MAX, CONFIG_UNKNOWN_NUMBERS_MAX};

    fn cluster(name: &str, connect_timeout: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, name.as_bytes());
        put_bytes(&mut out, 4, connect_timeout);
        out
    }

    fn check_cluster(bytes: &[u8]) -> Vec<String> {
        let checked = check(Message::find("envoy.config.cluster.v3.Cluster").unwrap(), bytes);
        checked.violations.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn valid_cluster_has_no_violations() {
        assert_eq!(check_cluster(&cluster("a", &[8, 1])), [""; 0]);
    }

    #[test]
    fn empty_name_and_zero_timeout_are_both_found() {
        assert_eq!(
            check_cluster(&cluster("", &[])),
            ["name: must not be empty", "connect_timeout: must be above 0s, it is 0s"]
        );
    }

    #[test]
    fn path_shows_the_beginning_of_a_long_key() {
        let mut any = Vec::new();
        put_bytes(&mut any, 1, b"type.googleapis.com/envoy.config.cluster.v3.Cluster");
        put_bytes(&mut any, 2, &cluster("", &[8, 1]));
        let mut bytes = cluster("a", &[8, 1]);
        // typed_extension_protocol_options = 36.
        put_nested(&mut bytes, 36, |out| {
            put_bytes(out, 1, "k".repeat(1000).as_bytes());
            put_bytes(out, 2, &any);
        });
        let path =
            format!("typed_extension_protocol_options[\"{}\"].name", "k".repeat(CONFIG_KEY_BYTES_SHOWN_MAX));
        assert_eq!(check_cluster(&bytes), [format!("{path}: must not be empty")]);
    }

    #[test]
    fn negative_and_endless_durations_are_found() {
        // cleanup_interval = 20, without a rule against it.
        let mut bytes = cluster("a", &[8, 1]);
        put_nested(&mut bytes, 20, |out| {
            out.push(8);
            put_varint(out, -1_i64 as u64);
        });
        put_nested(&mut bytes, 20, |_| ());
        assert_eq!(check_cluster(&bytes).len(), 2, "its own rule and the sign");
        let mut bytes = cluster("a", &[8, 1]);
        put_nested(&mut bytes, 20, |out| {
            out.push(8);
            put_varint(out, 9_223_372_036);
        });
        assert_eq!(check_cluster(&bytes), ["cleanup_interval: is beyond the longest duration, 9223372035s"]);
    }

    #[test]
    fn unknown_fields_are_reported_apart() {
        let mut bytes = cluster("a", &[8, 1]);
        put_bytes(&mut bytes, 4000, b"");
        let checked = check(Message::find("envoy.config.cluster.v3.Cluster").unwrap(), &bytes);
        assert!(checked.violations.is_empty());
        assert_eq!(
            checked.unknown,
            [ConfigError::new("", "no such field in envoy.config.cluster.v3.Cluster: number 4000")]
        );
    }

    #[test]
    fn unknown_fields_that_are_not_told_of_are_counted() {
        let mut bytes = cluster("a", &[8, 1]);
        (0..CONFIG_UNKNOWN_NUMBERS_MAX as u32 + 3).for_each(|more| put_bytes(&mut bytes, 4000 + more, b""));
        let checked = check(Message::find("envoy.config.cluster.v3.Cluster").unwrap(), &bytes);
        let [unknown] = &checked.unknown[..] else { panic!("{:?}", checked.unknown) };
        assert!(unknown.reason.contains("number 4000, 4001, "), "{unknown}");
        assert!(unknown.reason.ends_with(", 4098, 4099 and 3 more"), "{unknown}");
    }

    #[test]
    fn malformed_and_too_deep_bytes_are_violations() {
        assert_eq!(
            check_cluster(&[0x0a]),
            ["not a envoy.config.cluster.v3.Cluster: the message ends within a field"]
        );
        // A rule that is the opposite of a rule that is the opposite of a rule ...
        let mut bytes = Vec::new();
        for _ in 0..CONFIG_DEPTH_MAX {
            let mut outer = Vec::new();
            put_bytes(&mut outer, 8, &bytes);
            bytes = outer;
        }
        let checked = check(Message::find("envoy.config.rbac.v3.Permission").unwrap(), &bytes);
        assert!(checked.violations[0].reason.contains("nested too deep"), "{:?}", checked.violations);
    }

    #[test]
    fn alternatives_of_a_lower_bound_above_the_upper_one_hold() {
        let alternatives = Message::all().flat_map(|message| {
            message
                .fields()
                .filter(|field| {
                    let bounds: Vec<_> = field
                        .rules()
                        .filter_map(|rule| match rule {
                            Rule::Gte(bound) => Some((0, bound.as_i64())),
                            Rule::Lte(bound) => Some((1, bound.as_i64())),
                            _ => None,
                        })
                        .collect();
                    field.message().is_some_and(|refers| refers.class() == Class::Duration)
                        && matches!(bounds[..], [(0, low), (1, high)] if low > high)
                })
                .map(move |field| (message, field))
                .collect::<Vec<_>>()
        });
        let mut count = 0;
        for (message, field) in alternatives {
            count += 1;
            let of = |nanos: u64| {
                let mut bytes = Vec::new();
                put_nested(&mut bytes, field.number(), |out| {
                    out.push(2 << 3);
                    put_varint(out, nanos);
                });
                let checked = check(message, &bytes);
                checked.violations.iter().any(|violation| violation.path == field.name())
            };
            assert_eq!((of(0), of(999_999), of(1_000_000)), (false, true, false), "{message:?}.{field:?}");
        }
        assert!(count > 0);
    }
}
