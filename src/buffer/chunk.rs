//! A chunk being filled ([`ChunkMut`]) and a view of a filled one ([`Chunk`]).
//!
//! Views of one chunk may overlap; bytes once visible through a view never change. Appending happens only behind the
//! last visible byte and only while there is a single view. A [`ChunkMut`] is the only one that looks at its bytes and at
//! all behind them; those before its first may be visible through views.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::Deref;

use super::pool::{ChunkSize, Pool};

/// A read-only view of some bytes of a chunk. Cloning makes another view of the same bytes.
pub struct Chunk {
    pool: Pool,
    size: ChunkSize,
    index: u32,
    start: u32,
    len: u32,
}

/// A chunk, or the rest of one, that one owner fills and may change.
pub struct ChunkMut {
    view: Chunk,
}

impl Chunk {
    /// Bytes of pool memory that this view keeps: what flow control counts.
    pub fn capacity(&self) -> usize {
        self.pool.group(self.size).chunk_bytes()
    }

    /// Drops the first `count` bytes from the view; all of them when there are fewer.
    pub fn advance(&mut self, count: usize) {
        let count = count.min(self.len as usize) as u32;
        self.start += count;
        self.len -= count;
    }

    /// Keeps only the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// Cuts the view in two: the first `at` bytes are returned, the rest stay.
    pub fn split_to(&mut self, at: usize) -> Self {
        let mut head = self.clone();
        head.truncate(at);
        self.advance(at);
        head
    }

    /// The view as something to change, if nobody else looks at the chunk.
    ///
    /// # Errors
    /// The view itself: there is another.
    pub fn try_into_mut(self) -> Result<ChunkMut, Self> {
        if self.pool.group(self.size).is_unique(self.index) { Ok(ChunkMut { view: self }) } else { Err(self) }
    }

    /// Appends behind the view if nobody else looks at the chunk and there is room; says whether it did.
    pub fn try_extend(&mut self, bytes: &[u8]) -> bool {
        let end = (self.start + self.len) as usize;
        let group = self.pool.group(self.size);
        if !group.is_unique(self.index) || group.chunk_bytes() - end < bytes.len() {
            return false;
        }
        // SAFETY: the range lies inside the chunk (checked), behind every byte this only view shows, and `bytes`
        // cannot overlap it because it is a live shared slice and this view is the chunk's only one.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                group.address(self.index).as_ptr().add(end),
                bytes.len(),
            );
        };
        self.len += bytes.len() as u32;
        true
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let address = self.pool.group(self.size).address(self.index);
        // SAFETY: start + len stay inside the chunk (every method keeps them there); the memory is mapped while the
        // pool lives, initialised (anonymous pages), and bytes inside a view are never written again.
        unsafe { std::slice::from_raw_parts(address.as_ptr().add(self.start as usize), self.len as usize) }
    }
}

impl Clone for Chunk {
    fn clone(&self) -> Self {
        self.pool.group(self.size).add_view(self.index);
        Self { pool: self.pool.clone(), ..*self }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.pool.group(self.size).drop_view(self.index);
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({:?} {} [{}; {}])", self.size, self.index, self.start, self.len)
    }
}

impl ChunkMut {
    pub(super) fn new(pool: Pool, size: ChunkSize, index: u32) -> Self {
        Self { view: Chunk { pool, size, index, start: 0, len: 0 } }
    }

    /// Bytes the chunk can hold.
    pub fn capacity(&self) -> usize {
        self.view.capacity()
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.view.len as usize
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.view.len == 0
    }

    /// Bytes that can still be written.
    pub fn room(&self) -> usize {
        self.capacity() - (self.view.start + self.view.len) as usize
    }

    /// The room behind what was written. It shows stale bytes of earlier uses: write before [`ChunkMut::advance`].
    pub fn spare(&mut self) -> &mut [u8] {
        let (end, room) = ((self.view.start + self.view.len) as usize, self.room());
        let address = self.view.pool.group(self.view.size).address(self.view.index);
        // SAFETY: inside the chunk; other views show only bytes before this one's first.
        unsafe { std::slice::from_raw_parts_mut(address.as_ptr().add(end), room) }
    }

    /// What was written, to be changed.
    pub fn filled(&mut self) -> &mut [u8] {
        let (start, len) = (self.view.start as usize, self.len());
        let address = self.view.pool.group(self.view.size).address(self.view.index);
        // SAFETY: inside the chunk and initialised (anonymous pages); other views show only bytes before these.
        unsafe { std::slice::from_raw_parts_mut(address.as_ptr().add(start), len) }
    }

    /// Counts `count` bytes of the spare room as written.
    pub fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.room());
        self.view.len += count.min(self.room()) as u32;
    }

    /// Drops the first `count` bytes of what was written; all of them when there are fewer.
    pub fn consume(&mut self, count: usize) {
        self.view.advance(count);
    }

    /// Ends the filling of the first `at` bytes, which are returned; the rest stays.
    pub fn split_to(&mut self, at: usize) -> Chunk {
        self.view.split_to(at)
    }

    /// Appends what fits; returns how much did.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        self.spare()[..count].copy_from_slice(&bytes[..count]);
        self.advance(count);
        count
    }

    /// The chunk's address: what the kernel gets.
    pub fn as_ptr(&self) -> *const u8 {
        self.view.pool.group(self.view.size).address(self.view.index).as_ptr()
    }

    /// Ends the filling.
    pub fn freeze(self) -> Chunk {
        self.view
    }
}

impl fmt::Debug for ChunkMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkMut({:?})", self.view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(pool: &Pool, bytes: &[u8]) -> Chunk {
        let mut chunk = pool.alloc(ChunkSize::Small).unwrap();
        assert_eq!(chunk.write(bytes), bytes.len());
        chunk.freeze()
    }

    #[test]
    fn split_views_share_the_chunk_until_both_are_gone() {
        let pool = Pool::with_capacity(2, 1).unwrap();
        let mut rest = chunk(&pool, b"headbody");
        let head = rest.split_to(4);
        assert_eq!((&*head, &*rest), (&b"head"[..], &b"body"[..]));
        drop(head);
        assert_eq!(pool.chunks_in_use(), 1);
        drop(rest);
        assert_eq!(pool.chunks_in_use(), 0);
    }

    #[test]
    fn view_becomes_something_to_change_only_without_another() {
        let pool = Pool::with_capacity(2, 1).unwrap();
        let view = chunk(&pool, b"abc");
        let other = view.clone();
        let view = view.try_into_mut().unwrap_err();
        drop(other);
        let mut whole = view.try_into_mut().unwrap();
        whole.filled()[1] = b'B';
        assert_eq!(whole.write(b"d"), 1);
        assert_eq!(&*whole.freeze(), b"aBcd");
        assert_eq!(pool.chunks_in_use(), 0);
    }

    /// What TLS does: plaintext takes the place of a record, and is handed on while the next record is worked on.
    #[test]
    fn rest_is_changed_while_the_front_is_read() {
        let pool = Pool::with_capacity(2, 1).unwrap();
        let mut rest = chunk(&pool, b"xxfrontxxback").try_into_mut().unwrap();
        rest.consume(2);
        let mut front = rest.split_to(5);
        rest.consume(2);
        let seen: &[u8] = &front;
        rest.filled().make_ascii_uppercase();
        rest.spare()[0] = b'!';
        assert_eq!(seen, b"front");
        rest.advance(1);
        assert!(!front.try_extend(b"-"), "the rest lies there");
        assert_eq!(rest.room(), 4096 - 14);
        let back = rest.freeze();
        assert_eq!((&*front, &*back), (&b"front"[..], &b"BACK!"[..]));
        drop(back);
        assert!(front.try_extend(b"-"), "it is the only view");
        drop(front);
        assert_eq!(pool.chunks_in_use(), 0);
    }

    #[test]
    fn rest_holds_no_more_than_the_chunk_has_room_for() {
        let pool = Pool::with_capacity(1, 1).unwrap();
        let mut rest = chunk(&pool, &[1; 4000]).try_into_mut().unwrap();
        rest.consume(3900);
        assert_eq!((rest.len(), rest.room(), rest.spare().len()), (100, 96, 96));
        assert_eq!((rest.write(&[2; 200]), rest.room()), (96, 0));
        rest.consume(1000);
        assert!(rest.is_empty() && rest.split_to(5).is_empty());
    }

    #[test]
    fn extend_is_refused_while_another_view_looks() {
        let pool = Pool::with_capacity(2, 1).unwrap();
        let mut view = chunk(&pool, b"abc");
        let other = view.clone();
        assert!(!view.try_extend(b"def"));
        drop(other);
        assert!(view.try_extend(b"def"));
        assert_eq!(&*view, b"abcdef");
        assert!(!view.try_extend(&[0; 4096]));
    }
}
