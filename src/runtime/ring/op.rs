//! Operations of the ring: what a completion's user data says, and how the entries are built.
//!
//! User data is `op:8 | generation:24 | slot:32`, never a pointer: a late completion is recognised by its generation.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use io_uring::types::{CancelBuilder, Fd};
use io_uring::{opcode, squeue};

use super::super::socket::SocketKey;
use super::super::sys::RawAddr;
use crate::base::limits;
use crate::buffer::ChunkQueue;

/// Bytes handed to the kernel in one send: it completes as a whole, so this is how far memory of a slow connection
/// lags behind its peer.
const SEND_BYTES_MAX: usize = 256 * 1024;

/// `IORING_RECVSEND_POLL_FIRST`: do not try, wait for readiness first.
const POLL_FIRST: u16 = 1;
/// `IORING_RECV_MULTISHOT`.
const RECV_MULTISHOT: u16 = 2;
/// How a send goes about a socket without room for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendMode {
    /// It completes at submission, with what there was room for.
    Try,
    /// It waits for room: with `MSG_WAITALL` the kernel goes on after a short send itself. A short count is still
    /// handled.
    Wait,
}

impl SendMode {
    fn flags(self) -> i32 {
        libc::MSG_NOSIGNAL
            | match self {
                Self::Try => libc::MSG_DONTWAIT,
                Self::Wait => libc::MSG_WAITALL,
            }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    Accept = 1,
    Connect = 2,
    /// A receive that picks small chunks.
    Recv = 3,
    /// A receive that picks large chunks.
    RecvBulk = 4,
    Send = 5,
    /// Never waited for: what it cancels posts a completion of its own.
    Cancel = 6,
    Close = 7,
    /// The mailbox's bell.
    Bell = 8,
    /// The standing timeout.
    Alarm = 9,
    /// Splicing waits for bytes, or the end.
    PollIn = 10,
    /// Splicing waits for room.
    PollOut = 11,
}

impl Op {
    pub(super) fn user_data(self, key: SocketKey) -> u64 {
        (self as u64) << 56 | u64::from(key.generation) << 32 | u64::from(key.slot)
    }

    pub(super) fn parse(user_data: u64) -> (Option<Self>, SocketKey) {
        let op = match (user_data >> 56) as u8 {
            1 => Some(Self::Accept),
            2 => Some(Self::Connect),
            3 => Some(Self::Recv),
            4 => Some(Self::RecvBulk),
            5 => Some(Self::Send),
            6 => Some(Self::Cancel),
            7 => Some(Self::Close),
            8 => Some(Self::Bell),
            9 => Some(Self::Alarm),
            10 => Some(Self::PollIn),
            11 => Some(Self::PollOut),
            _ => None,
        };
        let generation = (user_data >> 32) as u32 & 0x00ff_ffff;
        (op, SocketKey { slot: user_data as u32, generation })
    }
}

/// How a receive is armed.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecvMode {
    pub(super) op: Op,
    pub(super) group: u16,
    pub(super) multishot: bool,
    /// A multishot receive ends after so many bytes; zero: never.
    pub(super) bytes_max: u32,
    /// Nothing is expected there yet.
    pub(super) poll_first: bool,
}

pub(super) fn recv(key: SocketKey, fd: RawFd, mode: RecvMode) -> squeue::Entry {
    let mut how = 0;
    if mode.multishot {
        how |= RECV_MULTISHOT;
    }
    if mode.poll_first {
        how |= POLL_FIRST;
    }
    let mut entry = opcode::Recv::new(Fd(fd), std::ptr::null_mut(), 0)
        .ioprio(how)
        .buf_group(mode.group)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT)
        .user_data(mode.op.user_data(key));
    if mode.bytes_max > 0 {
        let option: *mut squeue::Entry = &mut entry;
        // SAFETY: `Entry` is a C structure of 64 bytes, `struct io_uring_sqe`; `optlen` is its u32 at byte 44.
        // JUSTIFICATION: the crate has no setter for it.
        unsafe { option.cast::<u32>().add(OPTLEN_OFFSET / 4).write(mode.bytes_max) };
    }
    entry
}

/// Offset of `optlen` in `struct io_uring_sqe`, which the kernel keeps for ever.
const OPTLEN_OFFSET: usize = 44;
const _: () = assert!(size_of::<squeue::Entry>() == 64);

pub(super) fn accept(key: SocketKey, fd: RawFd) -> squeue::Entry {
    opcode::AcceptMulti::new(Fd(fd))
        .flags(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
        .build()
        .user_data(Op::Accept.user_data(key))
}

/// The address stays where it is until the completion.
pub(super) fn connect(key: SocketKey, fd: RawFd, address: &RawAddr) -> squeue::Entry {
    opcode::Connect::new(Fd(fd), address.as_ptr(), address.len())
        .build()
        .user_data(Op::Connect.user_data(key))
}

/// Cancels one operation of a socket.
pub(super) fn cancel(key: SocketKey, op: Op) -> squeue::Entry {
    opcode::AsyncCancel::new(op.user_data(key))
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(Op::Cancel.user_data(key))
}

/// Cancels everything in the ring.
pub(super) fn cancel_any() -> squeue::Entry {
    opcode::AsyncCancel2::new(CancelBuilder::any())
        .build()
        .user_data(Op::Cancel.user_data(SocketKey { slot: 0, generation: 0 }))
}

/// Closes a descriptor that nothing else uses any more.
pub(super) fn close(fd: RawFd) -> squeue::Entry {
    opcode::Close::new(Fd(fd))
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(Op::Close.user_data(SocketKey { slot: 0, generation: 0 }))
}

/// One completion when a connection is ready, or has ended.
pub(super) fn poll(key: SocketKey, op: Op, fd: RawFd) -> squeue::Entry {
    let events = if op == Op::PollOut { libc::POLLOUT } else { libc::POLLIN | libc::POLLRDHUP };
    opcode::PollAdd::new(Fd(fd), events as u32).build().user_data(op.user_data(key))
}

/// A completion per ring of the bell.
pub(super) fn bell(fd: RawFd) -> squeue::Entry {
    opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32)
        .multi(true)
        .build()
        .user_data(Op::Bell.user_data(SocketKey { slot: 0, generation: 0 }))
}

/// Message headers of the sends of one turn. The kernel reads them at submission only (`IORING_FEAT_SUBMIT_STABLE`), so
/// they are used again once everything was submitted.
#[derive(Default)]
pub(super) struct Messages {
    /// Boxed: an address must not change while the list grows.
    #[allow(clippy::vec_box, reason = "addresses are with the kernel")]
    all: Vec<Box<Message>>,
    used: usize,
}

struct Message {
    header: libc::msghdr,
    buffers: [libc::iovec; limits::SEND_IOVECS_MAX],
}

impl Messages {
    /// Everything was submitted.
    pub(super) fn reuse(&mut self) {
        self.used = 0;
    }

    /// Frees the headers of a burst once everything was submitted.
    pub(super) fn trim(&mut self) {
        if self.used == 0 {
            self.all = Vec::new();
        }
    }

    /// An entry that sends the first chunks of a queue, and how many bytes that are. The chunks stay in the queue,
    /// untouched, until the completion.
    pub(super) fn send(
        &mut self,
        key: SocketKey,
        fd: RawFd,
        queue: &ChunkQueue,
        mode: SendMode,
    ) -> (squeue::Entry, usize) {
        let user_data = Op::Send.user_data(key);
        let mut chunks = queue.iter();
        if let (Some(only), None) = (chunks.next(), chunks.next()) {
            let entry =
                opcode::Send::new(Fd(fd), only.as_ptr(), only.len() as u32).flags(mode.flags()).build();
            return (entry.user_data(user_data), only.len());
        }
        if self.used == self.all.len() {
            self.all.push(Box::new(Message::new()));
        }
        let message = &mut *self.all[self.used];
        self.used += 1;
        let (mut count, mut bytes) = (0, 0);
        for (buffer, chunk) in message.buffers.iter_mut().zip(queue.iter()) {
            *buffer = libc::iovec { iov_base: chunk.as_ptr().cast_mut().cast(), iov_len: chunk.len() };
            count += 1;
            bytes += chunk.len();
            if bytes >= SEND_BYTES_MAX {
                break;
            }
        }
        message.header.msg_iov = message.buffers.as_mut_ptr();
        message.header.msg_iovlen = count;
        let header = &raw const message.header;
        let entry = opcode::SendMsg::new(Fd(fd), header).flags(mode.flags() as u32).build();
        (entry.user_data(user_data), bytes)
    }
}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Messages({}/{})", self.used, self.all.len())
    }
}

impl Message {
    fn new() -> Self {
        // SAFETY: all zeroes is a valid msghdr.
        let header = unsafe { MaybeUninit::zeroed().assume_init() };
        Self { header, buffers: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; _] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_carries_op_generation_and_slot() {
        let key = SocketKey { slot: u32::MAX - 1, generation: 0x00fe_dcba };
        let ops = [Op::Accept, Op::Connect, Op::Recv, Op::RecvBulk, Op::Send, Op::Cancel, Op::Close];
        for op in ops.into_iter().chain([Op::Bell, Op::Alarm, Op::PollIn, Op::PollOut]) {
            assert_eq!(Op::parse(op.user_data(key)), (Some(op), key));
        }
        assert_eq!(Op::parse(0).0, None);
    }
}
