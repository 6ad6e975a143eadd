//! What the fuzzers run: functions over arbitrary bytes that panic when an invariant is broken.
//!
//! Not part of the API. `fuzz/` has a thin shell around each; `tests/fuzz_corpus.rs` replays the
//! committed corpus through the same functions on every `cargo test`. One file per subject.

mod config;
mod grpc;
mod http1;
mod http2;
mod http_inspector;
mod load_report;
mod matching;
mod proxy_protocol;
mod restart;
mod route;
mod tls;
mod xds;

pub use config::{config_text, config_wire};
pub use grpc::{grpc_timeout, grpc_web};
pub use http_inspector::http_inspector;
pub use http1::{chunked, request_head, response_head};
pub use http2::{http2_frames, http2_head};
pub use load_report::load_report;
pub use matching::matcher;
pub use proxy_protocol::proxy_header;
pub use restart::restart_message;
pub use route::route_match;
pub use tls::{client_hello, tls_session};
pub use xds::xds_cache;
