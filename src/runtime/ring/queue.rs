//! The submission and completion queues: set up by level, entered once per turn.
//!
//! Submission never fails towards the caller: what the queue has no room for waits in a backlog, in order, and goes
//! with the next visit. Order matters: a cancel by descriptor must reach the kernel before the close that follows it.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::register::Restriction;
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::super::sys::{self, EnterArgs};
use super::RingLevel;

/// Completions copied out at a time.
pub(super) const BATCH: usize = 64;

/// `IORING_REGISTER_*` numbers that stay allowed once the ring is restricted.
const REGISTERS_ALLOWED: [u8; 1] = [sys::UNREGISTER_RING_FDS as u8];

pub(super) struct Queue {
    ring: IoUring,
    /// Index of the ring's descriptor in the thread's table of registered rings; saves the kernel a look-up.
    registered: Option<u32>,
    /// Flags of each visit.
    flags: EnterFlags,
    /// Entries that found the queue full, oldest first.
    backlog: VecDeque<squeue::Entry>,
}

/// How big the queues are.
#[derive(Clone, Copy, Debug)]
pub(in crate::runtime) struct QueueSize {
    /// Submission entries, a power of two.
    pub(in crate::runtime) submissions: u32,
    /// Completion entries, a power of two; several times the submissions, since multishot operations complete often.
    pub(in crate::runtime) completions: u32,
}

impl Queue {
    /// Sets a ring up, still disabled: buffers are registered before [`Queue::enable`].
    ///
    /// # Errors
    /// `EPERM`, `ENOSYS`, `EACCES`: io_uring is forbidden here; `EINVAL`: this level is unknown to the kernel; `ENOMEM`.
    pub(super) fn open(level: RingLevel, size: QueueSize) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_submit_all().setup_cqsize(size.completions).setup_r_disabled();
        match level {
            RingLevel::One => builder.setup_coop_taskrun().setup_taskrun_flag(),
            RingLevel::Two => builder.setup_coop_taskrun().setup_taskrun_flag().setup_single_issuer(),
            RingLevel::Three => builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag(),
        };
        let ring = builder.build(size.submissions)?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if ring.params().is_feature_no_iowait() {
            // Waiting for a peer is idleness, not waiting for a disk.
            flags |= EnterFlags::NO_IOWAIT;
        }
        Ok(Self { ring, registered: None, flags, backlog: VecDeque::new() })
    }

    /// Registers the ring's own descriptor, restricts the ring to the operations used here and starts it.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn enable(&mut self) -> io::Result<()> {
        let mut allowed: Vec<_> = [
            opcode::Recv::CODE,
            opcode::Send::CODE,
            opcode::SendMsg::CODE,
            opcode::Accept::CODE,
            opcode::Connect::CODE,
            opcode::AsyncCancel::CODE,
            opcode::PollAdd::CODE,
            opcode::Close::CODE,
            opcode::Timeout::CODE,
            opcode::TimeoutUpdate::CODE,
        ]
        .map(Restriction::sqe_op)
        .into();
        allowed.extend(REGISTERS_ALLOWED.map(Restriction::register_op));
        let flags = squeue::Flags::BUFFER_SELECT | squeue::Flags::SKIP_SUCCESS;
        allowed.push(Restriction::sqe_flags_allowed(flags.bits()));
        self.ring.submitter().register_restrictions(&mut allowed)?;
        // A full table of registered rings only costs the look-up.
        self.registered = sys::register_ring_fd(self.ring.as_raw_fd()).ok();
        if self.registered.is_some() {
            self.flags |= EnterFlags::REGISTERED_RING;
        }
        self.ring.submitter().register_enable_rings()
    }

    /// Whether waiting is kept out of the statistics of waiting for disks.
    pub(super) fn has_no_iowait(&self) -> bool {
        self.flags.contains(EnterFlags::NO_IOWAIT)
    }

    /// Whether the ring's own descriptor is registered.
    pub(super) fn is_registered(&self) -> bool {
        self.registered.is_some()
    }

    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// Queues an entry for the next visit.
    ///
    /// The caller keeps what the entry points to alive: buffers and addresses until the final completion, a message
    /// header until [`Queue::is_flushed`].
    pub(super) fn push(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() || !self.try_push(&entry) {
            self.backlog.push_back(entry);
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the pointers in the entry stay valid as long as the kernel may use them: see `push`.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Whether the kernel has taken every entry, and with it what it reads at submission only.
    pub(super) fn is_flushed(&mut self) -> bool {
        self.backlog.is_empty() && self.ring.submission().is_empty()
    }

    /// Whether completions wait in the kernel because the completion queue was full.
    pub(super) fn is_overflown(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }

    /// Moves the backlog into the queue; says whether all of it had room.
    pub(super) fn refill(&mut self) -> bool {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return false;
            }
        }
        true
    }

    /// Gives back the room of a backlog that is gone.
    pub(super) fn trim(&mut self) {
        self.backlog.shrink_to(2 * self.backlog.len());
    }

    /// Submits what is queued and waits up to `timeout_ms` (`None`: for ever, 0: not at all) for so many completions.
    /// Returns whether the kernel was entered.
    ///
    /// Not used: a longer wait for more completions (`min_wait`, 6.12), which would save the turn that a send's completion
    /// costs. Its timer is always the next to fire; in a virtual machine arming it costs an exit of the guest and doubled
    /// the CPU per request with one connection (measured, Firecracker, 6.18).
    ///
    /// # Errors
    /// The ring itself is unusable. Timeouts, signals and passing lack of resources are no errors: the next visit goes
    /// on where this one stopped.
    pub(super) fn visit(&mut self, timeout_ms: Option<u64>, completions: u32) -> io::Result<bool> {
        let queue = self.ring.submission();
        let to_submit = queue.len() as u32;
        let wait = timeout_ms != Some(0);
        if !wait && to_submit == 0 && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(false);
        }
        drop(queue);
        let fd = self.registered.map_or_else(|| self.ring.as_raw_fd(), |index| index as RawFd);
        let args = EnterArgs::new(timeout_ms);
        match sys::ring_enter(fd, to_submit, if wait { completions } else { 0 }, self.flags.bits(), &args) {
            Ok(()) => Ok(true),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(true),
                _ => Err(error),
            },
        }
    }

    /// Whether the kernel has posted nothing that was not taken out.
    pub(super) fn is_drained(&mut self) -> bool {
        !self.is_overflown() && self.ring.completion().is_empty()
    }

    /// Takes completions out, oldest first, as many as there is room for.
    pub(super) fn completions<'a>(
        &mut self,
        into: &'a mut [MaybeUninit<cqueue::Entry>],
    ) -> &'a [cqueue::Entry] {
        self.ring.completion().fill(into)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // The registration holds the ring open: it would outlive its descriptor.
        if let Some(index) = self.registered {
            sys::unregister_ring_fd(self.ring.as_raw_fd(), index);
        }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("backlog", &self.backlog.len()).finish_non_exhaustive()
    }
}
