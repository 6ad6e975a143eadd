//! Scopes of routes as control planes tell them.

use prost::Message;

/// The type of the resources.
pub(crate) const SCOPES: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";

/// `ScopedRouteConfiguration`
#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    table: String,
    #[prost(message, optional, tag = "3")]
    key: Option<Key>,
}

/// `ScopedRouteConfiguration.Key`
#[derive(Clone, PartialEq, Message)]
struct Key {
    #[prost(message, repeated, tag = "1")]
    fragments: Vec<Fragment>,
}

/// `ScopedRouteConfiguration.Key.Fragment`
#[derive(Clone, PartialEq, Message)]
struct Fragment {
    #[prost(string, tag = "1")]
    string_key: String,
}

/// A scope whose key is one fragment, with the name of its table.
pub(crate) fn told_scope(name: &str, key: &str, table: &str) -> Vec<u8> {
    let key = Key { fragments: vec![Fragment { string_key: key.to_owned() }] };
    Told { name: name.to_owned(), table: table.to_owned(), key: Some(key) }.encode_to_vec()
}
