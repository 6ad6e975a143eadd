//! The process's allocator: mimalloc, and a count of what each thread holds of it.
//!
//! A thread's count is what it has allocated less what it has freed, so the sum of all is exact and a single one is off
//! by what was handed over between threads. Each thread writes a cache line of its own: nothing is shared, and nothing is
//! written where nothing is allocated.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};

use mimalloc::MiMalloc;

/// mimalloc, counted. What `main` declares as the global allocator.
#[derive(Clone, Copy, Debug)]
pub struct Allocator;

/// Threads with a line of their own; those beyond share the last, with atomic additions.
const THREADS_MAX: usize = 512;
/// Bytes by which a thread's live memory must have fallen before free pages are collected. Reason: less than that is
/// worth neither the walk over the thread's pages nor the faults when they are needed again.
const COLLECT_BYTES_MIN: i64 = 64 * 1024;

/// The allocator's memory comes in pages of at least so many bytes, which begin at multiples of it.
pub const HEAP_PAGE_BYTES: usize = 64 * 1024;

#[derive(Debug)]
#[repr(align(64))]
struct Line {
    /// Bytes allocated and not freed.
    live: AtomicI64,
    /// An address in the thread's stack.
    stack: AtomicUsize,
}

static LINES: [Line; THREADS_MAX + 1] =
    [const { Line { live: AtomicI64::new(0), stack: AtomicUsize::new(0) } }; THREADS_MAX + 1];
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The thread's line; `usize::MAX` until it allocates.
    static LINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Bytes allocated and not freed, all threads.
pub fn live_bytes() -> u64 {
    let sum: i64 = LINES.iter().map(|line| line.live.load(Relaxed)).sum();
    u64::try_from(sum).unwrap_or(0)
}

/// Bytes that this thread has allocated less those it has freed.
pub fn live_bytes_here() -> i64 {
    LINES.get(LINE.get()).map_or(0, |line| line.live.load(Relaxed))
}

/// An address in the stack of every thread that ever allocated.
pub fn stacks() -> impl Iterator<Item = usize> {
    LINES.iter().map(|line| line.stack.load(Relaxed)).filter(|&address| address != 0)
}

/// Whether the allocator hands out memory of the page at this address.
pub fn owns(address: usize) -> bool {
    // SAFETY: the function looks the address up and does not follow it.
    !cfg!(miri) && unsafe { libmimalloc_sys::mi_is_in_heap_region(address as *const std::ffi::c_void) }
}

/// What became free on this thread, and when it is worth giving to the kernel.
#[derive(Debug, Default)]
pub(super) struct Surplus {
    /// Most live bytes seen since memory was last given back.
    highest: i64,
    /// Free pages were given back the last time: what little becomes free behind a burst keeps a page of each size.
    falling: bool,
}

impl Surplus {
    /// Takes note of what is live now: called before unused memory is freed.
    pub(super) fn note(&mut self) {
        self.highest = self.highest.max(live_bytes_here());
    }

    /// Gives free pages to the kernel if enough became free.
    pub(super) fn give_back(&mut self) {
        let live = live_bytes_here();
        let fallen = self.highest - live;
        self.falling = fallen >= COLLECT_BYTES_MIN || (self.falling && fallen > 0);
        if self.falling {
            self.highest = live;
            collect();
        }
    }
}

/// Gives this thread's free pages to the kernel now. The allocator alone does so only when the thread allocates again.
pub fn collect() {
    if cfg!(miri) {
        return;
    }
    // SAFETY: callable at any time from any thread; it touches free memory only.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

fn count(bytes: i64) {
    let mut index = LINE.get();
    if index == usize::MAX {
        index = register();
    }
    let live = &LINES[index.min(THREADS_MAX)].live;
    if index < THREADS_MAX {
        live.store(live.load(Relaxed) + bytes, Relaxed);
    } else {
        live.fetch_add(bytes, Relaxed);
    }
}

/// Gives this thread its line.
#[cold]
fn register() -> usize {
    let on_stack = 0u8;
    let index = THREADS.fetch_add(1, Relaxed).min(THREADS_MAX);
    LINES[index].stack.store(std::hint::black_box(&raw const on_stack) as usize, Relaxed);
    LINE.set(index);
    index
}

// SAFETY: every call goes to mimalloc with the caller's own arguments; counting neither allocates nor unwinds.
// JUSTIFICATION: mimalloc keeps no such count in release builds, and `/memory` has to say what the heap is.
// Never inlined: the calls are everywhere, and would be a fifth of the program.
unsafe impl GlobalAlloc for Allocator {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.alloc(layout) }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.dealloc(block, layout) };
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.realloc(block, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_while_they_live_and_where_they_were_allocated() {
        let before = (live_bytes_here(), std::thread::current().id());
        let layout = Layout::from_size_align(1 << 20, 16).unwrap();
        // SAFETY: a layout of some size.
        let block = unsafe { Allocator.alloc(layout) };
        assert_eq!(live_bytes_here() - before.0, 1 << 20);
        // SAFETY: the block and the layout of it.
        let block = unsafe { Allocator.realloc(block, layout, 2 << 20) };
        assert_eq!(live_bytes_here() - before.0, 2 << 20);
        assert!(owns(block as usize) && !owns(&raw const layout as usize));
        let layout = Layout::from_size_align(2 << 20, 16).unwrap();
        // SAFETY: the block and the layout it has now.
        unsafe { Allocator.dealloc(block, layout) };
        assert_eq!(live_bytes_here(), before.0);
        let here = &raw const before as usize;
        assert!(stacks().any(|address| address.abs_diff(here) < 1 << 20), "this thread's stack is known");
    }
}
