//! The Envoy v3 API: schema table, wire bytes, conversion.
