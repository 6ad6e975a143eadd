//! What HTTP/1 and HTTP/2 share: heads, headers, validation.
pub mod head;
pub mod headers;
