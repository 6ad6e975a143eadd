//! JSON as Envoy's admin endpoint prints it: one space per level.
use serde_json::{Map, Value, json};

use crate::config::address::Address;
use crate::config::endpoint::Locality;

/// A document with its final newline.
pub(super) fn document(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text.push('\n');
    text
}

/// Appends a value that stands at a level of the document. The first line is not indented.
pub(super) fn write(value: &Value, level: usize, out: &mut String) {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    // Text of JSON has no raw newline inside strings: each begins a line, indented by two spaces per level.
    for (at, line) in text.split('\n').enumerate() {
        let content = line.trim_start_matches(' ');
        if at > 0 {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', level + (line.len() - content.len()) / 2));
        }
        out.push_str(content);
    }
}

/// An address as Envoy's `core.v3.Address`.
pub fn address(address: &Address) -> Value {
    match address {
        Address::Ip(socket) => {
            json!({ "socket_address": { "address": socket.ip().to_string(), "port_value": socket.port() } })
        }
        Address::Pipe(pipe) => json!({ "pipe": { "path": pipe.path.to_string_lossy() } }),
        Address::Internal(internal) => {
            let mut address = json!({ "server_listener_name": internal.listener() });
            if !internal.endpoint_id().is_empty() {
                address["endpoint_id"] = internal.endpoint_id().into();
            }
            json!({ "envoy_internal_address": address })
        }
    }
}

/// A locality as Envoy's `core.v3.Locality`: without what is empty.
pub fn locality(locality: &Locality) -> Value {
    let Locality { region, zone, sub_zone } = locality;
    let mut shown = Map::new();
    for (name, value) in [("region", region), ("zone", zone), ("sub_zone", sub_zone)] {
        if !value.is_empty() {
            shown.insert(name.into(), Value::from(&**value));
        }
    }
    Value::Object(shown)
}

/// An address in text: `127.0.0.1:80`, `[::1]:80`, `/run/a.sock`, `envoy://a/`.
pub(super) fn address_text(address: &Address) -> String {
    match address {
        Address::Ip(socket) => socket.to_string(),
        Address::Pipe(pipe) => pipe.path.to_string_lossy().into_owned(),
        Address::Internal(address) => address.text().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_at_a_level_is_indented_from_its_second_line() {
        let mut out = String::new();
        write(&json!({ "a": ["x\ny"], "b": {} }), 2, &mut out);
        assert_eq!(out, "{\n   \"a\": [\n    \"x\\ny\"\n   ],\n   \"b\": {}\n  }");
    }
}
