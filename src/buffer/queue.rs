//! Chunks in order: what waits to be sent, or to be read by its owner.

use std::collections::VecDeque;

use super::chunk::Chunk;

/// Fragments up to this size are copied behind the last chunk when it has room: one buffer less to hand to the kernel
/// costs more than the copy, and a slow trickle of tiny reads cannot hold a chunk for each.
const COALESCE_BYTES_MAX: usize = 1024;

/// A queue of chunk views with its size in bytes and in pool memory held.
#[derive(Debug, Default)]
pub struct ChunkQueue {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    capacity: usize,
}

impl ChunkQueue {
    /// Appends; an empty view is dropped, a small one may be copied into the last chunk.
    pub fn push(&mut self, chunk: Chunk) {
        if chunk.is_empty() {
            return;
        }
        self.bytes += chunk.len();
        if chunk.len() <= COALESCE_BYTES_MAX
            && let Some(last) = self.chunks.back_mut()
            && last.try_extend(&chunk)
        {
            return;
        }
        self.capacity += chunk.capacity();
        self.chunks.push_back(chunk);
    }

    /// Appends copied bytes behind the last chunk, if that has room and no other reader; says whether it did.
    pub fn try_extend(&mut self, bytes: &[u8]) -> bool {
        let extended = self.chunks.back_mut().is_some_and(|last| last.try_extend(bytes));
        if extended {
            self.bytes += bytes.len();
        }
        extended
    }

    /// Puts bytes back before all others.
    pub fn push_front(&mut self, chunk: Chunk) {
        if !chunk.is_empty() {
            self.bytes += chunk.len();
            self.capacity += chunk.capacity();
            self.chunks.push_front(chunk);
        }
    }

    /// Takes the first chunk.
    pub fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.pop_front()?;
        self.bytes -= chunk.len();
        self.capacity -= chunk.capacity();
        Some(chunk)
    }

    /// The first chunk.
    pub fn first(&self) -> Option<&Chunk> {
        self.chunks.front()
    }

    /// Removes the first `count` bytes.
    pub fn consume(&mut self, mut count: usize) {
        debug_assert!(count <= self.bytes);
        while count > 0 {
            let Some(first) = self.chunks.front_mut() else { return };
            let len = first.len();
            if count < len {
                first.advance(count);
                self.bytes -= count;
                return;
            }
            self.bytes -= len;
            self.capacity -= first.capacity();
            self.chunks.pop_front();
            count -= len;
        }
    }

    /// Drops everything; keeps the room for later use.
    pub fn clear(&mut self) {
        self.chunks.clear();
        self.bytes = 0;
        self.capacity = 0;
    }

    /// Bytes to be read.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Pool memory held, in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of the list itself.
    pub fn list_bytes(&self) -> usize {
        self.chunks.capacity() * size_of::<Chunk>()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// The chunks, first to last.
    pub fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.chunks.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{ChunkSize, Pool};

    fn chunk(pool: &Pool, bytes: &[u8]) -> Chunk {
        let mut chunk = pool.alloc(ChunkSize::Small).unwrap();
        chunk.write(bytes);
        chunk.freeze()
    }

    #[test]
    fn small_fragments_share_a_chunk() {
        let pool = Pool::with_capacity(8, 1).unwrap();
        let mut queue = ChunkQueue::default();
        for _ in 0..100 {
            queue.push(chunk(&pool, b"0123456789"));
        }
        assert_eq!((queue.bytes(), queue.len(), pool.chunks_in_use()), (1000, 1, 1));
    }

    #[test]
    fn consume_crosses_chunks_and_keeps_the_counts() {
        let pool = Pool::with_capacity(8, 1).unwrap();
        let mut queue = ChunkQueue::default();
        queue.push(chunk(&pool, &[1; 4096]));
        queue.push(chunk(&pool, &[2; 4096]));
        queue.consume(5000);
        assert_eq!((queue.bytes(), queue.capacity(), queue.len()), (3192, 4096, 1));
        queue.consume(3192);
        assert!(queue.is_empty() && queue.capacity() == 0 && pool.chunks_in_use() == 0);
    }
}
