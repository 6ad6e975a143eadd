//! The Envoy v3 API: schema table, wire bytes, conversion.
pub mod convert;
pub mod pb;
pub mod schema;
