//! How the endpoints of a cluster are reached: in plain text or by TLS, behind which header. Source: Envoy `Cluster.transport_socket`,
//! `transport_socket_matches`.
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;

use super::metadata::{Metadata, MetadataKind, ORIGINAL_DST};
use super::proxy_protocol::UpstreamProxyProtocol;
use super::tls::UpstreamTls;

/// The transport sockets of a cluster. The default: plain text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SocketSettings {
    /// TLS towards endpoints; `None`: plain text. Source: `transport_socket`.
    pub tls: Option<Arc<UpstreamTls>>,
    /// What connections to endpoints begin with, before TLS too; `None`: nothing. Source: `transport_socket` of type
    /// `ProxyProtocolUpstreamTransport`.
    pub proxy_protocol: Option<Arc<UpstreamProxyProtocol>>,
    /// Whose metadata has the destination that the filter `original_dst` of an internal listener restores; the last that has
    /// one. Source: `transport_socket` of type `InternalUpstreamTransport`, `passthrough_metadata`.
    pub original_dst: Vec<MetadataKind>,
    /// Other ways of reaching endpoints, by their metadata: the first that holds. Source: `transport_socket_matches`.
    pub matches: Vec<TransportSocketMatch>,
}

/// One way of reaching some of a cluster's endpoints. Source: Envoy `Cluster.TransportSocketMatch`.
#[derive(Debug, Clone, PartialEq)]
pub struct TransportSocketMatch {
    /// Unique name. Source: `name`.
    pub name: Box<str>,
    /// What an endpoint's metadata must say in [`TRANSPORT_SOCKET_MATCH`]; empty: anything. Source: `match`.
    pub criteria: Box<[(Box<str>, Value)]>,
    /// TLS; `None`: plain text. Source: `transport_socket`.
    pub tls: Option<Arc<UpstreamTls>>,
    /// What connections begin with; `None`: nothing of their own. Source: `transport_socket`.
    pub proxy_protocol: Option<Arc<UpstreamProxyProtocol>>,
    /// As [`SocketSettings::original_dst`]. Source: `transport_socket`.
    pub original_dst: Vec<MetadataKind>,
}

/// Namespace of metadata that picks the transport socket of an endpoint.
pub const TRANSPORT_SOCKET_MATCH: &str = "envoy.transport_socket_match";

impl SocketSettings {
    /// Which transport socket reaches an endpoint: 0 for the cluster's own, else the place of the first match, from 1: the first
    /// that the endpoint's metadata has, else the first that its locality's has. Source: Envoy `TransportSocketMatcherImpl::resolve`.
    pub fn of(&self, endpoint: &Metadata, locality: &Metadata) -> u16 {
        let first = |metadata: &Metadata| {
            let found = metadata.iter().find(|(namespace, _)| **namespace == *TRANSPORT_SOCKET_MATCH);
            let fact = |key: &str| found?.1.as_object()?.get(key);
            let holds = |(_, socket): &(u16, &TransportSocketMatch)| {
                socket.criteria.iter().all(|(key, wanted)| fact(key) == Some(wanted))
            };
            (1..).zip(&self.matches).find(holds).map(|(place, _)| place)
        };
        first(endpoint).or_else(|| first(locality)).unwrap_or(0)
    }

    /// What connections begin with that are made through this transport socket; `None`: nothing of their own.
    pub fn proxy_protocol_of(&self, socket: u16) -> Option<&UpstreamProxyProtocol> {
        match usize::from(socket).checked_sub(1) {
            None => self.proxy_protocol.as_deref(),
            Some(place) => self.matches.get(place)?.proxy_protocol.as_deref(),
        }
    }

    /// The destination that connections to an internal listener, made through this transport socket to an endpoint of the former
    /// metadata in a cluster of the latter, are to have there. One that is none of IP is none, as in Envoy.
    pub fn original_dst_of(
        &self,
        socket: u16,
        endpoint: &Metadata,
        cluster: &[(Box<str>, Value)],
    ) -> Option<SocketAddr> {
        let kinds = match usize::from(socket).checked_sub(1) {
            None => &self.original_dst,
            Some(place) => &self.matches.get(place)?.original_dst,
        };
        let told = kinds.iter().rev().find_map(|kind| {
            let metadata = match kind {
                MetadataKind::Host => &endpoint[..],
                MetadataKind::Cluster => cluster,
            };
            metadata.iter().find(|(namespace, _)| **namespace == *ORIGINAL_DST)
        });
        told?.1.get("local")?.as_str()?.parse().ok()
    }

    /// Whether connections through one of them tell of the cluster's metadata.
    pub fn tell_of_cluster(&self) -> bool {
        let matches = self.matches.iter().map(|socket| &socket.original_dst);
        [&self.original_dst].into_iter().chain(matches).any(|kinds| kinds.contains(&MetadataKind::Cluster))
    }

    /// All TLS contexts.
    pub fn contexts(&self) -> impl Iterator<Item = &Arc<UpstreamTls>> {
        self.tls.iter().chain(self.matches.iter().filter_map(|socket| socket.tls.as_ref()))
    }

    /// The same, to be changed.
    pub fn contexts_mut(&mut self) -> impl Iterator<Item = &mut Arc<UpstreamTls>> {
        self.tls.iter_mut().chain(self.matches.iter_mut().filter_map(|socket| socket.tls.as_mut()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn destination_is_that_of_the_last_metadata_that_has_one() {
        let told = |value| vec![(Box::from(ORIGINAL_DST), value)];
        let cluster = told(json!({"local": "10.0.0.2:80"}));
        let mut sockets = SocketSettings::default();
        let of = |sockets: &SocketSettings, socket, endpoint: &Metadata| {
            sockets.original_dst_of(socket, endpoint, &cluster)
        };
        assert_eq!(of(&sockets, 0, &told(json!({"local": "10.0.0.1:80"}))), None, "nobody asks");
        sockets.original_dst = vec![MetadataKind::Cluster, MetadataKind::Host];
        for (endpoint, expected) in [
            (told(json!({"local": "10.0.0.1:80"})), Some("10.0.0.1:80")),
            (Metadata::new(), Some("10.0.0.2:80")),
            (told(json!({"local": "nonsense"})), None),
            (told(json!({"local": 7})), None),
            (told(json!("10.0.0.1:80")), None),
        ] {
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(of(&sockets, 0, &endpoint), expected, "{endpoint:?}");
            assert_eq!(of(&sockets, 1, &endpoint), None, "there is no other socket");
        }
    }

    #[test]
    fn transport_socket_is_the_first_whose_criteria_hold() {
        let socket = |criteria: &[(&str, Value)]| TransportSocketMatch {
            name: "n".into(),
            criteria: criteria.iter().map(|(key, value)| (Box::from(*key), value.clone())).collect(),
            tls: None,
            proxy_protocol: None,
            original_dst: Vec::new(),
        };
        let strict = ("mtls", json!("strict"));
        let matches = vec![socket(&[strict.clone(), ("v", json!(2.0))]), socket(&[strict])];
        let mut sockets = SocketSettings { matches, ..SocketSettings::default() };
        let metadata = |value| vec![(Box::from(TRANSPORT_SOCKET_MATCH), value)];
        let none = Metadata::new();
        assert_eq!(sockets.of(&none, &none), 0);
        assert_eq!(sockets.of(&metadata(json!({"mtls": "strict"})), &none), 2);
        assert_eq!(sockets.of(&metadata(json!({"mtls": "strict", "v": 2.0, "w": 1})), &none), 1);
        let list = metadata(json!({"mtls": ["a", "strict"]}));
        assert_eq!(sockets.of(&list, &none), 0, "a list is none of its elements");
        let strict = metadata(json!({"mtls": "strict"}));
        for own in [none.clone(), metadata(json!({})), metadata(json!({"mtls": "other"}))] {
            assert_eq!(sockets.of(&own, &strict), 2, "{own:?}: its locality's counts");
        }
        let both = metadata(json!({"mtls": "strict", "v": 2.0}));
        assert_eq!(sockets.of(&strict, &both), 2, "its own before its locality's");
        let other = vec![(Box::from("envoy.lb"), json!({"mtls": "strict"}))];
        assert_eq!(sockets.of(&other, &none), 0);
        sockets.matches.push(socket(&[]));
        assert_eq!(sockets.of(&none, &none), 3, "no criteria: anything");
    }
}
