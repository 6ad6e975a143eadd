//! What HTTP/1 and HTTP/2 share: heads, headers, bodies, validation, forwarding.
pub mod body;
pub mod client_cert;
pub mod cookie;
pub mod error;
pub(in crate::protocol) mod field;
pub mod forwarding;
pub mod head;
pub mod headers;
pub mod host;
pub mod inspector;
pub mod matcher;
pub mod path;
pub mod validate;
pub mod websocket;
