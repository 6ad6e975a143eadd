//! The executor of one worker: a slab of tasks, a run queue, and memory for futures that is recycled.
//!
//! A task is named by a [`TaskId`]; sockets and timers wake tasks by that name. Leaf futures register
//! `Tasks::current`, not the `Waker` of the context, which does nothing: one task is one unit of waking, and futures
//! that poll several children (a select) do so within it.
//!
//! [`Recycled`] holds a future in memory from the worker's free lists: a connection moves into a request's future and
//! back without an allocation in steady state.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::ptr::NonNull;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::slab::Slab;
use crate::base::heaps;
use crate::base::spares::Spares;

/// Names a task; a stale name wakes nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    index: u32,
    generation: u32,
}

impl TaskId {
    /// Names no task.
    pub const NONE: Self = Self { index: u32::MAX, generation: 0 };

    #[cfg(test)]
    pub(super) fn for_test(index: u32) -> Self {
        Self { index, generation: 1 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    Idle,
    Queued,
    Running,
    /// Woken while running: it runs again.
    RunningWoken,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    state: State,
    /// A panic of it is its own affair.
    isolated: bool,
    /// How deep in connections within the worker it is: what it starts is as deep.
    nesting: u8,
    future: Option<Recycled<dyn Future<Output = ()>>>,
}

/// Room that the run queue keeps when it is idle, in entries.
const QUEUE_ENTRIES_KEPT: usize = 64;

/// All tasks of a worker.
pub(super) struct Tasks {
    slots: RefCell<Slab<Slot>>,
    /// Of the latest task: every name is a new one, whichever slots are given back and come again.
    generation: Cell<u32>,
    queue: RefCell<VecDeque<TaskId>>,
    current: Cell<TaskId>,
    /// How often a task has run so far, whichever.
    runs: Cell<u64>,
    panics: Cell<u64>,
    blocks: Rc<Blocks>,
    #[cfg(test)]
    sabotage: Sabotage,
}

/// A panic to come, in a test.
#[cfg(test)]
#[derive(Debug, Default)]
struct Sabotage {
    /// The first isolated task.
    victim: Cell<Option<TaskId>>,
    /// Points until it panics; zero: it does not.
    points_left: Cell<u64>,
}

impl Tasks {
    pub(super) fn new() -> Self {
        Self {
            slots: RefCell::default(),
            generation: Cell::new(0),
            queue: RefCell::new(heaps::lasting_queue(QUEUE_ENTRIES_KEPT)),
            current: Cell::new(TaskId::NONE),
            runs: Cell::new(0),
            panics: Cell::new(0),
            blocks: Rc::default(),
            #[cfg(test)]
            sabotage: Sabotage::default(),
        }
    }

    /// Starts a task. `isolated`: a panic costs this task only; otherwise it goes up to the caller of [`Tasks::run`].
    pub(super) fn spawn(&self, isolated: bool, future: impl Future<Output = ()> + 'static) -> TaskId {
        self.spawn_with(isolated, || future)
    }

    /// The same with a future that `make` makes where it is to be.
    pub(super) fn spawn_with<F: Future<Output = ()> + 'static>(
        &self,
        isolated: bool,
        make: impl FnOnce() -> F,
    ) -> TaskId {
        let future = self.recycled_with(make).erase();
        let nesting = self.nesting();
        let mut slots = self.slots.borrow_mut();
        let index = slots.insert();
        let generation = self.generation.get().wrapping_add(1);
        self.generation.set(generation);
        slots[index] = Slot { generation, state: State::Queued, isolated, nesting, future: Some(future) };
        let id = TaskId { index, generation };
        #[cfg(test)]
        if isolated && self.sabotage.victim.get().is_none() {
            self.sabotage.victim.set(Some(id));
        }
        self.queue.borrow_mut().push_back(id);
        id
    }

    pub(super) fn recycled<F: Future>(&self, future: F) -> Recycled<F> {
        self.recycled_with(|| future)
    }

    pub(super) fn recycled_with<F: Future>(&self, make: impl FnOnce() -> F) -> Recycled<F> {
        Recycled::new(make, &self.blocks)
    }

    pub(super) fn current(&self) -> TaskId {
        self.current.get()
    }

    /// Which run of a task this is, of all that there were.
    pub(super) fn run_number(&self) -> u64 {
        self.runs.get()
    }

    /// How deep the task that runs is in connections within the worker; 0: it serves one from outside, or nobody's.
    pub(super) fn nesting(&self) -> u8 {
        self.slots.borrow_mut().get_mut(self.current.get().index).map_or(0, |slot| slot.nesting)
    }

    /// The task that runs, and what it starts from now on, is so deep.
    pub(super) fn set_nesting(&self, nesting: u8) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(self.current.get().index) {
            slot.nesting = nesting;
        }
    }

    pub(super) fn wake(&self, id: TaskId) {
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(id.index).filter(|slot| slot.generation == id.generation) else {
            return;
        };
        match slot.state {
            State::Idle => {
                slot.state = State::Queued;
                self.queue.borrow_mut().push_back(id);
            }
            State::Running => slot.state = State::RunningWoken,
            State::Free | State::Queued | State::RunningWoken => {}
        }
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    /// Polls up to `budget` ready tasks. `is_sound` is asked after a panic of an isolated task: whether what the tasks
    /// share can still be trusted. If not, the panic goes on to the caller.
    pub(super) fn run(&self, budget: usize, is_sound: impl Fn() -> bool) {
        for _ in 0..budget {
            let next = self.queue.borrow_mut().pop_front();
            let Some(id) = next else { return };
            self.poll(id, &is_sound);
        }
    }

    /// Lets every task run again.
    pub(super) fn wake_all(&self) {
        let ids: Vec<_> = {
            let slots = self.slots.borrow();
            slots.used().map(|index| TaskId { index, generation: slots[index].generation }).collect()
        };
        ids.into_iter().for_each(|id| self.wake(id));
    }

    /// Tasks that have not finished.
    pub(super) fn alive(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Tasks that ended in a panic.
    pub(super) fn panics(&self) -> u64 {
        self.panics.get()
    }

    /// A place where a test may have the first isolated task panic.
    #[cfg(test)]
    pub(super) fn point_for_test(&self) {
        let Sabotage { victim, points_left } = &self.sabotage;
        if points_left.get() > 0 && victim.get() == Some(self.current()) {
            points_left.set(points_left.get() - 1);
            assert!(points_left.get() > 0, "injected");
        }
    }

    /// Lets the first isolated task panic at the `nth` such place.
    #[cfg(test)]
    pub(super) fn sabotage_for_test(&self, nth: u64) {
        self.sabotage.points_left.set(nth);
    }

    /// Drops every task.
    pub(super) fn clear(&self) {
        loop {
            let next = self.slots.borrow().used().next();
            let Some(index) = next else { break };
            let future = {
                let mut slots = self.slots.borrow_mut();
                slots.remove(index);
                slots[index].state = State::Free;
                slots[index].future.take()
            };
            drop(future);
        }
        self.queue.borrow_mut().clear();
    }

    /// Gives memory of finished tasks back; whether the next call may give more.
    pub(super) fn trim(&self) -> bool {
        self.slots.borrow_mut().trim();
        let mut queue = self.queue.borrow_mut();
        let room = 2 * queue.len();
        heaps::settle_queue(&mut queue, room, QUEUE_ENTRIES_KEPT);
        self.blocks.trim()
    }

    /// Bytes of the table and the run queue, and those of the futures' memory, used or kept.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let queue = self.queue.borrow().capacity() * size_of::<TaskId>();
        (self.slots.borrow().bytes() + queue, self.blocks.bytes.get())
    }

    fn poll(&self, id: TaskId, is_sound: &impl Fn() -> bool) {
        let (taken, isolated) = {
            let mut slots = self.slots.borrow_mut();
            let Some(slot) = slots.get_mut(id.index) else { return };
            if slot.generation != id.generation || slot.state != State::Queued {
                return;
            }
            slot.state = State::Running;
            (slot.future.take(), slot.isolated)
        };
        let Some(mut future) = taken else { return };
        self.current.set(id);
        self.runs.set(self.runs.get().wrapping_add(1));
        let mut context = Context::from_waker(Waker::noop());
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(test)]
            self.point_for_test();
            Pin::new(&mut future).poll(&mut context)
        }));
        if matches!(outcome, Ok(Poll::Pending)) {
            self.current.set(TaskId::NONE);
            let mut slots = self.slots.borrow_mut();
            let slot = &mut slots[id.index];
            slot.future = Some(future);
            if slot.state == State::RunningWoken {
                slot.state = State::Queued;
                self.queue.borrow_mut().push_back(id);
            } else {
                slot.state = State::Idle;
            }
            return;
        }
        // A destructor may panic too.
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(future)));
        for panic in [outcome.map(drop), dropped].into_iter().filter_map(Result::err) {
            self.panics.set(self.panics.get() + 1);
            if !isolated || !is_sound() {
                resume_unwind(panic);
            }
        }
        self.current.set(TaskId::NONE);
        let mut slots = self.slots.borrow_mut();
        slots[id.index].state = State::Free;
        slots.remove(id.index);
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("alive", &self.alive()).field("panics", &self.panics()).finish()
    }
}

// === memory for futures ===

/// Step between two size classes, in bytes.
const CLASS_BYTES: usize = 128;
/// Futures beyond this size come from the allocator directly.
const CLASSED_BYTES_MAX: usize = 32 * 1024;
const ALIGN: usize = 16;

/// Free memory blocks by size class.
#[derive(Debug, Default)]
struct Blocks {
    classes: RefCell<Vec<Spares<NonNull<u8>>>>,
    /// Bytes of all blocks, in use and free.
    bytes: Cell<usize>,
}

impl Blocks {
    fn layout(size: usize, align: usize) -> Layout {
        let classed = size.div_ceil(CLASS_BYTES).max(1) * CLASS_BYTES;
        let size = if size <= CLASSED_BYTES_MAX && align <= ALIGN { classed } else { size };
        // The arguments come from `size_of_val` and `align_of_val` of a real type, rounded up by less than a page.
        Layout::from_size_align(size, align.max(ALIGN)).unwrap_or(Layout::new::<[u128; 8]>())
    }

    fn class(layout: Layout) -> Option<usize> {
        (layout.size() <= CLASSED_BYTES_MAX
            && layout.align() == ALIGN
            && layout.size().is_multiple_of(CLASS_BYTES))
        .then(|| layout.size() / CLASS_BYTES)
    }

    fn take(&self, layout: Layout) -> NonNull<u8> {
        let free = Self::class(layout)
            .and_then(|class| self.classes.borrow_mut().get_mut(class).and_then(Spares::pop));
        free.unwrap_or_else(|| {
            self.bytes.set(self.bytes.get() + layout.size());
            // SAFETY: the size is never zero (see `layout`).
            let block = unsafe { alloc(layout) };
            NonNull::new(block).unwrap_or_else(|| handle_alloc_error(layout))
        })
    }

    fn put(&self, block: NonNull<u8>, layout: Layout) {
        if let Some(class) = Self::class(layout) {
            let mut classes = self.classes.borrow_mut();
            if classes.len() <= class {
                heaps::lasting(|| classes.resize_with(class + 1, Spares::default));
            }
            classes[class].push(block);
        } else {
            self.free(block, layout);
        }
    }

    fn free(&self, block: NonNull<u8>, layout: Layout) {
        self.bytes.set(self.bytes.get() - layout.size());
        // SAFETY: taken from `take` with the same layout, and not used any more: the callers hold the only handle.
        unsafe { dealloc(block.as_ptr(), layout) };
    }

    /// Frees what was not needed since the last trim; whether the next may free more.
    fn trim(&self) -> bool {
        let mut more = false;
        for (class, blocks) in self.classes.borrow_mut().iter_mut().enumerate() {
            let layout = Self::layout(class * CLASS_BYTES, ALIGN);
            more |= blocks.trim(|block| self.free(block, layout));
        }
        more
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let classes = std::mem::take(self.classes.get_mut());
        for (class, mut blocks) in classes.into_iter().enumerate() {
            while let Some(block) = blocks.pop() {
                self.free(block, Self::layout(class * CLASS_BYTES, ALIGN));
            }
        }
    }
}

/// A pinned future in recycled memory. Polling it polls the future.
pub struct Recycled<F: ?Sized> {
    future: NonNull<F>,
    blocks: Rc<Blocks>,
}

impl<F> Recycled<F> {
    /// The future is made once there is a block for it: nothing can fail between the two, so it can be made in the block.
    fn new(make: impl FnOnce() -> F, blocks: &Rc<Blocks>) -> Self {
        let block = blocks.take(Blocks::layout(size_of::<F>(), align_of::<F>())).cast::<F>();
        let future = make();
        // SAFETY: the block is big and aligned enough for `F` and belongs to nobody else.
        // JUSTIFICATION: `Box` would allocate per request; 0 allocations per request is a contract.
        unsafe { block.write(future) };
        Self { future: block, blocks: Rc::clone(blocks) }
    }
}

impl<F: Future<Output = ()> + 'static> Recycled<F> {
    fn erase(self) -> Recycled<dyn Future<Output = ()>> {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the handle is never dropped, so its `Rc` is moved out exactly once.
        let blocks = unsafe { std::ptr::read(&raw const this.blocks) };
        Recycled { future: this.future, blocks }
    }
}

impl<F: Future + ?Sized> Future for Recycled<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the block is owned by this handle alone.
        let future = unsafe { self.future.as_mut() };
        // SAFETY: the future stays where it is until it is dropped in place.
        unsafe { Pin::new_unchecked(future) }.poll(context)
    }
}

impl<F: ?Sized> Drop for Recycled<F> {
    fn drop(&mut self) {
        // SAFETY: alive and owned; read before the drop below.
        let value = unsafe { self.future.as_ref() };
        let layout = Blocks::layout(size_of_val(value), align_of_val(value));
        // Returns the block even when the future's destructor panics.
        struct Return<'a>(&'a Blocks, NonNull<u8>, Layout);
        impl Drop for Return<'_> {
            fn drop(&mut self) {
                self.0.put(self.1, self.2);
            }
        }
        let _return = Return(&self.blocks, self.future.cast(), layout);
        // SAFETY: dropped once, here.
        unsafe { self.future.drop_in_place() };
    }
}

impl<F: ?Sized> fmt::Debug for Recycled<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recycled")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[test]
    fn woken_tasks_run_in_order_and_finish() {
        let tasks = Rc::new(Tasks::new());
        let log = Rc::new(RefCell::new(Vec::new()));
        let ids: Vec<_> = (0..3)
            .map(|n| {
                let log = Rc::clone(&log);
                let mut polls = 0;
                tasks.spawn(
                    false,
                    poll_fn(move |_| {
                        log.borrow_mut().push(n);
                        polls += 1;
                        if polls == 2 { Poll::Ready(()) } else { Poll::Pending }
                    }),
                )
            })
            .collect();
        tasks.run(10, || true);
        assert_eq!(tasks.alive(), 3);
        tasks.wake(ids[2]);
        tasks.wake(ids[0]);
        tasks.wake(ids[2]);
        tasks.run(10, || true);
        assert_eq!(*log.borrow(), [0, 1, 2, 2, 0]);
        assert_eq!(tasks.alive(), 1);
        tasks.wake(ids[0]);
        tasks.run(10, || true);
        assert_eq!(log.borrow().len(), 5, "a finished task's name wakes nobody");
        assert_eq!(tasks.run_number(), 5);
        tasks.clear();
        assert_eq!(tasks.alive(), 0);
    }

    #[test]
    fn name_of_a_task_whose_slot_was_given_back_wakes_no_successor() {
        let tasks = Tasks::new();
        let polls = Rc::new(Cell::new(0));
        let old: Vec<_> = (0..100).map(|_| tasks.spawn(false, async {})).collect();
        tasks.run(100, || true);
        let full = tasks.bytes().0;
        tasks.trim();
        assert!(tasks.bytes().0 < full / 2, "{} of {full} bytes", tasks.bytes().0);
        let seen = Rc::clone(&polls);
        let new = tasks.spawn(
            false,
            poll_fn(move |_| {
                seen.set(seen.get() + 1);
                Poll::<()>::Pending
            }),
        );
        tasks.run(100, || true);
        assert!(old.iter().any(|id| id.index == new.index) && !old.contains(&new));
        old.iter().for_each(|&id| tasks.wake(id));
        assert!(!tasks.has_ready() && polls.get() == 1);
        tasks.wake(new);
        assert!(tasks.has_ready());
        tasks.clear();
        tasks.trim();
        tasks.trim();
        assert_eq!(tasks.bytes().1, 0, "no future's memory is left");
    }

    #[test]
    fn panicking_task_costs_only_itself() {
        let tasks = Tasks::new();
        let ran = Rc::new(Cell::new(false));
        tasks.spawn(true, async { panic!("injected") });
        let seen = Rc::clone(&ran);
        tasks.spawn(false, async move { seen.set(true) });
        tasks.run(10, || true);
        assert!(ran.get());
        assert_eq!((tasks.panics(), tasks.alive()), (1, 0));
    }

    #[test]
    fn panic_of_the_workers_own_task_or_in_shared_state_goes_on() {
        let tasks = Tasks::new();
        let run = |sound: bool| catch_unwind(AssertUnwindSafe(|| tasks.run(10, || sound)));
        tasks.spawn(false, async { panic!("injected") });
        assert!(run(true).is_err());
        tasks.spawn(true, async { panic!("injected") });
        assert!(run(false).is_err());
        tasks.spawn(true, async { panic!("injected") });
        assert!(run(true).is_ok());
        assert_eq!(tasks.panics(), 3);
        tasks.clear();
    }

    #[test]
    fn finished_future_memory_is_used_again() {
        let tasks = Tasks::new();
        let first = tasks.recycled(async { [1u8; 100] });
        let address = first.future.cast::<u8>();
        drop(first);
        let second = tasks.recycled(async { [2u8; 90] });
        assert_eq!(second.future.cast::<u8>(), address);
        drop(second);
        tasks.trim();
    }
}
