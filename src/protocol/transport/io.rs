//! [`Transport`]: the bytes of one connection as the codecs and the proxy's path read and write them.
//!
//! One contract for every kind, that of [`TcpStream`]: sending is queueing, `flush` sets it going, `poll_*` wake the task
//! that last asked, what is queued and not sent is lost when it is dropped. An enum and not a trait object: the plain
//! case, which is the hot one, costs a predicted branch.

use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use crate::buffer::Chunk;
use crate::protocol::tls::TlsStream;
use crate::runtime::{Keepalive, TaskId, TcpStream};

/// A connection's bytes, in both directions.
#[derive(Debug)]
pub enum Transport {
    /// As they are on the wire (Envoy `envoy.transport_sockets.raw_buffer`).
    Plain(TcpStream),
    /// Under TLS (Envoy `envoy.transport_sockets.tls`), its handshake made or under way.
    Tls(Box<TlsStream>),
}

impl From<Box<TlsStream>> for Transport {
    fn from(stream: Box<TlsStream>) -> Self {
        Self::Tls(stream)
    }
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl AsRef<Self> for Transport {
    fn as_ref(&self) -> &Self {
        self
    }
}

impl Transport {
    /// The socket below.
    #[inline]
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.socket(),
        }
    }

    /// The socket, if its bytes are the connection's as they are.
    #[inline]
    pub fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(_) => None,
        }
    }

    /// The TLS between the socket and the protocol, if there is.
    #[inline]
    pub fn tls(&self) -> Option<&TlsStream> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => Some(stream),
        }
    }

    /// [`TcpStream::poll_recv`].
    ///
    /// # Errors
    /// The connection broke; bytes that arrived before have been returned.
    #[inline]
    pub fn poll_recv(&self) -> Poll<io::Result<Option<Chunk>>> {
        match self {
            Self::Plain(stream) => stream.poll_recv(),
            Self::Tls(stream) => stream.poll_recv(),
        }
    }

    /// [`TcpStream::unread`].
    #[inline]
    pub fn unread(&self, chunk: Chunk) {
        match self {
            Self::Plain(stream) => stream.unread(chunk),
            Self::Tls(stream) => stream.unread(chunk),
        }
    }

    /// [`TcpStream::has_unread`].
    #[inline]
    pub fn has_unread(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.has_unread(),
            Self::Tls(stream) => stream.has_unread(),
        }
    }

    /// Whether the close of the socket alone is an orderly end: nothing that arrived is known to be unread, and no layer
    /// has an end of its own to tell.
    #[inline]
    pub fn ends_by_close(&self) -> bool {
        matches!(self, Self::Plain(stream) if !stream.may_have_unread())
    }

    /// [`TcpStream::poll_peer_closed`].
    #[inline]
    pub fn poll_peer_closed(&self) -> Poll<()> {
        match self {
            Self::Plain(stream) => stream.poll_peer_closed(),
            Self::Tls(stream) => stream.poll_peer_closed(),
        }
    }

    /// [`TcpStream::poll_broken`].
    pub fn poll_broken(&self) -> Poll<()> {
        match self {
            Self::Plain(stream) => stream.poll_broken(),
            Self::Tls(stream) => stream.poll_broken(),
        }
    }

    /// Whether the peer's end, of which [`Transport::poll_recv`] has told, may be somebody else's doing: under TLS it was
    /// not announced. What only the end delimits is then not known to be whole.
    #[inline]
    pub fn is_truncated(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.is_truncated(),
        }
    }

    /// Whether its TLS broke once the handshake was complete: what `ssl.connection_error` counts besides handshakes.
    pub fn has_broken_tls(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.has_broken())
    }

    /// Reads and forgets what still arrives: ready at the peer's end. For a connection that is being closed.
    pub fn poll_rest(&self) -> Poll<()> {
        match self {
            Self::Plain(stream) => stream.poll_rest(),
            Self::Tls(stream) => stream.poll_rest(),
        }
    }

    /// [`TcpStream::set_bulk`].
    #[inline]
    pub fn set_bulk(&self, bulk: bool) {
        self.socket().set_bulk(bulk);
    }

    /// [`TcpStream::set_sparing`].
    pub fn set_sparing(&self, sparing: bool) {
        self.socket().set_sparing(sparing);
    }

    /// [`TcpStream::send`].
    #[inline]
    pub fn send(&self, chunk: Chunk) {
        match self {
            Self::Plain(stream) => stream.send(chunk),
            Self::Tls(stream) => stream.send(chunk),
        }
    }

    /// [`TcpStream::send_copy`].
    #[inline]
    #[must_use]
    pub fn send_copy(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Plain(stream) => stream.send_copy(bytes),
            Self::Tls(stream) => stream.send_copy(bytes),
        }
    }

    /// [`TcpStream::flush`].
    #[inline]
    pub fn flush(&self) {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }

    /// [`TcpStream::queued`].
    #[inline]
    pub fn queued(&self) -> usize {
        match self {
            Self::Plain(stream) => stream.queued(),
            Self::Tls(stream) => stream.queued(),
        }
    }

    /// [`TcpStream::poll_sent`].
    ///
    /// # Errors
    /// The connection broke; what was queued is gone.
    #[inline]
    pub fn poll_sent(&self, left: usize) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_sent(left),
            Self::Tls(stream) => stream.poll_sent(left),
        }
    }

    /// [`TcpStream::shutdown_write`].
    pub fn shutdown_write(&self) {
        match self {
            Self::Plain(stream) => stream.shutdown_write(),
            Self::Tls(stream) => stream.shutdown_write(),
        }
    }

    /// [`TcpStream::is_acknowledged`].
    pub fn is_acknowledged(&self) -> bool {
        self.socket().is_acknowledged()
    }

    /// [`TcpStream::set_reset_on_close`].
    pub fn set_reset_on_close(&self) {
        self.socket().set_reset_on_close();
    }

    /// [`TcpStream::watch_by`].
    pub fn watch_by(&self, task: TaskId) {
        self.socket().watch_by(task);
    }

    /// [`TcpStream::peer_addr`].
    ///
    /// # Errors
    /// The connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket().peer_addr()
    }

    /// [`TcpStream::local_addr`].
    ///
    /// # Errors
    /// The connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    /// [`TcpStream::set_keepalive`].
    ///
    /// # Errors
    /// The kernel refuses a value.
    pub fn set_keepalive(&self, keepalive: Keepalive) -> io::Result<()> {
        self.socket().set_keepalive(keepalive)
    }
}
