//! protoc-gen-validate's rules of single values: bounds, lengths, formats, enums.
use super::super::schema::{Class, Field, Number, Rule, WellKnown};
use super::super::wire::{Fields, Value};
use super::{Checker, Level, nanoseconds, rules_at, seconds_and_nanos, show_duration, zero};

impl Checker {
    pub(super) fn scalar_rules(&mut self, field: Field, value: &Value<'_>, level: Level) {
        self.scalar_rules_of(field, field, value, level);
    }

    /// Rules that stand at `rules_of`, on a `value` of `field`.
    pub(super) fn scalar_rules_of(&mut self, rules_of: Field, field: Field, value: &Value<'_>, level: Level) {
        if rules_of.rules().is_empty() {
            return;
        }
        match (field.message(), value) {
            (Some(message), Value::Message(bytes)) => {
                // Rules of numbers and strings at a message field mean what a wrapper or duration holds.
                let Ok(fields) = Fields::decode(message, bytes) else { return };
                match message.class() {
                    Class::Wrapper => {
                        let Some(inner) = message.field_by_number(1) else { return };
                        let inner_value = fields.get(1).cloned().unwrap_or_else(|| zero(inner.kind()));
                        self.rules(rules_of, inner, &inner_value, level);
                    }
                    Class::Duration => {
                        let (seconds, nanos) = seconds_and_nanos(&fields);
                        self.bounds(rules_of, level, nanoseconds(seconds, nanos), show_duration, |bound| {
                            i128::from(bound.as_i64())
                        });
                    }
                    _ => {}
                }
            }
            _ => self.rules(rules_of, field, value, level),
        }
    }

    fn rules(&mut self, rules_of: Field, field: Field, value: &Value<'_>, level: Level) {
        let ignore_empty = rules_at(rules_of.rules(), level).any(|rule| rule == Rule::IgnoreEmpty);
        if ignore_empty && is_zero(value) {
            return;
        }
        match value {
            Value::I32(number) => self.integer_bounds(rules_of, level, i128::from(*number), true),
            Value::I64(number) => self.integer_bounds(rules_of, level, i128::from(*number), true),
            Value::U32(number) => self.integer_bounds(rules_of, level, i128::from(*number), false),
            Value::U64(number) => self.integer_bounds(rules_of, level, i128::from(*number), false),
            Value::F32(number) => {
                self.bounds(rules_of, level, f64::from(*number), |number| number.to_string(), Number::as_f64);
            }
            Value::F64(number) => {
                self.bounds(rules_of, level, *number, |number| number.to_string(), Number::as_f64)
            }
            Value::Text(text) => {
                rules_at(rules_of.rules(), level).for_each(|rule| self.text_rule(rule, text));
            }
            Value::Bytes(bytes) => {
                rules_at(rules_of.rules(), level).for_each(|rule| self.bytes_rule(rule, bytes.len()));
            }
            Value::Bool(value) => {
                if rules_at(rules_of.rules(), level).any(|rule| rule == Rule::Const(!value)) {
                    self.violation(format!("must be {}", !value));
                }
            }
            Value::Enum(number) => {
                for rule in rules_at(rules_of.rules(), level) {
                    self.enum_rule(rule, field, *number);
                }
            }
            Value::Message(_) => {}
        }
    }

    fn integer_bounds(&mut self, field: Field, level: Level, number: i128, signed: bool) {
        self.bounds(
            field,
            level,
            number,
            |number| number.to_string(),
            |bound| {
                if signed { i128::from(bound.as_i64()) } else { i128::from(bound.as_u64()) }
            },
        );
    }

    /// `gt`, `gte`, `lt`, `lte`. With the lower bound above the upper one, either is enough.
    fn bounds<T: PartialOrd + Copy>(
        &mut self,
        field: Field,
        level: Level,
        value: T,
        show: impl Fn(T) -> String,
        read: impl Fn(Number) -> T,
    ) {
        let mut low: Option<(bool, T, String)> = None;
        let mut high: Option<(bool, T, String)> = None;
        for rule in rules_at(field.rules(), level) {
            let (bound, side, holds, words): (_, _, fn(&T, &T) -> bool, _) = match rule {
                Rule::Gt(bound) => (bound, &mut low, T::gt, "above"),
                Rule::Gte(bound) => (bound, &mut low, T::ge, "at least"),
                Rule::Lt(bound) => (bound, &mut high, T::lt, "below"),
                Rule::Lte(bound) => (bound, &mut high, T::le, "at most"),
                _ => continue,
            };
            let bound = read(bound);
            *side = Some((holds(&value, &bound), bound, format!("{words} {}", show(bound))));
        }
        let reason = match (low, high) {
            (Some((true, ..)) | None, Some((true, ..)) | None) => return,
            (Some((low_holds, low, low_words)), Some((high_holds, high, high_words))) => {
                if low > high {
                    if low_holds || high_holds {
                        return;
                    }
                    format!("{low_words} or {high_words}")
                } else {
                    format!("{low_words} and {high_words}")
                }
            }
            (Some((_, _, words)), None) | (None, Some((_, _, words))) => words,
        };
        self.violation(format!("must be {reason}, it is {}", show(value)));
    }

    fn text_rule(&mut self, rule: Rule, text: &str) {
        let shown = || format!("\"{}\"", text.chars().take(60).collect::<String>().escape_debug());
        let characters = || text.chars().count();
        match rule {
            Rule::MinLen(1) | Rule::MinBytes(1) if text.is_empty() => self.violation("must not be empty"),
            Rule::MinLen(least) if characters() < least as usize => {
                self.violation(format!("must have at least {least} characters, it has {}", characters()));
            }
            Rule::MaxLen(most) if characters() > most as usize => {
                self.violation(format!("must have at most {most} characters, it has {}", characters()));
            }
            Rule::Prefix(prefix) if !text.starts_with(prefix) => {
                self.violation(format!("must begin with \"{prefix}\", it is {}", shown()));
            }
            Rule::Suffix(suffix) if !text.ends_with(suffix) => {
                self.violation(format!("must end with \"{suffix}\", it is {}", shown()));
            }
            Rule::Pattern(pattern) if !matches(pattern, text) => {
                self.violation(format!("must match {pattern}, it is {}", shown()));
            }
            Rule::In(allowed) if !allowed.iter().any(|one| one == text) => {
                let allowed: Vec<_> = allowed.iter().collect();
                self.violation(format!("must be one of {}, it is {}", allowed.join(", "), shown()));
            }
            Rule::WellKnown(format) if !is_well_formed(format, text) => {
                let what = match format {
                    WellKnown::HeaderName { .. } => "header name",
                    WellKnown::HeaderValue { .. } => "header value",
                };
                self.violation(format!("{} cannot stand in a {what}", shown()));
            }
            rule => self.bytes_rule(rule, text.len()),
        }
    }

    fn bytes_rule(&mut self, rule: Rule, length: usize) {
        match rule {
            Rule::MinBytes(1) if length == 0 => self.violation("must not be empty"),
            Rule::MinBytes(least) if length < least as usize => {
                self.violation(format!("must have at least {least} bytes, it has {length}"));
            }
            Rule::MaxBytes(most) if length > most as usize => {
                self.violation(format!("must have at most {most} bytes, it has {length}"));
            }
            _ => {}
        }
    }

    fn enum_rule(&mut self, rule: Rule, field: Field, number: i32) {
        let Some(of) = field.enumeration() else { return };
        match rule {
            Rule::DefinedOnly if of.value(number).is_none() => {
                self.violation(format!("{number} is no value of {}", of.name()));
            }
            Rule::NotIn(forbidden) if forbidden == number => {
                let name = of.value(number).map_or_else(|| number.to_string(), |value| value.name.to_owned());
                self.violation(format!("must not be {name}"));
            }
            _ => {}
        }
    }
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Text(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::I32(number) | Value::Enum(number) => *number == 0,
        Value::U32(number) => *number == 0,
        Value::I64(number) => *number == 0,
        Value::U64(number) => *number == 0,
        Value::F32(number) => *number == 0.0,
        Value::F64(number) => *number == 0.0,
        Value::Bool(value) => !value,
        Value::Message(bytes) => bytes.is_empty(),
    }
}

/// Whether an expression of the table occurs in `text`. The table's test compiles all of them; one that did not
/// would let everything pass.
fn matches(pattern: &str, text: &str) -> bool {
    regex_automata::meta::Regex::new(pattern).map_or(true, |regex| regex.is_match(text))
}

/// protoc-gen-validate's HTTP_HEADER_NAME and HTTP_HEADER_VALUE.
fn is_well_formed(format: WellKnown, text: &str) -> bool {
    match format {
        WellKnown::HeaderName { strict: true } => {
            let name = text.strip_prefix(':').unwrap_or(text);
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_|~`".contains(&byte))
        }
        WellKnown::HeaderValue { strict: true } => {
            text.bytes().all(|byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
        }
        WellKnown::HeaderName { strict: false } | WellKnown::HeaderValue { strict: false } => {
            text.bytes().all(|byte| !matches!(byte, 0 | b'\n' | b'\r'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::schema::Message;
    use super::*;

    #[test]
    fn every_expression_of_the_table_compiles() {
        for message in Message::all() {
            for field in message.fields() {
                for rule in field.rules() {
                    if let Rule::Pattern(pattern) = rule {
                        assert!(regex_automata::meta::Regex::new(pattern).is_ok(), "{field:?}: {pattern}");
                    }
                }
            }
        }
    }

    #[test]
    fn header_names_and_values_are_told_from_others() {
        let name = WellKnown::HeaderName { strict: true };
        let value = WellKnown::HeaderValue { strict: false };
        assert!(is_well_formed(name, ":path") && is_well_formed(name, "x-a"));
        assert!(!is_well_formed(name, "") && !is_well_formed(name, "a b"));
        assert!(is_well_formed(value, "") && is_well_formed(value, "a\tb"));
        assert!(!is_well_formed(value, "a\nb"));
    }
}
