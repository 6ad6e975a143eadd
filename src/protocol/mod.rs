//! Bytes to messages and back; takes bytes and `now`, owns no socket.
pub mod http;
pub mod http1;
