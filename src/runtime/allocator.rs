//! The process's allocator: mimalloc, with a heap for what passes beside its own (`base::heaps`), and a count of what each
//! thread holds of it.
//!
//! A thread's count is what it has allocated less what it has freed, so the sum of all is exact and a single one is off
//! by what was handed over between threads. Each thread writes a cache line of its own: nothing is shared, and nothing is
//! written where nothing is allocated.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicUsize};

use libmimalloc_sys::{self as mi, mi_heap_t};
use mimalloc::MiMalloc;

use crate::base::heaps;

/// mimalloc, counted. What `main` declares as the global allocator.
#[derive(Clone, Copy, Debug)]
pub struct Allocator;

/// Threads with a line of their own; those beyond share the last, with atomic additions.
const THREADS_MAX: usize = 512;
/// Bytes by which a thread's live memory must have fallen before free pages are collected. Reason: less than that is
/// worth neither the walk over the thread's pages nor the faults when they are needed again.
const COLLECT_BYTES_MIN: i64 = 64 * 1024;
/// So much at least becomes free within a second where a burst goes: some seven hundred connections.
const BURST_BYTES_MIN: i64 = 1024 * 1024;

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

const _: () = assert!(size_of::<Line>() == 64 && align_of::<Line>() == 64, "a cache line of its own");

static LINES: [Line; THREADS_MAX + 1] =
    [const { Line { live: AtomicI64::new(0), stack: AtomicUsize::new(0) } }; THREADS_MAX + 1];
static THREADS: AtomicUsize = AtomicUsize::new(0);
/// The heap of what passes, of all threads: each has pages of its own in it. Null until the first of them asks for it.
static PASSING_HEAP: AtomicPtr<mi_heap_t> = AtomicPtr::new(std::ptr::null_mut());

thread_local! {
    /// The thread's line; `usize::MAX` until it allocates.
    static LINE: Cell<usize> = const { Cell::new(usize::MAX) };
    /// The thread may have something in the heap of what passes.
    static HAS_PASSED: Cell<bool> = const { Cell::new(false) };
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
    !cfg!(miri) && unsafe { mi::mi_is_in_heap_region(address as *const c_void) }
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

    /// Gives free pages to the kernel if enough became free; whether it was a burst that has gone.
    pub(super) fn give_back(&mut self) -> bool {
        let live = live_bytes_here();
        let fallen = self.highest - live;
        self.falling = fallen >= COLLECT_BYTES_MIN || (self.falling && fallen > 0);
        if self.falling {
            self.highest = live;
            collect();
        }
        fallen >= BURST_BYTES_MIN
    }
}

/// Gives this thread's free pages to the kernel now. The allocator alone does so only when the thread allocates again.
pub fn collect() {
    if cfg!(miri) {
        return;
    }
    // SAFETY: callable at any time from any thread; it touches free memory only.
    unsafe { mi::mi_collect(true) };
    if HAS_PASSED.get() {
        // SAFETY: as above; the heap is there before anything passes, and is never freed.
        unsafe { mi::mi_heap_collect(PASSING_HEAP.load(Relaxed), true) };
    }
}

/// What this thread allocates from now on passes: a worker begins to serve. Without memory for another heap nothing changes.
pub fn pass_from_now_on() {
    if has_passing_heap() {
        heaps::pass_from_now_on();
    }
}

/// What `work` allocates passes, and what becomes free of it is given back by the next [`collect`] on this thread.
pub fn passing<T>(work: impl FnOnce() -> T) -> T {
    if has_passing_heap() { heaps::passing(work) } else { work() }
}

/// Whether there is a heap of what passes, which the first call makes.
fn has_passing_heap() -> bool {
    if cfg!(miri) {
        return false;
    }
    let none = std::ptr::null_mut();
    if PASSING_HEAP.load(Acquire).is_null() {
        // SAFETY: callable at any time from any thread.
        let made = unsafe { mi::mi_heap_new() };
        if PASSING_HEAP.compare_exchange(none, made, AcqRel, Acquire).is_err() && !made.is_null() {
            // Another thread was faster.
            // SAFETY: nobody else knows this heap, and nothing was allocated from it.
            unsafe { mi::mi_heap_delete(made) };
        }
    }
    HAS_PASSED.set(!PASSING_HEAP.load(Acquire).is_null());
    HAS_PASSED.get()
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

/// Whether every block of so many bytes lies as the layout wants it. Asked for an alignment in words, mimalloc 3 takes a larger
/// block whenever the size is no power of two and none is at hand, and frees the page's blocks in a slower way from then on.
/// Source: mimalloc 3 `alloc.c`, where blocks of 16 bytes and more lie at multiples of 16.
const fn is_natural(layout: Layout) -> bool {
    layout.align() <= 16 && layout.align() <= layout.size()
}

// SAFETY: every call goes to mimalloc with the caller's own arguments, but for an alignment that every block has; a block of
// either heap is freed and moved alike; counting neither allocates nor unwinds.
// JUSTIFICATION: mimalloc keeps no such count in release builds, and `/memory` has to say what the heap is.
// Never inlined: the calls are everywhere, and would be a fifth of the program.
unsafe impl GlobalAlloc for Allocator {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise; the heap is there before anything passes.
        unsafe {
            match (heaps::is_passing(), is_natural(layout)) {
                (true, true) => mi::mi_heap_malloc(PASSING_HEAP.load(Relaxed), layout.size()).cast(),
                (true, false) => {
                    let heap = PASSING_HEAP.load(Relaxed);
                    mi::mi_heap_malloc_aligned(heap, layout.size(), layout.align()).cast()
                }
                (false, true) => mi::mi_malloc(layout.size()).cast(),
                (false, false) => MiMalloc.alloc(layout),
            }
        }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: as in `alloc`.
        unsafe {
            match (heaps::is_passing(), is_natural(layout)) {
                (true, true) => mi::mi_heap_zalloc(PASSING_HEAP.load(Relaxed), layout.size()).cast(),
                (true, false) => {
                    let heap = PASSING_HEAP.load(Relaxed);
                    mi::mi_heap_zalloc_aligned(heap, layout.size(), layout.align()).cast()
                }
                (false, true) => mi::mi_zalloc(layout.size()).cast(),
                (false, false) => MiMalloc.alloc_zeroed(layout),
            }
        }
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
        let is_natural = is_natural(layout) && layout.align() <= size;
        // SAFETY: as in `alloc`; the block may be of either heap.
        unsafe {
            match (heaps::is_passing(), is_natural) {
                (true, true) => mi::mi_heap_realloc(PASSING_HEAP.load(Relaxed), block.cast(), size).cast(),
                (true, false) => {
                    let heap = PASSING_HEAP.load(Relaxed);
                    mi::mi_heap_realloc_aligned(heap, block.cast(), size, layout.align()).cast()
                }
                (false, true) => mi::mi_realloc(block.cast(), size).cast(),
                (false, false) => MiMalloc.realloc(block, layout, size),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One block of 16 bytes kept the 64 KiB of a burst.
    #[test]
    fn block_that_lasts_shares_no_page_with_those_that_pass() {
        let layout = Layout::from_size_align(48, 8).unwrap();
        // SAFETY: a layout of some size.
        let block = || unsafe { Allocator.alloc_zeroed(layout) };
        let (mut burst, mut lasts) = (Vec::new(), Vec::new());
        passing(|| {
            for round in 0..4000 {
                burst.push(block());
                if round % 500 == 0 {
                    lasts.push(heaps::lasting(block));
                }
            }
            // SAFETY: a block and its layout.
            burst[0] = unsafe { Allocator.realloc(burst[0], layout, 48) };
        });
        let pages = |blocks: &[*mut u8]| -> std::collections::BTreeSet<_> {
            blocks.iter().map(|&block| block as usize / HEAP_PAGE_BYTES).collect()
        };
        let (of_burst, of_lasting) = (pages(&burst), pages(&lasts));
        assert!(cfg!(miri) || of_burst.is_disjoint(&of_lasting), "{of_burst:x?} {of_lasting:x?}");
        assert!(cfg!(miri) || burst.iter().all(|&block| owns(block as usize)));
        for block in burst.into_iter().chain(lasts) {
            // SAFETY: each block once, with its layout.
            unsafe { Allocator.dealloc(block, layout) };
        }
        collect();
    }

    #[test]
    fn block_of_any_size_lies_at_a_multiple_of_its_alignment() {
        let check = || {
            let mut blocks = Vec::new();
            for align in [1, 2, 4, 8, 16, 32, 64, 4096] {
                for size in (1..600).chain([1000, 5000, 70_000]) {
                    let layout = Layout::from_size_align(size, align).unwrap();
                    // SAFETY: a layout of some size; a block, its layout, and another size.
                    let (block, zeroed, moved) = unsafe {
                        let moved = Allocator.realloc(Allocator.alloc(layout), layout, size + 40);
                        (Allocator.alloc(layout), Allocator.alloc_zeroed(layout), moved)
                    };
                    // SAFETY: as many bytes as were asked for.
                    let bytes = unsafe { std::slice::from_raw_parts(zeroed, size) };
                    assert!(bytes.iter().all(|&byte| byte == 0), "{layout:?}");
                    let larger = Layout::from_size_align(size + 40, align).unwrap();
                    for (block, layout) in [(block, layout), (zeroed, layout), (moved, larger)] {
                        assert_eq!(block as usize % align, 0, "{layout:?}");
                        // SAFETY: a block and as many bytes as it has.
                        unsafe { block.write_bytes(0xff, layout.size()) };
                        blocks.push((block, layout));
                    }
                }
            }
            for (block, layout) in blocks {
                // SAFETY: each block once, with its layout.
                unsafe { Allocator.dealloc(block, layout) };
            }
        };
        check();
        passing(check);
    }

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
