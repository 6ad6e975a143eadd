//! Access by role, for requests and for connections: policies are compiled off the data path, and evaluated as pure
//! functions of what is known of the one who asks. Source: Envoy's `RoleBasedAccessControlEngine`.
//!
//! Nothing here denies by itself: the HTTP filter (`filter::http::rbac`) and network filters do what a [`Decision`] says.

mod counters;
mod engine;
mod network;
mod notes;
mod rule;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

pub use counters::{Counters, CountersScope};
pub use engine::{Decision, Engine};
pub use network::NetworkRbac;
pub(crate) use notes::{NoteKeys, note_log_hint};

use crate::matching::Inputs;
use crate::protocol::connection_info::ConnectionInfo;
use crate::protocol::dynamic_metadata::DynamicMetadata;
use crate::protocol::http::head::Head;
use crate::protocol::tls::TlsFacts;

/// What rules may ask about. Addresses: `None` where they are no IP addresses, which no range contains.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The connection's peer; whom the PROXY protocol names, if it was spoken.
    pub peer: Option<IpAddr>,
    /// The peer of the socket.
    pub direct_remote: Option<IpAddr>,
    /// The client, after `x-forwarded-for` was believed.
    pub remote: Option<IpAddr>,
    /// Its port; 0: nobody says.
    pub remote_port: u16,
    /// Where the client meant to connect to.
    pub local: Option<SocketAddr>,
    /// The server's name of the TLS hello, where an inspector has looked at it, as in Envoy; empty: there is none.
    pub server_name: &'a str,
    /// What the handshake agreed on; `None`: plain text.
    pub tls: Option<&'a TlsFacts>,
    /// The request's head; `None`: a connection asks.
    pub request: Option<&'a Head>,
    /// What filters have noted of the request, or of the connection that asks for itself.
    pub metadata: Option<&'a DynamicMetadata>,
}

impl<'a> Facts<'a> {
    /// Of a connection that asks for itself, without its metadata.
    pub fn of_connection(info: &'a ConnectionInfo, tls: Option<&'a TlsFacts>) -> Self {
        Self {
            peer: info.remote.ip().map(of_socket),
            direct_remote: info.direct_remote.ip().map(of_socket),
            remote: info.remote.ip().map(of_socket),
            remote_port: info.remote.port().unwrap_or_default(),
            local: info.local.socket().map(|local| (of_socket(local.ip()), local.port()).into()),
            server_name: info.server_name.as_deref().unwrap_or_default(),
            tls,
            request: None,
            metadata: None,
        }
    }

    /// What matchers may ask about.
    fn inputs(&self) -> Inputs<'a> {
        Inputs {
            remote: self.remote.map(|address| (address, self.remote_port).into()),
            direct_remote: self.direct_remote,
            local: self.local,
            server_name: self.server_name,
            connection: None,
            tls: self.tls,
            request: self.request,
            metadata: self.metadata,
        }
    }
}

/// A socket's address as rules see it: through a listener of both families IPv4 comes as IPv6, and ranges of IPv4 are to
/// contain it, as in Envoy.
pub fn of_socket(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
