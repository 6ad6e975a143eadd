//! Bytes on their way into TLS records, without I/O.
//!
//! What is queued is encrypted when it is set going, so that a head and a small body become one record. Records are
//! written one behind the other into large chunks. The first of a burst are small, so that the peer can begin with what
//! its first packets hold; then they are as large as they may be.

use super::record;
use super::session::{Fault, Outgoing, Session};
use crate::base::clock::Now;
use crate::base::limits;
use crate::buffer::{Chunk, ChunkMut, ChunkQueue, Pool};

/// Bytes of a burst that go in small records: as much as a fresh connection may send before the first acknowledgement
/// (ten segments, RFC 6928).
const SMALL_RECORDS_BYTES: usize = 14 * 1024;
/// A small record with what encrypting adds fits a small chunk.
const SMALL_RECORD_BYTES: usize = limits::SMALL_CHUNK_BYTES - record::OVERHEAD_BYTES_MAX;
/// A pause after which a burst begins anew: the congestion window may have shrunk.
const BURST_PAUSE_NS: u64 = 1_000_000_000;
/// A chunk's rest below this is left: a record for it costs more than the memory.
const REST_BYTES_MIN: usize = 2048;
/// Pieces below this are put together to a record; larger ones are encrypted from where they are.
const PIECE_BYTES_MIN: usize = 4096;

/// What is queued to be sent, as plaintext.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    plain: ChunkQueue,
    /// Bytes encrypted since the last pause.
    burst: usize,
    last: Now,
}

/// Encrypted records, chunk by chunk.
pub(super) struct Records<'a> {
    pool: &'a Pool,
    send: &'a mut dyn FnMut(Chunk),
    chunk: Option<ChunkMut>,
    /// Bytes that are to be expected: the size of the next chunk.
    expected: usize,
}

impl Outbound {
    /// Appends.
    pub(super) fn push(&mut self, chunk: Chunk) {
        self.plain.push(chunk);
    }

    /// Appends copied bytes where there is room; says whether it did.
    pub(super) fn try_extend(&mut self, bytes: &[u8]) -> bool {
        self.plain.try_extend(bytes)
    }

    /// Bytes that are not encrypted yet.
    pub(super) fn bytes(&self) -> usize {
        self.plain.bytes()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.plain.clear();
    }

    /// Encrypts everything. What is not encrypted when it fails is not sent either.
    pub(super) fn encrypt(
        &mut self,
        now: Now,
        session: &mut Session,
        held: &mut [u8],
        out: &mut Records<'_>,
    ) -> Result<(), Fault> {
        if now.0.saturating_sub(self.last.0) >= BURST_PAUSE_NS {
            self.burst = 0;
        }
        self.last = now;
        while let Some(first) = self.plain.first() {
            let small = self.burst < SMALL_RECORDS_BYTES;
            let mut most = if small { SMALL_RECORD_BYTES } else { record::PLAINTEXT_BYTES_MAX };
            if out.left() >= REST_BYTES_MIN {
                most = most.min(out.left() - record::OVERHEAD_BYTES_MAX);
            }
            let bytes = self.plain.bytes();
            out.expected = bytes + (bytes / most + 1) * record::OVERHEAD_BYTES_MAX;
            let together = most.min(bytes);
            let alone = first.len().min(most);
            let count = if alone == together || alone >= PIECE_BYTES_MIN {
                session.encrypt(held, &first[..alone], out)?;
                alone
            } else {
                let mut stage = out.pool.alloc_for(together).ok_or(Fault::Exhausted)?;
                for chunk in self.plain.iter() {
                    let left = together - stage.len();
                    stage.write(&chunk[..chunk.len().min(left)]);
                    if stage.len() == together {
                        break;
                    }
                }
                session.encrypt(held, stage.filled(), out)?;
                together
            };
            self.plain.consume(count);
            self.burst = self.burst.saturating_add(count);
        }
        Ok(())
    }
}

impl<'a> Records<'a> {
    pub(super) fn new(pool: &'a Pool, send: &'a mut dyn FnMut(Chunk)) -> Self {
        Self { pool, send, chunk: None, expected: 0 }
    }

    /// Room in the chunk that is being filled.
    fn left(&self) -> usize {
        self.chunk.as_ref().map_or(0, ChunkMut::room)
    }

    /// Hands over what was written last.
    pub(super) fn finish(&mut self) {
        if let Some(chunk) = self.chunk.take().filter(|chunk| !chunk.is_empty()) {
            (self.send)(chunk.freeze());
        }
    }
}

impl Outgoing for Records<'_> {
    fn room(&mut self, bytes: usize) -> Option<&mut [u8]> {
        if self.left() < bytes {
            self.finish();
            let wanted = self.expected.clamp(bytes, limits::LARGE_CHUNK_BYTES.max(bytes));
            self.chunk = self.pool.alloc_for(wanted).or_else(|| self.pool.alloc_for(bytes));
        }
        self.chunk.as_mut().map(ChunkMut::spare)
    }

    fn advance(&mut self, bytes: usize) {
        if let Some(chunk) = &mut self.chunk {
            chunk.advance(bytes);
        }
    }
}
