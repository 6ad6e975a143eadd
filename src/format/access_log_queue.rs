//! The way of access-log records from the workers to the one thread that writes them.
//!
//! Records travel in pieces of about 16 KiB. A piece that was written goes back, empty, to the worker it came
//! from, so that steady state allocates none. The queue is bounded and no worker waits at it: when it is full
//! the piece is dropped and its bytes are counted. `control::log_writer` owns the other end.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use crate::config::access_log::AccessLogSink;

/// The file or stream that the records of a log go to; given by `control::log_writer` when it opens it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkId(pub u32);

/// Messages that may wait for the writing thread, of all workers together: 4 MiB of records. Beyond it
/// pieces are dropped. Reason: a busy core's records of a second or so, while a disk stalls.
pub const QUEUED_MAX: usize = 256;

/// What the writing thread is told.
#[derive(Debug)]
pub enum LogMessage {
    /// Write these records.
    Piece(Piece),
    /// Records of this sink will come. `file`: opened for it; `None` for the standard streams.
    Open { sink: SinkId, to: AccessLogSink, file: Option<File> },
    /// Open all files again, by their paths: they were rotated.
    Reopen,
    /// End, when everything before it is written.
    Stop,
}

/// Whole records of one sink.
#[derive(Debug)]
pub struct Piece {
    /// Where they go.
    pub sink: SinkId,
    /// The records.
    pub records: Vec<u8>,
    /// Where the memory goes back to.
    pub home: SyncSender<Vec<u8>>,
}

/// What became of the records, of all workers together. Touched once a piece; read by the control thread.
#[derive(Debug, Default)]
pub struct LogCounts {
    /// Bytes of records dropped because the queue was full.
    pub dropped_bytes: AtomicU64,
    /// Pieces handed over. Envoy's `filesystem.write_buffered`.
    pub queued: AtomicU64,
    /// Pieces handed over because of their age. Envoy's `filesystem.flushed_by_timer`.
    pub flushed_by_timer: AtomicU64,
    /// Pieces written. Envoy's `filesystem.write_completed`.
    pub written: AtomicU64,
    /// Pieces that could not be written; their records are lost. Envoy's `filesystem.write_failed`.
    pub write_failed: AtomicU64,
    /// Files that could not be opened again; they go on under their old names. Envoy's
    /// `filesystem.reopen_failed`.
    pub reopen_failed: AtomicU64,
    /// Bytes that wait to be written. Envoy's `filesystem.write_total_buffered`.
    pub queued_bytes: AtomicU64,
}

/// The sending end; each worker has a clone, and so has the control thread.
#[derive(Debug, Clone)]
pub struct LogQueue {
    sender: SyncSender<LogMessage>,
    counts: Arc<LogCounts>,
}

impl LogQueue {
    /// A queue, and the end of it that the writing thread takes.
    pub fn new() -> (Self, Receiver<LogMessage>) {
        let (sender, receiver) = sync_channel(QUEUED_MAX);
        (Self { sender, counts: Arc::default() }, receiver)
    }

    /// What became of the records.
    pub fn counts(&self) -> &Arc<LogCounts> {
        &self.counts
    }

    /// Hands a piece over, or drops and counts it; the memory of a dropped piece comes back.
    pub(super) fn offer(&self, piece: Piece) -> Option<Vec<u8>> {
        let bytes = piece.records.len() as u64;
        self.counts.queued_bytes.fetch_add(bytes, Relaxed);
        match self.sender.try_send(LogMessage::Piece(piece)) {
            Ok(()) => {
                self.counts.queued.fetch_add(1, Relaxed);
                None
            }
            Err(refused) => {
                self.counts.queued_bytes.fetch_sub(bytes, Relaxed);
                self.counts.dropped_bytes.fetch_add(bytes, Relaxed);
                let (TrySendError::Full(message) | TrySendError::Disconnected(message)) = refused;
                match message {
                    LogMessage::Piece(piece) => Some(piece.records),
                    LogMessage::Open { .. } | LogMessage::Reopen | LogMessage::Stop => None,
                }
            }
        }
    }

    /// Sends a message that must not get lost; waits while the queue is full. For the control thread.
    /// False: the writing thread is gone.
    pub fn send(&self, message: LogMessage) -> bool {
        self.sender.send(message).is_ok()
    }
}
