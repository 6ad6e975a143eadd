//! One direction of a relay: bytes pass untouched from one channel to another until the source has ended.
//!
//! They begin as chunks. Between two sockets whose bytes nobody looks at, they go through a pipe of the kernel once many
//! have come in sequence, and as chunks again when they trickle. Reading pauses when the receiver's queue is above the
//! high watermark and goes on when half of it has drained; in a pipe there is at most the pipe's capacity besides.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::splice::{self, Broken, Splicer, Step};
use super::wire;
use crate::base::limits;
use crate::protocol::transport::Channel;
use crate::runtime::{Runtime, Timer};

/// Chunks moved before other tasks get their turn.
const CHUNKS_PER_POLL: usize = 16;
/// Pieces spliced before other tasks get their turn.
const PIECES_PER_POLL: usize = 4;
/// Bytes gathered before they are handed to the kernel, when more is at hand.
const FLUSH_BYTES: usize = 64 * 1024;
/// So many large reads in sequence are a stream.
const LARGE_READS_MIN: u8 = 4;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Relay {
    splicer: Splicer,
    large_reads: u8,
    bulk: bool,
    paused: bool,
    done: bool,
    /// An end counts, announced or not.
    any_end: bool,
    /// Bytes taken from the source.
    pub(super) bytes: u64,
    /// Times reading paused for the receiver's queue.
    pub(super) pauses: u64,
    /// Times it went on after that.
    pub(super) resumes: u64,
}

/// Whether an endpoint that has ended, and takes nothing more, has ended in order: a stream that is reset behind its end
/// brought all that it had to say, whatever the code (RFC 9113 section 8.1; Envoy's is INTERNAL_ERROR).
pub(super) fn has_answered(endpoint: &Channel) -> bool {
    endpoint.stream().is_some()
}

/// Waits until what is queued for sides that are about to be broken off is on its way, [`limits::RELAY_BREAK_MS`] at most: on the
/// ring nothing is before the next visit, of a stream nothing before its connection's next turn, and a break takes back the rest.
pub(super) async fn hand_over<const N: usize>(runtime: &Runtime, timer: &Timer, sides: [&Channel; N]) {
    let due = runtime.now().after(Duration::from_millis(limits::RELAY_BREAK_MS));
    for side in sides {
        side.flush();
    }
    poll_fn(|_| {
        // Each is asked, to be told of each. A side that is gone takes nothing more, and what one still says nobody reads.
        let written = sides.map(|side| {
            side.gather();
            side.poll_written()
        });
        if written.iter().all(Poll::is_ready) { Poll::Ready(()) } else { timer.poll_at(due) }
    })
    .await;
}

/// Why a relay broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RelayError {
    /// The source broke, or its end was not its own.
    SourceGone,
    /// The receiver broke.
    SinkGone,
}

impl From<Broken> for RelayError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Source => Self::SourceGone,
            Broken::Sink => Self::SinkGone,
        }
    }
}

impl Relay {
    /// One of a tunnel that has moved nothing yet: an end of TLS that was not announced breaks it.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// One of connections as they are: an end that TLS has not announced is one, as Envoy has it. Many leave so.
    pub(super) fn of_connections() -> Self {
        Self { any_end: true, ..Self::default() }
    }

    /// Whether the source has ended and the receiver was told.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether nothing is read from the source until the receiver has taken some of what waits for it.
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Bytes taken from the source that the receiver has not taken yet.
    pub(super) fn waiting(&self, to: &Channel) -> usize {
        self.splicer.held() + to.queued()
    }

    /// Moves what can be moved. Ready once the source has ended and all was handed on, the end behind it: wait for what is
    /// queued before the receiver is dropped.
    pub(super) fn poll(
        &mut self,
        runtime: &Runtime,
        from: &Channel,
        to: &Channel,
        high_watermark: usize,
    ) -> Poll<Result<(), RelayError>> {
        match self.advance(runtime, from, to, high_watermark) {
            // Who has ended and then broken off is only missed in writing, and what is sent to him would be swallowed for ever.
            Poll::Pending if matches!(to.poll_sent(usize::MAX), Poll::Ready(Err(_))) => {
                Poll::Ready(Err(RelayError::SinkGone))
            }
            moved => moved,
        }
    }

    /// Nothing more is moved: what is on its way past user space is queued for the receiver.
    pub(super) fn release(&mut self, runtime: &Runtime, to: &Channel) {
        self.splicer.release(runtime, splice::socket(to));
    }

    fn advance(
        &mut self,
        runtime: &Runtime,
        from: &Channel,
        to: &Channel,
        high_watermark: usize,
    ) -> Poll<Result<(), RelayError>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        let sockets = splice::sockets(from, to).filter(|_| splice::WATERMARKS.contains(&high_watermark));
        let mut pieces = 0;
        for _ in 0..CHUNKS_PER_POLL {
            if let (true, Some(sockets)) = (self.splicer.is_active(), sockets) {
                if pieces == PIECES_PER_POLL {
                    break;
                }
                let step = self.splicer.poll(runtime, sockets, high_watermark);
                if self.paused != self.splicer.is_stalled() {
                    self.paused = !self.paused;
                    *(if self.paused { &mut self.pauses } else { &mut self.resumes }) += 1;
                }
                match step {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(Step::Moved(count))) => {
                        self.bytes += count as u64;
                        pieces += 1;
                        continue;
                    }
                    Poll::Ready(Ok(Step::End)) => return Poll::Ready(self.end(from, to)),
                    Poll::Ready(Ok(Step::Chunks | Step::Enough)) => {
                        // Unless what lies unread comes first: a stream is to show itself again.
                        self.large_reads = 0;
                    }
                    Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken.into())),
                }
            }
            if !self.may_read(to, high_watermark)? {
                from.gather();
                return Poll::Pending;
            }
            from.set_bulk(self.bulk && high_watermark >= limits::LARGE_READ_ROOM_MIN);
            match from.poll_recv() {
                Poll::Ready(Ok(Some(chunk))) => {
                    self.bulk |= chunk.len() == chunk.capacity();
                    let large = chunk.len() >= limits::LARGE_CHUNK_BYTES / 2;
                    self.large_reads = if large { self.large_reads.saturating_add(1) } else { 0 };
                    self.bytes += chunk.len() as u64;
                    to.send(chunk);
                    if to.queued() >= FLUSH_BYTES {
                        to.flush();
                    }
                    if sockets.is_some() && self.large_reads >= LARGE_READS_MIN && self.splicer.may_start() {
                        self.splicer.start();
                    }
                }
                Poll::Ready(Ok(None)) => return Poll::Ready(self.end(from, to)),
                Poll::Ready(Err(_)) => {
                    to.flush();
                    return Poll::Ready(Err(RelayError::SourceGone));
                }
                Poll::Pending => {
                    to.flush();
                    return Poll::Pending;
                }
            }
        }
        // A turn of the source's connection may bring many more.
        from.gather();
        to.flush();
        runtime.wake(runtime.current_task());
        Poll::Pending
    }

    /// The source's end goes behind what is queued.
    fn end(&mut self, from: &Channel, to: &Channel) -> Result<(), RelayError> {
        if from.is_truncated() && !self.any_end {
            to.flush();
            return Err(RelayError::SourceGone);
        }
        self.done = true;
        if let Some(stream) = to.stream() {
            stream.finish(None);
        }
        to.flush();
        to.shutdown_write();
        Ok(())
    }

    /// Whether the receiver has room. When not, the task is woken later.
    fn may_read(&mut self, to: &Channel, high_watermark: usize) -> Result<bool, RelayError> {
        let noted = (&mut self.paused, &mut self.pauses, &mut self.resumes);
        wire::has_room(to, high_watermark, noted).map_err(|_| RelayError::SinkGone)
    }
}
