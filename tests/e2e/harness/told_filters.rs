//! Filters as control planes tell them.

use std::collections::HashMap;

use prost::Message;

/// The type of the resources.
pub(crate) const FILTERS: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";

const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";

/// `TypedExtensionConfig`
#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    config: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `extensions.filters.http.rbac.v3.RBAC`
#[derive(Clone, PartialEq, Message)]
struct Rbac {
    #[prost(message, optional, tag = "1")]
    rules: Option<Rules>,
}

/// `config.rbac.v3.RBAC`
#[derive(Clone, PartialEq, Message)]
struct Rules {
    #[prost(int32, tag = "1")]
    action: i32,
    #[prost(map = "string, message", tag = "2")]
    policies: HashMap<String, Policy>,
}

/// `RBAC.Action.DENY`
const DENY: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct Policy {
    #[prost(message, repeated, tag = "1")]
    permissions: Vec<Permission>,
    #[prost(message, repeated, tag = "2")]
    principals: Vec<Principal>,
}

#[derive(Clone, PartialEq, Message)]
struct Permission {
    #[prost(message, optional, tag = "10")]
    url_path: Option<PathMatcher>,
}

#[derive(Clone, PartialEq, Message)]
struct PathMatcher {
    #[prost(message, optional, tag = "1")]
    path: Option<StringMatcher>,
}

#[derive(Clone, PartialEq, Message)]
struct StringMatcher {
    #[prost(string, tag = "2")]
    prefix: String,
}

#[derive(Clone, PartialEq, Message)]
struct Principal {
    #[prost(bool, tag = "3")]
    any: bool,
}

/// `extensions.filters.network.direct_response.v3.Config`
#[derive(Clone, PartialEq, Message)]
struct DirectResponse {
    #[prost(message, optional, tag = "1")]
    response: Option<DataSource>,
}

#[derive(Clone, PartialEq, Message)]
struct DataSource {
    #[prost(string, tag = "3")]
    inline_string: String,
}

/// A network filter that sends this and ends.
pub(crate) fn told_answer(name: &str, text: &str) -> Vec<u8> {
    const TYPE: &str = "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config";
    let response = DirectResponse { response: Some(DataSource { inline_string: text.to_owned() }) };
    told_filter(name, TYPE, response.encode_to_vec())
}

/// A filter that denies requests whose paths begin so.
pub(crate) fn told_denial(name: &str, prefix: &str) -> Vec<u8> {
    let path = PathMatcher { path: Some(StringMatcher { prefix: prefix.to_owned() }) };
    let policy = Policy {
        permissions: vec![Permission { url_path: Some(path) }],
        principals: vec![Principal { any: true }],
    };
    let rules = Rules { action: DENY, policies: [("p".to_owned(), policy)].into() };
    told_filter(name, RBAC, Rbac { rules: Some(rules) }.encode_to_vec())
}

/// A filter of this type.
pub(crate) fn told_filter(name: &str, type_url: &str, value: Vec<u8>) -> Vec<u8> {
    Told { name: name.to_owned(), config: Some(Any { type_url: type_url.to_owned(), value }) }.encode_to_vec()
}
