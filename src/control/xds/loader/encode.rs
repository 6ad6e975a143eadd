//! Tree to wire bytes, by the schema table: protobuf's JSON mapping with every leniency that Envoy allows.
//!
//! Each function writes what it can and notes each mistake with its path and place, so that one run finds all
//! of them; the bytes are used only if there was none. Recursion is bounded by the depth of the tree.
//! Well-known types are in `well_known`, the corrections of old spellings in `legacy`.
use super::super::schema::{Class, Field, Kind, Message, Oneof};
use super::super::wire::{is_packable, put_bytes, put_integer, put_nested, put_tag};
use super::suggest::{closest, did_you_mean};
use super::tree::{Entry, Mark, Node, Value};
use super::{legacy, scalar};
use crate::base::limits::CONFIG_ERRORS_MAX;
use crate::config::error::{ConfigError, Position, shown_key};
use std::fmt::Write;

/// Writes one file's tree.
pub(super) struct Encoder<'a> {
    pub(super) file: &'a str,
    /// Fields and enum values that the API does not have are warned of, not refused.
    pub(super) allow_unknown_fields: bool,
    /// Path of the value at hand.
    pub(super) path: String,
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<ConfigError>,
}

/// Whether a zero is written.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Zero {
    /// As absence says the same.
    Omitted,
    /// In a oneof, where even a zero says which member is set.
    Written,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(file: &'a str, allow_unknown_fields: bool) -> Self {
        Self { file, allow_unknown_fields, path: String::new(), errors: Vec::new(), warnings: Vec::new() }
    }

    // === Paths and mistakes ===

    fn problem(&self, mark: Mark, reason: impl Into<String>) -> ConfigError {
        let position = Position { file: self.file.into(), line: mark.line, column: mark.column };
        ConfigError::new(self.path.clone(), reason).at(Some(position))
    }

    pub(super) fn error(&mut self, mark: Mark, reason: impl Into<String>) {
        self.error_with_fix(mark, reason, None);
    }

    pub(super) fn error_with_fix(&mut self, mark: Mark, reason: impl Into<String>, fix: Option<String>) {
        if self.errors.len() < CONFIG_ERRORS_MAX {
            let mut problem = self.problem(mark, reason);
            problem.fix = fix;
            self.errors.push(problem);
        }
    }

    pub(super) fn warning(&mut self, mark: Mark, reason: impl Into<String>) {
        if self.warnings.len() < CONFIG_ERRORS_MAX {
            self.warnings.push(self.problem(mark, reason));
        }
    }

    /// Runs `write` with `segment` behind the path.
    pub(super) fn within<T>(
        &mut self,
        segment: std::fmt::Arguments<'_>,
        write: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let length = self.path.len();
        // Writing to a String cannot fail.
        let _ = self.path.write_fmt(segment);
        let result = write(self);
        self.path.truncate(length);
        result
    }

    /// Runs `write` with the field `name` behind the path.
    pub(super) fn within_field<T>(&mut self, name: &str, write: impl FnOnce(&mut Self) -> T) -> T {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.within(format_args!("{dot}{name}"), write)
    }

    // === Messages ===

    /// The fields of a `message`, without tag and length.
    pub(super) fn message(&mut self, out: &mut Vec<u8>, message: Message, node: &Node) {
        // Apart from the first three, an object in place of the special notation lists the plain fields.
        let is_object = matches!(node.value, Value::Map(_));
        match message.class() {
            Class::Any => self.any(out, node),
            Class::Struct => self.structure(out, node),
            Class::Value => self.struct_value(out, node),
            Class::ListValue if !is_object => self.list_value(out, node),
            Class::Wrapper if !is_object => {
                if let Some(value) = message.field_by_number(1) {
                    self.singular(out, value, node, Zero::Omitted);
                }
            }
            Class::Timestamp if !is_object => self.timestamp(out, node),
            Class::Duration if !is_object => self.duration(out, node),
            Class::FieldMask if !is_object => self.field_mask(out, node),
            _ => self.object(out, message, node, false),
        }
    }

    /// An object whose keys are the fields of `message`; `in_any` where `@type` stands among them.
    pub(super) fn object(&mut self, out: &mut Vec<u8>, message: Message, node: &Node, in_any: bool) {
        let Value::Map(entries) = &node.value else {
            let reason = format!("expected an object ({}), found {}", message.name(), node.value.describe());
            return self.error(node.mark, reason);
        };
        if let Some((reason, fix)) = legacy::missing_typed_config(message, node, self.allow_unknown_fields) {
            self.error_with_fix(node.mark, reason, Some(fix));
        }
        let mut known: Vec<(Field, &Entry)> = Vec::with_capacity(entries.len());
        for entry in entries {
            if in_any && &*entry.key == "@type" {
                continue;
            }
            match message.field_by_name(&entry.key) {
                Some(field) => known.push((field, entry)),
                None => self.unknown_field(message, entry, node),
            }
        }
        known.sort_by_key(|(field, _)| field.number());
        self.refuse_alternatives(message, &known);
        for (field, entry) in known {
            self.within_field(field.name(), |encoder| encoder.field(out, field, entry));
        }
    }

    fn unknown_field(&mut self, message: Message, entry: &Entry, object: &Node) {
        let found = if self.allow_unknown_fields { &self.warnings } else { &self.errors };
        if found.len() >= CONFIG_ERRORS_MAX {
            // Nobody would read it, and looking for what was meant takes its time.
            return;
        }
        let key = &*entry.key;
        self.within_field(key, |encoder| {
            let mut reason = format!("no such field in {}", message.name());
            let fix = legacy::replacement(message, key, &entry.node, object);
            if message.is_removed_field(key) {
                reason += "; it was removed from the API (Envoy v2)";
            } else if key == "<<" {
                reason += "; merge keys are not supported, use an alias for each field";
            } else if fix.is_none() {
                reason += &did_you_mean(closest(key, message.fields().map(Field::name)));
            }
            if encoder.allow_unknown_fields {
                encoder.warning(entry.mark, reason);
            } else {
                encoder.error_with_fix(entry.mark, reason, fix);
            }
        });
    }

    /// Two members of one oneof, or one field under both its names.
    fn refuse_alternatives(&mut self, message: Message, known: &[(Field, &Entry)]) {
        for (index, (field, entry)) in known.iter().enumerate() {
            if entry.node.value == Value::Null {
                continue;
            }
            let earlier = known[..index].iter().filter(|(_, entry)| entry.node.value != Value::Null);
            let oneof =
                field.oneof().and_then(|oneof| message.oneofs().nth(oneof).map(|named| (oneof, named)));
            match oneof {
                Some((oneof, Oneof { name, .. })) => {
                    if let Some((_, other)) = earlier.rev().find(|(other, _)| other.oneof() == Some(oneof)) {
                        let reason = format!(
                            "\"{}\" and \"{}\" cannot both be set: they are alternatives ({}.{name})",
                            other.key,
                            entry.key,
                            message.name()
                        );
                        self.within_field(field.name(), |encoder| encoder.error(entry.mark, reason));
                    }
                }
                None => {
                    if let Some((_, other)) = earlier.rev().find(|(other, _)| other == field) {
                        let reason = format!("set twice, as \"{}\" and as \"{}\"", other.key, entry.key);
                        self.within_field(field.name(), |encoder| encoder.warning(entry.mark, reason));
                    }
                }
            }
        }
    }

    // === Fields ===

    fn field(&mut self, out: &mut Vec<u8>, field: Field, entry: &Entry) {
        if field.is_map() {
            self.map(out, field, &entry.node);
        } else if field.is_repeated() {
            self.repeated(out, field, &entry.node);
        } else {
            let zero = if field.oneof().is_some() { Zero::Written } else { Zero::Omitted };
            self.singular(out, field, &entry.node, zero);
        }
    }

    fn map(&mut self, out: &mut Vec<u8>, field: Field, node: &Node) {
        let (entries, Some((key_field, value_field))) = (node.entries(), field.map_entry()) else { return };
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            self.error(node.mark, format!("expected an object (a map), found {}", node.value.describe()));
        }
        for entry in entries {
            self.within(format_args!("[\"{}\"]", shown_key(&entry.key)), |encoder| {
                put_nested(out, field.number(), |out| {
                    encoder.map_key(out, key_field, entry);
                    if entry.node.value == Value::Null && value_field.kind() == Kind::Message {
                        // Null is an empty message here, but a value among values.
                        if value_field.message().is_some_and(|message| message.class() == Class::Value) {
                            put_nested(out, value_field.number(), |out| {
                                encoder.struct_value(out, &entry.node)
                            });
                        }
                    } else {
                        encoder.singular(out, value_field, &entry.node, Zero::Omitted);
                    }
                });
            });
        }
    }

    fn map_key(&mut self, out: &mut Vec<u8>, field: Field, entry: &Entry) {
        let text = Value::Text(entry.key.clone());
        match field.kind() {
            Kind::String => put_bytes(out, field.number(), entry.key.as_bytes()),
            Kind::Bool => match &*entry.key {
                "true" => self.put_scalar(out, field, 1),
                "false" => {}
                _ => self.error(entry.mark, "expected true or false as key"),
            },
            kind => match scalar::integer(kind, &text) {
                Ok(number) => self.put_scalar(out, field, number),
                Err(reason) => self.error(entry.mark, reason),
            },
        }
    }

    fn repeated(&mut self, out: &mut Vec<u8>, field: Field, node: &Node) {
        let mut packed = Vec::new();
        let mut index = 0;
        match &node.value {
            Value::Null => {}
            Value::List(elements) => self.elements(out, &mut packed, field, elements, &mut index),
            // A single element stands for a list of one.
            _ => self.element(out, &mut packed, field, node, &mut index),
        }
        if !packed.is_empty() {
            put_bytes(out, field.number(), &packed);
        }
    }

    /// A list within a list is flattened, as long as the elements are not lists themselves.
    fn elements(
        &mut self,
        out: &mut Vec<u8>,
        packed: &mut Vec<u8>,
        field: Field,
        elements: &[Node],
        index: &mut usize,
    ) {
        let flatten =
            field.message().is_none_or(|message| !matches!(message.class(), Class::Value | Class::ListValue));
        for element in elements {
            match &element.value {
                Value::List(nested) if flatten => self.elements(out, packed, field, nested, index),
                _ => self.element(out, packed, field, element, index),
            }
        }
    }

    fn element(
        &mut self,
        out: &mut Vec<u8>,
        packed: &mut Vec<u8>,
        field: Field,
        node: &Node,
        index: &mut usize,
    ) {
        let at = *index;
        *index += 1;
        self.within(format_args!("[{at}]"), |encoder| match (&node.value, field.message()) {
            (Value::Null, Some(message)) => put_nested(out, field.number(), |out| {
                if message.class() == Class::Value {
                    encoder.struct_value(out, node);
                }
            }),
            (Value::Null, None) if is_packable(field.kind()) => packed.extend(encoder.zero(field.kind())),
            (Value::Null, None) => put_bytes(out, field.number(), &[]),
            (_, None) if is_packable(field.kind()) => encoder.scalar(packed, field.kind(), field, node),
            _ => encoder.singular(out, field, node, Zero::Written),
        });
    }

    /// Wire bytes of a packed zero.
    fn zero(&self, kind: Kind) -> Vec<u8> {
        let mut out = Vec::new();
        match kind {
            Kind::Double => out.extend(0_f64.to_le_bytes()),
            Kind::Float => out.extend(0_f32.to_le_bytes()),
            _ => put_integer(&mut out, kind, 0),
        }
        out
    }

    /// One value with its tag; null leaves the field unset.
    pub(super) fn singular(&mut self, out: &mut Vec<u8>, field: Field, node: &Node, zero: Zero) {
        let number = field.number();
        if node.value == Value::Null {
            if field.message().is_some_and(|message| message.class() == Class::Value) {
                put_nested(out, number, |out| self.struct_value(out, node));
            } else if zero == Zero::Written && field.enumeration().is_some_and(|of| of.is_null_value()) {
                self.put_scalar(out, field, 0);
            }
            return;
        }
        match field.kind() {
            Kind::Message => {
                if let Some(message) = field.message() {
                    put_nested(out, number, |out| self.message(out, message, node));
                }
            }
            Kind::String => match scalar::text(&node.value) {
                Ok(text) if text.is_empty() && zero == Zero::Omitted => {}
                Ok(text) => put_bytes(out, number, text.as_bytes()),
                Err(reason) => self.error(node.mark, reason),
            },
            Kind::Bytes => match scalar::bytes(&node.value) {
                Ok(bytes) if bytes.is_empty() && zero == Zero::Omitted => {}
                Ok(bytes) => put_bytes(out, number, &bytes),
                Err(reason) => self.error(node.mark, reason),
            },
            kind => {
                let mut value = Vec::with_capacity(10);
                self.scalar(&mut value, kind, field, node);
                let is_zero = value.iter().all(|&byte| byte == 0);
                if !value.is_empty() && (zero == Zero::Written || !is_zero) {
                    put_tag(out, number, kind);
                    out.extend_from_slice(&value);
                }
            }
        }
    }

    /// A number, boolean or enum value without tag; nothing where it is wrong.
    fn scalar(&mut self, out: &mut Vec<u8>, kind: Kind, field: Field, node: &Node) {
        let value = &node.value;
        let integer = match (kind, field.enumeration()) {
            (Kind::Double, _) => match scalar::float(kind, value) {
                Ok(number) => return out.extend_from_slice(&number.to_le_bytes()),
                Err(reason) => Err(reason),
            },
            (Kind::Float, _) => match scalar::float(kind, value) {
                Ok(number) => return out.extend_from_slice(&(number as f32).to_le_bytes()),
                Err(reason) => Err(reason),
            },
            (Kind::Bool, _) => scalar::boolean(value).map(u64::from),
            // Negative numbers are sign-extended to 64 bits on the wire.
            (_, Some(of)) => match scalar::enumeration(of, value) {
                Ok(number) => Ok(i64::from(number) as u64),
                Err(reason) if self.allow_unknown_fields && matches!(value, Value::Text(_)) => {
                    return self.warning(node.mark, reason);
                }
                Err(reason) => Err(reason),
            },
            _ => scalar::integer(kind, value),
        };
        match integer {
            Ok(number) => put_integer(out, kind, number),
            Err(reason) => self.error(node.mark, reason),
        }
    }

    /// An integer with its tag.
    pub(super) fn put_scalar(&self, out: &mut Vec<u8>, field: Field, value: u64) {
        put_tag(out, field.number(), field.kind());
        put_integer(out, field.kind(), value);
    }
}
