//! Moving a body from one connection to another, chunk by chunk, under the flow-control contract.
//!
//! Data is handed on as views of the chunks it arrived in. Reading pauses when the receiver's queue is above the high
//! watermark and goes on when half of it has drained. One call moves a bounded number of chunks, so that no body keeps
//! the worker to itself.

use std::io;
use std::task::Poll;

use super::splice::{self, Broken, Splicer, Step};
use super::wire;
use crate::base::limits;
use crate::buffer::{Chunk, ChunkQueue};
use crate::config::http::HeaderKeyFormat;
use crate::filter::http::FilterReply;
use crate::protocol::http::body::{BodyDecoder, BodyLength};
use crate::protocol::http::error::BodyError;
use crate::protocol::http::head::Head;
use crate::protocol::http1::encode;
use crate::protocol::http1::head_reader::HeadLimits;
use crate::protocol::http2::Passed;
use crate::protocol::transport::Channel;
use crate::runtime::Runtime;

/// Chunks moved before other tasks get their turn.
const CHUNKS_PER_POLL: usize = 16;
/// A body of which more than this is to come is read in large chunks.
const BULK_BYTES_MIN: u64 = 16 * 1024;
/// Pieces spliced before other tasks get their turn.
const PIECES_PER_POLL: usize = 4;
/// Bytes gathered before they are handed to the kernel, when more is at hand.
const FLUSH_BYTES: usize = 64 * 1024;

/// A body on its way.
#[derive(Debug)]
pub(super) struct BodyCopy {
    decoder: BodyDecoder,
    framing: Framing,
    paused: bool,
    done: bool,
    /// Part of it was lost, so that where it ends is not known any more.
    broken: bool,
    bulk: bool,
    /// Body bytes received so far.
    pub(super) received_bytes: u64,
    /// Body bytes handed on so far: other than those received only where filters change the body.
    pub(super) bytes: u64,
    /// Bytes moved so far, framing as received included.
    pub(super) wire_bytes: u64,
    /// Bytes queued towards the receiver so far, framing as sent included.
    pub(super) sent_bytes: u64,
    /// Times reading paused for the receiver.
    pub(super) pauses: u64,
    /// Times it went on after that.
    pub(super) resumes: u64,
}

/// How the receiver is told where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By its length, or by the connection's end.
    Plain,
    /// In chunks; trailers, with their names' spelling, pass or are dropped.
    Chunked { trailers: Option<HeaderKeyFormat> },
    /// By the end of a stream; trailers pass or are dropped.
    Stream { trailers: bool },
    /// On a stream, by nothing: a tunnel goes on behind it.
    Tunnel,
}

/// Why a body did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyError {
    /// The sender's connection broke, or ended within the body.
    SourceGone,
    /// The sender's framing is wrong.
    Body(BodyError),
    /// The receiver's connection broke.
    SinkGone,
    /// No memory in the pool for framing.
    Exhausted,
    /// A filter answers instead.
    Filter(FilterReply),
    /// The head that waited for the body cannot be sent.
    Overflow,
}

/// What filters do to a body on its way. A framing, when there is one, is that of what follows.
pub(super) trait BodyFilters {
    /// Some of it; what is in `data` afterwards goes on. `ends`: nothing follows.
    fn data(&mut self, data: &mut ChunkQueue, ends: bool) -> Result<Option<Framing>, CopyError>;
    /// Its end, with trailers if there are any; what is in `data` afterwards goes before it.
    fn trailers(&mut self, trailers: &mut Head, data: &mut ChunkQueue) -> Result<Option<Framing>, CopyError>;
}

/// The filters of a body that has some.
pub(super) type Filters<'a> = Option<&'a mut dyn BodyFilters>;

/// What stands in a body's way.
pub(super) enum Way<'a> {
    /// Filters look at it.
    Filters(&'a mut dyn BodyFilters),
    /// Nobody does, and it may go by pipe.
    Clear(&'a mut Splicer),
    /// Nobody does, and it goes by chunks.
    Chunks,
}

impl BodyCopy {
    /// A body received framed as `length`.
    pub(super) fn new(length: BodyLength, limits: HeadLimits, framing: Framing) -> Self {
        let bulk = match length {
            BodyLength::None => false,
            BodyLength::Length(bytes) => bytes > BULK_BYTES_MIN,
            // Unknown: decided by what arrives.
            BodyLength::Chunked | BodyLength::UntilClose => false,
        };
        let decoder = BodyDecoder::new(length, limits);
        let done = decoder.is_end();
        Self {
            decoder,
            framing,
            paused: false,
            done,
            broken: false,
            bulk,
            received_bytes: 0,
            bytes: 0,
            wire_bytes: 0,
            sent_bytes: 0,
            pauses: 0,
            resumes: 0,
        }
    }

    /// Begins with a receiver, the first or the one of a retry.
    pub(super) fn set_receiver(&mut self, framing: Framing) {
        // What an earlier receiver had not taken is no reason to wait for this one.
        self.paused = false;
        self.framing = framing;
    }

    /// Whether the whole body was handed on.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// What reads what comes next.
    pub(super) fn decoder(&self) -> BodyDecoder {
        self.decoder
    }

    /// Whether part of it was received and lost.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Moves what can be moved. Ready when the body is complete; what follows it stays unread in `from`.
    pub(super) fn poll(
        &mut self,
        runtime: &Runtime,
        from: &Channel,
        to: &Channel,
        high_watermark: usize,
        trailers: &mut Head,
        way: Way<'_>,
    ) -> Poll<Result<(), CopyError>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        if self.broken {
            return Poll::Ready(Err(CopyError::SourceGone));
        }
        let (mut filters, mut splicer): (Filters<'_>, _) = match way {
            Way::Filters(filters) => (Some(filters), None),
            Way::Clear(splicer) => (None, Some(splicer)),
            Way::Chunks => (None, None),
        };
        let takes_large = high_watermark >= limits::LARGE_READ_ROOM_MIN;
        let may_splice = splice::WATERMARKS.contains(&high_watermark);
        if let Some(splicer) = splicer.as_deref_mut().filter(|splicer| splicer.is_active()) {
            match self.splice(splicer, runtime, from, to, high_watermark) {
                Poll::Ready(Ok(false)) => {}
                outcome => return outcome.map_ok(drop),
            }
        }
        for _ in 0..CHUNKS_PER_POLL {
            if !self.may_read(to, high_watermark)? {
                from.gather();
                return Poll::Pending;
            }
            from.set_bulk(self.bulk && takes_large);
            match self.receive(from, to, filters.is_none()) {
                Poll::Ready(Ok(Some(Passed::Few(bytes)))) => {
                    self.count_untouched(bytes as u64);
                    if to.queued() >= FLUSH_BYTES {
                        to.flush();
                    }
                }
                Poll::Ready(Ok(Some(Passed::Chunk(chunk)))) => {
                    // A full small chunk of a body of unknown length: more is coming.
                    self.bulk |= chunk.len() == chunk.capacity();
                    let outcome = self.take(runtime, chunk, from, to, trailers, &mut filters);
                    if outcome != Ok(false) {
                        self.broken = outcome.is_err();
                        to.flush();
                        return Poll::Ready(outcome.map(drop));
                    }
                    if to.queued() >= FLUSH_BYTES {
                        to.flush();
                    }
                    let Some(splicer) = splicer.as_deref_mut().filter(|_| may_splice) else { continue };
                    if splicer.may_start() && self.is_spliceable(from, to) {
                        splicer.start();
                    }
                    // What lay unread went first.
                    if splicer.is_active() {
                        match self.splice(splicer, runtime, from, to, high_watermark) {
                            Poll::Ready(Ok(false)) => {}
                            outcome => return outcome.map_ok(drop),
                        }
                    }
                }
                Poll::Ready(Ok(None)) => {
                    self.done = true;
                    let ended = match self.decoder.finish() {
                        Ok(()) if from.is_truncated() => Err(CopyError::SourceGone),
                        Ok(()) => take_trailers(from, trailers)
                            .and_then(|()| self.end(runtime, to, trailers, &mut filters)),
                        Err(_) => Err(CopyError::SourceGone),
                    };
                    self.broken = ended.is_err();
                    to.flush();
                    return Poll::Ready(ended);
                }
                Poll::Ready(Err(_)) => {
                    to.flush();
                    return Poll::Ready(Err(CopyError::SourceGone));
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

    /// What comes next. Between streams few bytes of a body that the stream's end delimits are handed on at once, if nobody
    /// looks at them.
    fn receive(&self, from: &Channel, to: &Channel, untouched: bool) -> Poll<io::Result<Option<Passed>>> {
        match (from, to) {
            (Channel::Stream(from), Channel::Stream(to))
                if untouched && matches!(self.decoder, BodyDecoder::UntilClose) =>
            {
                from.poll_pass(to)
            }
            _ => from.poll_recv().map_ok(|chunk| chunk.map(Passed::Chunk)),
        }
    }

    /// So many bytes of the body went on as they came.
    fn count_untouched(&mut self, bytes: u64) {
        self.received_bytes += bytes;
        self.bytes += bytes;
        self.wire_bytes += bytes;
        self.sent_bytes += bytes;
        self.decoder.skip(bytes);
    }

    /// Whether what is to come is much and passes untouched.
    fn is_spliceable(&self, from: &Channel, to: &Channel) -> bool {
        self.framing == Framing::Plain
            && self.decoder.left().is_some_and(|left| left >= splice::BYTES_MIN)
            && splice::sockets(from, to).is_some()
    }

    /// Moves the body by pipe. Ready with false: it goes on by chunks.
    fn splice(
        &mut self,
        splicer: &mut Splicer,
        runtime: &Runtime,
        from: &Channel,
        to: &Channel,
        high_watermark: usize,
    ) -> Poll<Result<bool, CopyError>> {
        let Some(sockets) = splice::sockets(from, to) else {
            return Poll::Ready(Ok(false));
        };
        for _ in 0..PIECES_PER_POLL {
            let left = usize::try_from(self.decoder.left().unwrap_or(0)).unwrap_or(usize::MAX);
            let step = splicer.poll(runtime, sockets, left.min(high_watermark));
            if self.paused != splicer.is_stalled() {
                self.paused = !self.paused;
                *(if self.paused { &mut self.pauses } else { &mut self.resumes }) += 1;
            }
            match step {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Step::Moved(count))) => self.count_untouched(count as u64),
                Poll::Ready(Ok(Step::Enough)) => {
                    self.done = true;
                    from.set_bulk(false);
                    return Poll::Ready(Ok(true));
                }
                Poll::Ready(Ok(Step::Chunks)) => return Poll::Ready(Ok(false)),
                Poll::Ready(Ok(Step::End) | Err(Broken::Source)) => {
                    self.broken = true;
                    return Poll::Ready(Err(CopyError::SourceGone));
                }
                Poll::Ready(Err(Broken::Sink)) => {
                    self.broken = true;
                    return Poll::Ready(Err(CopyError::SinkGone));
                }
            }
        }
        runtime.wake(runtime.current_task());
        Poll::Pending
    }

    /// Takes what has arrived and drops it, up to a large chunk: a small body that nobody wants does not cost the
    /// connection. A broken one does: what follows it would be read as the next request.
    pub(super) fn discard(&mut self, from: &Channel, trailers: &mut Head) -> Result<(), CopyError> {
        let outcome =
            if self.broken { Err(CopyError::SourceGone) } else { self.discard_some(from, trailers) };
        self.broken = outcome.is_err();
        if self.done {
            // What comes next is a head.
            from.set_bulk(false);
        }
        outcome
    }

    fn discard_some(&mut self, from: &Channel, trailers: &mut Head) -> Result<(), CopyError> {
        let mut left = limits::LARGE_CHUNK_BYTES;
        while !self.done && left > 0 {
            let Poll::Ready(received) = from.poll_recv() else { return Ok(()) };
            let Ok(Some(mut chunk)) = received else {
                // A stream's end is the end of its body.
                self.done = matches!(received, Ok(None)) && self.decoder.finish().is_ok();
                return if self.done { Ok(()) } else { Err(CopyError::SourceGone) };
            };
            left = left.saturating_sub(chunk.len());
            while !self.done && !chunk.is_empty() {
                let decoded = self.decoder.decode(&chunk, trailers).map_err(CopyError::Body)?;
                self.received_bytes += decoded.data.len() as u64;
                self.wire_bytes += decoded.consumed as u64;
                chunk.advance(decoded.consumed);
                self.done = decoded.end;
            }
            from.unread(chunk);
        }
        Ok(())
    }

    /// Whether the receiver has room. When not, the task is woken later.
    fn may_read(&mut self, to: &Channel, high_watermark: usize) -> Result<bool, CopyError> {
        let noted = (&mut self.paused, &mut self.pauses, &mut self.resumes);
        wire::has_room(to, high_watermark, noted).map_err(|_| CopyError::SinkGone)
    }

    /// Hands the chunk's data on; true when the body ended in it. The rest goes back to the sender's connection.
    fn take(
        &mut self,
        runtime: &Runtime,
        mut chunk: Chunk,
        from: &Channel,
        to: &Channel,
        trailers: &mut Head,
        filters: &mut Filters<'_>,
    ) -> Result<bool, CopyError> {
        loop {
            let decoded = self.decoder.decode(&chunk, trailers).map_err(CopyError::Body)?;
            if !decoded.data.is_empty() {
                let mut data = chunk.clone();
                data.truncate(decoded.data.end);
                data.advance(decoded.data.start);
                self.received_bytes += data.len() as u64;
                match filters {
                    None => self.send(data, to)?,
                    Some(filters) => self.send_filtered(data, to, *filters)?,
                }
            }
            self.wire_bytes += decoded.consumed as u64;
            chunk.advance(decoded.consumed);
            if decoded.end {
                self.done = true;
                from.set_bulk(false);
                from.unread(chunk);
                self.end(runtime, to, trailers, filters)?;
                return Ok(true);
            }
            if chunk.is_empty() {
                return Ok(false);
            }
        }
    }

    #[cold]
    fn send_filtered(
        &mut self,
        data: Chunk,
        to: &Channel,
        filters: &mut dyn BodyFilters,
    ) -> Result<(), CopyError> {
        let mut queue = ChunkQueue::default();
        queue.push(data);
        let framing = filters.data(&mut queue, false)?;
        self.send_all(queue, framing, to)
    }

    fn send_all(
        &mut self,
        mut queue: ChunkQueue,
        framing: Option<Framing>,
        to: &Channel,
    ) -> Result<(), CopyError> {
        self.framing = framing.unwrap_or(self.framing);
        while let Some(chunk) = queue.pop() {
            self.send(chunk, to)?;
        }
        Ok(())
    }

    fn send(&mut self, data: Chunk, to: &Channel) -> Result<(), CopyError> {
        self.bytes += data.len() as u64;
        self.sent_bytes += data.len() as u64;
        let Framing::Chunked { .. } = self.framing else {
            to.send(data);
            return Ok(());
        };
        let mut line = [0; encode::CHUNK_START_BYTES_MAX];
        let start = encode::chunk_start(data.len(), &mut line);
        self.sent_bytes += (start.len() + encode::CHUNK_END.len()) as u64;
        if !to.send_copy(start) {
            return Err(CopyError::Exhausted);
        }
        to.send(data);
        if to.send_copy(encode::CHUNK_END) { Ok(()) } else { Err(CopyError::Exhausted) }
    }

    fn end(
        &mut self,
        runtime: &Runtime,
        to: &Channel,
        trailers: &mut Head,
        filters: &mut Filters<'_>,
    ) -> Result<(), CopyError> {
        if let Some(filters) = filters {
            let mut queue = ChunkQueue::default();
            let framing = filters.trailers(trailers, &mut queue)?;
            self.send_all(queue, framing, to)?;
        }
        let to = match to {
            Channel::Connection(to) => to,
            Channel::Stream(_) if self.framing == Framing::Tunnel => return Ok(()),
            Channel::Stream(to) => {
                to.finish(Some(&*trailers).filter(|_| self.framing == Framing::Stream { trailers: true }));
                return Ok(());
            }
        };
        match self.framing {
            Framing::Plain | Framing::Stream { .. } | Framing::Tunnel => Ok(()),
            Framing::Chunked { trailers: Some(names) } if !trailers.is_empty() => {
                self.sent_bytes += super::wire::send_trailers(runtime, to, trailers, names)? as u64;
                Ok(())
            }
            Framing::Chunked { .. } if to.send_copy(encode::LAST_CHUNK) => {
                self.sent_bytes += encode::LAST_CHUNK.len() as u64;
                Ok(())
            }
            Framing::Chunked { .. } => Err(CopyError::Exhausted),
        }
    }
}

/// Those that came with a stream's end; HTTP/1 has them within its bytes.
fn take_trailers(from: &Channel, trailers: &mut Head) -> Result<(), CopyError> {
    match from {
        Channel::Connection(_) => Ok(()),
        Channel::Stream(from) => {
            from.take_trailers(trailers).map_err(|error| CopyError::Body(BodyError::Trailers(error)))
        }
    }
}
