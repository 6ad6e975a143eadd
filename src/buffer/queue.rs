//! Chunks in order: what waits to be sent, or to be read by its owner.
//!
//! Nearly always that is one chunk: it lies in the queue itself. Only further ones need a list, which comes with the first of
//! them and stays: so a connection that never has two at a time, which is what an idle one has seen, keeps no list at all.
//!
//! Invariant: without a first chunk there are no further ones.

use std::collections::VecDeque;

use super::chunk::Chunk;

/// Fragments up to this size are copied behind the last chunk when it has room: one buffer less to hand to the kernel
/// costs more than the copy, and a slow trickle of tiny reads cannot hold a chunk for each.
const COALESCE_BYTES_MAX: usize = 1024;

/// A queue of chunk views with its size in bytes and in pool memory held.
#[derive(Debug, Default)]
pub struct ChunkQueue {
    first: Option<Chunk>,
    /// Behind the first. Boxed: every socket has two queues, and few of those ever need this.
    #[allow(clippy::box_collection, reason = "a pointer is a quarter of a list")]
    further: Option<Box<VecDeque<Chunk>>>,
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
            && let Some(last) = self.last_mut()
            && last.try_extend(&chunk)
        {
            return;
        }
        self.capacity += chunk.capacity();
        match &self.first {
            None => self.first = Some(chunk),
            Some(_) => self.further.get_or_insert_default().push_back(chunk),
        }
    }

    /// Appends copied bytes behind the last chunk, if that has room and no other reader; says whether it did.
    pub fn try_extend(&mut self, bytes: &[u8]) -> bool {
        let extended = self.last_mut().is_some_and(|last| last.try_extend(bytes));
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
            if let Some(second) = self.first.replace(chunk) {
                self.further.get_or_insert_default().push_front(second);
            }
        }
    }

    /// Takes the first chunk.
    pub fn pop(&mut self) -> Option<Chunk> {
        let chunk = self.first.take()?;
        self.bytes -= chunk.len();
        self.capacity -= chunk.capacity();
        self.advance();
        Some(chunk)
    }

    /// The first chunk.
    pub fn first(&self) -> Option<&Chunk> {
        self.first.as_ref()
    }

    /// Removes the first `count` bytes.
    pub fn consume(&mut self, mut count: usize) {
        debug_assert!(count <= self.bytes);
        while count > 0 {
            let Some(first) = &mut self.first else { return };
            let len = first.len();
            if count < len {
                first.advance(count);
                self.bytes -= count;
                return;
            }
            self.bytes -= len;
            self.capacity -= first.capacity();
            self.first = None;
            self.advance();
            count -= len;
        }
    }

    /// Drops everything; keeps the room for later use.
    pub fn clear(&mut self) {
        self.first = None;
        if let Some(further) = &mut self.further {
            further.clear();
        }
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
        self.further.as_deref().map_or(0, |list| size_of_val(list) + list.capacity() * size_of::<Chunk>())
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.further.as_deref().map_or(0, VecDeque::len)
    }

    /// The chunks, first to last.
    pub fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.first.iter().chain(self.further.as_deref().into_iter().flatten())
    }

    fn last_mut(&mut self) -> Option<&mut Chunk> {
        let last = self.further.as_deref_mut().and_then(VecDeque::back_mut);
        last.or(self.first.as_mut())
    }

    /// The first chunk has been taken: the next one takes its place.
    fn advance(&mut self) {
        if let Some(further) = &mut self.further {
            self.first = further.pop_front();
        }
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

    #[test]
    fn single_chunks_need_no_list_and_random_operations_match_one() {
        let pool = Pool::with_capacity(64, 1).unwrap();
        let mut queue = ChunkQueue::default();
        for byte in 0..100 {
            queue.push(chunk(&pool, &[byte; 2000]));
            assert_eq!(queue.pop().as_deref(), Some(&[byte; 2000][..]));
        }
        assert_eq!(queue.list_bytes(), 0);
        let mut rng = crate::base::rng::Rng::from_seed(0x9e);
        let mut model = VecDeque::<u8>::new();
        for round in 0..if cfg!(miri) { 300 } else { 20_000 } {
            let bytes = [round as u8; 1500];
            match rng.below(6) {
                0 | 1 if queue.len() < 30 => {
                    queue.push(chunk(&pool, &bytes));
                    model.extend(bytes);
                }
                2 if queue.len() < 30 => {
                    queue.push_front(chunk(&pool, &bytes));
                    bytes.iter().for_each(|&byte| model.push_front(byte));
                }
                3 => {
                    let popped = queue.pop();
                    let len = popped.as_ref().map_or(0, |chunk| chunk.len());
                    let expected: Vec<_> = model.drain(..len).collect();
                    assert_eq!(popped.as_deref().unwrap_or_default(), expected);
                    assert_eq!(popped.is_none(), model.is_empty() && len == 0);
                }
                4 => {
                    let count = rng.below(4000).min(model.len() as u64) as usize;
                    queue.consume(count);
                    model.drain(..count);
                }
                5 if rng.below(20) == 0 => {
                    queue.clear();
                    model.clear();
                }
                _ => {
                    let extended = queue.try_extend(&bytes[..10]);
                    model.extend(bytes[..if extended { 10 } else { 0 }].iter());
                }
            }
            let held: usize = queue.iter().map(Chunk::capacity).sum();
            assert_eq!((queue.bytes(), queue.capacity()), (model.len(), held));
            assert_eq!((queue.is_empty(), queue.len()), (queue.bytes() == 0, queue.iter().count()));
            if round % 16 == 0 {
                assert!(queue.iter().flat_map(|chunk| chunk.iter()).eq(&model));
            }
            assert_eq!(queue.first().map(|chunk| chunk[0]), model.front().copied());
        }
        drop(queue);
        assert_eq!(pool.chunks_in_use(), 0);
    }
}
