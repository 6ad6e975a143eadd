//! Bytes to messages and back; takes bytes and `now`, owns no socket.
pub mod connection_info;
pub mod dynamic_metadata;
pub mod grpc;
pub mod http;
pub mod http1;
pub mod http2;
pub mod load_report;
pub mod proxy_protocol;
pub mod response_code_details;
pub mod response_flags;
pub mod stream_info;
pub mod tls;
pub mod transport;
