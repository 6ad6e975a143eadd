//! What a stream receives: its body's bytes and its trailers.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::super::head;
use super::waiting::SHARED_BYTES_MIN;
use super::{State, Stream, StreamError};
use crate::base::limits;
use crate::buffer::{Chunk, ChunkSize};
use crate::protocol::http::error::HeadError;
use crate::protocol::http::head::Head;
use crate::runtime::Runtime;

/// What has come for another stream.
#[derive(Debug)]
pub enum Passed {
    /// To be handed on.
    Chunk(Chunk),
    /// So many bytes, which have been handed on.
    Few(usize),
}

impl Stream {
    /// Received bytes in order, `None` at the end. Pending wakes the current task later.
    ///
    /// # Errors
    /// The stream broke.
    pub fn poll_recv(&self) -> Poll<io::Result<Option<Chunk>>> {
        self.with(|state, context| {
            if let Some(chunk) = state.unread.pop() {
                return Poll::Ready(Ok(Some(chunk)));
            }
            match state.poll_rest(context) {
                Poll::Ready(Ok(true)) => state.chunk_of_rest(context, &self.runtime, self.sparing.get()),
                Poll::Ready(Ok(false)) => Poll::Ready(Ok(None)),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
                Poll::Pending => Poll::Pending,
            }
        })
    }

    /// [`Stream::poll_recv`] for another stream, to which few bytes are handed on at once: they are copied there in any case, and
    /// need no chunk on their way.
    ///
    /// # Errors
    /// As there.
    pub fn poll_pass(&self, to: &Self) -> Poll<io::Result<Option<Passed>>> {
        self.with(|state, context| {
            if let Some(chunk) = state.unread.pop() {
                return Poll::Ready(Ok(Some(Passed::Chunk(chunk))));
            }
            match state.poll_rest(context) {
                Poll::Ready(Ok(true)) if state.rest.len() < SHARED_BYTES_MIN => {
                    let few = std::mem::take(&mut state.rest);
                    to.send_copy(&few);
                    state.release(few.len());
                    Poll::Ready(Ok(Some(Passed::Few(few.len()))))
                }
                Poll::Ready(Ok(true)) => {
                    let received = state.chunk_of_rest(context, &self.runtime, self.sparing.get());
                    received.map_ok(|chunk| chunk.map(Passed::Chunk))
                }
                Poll::Ready(Ok(false)) => Poll::Ready(Ok(None)),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
                Poll::Pending => Poll::Pending,
            }
        })
    }

    /// Looks at what has come before anybody takes it: so many bytes more, or `None` once all of it has come. It lies here until
    /// it is read, and until then the peer may not send as much again. Pending wakes the current task later, unless
    /// the stream broke, which [`Stream::poll_recv`] says. Once `limit` bytes lie here, of what comes nothing more is said.
    pub fn poll_ahead(&self, limit: usize) -> Poll<Option<usize>> {
        self.with(|state, context| {
            if state.ahead.len() >= limit {
                state.gather(context);
                return Poll::Pending;
            }
            match state.receive(context) {
                Poll::Ready(Ok(Some(bytes))) => {
                    let came = bytes.len();
                    state.ahead.push(bytes);
                    Poll::Ready(Some(came))
                }
                Poll::Ready(Ok(None)) => Poll::Ready(None),
                Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
            }
        })
    }

    /// Takes over from the codec what has come, for whoever reads nothing for now: the codec ends a connection of which it keeps
    /// many short frames. It lies here until it is read, and until then the peer may not send as much again. The current task is
    /// woken for more.
    pub fn gather(&self) {
        self.with(State::gather);
    }

    /// Whether reads take little at a time: what is left counts against the peer's window.
    pub fn set_sparing(&self, sparing: bool) {
        self.sparing.set(sparing);
    }

    /// Gives bytes back: the next read returns them first.
    pub fn unread(&self, chunk: Chunk) {
        self.state.borrow_mut().unread.push_front(chunk);
    }

    /// Whether received bytes wait unread.
    pub fn has_unread(&self) -> bool {
        let state = self.state.borrow();
        !state.unread.is_empty() || !state.rest.is_empty() || !state.ahead.is_empty()
    }

    /// Puts the trailers that came with the end into `trailers`; leaves it alone when there were none.
    ///
    /// # Errors
    /// They are refused.
    pub fn take_trailers(&self, trailers: &mut Head) -> Result<(), HeadError> {
        match self.state.borrow_mut().received_trailers.take() {
            Some(map) => {
                head::check_lengths(&map, &self.limits.get(), self.field_bytes_max)?;
                head::take_trailers(&map, &self.limits.get(), trailers)
            }
            None => Ok(()),
        }
    }
}

impl State {
    /// Whether there are bytes that nobody has taken yet: then they are the rest. If not, all of the body has been taken.
    fn poll_rest(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, StreamError>> {
        while self.rest.is_empty() {
            if let Some(piece) = self.ahead.pop() {
                self.rest = piece;
                continue;
            }
            match self.receive(context) {
                Poll::Ready(Ok(Some(bytes))) => self.rest = bytes,
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(false)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(true))
    }

    /// What has come next of the body; `None`: all of it has, and its trailers.
    fn receive(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        if self.receiver.is_none() {
            return self.broken.map_or(Poll::Pending, |broken| Poll::Ready(Err(broken)));
        }
        self.take_next(context).map_err(|error| {
            self.fail(&error);
            StreamError::of(&error)
        })
    }

    /// The same, of which nobody takes note that the stream broke: what has come before is still to be read.
    fn take_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, h2::Error>> {
        // It is, whatever comes of the stream after its end.
        if self.whole {
            return Poll::Ready(Ok(None));
        }
        let Some(receiver) = &mut self.receiver else { return Poll::Pending };
        match receiver.poll_data(context) {
            Poll::Ready(Some(data)) => Poll::Ready(data.map(Some)),
            Poll::Ready(None) => receiver.poll_trailers(context).map_ok(|trailers| {
                (self.received_trailers, self.whole) = (trailers, true);
                None
            }),
            Poll::Pending => Poll::Pending,
        }
    }

    fn gather(&mut self, context: &mut Context<'_>) {
        while let Poll::Ready(Ok(Some(bytes))) = self.take_next(context) {
            self.ahead.push(bytes);
        }
    }

    /// As much of the rest as a chunk holds is taken now: so the peer may send as much more.
    fn chunk_of_rest(
        &mut self,
        context: &mut Context<'_>,
        runtime: &Runtime,
        sparing: bool,
    ) -> Poll<io::Result<Option<Chunk>>> {
        let Some(mut chunk) = runtime.pool().alloc(chunk_size(self.rest.len(), sparing)) else {
            runtime.wait_for_memory();
            // It reads nothing meanwhile.
            self.gather(context);
            return Poll::Pending;
        };
        let written = chunk.write(&self.rest);
        let _ = self.rest.split_to(written);
        self.release(written);
        Poll::Ready(Ok(Some(chunk.freeze())))
    }

    /// So many bytes were taken: the peer may send as much more.
    fn release(&mut self, bytes: usize) {
        let released = self.receiver.as_mut().map(|it| it.flow_control().release_capacity(bytes));
        if let Some(Err(error)) = released {
            self.fail(&error);
        }
    }
}

/// The chunk for so many bytes: the usual frame has 16 KiB, for which a large one would be four times too much.
fn chunk_size(bytes: usize, sparing: bool) -> ChunkSize {
    if sparing || bytes <= limits::SMALL_CHUNK_BYTES {
        ChunkSize::Small
    } else if bytes <= limits::RECORD_CHUNK_BYTES {
        ChunkSize::Record
    } else {
        ChunkSize::Large
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_is_as_large_as_what_came_or_small_where_little_is_taken() {
        for (bytes, size) in [
            (1, ChunkSize::Small),
            (4096, ChunkSize::Small),
            (4097, ChunkSize::Record),
            (16_384, ChunkSize::Record),
            (20_481, ChunkSize::Large),
        ] {
            assert_eq!(chunk_size(bytes, false), size, "{bytes}");
            assert_eq!(chunk_size(bytes, true), ChunkSize::Small, "{bytes}");
        }
    }
}
