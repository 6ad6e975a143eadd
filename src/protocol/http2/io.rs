//! The bytes of an HTTP/2 connection as the codec reads and writes them: tokio's traits over a [`Transport`].
//!
//! Reads copy out of received chunks; what does not fit stays unread. Writes copy into chunks until so much waits for the
//! kernel, and go on at half of that: a peer that reads slowly stops the codec, which then stops reading. One poll reads a
//! bounded number of bytes, so that no peer keeps the worker to itself. A [`Guard`] sees every byte; the peer that it ends
//! the connection for is told so, past the codec, which could not say it without reading on. DATA frames that say nothing end
//! here: the codec allows a hundred in the life of a connection. Short ones of a stream that was given up get there as the
//! stream's last: the codec drops them, and charges the connection for all others for ever.
//!
//! A connection that ends or breaks in the turn that has brought something does so for the codec in the next turn: it breaks all
//! streams at once, also those whose end it has received and whose tasks have not run yet.
//!
//! Where a read is cut short for want of room, the codec gets no more of the frame at the cut than its header. On it the codec
//! makes room for the whole frame, in another block of memory. What it had of the frame by then it would copy there, and leave
//! behind, written to and so resident, in a block that stays as long as its table of headers refers to it.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::{END_STREAM, FLAGS_AT, FRAME_HEADER_BYTES, Flood, Guard, Limits, Received, Seen, Tail};
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
    begun: Begun,
}

/// The beginning of a frame's header that was received and is kept from the codec until the rest tells what frame it is.
#[derive(Debug, Default)]
struct Begun {
    bytes: [u8; FRAME_HEADER_BYTES],
    len: usize,
}

impl Begun {
    /// Gives away as many of the first as there is room for.
    fn give(&mut self, most: usize, room: &mut ReadBuf<'_>) -> usize {
        let given = self.len.min(most);
        room.put_slice(&self.bytes[..given]);
        self.bytes.copy_within(given..self.len, 0);
        self.len -= given;
        given
    }

    /// Takes what fits behind, which is all of a header that has not ended.
    fn take(&mut self, bytes: &[u8]) {
        let taken = bytes.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
    }

    /// Hands on what was received, up to its tail, behind what was kept. `room` has room for all of it.
    fn pass(&mut self, bytes: &[u8], tail: Tail, room: &mut ReadBuf<'_>) {
        let all = self.len + bytes.len();
        let kept = match tail {
            Tail::Header(kept) => kept,
            Tail::Dropped => 0,
            // Unless the codec has the beginning of it.
            Tail::Void if all < FRAME_HEADER_BYTES => 0,
            Tail::Void => FRAME_HEADER_BYTES,
        };
        let passed = all.saturating_sub(kept);
        let rest = passed - self.give(passed, room);
        room.put_slice(&bytes[..rest]);
        match tail {
            Tail::Header(_) => self.take(&bytes[rest..]),
            Tail::Void => self.len = 0,
            // Likewise.
            Tail::Dropped if all < FRAME_HEADER_BYTES => {}
            Tail::Dropped => {
                let header = room.filled().len() - FRAME_HEADER_BYTES;
                room.filled_mut()[header + FLAGS_AT] |= END_STREAM;
            }
        }
    }
}

/// What the guard of a connection has seen.
#[derive(Clone, Debug)]
pub(super) struct Watch(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    guard: Guard,
    flood: Option<Flood>,
    /// TLS below it broke.
    broken_tls: bool,
    /// The codec has more to write than there is room for.
    paused: bool,
    /// There was nothing to read, and is nothing before the connection's task runs again.
    dry: bool,
    /// The connection has ended or broken.
    over: bool,
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
        (state.read, state.rested_at, state.dry) = (0, state.guard.seen().work_received, false);
    }

    pub(super) fn seen(&self) -> Seen {
        self.0.borrow().guard.seen()
    }

    /// The codec has reset these streams, and drops what still comes on them.
    pub(super) fn give_up(&self, streams: Vec<u32>) {
        let state = &mut *self.0.borrow_mut();
        streams.into_iter().for_each(|stream| state.guard.give_up(stream));
    }

    /// Whether as much was read as one turn reads.
    fn is_full_turn(&self) -> bool {
        let state = self.0.borrow();
        let work = state.guard.seen().work_received;
        state.read >= BYTES_PER_TURN || work - state.rested_at >= FRAMES_PER_TURN
    }

    /// How many of the bytes are read in this turn, and what they end with. `cut`: the codec has no room for those behind.
    fn receive(&self, bytes: &[u8], cut: bool, now: Now) -> Result<Received, Flood> {
        let state = &mut *self.0.borrow_mut();
        let received = state.guard.received(bytes, cut, state.rested_at + FRAMES_PER_TURN, now)?;
        state.read += received.taken;
        Ok(received)
    }

    /// Whether the connection has ended or broken, be it that the codec is told in the next turn.
    pub(super) fn is_over(&self) -> bool {
        self.0.borrow().over
    }

    /// Whether TLS below it broke.
    pub(super) fn has_broken_tls(&self) -> bool {
        self.0.borrow().broken_tls
    }

    /// The limit that the peer passed.
    pub(super) fn flood(&self) -> Option<Flood> {
        self.0.borrow().flood
    }
}

impl<T: AsRef<Transport>> Io<T> {
    pub(super) fn new(runtime: &Runtime, transport: T, limits: Limits, is_server: bool) -> Self {
        let guard = Guard::new(limits, is_server, runtime.now());
        let state = State {
            guard,
            flood: None,
            broken_tls: false,
            paused: false,
            dry: false,
            over: false,
            read: 0,
            rested_at: 0,
        };
        let watch = Watch(Rc::new(RefCell::new(state)));
        Self { runtime: runtime.clone(), transport, watch, unflushed: true, begun: Begun::default() }
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
        if matches!(room, Poll::Ready(Err(_))) && self.ends_later() {
            return Poll::Pending;
        }
        self.watch.0.borrow_mut().paused = room.is_pending();
        room
    }

    /// Takes note that the connection has ended or broken; whether the codec is not to hear of it before the next turn. The tasks
    /// of the streams that this turn was of have been woken, and run before.
    fn ends_later(&self) -> bool {
        let has_read = {
            let state = &mut *self.watch.0.borrow_mut();
            state.over = true;
            state.read > 0
        };
        if has_read {
            self.runtime.wake(self.runtime.current_task());
        }
        has_read
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
        // The codec reads on with each request that it is asked for.
        if self.watch.0.borrow().dry {
            return Poll::Pending;
        }
        let before = room.filled().len();
        loop {
            if self.watch.is_full_turn() {
                self.runtime.wake(self.runtime.current_task());
                return Poll::Pending;
            }
            let mut chunk = match self.transport().poll_recv() {
                Poll::Ready(Ok(Some(chunk))) => chunk,
                Poll::Ready(Ok(None) | Err(_)) if self.ends_later() => return Poll::Pending,
                Poll::Ready(Ok(None)) => {
                    // Cut off within a header, which the codec is to know.
                    self.begun.give(room.remaining(), room);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(error)) => {
                    self.watch.0.borrow_mut().broken_tls = self.transport().has_broken_tls();
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    self.watch.0.borrow_mut().dry = true;
                    return Poll::Pending;
                }
            };
            // A full small chunk: a body streams, which is cheaper in large ones.
            self.transport().set_bulk(chunk.len() == chunk.capacity());
            let fits = chunk.len().min(room.remaining().saturating_sub(self.begun.len));
            if fits == 0 {
                // The codec gets the beginning of a header after all: it has no room for more.
                self.begun.give(room.remaining(), room);
                self.transport().unread(chunk);
                return Poll::Ready(Ok(()));
            }
            let cut = fits < chunk.len();
            let received = match self.watch.receive(&chunk[..fits], cut, self.runtime.now()) {
                Ok(received) => received,
                Err(flood) => {
                    self.watch.0.borrow_mut().flood = Some(flood);
                    let goaway = self.watch.0.borrow().guard.calming();
                    if goaway.is_some_and(|goaway| self.write(&goaway).is_ok()) {
                        self.transport().flush();
                    }
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
            };
            self.begun.pass(&chunk[..received.taken], received.tail, room);
            if received.taken < chunk.len() {
                chunk.advance(received.taken);
                self.transport().unread(chunk);
            }
            // Nothing would be the end.
            if room.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the codec reads of pieces with these tails.
    fn passed(pieces: &[(&[u8], Tail)]) -> Vec<u8> {
        let (mut begun, mut bytes) = (Begun::default(), [0; 64]);
        let mut room = ReadBuf::new(&mut bytes);
        pieces.iter().for_each(|(piece, tail)| begun.pass(piece, *tail, &mut room));
        begun.give(64, &mut room);
        room.filled().to_vec()
    }

    #[test]
    fn what_is_void_goes_no_further_and_all_else_does_in_its_order() {
        let header = Tail::Header;
        assert_eq!(passed(&[(b"abc", header(0)), (b"de", header(2)), (b"f", header(0))]), b"abcdef");
        assert_eq!(passed(&[(b"abc123456789", Tail::Void), (b"d", header(0))]), b"abcd");
        let cut = [(&b"abc12345"[..], header(5)), (b"6789", Tail::Void), (b"d", header(0))];
        assert_eq!(passed(&cut), b"abcd");
        let bytewise: Vec<_> = (1..9).map(|kept| (&b"123456789"[kept - 1..kept], header(kept))).collect();
        assert_eq!(passed(&[&bytewise[..], &[(b"9", Tail::Void), (b"d", header(0))]].concat()), b"d");
        assert_eq!(passed(&bytewise), b"12345678", "cut off");
    }

    #[test]
    fn short_frame_that_will_be_dropped_is_its_streams_last_unless_the_codec_has_its_beginning() {
        let header: [u8; FRAME_HEADER_BYTES] = [0, 0, 1, 0, 0, 0, 0, 0, 1];
        let last = [0, 0, 1, 0, END_STREAM, 0, 0, 0, 1];
        for cut in 0..FRAME_HEADER_BYTES {
            let (begun, rest) = header.split_at(cut);
            let pieces = [(begun, Tail::Header(cut)), (rest, Tail::Dropped), (&b"x"[..], Tail::Header(0))];
            assert_eq!(passed(&pieces), [&last[..], b"x"].concat(), "{cut}");
        }
        let behind_others = [&b"before"[..], &header].concat();
        assert_eq!(passed(&[(&behind_others[..], Tail::Dropped)])[6..], last);
        let (mut begun, mut bytes) = (Begun::default(), [0; 64]);
        let mut room = ReadBuf::new(&mut bytes);
        begun.pass(&header[..2], Tail::Header(2), &mut room);
        assert_eq!(begun.give(2, &mut room), 2);
        begun.pass(&header[2..], Tail::Dropped, &mut room);
        assert_eq!(room.filled(), &header);
    }

    #[test]
    fn void_frame_whose_beginning_the_codec_has_is_passed_whole() {
        let (mut begun, mut bytes) = (Begun::default(), [0; 64]);
        let mut room = ReadBuf::new(&mut bytes);
        begun.pass(b"1234", Tail::Header(4), &mut room);
        assert_eq!(begun.give(2, &mut room), 2);
        begun.pass(b"567", Tail::Header(7), &mut room);
        begun.pass(b"89", Tail::Void, &mut room);
        assert_eq!(room.filled(), b"123456789");
    }
}
