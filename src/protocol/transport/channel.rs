//! [`Channel`]: what a message comes and goes on: a connection of its own (HTTP/1), or a stream of one (HTTP/2).
//!
//! Its bytes are under one contract, that of [`Transport`]. On a connection they hold heads and framing too; on a stream
//! they are the body's, heads go beside them, and the end of the bytes is the end of the message.

use std::io;
use std::task::Poll;

use super::Transport;
use crate::buffer::Chunk;
use crate::protocol::http2::Stream;

/// See the file's head.
#[derive(Debug)]
pub enum Channel {
    /// A whole connection.
    Connection(Transport),
    /// A stream of a connection that others share. Boxed: the usual case is not to carry its size.
    Stream(Box<Stream>),
}

impl From<Transport> for Channel {
    fn from(transport: Transport) -> Self {
        Self::Connection(transport)
    }
}

impl From<Box<Stream>> for Channel {
    fn from(stream: Box<Stream>) -> Self {
        Self::Stream(stream)
    }
}

impl Channel {
    /// The connection, if it is one.
    #[inline]
    pub fn connection(&self) -> Option<&Transport> {
        match self {
            Self::Connection(transport) => Some(transport),
            Self::Stream(_) => None,
        }
    }

    /// The stream, if it is one.
    #[inline]
    pub fn stream(&self) -> Option<&Stream> {
        match self {
            Self::Connection(_) => None,
            Self::Stream(stream) => Some(stream),
        }
    }

    /// Received bytes in order, `None` at the end. Pending wakes the current task later.
    ///
    /// # Errors
    /// It broke; bytes that arrived before have been returned.
    #[inline]
    pub fn poll_recv(&self) -> Poll<io::Result<Option<Chunk>>> {
        match self {
            Self::Connection(transport) => transport.poll_recv(),
            Self::Stream(stream) => stream.poll_recv(),
        }
    }

    /// [`Transport::ends_by_close`]; a stream has an end of its own.
    #[inline]
    pub fn ends_by_close(&self) -> bool {
        match self {
            Self::Connection(transport) => transport.ends_by_close(),
            Self::Stream(_) => false,
        }
    }

    /// [`Transport::is_truncated`]; a stream's end is always announced.
    #[inline]
    pub fn is_truncated(&self) -> bool {
        match self {
            Self::Connection(transport) => transport.is_truncated(),
            Self::Stream(_) => false,
        }
    }

    /// [`Transport::poll_rest`]; of a stream nothing is waited for.
    pub fn poll_rest(&self) -> Poll<()> {
        match self {
            Self::Connection(transport) => transport.poll_rest(),
            Self::Stream(_) => Poll::Ready(()),
        }
    }

    /// Takes over what a stream has received, for whoever reads nothing for now: [`Stream::gather`].
    #[inline]
    pub fn gather(&self) {
        if let Self::Stream(stream) = self {
            stream.gather();
        }
    }

    /// Gives bytes back: the next read returns them first.
    #[inline]
    pub fn unread(&self, chunk: Chunk) {
        match self {
            Self::Connection(transport) => transport.unread(chunk),
            Self::Stream(stream) => stream.unread(chunk),
        }
    }

    /// Whether received bytes wait unread.
    #[inline]
    pub fn has_unread(&self) -> bool {
        match self {
            Self::Connection(transport) => transport.has_unread(),
            Self::Stream(stream) => stream.has_unread(),
        }
    }

    /// Ready once the peer is known to have gone. Pending wakes the current task later.
    #[inline]
    pub fn poll_peer_closed(&self) -> Poll<()> {
        match self {
            Self::Connection(transport) => transport.poll_peer_closed(),
            Self::Stream(stream) => stream.poll_peer_closed(),
        }
    }

    /// Ready once it is known to have broken, although not all of it has been read: a connection was reset, a stream too or its
    /// connection has ended. Pending wakes the current task later.
    pub fn poll_broken(&self) -> Poll<()> {
        match self {
            Self::Connection(transport) => transport.poll_broken(),
            Self::Stream(stream) => stream.poll_peer_closed(),
        }
    }

    /// Whether reads take large chunks.
    #[inline]
    pub fn set_bulk(&self, bulk: bool) {
        if let Self::Connection(transport) = self {
            transport.set_bulk(bulk);
        }
    }

    /// Whether little is taken at a time, and nothing is read ahead.
    pub fn set_sparing(&self, sparing: bool) {
        match self {
            Self::Connection(transport) => transport.set_sparing(sparing),
            Self::Stream(stream) => stream.set_sparing(sparing),
        }
    }

    /// Queues bytes to be sent.
    #[inline]
    pub fn send(&self, chunk: Chunk) {
        match self {
            Self::Connection(transport) => transport.send(chunk),
            Self::Stream(stream) => stream.send(chunk),
        }
    }

    /// Queues a copy of a few bytes; false when there is no memory for them.
    #[inline]
    #[must_use]
    pub fn send_copy(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Connection(transport) => transport.send_copy(bytes),
            Self::Stream(stream) => {
                stream.send_copy(bytes);
                true
            }
        }
    }

    /// Sets what is queued going.
    #[inline]
    pub fn flush(&self) {
        match self {
            Self::Connection(transport) => transport.flush(),
            Self::Stream(stream) => stream.flush(),
        }
    }

    /// Goes on with what a stream has queued: it moves only when its task asks; a connection's moves by itself.
    #[inline]
    pub fn pump(&self) {
        if let Self::Stream(stream) = self {
            stream.flush();
        }
    }

    /// Bytes queued and not yet taken.
    #[inline]
    pub fn queued(&self) -> usize {
        match self {
            Self::Connection(transport) => transport.queued(),
            Self::Stream(stream) => stream.queued(),
        }
    }

    /// Ready when at most `left` bytes wait. Pending wakes the current task later.
    ///
    /// # Errors
    /// It broke; what was queued is gone.
    #[inline]
    pub fn poll_sent(&self, left: usize) -> Poll<io::Result<()>> {
        match self {
            Self::Connection(transport) => transport.poll_sent(left),
            Self::Stream(stream) => stream.poll_sent(left),
        }
    }

    /// Ready when what was queued is with the kernel, of a stream on its way there: a reset takes back what is not. Pending wakes
    /// the current task later.
    ///
    /// # Errors
    /// It broke; what was queued is gone.
    pub fn poll_written(&self) -> Poll<io::Result<()>> {
        match self {
            Self::Connection(transport) => transport.poll_sent(0),
            Self::Stream(stream) => stream.poll_written(),
        }
    }

    /// Ends our direction once everything queued has been sent.
    pub fn shutdown_write(&self) {
        match self {
            Self::Connection(transport) => transport.shutdown_write(),
            Self::Stream(stream) => stream.finish(None),
        }
    }

    /// Makes its end a break: a reset.
    pub fn set_reset_on_close(&self) {
        match self {
            Self::Connection(transport) => transport.set_reset_on_close(),
            Self::Stream(stream) => stream.reset(false),
        }
    }
}
