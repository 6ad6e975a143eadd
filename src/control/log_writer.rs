//! The one thread that writes access logs, and its owner on the control side.
//!
//! Workers hand over pieces of whole records (`format::access_log_queue`); this thread writes each with one
//! call, in the order of the queue. Files are opened for appending on the control thread, while
//! configuration is applied, so that one that cannot be opened refuses the configuration.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::config::access_log::AccessLogSink;
use crate::format::access_log_buffer::give_back;
use crate::format::access_log_queue::{LogCounts, LogMessage, LogQueue, Piece, SinkId};

/// The thread formats nothing: it needs almost no stack.
const STACK_BYTES: usize = 64 * 1024;

/// The writing thread, as the control thread sees it.
#[derive(Debug)]
pub struct LogWriter {
    opener: LogOpener,
    thread: JoinHandle<()>,
}

/// Opens logs. Copies know of the same ones.
#[derive(Clone, Debug)]
pub struct LogOpener {
    queue: LogQueue,
    /// The sinks opened so far; a sink's place is its id. They stay open until the process ends.
    opened: Arc<Mutex<Vec<AccessLogSink>>>,
}

impl LogWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the kernel refuses a thread.
    pub fn start() -> io::Result<Self> {
        let (queue, receiver) = LogQueue::new();
        let mut sinks = Sinks { sinks: Vec::new(), counts: Arc::clone(queue.counts()) };
        let thread = std::thread::Builder::new()
            .name("access-log".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || sinks.run(&receiver))?;
        Ok(Self { opener: LogOpener { queue, opened: Arc::default() }, thread })
    }

    /// The workers' end of the queue.
    pub fn queue(&self) -> LogQueue {
        self.opener.queue.clone()
    }

    /// Opens logs as this does.
    pub fn opener(&self) -> LogOpener {
        self.opener.clone()
    }

    /// [`LogOpener::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(&self, sink: &AccessLogSink) -> io::Result<SinkId> {
        self.opener.open(sink)
    }

    /// Opens all files again by their paths: SIGUSR1, after they were rotated. Records queued before go to
    /// the old files. A file that cannot be opened again goes on as the old one, and is counted.
    pub fn reopen(&self) {
        self.opener.queue.send(LogMessage::Reopen);
    }

    /// Writes what is queued and ends the thread. Workers must have flushed before.
    pub fn finish(self) {
        if self.opener.queue.send(LogMessage::Stop) {
            // A panic of the thread was reported when it happened.
            drop(self.thread.join());
        }
    }
}

impl LogOpener {
    /// The id of a sink, opening it if it is new: logs with the same path share one file.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(&self, sink: &AccessLogSink) -> io::Result<SinkId> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let found = opened.iter().position(|opened| opened == sink);
        let id = |index| SinkId(u32::try_from(index).unwrap_or(u32::MAX));
        if let Some(index) = found {
            return Ok(id(index));
        }
        let file = match sink {
            AccessLogSink::File(path) => Some(open_file(path)?),
            AccessLogSink::Stdout | AccessLogSink::Stderr => None,
        };
        let sink_id = id(opened.len());
        if !self.queue.send(LogMessage::Open { sink: sink_id, to: sink.clone(), file }) {
            return Err(io::Error::other("the access-log thread has ended"));
        }
        opened.push(sink.clone());
        Ok(sink_id)
    }
}

fn open_file(path: &str) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// What the thread itself owns.
struct Sinks {
    /// By sink id.
    sinks: Vec<Option<Sink>>,
    counts: Arc<LogCounts>,
}

enum Sink {
    File { file: File, path: Box<str> },
    Stdout,
    Stderr,
}

impl Sinks {
    fn run(&mut self, receiver: &Receiver<LogMessage>) {
        while let Ok(message) = receiver.recv() {
            match message {
                LogMessage::Piece(piece) => self.write(piece),
                LogMessage::Open { sink, to, file } => self.open(sink, to, file),
                LogMessage::Reopen => self.reopen(),
                LogMessage::Stop => return,
            }
        }
    }

    fn open(&mut self, id: SinkId, to: AccessLogSink, file: Option<File>) {
        let index = id.0 as usize;
        if index >= self.sinks.len() {
            self.sinks.resize_with(index + 1, || None);
        }
        self.sinks[index] = match (to, file) {
            (AccessLogSink::File(path), Some(file)) => Some(Sink::File { file, path }),
            (AccessLogSink::File(_), None) => None,
            (AccessLogSink::Stdout, _) => Some(Sink::Stdout),
            (AccessLogSink::Stderr, _) => Some(Sink::Stderr),
        };
    }

    fn write(&mut self, piece: Piece) {
        let written = match self.sinks.get_mut(piece.sink.0 as usize) {
            Some(Some(Sink::File { file, .. })) => file.write_all(&piece.records),
            Some(Some(Sink::Stdout)) => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&piece.records).and_then(|()| stdout.flush())
            }
            Some(Some(Sink::Stderr)) => io::stderr().write_all(&piece.records),
            Some(None) | None => Err(io::ErrorKind::NotFound.into()),
        };
        let counter = if written.is_ok() { &self.counts.written } else { &self.counts.write_failed };
        counter.fetch_add(1, Relaxed);
        self.counts.queued_bytes.fetch_sub(piece.records.len() as u64, Relaxed);
        give_back(piece);
    }

    fn reopen(&mut self) {
        for sink in self.sinks.iter_mut().flatten() {
            let Sink::File { file, path } = sink else {
                continue;
            };
            match open_file(path) {
                Ok(opened) => *file = opened,
                Err(_) => {
                    self.counts.reopen_failed.fetch_add(1, Relaxed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::access_log_buffer::AccessLogBuffer;
    use std::path::PathBuf;
    use std::time::Duration;

    /// A directory of its own that is removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("ringway-log-writer-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn sink(&self, name: &str) -> AccessLogSink {
            AccessLogSink::File(self.0.join(name).to_str().unwrap().into())
        }

        fn read(&self, name: &str) -> String {
            std::fs::read_to_string(self.0.join(name)).unwrap()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    fn worker(writer: &LogWriter) -> AccessLogBuffer {
        AccessLogBuffer::new(writer.queue(), Duration::from_secs(10), 64 * 1024)
    }

    fn record(buffer: &mut AccessLogBuffer, sink: SinkId, text: &str) {
        buffer.record(sink, 0, |out| out.extend_from_slice(text.as_bytes()));
    }

    #[test]
    fn records_of_two_workers_reach_their_files_in_order() {
        let directory = Directory::new("two-workers");
        let writer = LogWriter::start().unwrap();
        let one = writer.open(&directory.sink("one")).unwrap();
        let two = writer.open(&directory.sink("two")).unwrap();
        assert_eq!(writer.open(&directory.sink("one")).unwrap(), one);
        let (mut first, mut second) = (worker(&writer), worker(&writer));
        for number in 0..3_000 {
            record(&mut first, one, &format!("first {number}\n"));
            record(&mut second, two, &format!("second {number}\n"));
            // Never more in the queue than it holds.
            if number % 1_000 == 0 {
                while writer.queue().counts().queued_bytes.load(Relaxed) > 0 {
                    std::thread::yield_now();
                }
            }
        }
        first.flush();
        second.flush();
        let counts = Arc::clone(writer.queue().counts());
        writer.finish();
        let expected = |name: &str| (0..3_000).map(|n| format!("{name} {n}\n")).collect::<String>();
        assert_eq!(directory.read("one"), expected("first"));
        assert_eq!(directory.read("two"), expected("second"));
        assert_eq!(counts.queued_bytes.load(Relaxed), 0);
        assert_eq!(counts.written.load(Relaxed), counts.queued.load(Relaxed));
        assert_eq!(counts.dropped_bytes.load(Relaxed), 0);
    }

    #[test]
    fn reopen_after_rotation_writes_to_a_new_file() {
        let directory = Directory::new("rotation");
        let writer = LogWriter::start().unwrap();
        let sink = writer.open(&directory.sink("log")).unwrap();
        let mut buffer = worker(&writer);
        record(&mut buffer, sink, "before\n");
        buffer.flush();
        // The queue keeps order: the file is renamed before the thread may open the new one, and the
        // record before is written to the old file wherever it is by then.
        std::fs::rename(directory.0.join("log"), directory.0.join("log.1")).unwrap();
        writer.reopen();
        record(&mut buffer, sink, "after\n");
        buffer.flush();
        writer.finish();
        assert_eq!((directory.read("log.1"), directory.read("log")), ("before\n".into(), "after\n".into()));
    }

    #[test]
    fn reopen_that_fails_keeps_the_old_file_and_counts() {
        let directory = Directory::new("reopen-fails");
        std::fs::create_dir(directory.0.join("sub")).unwrap();
        let writer = LogWriter::start().unwrap();
        let sink = writer.open(&directory.sink("sub/log")).unwrap();
        std::fs::rename(directory.0.join("sub"), directory.0.join("moved")).unwrap();
        writer.reopen();
        let mut buffer = worker(&writer);
        record(&mut buffer, sink, "still here\n");
        buffer.flush();
        let counts = Arc::clone(writer.queue().counts());
        writer.finish();
        assert_eq!(directory.read("moved/log"), "still here\n");
        assert_eq!(counts.reopen_failed.load(Relaxed), 1);
    }

    #[test]
    fn file_that_cannot_be_opened_is_an_error() {
        let writer = LogWriter::start().unwrap();
        let missing = AccessLogSink::File("/nonexistent/directory/log".into());
        assert_eq!(writer.open(&missing).unwrap_err().kind(), io::ErrorKind::NotFound);
        writer.finish();
    }
}
