//! Data that operators attach to resources: of endpoints and clusters it says how they are reached, and how endpoints are hashed.
//!
//! JSON values are what `google.protobuf.Struct` holds: numbers are doubles there.

/// Metadata: namespace (`envoy.lb`, a filter's name) to a JSON object, sorted by namespace. Source: Envoy
/// `core.v3.Metadata.filter_metadata`.
pub type Metadata = Vec<(Box<str>, serde_json::Value)>;

/// Namespace in which connections to internal listeners are told their destination, under `local`.
pub const ORIGINAL_DST: &str = "envoy.filters.listener.original_dst";

/// Whose metadata is meant. Source: Envoy `type.metadata.v3.MetadataKind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetadataKind {
    /// The endpoint's.
    Host,
    /// The cluster's.
    Cluster,
}

/// A JSON object. Source: `google.protobuf.Struct`.
pub type Struct = serde_json::Map<String, serde_json::Value>;
