//! Invariants of what reads a peer's TLS: the cut of the input does not matter, rustls agrees, nothing is kept.

use crate::protocol::tls::arbitrary;

/// The first bytes of a connection, as a listener looks at them.
pub fn client_hello(input: &[u8]) {
    arbitrary::client_hello(input);
}

/// A client's bytes, as a session takes them.
pub fn tls_session(input: &[u8]) {
    arbitrary::session(input);
}
