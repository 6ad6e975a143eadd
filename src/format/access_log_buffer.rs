//! [`AccessLogBuffer`]: one worker's access-log records, gathered until a piece of them is worth handing over.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::access_log_queue::{LogQueue, Piece, SinkId};
use crate::base::heaps;

/// Records of a sink that are gathered before they are handed over, in bytes. Reason: one wake-up of the
/// writing thread for some eighty requests; a core with ten logs holds 160 KiB.
pub const PIECE_BYTES: usize = 16 * 1024;
/// Room of a piece: a record that takes it past [`PIECE_BYTES`] must not make it grow.
const PIECE_CAPACITY: usize = PIECE_BYTES + 4 * 1024;
/// Empty pieces kept by one worker; more are freed. Reason: as many as one worker has under way at once
/// while the writing thread keeps up.
const PIECES_KEPT: usize = 8;
/// Capacity in bytes of a piece that is kept; what single records grew beyond it is freed.
const PIECE_BYTES_KEPT: usize = 4 * PIECE_BYTES;

/// The records of one worker that are not handed over yet.
#[derive(Debug)]
pub struct AccessLogBuffer {
    /// By sink.
    gathering: Vec<Gathering>,
    queue: LogQueue,
    home: SyncSender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
    piece_bytes: usize,
    flush_interval_ns: u64,
    /// When the oldest record is to be handed over at the latest; `None`: there is none.
    flush_at_ns: Option<u64>,
}

#[derive(Debug, Default)]
struct Gathering {
    records: Vec<u8>,
    /// Monotonic time of the first record.
    since_ns: u64,
}

/// A record being written. What a panic leaves of one is taken out again.
struct Begun<'a> {
    records: &'a mut Vec<u8>,
    whole_bytes: usize,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.records.truncate(self.whole_bytes);
    }
}

impl AccessLogBuffer {
    /// A buffer in front of `queue`. Records are handed over when they are `flush_interval` old
    /// (`--file-flush-interval-msec`), or when `flush_min_bytes` of them (`--file-flush-min-size-kb`) or
    /// [`PIECE_BYTES`] have gathered.
    pub fn new(queue: LogQueue, flush_interval: Duration, flush_min_bytes: usize) -> Self {
        let (home, returned) = sync_channel(PIECES_KEPT);
        Self {
            gathering: Vec::new(),
            queue,
            home,
            returned,
            piece_bytes: flush_min_bytes.clamp(1, PIECE_BYTES),
            flush_interval_ns: u64::try_from(flush_interval.as_nanos()).unwrap_or(u64::MAX),
            flush_at_ns: None,
        }
    }

    /// Adds what `write` appends, a whole record, to the sink's records.
    pub fn record(&mut self, sink: SinkId, now_ns: u64, write: impl FnOnce(&mut Vec<u8>)) {
        let index = sink.0 as usize;
        if index >= self.gathering.len() {
            heaps::lasting(|| self.gathering.resize_with(index + 1, Gathering::default));
        }
        let Some(gathering) = self.gathering.get_mut(index) else {
            return;
        };
        if gathering.records.is_empty() {
            gathering.since_ns = now_ns;
            if gathering.records.capacity() == 0 {
                gathering.records =
                    self.returned.try_recv().unwrap_or_else(|_| heaps::lasting_list(PIECE_CAPACITY));
            }
            let flush_at_ns = now_ns.saturating_add(self.flush_interval_ns);
            self.flush_at_ns = Some(self.flush_at_ns.map_or(flush_at_ns, |earlier| earlier.min(flush_at_ns)));
        }
        let mut begun = Begun { whole_bytes: gathering.records.len(), records: &mut gathering.records };
        write(begun.records);
        begun.whole_bytes = begun.records.len();
        drop(begun);
        if gathering.records.len() >= self.piece_bytes {
            self.hand_over(index);
        }
    }

    /// When [`Self::flush_due`] is to be called at the latest, monotonic ns; `None`: nothing waits.
    pub fn flush_at_ns(&self) -> Option<u64> {
        self.flush_at_ns
    }

    /// Hands over the records that have reached the flush interval.
    pub fn flush_due(&mut self, now_ns: u64) {
        if self.flush_at_ns.is_none_or(|at| at > now_ns) {
            return;
        }
        self.flush_at_ns = None;
        for index in 0..self.gathering.len() {
            let Gathering { records, since_ns } = &self.gathering[index];
            if records.is_empty() {
                continue;
            }
            let due_ns = since_ns.saturating_add(self.flush_interval_ns);
            if due_ns <= now_ns {
                self.queue.counts().flushed_by_timer.fetch_add(1, Relaxed);
                self.hand_over(index);
            } else {
                self.flush_at_ns = Some(self.flush_at_ns.map_or(due_ns, |earlier| earlier.min(due_ns)));
            }
        }
    }

    /// Hands over all records: the worker ends, or an operator asked for it.
    pub fn flush(&mut self) {
        for index in 0..self.gathering.len() {
            if !self.gathering[index].records.is_empty() {
                self.hand_over(index);
            }
        }
        self.flush_at_ns = None;
    }

    fn hand_over(&mut self, index: usize) {
        let records = std::mem::take(&mut self.gathering[index].records);
        let piece = Piece { sink: SinkId(index as u32), records, home: self.home.clone() };
        if let Some(mut dropped) = self.queue.offer(piece) {
            dropped.clear();
            dropped.shrink_to(PIECE_BYTES_KEPT);
            self.gathering[index].records = dropped;
        }
    }
}

/// Sends a written piece's memory home, unless it grew too big or enough is there already.
pub fn give_back(piece: Piece) {
    let Piece { mut records, home, .. } = piece;
    if records.capacity() <= PIECE_BYTES_KEPT {
        records.clear();
        // Refused: the worker has enough, or is gone.
        drop(home.try_send(records));
    }
}

#[cfg(test)]
mod tests {
    use super::super::access_log_queue::{LogMessage, QUEUED_MAX};
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn buffer() -> (AccessLogBuffer, Receiver<LogMessage>) {
        let (queue, receiver) = LogQueue::new();
        (AccessLogBuffer::new(queue, Duration::from_secs(10), 64 * 1024), receiver)
    }

    fn record(buffer: &mut AccessLogBuffer, sink: u32, now_ns: u64, text: &[u8]) {
        buffer.record(SinkId(sink), now_ns, |out| out.extend_from_slice(text));
    }

    fn received(receiver: &Receiver<LogMessage>) -> Option<Piece> {
        match receiver.try_recv().ok()? {
            LogMessage::Piece(piece) => Some(piece),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn records_are_handed_over_whole_when_a_piece_is_full() {
        let (mut buffer, receiver) = buffer();
        let line = [b'x'; 1_000];
        for _ in 0..16 {
            record(&mut buffer, 1, 0, &line);
        }
        assert!(received(&receiver).is_none());
        record(&mut buffer, 1, 0, &line);
        let piece = received(&receiver).unwrap();
        assert_eq!((piece.sink, piece.records.len()), (SinkId(1), 17_000));
        let memory = piece.records.as_ptr();
        give_back(piece);
        record(&mut buffer, 0, 0, b"next");
        buffer.flush();
        assert_eq!(received(&receiver).unwrap().records.as_ptr(), memory);
    }

    #[test]
    fn record_that_a_panic_cuts_off_leaves_nothing() {
        let (mut buffer, receiver) = buffer();
        record(&mut buffer, 0, 0, b"whole\n");
        let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            buffer.record(SinkId(0), 0, |out| {
                out.extend_from_slice(b"ha");
                panic!("injected");
            });
        }));
        assert!(cut.is_err());
        record(&mut buffer, 0, 0, b"next\n");
        buffer.flush();
        assert_eq!(received(&receiver).unwrap().records, b"whole\nnext\n");
    }

    #[test]
    fn old_records_are_due_sink_by_sink() {
        let (mut buffer, receiver) = buffer();
        assert_eq!(buffer.flush_at_ns(), None);
        record(&mut buffer, 0, SECOND, b"a");
        record(&mut buffer, 2, 3 * SECOND, b"b");
        record(&mut buffer, 0, 4 * SECOND, b"c");
        assert_eq!(buffer.flush_at_ns(), Some(11 * SECOND));
        buffer.flush_due(11 * SECOND - 1);
        assert!(received(&receiver).is_none());
        buffer.flush_due(11 * SECOND);
        assert_eq!(received(&receiver).unwrap().records, b"ac");
        assert_eq!(buffer.flush_at_ns(), Some(13 * SECOND));
        buffer.flush_due(14 * SECOND);
        assert_eq!(received(&receiver).unwrap().records, b"b");
        assert_eq!(buffer.flush_at_ns(), None);
    }

    #[test]
    fn full_queue_drops_and_counts() {
        let (mut buffer, receiver) = buffer();
        for _ in 0..=QUEUED_MAX {
            record(&mut buffer, 0, 0, b"four");
            buffer.flush();
        }
        let counts = buffer.queue.counts();
        assert_eq!(counts.dropped_bytes.load(Relaxed), 4);
        assert_eq!(counts.queued_bytes.load(Relaxed), 4 * QUEUED_MAX as u64);
        assert_eq!(std::iter::from_fn(|| received(&receiver)).count(), QUEUED_MAX);
        record(&mut buffer, 0, 0, b"after");
        buffer.flush();
        assert_eq!(received(&receiver).unwrap().records, b"after");
    }
}
