//! The Envoy v3 API: schema table, wire bytes, conversion.
/// Prost structs of the messages that conversion reads.
pub mod pb;
pub mod schema;
