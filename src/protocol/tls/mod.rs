//! TLS: Envoy's configuration compiled to rustls, the rules by which peers are verified, and what is known of a peer; sessions
//! over sockets, and what is seen of them before they begin.
//!
//! [`ServerTls`] and [`ClientTls`] are made off the data path and shared by all cores; a handshake only reads them.
pub(crate) mod arbitrary;
mod certificate;
mod check;
mod client;
mod client_context;
mod crl;
mod digest;
mod error;
mod facts;
mod failure;
mod identity;
mod inbound;
mod inspector;
mod io;
mod meter;
mod name;
mod ocsp;
mod outbound;
mod params;
mod pem;
#[cfg(test)]
pub(crate) mod recipe;
mod record;
mod resolver;
mod san;
mod secured;
mod server;
mod session;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tickets;
mod validator;
mod verifier;
mod wanted;

pub use certificate::Certificate;
pub use check::{check_context, check_secret};
pub use client::{ClientTls, Connecting, Endpoint, Offer};
pub use client_context::ClientContext;
pub use digest::sha1;
pub use error::TlsConfigError;
pub use facts::{Agreed, Alpn, Facts};
pub use failure::HandshakeFailure;
pub use identity::{PeerIdentity, TlsFacts};
pub use inspector::{Hello, Inspector, Seen};
pub use io::{TlsError, TlsStream};
pub use meter::Meter;
pub use params::{Unknown, UnknownKind, unknown};
pub use resolver::Staple;
pub use secured::Secured;
pub use server::ServerTls;
pub use session::Fault;
pub use verifier::VerifyFailure;
pub use wanted::Wanted;
