//! What a runtime has done so far: plain counts, read by the worker's report.

/// Counts since the runtime was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections accepted by the kernel for a listener that was already gone, and closed.
    pub accepts_dropped: u64,
    /// System calls made to submit and to wait.
    pub visits: u64,
    /// Events or completions taken.
    pub completions: u64,
    /// Receives that found no buffer (ring only): they are armed again with the next visit.
    pub recv_enobufs: u64,
    /// Visits that found completions waiting because the completion queue was full (ring only): it is too small.
    pub cq_overflows: u64,
    /// Bytes taken from sockets into pipes.
    pub spliced_bytes: u64,
    /// Pieces that those were.
    pub splices: u64,
    /// Pipes or splices refused, so that bytes were copied.
    pub splices_refused: u64,
    /// Pipes with bytes in them.
    pub pipes: u64,
    /// Sends of which the kernel took only a part.
    pub short_sends: u64,
    /// Connections within the worker refused: there are too many, or they lie too deep in each other.
    pub internal_refused: u64,
    /// What tasks have waited for until another thread had made it.
    pub deferred_waits: u64,
    /// What was made here instead.
    pub deferred_made_here: u64,
    /// Cancellations asked for (ring only).
    pub cancelled: u64,
    /// Completions whose socket is gone (ring only): always zero, as a slot outlives its operations.
    pub stale_completions: u64,
}
