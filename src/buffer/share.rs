//! A view of a chunk as [`Bytes`], for libraries that keep bytes in that type.
//!
//! `Bytes` may go to any thread, a chunk's bookkeeping may not: a view that ends elsewhere than where it began is not given
//! back, which costs its chunk and nothing else.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;

use bytes::Bytes;

use super::chunk::Chunk;
use crate::base::thread_number::ThreadNumber;

struct Shared {
    chunk: ManuallyDrop<Chunk>,
    home: ThreadNumber,
}

// SAFETY: reading a view touches memory that no one writes while the view is there, and fields of the pool that never
// change; its bookkeeping is touched by the drop alone, which compares the thread first.
// JUSTIFICATION: `Bytes::from_owner` asks for it; the codec that takes the bytes runs on the chunk's own thread.
unsafe impl Send for Shared {}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if ThreadNumber::here() == self.home {
            // SAFETY: dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.chunk) };
        }
    }
}

impl Chunk {
    /// The same bytes, not copied.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(Shared { chunk: ManuallyDrop::new(self), home: ThreadNumber::here() })
    }
}

#[cfg(test)]
mod tests {
    use crate::buffer::{ChunkSize, Pool};

    #[test]
    fn view_is_given_back_with_the_last_of_its_bytes() {
        let pool = Pool::with_capacity(2, 1).unwrap();
        let chunk = |bytes: &[u8]| {
            let mut chunk = pool.alloc(ChunkSize::Small).unwrap();
            chunk.write(bytes);
            chunk.freeze()
        };
        let mut bytes = chunk(b"headbody").into_bytes();
        let head = bytes.split_to(4);
        assert_eq!((&*head, &*bytes, pool.chunks_in_use()), (&b"head"[..], &b"body"[..], 1));
        drop(head);
        drop(bytes);
        assert_eq!(pool.chunks_in_use(), 0);
    }
}
