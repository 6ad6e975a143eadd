//! Constraints of a field, decoded from the packed table: what protoc-gen-validate checks for Envoy.
//!
//! A field's rules are a run of one-byte codes with operands, closed by 0. `Items`, `Keys` and `Values` turn
//! the rules behind them to the elements of a list or map.
use super::table::text;

/// A numeric bound. Durations are nanoseconds, `I64`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Number([u8; 8]);

impl Number {
    pub fn as_i64(self) -> i64 {
        i64::from_le_bytes(self.0)
    }

    pub fn as_u64(self) -> u64 {
        u64::from_le_bytes(self.0)
    }

    pub fn as_f64(self) -> f64 {
        f64::from_le_bytes(self.0)
    }
}

/// A format that has a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WellKnown {
    /// Strict: characters of a header name, a leading colon allowed. Otherwise: no NUL, CR, LF.
    HeaderName { strict: bool },
    /// Strict: no control characters but tab. Otherwise: no NUL, CR, LF.
    HeaderValue { strict: bool },
}

/// One constraint. A lower bound above the upper one means: one of both must hold.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Rule {
    Required,
    /// The message in the field is not checked.
    Skip,
    /// The rules behind hold only for a value that is not empty or zero.
    IgnoreEmpty,
    Gt(Number),
    Gte(Number),
    Lt(Number),
    Lte(Number),
    Const(bool),
    /// Characters.
    MinLen(u32),
    MaxLen(u32),
    MinBytes(u32),
    MaxBytes(u32),
    Prefix(&'static str),
    Suffix(&'static str),
    /// RE2, unanchored.
    Pattern(&'static str),
    In(Strings),
    WellKnown(WellKnown),
    DefinedOnly,
    NotIn(i32),
    MinItems(u32),
    MaxItems(u32),
    Unique,
    Items,
    Keys,
    Values,
}

/// Strings of which a value must be one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Strings(&'static [u8]);

impl Strings {
    pub fn iter(self) -> impl Iterator<Item = &'static str> {
        self.0
            .chunks_exact(4)
            .map(|offset| text(u32::from_le_bytes([offset[0], offset[1], offset[2], offset[3]])))
    }
}

/// The rules of one field.
#[derive(Clone, Debug)]
pub struct Rules {
    rest: &'static [u8],
}

impl Rules {
    pub(super) fn new(section: &'static [u8], offset: usize) -> Self {
        Self { rest: &section[offset..] }
    }

    /// Whether the field has no rules.
    pub fn is_empty(&self) -> bool {
        self.rest[0] == 0
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.rest.split_at(N);
        self.rest = rest;
        let mut out = [0; N];
        out.copy_from_slice(head);
        out
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn number(&mut self) -> Number {
        Number(self.take())
    }
}

impl Iterator for Rules {
    type Item = Rule;

    fn next(&mut self) -> Option<Rule> {
        if self.rest[0] == 0 {
            return None;
        }
        let [code] = self.take();
        Some(match code {
            1 => Rule::Required,
            2 => Rule::Skip,
            3 => Rule::IgnoreEmpty,
            4 => Rule::Gt(self.number()),
            5 => Rule::Gte(self.number()),
            6 => Rule::Lt(self.number()),
            7 => Rule::Lte(self.number()),
            8 => Rule::Const(self.take() == [1]),
            9 => Rule::MinLen(self.u32()),
            10 => Rule::MaxLen(self.u32()),
            11 => Rule::MinBytes(self.u32()),
            12 => Rule::MaxBytes(self.u32()),
            13 => Rule::Prefix(text(self.u32())),
            14 => Rule::Suffix(text(self.u32())),
            15 => Rule::Pattern(text(self.u32())),
            16 => {
                let [count] = self.take();
                let (strings, rest) = self.rest.split_at(count as usize * 4);
                self.rest = rest;
                Rule::In(Strings(strings))
            }
            17 => {
                let [which, strict] = self.take();
                let strict = strict != 0;
                Rule::WellKnown(match which {
                    1 => WellKnown::HeaderName { strict },
                    _ => WellKnown::HeaderValue { strict },
                })
            }
            18 => Rule::DefinedOnly,
            19 => Rule::NotIn(self.u32() as i32),
            20 => Rule::MinItems(self.u32()),
            21 => Rule::MaxItems(self.u32()),
            22 => Rule::Unique,
            23 => Rule::Items,
            24 => Rule::Keys,
            // The generator writes no other code; the test of the table decodes every rule.
            _ => Rule::Values,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Message;
    use super::*;

    fn rules(message: &str, field: &str) -> Vec<Rule> {
        Message::find(message).unwrap().field_by_name(field).unwrap().rules().collect()
    }

    #[test]
    fn constraints_of_known_fields_are_read() {
        assert_eq!(rules("envoy.config.cluster.v3.Cluster", "name"), [Rule::MinLen(1)]);
        assert_eq!(rules("envoy.config.cluster.v3.Cluster", "lb_policy"), [Rule::DefinedOnly]);
        assert_eq!(rules("envoy.config.cluster.v3.Cluster", "alt_stat_name"), []);
        let [Rule::Gt(timeout)] = rules("envoy.config.cluster.v3.Cluster", "connect_timeout")[..] else {
            panic!("connect_timeout must be above zero");
        };
        assert_eq!(timeout.as_i64(), 0);
        assert_eq!(
            rules("envoy.config.route.v3.VirtualHost", "domains"),
            [Rule::MinItems(1), Rule::Items, Rule::WellKnown(WellKnown::HeaderValue { strict: false })]
        );
    }
}
