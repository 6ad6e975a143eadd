//! What a back end does: the contract that io_uring, epoll and the simulation keep alike.
//!
//! The socket table is shared; a back end only moves bytes between it and the world, and wakes the tasks that the
//! sockets name.

use std::io;
use std::task::Poll;

use super::endpoint::Endpoint;
use super::pipe::{Pipe, Spliced};
use super::socket::{Socket, SocketKey, Sockets};
use super::stats::Stats;
use super::sys::RawAddr;
use super::task::{TaskId, Tasks};
use crate::buffer::{Chunk, Pool};

/// What a back end works on.
pub(super) struct Scope<'a> {
    pub(super) sockets: &'a mut Sockets,
    pub(super) tasks: &'a Tasks,
    pub(super) pool: &'a Pool,
    /// Tasks that wait for pool memory; the runtime wakes them when there is some.
    pub(super) starved: &'a mut Vec<TaskId>,
    pub(super) stats: &'a mut Stats,
}

/// How long a visit to the kernel may wait for something to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Not at all: there is work.
    None,
    /// So many milliseconds from `now`, milliseconds of the runtime's clock.
    Until { now: u64, ms: u64 },
    /// Until something happens.
    Forever,
}

impl Patience {
    /// As milliseconds, `None` for ever.
    pub(super) fn timeout_ms(self) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Until { ms, .. } => Some(ms),
            Self::Forever => None,
        }
    }
}

/// What is done with a connection that is there, by a back end or within the worker (`internal`).
pub(super) trait Streams {
    /// The next received bytes, what was received before first; `None` at the end. Pending registers the current task.
    fn poll_recv(&mut self, scope: &mut Scope<'_>, key: SocketKey) -> Poll<io::Result<Option<Chunk>>>;

    /// Whether a receive might find something, bytes or the end, as far as is known without a system call.
    fn may_receive(&self, socket: &Socket) -> bool;

    /// Sees to it that arriving bytes, or the peer's end, wake `recv_task` though nobody polls for them.
    fn watch(&mut self, scope: &mut Scope<'_>, key: SocketKey);

    /// Sends what is queued, now or with the next visit to the kernel. At most one send per socket is under way.
    fn start_send(&mut self, scope: &mut Scope<'_>, key: SocketKey);

    /// Moves up to `max` bytes of what arrived into an empty pipe; nothing lies received, and no end is known. The end is
    /// noted in the socket. `None`: not now, `recv_task` is woken.
    fn splice_in(
        &mut self,
        scope: &mut Scope<'_>,
        key: SocketKey,
        pipe: &Pipe,
        max: usize,
    ) -> Option<Spliced>;

    /// Moves a pipe's bytes to the connection; nothing else is queued or under way. With bytes left `send_task` is woken
    /// when there is room; a failure is noted in the socket.
    fn splice_out(&mut self, scope: &mut Scope<'_>, key: SocketKey, pipe: &Pipe);

    /// The owner lets go: cancels what is under way, closes, frees the slot when the kernel is done with it.
    fn close(&mut self, scope: &mut Scope<'_>, key: SocketKey);
}

pub(super) trait Backend: Streams {
    /// Makes a connected, connecting or listening socket known.
    fn register(&mut self, scope: &mut Scope<'_>, key: SocketKey) -> io::Result<()>;

    /// Begins a connect; `Socket::connect` tells the outcome and `send_task` is woken.
    fn connect(&mut self, scope: &mut Scope<'_>, key: SocketKey, address: RawAddr);

    /// The next accepted connection, which nobody watches yet. Pending registers the current task.
    fn poll_accept(&mut self, scope: &mut Scope<'_>, key: SocketKey) -> Poll<io::Result<Endpoint>>;

    /// Stops accepting and returns what was accepted, and with `queued` what waits to be, one by one; `None` when that is
    /// all.
    fn poll_accept_rest(
        &mut self,
        scope: &mut Scope<'_>,
        key: SocketKey,
        queued: bool,
    ) -> Poll<io::Result<Option<Endpoint>>>;

    /// Visits the kernel: submits, waits, takes note of events. Returns whether the mailbox was rung.
    fn wait(&mut self, scope: &mut Scope<'_>, patience: Patience) -> io::Result<bool>;

    /// Lets go of memory that a burst needed; called once a second at most, after the tasks have run. Returns whether more
    /// is to go a second later, even if nothing happens until then.
    fn trim(&mut self) -> bool {
        false
    }

    /// Pool chunks that the back end keeps ready to receive into.
    fn chunks_held(&self) -> usize {
        0
    }
}
