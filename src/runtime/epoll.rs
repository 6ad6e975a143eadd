//! The epoll back end: edge-triggered, one registration per socket for its life, reads straight into pool chunks.
//!
//! A read that comes back short means the socket is drained: the next byte raises a new edge. When the peer's end is
//! known to lie ahead (RDHUP) reads go on until it shows. An idle connection holds no buffer.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::task::Poll;

use super::backend::{Backend, Patience, Scope, Streams};
use super::endpoint::Endpoint;
use super::pipe::{Pipe, Spliced};
use super::socket::{Connect, RecvEnd, Shutdown, Socket, SocketKey};
use super::sys::{self, RawAddr};
use super::task::TaskId;
use crate::base::limits;
use crate::buffer::{Chunk, ChunkSize};

/// Events taken per visit.
const EVENTS_MAX: usize = 256;
/// Token of the mailbox's event descriptor.
const MAILBOX: u64 = u64::MAX;
const STREAM_EVENTS: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;

#[derive(Debug)]
pub(super) struct Epoll {
    epoll: OwnedFd,
    mailbox: RawFd,
    events: Box<[libc::epoll_event]>,
}

impl Epoll {
    pub(super) fn new(mailbox: RawFd) -> io::Result<Self> {
        let epoll = sys::epoll()?;
        sys::epoll_add(&epoll, mailbox, (libc::EPOLLIN | libc::EPOLLET) as u32, MAILBOX)?;
        Ok(Self { epoll, mailbox, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX].into() })
    }
}

fn token(key: SocketKey) -> u64 {
    u64::from(key.generation) << 32 | u64::from(key.slot)
}

impl Streams for Epoll {
    fn poll_recv(&mut self, scope: &mut Scope<'_>, key: SocketKey) -> Poll<io::Result<Option<Chunk>>> {
        let socket = scope.sockets.live(key);
        if let Some(unread) = socket.received.pop() {
            return Poll::Ready(Ok(Some(unread)));
        }
        while socket.readable && socket.recv_end.is_none() {
            let large = !socket.sparing && (socket.bulk || std::mem::take(&mut socket.streamed));
            let size = if large { ChunkSize::Large } else { ChunkSize::Small };
            let Some(mut chunk) = scope.pool.alloc(size) else {
                scope.starved.push(scope.tasks.current());
                return Poll::Pending;
            };
            let room = chunk.capacity();
            match sys::recv(socket.raw_fd(), chunk.spare()) {
                Ok(0) => socket.end_recv(RecvEnd::Eof),
                Ok(count) => {
                    socket.readable = count == room || socket.peer_closed;
                    chunk.advance(count);
                    return Poll::Ready(Ok(Some(chunk.freeze())));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => socket.end_recv(RecvEnd::Error(error.raw_os_error().unwrap_or(libc::EIO))),
            }
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

    fn may_receive(&self, socket: &Socket) -> bool {
        socket.readable
    }

    fn watch(&mut self, _scope: &mut Scope<'_>, _key: SocketKey) {
        // Edges are reported without being asked for.
    }

    fn start_send(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        let socket = scope.sockets.live(key);
        if socket.connect != Connect::Done {
            return;
        }
        while socket.writable && socket.send_error.is_none() && !socket.to_send.is_empty() {
            let fd = socket.raw_fd();
            let (sent, asked) = match socket.to_send.iter().next() {
                Some(only) if socket.to_send.len() == 1 => (sys::send(fd, only), only.len()),
                _ => {
                    let mut buffers = [io::IoSlice::new(&[]); limits::SEND_IOVECS_MAX];
                    let mut asked = 0;
                    let mut count = 0;
                    for (buffer, chunk) in buffers.iter_mut().zip(socket.to_send.iter()) {
                        *buffer = io::IoSlice::new(chunk);
                        asked += chunk.len();
                        count += 1;
                    }
                    (sys::send_vectored(fd, &buffers[..count]), asked)
                }
            };
            match sent {
                Ok(count) => {
                    socket.to_send.consume(count);
                    // A short send set SOCK_NOSPACE: an edge will tell when there is room.
                    socket.writable = count == asked;
                    scope.stats.short_sends += u64::from(count < asked);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    socket.fail_send(error.raw_os_error().unwrap_or(libc::EIO));
                    // Behind the peer's end nothing else tells that it has broken off.
                    scope.tasks.wake(socket.recv_task);
                }
            }
        }
        if socket.to_send.is_empty() && socket.shutdown == Shutdown::WhenSent {
            socket.finish_shutdown();
        }
        if socket.send_error.is_some() || socket.to_send.bytes() <= socket.wake_at {
            // Once for each wait: a task that flushes whenever it runs would otherwise wake itself for ever.
            scope.tasks.wake(std::mem::replace(&mut socket.send_task, TaskId::NONE));
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
        while socket.readable {
            match socket.splice_in(pipe, max) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.readable = false,
                outcome => return outcome.ok(),
            }
        }
        None
    }

    fn splice_out(&mut self, scope: &mut Scope<'_>, key: SocketKey, pipe: &Pipe) {
        let socket = scope.sockets.live(key);
        if socket.writable {
            socket.writable = socket.splice_out(pipe);
        }
    }

    fn close(&mut self, scope: &mut Scope<'_>, key: SocketKey) {
        // Closing takes the descriptor out of the epoll set, but for that of a listener, which others may have copies of.
        if let Some(socket) = scope.sockets.find(key)
            && socket.listener
        {
            let _ = sys::epoll_remove(&self.epoll, socket.raw_fd());
        }
        drop(scope.sockets.remove(key));
    }
}

impl Backend for Epoll {
    fn register(&mut self, scope: &mut Scope<'_>, key: SocketKey) -> io::Result<()> {
        let socket = scope.sockets.live(key);
        // A listener is level-triggered: what one turn's budget leaves is reported again.
        let events = if socket.listener { libc::EPOLLIN as u32 } else { STREAM_EVENTS };
        // The first read and write just try.
        (socket.readable, socket.writable) = (!socket.listener, true);
        sys::epoll_add(&self.epoll, socket.raw_fd(), events, token(key))
    }

    fn connect(&mut self, scope: &mut Scope<'_>, key: SocketKey, address: RawAddr) {
        let socket = scope.sockets.live(key);
        match sys::connect(socket.raw_fd(), &address) {
            Ok(()) => socket.connect = Connect::Done,
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
                socket.connect = Connect::Running;
                (socket.readable, socket.writable) = (false, false);
            }
            Err(error) => socket.connect = Connect::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    fn poll_accept(&mut self, scope: &mut Scope<'_>, key: SocketKey) -> Poll<io::Result<Endpoint>> {
        let listener = scope.sockets.live(key);
        if std::mem::take(&mut listener.muted) {
            sys::epoll_modify(&self.epoll, listener.raw_fd(), libc::EPOLLIN as u32, token(key))?;
        }
        if !listener.readable {
            listener.recv_task = scope.tasks.current();
            return Poll::Pending;
        }
        match sys::accept(listener.raw_fd()) {
            Ok(fd) => {
                scope.stats.accepted += 1;
                Poll::Ready(Ok(fd.into()))
            }
            Err(error) => {
                listener.readable = false;
                if error.kind() == io::ErrorKind::WouldBlock {
                    listener.recv_task = scope.tasks.current();
                    return Poll::Pending;
                }
                if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
                    // It stays readable, and would end every wait at once while its owner rests.
                    sys::epoll_modify(&self.epoll, listener.raw_fd(), 0, token(key))?;
                    listener.muted = true;
                }
                Poll::Ready(Err(error))
            }
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
        scope.sockets.live(key).readable = true;
        match self.poll_accept(scope, key) {
            Poll::Ready(accepted) => Poll::Ready(accepted.map(Some)),
            Poll::Pending => Poll::Ready(Ok(None)),
        }
    }

    fn wait(&mut self, scope: &mut Scope<'_>, patience: Patience) -> io::Result<bool> {
        let timeout = patience.timeout_ms().map_or(-1, |ms| i32::try_from(ms).unwrap_or(i32::MAX));
        let count = sys::epoll_wait(&self.epoll, &mut self.events, timeout)?;
        scope.stats.visits += 1;
        scope.stats.completions += count as u64;
        let mut rung = false;
        for index in 0..count {
            let libc::epoll_event { events, u64: token } = self.events[index];
            if token == MAILBOX {
                sys::event_clear(self.mailbox);
                rung = true;
                continue;
            }
            let key = SocketKey { slot: token as u32, generation: (token >> 32) as u32 };
            // An event of this batch may be for a socket that another has closed.
            let Some(socket) = scope.sockets.find(key) else { continue };
            let events = events as i32;
            if events & (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
                socket.readable = true;
                socket.peer_closed |= events & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0;
                socket.broken |= events & libc::EPOLLERR != 0;
                scope.tasks.wake(socket.recv_task);
            }
            if events & (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) != 0 {
                socket.writable = true;
                if socket.connect == Connect::Running {
                    let error = sys::option(socket.raw_fd(), libc::SOL_SOCKET, libc::SO_ERROR);
                    socket.connect = match error {
                        Ok(0) => Connect::Done,
                        Ok(errno) => Connect::Failed(errno),
                        Err(error) => Connect::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
                    };
                    scope.tasks.wake(std::mem::replace(&mut socket.send_task, TaskId::NONE));
                }
                if !socket.to_send.is_empty() {
                    self.start_send(scope, key);
                } else {
                    scope.tasks.wake(std::mem::replace(&mut socket.send_task, TaskId::NONE));
                }
            }
        }
        Ok(rung)
    }
}
