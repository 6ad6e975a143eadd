//! `DYNAMIC_METADATA` and `METADATA(DYNAMIC:..)`: what filters have noted of a request, by namespace and key.

use super::operator::{Written, truncate};
use super::text::escape_json;
use crate::protocol::dynamic_metadata::{DynamicMetadata, MetadataValue};

/// A value, or all of a namespace.
#[derive(Debug, Clone)]
pub(super) struct MetadataField {
    namespace: Box<str>,
    /// Keys that lead to the value; values lie one key deep.
    path: Box<[Box<str>]>,
    /// In bytes.
    max: Option<usize>,
}

impl MetadataField {
    /// `namespace:key`, or `namespace` alone.
    pub(super) fn parse(parameters: &str, max: Option<usize>) -> Self {
        let mut parts = parameters.split(':').map(Box::from);
        Self { namespace: parts.next().unwrap_or_default(), path: parts.collect(), max }
    }

    pub(super) fn write(&self, metadata: &DynamicMetadata, out: &mut Vec<u8>) -> Written {
        let start = out.len();
        let written = match &*self.path {
            [] => write_all(metadata, &self.namespace, out),
            [key] => match metadata.value(&self.namespace, key) {
                None => Written::Absent,
                Some(MetadataValue::Text(text)) => {
                    out.extend_from_slice(text.as_bytes());
                    Written::Text
                }
                Some(value) => {
                    write_json(value, out);
                    Written::Number
                }
            },
            _ => Written::Absent,
        };
        truncate(out, start, self.max);
        match (written, self.max) {
            // What may be cut is a text.
            (Written::Number, Some(_)) => Written::Text,
            (written, _) => written,
        }
    }
}

/// The namespace as a JSON object, keys sorted.
fn write_all(metadata: &DynamicMetadata, namespace: &str, out: &mut Vec<u8>) -> Written {
    let mut last: Option<&str> = None;
    // Few keys: each time the next one is looked for, in place of a sorted list.
    while let Some((key, value)) = metadata
        .namespace(namespace)
        .filter(|(key, _)| last.is_none_or(|last| *key > last))
        .min_by_key(|(key, _)| *key)
    {
        out.push(if last.is_none() { b'{' } else { b',' });
        write_json(MetadataValue::Text(key), out);
        out.push(b':');
        write_json(value, out);
        last = Some(key);
    }
    if last.is_none() {
        return Written::Absent;
    }
    out.push(b'}');
    Written::Number
}

fn write_json(value: MetadataValue<'_>, out: &mut Vec<u8>) {
    match value {
        MetadataValue::Bool(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
        MetadataValue::Text(text) => {
            out.push(b'"');
            let start = out.len();
            out.extend_from_slice(text.as_bytes());
            escape_json(out, start);
            out.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_namespaces_are_written_as_envoy_does() {
        let mut metadata = DynamicMetadata::default();
        metadata.set("n", "b", MetadataValue::Text("x \"y\""));
        metadata.set("n", "a", MetadataValue::Bool(true));
        metadata.set("m", "z", MetadataValue::Bool(false));
        for (parameters, max, text, is_written) in [
            ("n:b", None, "x \"y\"", true),
            ("n:b", Some(1), "x", true),
            ("n:a", None, "true", true),
            ("m:z", None, "false", true),
            ("n", None, r#"{"a":true,"b":"x \"y\""}"#, true),
            ("n", Some(5), r#"{"a":"#, true),
            ("n:b:c", None, "", false),
            ("n:c", None, "", false),
            ("o", None, "", false),
        ] {
            let mut out = Vec::new();
            let written = MetadataField::parse(parameters, max).write(&metadata, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text, "{parameters}");
            assert_eq!(written != Written::Absent, is_written, "{parameters}");
        }
    }
}
