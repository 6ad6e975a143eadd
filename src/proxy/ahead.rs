//! The body of a request that waits for a connection: whether it has arrived whole, with which the route's timeout begins.
//! Source: Envoy's router, which takes a body in while it waits.
//!
//! Nobody takes it yet: what is looked at here lies unread again afterwards.

use std::task::Poll;

use crate::buffer::Chunk;
use crate::protocol::http::body::BodyDecoder;
use crate::protocol::http::head::Head;
use crate::protocol::transport::Channel;

/// See the file's head. What it has taken goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Ahead<'a> {
    from: &'a Channel,
    chunks: Vec<Chunk>,
    /// Memory of the chunks, in bytes.
    held: usize,
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
        Self { from, chunks: Vec::new(), held: 0, decoder, trailers: Head::default(), is_over: false }
    }

    /// Looks at what has arrived, as long as it holds no more than `limit` bytes. With less than all the task is woken for
    /// more.
    pub(super) fn poll(&mut self, limit: usize) -> Seen {
        let before = self.chunks.len();
        while !self.is_over && (self.held < limit || self.chunks.is_empty()) {
            match self.from.poll_recv() {
                Poll::Ready(Ok(Some(chunk))) => {
                    self.is_over = self.decode(&chunk);
                    self.held += chunk.capacity();
                    self.chunks.push(chunk);
                }
                Poll::Ready(Ok(None)) => {
                    self.is_over = true;
                    if self.decoder.finish().is_ok() && !self.from.is_truncated() {
                        return Seen::Whole;
                    }
                }
                Poll::Ready(Err(_)) => self.is_over = true,
                Poll::Pending => break,
            }
        }
        match self.chunks.len() {
            _ if self.is_over && self.decoder.is_end() => Seen::Whole,
            now if now > before => Seen::More,
            _ => Seen::Nothing,
        }
    }

    /// Whether nothing after these bytes is of interest.
    fn decode(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.decoder.decode(bytes, &mut self.trailers) {
                Ok(decoded) if decoded.end => {
                    self.decoder = BodyDecoder::None;
                    return true;
                }
                Ok(decoded) => bytes = &bytes[decoded.consumed..],
                Err(_) => return true,
            }
        }
        false
    }
}

impl Drop for Ahead<'_> {
    fn drop(&mut self) {
        while let Some(chunk) = self.chunks.pop() {
            self.from.unread(chunk);
        }
    }
}
