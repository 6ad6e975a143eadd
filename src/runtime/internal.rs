//! Connections within the worker: an internal listener is a name, and a connection to it two sockets of the table that move
//! chunks to each other. The kernel has no part in it, and nothing of it waits for a visit.
//!
//! What one end sends goes on into what the other has received, chunk by chunk and without a copy, until the other holds as
//! much pool memory as it may; the rest waits at the sender until it is read. An end that lets go finishes in order, as TCP
//! does, unless it has left something unread or is asked to break off: then its peer sees a reset.
//!
//! A connection is as deep as those lie in each other that led to it, which its task and whatever that starts inherit
//! (`Tasks::nesting`): a listener whose cluster leads to itself is refused at some depth.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use super::backend::{Scope, Streams};
use super::pipe::{Pipe, Spliced};
use super::socket::{RecvEnd, Shutdown, Socket, SocketKey};
use super::task::TaskId;
use crate::base::limits;
use crate::base::socket_address::InternalAddress;
use crate::buffer::Chunk;

/// The internal listeners of a worker, and what their connections may hold.
#[derive(Debug)]
pub(super) struct Internal {
    listeners: BTreeMap<Box<str>, SocketKey>,
    /// Pool memory that waits for one end, in bytes, beyond which no further chunk goes on.
    buffer_bytes: usize,
    /// Ends in the table.
    ends: usize,
}

/// What an end of a connection has beside other sockets.
#[derive(Debug)]
pub(super) struct InternalEnd {
    peer: SocketKey,
    /// Where the connection leads: to the listener.
    pub(super) address: InternalAddress,
    nesting: u8,
    /// Where it was meant to lead to, if the other end has told.
    pub(super) original_destination: Option<SocketAddr>,
    /// Its close is a reset.
    pub(super) resets: bool,
}

/// What an internal listener has beside other sockets.
#[derive(Debug)]
pub(super) struct InternalListener {
    pub(super) address: InternalAddress,
    /// Connections that it has not taken yet.
    pub(super) accepted: VecDeque<SocketKey>,
}

/// Names no socket.
const NOBODY: SocketKey = SocketKey { slot: u32::MAX, generation: 0 };

/// Default of Envoy's `buffer_size_kb`.
const BUFFER_BYTES_DEFAULT: usize = 1024 * 1024;

impl Default for Internal {
    fn default() -> Self {
        Self { listeners: BTreeMap::new(), buffer_bytes: BUFFER_BYTES_DEFAULT, ends: 0 }
    }
}

impl Internal {
    pub(super) fn set_buffer(&mut self, bytes: usize) {
        self.buffer_bytes = bytes;
    }

    /// A listener of that name, in the place of one that has it.
    pub(super) fn listen(&mut self, scope: &mut Scope<'_>, address: InternalAddress) -> SocketKey {
        let name = address.listener().into();
        let key = scope.sockets.insert_listener(InternalListener { address, accepted: VecDeque::new() });
        self.listeners.insert(name, key);
        key
    }

    /// A connection to the listener of that name, which takes its other end when it accepts.
    ///
    /// # Errors
    /// In Envoy's words for it `EINVAL`: there is no such listener. `ELOOP`: it would lie too deep in others; `ENOBUFS`: there
    /// are too many.
    pub(super) fn connect(&mut self, scope: &mut Scope<'_>, to: &InternalAddress) -> io::Result<SocketKey> {
        let refused = |errno| Err(io::Error::from_raw_os_error(errno));
        let Some(&listener) = self.listeners.get(to.listener()) else { return refused(libc::EINVAL) };
        let nesting = scope.tasks.nesting();
        let errno = match nesting {
            limits::INTERNAL_NESTING_MAX.. => Some(libc::ELOOP),
            _ if self.ends + 2 > limits::INTERNAL_ENDS_MAX => Some(libc::ENOBUFS),
            _ => None,
        };
        if let Some(errno) = errno {
            scope.stats.internal_refused += 1;
            return refused(errno);
        }
        let end = |nesting| InternalEnd {
            peer: NOBODY,
            address: to.clone(),
            nesting,
            original_destination: None,
            resets: false,
        };
        let near = scope.sockets.insert_end(end(nesting));
        let far = scope.sockets.insert_end(end(nesting + 1));
        for (own, peer) in [(near, far), (far, near)] {
            let end = scope.sockets.live(own).internal_end();
            end.into_iter().for_each(|end| end.peer = peer);
        }
        self.ends += 2;
        let listener = scope.sockets.live(listener);
        let task = listener.recv_task;
        let accepting = listener.internal_listener();
        accepting.into_iter().for_each(|listener| listener.accepted.push_back(far));
        scope.tasks.wake(task);
        Ok(near)
    }

    /// Moves what `from` has queued to its peer, as far as that has room, and then its end.
    fn pump(&self, scope: &mut Scope<'_>, from: SocketKey) {
        let Some(peer_key) = peer_of(scope, from) else { return };
        let Some(socket) = scope.sockets.find(from) else { return };
        if socket.send_error.is_some() || (socket.to_send.is_empty() && socket.shutdown != Shutdown::WhenSent)
        {
            return settle_sender(scope, from);
        }
        // Out of the table for as long as the other end is looked at.
        let mut queue = std::mem::take(&mut socket.to_send);
        let finishes = socket.shutdown == Shutdown::WhenSent;
        let Some(peer) = scope.sockets.find(peer_key) else {
            // Nobody will read it: as a connection answers that the peer has closed.
            let broken = !queue.is_empty();
            drop(queue);
            let socket = scope.sockets.live(from);
            if broken {
                socket.fail_send(libc::EPIPE);
                scope.tasks.wake(socket.recv_task);
            } else if finishes {
                socket.shutdown = Shutdown::Done;
            }
            return settle_sender(scope, from);
        };
        let mut told = false;
        while peer.received.capacity() < self.buffer_bytes
            && let Some(chunk) = queue.pop()
        {
            peer.received.push(chunk);
            told = true;
        }
        let ends = finishes && queue.is_empty();
        if ends {
            peer.end_recv(RecvEnd::Eof);
        }
        let reader = peer.recv_task;
        let socket = scope.sockets.live(from);
        socket.to_send = queue;
        if ends {
            socket.shutdown = Shutdown::Done;
        }
        if told || ends {
            scope.tasks.wake(reader);
        }
        settle_sender(scope, from);
    }

    /// What becomes of the connections that a listener which goes has not taken: they are reset.
    fn close_listener(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        let Some(listener) = scope.sockets.live(key).internal_listener() else { return };
        let waiting = std::mem::take(&mut listener.accepted);
        let name = listener.address.clone();
        // A successor may have the name.
        if self.listeners.get(name.listener()) == Some(&key) {
            self.listeners.remove(name.listener());
        }
        for end in waiting {
            scope.sockets.live(end).set_reset_on_close();
            self.close(scope, end);
        }
        scope.sockets.remove(key);
    }
}

/// The next connection that nobody has taken. Pending registers the current task.
pub(super) fn poll_accept(scope: &mut Scope<'_>, key: SocketKey) -> Poll<SocketKey> {
    if let Some(next) = take_rest(scope, key) {
        scope.stats.accepted += 1;
        return Poll::Ready(next);
    }
    scope.sockets.live(key).recv_task = scope.tasks.current();
    Poll::Pending
}

/// The same without waiting.
pub(super) fn take_rest(scope: &mut Scope<'_>, key: SocketKey) -> Option<SocketKey> {
    scope.sockets.live(key).internal_listener()?.accepted.pop_front()
}

/// The task that runs takes on an accepted connection: what it starts for it is as deep.
pub(super) fn take_on(scope: &mut Scope<'_>, key: SocketKey) {
    if let Some(end) = scope.sockets.live(key).internal_end() {
        scope.tasks.set_nesting(end.nesting);
    }
}

/// The other end was meant to lead there.
pub(super) fn tell_destination(scope: &mut Scope<'_>, key: SocketKey, destination: SocketAddr) {
    let peer = peer_of(scope, key).and_then(|peer| scope.sockets.find(peer)?.internal_end());
    if let Some(end) = peer {
        end.original_destination = Some(destination);
    }
}

fn peer_of(scope: &mut Scope<'_>, key: SocketKey) -> Option<SocketKey> {
    scope.sockets.find(key)?.internal_end().map(|end| end.peer)
}

/// Wakes who waits for room at a sender, if it has got it or never will.
fn settle_sender(scope: &mut Scope<'_>, key: SocketKey) {
    let Some(socket) = scope.sockets.find(key) else { return };
    if socket.send_error.is_some() || socket.to_send.bytes() <= socket.wake_at {
        // Once for each wait: a task that flushes whenever it runs would otherwise wake itself for ever.
        scope.tasks.wake(std::mem::replace(&mut socket.send_task, TaskId::NONE));
    }
}

impl Streams for Internal {
    fn poll_recv(&mut self, scope: &mut Scope<'_>, key: SocketKey) -> Poll<io::Result<Option<Chunk>>> {
        let socket = scope.sockets.live(key);
        if let Some(chunk) = socket.received.pop() {
            // At half of it, so that the sender is not woken for each chunk.
            if socket.received.capacity() <= self.buffer_bytes / 2
                && let Some(peer) = peer_of(scope, key)
            {
                self.pump(scope, peer);
            }
            return Poll::Ready(Ok(Some(chunk)));
        }
        match socket.recv_end {
            Some(RecvEnd::Eof) => Poll::Ready(Ok(None)),
            Some(RecvEnd::Error(errno)) => Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
            None => {
                socket.recv_task = scope.tasks.current();
                Poll::Pending
            }
        }
    }

    fn may_receive(&self, _socket: &Socket) -> bool {
        // What has arrived is in the table.
        false
    }

    fn watch(&mut self, _scope: &mut Scope<'_>, _key: SocketKey) {
        // Arrivals are always told.
    }

    fn start_send(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        self.pump(scope, key);
    }

    fn splice_in(
        &mut self,
        _scope: &mut Scope<'_>,
        _key: SocketKey,
        _pipe: &Pipe,
        _max: usize,
    ) -> Option<Spliced> {
        Some(Spliced::Refused)
    }

    fn splice_out(&mut self, _scope: &mut Scope<'_>, _key: SocketKey, pipe: &Pipe) {
        pipe.set_stuck();
    }

    fn close(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        let socket = scope.sockets.live(key);
        if socket.listener {
            return self.close_listener(scope, key);
        }
        let unread = !socket.received.is_empty();
        let Some(end) = socket.internal_end() else { return };
        let (peer, resets) = (end.peer, end.resets || unread);
        scope.sockets.remove(key);
        self.ends -= 1;
        let Some(peer) = scope.sockets.find(peer) else { return };
        if resets {
            peer.fail_send(libc::ECONNRESET);
        } else if !peer.to_send.is_empty() {
            peer.fail_send(libc::EPIPE);
        }
        if peer.recv_end.is_none() {
            peer.end_recv(if resets { RecvEnd::Error(libc::ECONNRESET) } else { RecvEnd::Eof });
        }
        scope.tasks.wake(peer.recv_task);
        scope.tasks.wake(std::mem::replace(&mut peer.send_task, TaskId::NONE));
    }
}
