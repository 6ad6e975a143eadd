//! [`Writer`]: bytes that a filter makes, into chunks of a body.

use crate::buffer::{ChunkMut, ChunkQueue, ChunkSize, Pool};

/// No chunk is left in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exhausted;

/// Fills chunks and queues them. What was written is in the queue after [`Writer::finish`].
#[derive(Debug)]
pub(super) struct Writer<'a> {
    pool: &'a Pool,
    queue: &'a mut ChunkQueue,
    filling: Option<ChunkMut>,
    size: ChunkSize,
}

impl<'a> Writer<'a> {
    /// A writer that expects about so many bytes.
    pub(super) fn new(pool: &'a Pool, queue: &'a mut ChunkQueue, bytes: usize) -> Self {
        let size =
            if bytes > crate::base::limits::SMALL_CHUNK_BYTES { ChunkSize::Large } else { ChunkSize::Small };
        Self { pool, queue, filling: None, size }
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Exhausted> {
        while !bytes.is_empty() {
            let chunk = match &mut self.filling {
                Some(chunk) => chunk,
                none => none.insert(self.pool.alloc(self.size).ok_or(Exhausted)?),
            };
            let written = chunk.write(bytes);
            bytes = bytes.get(written..).unwrap_or_default();
            if chunk.len() == chunk.capacity() {
                self.flush();
            }
        }
        Ok(())
    }

    /// Queues the last chunk.
    pub(super) fn finish(mut self) {
        self.flush();
    }

    fn flush(&mut self) {
        if let Some(chunk) = self.filling.take() {
            self.queue.push(chunk.freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writer_fills_chunks_one_after_the_other_and_says_when_there_are_none() {
        let pool = Pool::with_capacity(2, 1).unwrap();
        let mut queue = ChunkQueue::default();
        let mut writer = Writer::new(&pool, &mut queue, 10);
        assert_eq!(writer.write(&[7; 5000]), Ok(()));
        assert_eq!(writer.write(&[8; 5000]), Err(Exhausted));
        writer.finish();
        assert_eq!((queue.bytes(), queue.len()), (8192, 2));
    }
}
