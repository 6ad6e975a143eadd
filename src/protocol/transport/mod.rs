//! What carries a connection's bytes: the socket as it is, or something between it and the protocol (TLS).
mod io;

pub use io::Transport;
