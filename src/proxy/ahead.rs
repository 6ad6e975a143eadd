//! The body of a request that waits for a connection: whether it has arrived whole, with which the route's timeout begins.
//! Source: Envoy's router, which takes a body in while it waits.
//!
//! Nobody takes it yet: what is looked at here lies unread again afterwards.

use std::task::Poll;

use crate::buffer::{Chunk, ChunkQueue, Pool};
use crate::protocol::http::body::BodyDecoder;
use crate::protocol::http::head::Head;
use crate::protocol::http2::Stream;
use crate::protocol::transport::Channel;

/// Most memory of a connection's chunks that one waiting request may hold, in bytes, however much the listener lets it. Of a larger
/// body the end is seen when somebody takes it.
const HELD_BYTES_MAX: usize = 1024 * 1024;

/// See the file's head. What it has taken goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Ahead<'a> {
    from: &'a Channel,
    /// Of a connection.
    chunks: ChunkQueue,
    decoder: BodyDecoder,
    trailers: Head,
    /// Nothing more is looked at: it is whole, wrong or cut off. Of the latter whoever takes it draws the conclusion.
    is_over: bool,
}

/// What was seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing new.
    Nothing,
    /// More of it.
    More,
    /// All of it.
    Whole,
}

impl<'a> Ahead<'a> {
    /// Of a body that `decoder` would read next.
    pub(super) fn new(from: &'a Channel, decoder: BodyDecoder) -> Self {
        Self { from, chunks: ChunkQueue::default(), decoder, trailers: Head::default(), is_over: false }
    }

    /// Looks at what has arrived, as long as it holds no more than `limit` bytes, and nothing of `pool` that others will need soon:
    /// as many requests may wait as circuit breakers let. With less than all the task is woken for more.
    pub(super) fn poll(&mut self, limit: usize, pool: &Pool) -> Seen {
        match self.from {
            Channel::Connection(_) => self.poll_connection(limit.min(HELD_BYTES_MAX), pool),
            Channel::Stream(stream) => self.poll_stream(stream, limit),
        }
    }

    /// The bytes stay with the stream, within the window that the client has of it: they cost what they cost unread.
    fn poll_stream(&mut self, stream: &Stream, limit: usize) -> Seen {
        let mut seen = Seen::Nothing;
        while !self.is_over {
            match stream.poll_ahead(limit) {
                Poll::Ready(Some(_)) => seen = Seen::More,
                Poll::Ready(None) => {
                    self.is_over = true;
                    seen = Seen::Whole;
                }
                Poll::Pending => break,
            }
        }
        seen
    }

    fn poll_connection(&mut self, limit: usize, pool: &Pool) -> Seen {
        let mut seen = Seen::Nothing;
        while !self.is_over && (self.chunks.is_empty() || self.chunks.capacity() < limit && !pool.is_scarce())
        {
            match self.from.poll_recv() {
                Poll::Ready(Ok(Some(chunk))) => {
                    seen = self.decode(&chunk);
                    self.chunks.push(chunk);
                }
                Poll::Ready(Ok(None)) => {
                    self.is_over = true;
                    if self.decoder.finish().is_ok() && !self.from.is_truncated() {
                        seen = Seen::Whole;
                    }
                }
                Poll::Ready(Err(_)) => self.is_over = true,
                Poll::Pending => break,
            }
        }
        seen
    }

    /// What these bytes are to the body.
    fn decode(&mut self, mut bytes: &[u8]) -> Seen {
        while !bytes.is_empty() {
            match self.decoder.decode(bytes, &mut self.trailers) {
                Ok(decoded) if decoded.end => {
                    self.is_over = true;
                    return Seen::Whole;
                }
                Ok(decoded) => bytes = &bytes[decoded.consumed..],
                Err(_) => {
                    self.is_over = true;
                    break;
                }
            }
        }
        Seen::More
    }
}

impl Drop for Ahead<'_> {
    fn drop(&mut self) {
        let chunks: Vec<Chunk> = std::iter::from_fn(|| self.chunks.pop()).collect();
        for chunk in chunks.into_iter().rev() {
            self.from.unread(chunk);
        }
    }
}
