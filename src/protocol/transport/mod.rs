//! What carries a connection's bytes: the socket as it is, or something between it and the protocol (TLS); and what
//! carries a message's: a connection, or a stream of one.
mod channel;
mod io;

pub use channel::Channel;
pub use io::Transport;
