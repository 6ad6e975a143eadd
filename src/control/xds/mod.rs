//! The Envoy v3 API: schema table, wire bytes, conversion.
pub mod convert;
pub mod loader;
pub mod pb;
pub mod schema;
pub mod validate;
pub mod wire;
