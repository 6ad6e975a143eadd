//! The simulated back end: the same contract as the ring and epoll, on an in-memory network with virtual time.
//!
//! A run is determined by its seed. Per call the world decides whether it behaves like a completion back end (bytes come
//! unasked, a send ends later) or like a readiness back end (a poll moves bytes itself), and whether it is difficult:
//! few bytes, no memory, an empty turn.

mod network;

use std::io;
use std::os::fd::RawFd;
use std::task::Poll;

use network::{Actor, Notice, Received};
pub use network::{SimEnd, SimNetwork};

use super::Endpoint;
use super::backend::{Backend, Patience, Scope, Streams};
use super::pipe::{Pipe, Spliced};
use super::socket::{Connect, RecvEnd, Shutdown, Socket, SocketKey};
use super::sys::{self, RawAddr};
use crate::base::limits;
use crate::buffer::{Chunk, ChunkSize};

/// How the world treats its inhabitants. Odds are "one in", zero is never.
#[derive(Clone, Copy, Debug)]
pub struct SimConfig {
    /// Longest way of bytes, ends and answers, in nanoseconds.
    pub delay_ns_max: u64,
    /// Smallest receive window of a connection, in bytes.
    pub window_bytes_min: u64,
    /// Largest receive window of a connection, in bytes.
    pub window_bytes_max: u64,
    /// A send breaks the connection.
    pub reset_odds: u64,
    /// A connect is refused though somebody listens.
    pub refuse_odds: u64,
    /// An accept fails for want of descriptors.
    pub accept_error_odds: u64,
    /// A receive finds no memory and has to be tried again.
    pub no_memory_odds: u64,
    /// A visit brings nothing.
    pub empty_turn_odds: u64,
}

impl SimConfig {
    /// Slow and partial, but nothing breaks.
    pub const KIND: Self = Self {
        delay_ns_max: 200_000,
        window_bytes_min: 1,
        window_bytes_max: 256 * 1024,
        reset_odds: 0,
        refuse_odds: 0,
        accept_error_odds: 0,
        no_memory_odds: 16,
        empty_turn_odds: 16,
    };

    /// Everything that can break does, now and then.
    pub const HOSTILE: Self = Self {
        delay_ns_max: 2_000_000,
        window_bytes_min: 1,
        window_bytes_max: 8 * 1024,
        reset_odds: 200,
        refuse_odds: 20,
        accept_error_odds: 20,
        no_memory_odds: 8,
        empty_turn_odds: 8,
    };
}

/// Unread pool memory per socket beyond which the world does not deliver unasked, in bytes.
const UNREAD_BYTES_MAX: usize = 64 * 1024;

/// One runtime's view of the world.
#[derive(Debug)]
pub(super) struct Sim {
    network: SimNetwork,
    actor: Actor,
    bell: RawFd,
    to_send: Vec<SocketKey>,
    /// Asked for by a task, told with the next visit.
    pending: Vec<Notice>,
}

impl Sim {
    pub(super) fn new(network: &SimNetwork, bell: RawFd) -> Self {
        let actor = network.world().join();
        Self { network: network.clone(), actor, bell, to_send: Vec::new(), pending: Vec::new() }
    }

    pub(super) fn network(&self) -> &SimNetwork {
        &self.network
    }

    pub(super) fn open(&self) -> Endpoint {
        self.network.open()
    }

    /// Moves bytes from the world into a chunk.
    fn recv(&mut self, scope: &mut Scope<'_>, key: SocketKey) -> Option<Chunk> {
        let socket = scope.sockets.live(key);
        let id = socket.sim_id();
        let mut world = self.network.world();
        let odds = world.config.no_memory_odds;
        let size = if socket.bulk { ChunkSize::Large } else { ChunkSize::Small };
        let readable = world.is_readable(id);
        let chunk = if world.chance(odds) { None } else { scope.pool.alloc(size) };
        let Some(mut chunk) = chunk else {
            scope.stats.recv_enobufs += u64::from(readable);
            if readable {
                world.tell_later(self.actor, Notice::Readable(key));
            }
            return None;
        };
        match world.recv(id, chunk.spare()) {
            Received::Bytes(count) => {
                chunk.advance(count);
                return Some(chunk.freeze());
            }
            Received::End => socket.end_recv(RecvEnd::Eof),
            Received::Error(errno) => socket.end_recv(RecvEnd::Error(errno)),
            Received::Nothing => {}
        }
        None
    }

    /// Sends what a socket has queued: part of it at once, or as an operation that ends later.
    fn send(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        let Some(socket) = scope.sockets.find(key) else { return };
        socket.send_queued = false;
        if socket.closing || socket.sending || socket.connect != Connect::Done || socket.send_error.is_some()
        {
            return;
        }
        let Some(first) = socket.to_send.iter().next() else { return };
        let id = socket.sim_id();
        let mut world = self.network.world();
        let outcome = world.send(id, first);
        // A failure is told at once: who was told first, sender or reader, must be known in that order.
        if matches!(outcome, Ok(1..)) && world.chance(2) {
            // The kernel has it until the completion.
            (socket.sending, socket.sending_bytes) = (true, first.len() as u32);
            socket.ops += 1;
            world.tell_later(self.actor, Notice::Sent(key, outcome));
            return;
        }
        drop(world);
        self.sent(scope, key, outcome);
    }

    fn sent(&mut self, scope: &mut Scope<'_>, key: SocketKey, outcome: Result<usize, i32>) {
        let Some(socket) = scope.sockets.find(key) else { return };
        match outcome {
            Ok(0) => return,
            Ok(count) => socket.to_send.consume(count),
            Err(errno) => {
                socket.fail_send(errno);
                scope.tasks.wake(socket.recv_task);
            }
        }
        if !socket.to_send.is_empty() {
            scope.stats.short_sends += 1;
            self.queue_send(scope, key);
        } else if socket.shutdown == Shutdown::WhenSent {
            socket.finish_shutdown();
        }
        let socket = scope.sockets.live(key);
        if socket.send_error.is_some() || socket.to_send.bytes() <= socket.wake_at {
            scope.tasks.wake(socket.send_task);
        }
    }

    fn queue_send(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        let socket = scope.sockets.live(key);
        if !std::mem::replace(&mut socket.send_queued, true) {
            self.to_send.push(key);
        }
    }

    fn apply(&mut self, scope: &mut Scope<'_>, notice: Notice) {
        scope.stats.completions += 1;
        match notice {
            Notice::Sent(key, outcome) => {
                let Some(socket) = scope.sockets.find(key) else {
                    scope.stats.stale_completions += 1;
                    return;
                };
                socket.ops -= 1;
                socket.sending = false;
                if socket.closing {
                    socket.to_send.clear();
                    self.release(scope, key);
                } else {
                    self.sent(scope, key, outcome);
                }
            }
            Notice::Connected(key, outcome) => {
                let Some(socket) = scope.sockets.find(key) else { return };
                if socket.closing {
                    return;
                }
                socket.connect = match outcome {
                    Ok(()) => Connect::Done,
                    Err(errno) => Connect::Failed(errno),
                };
                scope.tasks.wake(socket.send_task);
            }
            Notice::Writable(key) => {
                if let Some(socket) = scope.sockets.find(key).filter(|socket| !socket.closing) {
                    scope.tasks.wake(socket.send_task);
                    self.queue_send(scope, key);
                }
            }
            Notice::Readable(key) => self.readable(scope, key),
        }
    }

    fn readable(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        let Some(socket) = scope.sockets.find(key) else { return };
        if socket.closing {
            return;
        }
        scope.tasks.wake(socket.recv_task);
        if socket.listener {
            return;
        }
        socket.peer_closed |= self.network.world().is_ended(socket.sim_id());
        socket.broken |= self.network.world().is_broken(socket.sim_id());
        let unasked = socket.recv_end.is_none() && socket.received.capacity() < UNREAD_BYTES_MAX;
        if unasked && self.network.world().chance(2) {
            if let Some(chunk) = self.recv(scope, key) {
                scope.sockets.live(key).received.push(chunk);
            }
            let id = scope.sockets.live(key).sim_id();
            if self.network.world().is_readable(id) {
                self.network.world().tell_later(self.actor, Notice::Readable(key));
            }
        }
    }

    fn release(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        // The world is not borrowed here: dropping the end closes it there.
        drop(scope.sockets.remove(key));
    }
}

impl Streams for Sim {
    fn poll_recv(&mut self, scope: &mut Scope<'_>, key: SocketKey) -> Poll<io::Result<Option<Chunk>>> {
        let socket = scope.sockets.live(key);
        if let Some(chunk) = socket.received.pop() {
            return Poll::Ready(Ok(Some(chunk)));
        }
        if socket.connect == Connect::Done && socket.recv_end.is_none() {
            if self.network.world().chance(4) {
                // Like a ring: what is there comes with the next visit.
                self.pending.push(Notice::Readable(key));
            } else if let Some(chunk) = self.recv(scope, key) {
                return Poll::Ready(Ok(Some(chunk)));
            }
        }
        let socket = scope.sockets.live(key);
        match socket.recv_end {
            Some(RecvEnd::Eof) => Poll::Ready(Ok(None)),
            Some(RecvEnd::Error(errno)) => Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
            None => {
                socket.recv_task = scope.tasks.current();
                Poll::Pending
            }
        }
    }

    fn may_receive(&self, socket: &Socket) -> bool {
        self.network.world().is_readable(socket.sim_id())
    }

    fn watch(&mut self, _scope: &mut Scope<'_>, _key: SocketKey) {
        // Arrivals are always told.
    }

    fn start_send(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        let socket = scope.sockets.live(key);
        if !socket.to_send.is_empty() {
            if self.network.world().chance(2) {
                self.queue_send(scope, key);
            } else {
                self.send(scope, key);
            }
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
        let mut world = self.network.world();
        if world.chance(4) {
            self.pending.push(Notice::Readable(key));
            return None;
        }
        if world.chance(64) {
            return Some(Spliced::Refused);
        }
        let mut bytes = vec![0; max.min(limits::PIPE_BYTES)];
        match world.recv(socket.sim_id(), &mut bytes) {
            Received::Bytes(count) => {
                pipe.simulated(|pipe| pipe.extend(&bytes[..count]));
                return Some(Spliced::Bytes(count));
            }
            Received::End => socket.end_recv(RecvEnd::Eof),
            Received::Error(errno) => socket.end_recv(RecvEnd::Error(errno)),
            Received::Nothing => return None,
        }
        Some(Spliced::End)
    }

    fn splice_out(&mut self, scope: &mut Scope<'_>, key: SocketKey, pipe: &Pipe) {
        let socket = scope.sockets.live(key);
        let id = socket.sim_id();
        while pipe.bytes() > 0 {
            if self.network.world().chance(3) {
                self.pending.push(Notice::Writable(key));
                return;
            }
            if self.network.world().chance(64) {
                return pipe.set_stuck();
            }
            let sent = pipe.simulated(|bytes| {
                let sent = self.network.world().send(id, bytes.make_contiguous());
                bytes.drain(..*sent.as_ref().unwrap_or(&0));
                sent
            });
            match sent {
                Ok(0) => return,
                Ok(_) => {}
                Err(errno) => return socket.fail_send(errno),
            }
        }
    }

    fn close(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        let socket = scope.sockets.live(key);
        socket.closing = true;
        socket.received.clear();
        if socket.ops == 0 {
            socket.to_send.clear();
            self.release(scope, key);
        }
    }
}

impl Backend for Sim {
    fn register(&mut self, scope: &mut Scope<'_>, key: SocketKey) -> io::Result<()> {
        let id = scope.sockets.live(key).sim_id();
        self.network.world().own(id, self.actor, key);
        Ok(())
    }

    fn connect(&mut self, scope: &mut Scope<'_>, key: SocketKey, address: RawAddr) {
        let socket = scope.sockets.live(key);
        match address.to_socket_addr() {
            Some(address) => {
                socket.connect = Connect::Running;
                self.network.world().connect(socket.sim_id(), address);
            }
            None => socket.connect = Connect::Failed(libc::EAFNOSUPPORT),
        }
    }

    fn poll_accept(&mut self, scope: &mut Scope<'_>, key: SocketKey) -> Poll<io::Result<Endpoint>> {
        let listener = scope.sockets.live(key);
        listener.recv_task = scope.tasks.current();
        let id = listener.sim_id();
        let odds = self.network.world().config.accept_error_odds;
        if self.network.world().chance(odds) {
            return Poll::Ready(Err(io::Error::from_raw_os_error(libc::EMFILE)));
        }
        match self.network.accept(id) {
            Some(endpoint) => {
                scope.stats.accepted += 1;
                Poll::Ready(Ok(endpoint))
            }
            None => Poll::Pending,
        }
    }

    fn poll_accept_rest(
        &mut self,
        scope: &mut Scope<'_>,
        key: SocketKey,
        queued: bool,
    ) -> Poll<io::Result<Option<Endpoint>>> {
        if !queued {
            return Poll::Ready(Ok(None));
        }
        match self.poll_accept(scope, key) {
            Poll::Ready(accepted) => Poll::Ready(accepted.map(Some)),
            Poll::Pending => Poll::Ready(Ok(None)),
        }
    }

    fn wait(&mut self, scope: &mut Scope<'_>, patience: Patience) -> io::Result<bool> {
        scope.stats.visits += 1;
        for key in std::mem::take(&mut self.to_send) {
            self.send(scope, key);
        }
        let rung = sys::event_take(self.bell);
        let mut world = self.network.world();
        let odds = world.config.empty_turn_odds;
        if world.chance(odds) {
            world.busy(self.actor);
            return Ok(rung);
        }
        let mut notices = std::mem::take(&mut self.pending);
        notices.append(&mut world.pump(self.actor));
        if notices.is_empty()
            && !rung
            && !scope.tasks.has_ready()
            && patience != Patience::None
            && self.to_send.is_empty()
        {
            let until = patience.timeout_ms().map(|ms| world.now_ns() + ms * 1_000_000);
            world.idle(self.actor, until)?;
        } else {
            world.busy(self.actor);
        }
        drop(world);
        for notice in notices {
            self.apply(scope, notice);
        }
        Ok(rung)
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.network.world().leave(self.actor);
    }
}
