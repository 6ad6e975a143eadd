//! The path of a connection and of a request through one core.
