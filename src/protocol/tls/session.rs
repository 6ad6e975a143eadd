//! The protocol of one TLS connection, without I/O: rustls' unbuffered connection behind the few calls that the rest needs.
//!
//! Received records are decrypted where they lie, and what is to be sent is written where it is sent from: between two
//! calls nothing is kept but the state of the protocol. rustls 0.24 replaces this interface by one with buffers of the
//! caller's, so no other file names it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};
use rustls::{
    ClientConfig, CommonState, Error, HandshakeKind, ProtocolVersion, ServerConfig, SignatureScheme,
    SupportedCipherSuite,
};

use super::record;
use super::resolver::{self, Staple};
use super::verifier::{self, VerifyFailure};

/// Where bytes for the peer go, in order.
pub(super) trait Outgoing {
    /// Room for `bytes` at least; `None`: there is no memory.
    fn room(&mut self, bytes: usize) -> Option<&mut [u8]>;
    /// So many bytes were written to the room's beginning.
    fn advance(&mut self, bytes: usize);
}

/// Why a session cannot go on.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The peer, or this side's verification of it. The alert has been written.
    Protocol(Error),
    /// There was no memory for what had to be written or put together.
    Exhausted,
    /// A handshake message, or its fragments, are larger than a connection may hold.
    TooLarge,
    /// The keys have encrypted as much as they may, and the version has no way to change them.
    KeysExhausted,
    /// rustls did what its interface does not say it does.
    Unexpected(&'static str),
}

/// What came of a record.
#[derive(Debug)]
pub(super) struct Ingested {
    /// Bytes to be dropped from the front of what was given. The rest is part of a message that is not whole: it is given
    /// again, as it is now, with the next record behind it.
    pub(super) consumed: usize,
    /// Where the plaintext now lies in what was given; empty: there is none.
    pub(super) data: Range<usize>,
    pub(super) outcome: Result<(), Fault>,
}

/// The protocol of a connection.
pub(super) struct Session {
    side: Side,
    peer_closed: bool,
    /// Whether the client asks for an OCSP response, and what was done about it.
    asks_for_staple: bool,
    staple: Option<Staple>,
    /// What the peer's signature is made with.
    scheme: Option<SignatureScheme>,
    /// What is wrong with the peer's certificate, which is accepted all the same.
    forgiven: Option<VerifyFailure>,
}

#[allow(clippy::large_enum_variant, reason = "they are of one size but for a few words")]
enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

impl Session {
    /// Waits for a client's hello.
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self::new(Side::Server(UnbufferedServerConnection::new(config)?)))
    }

    /// Greets a server: the first call of [`Session::ingest`] writes the hello.
    pub(super) fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, Error> {
        Ok(Self::new(Side::Client(UnbufferedClientConnection::new(config, name)?)))
    }

    fn new(side: Side) -> Self {
        let (staple, scheme, forgiven) = Default::default();
        Self { side, peer_closed: false, asks_for_staple: true, staple, scheme, forgiven }
    }

    /// Works on one whole record, in front of it those of a message that was not whole.
    pub(super) fn ingest(&mut self, records: &mut [u8], out: &mut impl Outgoing) -> Ingested {
        let shakes = self.is_handshaking();
        if shakes {
            // Of another session, which has failed.
            verifier::take_scheme();
            verifier::take_forgiven();
            resolver::take_staple();
            resolver::set_asks(self.asks_for_staple);
        }
        let Self { side, peer_closed, scheme, forgiven, staple, .. } = self;
        let ingested = match side {
            Side::Server(server) => ingest(server, peer_closed, records, out),
            Side::Client(client) => ingest(client, peer_closed, records, out),
        };
        if shakes {
            *scheme = verifier::take_scheme().or(*scheme);
            *forgiven = verifier::take_forgiven().or(*forgiven);
            *staple = resolver::take_staple().or(*staple);
        }
        ingested
    }

    /// Writes one record of `plaintext`. `held` are the records of a message that is not whole.
    pub(super) fn encrypt(
        &mut self,
        held: &mut [u8],
        plaintext: &[u8],
        out: &mut impl Outgoing,
    ) -> Result<(), Fault> {
        let Self { side, peer_closed, .. } = self;
        let job = Job::Encrypt(plaintext);
        match side {
            Side::Server(server) => write(server, peer_closed, held, job, out),
            Side::Client(client) => write(client, peer_closed, held, job, out),
        }
    }

    /// Writes that nothing more will be sent.
    pub(super) fn close(&mut self, held: &mut [u8], out: &mut impl Outgoing) -> Result<(), Fault> {
        let Self { side, peer_closed, .. } = self;
        match side {
            Side::Server(server) => write(server, peer_closed, held, Job::Close, out),
            Side::Client(client) => write(client, peer_closed, held, Job::Close, out),
        }
    }

    fn common(&self) -> &CommonState {
        match &self.side {
            Side::Server(server) => server,
            Side::Client(client) => client,
        }
    }

    /// Whether the handshake is still going on.
    pub(super) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Whether the peer has said that it will send nothing more.
    pub(super) fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// The protocol agreed on by ALPN.
    pub(super) fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    pub(super) fn version(&self) -> Option<ProtocolVersion> {
        self.common().protocol_version()
    }

    pub(super) fn cipher(&self) -> Option<SupportedCipherSuite> {
        self.common().negotiated_cipher_suite()
    }

    /// The group of the key exchange; `None` where there was none.
    pub(super) fn group(&self) -> Option<rustls::NamedGroup> {
        self.common().negotiated_key_exchange_group().map(|group| group.name())
    }

    /// What the peer's signature is made with; `None`: it has made none, as where a session is resumed.
    pub(super) fn scheme(&self) -> Option<SignatureScheme> {
        self.scheme
    }

    /// Says whether the client asks for an OCSP response: rustls keeps it to itself. Unless this is called, it does.
    pub(super) fn set_asks_for_staple(&mut self, asks: bool) {
        self.asks_for_staple = asks;
    }

    /// What was done about the OCSP response that the client asked for; `None`: it did not ask, or has not been answered.
    pub(super) fn staple(&self) -> Option<Staple> {
        self.staple
    }

    /// What is wrong with the peer's certificate, which is accepted all the same; `None`: nothing, or there is none.
    pub(super) fn forgiven(&self) -> Option<VerifyFailure> {
        self.forgiven
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.common().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub(super) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.common().peer_certificates()
    }
}

/// One side of rustls' interface.
trait Unbuffered: std::ops::Deref<Target: std::ops::Deref<Target = CommonState>> {
    type Data;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Unbuffered for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }
}

impl Unbuffered for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }
}

/// Bytes compared at each end of a plaintext.
const EDGE_BYTES: usize = 16;

/// Length, first and last bytes of a plaintext: what shows whether it lies where it is expected.
#[derive(Clone, Copy, Default, PartialEq)]
struct Outline {
    len: usize,
    first: [u8; EDGE_BYTES],
    last: [u8; EDGE_BYTES],
}

impl Outline {
    fn of(bytes: &[u8]) -> Self {
        let mut outline = Self { len: bytes.len(), ..Self::default() };
        let edge = bytes.len().min(EDGE_BYTES);
        outline.first[..edge].copy_from_slice(&bytes[..edge]);
        outline.last[..edge].copy_from_slice(&bytes[bytes.len() - edge..]);
        outline
    }
}

fn ingest<C: Unbuffered>(
    connection: &mut C,
    peer_closed: &mut bool,
    records: &mut [u8],
    out: &mut impl Outgoing,
) -> Ingested {
    let mut consumed = 0;
    let mut outline = None;
    let outcome = loop {
        let UnbufferedStatus { discard, state, .. } = connection.process(&mut records[consumed..]);
        let step = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                let mut seen = None;
                let mut more = false;
                while let Some(Ok(record)) = traffic.next_record() {
                    more |= seen.replace(Outline::of(record.payload)).is_some() || record.discard > 0;
                }
                let alone = consumed == 0 && discard == records.len() && !more;
                outline = seen;
                Some(if alone {
                    Ok(())
                } else {
                    Err(Fault::Unexpected("data of more than the record given"))
                })
            }
            Ok(ConnectionState::EncodeTlsData(encode)) => write_handshake(encode, out).err().map(Err),
            Ok(ConnectionState::TransmitTlsData(transmit)) => {
                transmit.done();
                None
            }
            Ok(ConnectionState::PeerClosed) => {
                *peer_closed = true;
                None
            }
            Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Some(Ok(())),
            Ok(ConnectionState::Closed) => {
                *peer_closed = true;
                Some(Ok(()))
            }
            Ok(_) => Some(Err(Fault::Unexpected("early data, which is never accepted"))),
            Err(error) => Some(Err(Fault::Protocol(error))),
        };
        consumed += discard;
        match step {
            None => {}
            Some(outcome) => break outcome,
        }
    };
    if outcome.is_err() {
        write_alert(connection, &mut records[consumed..], out);
        return Ingested { consumed, data: 0..0, outcome };
    }
    let Some(outline) = outline else { return Ingested { consumed, data: 0..0, outcome } };
    match locate(records, outline, connection.protocol_version()) {
        Some(data) => Ingested { consumed, data, outcome },
        None => {
            let outcome = Err(Fault::Unexpected("plaintext is not where the record was"));
            Ingested { consumed, data: 0..0, outcome }
        }
    }
}

/// Where in its record rustls has decrypted a plaintext. Its interface hands out a copy, "to support in-place decryption in
/// the future"; that the record itself holds the plaintext by then is how all its cipher suites work. It is looked at every
/// time, and tested with each of them.
fn locate(record: &[u8], outline: Outline, version: Option<ProtocolVersion>) -> Option<Range<usize>> {
    let start = if version == Some(ProtocolVersion::TLSv1_3) {
        record::HEADER_BYTES
    } else {
        // Nothing but the explicit nonce of some suites stands in front, and the tag behind.
        record.len().checked_sub(outline.len + record::TAG_BYTES)?
    };
    let data = start..start + outline.len;
    (Outline::of(record.get(data.clone())?) == outline).then_some(data)
}

/// Writes what a failed session has left to say.
fn write_alert<C: Unbuffered>(connection: &mut C, records: &mut [u8], out: &mut impl Outgoing) {
    while connection.wants_write() {
        match connection.process(records).state {
            Ok(ConnectionState::EncodeTlsData(encode)) => {
                if write_handshake(encode, out).is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}

fn write_handshake<D>(mut encode: EncodeTlsData<'_, D>, out: &mut impl Outgoing) -> Result<(), Fault> {
    // The first call tells the size.
    let mut room: &mut [u8] = &mut [];
    loop {
        match encode.encode(room) {
            Ok(written) => {
                out.advance(written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size }))
                if room.is_empty() =>
            {
                room = out.room(required_size).ok_or(Fault::Exhausted)?;
            }
            Err(_) => return Err(Fault::Unexpected("a handshake record that cannot be written")),
        }
    }
}

enum Job<'a> {
    Encrypt(&'a [u8]),
    Close,
}

fn write<C: Unbuffered>(
    connection: &mut C,
    peer_closed: &mut bool,
    held: &mut [u8],
    job: Job<'_>,
    out: &mut impl Outgoing,
) -> Result<(), Fault> {
    loop {
        let UnbufferedStatus { discard, state, .. } = connection.process(held);
        debug_assert_eq!(discard, 0, "nothing new was given");
        match state.map_err(Fault::Protocol)? {
            ConnectionState::WriteTraffic(traffic) => return write_traffic(traffic, job, out),
            ConnectionState::EncodeTlsData(encode) => write_handshake(encode, out)?,
            ConnectionState::TransmitTlsData(transmit) => transmit.done(),
            ConnectionState::PeerClosed => *peer_closed = true,
            ConnectionState::BlockedHandshake => {
                return Err(Fault::Unexpected("written to before the handshake is complete"));
            }
            // Both sides have said their last.
            ConnectionState::Closed => return Ok(()),
            _ => return Err(Fault::Unexpected("data out of nothing")),
        }
    }
}

fn write_traffic<D>(
    mut traffic: WriteTraffic<'_, D>,
    job: Job<'_>,
    out: &mut impl Outgoing,
) -> Result<(), Fault> {
    let mut needed = match job {
        Job::Encrypt(plaintext) => plaintext.len() + record::OVERHEAD_BYTES_MAX,
        Job::Close => 2 + record::OVERHEAD_BYTES_MAX,
    };
    loop {
        let room = out.room(needed).ok_or(Fault::Exhausted)?;
        let written = match job {
            Job::Encrypt(plaintext) => traffic.encrypt(plaintext, room),
            Job::Close => traffic.queue_close_notify(room),
        };
        match written {
            Ok(written) => {
                out.advance(written);
                return Ok(());
            }
            // A message about keys goes before it.
            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size }))
                if required_size > needed =>
            {
                needed = required_size;
            }
            Err(EncryptError::InsufficientSize(_)) => {
                return Err(Fault::Unexpected("a record larger than it said"));
            }
            Err(EncryptError::EncryptExhausted) => return Err(Fault::KeysExhausted),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(error) => error.fmt(f),
            Self::Exhausted => f.write_str("no memory for a record"),
            Self::TooLarge => f.write_str("handshake message too large"),
            Self::KeysExhausted => f.write_str("the keys have encrypted as much as they may"),
            Self::Unexpected(what) => write!(f, "unexpected: {what}"),
        }
    }
}

impl std::error::Error for Fault {}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Protocol(error)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match self.side {
            Side::Server(_) => "Server",
            Side::Client(_) => "Client",
        };
        f.debug_struct("Session").field("side", &side).finish_non_exhaustive()
    }
}
