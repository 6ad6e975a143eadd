//! One direction's bytes from socket to socket through a pipe of the kernel, while they are many and nobody looks at them.
//!
//! A pipe is taken from the worker when bytes are there for it and given back once it is empty: connections that wait hold
//! none. It is filled only when empty, so that a full pipe is never taken for an empty socket.

use std::ops::RangeInclusive;
use std::task::Poll;

use crate::base::limits;
use crate::buffer::ChunkSize;
use crate::protocol::transport::{Channel, Transport};
use crate::runtime::{Pipe, Runtime, Spliced, TcpStream};

/// A body of which at least this much is to come is spliced, in bytes: a pipeful.
pub(super) const BYTES_MIN: u64 = 256 * 1024;
/// Watermarks with which bytes go by pipe, up to the default's 1 MiB: of a slow receiver's bytes a pipe holds 256 KiB. Whoever may
/// keep more is to keep it, since the system of a sender that has gone does not hold for ever what was not taken.
pub(super) const WATERMARKS: RangeInclusive<usize> = limits::LARGE_READ_ROOM_MIN..=1024 * 1024;
/// A piece below this, in bytes, is copied as cheaply.
const SMALL_PIECE_BYTES: usize = 8 * 1024;
/// So many of them in sequence: a trickle, which goes by chunks.
const SMALL_PIECES_MAX: u8 = 4;
/// Without a pipe, so often bytes go by chunks before one is asked for again.
const TURNS_WITHOUT: u8 = 16;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Splicer {
    /// Bytes go by pipe at present.
    active: bool,
    /// It was refused, or given up: not again on this way.
    refused: bool,
    /// There was no pipe: not again for so many turns.
    turns_without: u8,
    small_pieces: u8,
    /// The receiver has no room for what is in the pipe.
    stalled: bool,
    pipe: Option<Pipe>,
}

/// What one step brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many bytes were taken from the source.
    Moved(usize),
    /// The pipe is empty, and nothing more is wanted.
    Enough,
    /// The source has ended; all of it was handed on.
    End,
    /// The pipe is empty; what comes next goes by chunks.
    Chunks,
}

/// Which side broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Source,
    Sink,
}

/// Both sockets, where the bytes of both are as they are on the wire.
pub(super) fn sockets<'a>(from: &'a Channel, to: &'a Channel) -> Option<(&'a TcpStream, &'a TcpStream)> {
    socket(from).zip(socket(to))
}

/// The socket, where its bytes are as they are on the wire, and are on one.
pub(super) fn socket(of: &Channel) -> Option<&TcpStream> {
    of.connection().and_then(Transport::plain).filter(|socket| socket.may_splice())
}

impl Splicer {
    /// Whether bytes go by pipe, or lie in one.
    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    /// Whether reading waits for the receiver.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Bytes that lie in the pipe.
    pub(super) fn held(&self) -> usize {
        self.pipe.as_ref().map_or(0, Pipe::bytes)
    }

    /// Whether bytes go by chunks and may do otherwise.
    pub(super) fn may_start(&mut self) -> bool {
        let waits = self.turns_without > 0;
        self.turns_without = self.turns_without.saturating_sub(1);
        !self.active && !self.refused && !waits
    }

    /// Whether the receiver alone keeps the rest of a body, of which `left` bytes are to come, from being taken in: by chunks it
    /// would wait in user space, up to the watermark.
    pub(super) fn holds_back(&self, left: u64, high_watermark: usize) -> bool {
        self.stalled && !self.refused && left <= high_watermark as u64
    }

    /// On this way nothing goes by pipe any more. What lies in one waits for the receiver in user space.
    pub(super) fn give_up(&mut self) {
        self.refused = true;
    }

    /// From here on bytes go by pipe.
    pub(super) fn start(&mut self) {
        (self.active, self.small_pieces) = (true, 0);
    }

    /// Nothing more is taken: what lies in the pipe is queued for the receiver, as far as there is memory for it. Whether that is
    /// all of it.
    pub(super) fn release(&mut self, runtime: &Runtime, to: Option<&TcpStream>) -> bool {
        let whole = self.pipe.as_ref().zip(to).is_none_or(|(pipe, to)| read_back(runtime, pipe, to));
        self.abandon();
        whole
    }

    /// What lies in the pipe is lost.
    pub(super) fn abandon(&mut self) {
        (self.active, self.stalled, self.pipe) = (false, false, None);
    }

    /// Empties the pipe; then takes up to `max` bytes and begins to hand them on.
    pub(super) fn poll(
        &mut self,
        runtime: &Runtime,
        (from, to): (&TcpStream, &TcpStream),
        max: usize,
    ) -> Poll<Result<Step, Broken>> {
        if let Some(pipe) = &self.pipe {
            let emptied = to.poll_splice_out(pipe);
            self.stalled = emptied.is_pending() && !self.refused;
            let emptied = match emptied {
                Poll::Pending if self.refused => read_back(runtime, pipe, to),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(true)) => true,
                Poll::Ready(Ok(false)) => {
                    runtime.splice_refused();
                    self.refused = true;
                    read_back(runtime, pipe, to)
                }
                Poll::Ready(Err(_)) => false,
            };
            if !emptied {
                self.abandon();
                return Poll::Ready(Err(Broken::Sink));
            }
        }
        if max == 0 {
            self.stop(from);
            return Poll::Ready(Ok(Step::Enough));
        }
        if self.refused || self.small_pieces >= SMALL_PIECES_MAX {
            self.stop(from);
            return Poll::Ready(Ok(Step::Chunks));
        }
        let Some(pipe) = self.pipe.take().or_else(|| runtime.pipe()) else {
            self.turns_without = TURNS_WITHOUT;
            self.stop(from);
            return Poll::Ready(Ok(Step::Chunks));
        };
        let pipe = &*self.pipe.insert(pipe);
        let spliced = match from.poll_splice_in(pipe, max) {
            Poll::Ready(Ok(spliced)) => spliced,
            Poll::Ready(Err(_)) => {
                self.abandon();
                to.flush();
                return Poll::Ready(Err(Broken::Source));
            }
            Poll::Pending => {
                // Others may need it meanwhile.
                self.pipe = None;
                to.flush();
                return Poll::Pending;
            }
        };
        match spliced {
            Spliced::Bytes(count) => {
                self.small_pieces = if count < SMALL_PIECE_BYTES { self.small_pieces + 1 } else { 0 };
                Poll::Ready(Ok(Step::Moved(count)))
            }
            Spliced::End => {
                self.stop(from);
                Poll::Ready(Ok(Step::End))
            }
            Spliced::Unread => {
                self.pipe = None;
                Poll::Ready(Ok(Step::Chunks))
            }
            Spliced::Refused => {
                runtime.splice_refused();
                self.refused = true;
                self.stop(from);
                Poll::Ready(Ok(Step::Chunks))
            }
        }
    }

    /// Reads go into user space again.
    fn stop(&mut self, from: &TcpStream) {
        self.abandon();
        from.end_splice();
    }
}

/// Queues what is in a pipe as chunks. False: there was no memory for it, and it is lost.
#[cold]
fn read_back(runtime: &Runtime, pipe: &Pipe, to: &TcpStream) -> bool {
    while pipe.bytes() > 0 {
        let Some(mut chunk) = runtime.pool().alloc(ChunkSize::Large) else { return false };
        if pipe.read_back(&mut chunk).is_err() || chunk.is_empty() {
            return false;
        }
        to.send(chunk.freeze());
    }
    to.flush();
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_that_fits_is_held_back_by_a_receiver_that_stalls_and_by_nothing_else() {
        let mut stalled = Splicer { active: true, stalled: true, ..Splicer::default() };
        assert!(stalled.holds_back(0, 1000) && stalled.holds_back(1000, 1000));
        assert!(!stalled.holds_back(1001, 1000), "by its size, too");
        let waiting = Splicer { active: true, ..Splicer::default() };
        assert!(!waiting.holds_back(0, 1000), "by its sender");
        stalled.give_up();
        assert!(!stalled.holds_back(0, 1000), "not any more");
    }
}
