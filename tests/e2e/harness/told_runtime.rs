//! Runtime values as control planes tell them.

use std::collections::HashMap;

use prost::Message;

/// The type of the resources.
pub(crate) const RUNTIME: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";

/// `Runtime`
#[derive(Clone, PartialEq, Message)]
struct Runtime {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    layer: Option<Struct>,
}

#[derive(Clone, PartialEq, Message)]
struct Struct {
    #[prost(map = "string, message", tag = "1")]
    fields: HashMap<String, Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(oneof = "Kind", tags = "1, 2")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(int32, tag = "1")]
    Null(i32),
    #[prost(double, tag = "2")]
    Number(f64),
}

/// A layer of numbers; what is none is null.
pub(crate) fn told_runtime(name: &str, values: &[(&str, f64)]) -> Vec<u8> {
    let value = |number: f64| {
        let kind = if number.is_nan() { Kind::Null(0) } else { Kind::Number(number) };
        Value { kind: Some(kind) }
    };
    let fields = values.iter().map(|(key, number)| ((*key).to_owned(), value(*number))).collect();
    Runtime { name: name.to_owned(), layer: Some(Struct { fields }) }.encode_to_vec()
}
