//! The HTTP/1.1 codec, sans I/O: received bytes to heads and bodies and back.
pub mod chunked;
pub mod date;
mod diagnose;
pub mod encode;
pub mod framing;
pub mod head_reader;
pub mod hop_by_hop;
pub mod parse;
pub mod status;
