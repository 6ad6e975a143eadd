//! Any, Struct, Value and ListValue in their JSON notation, secrets left out.
use super::super::schema::{Class, Field, Message};
use super::super::wire::{Fields, Value, WireError};
use super::{REDACTED, Writer};
use crate::base::limits::CONFIG_DEPTH_MAX;
use std::collections::BTreeMap;

impl Writer<'_> {
    pub(super) fn any(&mut self, fields: &Fields<'_>, secret: bool) -> Result<(), WireError> {
        let url = fields.text(1);
        let bytes = match fields.get(2) {
            Some(Value::Bytes(bytes)) => *bytes,
            _ => b"",
        };
        let mut first = self.open('{');
        if !url.is_empty() {
            self.key("@type", &mut first);
            self.string(url);
        }
        let start = self.out.len();
        let state = (first, self.indent, self.depth);
        let opened = match Message::find_by_url(url) {
            Some(message) if message.class() == Class::Plain => Fields::decode(message, bytes)
                .and_then(|inner| self.fields(message, &inner, secret, &mut first))
                .is_ok(),
            Some(message) => {
                self.key("value", &mut first);
                self.message(message, bytes, secret).is_ok()
            }
            None => false,
        };
        let is_empty = url.is_empty() && bytes.is_empty();
        if !opened && !is_empty {
            self.out.truncate(start);
            (first, self.indent, self.depth) = state;
            self.key("value", &mut first);
            if secret || self.style.redact {
                // Nobody can say whether there is a secret in it.
                self.string(REDACTED);
            } else {
                self.base64(bytes);
            }
        }
        self.close('}', first);
        Ok(())
    }

    /// A Struct; `disguised` is the message whose fields its keys are, if that is known.
    pub(super) fn structure(
        &mut self,
        fields: &Fields<'_>,
        disguised: Option<Message>,
        secret: bool,
    ) -> Result<(), WireError> {
        let mut first = self.open('{');
        let mut entries = Vec::new();
        let mut last = BTreeMap::new();
        for (field, values) in fields.groups() {
            let Some(entry) = field.message() else { continue };
            for (_, value) in values {
                if let Value::Message(bytes) = value {
                    let fields = Fields::decode(entry, bytes)?;
                    last.insert(fields.text(1), entries.len());
                    entries.push((entry, bytes));
                }
            }
        }
        for (index, (entry, bytes)) in entries.iter().enumerate() {
            let fields = Fields::decode(*entry, bytes)?;
            let key = fields.text(1);
            let (Some(Value::Message(value)), Some(value_field)) = (fields.get(2), entry.field_by_number(2))
            else {
                continue;
            };
            let Some(value_type) = value_field.message().filter(|_| last.get(key) == Some(&index)) else {
                continue;
            };
            let named = disguised.and_then(|message| message.field_by_name(key));
            let secret = secret || (self.style.redact && named.is_some_and(Field::is_sensitive));
            let value = Fields::decode(value_type, value)?;
            if value.groups().next().is_none() {
                continue;
            }
            self.key(key, &mut first);
            self.struct_value(&value, named.and_then(Field::message), secret)?;
        }
        self.close('}', first);
        Ok(())
    }

    pub(super) fn struct_value(
        &mut self,
        fields: &Fields<'_>,
        disguised: Option<Message>,
        secret: bool,
    ) -> Result<(), WireError> {
        if self.depth > CONFIG_DEPTH_MAX {
            return Err(WireError::TooDeep);
        }
        self.depth += 1;
        match fields.groups().next().and_then(|(field, values)| Some((field, &values.first()?.1))) {
            Some((field, Value::Message(bytes))) => {
                if let Some(message) = field.message() {
                    let inner = Fields::decode(message, bytes)?;
                    match message.class() {
                        Class::Struct => {
                            let disguised = disguised.and_then(|outer| match outer.class() {
                                Class::Any => any_type(&inner),
                                _ => Some(outer),
                            });
                            self.structure(&inner, disguised, secret)?;
                        }
                        _ => self.list_value(&inner, disguised, secret)?,
                    }
                }
            }
            Some((_, Value::Enum(_))) | None => self.out.push_str("null"),
            Some(_) if secret => self.string(REDACTED),
            Some((field, value)) => self.value(field, value, secret)?,
        }
        self.depth -= 1;
        Ok(())
    }

    pub(super) fn list_value(
        &mut self,
        fields: &Fields<'_>,
        disguised: Option<Message>,
        secret: bool,
    ) -> Result<(), WireError> {
        let mut first = self.open('[');
        for (field, values) in fields.groups() {
            for (_, value) in values {
                if let (Some(message), Value::Message(bytes)) = (field.message(), value) {
                    let inner = Fields::decode(message, bytes)?;
                    if inner.groups().next().is_some() {
                        self.next(&mut first);
                        self.struct_value(&inner, disguised, secret)?;
                    }
                }
            }
        }
        self.close(']', first);
        Ok(())
    }
}

/// The message type that a Struct names under `@type`.
fn any_type(fields: &Fields<'_>) -> Option<Message> {
    fields.groups().find_map(|(field, values)| {
        let entry = field.message()?;
        values.iter().find_map(|(_, value)| {
            let Value::Message(bytes) = value else { return None };
            let fields = Fields::decode(entry, bytes).ok().filter(|fields| fields.text(1) == "@type")?;
            let (Some(Value::Message(url)), Some(value)) = (fields.get(2), entry.field_by_number(2)) else {
                return None;
            };
            Message::find_by_url(Fields::decode(value.message()?, url).ok()?.text(3))
        })
    })
}
