//! The bytes of an HTTP/2 connection as the codec reads and writes them: tokio's traits over a [`Transport`].
//!
//! Reads copy out of received chunks; what does not fit stays unread. Writes copy into chunks until so much waits for the
//! kernel, and go on at half of that: a peer that reads slowly stops the codec, which then stops reading. One poll reads a
//! bounded number of bytes, so that no peer keeps the worker to itself. A [`Guard`] sees every byte; the peer that it ends
//! the connection for is told so, past the codec, which could not say it without reading on.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::{Flood, Guard, Limits, Seen};
use crate::base::clock::Now;
use crate::protocol::transport::Transport;
use crate::runtime::Runtime;

/// Bytes that wait for the kernel before the codec is told to wait.
const QUEUED_BYTES_MAX: usize = 64 * 1024;
/// Bytes read before other tasks get their turn.
const BYTES_PER_TURN: usize = 256 * 1024;
/// Frames read before other tasks get their turn, a head counting as several, a long one as many. Reason: a frame may be nine
/// bytes, and a head costs microseconds and, until a task has taken it, memory.
const FRAMES_PER_TURN: u64 = 512;

/// A connection's bytes.
#[derive(Debug)]
pub(super) struct Io<T> {
    runtime: Runtime,
    transport: T,
    watch: Watch,
    /// Something was written since what waits was set going.
    unflushed: bool,
}

/// What the guard of a connection has seen.
#[derive(Clone, Debug)]
pub(super) struct Watch(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    guard: Guard,
    flood: Option<Flood>,
    /// The codec has more to write than there is room for.
    paused: bool,
    /// Bytes read in this turn, and what the frames before it had cost.
    read: usize,
    rested_at: u64,
}

impl Watch {
    /// Whether the codec waits for room to write.
    pub(super) fn is_paused(&self) -> bool {
        self.0.borrow().paused
    }

    /// The connection's task has done what there was to do: it may read again the next time it runs. Not before: the codec reads
    /// on each time it is asked for a request that it has read already.
    pub(super) fn rest(&self) {
        let state = &mut *self.0.borrow_mut();
        (state.read, state.rested_at) = (0, state.guard.seen().work_received);
    }

    pub(super) fn seen(&self) -> Seen {
        self.0.borrow().guard.seen()
    }

    /// Whether as much was read as one turn reads.
    fn is_full_turn(&self) -> bool {
        let state = self.0.borrow();
        let work = state.guard.seen().work_received;
        state.read >= BYTES_PER_TURN || work - state.rested_at >= FRAMES_PER_TURN
    }

    /// How many of the bytes are read in this turn.
    fn receive(&self, bytes: &[u8], now: Now) -> Result<usize, Flood> {
        let state = &mut *self.0.borrow_mut();
        let taken = state.guard.received(bytes, state.rested_at + FRAMES_PER_TURN, now)?;
        state.read += taken;
        Ok(taken)
    }

    /// The limit that the peer passed.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.0.borrow().flood
    }
}

impl<T: AsRef<Transport>> Io<T> {
    pub(super) fn new(runtime: &Runtime, transport: T, limits: Limits, is_server: bool) -> Self {
        let guard = Guard::new(limits, is_server, runtime.now());
        let state = State { guard, flood: None, paused: false, read: 0, rested_at: 0 };
        let watch = Watch(Rc::new(RefCell::new(state)));
        Self { runtime: runtime.clone(), transport, watch, unflushed: true }
    }

    pub(super) fn watch(&self) -> Watch {
        self.watch.clone()
    }

    fn transport(&self) -> &Transport {
        self.transport.as_ref()
    }

    /// Whether there is room for more bytes on their way to the kernel. Once there was none, half has to be gone.
    fn poll_room(&mut self) -> Poll<io::Result<()>> {
        let paused = self.watch.is_paused();
        let most = if paused { QUEUED_BYTES_MAX / 2 } else { QUEUED_BYTES_MAX };
        if self.transport().queued() > most {
            self.transport().flush();
        }
        let mut room = self.transport().poll_sent(most);
        if room.is_pending() && !paused {
            room = self.transport().poll_sent(QUEUED_BYTES_MAX / 2);
        }
        self.watch.0.borrow_mut().paused = room.is_pending();
        room
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.unflushed = true;
        if !self.transport().send_copy(bytes) {
            // Part of it may be queued: the connection cannot go on.
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.watch.0.borrow_mut().guard.sent(bytes);
        Ok(())
    }
}

impl<T: AsRef<Transport> + Unpin> AsyncRead for Io<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.watch.is_full_turn() {
            self.runtime.wake(self.runtime.current_task());
            return Poll::Pending;
        }
        let mut chunk = match self.transport().poll_recv() {
            Poll::Ready(Ok(Some(chunk))) => chunk,
            Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        // A full small chunk: a body streams, which is cheaper in large ones.
        self.transport().set_bulk(chunk.len() == chunk.capacity());
        let fits = chunk.len().min(room.remaining());
        let taken = match self.watch.receive(&chunk[..fits], self.runtime.now()) {
            Ok(taken) => taken,
            Err(flood) => {
                self.watch.0.borrow_mut().flood = Some(flood);
                let goaway = self.watch.0.borrow().guard.calming();
                if goaway.is_some_and(|goaway| self.write(&goaway).is_ok()) {
                    self.transport().flush();
                }
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        };
        room.put_slice(&chunk[..taken]);
        if taken < chunk.len() {
            chunk.advance(taken);
            self.transport().unread(chunk);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsRef<Transport> + Unpin> AsyncWrite for Io<T> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.poll_room() {
            Poll::Ready(Ok(())) => Poll::Ready(self.write(bytes).map(|()| bytes.len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.poll_room() {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        let mut written = 0;
        for slice in slices {
            if let Err(error) = self.write(slice) {
                return Poll::Ready(Err(error));
            }
            written += slice.len();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The codec flushes with every stream that it is asked for. TLS may have an answer of its own.
        if std::mem::take(&mut self.unflushed) || self.transport().tls().is_some() {
            self.transport().flush();
        }
        Poll::Ready(Ok(()))
    }

    /// Closing is the owner's affair: it waits for the peer, too.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport().flush();
        Poll::Ready(Ok(()))
    }
}
