//! The per-core pool: three groups of equally sized chunks, each in one reserved mapping.
//!
//! The mapping is address space only; a page costs memory once it is touched. Free chunks are handed out last-in
//! first-out, so the resident set follows the load and stays in cache; [`Pool::trim`] returns the rest to the kernel, and
//! forgets the highest of them, so that the lists follow the load, too.
//!
//! Invariants: a chunk is on a free list or has a positive count of views, never both; the pool outlives its chunks
//! (each view holds the pool); neither is `Send`.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

use super::chunk::ChunkMut;
use crate::base::edits::Edits;
use crate::base::heaps;
use crate::base::limits;
use crate::base::spares::Spares;

/// Which group a chunk comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkSize {
    /// 4 KiB: heads, idle connections, small bodies.
    Small,
    /// 20 KiB: one TLS record.
    Record,
    /// 64 KiB: bodies that stream.
    Large,
}

/// A worker's chunks. Cloning shares the same pool.
#[derive(Clone, Debug)]
pub struct Pool(pub(super) Rc<Groups>);

#[derive(Debug)]
pub(super) struct Groups {
    small: Group,
    record: Group,
    large: Group,
    /// Allocations refused because a group was used up.
    exhausted: Cell<u64>,
}

/// Equally sized chunks in one mapping.
#[derive(Debug)]
pub(super) struct Group {
    base: NonNull<u8>,
    chunk_bytes: usize,
    chunks_max: usize,
    /// Views of each chunk that was ever used; zero when free. Grows with `fresh`, so that an idle pool stays small.
    views: RefCell<Vec<u32>>,
    /// Free and probably resident, most recently used last.
    warm: RefCell<Spares<u32>>,
    /// Free, its pages given back to the kernel, lowest last.
    cold: RefCell<Vec<u32>>,
    /// Chunks at and above this index were never used.
    fresh: Cell<u32>,
    in_use: Cell<u32>,
    edits: Edits,
}

impl Pool {
    /// Reserves the address space of all groups.
    ///
    /// # Errors
    /// What `mmap` says: an address-space limit is the only realistic cause.
    pub fn new() -> io::Result<Self> {
        Self::reserve(limits::SMALL_CHUNKS_MAX, limits::RECORD_CHUNKS_MAX, limits::LARGE_CHUNKS_MAX)
    }

    /// A pool with its own numbers of chunks; of those for records there are as many as of the large ones.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn with_capacity(small: usize, large: usize) -> io::Result<Self> {
        Self::reserve(small, large, large)
    }

    fn reserve(small: usize, record: usize, large: usize) -> io::Result<Self> {
        Ok(Self(Rc::new(Groups {
            small: Group::new(limits::SMALL_CHUNK_BYTES, small)?,
            record: Group::new(limits::RECORD_CHUNK_BYTES, record)?,
            large: Group::new(limits::LARGE_CHUNK_BYTES, large)?,
            exhausted: Cell::new(0),
        })))
    }

    /// An empty chunk to write into. A larger one falls back to a small one; `None` when the pool is used up.
    pub fn alloc(&self, size: ChunkSize) -> Option<ChunkMut> {
        if size != ChunkSize::Small
            && let Some(index) = self.group(size).take()
        {
            return Some(ChunkMut::new(self.clone(), size, index));
        }
        if let Some(index) = self.0.small.take() {
            return Some(ChunkMut::new(self.clone(), ChunkSize::Small, index));
        }
        self.refuse()
    }

    /// An empty chunk of the smallest size there is that holds `bytes`; `None` when there is none.
    pub fn alloc_for(&self, bytes: usize) -> Option<ChunkMut> {
        let fits = |size: &ChunkSize| self.group(*size).chunk_bytes() >= bytes;
        for size in [ChunkSize::Small, ChunkSize::Record, ChunkSize::Large].into_iter().filter(fits) {
            if let Some(index) = self.group(size).take() {
                return Some(ChunkMut::new(self.clone(), size, index));
            }
        }
        self.refuse()
    }

    fn refuse(&self) -> Option<ChunkMut> {
        self.0.exhausted.set(self.0.exhausted.get() + 1);
        None
    }

    fn groups(&self) -> [&Group; 3] {
        [&self.0.small, &self.0.record, &self.0.large]
    }

    /// Chunks in use, all groups: the leak counter, zero when a worker holds nothing.
    pub fn chunks_in_use(&self) -> u32 {
        self.groups().iter().map(|group| group.in_use.get()).sum()
    }

    /// More than half of the small chunks are in use: whoever keeps some that he could do without is to keep no more of them.
    pub fn is_scarce(&self) -> bool {
        self.0.small.in_use.get() as usize > self.0.small.chunks_max / 2
    }

    /// Whether no panic has cut off a change of the lists.
    pub fn is_whole(&self) -> bool {
        self.groups().iter().all(|group| group.edits.are_whole())
    }

    /// Bytes of the chunks in use, by capacity.
    pub fn bytes_in_use(&self) -> u64 {
        let bytes = |group: &&Group| u64::from(group.in_use.get()) * group.chunk_bytes as u64;
        self.groups().iter().map(bytes).sum()
    }

    /// Bytes of chunks whose pages are, or were, in use and were not given back to the kernel.
    pub fn resident_bytes(&self) -> u64 {
        self.groups()
            .map(|group| (group.in_use.get() as usize + group.warm.borrow().len()) * group.chunk_bytes)
            .iter()
            .sum::<usize>() as u64
    }

    /// How often [`Pool::alloc`] found nothing.
    pub fn exhausted_count(&self) -> u64 {
        self.0.exhausted.get()
    }

    /// Gives the pages of free chunks that nobody has needed since the last call back to the kernel; whether the next call
    /// may give more. Called once a second at most.
    pub fn trim(&self) -> bool {
        self.groups().map(Group::trim).contains(&true)
    }

    /// Nobody is about to need the free chunks: the next [`Pool::trim`] gives all of them back.
    pub fn give_back_all(&self, size: ChunkSize) {
        self.group(size).warm.borrow_mut().expect_no_use();
    }

    pub(super) fn group(&self, size: ChunkSize) -> &Group {
        match size {
            ChunkSize::Small => &self.0.small,
            ChunkSize::Record => &self.0.record,
            ChunkSize::Large => &self.0.large,
        }
    }
}

/// Chunks for which a group's lists have room at least: a ring of the kernel's holds as many.
const LISTED_MIN: usize = 64;

/// How a group's memory is mapped. Miri knows only plain mappings.
const MAPPING: libc::c_int =
    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | if cfg!(miri) { 0 } else { libc::MAP_NORESERVE };

/// Tells the kernel how pages are used. Miri has no pages to advise on.
///
/// # Safety
/// The range is a mapping of the pool, and nothing that the advice takes away is in use.
unsafe fn advise(address: *mut libc::c_void, bytes: usize, advice: libc::c_int) {
    if !cfg!(miri) {
        // SAFETY: the caller's promise.
        unsafe { libc::madvise(address, bytes, advice) };
    }
}

impl Group {
    fn new(chunk_bytes: usize, chunks_max: usize) -> io::Result<Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choosing; it aliases nothing.
        // JUSTIFICATION: the kernel writes into chunks (provided buffers), so they need a stable address and page
        // granularity for `madvise`; a `Vec` gives neither.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                chunk_bytes * chunks_max,
                libc::PROT_READ | libc::PROT_WRITE,
                MAPPING,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Huge pages would make one touched chunk cost 2 MiB.
        // SAFETY: the range is the mapping just made. A refusal only costs memory.
        unsafe { advise(address, chunk_bytes * chunks_max, libc::MADV_NOHUGEPAGE) };
        // SAFETY: a child must not inherit buffers the kernel may still write to; same range.
        unsafe { advise(address, chunk_bytes * chunks_max, libc::MADV_DONTFORK) };
        Ok(Self {
            base: NonNull::new(address.cast()).ok_or_else(io::Error::last_os_error)?,
            chunk_bytes,
            chunks_max,
            views: RefCell::new(heaps::lasting_list(2 * LISTED_MIN)),
            warm: RefCell::default(),
            cold: RefCell::new(heaps::lasting_list(LISTED_MIN)),
            fresh: Cell::new(0),
            in_use: Cell::new(0),
            edits: Edits::default(),
        })
    }

    fn take(&self) -> Option<u32> {
        self.edits.run(|| self.take_free())
    }

    fn take_free(&self) -> Option<u32> {
        let warm = self.warm.borrow_mut().pop();
        let index = warm.or_else(|| self.cold.borrow_mut().pop()).or_else(|| {
            let fresh = self.fresh.get();
            ((fresh as usize) < self.chunks_max).then(|| {
                self.fresh.set(fresh + 1);
                self.views.borrow_mut().push(0);
                fresh
            })
        })?;
        let views = &mut self.views.borrow_mut()[index as usize];
        debug_assert_eq!(*views, 0, "a free chunk has no views");
        *views = 1;
        self.in_use.set(self.in_use.get() + 1);
        Some(index)
    }

    pub(super) fn add_view(&self, index: u32) {
        let views = &mut self.views.borrow_mut()[index as usize];
        debug_assert!(*views > 0);
        *views += 1;
    }

    pub(super) fn drop_view(&self, index: u32) {
        self.edits.run(|| {
            let views = &mut self.views.borrow_mut()[index as usize];
            debug_assert!(*views > 0);
            *views -= 1;
            if *views == 0 {
                self.in_use.set(self.in_use.get() - 1);
                self.warm.borrow_mut().push(index);
            }
        });
    }

    pub(super) fn is_unique(&self, index: u32) -> bool {
        self.views.borrow()[index as usize] == 1
    }

    pub(super) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Address of a chunk's first byte; valid for `chunk_bytes` while the pool lives.
    pub(super) fn address(&self, index: u32) -> NonNull<u8> {
        assert!((index as usize) < self.chunks_max);
        // SAFETY: the index is inside the mapping, checked above.
        unsafe { self.base.add(index as usize * self.chunk_bytes) }
    }

    fn trim(&self) -> bool {
        let mut cold = self.cold.borrow_mut();
        let before = cold.len();
        let more = self.warm.borrow_mut().trim(|index| {
            let address = self.address(index);
            // SAFETY: the chunk is free (it was on the warm list), so no view and no kernel operation refers to it.
            unsafe { advise(address.as_ptr().cast(), self.chunk_bytes, libc::MADV_DONTNEED) };
            cold.push(index);
        });
        if cold.len() > before {
            self.forget_last(&mut cold);
        }
        more
    }

    /// The lowest of the cold serve next; those at the end of what was ever used count as never used.
    fn forget_last(&self, cold: &mut Vec<u32>) {
        cold.sort_unstable_by(|a, b| b.cmp(a));
        let mut fresh = self.fresh.get();
        let forgotten = cold.iter().take_while(|&&index| {
            let last = index + 1 == fresh;
            fresh -= u32::from(last);
            last
        });
        let forgotten = forgotten.count();
        cold.drain(..forgotten);
        let left = cold.len();
        heaps::settle(cold, 2 * left, LISTED_MIN);
        self.fresh.set(fresh);
        let mut views = self.views.borrow_mut();
        views.truncate(fresh as usize);
        heaps::settle(&mut views, 2 * fresh as usize, 2 * LISTED_MIN);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        debug_assert!(
            self.in_use.get() == 0 || std::thread::panicking(),
            "every chunk was returned before the pool went"
        );
        // SAFETY: the mapping made in `new`; each view holds the pool, so none is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.chunk_bytes * self.chunks_max) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_reused_last_in_first_out() {
        let pool = Pool::with_capacity(4, 1).unwrap();
        let first = pool.alloc(ChunkSize::Small).unwrap();
        let address = first.as_ptr();
        drop(first);
        assert_eq!(pool.alloc(ChunkSize::Small).unwrap().as_ptr(), address);
        assert_eq!(pool.chunks_in_use(), 0);
    }

    #[test]
    fn large_group_used_up_falls_back_to_small_then_refuses() {
        let pool = Pool::with_capacity(1, 1).unwrap();
        let a = pool.alloc(ChunkSize::Large).unwrap();
        let b = pool.alloc(ChunkSize::Large).unwrap();
        assert_eq!((a.capacity(), b.capacity()), (limits::LARGE_CHUNK_BYTES, limits::SMALL_CHUNK_BYTES));
        assert!(pool.alloc(ChunkSize::Large).is_none());
        assert_eq!(pool.exhausted_count(), 1);
    }

    #[test]
    fn scarce_is_more_than_half_of_the_small_ones() {
        let pool = Pool::with_capacity(4, 4).unwrap();
        let _large: Vec<_> = (0..3).map(|_| pool.alloc(ChunkSize::Large).unwrap()).collect();
        let mut small: Vec<_> = (0..2).map(|_| pool.alloc(ChunkSize::Small).unwrap()).collect();
        assert!(!pool.is_scarce());
        small.push(pool.alloc(ChunkSize::Small).unwrap());
        assert!(pool.is_scarce());
        small.pop();
        assert!(!pool.is_scarce());
    }

    #[test]
    fn chunk_for_some_bytes_is_the_smallest_that_holds_them() {
        let pool = Pool::with_capacity(2, 1).unwrap();
        let sizes = [1, limits::SMALL_CHUNK_BYTES + 1, limits::RECORD_CHUNK_BYTES + 1];
        let chunks: Vec<_> = sizes.map(|bytes| pool.alloc_for(bytes).unwrap()).into();
        let capacities: Vec<_> = chunks.iter().map(ChunkMut::capacity).collect();
        assert_eq!(
            capacities,
            [limits::SMALL_CHUNK_BYTES, limits::RECORD_CHUNK_BYTES, limits::LARGE_CHUNK_BYTES]
        );
        assert_eq!((pool.chunks_in_use(), pool.bytes_in_use()), (3, 88 * 1024));
        assert!(pool.alloc_for(limits::SMALL_CHUNK_BYTES + 1).is_none(), "never one that is too small");
        assert!(pool.alloc_for(limits::LARGE_CHUNK_BYTES + 1).is_none());
        drop(chunks);
        assert_eq!(pool.chunks_in_use(), 0);
    }

    /// 5,000 uploads at once left half a megabyte of lists behind.
    #[test]
    fn lists_follow_the_load_and_the_lowest_chunk_serves_next() {
        let pool = Pool::with_capacity(4096, 1).unwrap();
        let mut all: Vec<_> = (0..4096).map(|_| pool.alloc(ChunkSize::Small)).collect();
        let first = all[0].as_ref().unwrap().as_ptr() as usize;
        let stays = all[1000].take();
        drop(all);
        assert!(pool.trim() && !pool.trim());
        let group = pool.group(ChunkSize::Small);
        assert_eq!((group.fresh.get(), group.views.borrow().len()), (1001, 1001));
        assert!(group.cold.borrow().capacity() <= 2048 && group.warm.borrow().list_bytes() == 0);
        assert_eq!(pool.alloc(ChunkSize::Small).unwrap().as_ptr() as usize, first);
        drop(stays);
        let all: Vec<_> = (0..4096).filter_map(|_| pool.alloc(ChunkSize::Small)).collect();
        let distinct: std::collections::BTreeSet<_> =
            all.iter().map(|chunk| chunk.as_ptr() as usize).collect();
        assert_eq!((all.len(), distinct.len()), (4096, 4096), "none is lost, none is there twice");
        assert!(pool.alloc(ChunkSize::Small).is_none());
    }

    #[test]
    fn trimmed_chunks_serve_again() {
        let pool = Pool::with_capacity(64, 1).unwrap();
        let all: Vec<_> = (0..64).map(|_| pool.alloc(ChunkSize::Small).unwrap()).collect();
        drop(all);
        assert_eq!(pool.resident_bytes(), 64 * limits::SMALL_CHUNK_BYTES as u64);
        assert!(pool.trim(), "they may have been needed a moment ago");
        assert_eq!(pool.resident_bytes(), 64 * limits::SMALL_CHUNK_BYTES as u64);
        pool.trim();
        assert_eq!(pool.resident_bytes(), 0);
        let _all: Vec<_> = (0..64).map(|_| pool.alloc(ChunkSize::Small).unwrap()).collect();
        assert!(pool.alloc(ChunkSize::Small).is_none());
    }
}
