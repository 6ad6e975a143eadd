//! Wire bytes to JSON, as Envoy's admin interface prints messages: fields under their proto names, `Any` opened
//! with its `@type`, well-known types in their own notation, secrets left out.
//!
//! Written straight into one String, message by message: no tree is built, however large a dump is. What the
//! loader wrote comes back from here and through the loader again as the same bytes.
mod notation;
mod well_known;

use super::schema::{Class, Field, Kind, Message};
use super::wire::{Fields, Value, WireError};
use crate::base::limits::CONFIG_DEPTH_MAX;
use std::collections::BTreeMap;
use std::fmt::Write;

/// How a message is printed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// One field per line, indented by one space as Envoy does.
    pub pretty: bool,
    /// Values of fields that hold secrets (`udpa.annotations.sensitive`) are `[redacted]`, or left out where they
    /// are neither string nor bytes.
    pub redact: bool,
    /// Levels by which a pretty message is indented already.
    pub indent: usize,
}

const REDACTED: &str = "[redacted]";
/// The same for bytes, which are base64 in JSON.
const REDACTED_BASE64: &str = "W3JlZGFjdGVkXQ==";

/// Appends `bytes`, a `message`, to `out`. Unknown fields are not shown.
///
/// # Errors
/// Bytes that are no such message; `out` then ends within an object. Malformed contents of an Any are no error,
/// they are shown in base64.
pub fn write(out: &mut String, message: Message, bytes: &[u8], style: Style) -> Result<(), WireError> {
    let mut writer = Writer { out, style, indent: style.indent, depth: 0 };
    writer.message(message, bytes, false)
}

struct Writer<'a> {
    out: &'a mut String,
    style: Style,
    indent: usize,
    depth: usize,
}

impl Writer<'_> {
    // === Punctuation ===

    /// Begins a list or object; what comes next is its first element.
    fn open(&mut self, bracket: char) -> bool {
        self.out.push(bracket);
        self.indent += 1;
        true
    }

    /// Goes to the place of the next element; `first` of a list or object says whether it is the first.
    fn next(&mut self, first: &mut bool) {
        if !std::mem::take(first) {
            self.out.push(',');
        }
        self.line();
    }

    fn key(&mut self, key: &str, first: &mut bool) {
        self.next(first);
        self.string(key);
        self.out.push_str(if self.style.pretty { ": " } else { ":" });
    }

    fn close(&mut self, bracket: char, empty: bool) {
        self.indent -= 1;
        if !empty {
            self.line();
        }
        self.out.push(bracket);
    }

    fn line(&mut self) {
        if self.style.pretty {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', self.indent));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                // Angle brackets as well: a dump may end up in a page.
                '\0'..='\x1f' | '\x7f' | '<' | '>' | '\u{2028}' | '\u{2029}' => {
                    self.display(format_args!("\\u{:04x}", c as u32));
                }
                _ => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn display(&mut self, value: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{value}");
    }

    // === Messages ===

    /// A message; `secret` if something around it is.
    fn message(&mut self, message: Message, bytes: &[u8], secret: bool) -> Result<(), WireError> {
        if self.depth > CONFIG_DEPTH_MAX {
            return Err(WireError::TooDeep);
        }
        self.depth += 1;
        let fields = Fields::decode(message, bytes)?;
        match message.class() {
            Class::Any => self.any(&fields, secret)?,
            Class::Struct => self.structure(&fields, None, secret)?,
            Class::Value => self.struct_value(&fields, None, secret)?,
            Class::ListValue => self.list_value(&fields, None, secret)?,
            Class::Wrapper => match (message.field_by_number(1), fields.get(1)) {
                (Some(field), Some(value)) => self.value(field, value, secret)?,
                (Some(field), None) => self.default(field.kind(), secret),
                (None, _) => {}
            },
            class => match notation::of(class, &fields) {
                Some(text) => self.string(if secret { REDACTED } else { &text }),
                None => {
                    let mut first = self.open('{');
                    self.fields(message, &fields, secret, &mut first)?;
                    self.close('}', first);
                }
            },
        }
        self.depth -= 1;
        Ok(())
    }

    fn fields(
        &mut self,
        message: Message,
        fields: &Fields<'_>,
        secret: bool,
        first: &mut bool,
    ) -> Result<(), WireError> {
        // A TypedStruct is a message in disguise: its type says which of its values are secrets.
        let disguised =
            message.name().ends_with(".TypedStruct").then(|| Message::find_by_url(fields.text(1))).flatten();
        for (field, values) in fields.groups() {
            let secret = secret || (self.style.redact && field.is_sensitive());
            if secret && field.message().is_none() && !matches!(field.kind(), Kind::String | Kind::Bytes) {
                continue;
            }
            if !field.is_repeated() && values.iter().all(|(_, value)| is_empty_value(field, value)) {
                continue;
            }
            self.key(field.name(), first);
            match values {
                _ if field.is_map() => self.map(field, values, secret)?,
                [(_, Value::Message(bytes))]
                    if disguised.is_some() && field.message().is_some_and(is_struct) =>
                {
                    if let Some(structure) = field.message() {
                        self.structure(&Fields::decode(structure, bytes)?, disguised, secret)?;
                    }
                }
                [(_, value)] if !field.is_repeated() => self.value(field, value, secret)?,
                _ => self.list(field, values, secret)?,
            }
        }
        Ok(())
    }

    fn list(&mut self, field: Field, values: &[(Field, Value<'_>)], secret: bool) -> Result<(), WireError> {
        let mut first = self.open('[');
        for (_, value) in values.iter().filter(|(_, value)| !is_empty_value(field, value)) {
            self.next(&mut first);
            self.value(field, value, secret)?;
        }
        self.close(']', first);
        Ok(())
    }

    fn map(&mut self, field: Field, values: &[(Field, Value<'_>)], secret: bool) -> Result<(), WireError> {
        let Some((entry, (key_field, value_field))) = field.message().zip(field.map_entry()) else {
            return Ok(());
        };
        let mut entries = Vec::with_capacity(values.len());
        // Of entries with one key, the last counts.
        let mut last = BTreeMap::new();
        for (_, value) in values {
            if let Value::Message(bytes) = value {
                let fields = Fields::decode(entry, bytes)?;
                let key = fields.get(1).map_or_else(|| default_key(key_field.kind()), map_key);
                last.insert(key.clone(), entries.len());
                entries.push((key, fields));
            }
        }
        let mut first = self.open('{');
        for (index, (key, fields)) in entries.iter().enumerate() {
            if last.get(key) != Some(&index) {
                continue;
            }
            match fields.get(2) {
                Some(value) if is_empty_value(value_field, value) => continue,
                Some(value) => {
                    self.key(key, &mut first);
                    self.value(value_field, value, secret)?;
                }
                None => {
                    self.key(key, &mut first);
                    match value_field.message() {
                        Some(message) => self.message(message, b"", secret)?,
                        None => self.default(value_field.kind(), secret),
                    }
                }
            }
        }
        self.close('}', first);
        Ok(())
    }

    // === Values ===

    fn value(&mut self, field: Field, value: &Value<'_>, secret: bool) -> Result<(), WireError> {
        match value {
            Value::Message(bytes) => {
                if let Some(message) = field.message() {
                    return self.message(message, bytes, secret);
                }
            }
            _ if secret => self.string(if field.kind() == Kind::Bytes { REDACTED_BASE64 } else { REDACTED }),
            Value::Text(text) => self.string(text),
            Value::Bytes(bytes) => self.base64(bytes),
            Value::Bool(value) => self.display(value),
            Value::I32(number) => self.display(number),
            Value::U32(number) => self.display(number),
            // Beyond 2^53 a JSON number is not safe with every reader.
            Value::I64(number) => self.display(format_args!("\"{number}\"")),
            Value::U64(number) => self.display(format_args!("\"{number}\"")),
            Value::F32(number) if number.is_finite() => self.display(format_args!("{number:?}")),
            Value::F64(number) if number.is_finite() => self.float(*number),
            Value::F32(number) => self.float(f64::from(*number)),
            Value::F64(number) => self.float(*number),
            Value::Enum(number) => match field.enumeration() {
                Some(of) if of.is_null_value() => self.out.push_str("null"),
                Some(of) => match of.value(*number) {
                    Some(value) => self.string(value.name),
                    None => self.display(number),
                },
                None => self.display(number),
            },
        }
        Ok(())
    }

    fn default(&mut self, kind: Kind, secret: bool) {
        match kind {
            _ if secret => self.string(REDACTED),
            Kind::String | Kind::Bytes => self.out.push_str("\"\""),
            Kind::Bool => self.out.push_str("false"),
            Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64 => {
                self.out.push_str("\"0\"")
            }
            _ => self.out.push('0'),
        }
    }

    fn float(&mut self, number: f64) {
        if number.is_nan() {
            self.out.push_str("\"NaN\"");
        } else if number.is_infinite() {
            self.out.push_str(if number > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
        } else if number.fract() == 0.0
            && number.abs() < 1e15
            && !(number == 0.0 && number.is_sign_negative())
        {
            self.display(number as i64);
        } else {
            self.display(format_args!("{number:?}"));
        }
    }

    fn base64(&mut self, bytes: &[u8]) {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        self.out.push('"');
        for group in bytes.chunks(3) {
            let mut word = 0_u32;
            for index in 0..3 {
                word = word << 8 | u32::from(group.get(index).copied().unwrap_or(0));
            }
            for index in 0..4 {
                let digit = DIGITS[(word >> (18 - 6 * index) & 63) as usize];
                self.out.push(if index <= group.len() { digit as char } else { '=' });
            }
        }
        self.out.push('"');
    }
}

fn is_struct(message: Message) -> bool {
    message.class() == Class::Struct
}

/// A `google.protobuf.Value` without a kind stands for nothing; protobuf leaves it out.
fn is_empty_value(field: Field, value: &Value<'_>) -> bool {
    matches!(value, Value::Message(bytes) if bytes.is_empty())
        && field.message().is_some_and(|message| message.class() == Class::Value)
}

fn map_key(key: &Value<'_>) -> String {
    match key {
        Value::Text(text) => (*text).to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::I32(number) => number.to_string(),
        Value::U32(number) => number.to_string(),
        Value::I64(number) => number.to_string(),
        Value::U64(number) => number.to_string(),
        // Keys of maps are nothing else.
        _ => String::new(),
    }
}

fn default_key(kind: Kind) -> String {
    match kind {
        Kind::String => "",
        Kind::Bool => "false",
        _ => "0",
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::super::loader::{Format, Source, load};
    use super::super::wire::{put_bytes, put_nested};
    use super::*;

    fn bytes(message: &str, text: &str) -> (Message, Vec<u8>) {
        let message = Message::find(message).unwrap();
        let source = Source { name: "a.yaml", text, format: Format::Yaml };
        (message, load(message, &[source], false).unwrap_or_else(|errors| panic!("{errors}")).bytes)
    }

    fn json(message: &str, text: &str, style: Style) -> String {
        let (message, bytes) = bytes(message, text);
        let mut out = String::new();
        write(&mut out, message, &bytes, style).unwrap();
        out
    }

    /// Loads `yaml`, prints it and loads what was printed: the bytes must be the same.
    fn round_trip(message: &str, yaml: &str) -> String {
        let printed = json(message, yaml, Style::default());
        let (message, before) = bytes(message, yaml);
        let source = Source { name: "a.json", text: &printed, format: Format::Json };
        assert_eq!(load(message, &[source], false).unwrap().bytes, before, "{printed}");
        printed
    }

    #[test]
    fn fields_of_every_kind_come_back() {
        assert_eq!(
            round_trip(
                "envoy.config.cluster.v3.Cluster",
                "name: \"a \\\"b\\\"\\n\"\nconnect_timeout: 1.5s\nlb_policy: random\nrespect_dns_ttl: on\nper_connection_buffer_limit_bytes: 0\ntype: STATIC
circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 12.5}}}]}\noutlier_detection: {interval: 1s}"
            ),
            "{\"name\":\"a \\\"b\\\"\\n\",\"type\":\"STATIC\",\"connect_timeout\":\"1.500s\",\
             \"per_connection_buffer_limit_bytes\":0,\"lb_policy\":\"RANDOM\",\
             \"circuit_breakers\":{\"thresholds\":[{\"retry_budget\":{\"budget_percent\":{\"value\":12.5}}}]},\
             \"outlier_detection\":{\"interval\":\"1s\"},\"respect_dns_ttl\":true}"
        );
    }

    #[test]
    fn any_and_struct_come_back() {
        assert_eq!(
            round_trip(
                "envoy.config.core.v3.Metadata",
                "filter_metadata: {a: {n: 5, f: 1.5, b: no, z: null, l: [[], {}], big: 5000000000}}
typed_filter_metadata:
  x: {\"@type\": x/google.protobuf.Duration, value: 0.25s}
  y: {\"@type\": x/envoy.config.core.v3.Address, pipe: {path: /a, mode: 511}}
  z: {}
  s: {\"@type\": x/google.protobuf.Struct, value: {}}"
            ),
            "{\"filter_metadata\":{\"a\":{\"n\":5,\"f\":\"1.5\",\"b\":false,\"z\":null,\"l\":[[],{}],\"big\":\"5000000000\"}},\
             \"typed_filter_metadata\":{\"x\":{\"@type\":\"x/google.protobuf.Duration\",\"value\":\"0.250s\"},\
             \"y\":{\"@type\":\"x/envoy.config.core.v3.Address\",\"pipe\":{\"path\":\"/a\",\"mode\":511}},\
             \"z\":{},\"s\":{\"@type\":\"x/google.protobuf.Struct\",\"value\":{}}}}"
        );
    }

    #[test]
    fn pretty_form_is_envoys() {
        let style = Style { pretty: true, ..Style::default() };
        assert_eq!(
            json("envoy.config.core.v3.Node", "id: a\nmetadata: {k: [1, {}]}\nlocality: {}", style),
            "{\n \"id\": \"a\",\n \"metadata\": {\n  \"k\": [\n   1,\n   {}\n  ]\n },\n \"locality\": {}\n}"
        );
    }

    #[test]
    fn secrets_are_redacted_wherever_they_stand() {
        let style = Style { redact: true, ..Style::default() };
        let secret = "envoy.extensions.transport_sockets.tls.v3.Secret";
        let text = "name: s\ntls_certificate: {certificate_chain: {inline_string: public}, private_key: {inline_string: KEY}}";
        let shown = json(secret, text, style);
        assert!(shown.contains("public") && !shown.contains("KEY"), "{shown}");
        assert!(shown.contains("\"private_key\":{\"inline_string\":\"[redacted]\"}"), "{shown}");
        let text = "tls_certificate: {private_key: {inline_bytes: S0VZ}}";
        assert!(json(secret, text, style).contains("{\"inline_bytes\":\"W3JlZGFjdGVkXQ==\"}"));
        let any = format!("typed_filter_metadata: {{a: {{\"@type\": x/{secret}, {text}}}}}");
        assert!(!json("envoy.config.core.v3.Metadata", &any, style).contains("S0VZ"));
        let disguised = format!(
            "typed_filter_metadata: {{a: {{\"@type\": x/xds.type.v3.TypedStruct, type_url: x/{secret}, value: \
             {{name: nn, tls_certificate: {{privateKey: {{inline_string: KEY}}, certificate_chain: {{inline_string: public}}}}}}}}}}"
        );
        let shown = json("envoy.config.core.v3.Metadata", &disguised, style);
        assert!(
            shown.contains("public") && shown.contains("\"name\":\"nn\"") && !shown.contains("KEY"),
            "{shown}"
        );
        assert!(json("envoy.config.core.v3.Metadata", &disguised, Style::default()).contains("KEY"));
    }

    #[test]
    fn unknown_and_malformed_any_are_shown_in_base64() {
        let any = Message::find("google.protobuf.Any").unwrap();
        for (url, value, expected) in [
            ("x/no.Such", &b"abcd"[..], "{\"@type\":\"x/no.Such\",\"value\":\"YWJjZA==\"}"),
            (
                "x/google.protobuf.Duration",
                b"\x08",
                "{\"@type\":\"x/google.protobuf.Duration\",\"value\":\"CA==\"}",
            ),
            (
                "x/envoy.config.core.v3.Node",
                b"\x0a\x01a\x12",
                "{\"@type\":\"x/envoy.config.core.v3.Node\",\"value\":\"CgFhEg==\"}",
            ),
            ("", b"", "{}"),
        ] {
            let mut bytes = Vec::new();
            put_bytes(&mut bytes, 1, url.as_bytes());
            put_bytes(&mut bytes, 2, value);
            let mut out = String::new();
            write(&mut out, any, &bytes, Style::default()).unwrap();
            assert_eq!(out, expected);
            let mut out = String::new();
            write(&mut out, any, &bytes, Style { redact: true, ..Style::default() }).unwrap();
            assert_eq!(out.contains("[redacted]"), !url.is_empty(), "{out}");
        }
    }

    #[test]
    fn of_map_entries_with_one_key_the_last_is_shown() {
        let message = Message::find("google.protobuf.Struct").unwrap();
        let mut bytes = Vec::new();
        for value in ["a", "b"] {
            put_nested(&mut bytes, 1, |out| {
                put_bytes(out, 1, b"k");
                put_nested(out, 2, |out| put_bytes(out, 3, value.as_bytes()));
            });
        }
        let mut out = String::new();
        write(&mut out, message, &bytes, Style::default()).unwrap();
        assert_eq!(out, "{\"k\":\"b\"}");
    }

    #[test]
    fn deepest_text_comes_back() {
        let nested = format!("{}1{}", "{x: ".repeat(CONFIG_DEPTH_MAX), "}".repeat(CONFIG_DEPTH_MAX));
        round_trip("google.protobuf.Struct", &nested);
    }

    #[test]
    fn endless_nesting_is_refused() {
        let mut bytes = Vec::new();
        for _ in 0..2 * CONFIG_DEPTH_MAX {
            let mut outer = Vec::new();
            put_nested(&mut outer, 6, |out| put_bytes(out, 1, &bytes));
            bytes = outer;
        }
        let value = Message::find("google.protobuf.Value").unwrap();
        assert_eq!(write(&mut String::new(), value, &bytes, Style::default()), Err(WireError::TooDeep));
    }
}
