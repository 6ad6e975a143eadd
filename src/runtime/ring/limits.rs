//! What the io_uring back end of a worker bounds: chunks with the kernel, bytes read ahead, accepted connections, visits.

/// Small chunks that may be with the kernel at most, a power of two.
pub(super) const SMALL_ENTRIES: u16 = 512;
/// Small chunks with the kernel as long as they suffice: 256 KiB, which fits a second-level cache.
pub(super) const SMALL_RESIDENT: u16 = 64;
/// Large chunks that may be with the kernel at most, a power of two. Further bulk receives wait for their turn.
pub(super) const LARGE_ENTRIES: u16 = 32;
/// Bytes after which a multishot receive ends by itself, so that a body that begins to stream is not read in small
/// chunks before its head was looked at. Keep-alive requests of usual size arm again every few dozens.
pub(super) const RECV_BYTES_MAX: u32 = 8 * 1024;
/// The same where a body has streamed before: one small chunk, which holds the head.
pub(super) const HEAD_BYTES_MAX: u32 = crate::base::limits::SMALL_CHUNK_BYTES as u32;
/// Received and unread pool memory per socket, in bytes, at which a multishot receive is cancelled; it is armed again
/// at half of it. So much lies in wait for each of a thousand streams whose client does not read.
pub(super) const UNREAD_BYTES_MAX: usize = 16 * 1024;
/// The same while a body streams.
pub(super) const UNREAD_BULK_BYTES_MAX: usize = 512 * 1024;
/// Bytes queued up to which a send takes what room there is and completes at submission: a socket whose peer reads has
/// room for them. The visit that submits it then waits for something else to happen: with one connection that is two
/// visits per request instead of four (63 µs of CPU instead of 72 in the same run).
pub(super) const TRY_BYTES_MAX: usize = 16 * 1024;
/// Sends of a visit up to which it waits for more than their completions. With more there is work in any case, and the
/// kernel takes up as many events as are waited for, 20 at least (6.13): larger batches leave the caches.
pub(super) const UNAWAITED_MAX: u32 = 16;
/// Longest wait, in milliseconds, of a visit with such sends: one that finds no room goes on then.
pub(super) const UNAWAITED_MS_MAX: u64 = 20;
/// Connections accepted and not taken by the owner, per listener, at which accepting pauses.
pub(super) const ACCEPTED_MAX: usize = 256;
/// Sockets for which the lists of them have room at least.
pub(super) const LIST_ROOM_MIN: usize = 64;
/// Connections for which the list of accepted ones keeps room.
pub(super) const ACCEPTED_ROOM: usize = 16;
/// Visits of 10 ms that the end of a ring waits for the last completions.
pub(super) const DROP_VISITS_MAX: usize = 200;
