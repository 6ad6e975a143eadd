//! TLS: Envoy's configuration compiled to rustls, the rules by which peers are verified, and what is known of a peer.
//!
//! [`ServerTls`] and [`ClientTls`] are made off the data path and shared by all cores; a handshake only reads them.
mod certificate;
mod client;
mod error;
mod identity;
mod name;
mod ocsp;
mod params;
mod pem;
mod resolver;
mod san;
mod server;
mod tickets;
mod validator;
mod verifier;

#[cfg(test)]
pub(crate) mod testing;

pub use certificate::Certificate;
pub use client::{ClientTls, Endpoint};
pub use error::TlsConfigError;
pub use identity::{PeerIdentity, TlsFacts};
pub use params::{Unknown, UnknownKind, unknown};
pub use server::ServerTls;
pub use verifier::VerifyFailure;
