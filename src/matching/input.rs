//! What is matched: inputs, read from what is known.
//!
//! Texts that lie nowhere as such are put together in scratch space; of an address that is looked up in ranges no text is
//! made.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::config::error::ConfigError;
use crate::config::matching as config;
use crate::config::tls::SanKind;
use crate::protocol::connection_info::ConnectionInfo;
use crate::protocol::dynamic_metadata::DynamicMetadata;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::HeaderName;
use crate::protocol::tls::TlsFacts;

/// What inputs are read from. Addresses: `None` where they are no IP addresses.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The client.
    pub remote: Option<SocketAddr>,
    /// The peer of the socket.
    pub direct_remote: Option<IpAddr>,
    /// Where the client meant to connect to.
    pub local: Option<SocketAddr>,
    /// The server's name of the TLS hello; empty: there is none.
    pub server_name: &'a str,
    /// A connection for which a filter chain is chosen.
    pub connection: Option<&'a ConnectionInfo>,
    /// What the handshake agreed on; `None`: plain text, or there was none yet.
    pub tls: Option<&'a TlsFacts>,
    /// The request's head; `None`: a connection asks.
    pub request: Option<&'a Head>,
    /// What filters have noted; `None`: nobody has.
    pub metadata: Option<&'a DynamicMetadata>,
}

/// See the file's head. Source: `config::matching::Input`.
#[derive(Debug)]
pub(super) enum Input {
    DestinationIp,
    DestinationPort,
    SourceIp,
    SourcePort,
    DirectSourceIp,
    SourceType,
    ServerName,
    TransportProtocol,
    ApplicationProtocol,
    San(SanKind),
    Subject,
    RequestHeader(Box<HeaderName>),
}

/// An input's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// It cannot be had here: nothing that depends on it can be decided.
    Unknown,
    /// It is not there.
    Absent,
    Known(&'a [u8]),
}

impl<'a> Inputs<'a> {
    /// Of a connection for which a filter chain is chosen.
    pub fn of_connection(info: &'a ConnectionInfo) -> Self {
        Self {
            remote: info.remote.socket(),
            direct_remote: info.direct_remote.ip(),
            local: info.local.socket(),
            server_name: info.server_name.as_deref().unwrap_or_default(),
            connection: Some(info),
            tls: None,
            request: None,
            metadata: None,
        }
    }
}

impl Input {
    pub(super) fn compile(input: &config::Input, path: &str) -> Result<Self, ConfigError> {
        Ok(match input {
            config::Input::DestinationIp => Self::DestinationIp,
            config::Input::DestinationPort => Self::DestinationPort,
            config::Input::SourceIp => Self::SourceIp,
            config::Input::SourcePort => Self::SourcePort,
            config::Input::DirectSourceIp => Self::DirectSourceIp,
            config::Input::SourceType => Self::SourceType,
            config::Input::ServerName => Self::ServerName,
            config::Input::TransportProtocol => Self::TransportProtocol,
            config::Input::ApplicationProtocol => Self::ApplicationProtocol,
            config::Input::UriSan => Self::San(SanKind::Uri),
            config::Input::DnsSan => Self::San(SanKind::Dns),
            config::Input::Subject => Self::Subject,
            config::Input::RequestHeader(name) => {
                let name = HeaderName::parse(name.as_bytes()).ok_or_else(|| {
                    ConfigError::new(format!("{path}.input.header_name"), "not a header name")
                })?;
                Self::RequestHeader(Box::new(name))
            }
        })
    }

    /// Its text, which may lie in `scratch`.
    pub(super) fn text<'s>(&self, known: &Inputs<'s>, scratch: &'s mut Vec<u8>) -> Value<'s> {
        scratch.clear();
        let written = match self {
            Self::DestinationIp | Self::SourceIp | Self::DirectSourceIp => {
                self.address(known).map(|address| write_address(scratch, address))
            }
            Self::DestinationPort => known.local.map(|local| write_number(scratch, local.port())),
            Self::SourcePort => known.remote.map(|remote| write_number(scratch, remote.port())),
            Self::SourceType => {
                let is_local = known.connection.is_some_and(ConnectionInfo::is_from_this_host);
                return if is_local { Value::Known(b"local") } else { Value::Absent };
            }
            Self::ServerName => return text_of(known.server_name),
            Self::TransportProtocol => {
                return text_of(known.connection.map_or("", |connection| connection.transport.name()));
            }
            Self::ApplicationProtocol => {
                let offered =
                    known.connection.map_or(&[][..], |connection| &connection.application_protocols);
                for (index, protocol) in offered.iter().enumerate() {
                    scratch.extend_from_slice(if index == 0 { b"'" } else { b",'" });
                    scratch.extend_from_slice(protocol);
                    scratch.push(b'\'');
                }
                (!offered.is_empty()).then_some(())
            }
            Self::San(kind) => {
                let Some(tls) = known.tls else { return Value::Unknown };
                let names = tls.peer.iter().flat_map(|peer| peer.certificate.names(*kind));
                join(scratch, names.map(str::as_bytes))
            }
            Self::Subject => {
                let Some(tls) = known.tls else { return Value::Unknown };
                return text_of(tls.peer.as_ref().map_or("", |peer| &peer.certificate.subject));
            }
            Self::RequestHeader(name) => {
                let Some(head) = known.request else { return Value::Unknown };
                let Some(first) = head.get(name) else { return Value::Absent };
                // A single line is read where it is.
                if head.get_all(name).nth(1).is_none() {
                    return Value::Known(first);
                }
                join(scratch, head.get_all(name))
            }
        };
        if written.is_some() { Value::Known(scratch) } else { Value::Absent }
    }

    /// The address that it is, or that its text says; within, `None`: it is not there, or is no address.
    ///
    /// `None`: it cannot be had here.
    pub(super) fn any_address(&self, known: &Inputs<'_>, scratch: &mut Vec<u8>) -> Option<Option<IpAddr>> {
        if self.is_address() {
            return Some(self.address(known));
        }
        match self.text(known, scratch) {
            Value::Unknown => None,
            Value::Absent => Some(None),
            Value::Known(text) => Some(std::str::from_utf8(text).ok().and_then(|text| text.parse().ok())),
        }
    }

    /// The address that it is, without a text.
    fn address(&self, known: &Inputs<'_>) -> Option<IpAddr> {
        match self {
            Self::DestinationIp => known.local.map(|local| local.ip()),
            Self::SourceIp => known.remote.map(|remote| remote.ip()),
            Self::DirectSourceIp => known.direct_remote,
            _ => None,
        }
    }

    /// Whether [`Self::address`] has it.
    fn is_address(&self) -> bool {
        matches!(self, Self::DestinationIp | Self::SourceIp | Self::DirectSourceIp)
    }
}

/// The empty text is not there, as in Envoy.
fn text_of(text: &str) -> Value<'_> {
    if text.is_empty() { Value::Absent } else { Value::Known(text.as_bytes()) }
}

/// `None`: there were none.
fn join<'a>(scratch: &mut Vec<u8>, parts: impl Iterator<Item = &'a [u8]>) -> Option<()> {
    let mut any = None;
    for part in parts {
        if any.replace(()).is_some() {
            scratch.push(b',');
        }
        scratch.extend_from_slice(part);
    }
    any
}

/// As `inet_ntop` writes it: of IPv6 that holds IPv4 the last part is written as such.
fn write_address(scratch: &mut Vec<u8>, address: IpAddr) {
    // Writing to a `Vec` cannot fail.
    let _ = match address {
        IpAddr::V6(v6) if matches!(v6.segments(), [0, 0, 0, 0, 0, 0, high, _] if high != 0) => {
            let [.., a, b, c, d] = v6.octets();
            write!(scratch, "::{a}.{b}.{c}.{d}")
        }
        address => write!(scratch, "{address}"),
    };
}

fn write_number(scratch: &mut Vec<u8>, number: u16) {
    let _ = write!(scratch, "{number}");
}
