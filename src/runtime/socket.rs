//! The worker's table of sockets: what each back end keeps per socket, owned here and nowhere else.
//!
//! A key carries a generation, so that a late completion or a stale handle never touches a successor: the number of the
//! insertion, whichever slot it went to, so that slots can be given back. A slot is freed only when no kernel operation
//! refers to it any more ([`Socket::ops`] is zero).

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};

use super::endpoint::Endpoint;
use super::internal::{InternalEnd, InternalListener};
use super::pipe::{Pipe, Spliced};
use super::slab::Slab;
use super::sys::RawAddr;
use super::task::TaskId;
use crate::base::heaps;
use crate::base::socket_address::SocketAddress;
use crate::buffer::ChunkQueue;

/// Names a socket. 24 bits of generation travel in a completion's user data; those of sockets within the worker, of which the
/// kernel knows nothing, have another bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SocketKey {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl SocketKey {
    /// Whether the socket is one within the worker.
    #[inline]
    pub(super) fn is_internal(self) -> bool {
        self.generation & INTERNAL != 0
    }
}

/// Why no more bytes will arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecvEnd {
    /// The peer finished sending.
    Eof,
    /// The connection broke: an errno.
    Error(i32),
}

/// When our sending direction is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shutdown {
    Open,
    /// As soon as what is queued has been sent.
    WhenSent,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connect {
    /// Accepted, or connected.
    Done,
    Running,
    /// Failed: an errno.
    Failed(i32),
}

/// How the ring receives on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecvOp {
    Idle,
    /// A multishot receive or accept is armed.
    Multishot,
    /// One receive into a buffer that the operation owns or picks.
    Single,
    /// Splicing waits for readiness.
    Poll,
    /// A cancel is on its way; what still arrives is kept.
    Cancelling,
}

#[derive(Debug)]
pub(super) struct Socket {
    /// [`VACANT`]: the slot is free.
    pub(super) generation: u32,
    /// `None`: the slot is free, or the socket is one within the worker.
    pub(super) endpoint: Option<Endpoint>,
    pub(super) listener: bool,
    /// The owner let go; the slot is freed once `ops` is zero.
    pub(super) closing: bool,
    /// Kernel operations that have not posted their last completion.
    pub(super) ops: u8,
    pub(super) recv_task: TaskId,
    pub(super) send_task: TaskId,

    /// Received and not yet taken.
    pub(super) received: ChunkQueue,
    pub(super) recv_end: Option<RecvEnd>,
    pub(super) recv_op: RecvOp,
    /// Large chunks are worth it: a body streams.
    pub(super) bulk: bool,
    /// A body has streamed since the last receive for a head: the next may stream, too.
    pub(super) streamed: bool,
    /// Ring: bytes go to a pipe, and no receive is armed.
    pub(super) splicing: bool,
    /// One small chunk is read at a time, and only when asked for: many such sockets wait for one receiver.
    pub(super) sparing: bool,
    /// Epoll: a listener that has no descriptors for whom it would accept is not reported.
    pub(super) muted: bool,
    /// Ring: the last receive left nothing in the kernel's buffer.
    pub(super) drained: bool,
    /// Epoll, sim: a receive may find something.
    pub(super) readable: bool,
    /// The peer's end is known to lie ahead, perhaps behind unread bytes.
    pub(super) peer_closed: bool,
    /// Epoll, sim: the connection is known to have broken, perhaps behind unread bytes.
    pub(super) broken: bool,

    /// To be sent; while `sending`, the kernel reads the first chunks of it.
    pub(super) to_send: ChunkQueue,
    /// Ring: a send, or splicing's wait for room, is under way.
    pub(super) sending: bool,
    /// Ring: bytes of that send, which are bounded.
    pub(super) sending_bytes: u32,
    /// Ring: the last send found no room for all of it.
    pub(super) send_full: bool,
    /// Ring: on the list of sockets that have something to send.
    pub(super) send_queued: bool,
    /// `send_task` is woken when no more than this waits.
    pub(super) wake_at: usize,
    pub(super) send_error: Option<i32>,
    pub(super) writable: bool,
    pub(super) shutdown: Shutdown,
    pub(super) connect: Connect,

    /// What few sockets have.
    beside: Option<Box<Beside>>,
    /// Where a connect that the kernel may still read goes.
    pub(super) address: Option<Box<RawAddr>>,
}

/// See [`Socket::beside`].
#[derive(Debug)]
enum Beside {
    Accepting(Accepting),
    InternalEnd(InternalEnd),
    InternalListener(InternalListener),
}

/// What a listener has beside.
#[derive(Debug, Default)]
pub(super) struct Accepting {
    /// Accepted by the ring and not yet taken.
    pub(super) accepted: VecDeque<OwnedFd>,
    /// Errno of a failed accept, not yet reported.
    pub(super) error: Option<i32>,
}

impl Beside {
    /// Bytes of its list.
    fn queue_bytes(&self) -> usize {
        match self {
            Self::Accepting(accepting) => accepting.accepted.capacity() * size_of::<OwnedFd>(),
            Self::InternalListener(listener) => listener.accepted.capacity() * size_of::<SocketKey>(),
            Self::InternalEnd(_) => 0,
        }
    }
}

/// What is asked of a socket that is closed.
pub(super) fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

/// Most bytes of a socket's slot: an idle connection has one, a relayed one two, and a segment of 16 is to fill a size class
/// of the allocator's.
const SLOT_BYTES_MAX: usize = 192;
const _: () = assert!(cfg!(test) || size_of::<Socket>() <= SLOT_BYTES_MAX);

/// All sockets of a worker.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    slots: Slab<Socket>,
    /// Of the latest insertion.
    generation: u32,
}

/// Sockets that are asked what they own, about.
const SAMPLE: usize = 256;

const GENERATION_MASK: u32 = (1 << 24) - 1;
/// Set in the generation of a socket within the worker.
const INTERNAL: u32 = 1 << 31;
/// The generation of a free slot, which no key has.
const VACANT: u32 = u32::MAX;

impl Sockets {
    pub(super) fn insert(&mut self, endpoint: impl Into<Endpoint>) -> SocketKey {
        let key = self.next(0);
        self.slots[key.slot] =
            Socket { generation: key.generation, endpoint: Some(endpoint.into()), ..Socket::default() };
        key
    }

    /// An end of a connection within the worker.
    pub(super) fn insert_end(&mut self, end: InternalEnd) -> SocketKey {
        self.insert_internal(Beside::InternalEnd(end))
    }

    /// An internal listener.
    pub(super) fn insert_listener(&mut self, listener: InternalListener) -> SocketKey {
        let key = heaps::lasting(|| self.insert_internal(Beside::InternalListener(listener)));
        self.slots[key.slot].listener = true;
        key
    }

    fn insert_internal(&mut self, beside: Beside) -> SocketKey {
        let key = self.next(INTERNAL);
        let beside = Some(Box::new(beside));
        self.slots[key.slot] = Socket { generation: key.generation, beside, ..Socket::default() };
        key
    }

    fn next(&mut self, mark: u32) -> SocketKey {
        self.generation = (self.generation + 1) & GENERATION_MASK;
        SocketKey { slot: self.slots.insert(), generation: self.generation | mark }
    }

    /// The socket, if the key is not stale. A socket that is closing is still found.
    pub(super) fn find(&mut self, key: SocketKey) -> Option<&mut Socket> {
        self.slots.get_mut(key.slot).filter(|socket| socket.generation == key.generation)
    }

    /// The socket of a live handle.
    pub(super) fn live(&mut self, key: SocketKey) -> &mut Socket {
        let socket = &mut self.slots[key.slot];
        debug_assert_eq!(socket.generation, key.generation, "a handle keeps its socket");
        socket
    }

    /// Frees the slot and hands out what was open there.
    pub(super) fn remove(&mut self, key: SocketKey) -> Option<Endpoint> {
        let socket = self.find(key)?;
        debug_assert_eq!(socket.ops, 0, "the kernel holds nothing of a freed slot");
        let endpoint = socket.endpoint.take();
        // Names nobody from now on; with the room of its queues: blocks that outlive a burst one by one would keep its pages resident.
        *socket = Socket::default();
        self.slots.remove(key.slot);
        endpoint
    }

    /// Sockets in use: a leak counter.
    pub(super) fn open(&self) -> usize {
        self.slots.len()
    }

    /// Operations with the kernel: a leak counter.
    pub(super) fn ops(&self) -> usize {
        self.slots.used().map(|slot| self.slots[slot].ops as usize).sum()
    }

    /// Gives the memory of a burst back.
    pub(super) fn trim(&mut self) {
        self.slots.trim();
    }

    /// Bytes of the queues' lists and of what else sockets own. Of many sockets a sample is asked, evenly spread, so that this
    /// takes no longer than looking through the table's segments.
    pub(super) fn queue_bytes(&self) -> usize {
        // Odd: downstream and upstream sockets often alternate.
        let step = (self.slots.len() / SAMPLE) | 1;
        let (mut asked, mut bytes) = (0, 0);
        for slot in self.slots.used().step_by(step) {
            asked += 1;
            bytes += self.slots[slot].queue_bytes();
        }
        bytes * self.slots.len() / asked.max(1)
    }

    /// Bytes of the table; what the queues hold is not part of it.
    pub(super) fn bytes(&self) -> usize {
        self.slots.bytes()
    }
}

/// A vacant slot.
impl Default for Socket {
    fn default() -> Self {
        Self {
            generation: VACANT,
            endpoint: None,
            listener: false,
            closing: false,
            ops: 0,
            recv_task: TaskId::NONE,
            send_task: TaskId::NONE,
            received: ChunkQueue::default(),
            recv_end: None,
            recv_op: RecvOp::Idle,
            bulk: false,
            streamed: false,
            splicing: false,
            sparing: false,
            muted: false,
            drained: false,
            readable: false,
            peer_closed: false,
            broken: false,
            to_send: ChunkQueue::default(),
            sending: false,
            sending_bytes: 0,
            send_full: false,
            send_queued: false,
            wake_at: 0,
            send_error: None,
            writable: false,
            shutdown: Shutdown::Open,
            connect: Connect::Done,
            beside: None,
            address: None,
        }
    }
}

impl Socket {
    /// Bytes of what it owns beside its slot.
    fn queue_bytes(&self) -> usize {
        self.received.list_bytes()
            + self.to_send.list_bytes()
            + self.beside.as_deref().map_or(0, |beside| size_of_val(beside) + beside.queue_bytes())
            + self.address.as_deref().map_or(0, size_of_val)
    }

    /// What a listener has beside.
    pub(super) fn accepting(&mut self) -> &mut Accepting {
        let accepting = || heaps::lasting(|| Box::new(Beside::Accepting(Accepting::default())));
        match &mut **self.beside.get_or_insert_with(accepting) {
            Beside::Accepting(accepting) => accepting,
            Beside::InternalEnd(_) | Beside::InternalListener(_) => unreachable!("no socket of the kernel's"),
        }
    }

    /// What an end of a connection within the worker has beside.
    pub(super) fn internal_end(&mut self) -> Option<&mut InternalEnd> {
        match self.beside.as_deref_mut()? {
            Beside::InternalEnd(end) => Some(end),
            Beside::Accepting(_) | Beside::InternalListener(_) => None,
        }
    }

    /// What an internal listener has beside.
    pub(super) fn internal_listener(&mut self) -> Option<&mut InternalListener> {
        match self.beside.as_deref_mut()? {
            Beside::InternalListener(listener) => Some(listener),
            Beside::Accepting(_) | Beside::InternalEnd(_) => None,
        }
    }

    /// Whether the peer has all that was sent, but for what still waits here. Within the worker nothing is on its way.
    pub(super) fn is_acknowledged(&mut self) -> bool {
        self.internal_end().is_some() || self.endpoint.as_ref().is_none_or(Endpoint::is_acknowledged)
    }

    /// Whether the kernel has bytes that nobody has received.
    pub(super) fn has_arrived(&self) -> bool {
        self.endpoint.as_ref().is_some_and(Endpoint::has_arrived)
    }

    /// Makes the close that follows a reset.
    pub(super) fn set_reset_on_close(&mut self) {
        if let Some(end) = self.internal_end() {
            end.resets = true;
        } else if let Some(endpoint) = &self.endpoint {
            endpoint.set_reset_on_close();
        }
    }

    /// Where the peer is and where this end is, as [`Endpoint::ends`]. Within the worker both are called as the listener.
    pub(super) fn ends(&mut self) -> io::Result<[SocketAddress; 2]> {
        if let Some(end) = self.internal_end() {
            let local = SocketAddress::Internal(end.address.clone());
            return Ok([local.clone(), local]);
        }
        self.endpoint.as_ref().ok_or_else(gone)?.ends()
    }

    /// Where the peer meant to connect to, before a redirection, or where it says so.
    pub(super) fn original_destination(&mut self) -> Option<SocketAddr> {
        if let Some(end) = self.internal_end() {
            return end.original_destination;
        }
        self.endpoint.as_ref()?.original_destination().ok()
    }

    /// Where it is.
    pub(super) fn local_address(&mut self) -> io::Result<SocketAddress> {
        if let Some(listener) = self.internal_listener() {
            return Ok(SocketAddress::Internal(listener.address.clone()));
        }
        self.endpoint.as_ref().ok_or_else(gone)?.address()
    }

    /// What a listener that goes has accepted and not handed out.
    pub(super) fn take_accepted(&mut self) -> VecDeque<OwnedFd> {
        match self.beside.take().map(|beside| *beside) {
            Some(Beside::Accepting(accepting)) => accepting.accepted,
            _ => VecDeque::new(),
        }
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.endpoint.as_ref().map_or(-1, Endpoint::raw_fd)
    }

    #[cfg(test)]
    pub(super) fn sim_id(&self) -> usize {
        match &self.endpoint {
            Some(Endpoint::Sim(end)) => end.id,
            _ => unreachable!("a socket of the simulation"),
        }
    }

    /// Takes note that nothing more will arrive.
    ///
    /// A reset that a send has already reported leaves the kernel's error slot empty: the next receive then shows an
    /// orderly end that never was. Only after `EPIPE` the end may have been real (the peer finished, then reset).
    pub(super) fn end_recv(&mut self, end: RecvEnd) {
        let end = match (end, self.send_error) {
            (RecvEnd::Eof, Some(errno)) if errno != libc::EPIPE => RecvEnd::Error(errno),
            _ => end,
        };
        self.recv_end = Some(end);
        self.peer_closed = true;
    }

    /// Moves bytes that arrived into an empty pipe; `WouldBlock` when there are none. An end is noted and told.
    pub(super) fn splice_in(&mut self, pipe: &Pipe, max: usize) -> io::Result<Spliced> {
        loop {
            match pipe.fill(self.raw_fd(), max) {
                Ok(0) => self.end_recv(RecvEnd::Eof),
                Ok(count) => return Ok(Spliced::Bytes(count)),
                Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
                    libc::EAGAIN => return Err(error),
                    libc::EINTR => continue,
                    libc::EINVAL | libc::ENOSYS | libc::EPERM | libc::ENOMEM => return Ok(Spliced::Refused),
                    errno => self.end_recv(RecvEnd::Error(errno)),
                },
            }
            return Ok(Spliced::End);
        }
    }

    /// Moves a pipe's bytes to the connection; false when it has no room for all of them. A failure is noted; that the
    /// kernel does not splice here is noted in the pipe.
    pub(super) fn splice_out(&mut self, pipe: &Pipe) -> bool {
        while pipe.bytes() > 0 && self.send_error.is_none() {
            match pipe.drain(self.raw_fd()).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)) {
                Ok(0) => self.fail_send(libc::EIO),
                Ok(_) | Err(libc::EINTR) => {}
                Err(libc::EAGAIN) => return false,
                Err(libc::EINVAL | libc::ENOSYS | libc::EPERM) => {
                    pipe.set_stuck();
                    break;
                }
                Err(errno) => self.fail_send(errno),
            }
        }
        true
    }

    /// Closes our direction, all being sent.
    pub(super) fn finish_shutdown(&mut self) {
        // A broken connection refuses; its receiving side says so.
        let _ = self.endpoint.as_ref().map(Endpoint::shutdown_write);
        self.shutdown = Shutdown::Done;
    }

    /// Takes note that the connection broke while sending; what was queued is dropped.
    pub(super) fn fail_send(&mut self, errno: i32) {
        debug_assert!(!self.sending, "the kernel has let go of the chunks");
        self.send_error = Some(errno);
        self.to_send.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(sockets: &mut Sockets) -> SocketKey {
        sockets.insert(OwnedFd::from(std::fs::File::open("/dev/null").unwrap()))
    }

    /// Slots of a burst are given back and come again: whatever is late must not meet who is there now.
    #[test]
    fn key_of_a_slot_that_was_given_back_never_finds_a_successor() {
        let mut sockets = Sockets::default();
        let mut stale = Vec::new();
        for _ in 0..3 {
            let keys: Vec<_> = (0..100).map(|_| open(&mut sockets)).collect();
            assert!(stale.iter().all(|&key| sockets.find(key).is_none()));
            assert!(keys.iter().all(|&key| sockets.find(key).is_some()));
            let full = sockets.bytes();
            for &key in &keys {
                assert!(sockets.remove(key).is_some() && sockets.remove(key).is_none());
            }
            sockets.trim();
            assert!(sockets.bytes() < full / 10 && sockets.open() == 0);
            assert!(keys.iter().all(|&key| sockets.find(key).is_none()));
            stale.extend(keys);
        }
        sockets.generation = GENERATION_MASK;
        let key = open(&mut sockets);
        assert!(key.generation == 0 && sockets.find(key).is_some(), "24 bits wrap");
        sockets.remove(key);
    }
}
