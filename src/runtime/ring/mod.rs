//! The io_uring back end: what the path above asks becomes submission entries, all submitted by the turn's one visit.
//!
//! Receiving is multishot from a ring of small chunks while heads are awaited, and one receive at a time from a ring of
//! large chunks while a body streams. Sends of a turn are gathered and leave as one entry per socket. Completions only
//! change the socket table and wake tasks (`complete`); tasks run afterwards.
//!
//! Invariants: from the push of an entry until its final completion the socket's slot owns descriptor, buffers and
//! address ([`Socket::ops`] counts them); a dropped handle never frees them but cancels and waits; a descriptor is
//! closed through the same queue, behind the cancel that names it.
#![allow(unsafe_code)]

mod alarm;
mod buffers;
mod complete;
mod limits;
mod op;
mod prove;
mod queue;

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::task::Poll;

use alarm::{Alarm, Ending};
use buffers::Buffers;
use limits::{
    ACCEPTED_ROOM, DROP_VISITS_MAX, HEAD_BYTES_MAX, LARGE_ENTRIES, LIST_ROOM_MIN, RECV_BYTES_MAX,
    SMALL_ENTRIES, SMALL_RESIDENT, TRY_BYTES_MAX, UNAWAITED_MAX, UNAWAITED_MS_MAX, UNREAD_BULK_BYTES_MAX,
    UNREAD_BYTES_MAX,
};
use op::{Messages, Op, RecvMode, SendMode};
use queue::{BATCH, Queue};

use super::backend::{Backend, Patience, Scope, Streams};
use super::endpoint::Endpoint;
use super::pipe::{Pipe, Spliced};
use super::probe::RingOptions;
use super::socket::{Connect, RecvEnd, RecvOp, Shutdown, Socket, SocketKey};
use super::sys::{self, RawAddr};
use super::task::TaskId;
use crate::base::heaps;
use crate::buffer::{Chunk, ChunkSize, Pool};

pub(in crate::runtime) use queue::QueueSize;

/// What the kernel can do, by doing: each level needs the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RingLevel {
    /// Buffer rings, multishot accept, cooperative task running (Linux 5.19): one receive at a time.
    One,
    /// Multishot receive, single issuer (Linux 6.0).
    Two,
    /// Completions are processed only when the worker waits (DEFER_TASKRUN, Linux 6.1). The default target.
    Three,
}

impl fmt::Display for RingLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One => "ring-1",
            Self::Two => "ring-2",
            Self::Three => "ring-3",
        })
    }
}

/// Queues of a worker: 256 × 64 B and 2,048 × 16 B.
pub(super) const QUEUE_SIZE: QueueSize = QueueSize { submissions: 256, completions: 2048 };

/// The io_uring back end of one worker.
pub(super) struct Ring {
    /// First: unmapped and closed before the memory that its operations used.
    queue: Queue,
    small: Buffers,
    large: Buffers,
    level: RingLevel,
    /// Small chunks to keep with the kernel.
    small_target: u16,
    /// Bytes after which a multishot receive ends by itself; zero where the kernel cannot (before Linux 6.17).
    recv_bytes_max: u32,
    /// The small chunks did not suffice since the last trim.
    was_short: bool,
    /// The kernel may have written to small chunks of the ring, or those at the end of the pool are in it.
    is_worn: bool,
    /// Receives that may pick a large chunk.
    bulk_armed: u16,
    /// Sockets whose receive ended though more is wanted; looked at before each submission.
    to_arm: Vec<SocketKey>,
    /// Sockets with bytes to send in the next submission.
    to_send: Vec<SocketKey>,
    messages: Messages,
    /// Sends that complete within the next submission and whose completion nobody waits for.
    unawaited: u32,
    alarm: Alarm,
    bell: RawFd,
    bell_armed: bool,
    rung: bool,
    /// Operations with the kernel, the bell included.
    in_flight: usize,
    pool: Pool,
}

impl Ring {
    /// A ring of exactly this level, that watches a mailbox's bell. Made on the thread that uses it.
    ///
    /// # Errors
    /// As the kernel's refusal: see `Queue::open`.
    pub(super) fn open(level: RingLevel, size: QueueSize, bell: RawFd, pool: &Pool) -> io::Result<Self> {
        let mut queue = Queue::open(level, size)?;
        let small = Buffers::register(&queue, 0, ChunkSize::Small, SMALL_ENTRIES)?;
        let large = Buffers::register(&queue, 1, ChunkSize::Large, LARGE_ENTRIES)?;
        queue.enable()?;
        Ok(Self {
            queue,
            small,
            large,
            level,
            small_target: SMALL_RESIDENT,
            recv_bytes_max: RECV_BYTES_MAX,
            was_short: false,
            is_worn: false,
            bulk_armed: 0,
            to_arm: heaps::lasting_list(LIST_ROOM_MIN),
            to_send: heaps::lasting_list(LIST_ROOM_MIN),
            messages: Messages::default(),
            unawaited: 0,
            alarm: Alarm::default(),
            bell,
            bell_armed: false,
            rung: false,
            in_flight: 0,
            pool: pool.clone(),
        })
    }

    /// What this kernel offers within the level; known once the ring is proven.
    pub(super) fn options(&self) -> RingOptions {
        RingOptions {
            receive_cap: self.has_multishot() && self.recv_bytes_max > 0,
            no_iowait: self.queue.has_no_iowait(),
            registered_descriptor: self.queue.is_registered(),
        }
    }

    fn has_multishot(&self) -> bool {
        self.level >= RingLevel::Two
    }

    fn unread_max(socket: &Socket) -> usize {
        if socket.bulk { UNREAD_BULK_BYTES_MAX } else { UNREAD_BYTES_MAX }
    }

    /// Arms a receive if none is, more can come, and what lies unread leaves room for it.
    fn arm_recv(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        let socket = scope.sockets.live(key);
        if socket.recv_op != RecvOp::Idle
            || socket.splicing
            || socket.recv_end.is_some()
            || socket.connect != Connect::Done
            || socket.received.capacity() > Self::unread_max(socket) / 2
        {
            return;
        }
        let bulk = socket.bulk && !socket.sparing;
        let multishot = self.has_multishot() && !bulk && !socket.sparing;
        let (op, group) = if bulk {
            self.bulk_armed += 1;
            (Op::RecvBulk, self.large.group())
        } else {
            (Op::Recv, self.small.group())
        };
        let bytes_max = match multishot {
            true if std::mem::take(&mut socket.streamed) => self.recv_bytes_max.min(HEAD_BYTES_MAX),
            true => self.recv_bytes_max,
            false => 0,
        };
        let mode = RecvMode { op, group, multishot, bytes_max, poll_first: socket.drained };
        socket.recv_op = if multishot { RecvOp::Multishot } else { RecvOp::Single };
        socket.ops += 1;
        self.in_flight += 1;
        self.queue.push(op::recv(key, socket.raw_fd(), mode));
    }

    /// Ends a multishot receive; what arrives until its last completion is kept.
    fn cancel_recv(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        let socket = scope.sockets.live(key);
        debug_assert_eq!(socket.recv_op, RecvOp::Multishot);
        socket.recv_op = RecvOp::Cancelling;
        scope.stats.cancelled += 1;
        self.queue.push(op::cancel(key, if socket.listener { Op::Accept } else { Op::Recv }));
    }

    /// Ends what the kernel has of a socket, each by its name: by descriptor the kernel looks at all that waits in the ring, 8 µs
    /// for a thousand connections.
    fn cancel_all(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        let socket = scope.sockets.live(key);
        let reading: &[Op] = match socket.recv_op {
            RecvOp::Multishot if socket.listener => &[Op::Accept],
            RecvOp::Multishot => &[Op::Recv],
            RecvOp::Single => &[Op::Recv, Op::RecvBulk],
            RecvOp::Poll => &[Op::PollIn],
            // That is on its way.
            RecvOp::Cancelling | RecvOp::Idle => &[],
        };
        let writing: &[Op] = match socket.connect {
            Connect::Running => &[Op::Connect],
            Connect::Done | Connect::Failed(_) if socket.sending => &[Op::Send, Op::PollOut],
            Connect::Done | Connect::Failed(_) => &[],
        };
        scope.stats.cancelled += 1;
        for op in reading.iter().chain(writing) {
            self.queue.push(op::cancel(key, *op));
        }
    }

    fn queue_send(&mut self, socket: &mut Socket, key: SocketKey) {
        if !socket.send_queued {
            socket.send_queued = true;
            self.to_send.push(key);
        }
    }

    /// Makes the entry that sends what a socket has queued, unless a send is under way.
    fn submit_send(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        let Some(socket) = scope.sockets.find(key) else { return };
        socket.send_queued = false;
        if socket.closing || socket.sending || socket.to_send.is_empty() || socket.connect != Connect::Done {
            return;
        }
        let small = socket.to_send.bytes() <= TRY_BYTES_MAX;
        let mode = if small && !socket.send_full { SendMode::Try } else { SendMode::Wait };
        let (entry, bytes) = self.messages.send(key, socket.raw_fd(), &socket.to_send, mode);
        self.queue.push(entry);
        let awaited = socket.send_task != TaskId::NONE || socket.shutdown == Shutdown::WhenSent;
        self.unawaited += u32::from(mode == SendMode::Try && !awaited);
        socket.sending = true;
        socket.sending_bytes = bytes as u32;
        socket.ops += 1;
        self.in_flight += 1;
    }

    /// Frees the slot of a closing socket once the kernel holds nothing of it.
    fn release(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        if let Some(Endpoint::Fd(fd)) = scope.sockets.remove(key) {
            self.close_fd(fd);
        }
    }

    fn close_fd(&mut self, fd: OwnedFd) {
        self.queue.push(op::close(fd.into_raw_fd()));
    }

    /// The timeout that the wait itself needs: none if the alarm ends it.
    fn timeout_ms(&mut self, patience: Patience) -> Option<u64> {
        let Patience::Until { now, ms } = patience else { return patience.timeout_ms() };
        match self.alarm.end_by(now, ms) {
            Ending::Timeout => Some(ms),
            Ending::Armed => None,
            Ending::Arm { entry, first } => {
                self.in_flight += usize::from(first);
                self.queue.push(entry);
                None
            }
        }
    }

    /// Everything that belongs into the next submission.
    fn prepare(&mut self, scope: &mut Scope<'_>) {
        if !self.bell_armed {
            self.bell_armed = true;
            self.in_flight += 1;
            self.queue.push(op::bell(self.bell));
        }
        let mut to_send = std::mem::take(&mut self.to_send);
        for key in to_send.drain(..) {
            self.submit_send(scope, key);
        }
        self.to_send = to_send;
        self.top_up(scope);
        let mut to_arm = std::mem::take(&mut self.to_arm);
        to_arm.retain(|&key| !self.arm_again(scope, key));
        self.to_arm = to_arm;
    }

    /// Arms a receive that has ended; false while there is no memory to receive into.
    fn arm_again(&mut self, scope: &mut Scope<'_>, key: SocketKey) -> bool {
        let Some(socket) = scope.sockets.find(key) else { return true };
        if socket.closing || socket.splicing {
            return true;
        }
        let resident = if socket.bulk {
            self.large.top_up(scope.pool, self.bulk_armed + 1);
            self.large.resident()
        } else {
            self.small.resident()
        };
        if resident == 0 {
            return false;
        }
        self.arm_recv(scope, key);
        true
    }

    /// Gives the kernel chunks to pick from, and takes the large ones back when no body streams any more.
    fn top_up(&mut self, scope: &Scope<'_>) {
        self.small.top_up(scope.pool, self.small_target);
        if self.bulk_armed > 0 {
            self.large.top_up(scope.pool, self.bulk_armed);
        } else if self.large.resident() > 0 {
            self.large.take_back();
        }
    }

    /// After a time without shortage half of the additional small chunks go. Returns whether there are more.
    ///
    /// Taking them out of the kernel's hands is safe only where it picks chunks within our system calls and nowhere else,
    /// and when all that it has picked has been taken note of; elsewhere they go as they are used.
    fn trim_small(&mut self) -> bool {
        if std::mem::replace(&mut self.was_short, false) {
            return true;
        }
        self.small_target = (self.small_target / 2).max(SMALL_RESIDENT);
        let was_used = self.small.was_used();
        self.is_worn |= was_used;
        if self.level >= RingLevel::Three && self.queue.is_drained() {
            self.small.shrink(self.small_target);
            if self.is_worn && !was_used {
                // Nothing came for a while. The next visit takes the lowest chunks of the pool, and until something comes
                // none of them has memory.
                self.small.take_back();
                self.pool.give_back_all(ChunkSize::Small);
                self.is_worn = false;
            }
        }
        self.is_worn && self.level >= RingLevel::Three || self.small_target > SMALL_RESIDENT
    }

    /// Applies completions until the queue is empty.
    fn drain(&mut self, scope: &mut Scope<'_>) {
        loop {
            let mut batch = [const { MaybeUninit::uninit() }; BATCH];
            let completions = self.queue.completions(&mut batch);
            for completion in completions {
                self.apply(scope, completion);
            }
            scope.stats.completions += completions.len() as u64;
            if completions.len() < BATCH {
                return;
            }
        }
    }

    fn visit(&mut self, scope: &mut Scope<'_>, timeout_ms: Option<u64>) -> io::Result<()> {
        let sends = std::mem::take(&mut self.unawaited);
        let unawaited = if sends <= UNAWAITED_MAX { sends } else { 0 };
        // One of them may find no room, of which nothing else tells.
        let timeout_ms = match unawaited {
            0 => timeout_ms,
            _ => Some(timeout_ms.map_or(UNAWAITED_MS_MAX, |ms| ms.min(UNAWAITED_MS_MAX))),
        };
        if self.queue.is_overflown() {
            scope.stats.cq_overflows += 1;
        }
        if self.queue.visit(timeout_ms, 1 + unawaited)? {
            scope.stats.visits += 1;
        }
        if self.queue.is_flushed() {
            self.messages.reuse();
        }
        self.drain(scope);
        Ok(())
    }
}

impl Streams for Ring {
    fn poll_recv(&mut self, scope: &mut Scope<'_>, key: SocketKey) -> Poll<io::Result<Option<Chunk>>> {
        let socket = scope.sockets.live(key);
        socket.splicing = false;
        if let Some(chunk) = socket.received.pop() {
            let is_last = socket.received.is_empty();
            let arms = self.level >= RingLevel::Two && !socket.bulk && !socket.sparing;
            if is_last && socket.recv_op == RecvOp::Idle && arms {
                // With the next submission: what is read here may say that a body streams. Not before the last of it: whoever
                // stops reading here has more lie in wait otherwise.
                self.to_arm.push(key);
            }
            return Poll::Ready(Ok(Some(chunk)));
        }
        match socket.recv_end {
            Some(RecvEnd::Eof) => return Poll::Ready(Ok(None)),
            Some(RecvEnd::Error(errno)) => return Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
            None => {}
        }
        socket.recv_task = scope.tasks.current();
        if (socket.bulk || socket.sparing) && socket.recv_op == RecvOp::Multishot {
            self.cancel_recv(scope, key);
        } else {
            self.arm_recv(scope, key);
        }
        Poll::Pending
    }

    fn may_receive(&self, socket: &Socket) -> bool {
        !socket.drained
    }

    fn watch(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        self.arm_recv(scope, key);
    }

    fn start_send(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        let socket = scope.sockets.live(key);
        if !socket.to_send.is_empty() {
            self.queue_send(socket, key);
        } else if socket.shutdown == Shutdown::WhenSent {
            socket.finish_shutdown();
        }
    }

    fn splice_in(
        &mut self,
        scope: &mut Scope<'_>,
        key: SocketKey,
        pipe: &Pipe,
        max: usize,
    ) -> Option<Spliced> {
        let socket = scope.sockets.live(key);
        socket.splicing = true;
        match socket.recv_op {
            RecvOp::Idle => {}
            RecvOp::Multishot => {
                self.cancel_recv(scope, key);
                return None;
            }
            // A single receive ends with what arrives next, which is kept and comes first.
            RecvOp::Single | RecvOp::Poll | RecvOp::Cancelling => return None,
        }
        socket.drained = false;
        match socket.splice_in(pipe, max) {
            Ok(outcome) => Some(outcome),
            // That there is nothing is the only error it returns.
            Err(_) => {
                socket.recv_op = RecvOp::Poll;
                socket.ops += 1;
                self.in_flight += 1;
                self.queue.push(op::poll(key, Op::PollIn, socket.raw_fd()));
                None
            }
        }
    }

    fn splice_out(&mut self, scope: &mut Scope<'_>, key: SocketKey, pipe: &Pipe) {
        let socket = scope.sockets.live(key);
        if !socket.splice_out(pipe) {
            socket.sending = true;
            socket.sending_bytes = 0;
            socket.ops += 1;
            self.in_flight += 1;
            self.queue.push(op::poll(key, Op::PollOut, socket.raw_fd()));
        }
    }

    fn close(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        let socket = scope.sockets.live(key);
        socket.closing = true;
        socket.received.clear();
        if !socket.sending {
            socket.to_send.clear();
        }
        let accepted = socket.take_accepted();
        if socket.ops == 0 {
            self.release(scope, key);
        } else {
            self.cancel_all(scope, key);
        }
        for fd in accepted {
            self.close_fd(fd);
        }
    }
}

impl Backend for Ring {
    fn register(&mut self, _scope: &mut Scope<'_>, _key: SocketKey) -> io::Result<()> {
        Ok(())
    }

    fn connect(&mut self, scope: &mut Scope<'_>, key: SocketKey, address: RawAddr) {
        let socket = scope.sockets.live(key);
        let fd = socket.raw_fd();
        self.queue.push(op::connect(key, fd, socket.address.insert(Box::new(address))));
        socket.connect = Connect::Running;
        // The first answer takes a round trip.
        socket.drained = true;
        socket.ops += 1;
        self.in_flight += 1;
    }

    fn poll_accept(&mut self, scope: &mut Scope<'_>, key: SocketKey) -> Poll<io::Result<Endpoint>> {
        let listener = scope.sockets.live(key);
        if let Some(fd) = listener.accepting().accepted.pop_front() {
            return Poll::Ready(Ok(fd.into()));
        }
        if let Some(errno) = listener.accepting().error.take() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        listener.recv_task = scope.tasks.current();
        if listener.recv_op == RecvOp::Idle {
            listener.recv_op = RecvOp::Multishot;
            listener.ops += 1;
            self.in_flight += 1;
            self.queue.push(op::accept(key, listener.raw_fd()));
        }
        heaps::settle_queue(&mut listener.accepting().accepted, 0, ACCEPTED_ROOM);
        Poll::Pending
    }

    fn poll_accept_rest(
        &mut self,
        scope: &mut Scope<'_>,
        key: SocketKey,
        _queued: bool,
    ) -> Poll<io::Result<Option<Endpoint>>> {
        let listener = scope.sockets.live(key);
        if let Some(fd) = listener.accepting().accepted.pop_front() {
            return Poll::Ready(Ok(Some(fd.into())));
        }
        if listener.recv_op != RecvOp::Idle {
            listener.recv_task = scope.tasks.current();
            if listener.recv_op == RecvOp::Multishot {
                self.cancel_recv(scope, key);
            }
            return Poll::Pending;
        }
        // Completed handshakes that the kernel has not handed over. Also where another process accepts from the same socket: the
        // kernel wakes one waiter for each, and the accept that was cancelled may have been the one.
        match sys::accept(listener.raw_fd()) {
            Ok(fd) => {
                scope.stats.accepted += 1;
                Poll::Ready(Ok(Some(fd.into())))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Ready(Ok(None)),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn wait(&mut self, scope: &mut Scope<'_>, patience: Patience) -> io::Result<bool> {
        // What completed without a visit is applied first: its follow-ups go with this submission.
        self.drain(scope);
        self.prepare(scope);
        let timeout = if scope.tasks.has_ready() || self.rung {
            Some(0)
        } else if self.to_arm.is_empty() {
            self.timeout_ms(patience)
        } else {
            // Without memory to receive into: look again soon.
            Some(patience.timeout_ms().unwrap_or(1).min(1))
        };
        while !self.queue.refill() {
            self.visit(scope, Some(0))?;
        }
        self.visit(scope, timeout)?;
        Ok(std::mem::take(&mut self.rung))
    }

    fn trim(&mut self) -> bool {
        for list in [&mut self.to_arm, &mut self.to_send] {
            let room = 2 * list.len();
            heaps::settle(list, room, LIST_ROOM_MIN);
        }
        self.messages.trim();
        self.queue.trim();
        self.trim_small()
    }

    fn chunks_held(&self) -> usize {
        usize::from(self.small.resident() + self.large.resident())
    }
}

#[cfg(test)]
impl Ring {
    pub(super) fn level_for_test(&mut self) -> RingLevel {
        self.level
    }

    pub(super) fn small_held_for_test(&mut self) -> u16 {
        self.small.resident()
    }

    pub(super) fn trim_for_test(&mut self) {
        self.trim_small();
    }

    /// Posts a failed completion with this user data.
    pub(super) fn forge_for_test(&mut self, op: u8, key: SocketKey) {
        let user_data = u64::from(op) << 56 | (Op::Close.user_data(key) & (u64::MAX >> 8));
        self.in_flight += usize::from((Op::Accept as u8..=Op::Send as u8).contains(&op));
        self.queue.push(op::close(-1).user_data(user_data));
    }

    /// Lets the kernel work without looking at what it did.
    pub(super) fn visit_for_test(&mut self) {
        self.queue.visit(Some(0), 1).unwrap();
    }

    /// Cancels the send or the multishot receive of a socket as if the kernel had ended it.
    pub(super) fn interrupt_for_test(&mut self, key: SocketKey, send: bool) {
        self.queue.push(op::cancel(key, if send { Op::Send } else { Op::Recv }));
    }

    /// Cancels the watch over the bell as if the kernel had ended it.
    pub(super) fn interrupt_bell_for_test(&mut self) {
        self.queue.push(op::cancel(SocketKey { slot: 0, generation: 0 }, Op::Bell));
    }

    /// What the kernel answers to an operation, and to a flag, that are not used here.
    pub(super) fn forbidden_for_test(&mut self) -> [i32; 2] {
        let linked = op::close(-1).flags(io_uring::squeue::Flags::IO_LINK);
        [io_uring::opcode::Nop::new().build(), linked].map(|entry| {
            self.queue.push(entry);
            self.queue.visit(Some(1000), 1).unwrap();
            let mut batch = [const { MaybeUninit::uninit() }; BATCH];
            self.queue.completions(&mut batch).first().map_or(0, io_uring::cqueue::Entry::result)
        })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.queue.push(op::cancel_any());
        for _ in 0..DROP_VISITS_MAX {
            let flushed = self.queue.refill() && self.queue.is_flushed();
            if flushed && self.in_flight == 0 {
                return;
            }
            if self.queue.visit(Some(10), 1).is_err() {
                break;
            }
            let mut batch = [const { MaybeUninit::uninit() }; BATCH];
            for completion in self.queue.completions(&mut batch) {
                self.discard(completion);
            }
        }
        // The kernel may still use chunks: their memory stays mapped for good.
        std::mem::forget(self.pool.clone());
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("level", &self.level).field("in_flight", &self.in_flight).finish()
    }
}
