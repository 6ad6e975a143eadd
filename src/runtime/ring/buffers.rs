//! A group of provided buffers: pool chunks that the kernel may pick when bytes arrive.
//!
//! The ring of buffer descriptions is our own memory (never mapped by the kernel). Only a few chunks are in it at a
//! time, so that the working set follows the load and not the pool; it is topped up before each visit to the kernel.
//!
//! Invariant: a chunk is in `held` from the moment its address is published until the completion that names it, or
//! until it is taken back while no operation can pick from the group.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::super::sys;
use super::queue::Queue;
use crate::buffer::{ChunkMut, ChunkSize, Pool};

#[derive(Debug)]
pub(super) struct Buffers {
    group: u16,
    size: ChunkSize,
    memory: sys::Pages,
    entries: u16,
    /// Entries ever published, modulo 2^16; what the kernel reads.
    tail: u16,
    /// Chunks with the kernel, by buffer id.
    held: Vec<Option<ChunkMut>>,
    free: Vec<u16>,
    resident: u16,
    /// A completion has named one of the chunks since somebody last asked.
    was_used: bool,
}

impl Buffers {
    /// Registers an empty group of up to `entries` buffers (a power of two).
    ///
    /// # Errors
    /// `EINVAL`: no buffer rings in this kernel; `ENOMEM`.
    pub(super) fn register(queue: &Queue, group: u16, size: ChunkSize, entries: u16) -> io::Result<Self> {
        let memory = sys::Pages::new(usize::from(entries) * size_of::<BufRingEntry>())?;
        let address = memory.address().as_ptr() as u64;
        // SAFETY: the pages live as long as this value, which the ring drops after its queue.
        unsafe { queue.submitter().register_buf_ring_with_flags(address, entries, group, 0) }?;
        let held = (0..entries).map(|_| None).collect();
        Ok(Self {
            group,
            size,
            memory,
            entries,
            tail: 0,
            held,
            free: (0..entries).rev().collect(),
            resident: 0,
            was_used: false,
        })
    }

    pub(super) fn group(&self) -> u16 {
        self.group
    }

    /// Chunks that the kernel may pick from.
    pub(super) fn resident(&self) -> u16 {
        self.resident
    }

    /// Whether the kernel has used any since the last call.
    pub(super) fn was_used(&mut self) -> bool {
        std::mem::take(&mut self.was_used)
    }

    /// Adds chunks until `target` are with the kernel or the pool has no more.
    pub(super) fn top_up(&mut self, pool: &Pool, target: u16) {
        let before = self.tail;
        while self.resident < target.min(self.entries) {
            let Some(id) = self.free.pop() else { break };
            let Some(chunk) = pool.alloc(self.size) else {
                self.free.push(id);
                break;
            };
            let index = usize::from(self.tail & (self.entries - 1));
            let entry = self.entry(index);
            entry.set_addr(chunk.as_ptr() as u64);
            entry.set_len(chunk.capacity() as u32);
            entry.set_bid(id);
            self.held[usize::from(id)] = Some(chunk);
            self.tail = self.tail.wrapping_add(1);
            self.resident += 1;
        }
        if self.tail != before {
            self.publish();
        }
    }

    /// The chunk that a completion names.
    pub(super) fn take(&mut self, id: u16) -> Option<ChunkMut> {
        let chunk = self.held.get_mut(usize::from(id))?.take()?;
        self.free.push(id);
        self.resident -= 1;
        self.was_used = true;
        Some(chunk)
    }

    /// Takes every chunk back. Only while no operation of the group is with the kernel: nothing reads the tail then, and
    /// with the tail moved back to the kernel's head the group is empty.
    pub(super) fn take_back(&mut self) {
        self.shrink(0);
    }

    /// Takes the chunks that were published last back until `target` are left. Only while the kernel cannot pick one, and
    /// every completion that names one has been taken.
    pub(super) fn shrink(&mut self, target: u16) {
        let surplus = self.resident.saturating_sub(target);
        self.tail = self.tail.wrapping_sub(surplus);
        self.publish();
        for offset in 0..surplus {
            let id = self.entry(usize::from(self.tail.wrapping_add(offset) & (self.entries - 1))).bid();
            self.held[usize::from(id)] = None;
            self.free.push(id);
        }
        self.resident -= surplus;
    }

    fn entry(&mut self, index: usize) -> &mut BufRingEntry {
        debug_assert!(index < usize::from(self.entries));
        let first: NonNull<BufRingEntry> = self.memory.address().cast();
        // SAFETY: the index is below the number of entries that the pages hold (masked by the caller).
        let mut entry = unsafe { first.add(index) };
        // SAFETY: zeroed pages are valid entries; the kernel does not read this one before the tail passes it.
        unsafe { entry.as_mut() }
    }

    fn publish(&mut self) {
        let first: NonNull<BufRingEntry> = self.memory.address().cast();
        // SAFETY: the address of the first entry of a live, zeroed ring.
        let tail = unsafe { BufRingEntry::tail(first.as_ptr()) }.cast_mut();
        // SAFETY: aligned, alive; the kernel only reads it, and only atomically.
        unsafe { AtomicU16::from_ptr(tail) }.store(self.tail, Ordering::Release);
    }
}
