//! What HTTP/1 and HTTP/2 share: heads, headers, bodies, validation.
pub mod body;
pub mod error;
pub mod head;
pub mod headers;
pub mod validate;
