//! Bytes that were read to be looked at: the one chunk in which they usually come, or a copy of all of them, since a chunk
//! for each of a slow client's bytes would be memory without bound.

use crate::base::limits;
use crate::buffer::Chunk;
use crate::runtime::{Runtime, TcpStream};

/// See the file's head.
#[derive(Debug, Default)]
pub(super) enum Held {
    #[default]
    Nothing,
    /// As they came.
    One(Chunk),
    /// Those from the number on.
    Copied(Vec<u8>, usize),
}

impl Held {
    /// All of them.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Nothing => &[],
            Self::One(chunk) => chunk,
            Self::Copied(bytes, from) => bytes.get(*from..).unwrap_or_default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Takes what came behind them.
    pub(super) fn add(&mut self, chunk: Chunk) {
        if let Self::Copied(bytes, _) = self {
            return bytes.extend_from_slice(&chunk);
        }
        if self.is_empty() {
            *self = Self::One(chunk);
        } else {
            *self = Self::Copied([self.bytes(), &chunk].concat(), 0);
        }
    }

    /// Drops the first of them.
    pub(super) fn consume(&mut self, count: usize) {
        match self {
            Self::Nothing => {}
            Self::One(chunk) => chunk.advance(count),
            Self::Copied(bytes, from) => *from = (*from + count).min(bytes.len()),
        }
    }

    /// Gives them back to the socket; false when there is no memory for them.
    pub(super) fn give_back(self, runtime: &Runtime, stream: &TcpStream) -> bool {
        if self.is_empty() {
            return true;
        }
        if let Self::One(chunk) = self {
            stream.unread(chunk);
            return true;
        }
        let mut pieces = Vec::new();
        let mut rest = self.bytes();
        while !rest.is_empty() {
            let wanted = rest.len().min(limits::LARGE_CHUNK_BYTES);
            let Some(mut chunk) = runtime.pool().alloc_for(wanted) else { return false };
            let written = chunk.write(rest);
            rest = rest.get(written..).unwrap_or_default();
            pieces.push(chunk.freeze());
        }
        // The last one first: each goes in front of what is there.
        pieces.into_iter().rev().for_each(|piece| stream.unread(piece));
        true
    }
}
