//! The well-known types in their JSON notation: Any, Struct, Value, ListValue, Duration, Timestamp, FieldMask.
//!
//! Field numbers are those of google/protobuf's own files; they will not change.
use super::super::schema::{Class, Kind, Message};
use super::super::wire::{put_bytes, put_integer, put_nested, put_tag};
use super::encode::Encoder;
use super::suggest::{closest, did_you_mean};
use super::tree::{Entry, Node, Value};
use super::{legacy, scalar};

impl Encoder<'_> {
    /// `{"@type": "type.googleapis.com/a.b.C", ...}`: the fields of C beside the type, or, for a well-known
    /// type, its notation under `value`.
    pub(super) fn any(&mut self, out: &mut Vec<u8>, node: &Node) {
        let Value::Map(entries) = &node.value else {
            let reason = format!("expected an object with \"@type\", found {}", node.value.describe());
            return self.error(node.mark, reason);
        };
        let Some(type_entry) = entries.iter().find(|entry| &*entry.key == "@type") else {
            if !entries.is_empty() {
                let reason = "\"@type\" is missing: which message this is cannot be told from its fields";
                self.error(node.mark, reason);
            }
            return;
        };
        let url = match scalar::text(&type_entry.node.value) {
            Ok(url) => url,
            Err(reason) => return self.error(type_entry.node.mark, format!("@type: {reason}")),
        };
        let Some(message) = Message::find_by_url(url) else {
            return self.unknown_type(type_entry, url);
        };
        put_bytes(out, 1, url.as_bytes());
        let start = out.len();
        let mut is_empty = true;
        put_nested(out, 2, |out| {
            let start = out.len();
            if message.class() == Class::Plain {
                self.object(out, message, node, true);
            } else {
                self.well_known_in_any(out, message, entries);
            }
            is_empty = out.len() == start;
        });
        if is_empty {
            out.truncate(start);
        }
    }

    fn well_known_in_any(&mut self, out: &mut Vec<u8>, message: Message, entries: &[Entry]) {
        for entry in entries {
            match &*entry.key {
                "@type" => {}
                "value" if entry.node.value == Value::Null && message.class() != Class::Value => {}
                "value" => self.message(out, message, &entry.node),
                _ => {
                    let reason = format!("an Any of {} has no fields but @type and value", message.name());
                    self.within_field(&entry.key, |encoder| encoder.error(entry.mark, reason));
                }
            }
        }
    }

    fn unknown_type(&mut self, entry: &Entry, url: &str) {
        let mark = entry.node.mark;
        let Some((host, name)) = url.rsplit_once('/') else {
            let hint = match Message::find(url) {
                Some(_) => format!("; write \"type.googleapis.com/{url}\""),
                None => String::new(),
            };
            return self
                .error(mark, format!("@type \"{url}\" needs a host and a slash before the name{hint}"));
        };
        let hint = if host.is_empty() {
            "; write \"type.googleapis.com/\" before the name".to_owned()
        } else if let Some(message) = Message::find_by_v2_name(name) {
            format!("; Envoy v2 had it, in v3 it is {}", message.name())
        } else if let Some(v3) = legacy::v3_type(name) {
            format!("; in v3 it is {v3}")
        } else {
            let named = name.rsplit('.').next().unwrap_or(name);
            let same_name =
                Message::all().map(Message::name).find(|known| known.rsplit('.').next() == Some(named));
            did_you_mean(same_name.or_else(|| closest(name, Message::all().map(Message::name))))
        };
        self.error(mark, format!("no message type {name} in the API of Envoy 1.40{hint}"));
    }

    /// `google.protobuf.Struct`: `map<string, Value> fields = 1`.
    pub(super) fn structure(&mut self, out: &mut Vec<u8>, node: &Node) {
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            self.error(
                node.mark,
                format!("expected an object (google.protobuf.Struct), found {}", node.value.describe()),
            );
        }
        for entry in node.entries() {
            put_nested(out, 1, |out| {
                put_bytes(out, 1, entry.key.as_bytes());
                put_nested(out, 2, |out| {
                    self.within_field(&entry.key, |encoder| encoder.struct_value(out, &entry.node));
                });
            });
        }
    }

    /// `google.protobuf.Value`: null 1, number 2, string 3, bool 4, struct 5, list 6.
    pub(super) fn struct_value(&mut self, out: &mut Vec<u8>, node: &Node) {
        match &node.value {
            Value::Null => put_integer_field(out, 1, 0),
            Value::Number(_) => match scalar::float(Kind::Double, &node.value) {
                Ok(number) => {
                    put_tag(out, 2, Kind::Double);
                    out.extend_from_slice(&number.to_le_bytes());
                }
                Err(reason) => self.error(node.mark, reason),
            },
            Value::Text(text) => put_bytes(out, 3, text.as_bytes()),
            Value::Bool(value) => put_integer_field(out, 4, u64::from(*value)),
            Value::Map(_) => put_nested(out, 5, |out| self.structure(out, node)),
            Value::List(_) => put_nested(out, 6, |out| self.list_value(out, node)),
        }
    }

    /// `google.protobuf.ListValue`: `repeated Value values = 1`.
    pub(super) fn list_value(&mut self, out: &mut Vec<u8>, node: &Node) {
        match &node.value {
            Value::List(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    self.within(format_args!("[{index}]"), |encoder| {
                        put_nested(out, 1, |out| encoder.struct_value(out, element));
                    });
                }
            }
            Value::Null => {}
            other => self.error(node.mark, format!("expected a list, found {}", other.describe())),
        }
    }

    pub(super) fn duration(&mut self, out: &mut Vec<u8>, node: &Node) {
        self.seconds_and_nanos(out, node, scalar::duration(&node.value));
    }

    pub(super) fn timestamp(&mut self, out: &mut Vec<u8>, node: &Node) {
        self.seconds_and_nanos(out, node, scalar::timestamp(&node.value));
    }

    fn seconds_and_nanos(&mut self, out: &mut Vec<u8>, node: &Node, time: Result<(i64, i32), String>) {
        match time {
            Ok((seconds, nanos)) => {
                for (number, part) in [(1, seconds), (2, i64::from(nanos))] {
                    if part != 0 {
                        put_integer_field(out, number, part as u64);
                    }
                }
            }
            Err(reason) => self.error(node.mark, reason),
        }
    }

    pub(super) fn field_mask(&mut self, out: &mut Vec<u8>, node: &Node) {
        match scalar::field_mask(&node.value) {
            Ok(paths) => paths.iter().for_each(|path| put_bytes(out, 1, path.as_bytes())),
            Err(reason) => self.error(node.mark, reason),
        }
    }
}

fn put_integer_field(out: &mut Vec<u8>, number: u32, value: u64) {
    put_tag(out, number, Kind::Int64);
    put_integer(out, Kind::Int64, value);
}
