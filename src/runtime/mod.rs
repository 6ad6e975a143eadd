//! The event loop: io_uring, epoll and sim back ends, tasks, timers, mailboxes. [unsafe room 2]
//!
//! A worker calls [`Runtime::turn`] for ever: visit the kernel once, note what happened, fire timers, run the tasks
//! that became ready. Everything is single-threaded; only a mailbox crosses threads.
pub mod affinity;
pub mod allocator;
mod backend;
pub mod deferred;
mod endpoint;
mod epoll;
mod internal;
pub mod listen;
pub mod mailbox;
mod pacing;
pub mod packet;
mod pipe;
mod probe;
mod process;
mod refusal;
mod rest;
mod ring;
#[cfg(test)]
pub mod sim;
mod slab;
mod socket;
mod stats;
mod sys;
mod task;
mod tcp;
mod timer;
mod waker;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use allocator::Surplus;
use backend::{Backend, Patience, Scope, Streams};
use endpoint::Parcel;
use internal::Internal;
use pipe::Pipes;
pub use process::{give_back_startup_pages, local_address, raise_descriptor_limit};
use rest::{Found, Rest};
use socket::{Socket, SocketKey, Sockets};
use task::Tasks;
use timer::{TimerId, Wheel};

use crate::base::clock::{Clock, Now};
use crate::base::edits::Edits;
use crate::base::limits;
use crate::buffer::Pool;

pub use endpoint::{Accepted, Endpoint};
pub use pipe::{Pipe, Spliced};
pub use probe::{BackendInfo, IoBackend, IoChoice, LevelSurvey, RingOptions, survey};
pub use refusal::{Cause, Refusal};
pub use ring::RingLevel;
pub use stats::Stats;
pub use task::{Recycled, TaskId};
pub use tcp::{Keepalive, RawOption, Target, TcpListener, TcpStream};

/// A worker's runtime. Cloning shares it.
#[derive(Clone)]
pub struct Runtime(Rc<Shared>);

struct Shared {
    io: RefCell<Io>,
    tasks: Tasks,
    wheel: RefCell<Wheel>,
    pool: Pool,
    pipes: Rc<Pipes>,
    edits: Edits,
    clock: Cell<Clock>,
    now: Cell<Now>,
    /// Woken when the mailbox is rung.
    mail_task: Cell<TaskId>,
    /// When memory was last given back and the wall clock compared.
    upkeep: Cell<Now>,
    /// Tasks ran since the last round of upkeep: another is due within a second even if nothing happens.
    upkeep_owed: Cell<bool>,
    /// That has been done, and the owner has not seen it.
    trimmed: Cell<bool>,
    surplus: RefCell<Surplus>,
    /// Tasks ran since the last round of upkeep.
    has_run: Cell<bool>,
    /// Connections are paced unless they ask for something else.
    is_paced: bool,
    /// `None` in the simulation, where what turns there are is the seed's affair.
    rest: RefCell<Option<Rest>>,
    /// What the last round of upkeep found.
    found: Cell<Found>,
    /// The waker that was made last, and for which task.
    last_waker: RefCell<Option<(TaskId, Waker)>>,
    /// Who makes what tasks wait for.
    maker: deferred::Maker,
}

struct Io {
    driver: Driver,
    internal: Internal,
    sockets: Sockets,
    starved: Vec<TaskId>,
    stats: Stats,
}

enum Driver {
    Epoll(epoll::Epoll),
    Ring(Box<ring::Ring>),
    #[cfg(test)]
    Sim(sim::Sim),
}

impl Driver {
    fn backend(&mut self) -> &mut dyn Backend {
        match self {
            Self::Epoll(epoll) => epoll,
            Self::Ring(ring) => &mut **ring,
            #[cfg(test)]
            Self::Sim(sim) => sim,
        }
    }

    fn streams(&mut self) -> &mut dyn Streams {
        match self {
            Self::Epoll(epoll) => epoll,
            Self::Ring(ring) => &mut **ring,
            #[cfg(test)]
            Self::Sim(sim) => sim,
        }
    }

    fn is_simulated(&self) -> bool {
        match self {
            Self::Epoll(_) | Self::Ring(_) => false,
            #[cfg(test)]
            Self::Sim(_) => true,
        }
    }

    /// What tells the wall time of a moment.
    fn clock(&self) -> Clock {
        match self {
            Self::Epoll(_) | Self::Ring(_) => Clock::start(),
            #[cfg(test)]
            Self::Sim(_) => Clock::fixed_for_test(),
        }
    }

    /// The present. The simulation's time is its own.
    fn now(&self, clock: Clock) -> Now {
        match self {
            Self::Epoll(_) | Self::Ring(_) => clock.now(),
            #[cfg(test)]
            Self::Sim(sim) => Now(sim.network().now_ns()),
        }
    }

    /// An accepted connection, as a socket of this runtime.
    fn unpack(&self, accepted: Accepted) -> Unpacked {
        match (self, accepted.0) {
            (_, Parcel::Fd(fd)) => Unpacked::Endpoint(Endpoint::Fd(fd)),
            (_, Parcel::Internal(key)) => Unpacked::Internal(key),
            #[cfg(test)]
            (Self::Sim(sim), Parcel::Sim(id)) => Unpacked::Endpoint(sim.network().attach(id)),
            #[cfg(test)]
            (_, Parcel::Sim(_)) => unreachable!("the world's sockets stay in it"),
        }
    }

    /// A socket to connect from.
    fn open(&self, to: Target<'_>) -> io::Result<Endpoint> {
        match (self, to) {
            (Self::Epoll(_) | Self::Ring(_), Target::Ip(to)) => sys::tcp_socket(to).map(Endpoint::Fd),
            (Self::Epoll(_) | Self::Ring(_), Target::Pipe(_)) => sys::unix_socket().map(Endpoint::Fd),
            (_, Target::Internal(_)) => Err(io::ErrorKind::Unsupported.into()),
            #[cfg(test)]
            (Self::Sim(sim), Target::Ip(_) | Target::Pipe(_)) => Ok(sim.open()),
        }
    }
}

/// What an accepted connection is.
enum Unpacked {
    /// A socket that is not known here yet.
    Endpoint(Endpoint),
    /// One of the table.
    Internal(SocketKey),
}

/// Who moves the bytes of a socket: the one question that a connection of the kernel's costs beside those of the worker's own.
#[inline]
fn streams<'a>(driver: &'a mut Driver, internal: &'a mut Internal, key: SocketKey) -> &'a mut dyn Streams {
    if key.is_internal() { internal } else { driver.streams() }
}

/// Time between two rounds of upkeep.
const UPKEEP_NS: u64 = 1_000_000_000;

impl Runtime {
    /// A runtime on the best back end that the choice and this host allow. It also watches a mailbox's bell. Made on
    /// the thread that will run it.
    ///
    /// # Errors
    /// No descriptor or address space left, or io_uring was demanded and does not work.
    pub fn new(choice: IoChoice, bell: BorrowedFd<'_>) -> io::Result<(Self, BackendInfo)> {
        let pool = Pool::new()?;
        let (driver, info) = probe::open(choice, bell.as_raw_fd(), &pool)?;
        Ok((Self::with_driver(driver, pool), info))
    }

    /// A runtime on epoll that also watches a mailbox's bell.
    ///
    /// # Errors
    /// No descriptor or address space left.
    pub fn epoll(bell: BorrowedFd<'_>) -> io::Result<Self> {
        let choice = IoChoice { backend: IoBackend::Epoll, level: None };
        Self::new(choice, bell).map(|(runtime, _)| runtime)
    }

    /// A runtime in a simulated world. Its time is the world's; the bell is a real one.
    ///
    /// # Errors
    /// No address space left.
    #[cfg(test)]
    pub fn sim(network: &sim::SimNetwork, bell: BorrowedFd<'_>) -> io::Result<Self> {
        let driver = Driver::Sim(sim::Sim::new(network, bell.as_raw_fd()));
        Ok(Self::with_driver(driver, Pool::new()?))
    }

    fn with_driver(driver: Driver, pool: Pool) -> Self {
        let clock = driver.clock();
        let now = driver.now(clock);
        let pipes = Pipes::new(driver.is_simulated());
        let rest = RefCell::new((!driver.is_simulated()).then(Rest::default));
        let is_paced = !driver.is_simulated() && pacing::is_default();
        let io = Io {
            driver,
            internal: Internal::default(),
            sockets: Sockets::default(),
            starved: Vec::new(),
            stats: Stats::default(),
        };
        Self(Rc::new(Shared {
            io: RefCell::new(io),
            tasks: Tasks::new(),
            wheel: RefCell::new(Wheel::new()),
            pool,
            pipes,
            edits: Edits::default(),
            clock: Cell::new(clock),
            now: Cell::new(now),
            mail_task: Cell::new(TaskId::NONE),
            last_waker: RefCell::default(),
            maker: deferred::Maker::default(),
            upkeep: Cell::new(Now(0)),
            upkeep_owed: Cell::new(false),
            trimmed: Cell::new(false),
            surplus: RefCell::default(),
            has_run: Cell::new(false),
            is_paced,
            rest,
            found: Cell::default(),
        }))
    }

    /// Monotonic time of this turn.
    pub fn now(&self) -> Now {
        self.0.now.get()
    }

    /// Wall time of this turn, nanoseconds since the epoch.
    pub fn wall_ns(&self) -> u64 {
        self.0.clock.get().wall_ns(self.now())
    }

    /// The worker's chunks.
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Starts a task of the worker's own: a panic of it unwinds out of [`Runtime::turn`].
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) -> TaskId {
        self.edit(|| self.0.tasks.spawn(false, future))
    }

    /// Starts a connection's task: a panic of it is counted and costs this task only, unless it has cut off an edit.
    pub fn spawn_isolated(&self, future: impl Future<Output = ()> + 'static) -> TaskId {
        self.edit(|| self.0.tasks.spawn(true, future))
    }

    /// The same with a future that `make` makes, in place where the compiler can: a large one is not copied there. `make` does
    /// not panic, or the memory is lost.
    pub fn spawn_isolated_with<F: Future<Output = ()> + 'static>(&self, make: impl FnOnce() -> F) -> TaskId {
        self.edit(|| self.0.tasks.spawn_with(true, make))
    }

    /// Runs an edit of what the tasks of this core share. A panic within means that none of it can be trusted.
    pub fn edit<T>(&self, edit: impl FnOnce() -> T) -> T {
        self.0.edits.run(edit)
    }

    /// An empty pipe to splice through; `None`, counted, when there is none.
    pub fn pipe(&self) -> Option<Pipe> {
        self.0.pipes.take()
    }

    /// Counts that a socket refused to splice.
    pub fn splice_refused(&self) {
        self.0.pipes.refuse();
    }

    /// Puts a future into recycled memory.
    pub fn recycled<F: Future>(&self, future: F) -> Recycled<F> {
        self.0.tasks.recycled(future)
    }

    /// The same of a future that `make` makes, in place where the compiler can: a large one is not copied there. `make` does
    /// not panic, or the memory is lost.
    pub fn recycled_with<F: Future>(&self, make: impl FnOnce() -> F) -> Recycled<F> {
        self.0.tasks.recycled_with(make)
    }

    /// The task that runs.
    pub fn current_task(&self) -> TaskId {
        self.0.tasks.current()
    }

    /// Tells one run of a task from all others, its own and other tasks': until it ends nothing happens but what it does.
    pub fn run_number(&self) -> u64 {
        self.0.tasks.run_number()
    }

    /// Lets a task run again.
    pub fn wake(&self, task: TaskId) {
        self.edit(|| self.0.tasks.wake(task));
    }

    /// Lets every task run again: something changed that any of them may wait for (a drain begins).
    pub fn wake_all(&self) {
        self.0.tasks.wake_all();
    }

    /// Ready when the mailbox was rung since the last call by this task.
    pub async fn mailbox_rung(&self) {
        let mut waited = false;
        poll_fn(|_| {
            self.0.mail_task.set(self.current_task());
            if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// A timer for the task that first waits with it.
    pub fn timer(&self) -> Timer {
        Timer { runtime: self.clone(), id: Cell::new(None) }
    }

    /// Waits until a moment.
    pub async fn sleep_until(&self, due: Now) {
        let timer = self.timer();
        timer.at(due, std::future::pending::<()>()).await.unwrap_or(());
    }

    /// One turn: visits the kernel (waiting only with nothing to do), fires timers, runs ready tasks.
    ///
    /// # Errors
    /// The kernel refuses the visit itself: the worker cannot go on.
    pub fn turn(&self) -> io::Result<()> {
        let patience = self.patience();
        let rung = self.with_scope(|driver, scope| driver.backend().wait(scope, patience))?;
        self.0.now.set(self.0.io.borrow().driver.now(self.0.clock.get()));
        self.0.wheel.borrow_mut().advance(self.now().millis(), |task| self.0.tasks.wake(task));
        if rung {
            self.0.tasks.wake(self.0.mail_task.get());
        }
        if self.0.tasks.has_ready() {
            self.0.upkeep_owed.set(true);
            self.0.has_run.set(true);
            self.0.tasks.run(limits::POLLS_PER_TURN, || self.0.edits.are_whole() && self.0.pool.is_whole());
        }
        self.upkeep();
        Ok(())
    }

    fn patience(&self) -> Patience {
        if self.0.tasks.has_ready() {
            return Patience::None;
        }
        let now = self.now().millis();
        let timer = self.0.wheel.borrow().next_due().map(|due| due.saturating_sub(now).max(1));
        // Starved readers look again soon, should the pool be refilled by other means than their own turn.
        let starved = (!self.0.io.borrow().starved.is_empty()).then_some(1);
        // The surplus goes back soon, even if nothing else happens; a worker at rest then sleeps.
        let upkeep = self.0.upkeep_owed.get().then_some(UPKEEP_NS / 1_000_000);
        let first = timer.into_iter().chain(starved).chain(upkeep).min();
        first.map_or(Patience::Forever, |ms| Patience::Until { now, ms })
    }

    /// Once a second at most: gives unused memory back, follows the wall clock; each turn: feeds the starved.
    fn upkeep(&self) {
        let starved = {
            let mut io = self.0.io.borrow_mut();
            if io.starved.is_empty() { Vec::new() } else { std::mem::take(&mut io.starved) }
        };
        for task in starved {
            self.0.tasks.wake(task);
        }
        let now = self.now();
        if now.0 - self.0.upkeep.get().0 < UPKEEP_NS {
            return;
        }
        self.0.upkeep.set(now);
        self.0.surplus.borrow_mut().note();
        let more = self.with_scope(|driver, scope| {
            scope.sockets.trim();
            scope.starved.shrink_to(0);
            driver.backend().trim()
        });
        let more = self.0.pool.trim() | self.0.pipes.trim() || more;
        self.0.wheel.borrow_mut().trim();
        // A block of it would keep a page of a burst's.
        self.0.last_waker.take();
        let has_run = self.0.has_run.replace(false);
        let found = self.0.rest.borrow_mut().as_mut().map(|rest| rest.round(has_run)).unwrap_or_default();
        self.0.found.set(found);
        self.0.upkeep_owed.set(self.0.tasks.trim() || more || found == Found::Awake);
        let mut clock = self.0.clock.get();
        clock.resync(now);
        self.0.clock.set(clock);
        self.0.trimmed.set(true);
    }

    /// Whether unused memory was given back since the last call, which is at most once a second: the time for the owner to
    /// do the same with its own, and then to call [`Runtime::trimmed`].
    pub fn has_trimmed(&self) -> bool {
        self.0.trimmed.replace(false)
    }

    /// The owner has freed what it could, and may free more a second later, even if nothing happens until then. What
    /// became free in sum goes from the allocator to the kernel if it is worth it, or if the worker has come to rest; behind a
    /// burst, and when all workers are at rest, so do the pages of the program that they have brought in.
    pub fn trimmed(&self, more: bool) {
        if more {
            self.0.upkeep_owed.set(true);
        }
        if self.0.surplus.borrow_mut().give_back() {
            process::give_back_code();
        }
        if let Found::ComesToRest { last } = self.0.found.get() {
            allocator::collect();
            if last {
                process::give_back_at_rest();
            }
        }
    }

    /// What the runtime's parts take of the heap.
    pub fn memory(&self) -> Memory {
        let (tasks, futures) = self.0.tasks.bytes();
        let io = self.0.io.borrow();
        Memory {
            heap: allocator::live_bytes_here(),
            tasks,
            futures,
            sockets: io.sockets.bytes(),
            socket_queues: io.sockets.queue_bytes(),
            timers: self.0.wheel.borrow().bytes(),
        }
    }

    /// Tasks alive, sockets open, operations with the kernel, chunks in use: all zero when nothing leaks.
    pub fn leaks(&self) -> Leaks {
        let mut io = self.0.io.borrow_mut();
        let held = io.driver.backend().chunks_held();
        Leaks {
            tasks: self.0.tasks.alive(),
            sockets: io.sockets.open(),
            operations: io.sockets.ops(),
            chunks: self.0.pool.chunks_in_use() as usize - held,
        }
    }

    /// What happened so far.
    pub fn stats(&self) -> Stats {
        Stats {
            splices_refused: self.0.pipes.refused(),
            pipes: self.0.pipes.in_use() as u64,
            ..self.0.io.borrow().stats
        }
    }

    /// Asks for pipes of another size.
    #[cfg(test)]
    pub(crate) fn ask_of_pipes_for_test(&self, bytes: usize) {
        self.0.pipes.asked.set(Some(bytes));
    }

    /// Lets the first connection's task panic at its `nth` operation or poll.
    #[cfg(test)]
    pub(crate) fn sabotage_for_test(&self, nth: u64) {
        self.0.tasks.sabotage_for_test(nth);
    }

    /// Tasks that ended in a panic so far.
    pub fn panics(&self) -> u64 {
        self.0.tasks.panics()
    }

    /// Drops all tasks, and with them their sockets; breaks the cycle of tasks that hold the runtime.
    pub fn shut_down(&self) {
        self.0.tasks.clear();
    }

    fn adopt(&self, endpoint: Endpoint, listener: bool) -> io::Result<SocketKey> {
        self.with_scope(|driver, scope| {
            let key = scope.sockets.insert(endpoint);
            scope.sockets.live(key).listener = listener;
            driver.backend().register(scope, key).map(|()| key).inspect_err(|_| {
                scope.sockets.remove(key);
            })
        })
    }

    fn close(&self, key: SocketKey) {
        self.with_io(|driver, internal, scope| streams(driver, internal, key).close(scope, key));
    }

    /// Bytes of pool memory that a connection within the worker may hold for each of its ends, from now on.
    pub fn set_internal_buffer(&self, bytes: usize) {
        self.0.io.borrow_mut().internal.set_buffer(bytes);
    }

    fn with_internal<T>(&self, work: impl FnOnce(&mut Internal, &mut Scope<'_>) -> T) -> T {
        #[cfg(test)]
        self.0.tasks.point_for_test();
        self.with_io(|_, internal, scope| work(internal, scope))
    }

    fn with_streams<T>(&self, key: SocketKey, work: impl FnOnce(&mut dyn Streams, &mut Scope<'_>) -> T) -> T {
        #[cfg(test)]
        self.0.tasks.point_for_test();
        self.with_io(|driver, internal, scope| work(streams(driver, internal, key), scope))
    }

    fn with_backend<T>(&self, work: impl FnOnce(&mut dyn Backend, &mut Scope<'_>) -> T) -> T {
        #[cfg(test)]
        self.0.tasks.point_for_test();
        self.with_scope(|driver, scope| work(driver.backend(), scope))
    }

    fn with_scope<T>(&self, work: impl FnOnce(&mut Driver, &mut Scope<'_>) -> T) -> T {
        self.with_io(|driver, _, scope| work(driver, scope))
    }

    fn with_io<T>(&self, work: impl FnOnce(&mut Driver, &mut Internal, &mut Scope<'_>) -> T) -> T {
        let Io { driver, internal, sockets, starved, stats } = &mut *self.0.io.borrow_mut();
        let (tasks, pool) = (&self.0.tasks, &self.0.pool);
        self.edit(|| work(driver, internal, &mut Scope { sockets, tasks, pool, starved, stats }))
    }

    fn with_socket<T>(&self, key: SocketKey, work: impl FnOnce(&mut Socket, TaskId) -> T) -> T {
        #[cfg(test)]
        self.0.tasks.point_for_test();
        self.edit(|| work(self.0.io.borrow_mut().sockets.live(key), self.0.tasks.current()))
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

/// What a runtime still holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaks {
    /// Tasks that have not finished.
    pub tasks: usize,
    /// Sockets in the table.
    pub sockets: usize,
    /// Operations with the kernel.
    pub operations: usize,
    /// Pool chunks in use.
    pub chunks: usize,
}

/// Bytes of the heap, by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Allocated by this thread and not freed, less what it freed of others'.
    pub heap: i64,
    /// The table of tasks and the run queue.
    pub tasks: usize,
    /// Memory of the tasks' futures, in use and kept for the next.
    pub futures: usize,
    /// The table of sockets.
    pub sockets: usize,
    /// Lists of chunks that wait at sockets, and addresses of connects: from a sample of the sockets where there are many.
    pub socket_queues: usize,
    /// The timer wheel.
    pub timers: usize,
}

/// A timer of one task, shared by all deadlines that task waits for.
///
/// It is armed lazily: a deadline that lies behind the armed moment costs nothing. When the timer fires early for it,
/// the task looks at its deadlines and arms again. So a connection whose every request sets a 15 s deadline touches the
/// wheel once in 15 s.
#[derive(Debug)]
pub struct Timer {
    runtime: Runtime,
    /// `None` until the first wait, which makes it the current task's.
    id: Cell<Option<TimerId>>,
}

/// The deadline came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl Timer {
    /// Makes it the current task's now and not with its first deadline. For tasks that live as long as the core: the
    /// entries of those that come first do not lie among a burst's.
    pub fn claim(&self) {
        if self.id.get().is_none() {
            let task = self.runtime.current_task();
            self.id.set(Some(self.runtime.0.wheel.borrow_mut().add(task)));
        }
    }

    /// Ready once `due` has come. Pending wakes the timer's task then, or earlier.
    pub fn poll_at(&self, due: Now) -> Poll<()> {
        if self.runtime.now() >= due {
            return Poll::Ready(());
        }
        // Round up: a timer never fires before its moment.
        let mut wheel = self.runtime.0.wheel.borrow_mut();
        let id = self.id.get().unwrap_or_else(|| wheel.add(self.runtime.current_task()));
        self.id.set(Some(id));
        wheel.arm_by(id, due.0.div_ceil(1_000_000));
        Poll::Pending
    }

    /// Runs a future until `due`.
    ///
    /// # Errors
    /// [`Elapsed`] when the moment came first.
    pub async fn at<F: Future>(&self, due: Now, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            self.poll_at(due).map(|()| Err(Elapsed))
        })
        .await
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(id) = self.id.get() {
            self.runtime.0.wheel.borrow_mut().remove(id);
        }
    }
}
