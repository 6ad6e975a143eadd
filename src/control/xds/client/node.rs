//! Who asks: the configured node, with what the command line says in its place.
use prost::Message;

use crate::config::bootstrap::Node;
use crate::control::xds::pb;

/// What control planes take a client for that says nothing else: they ask for it by name.
const USER_AGENT_NAME: &str = "envoy";

/// What this client can do that control planes may want to know first: it opens the envelopes of a state of the world, and what has
/// a time to live goes when that is over. Source: Envoy "Well Known Client Features".
const FEATURES: [&str; 2] = ["xds.config.resource-in-sotw", "xds.config.supports-resource-ttl"];

/// The node as control planes are told it. `configured` is the whole message of the configuration: what this version
/// does not look into is passed on as it is.
pub(super) fn node(configured: &[u8], node: &Node) -> pb::core::Node {
    let mut message = pb::core::Node::decode(configured).unwrap_or_default();
    message.id = String::from(&*node.id);
    message.cluster = String::from(&*node.cluster);
    if !node.locality.zone.is_empty() {
        message.locality.get_or_insert_default().zone = String::from(&*node.locality.zone);
    }
    if message.user_agent_name.is_empty() {
        message.user_agent_name = USER_AGENT_NAME.to_owned();
    }
    message
}

/// The same as it asks for resources: with what this client can do, beside what is configured.
pub(super) fn asking(mut node: pb::core::Node) -> pb::core::Node {
    for feature in FEATURES {
        if node.client_features.iter().all(|known| known != feature) {
            node.client_features.push(feature.to_owned());
        }
    }
    node
}
