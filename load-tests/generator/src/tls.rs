//! TLS 1.3 of a client that verifies whom it speaks to.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// The server's.
pub const NAME: &str = "load.test";
/// Tickets that are kept: a resumption takes one and brings at least one.
const TICKETS: usize = 8;

/// A client that trusts the issuer in this PEM file.
pub fn config(authority: &Path, resumes: bool) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(authority).map_err(io::Error::other)?)
        .map_err(io::Error::other)?;
    let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = match resumes {
        true => Resumption::in_memory_sessions(TICKETS),
        false => Resumption::disabled(),
    };
    Ok(Arc::new(config))
}

/// Makes the handshake.
pub fn greet(config: &Arc<ClientConfig>, socket: &mut TcpStream) -> io::Result<ClientConnection> {
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(socket)?;
    }
    Ok(tls)
}

/// A connection under TLS, after its handshake.
pub fn over(authority: &Path, mut socket: TcpStream) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let tls = greet(&config(authority, false)?, &mut socket)?;
    Ok(StreamOwned::new(tls, socket))
}
