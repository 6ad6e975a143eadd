//! Times to live as control planes tell them in a state of the world.

use prost::Message;

use super::control_plane::Any;

/// `envoy.service.discovery.v3.Resource`, without a body.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(string, tag = "3")]
    name: String,
    #[prost(message, optional, tag = "6")]
    ttl: Option<Seconds>,
}

/// `google.protobuf.Duration`
#[derive(Clone, PartialEq, Message)]
struct Seconds {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

/// A resource of that name lives for so many seconds from now on.
pub(super) fn heartbeat(name: &str, ttl_s: i64) -> Any {
    let envelope = Envelope { name: name.to_owned(), ttl: Some(Seconds { seconds: ttl_s }) };
    let type_url = "type.googleapis.com/envoy.service.discovery.v3.Resource".to_owned();
    Any { type_url, value: envelope.encode_to_vec() }
}
