//! The Envoy v3 API: schema table, wire bytes, conversion.
pub mod client;
pub mod convert;
pub mod json;
mod load;
pub mod loader;
pub mod pb;
pub mod schema;
pub mod validate;
pub mod wire;

pub use load::{LoadOptions, LoadedBootstrap, load_bootstrap};
