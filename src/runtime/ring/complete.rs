//! What each completion changes. Nothing here calls back: sockets are edited, tasks are woken, follow-ups are queued.

use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;

use super::Ring;
use super::limits::{ACCEPTED_MAX, SMALL_ENTRIES};
use super::op::Op;
use crate::runtime::backend::Scope;
use crate::runtime::socket::{Connect, RecvEnd, RecvOp, Shutdown, SocketKey};
use crate::runtime::task::TaskId;

impl Ring {
    pub(super) fn apply(&mut self, scope: &mut Scope<'_>, completion: &cqueue::Entry) {
        self.note_end(completion);
        let (op, key) = Op::parse(completion.user_data());
        match op {
            Some(Op::Accept) => self.accept_done(scope, key, completion),
            Some(Op::Connect) => self.connect_done(scope, key, completion.result()),
            Some(op @ (Op::Recv | Op::RecvBulk)) => self.recv_done(scope, key, op, completion),
            Some(Op::Send) => self.send_done(scope, key, completion.result()),
            Some(op @ (Op::PollIn | Op::PollOut)) => self.poll_done(scope, key, op),
            Some(Op::Bell) => {
                self.bell_armed = cqueue::more(completion.flags());
                self.rung |= completion.result() >= 0;
            }
            Some(Op::Alarm) => self.alarm.rang(),
            // Only failures are reported: nothing left to cancel, or a descriptor that closed with an error.
            Some(Op::Cancel | Op::Close) | None => {}
        }
    }

    /// Takes note of a completion when the runtime is gone: a descriptor in it is closed.
    pub(super) fn discard(&mut self, completion: &cqueue::Entry) {
        self.note_end(completion);
        self.discard_descriptor(completion);
    }

    /// Closes the descriptor that a completion hands over, if it does.
    #[allow(unsafe_code)]
    pub(super) fn discard_descriptor(&mut self, completion: &cqueue::Entry) {
        if Op::parse(completion.user_data()).0 == Some(Op::Accept) && completion.result() >= 0 {
            // SAFETY: the completion hands over a new descriptor, once.
            drop(unsafe { OwnedFd::from_raw_fd(completion.result()) });
        }
    }

    /// Counts an operation that ends.
    pub(super) fn note_end(&mut self, completion: &cqueue::Entry) {
        let (op, _) = Op::parse(completion.user_data());
        let counted = matches!(
            op,
            Some(
                Op::Accept
                    | Op::Connect
                    | Op::Recv
                    | Op::RecvBulk
                    | Op::Send
                    | Op::Bell
                    | Op::Alarm
                    | Op::PollIn
                    | Op::PollOut
            )
        );
        if counted && !cqueue::more(completion.flags()) {
            debug_assert!(self.in_flight > 0);
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }

    fn recv_done(&mut self, scope: &mut Scope<'_>, key: SocketKey, op: Op, completion: &cqueue::Entry) {
        let (result, flags) = (completion.result(), completion.flags());
        let bulk = op == Op::RecvBulk;
        let buffers = if bulk { &mut self.large } else { &mut self.small };
        // Taken back whatever the result: the kernel has used this buffer up.
        let chunk = cqueue::buffer_select(flags).and_then(|id| buffers.take(id));
        let last = !cqueue::more(flags);
        if last && bulk {
            self.bulk_armed = self.bulk_armed.saturating_sub(1);
        }
        let Some(socket) = scope.sockets.find(key) else {
            scope.stats.stale_completions += 1;
            return;
        };
        let single = socket.recv_op == RecvOp::Single;
        if last {
            socket.recv_op = RecvOp::Idle;
            socket.ops -= 1;
        }
        if socket.closing {
            drop(chunk);
            if socket.ops == 0 {
                self.release(scope, key);
            }
            return;
        }
        let mut unanswered = true;
        match (usize::try_from(result), chunk) {
            (Ok(1..), Some(mut chunk)) => {
                chunk.advance(result as usize);
                socket.received.push(chunk.freeze());
                socket.drained = !cqueue::sock_nonempty(flags);
                unanswered = !single;
                scope.tasks.wake(socket.recv_task);
            }
            (Ok(0), _) => {
                socket.end_recv(RecvEnd::Eof);
                scope.tasks.wake(socket.recv_task);
            }
            _ => match -result {
                libc::ENOBUFS => {
                    scope.stats.recv_enobufs += 1;
                    if !bulk {
                        self.small_target = (self.small_target * 2).min(SMALL_ENTRIES);
                        self.was_short = true;
                    }
                    // Bytes are there: they need a buffer, not a readiness event.
                    socket.drained = false;
                }
                libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
                errno => {
                    // Bytes without a chunk cannot be delivered: the kernel never does that, and if it did, they must
                    // not silently be missing.
                    socket.end_recv(RecvEnd::Error(if errno > 0 { errno } else { libc::EIO }));
                    scope.tasks.wake(socket.recv_task);
                }
            },
        }
        if socket.recv_end.is_some() {
            return;
        }
        if last && socket.splicing {
            // A splice waited for it to be over.
            scope.tasks.wake(socket.recv_task);
        }
        if last {
            // However it ended: one place decides whether to arm again.
            if unanswered {
                self.to_arm.push(key);
            }
        } else if socket.recv_op == RecvOp::Multishot
            && socket.received.capacity() >= Self::unread_max(socket)
        {
            self.cancel_recv(scope, key);
        }
    }

    fn send_done(&mut self, scope: &mut Scope<'_>, key: SocketKey, result: i32) {
        let Some(socket) = scope.sockets.find(key) else {
            scope.stats.stale_completions += 1;
            return;
        };
        socket.ops -= 1;
        socket.sending = false;
        if socket.closing {
            socket.to_send.clear();
            if socket.ops == 0 {
                self.release(scope, key);
            }
            return;
        }
        match usize::try_from(result) {
            Ok(sent) => {
                let all = socket.sending_bytes as usize;
                debug_assert!(sent <= all);
                let short = sent < all;
                scope.stats.short_sends += u64::from(short);
                socket.to_send.consume(sent);
                // The rest of a backlog waits for room, of which it is told by nothing else.
                socket.send_full = short || !socket.to_send.is_empty();
            }
            Err(_) => match -result {
                // Nothing was taken, and nobody who still wants the socket has asked for the cancel: try again.
                libc::EAGAIN => socket.send_full = true,
                libc::EINTR | libc::ECANCELED => {}
                errno => {
                    socket.fail_send(errno);
                    // Behind the peer's end nothing else tells that it has broken off.
                    scope.tasks.wake(socket.recv_task);
                }
            },
        }
        if !socket.to_send.is_empty() {
            self.queue_send(socket, key);
        } else if socket.shutdown == Shutdown::WhenSent {
            socket.finish_shutdown();
        }
        if socket.send_error.is_some() || socket.to_send.bytes() <= socket.wake_at {
            scope.tasks.wake(std::mem::replace(&mut socket.send_task, TaskId::NONE));
        }
    }

    /// However it ended: who waited tries again.
    fn poll_done(&mut self, scope: &mut Scope<'_>, key: SocketKey, op: Op) {
        let Some(socket) = scope.sockets.find(key) else {
            scope.stats.stale_completions += 1;
            return;
        };
        socket.ops -= 1;
        if op == Op::PollIn {
            socket.recv_op = RecvOp::Idle;
        } else {
            socket.sending = false;
        }
        if socket.closing {
            if !socket.sending {
                socket.to_send.clear();
            }
            if socket.ops == 0 {
                self.release(scope, key);
            }
            return;
        }
        if op == Op::PollIn {
            scope.tasks.wake(socket.recv_task);
            if !socket.splicing {
                self.to_arm.push(key);
            }
            return;
        }
        if !socket.to_send.is_empty() {
            self.queue_send(socket, key);
        } else if socket.shutdown == Shutdown::WhenSent {
            socket.finish_shutdown();
        }
        scope.tasks.wake(std::mem::replace(&mut socket.send_task, TaskId::NONE));
    }

    fn connect_done(&mut self, scope: &mut Scope<'_>, key: SocketKey, result: i32) {
        let Some(socket) = scope.sockets.find(key) else {
            scope.stats.stale_completions += 1;
            return;
        };
        socket.ops -= 1;
        socket.address = None;
        if socket.closing {
            if socket.ops == 0 {
                self.release(scope, key);
            }
            return;
        }
        socket.connect = if result >= 0 { Connect::Done } else { Connect::Failed(-result) };
        scope.tasks.wake(std::mem::replace(&mut socket.send_task, TaskId::NONE));
    }

    #[allow(unsafe_code)]
    fn accept_done(&mut self, scope: &mut Scope<'_>, key: SocketKey, completion: &cqueue::Entry) {
        let result = completion.result();
        let last = !cqueue::more(completion.flags());
        let fd = (result >= 0).then(|| {
            // SAFETY: the completion hands over a new descriptor, once.
            unsafe { OwnedFd::from_raw_fd(result) }
        });
        let Some(listener) = scope.sockets.find(key) else {
            scope.stats.stale_completions += 1;
            if let Some(fd) = fd {
                self.close_fd(fd);
            }
            return;
        };
        if last {
            listener.recv_op = RecvOp::Idle;
            listener.ops -= 1;
        }
        if listener.closing {
            // The listener is gone: nobody is left who could serve or refuse this connection.
            if last && listener.ops == 0 {
                self.release(scope, key);
            }
            if let Some(fd) = fd {
                scope.stats.accepts_dropped += 1;
                self.close_fd(fd);
            }
            return;
        }
        match fd {
            Some(fd) => {
                scope.stats.accepted += 1;
                listener.accepting().accepted.push_back(fd);
            }
            None if matches!(-result, libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
            None => listener.accepting().error = Some(-result),
        }
        // Also without a connection: the owner's next poll arms again.
        scope.tasks.wake(listener.recv_task);
        if listener.recv_op == RecvOp::Multishot && listener.accepting().accepted.len() >= ACCEPTED_MAX {
            self.cancel_recv(scope, key);
        }
    }
}
