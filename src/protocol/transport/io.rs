//! [`Transport`]: the bytes of one connection as the codecs and the proxy's path read and write them.
//!
//! One contract for every kind, that of [`TcpStream`]: sending is queueing, `flush` sets it going, `poll_*` wake the task
//! that last asked, what is queued and not sent is lost when it is dropped. An enum and not a trait object: the plain
//! case, which is the hot one, costs a predicted branch.

use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use crate::buffer::Chunk;
use crate::runtime::{Keepalive, TaskId, TcpStream};

/// A connection's bytes, in both directions.
#[derive(Debug)]
pub enum Transport {
    /// As they are on the wire (Envoy `envoy.transport_sockets.raw_buffer`).
    Plain(TcpStream),
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl Transport {
    /// The socket below.
    #[inline]
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
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
        }
    }

    /// [`TcpStream::unread`].
    #[inline]
    pub fn unread(&self, chunk: Chunk) {
        match self {
            Self::Plain(stream) => stream.unread(chunk),
        }
    }

    /// [`TcpStream::has_unread`].
    #[inline]
    pub fn has_unread(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.has_unread(),
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
        }
    }

    /// [`TcpStream::set_bulk`].
    #[inline]
    pub fn set_bulk(&self, bulk: bool) {
        self.socket().set_bulk(bulk);
    }

    /// [`TcpStream::send`].
    #[inline]
    pub fn send(&self, chunk: Chunk) {
        match self {
            Self::Plain(stream) => stream.send(chunk),
        }
    }

    /// [`TcpStream::send_copy`].
    #[inline]
    #[must_use]
    pub fn send_copy(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Plain(stream) => stream.send_copy(bytes),
        }
    }

    /// [`TcpStream::flush`].
    #[inline]
    pub fn flush(&self) {
        match self {
            Self::Plain(stream) => stream.flush(),
        }
    }

    /// [`TcpStream::queued`].
    #[inline]
    pub fn queued(&self) -> usize {
        match self {
            Self::Plain(stream) => stream.queued(),
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
        }
    }

    /// [`TcpStream::shutdown_write`].
    pub fn shutdown_write(&self) {
        match self {
            Self::Plain(stream) => stream.shutdown_write(),
        }
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
