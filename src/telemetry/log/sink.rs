//! The thread that writes the application log, and the bounded queue in front of it.
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// The sending end.
#[derive(Debug)]
pub(super) struct Sink {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Line(String),
    Reopen,
    /// Answered when everything before it is written.
    Drain(SyncSender<()>),
}

impl Sink {
    /// Opens the file, or takes standard error, and starts the thread. The thread ends with the last `Sink`.
    pub(super) fn start(path: Option<PathBuf>) -> io::Result<Self> {
        let mut writer = Writer { file: path.as_ref().map(open).transpose()?, path, dropped: Arc::default() };
        let dropped = Arc::clone(&writer.dropped);
        let (queue, received) = sync_channel(QUEUE_LINES);
        std::thread::Builder::new()
            .name("log".into())
            .stack_size(STACK_BYTES)
            .spawn(move || writer.run(&received))?;
        Ok(Self { queue, dropped })
    }

    pub(super) fn send(&self, line: String) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    pub(super) fn reopen(&self) {
        // With a full queue the file is not reopened; whoever rotates logs asks again.
        drop(self.queue.try_send(Message::Reopen));
    }

    pub(super) fn drain(&self, at_most: Duration) {
        let (done, wait) = sync_channel(1);
        let mut message = Message::Drain(done);
        // A full queue gets the time it is allowed to empty itself; standard error may be stuck for good.
        for _ in 0..DRAIN_TRIES {
            match self.queue.try_send(message) {
                Ok(()) => {
                    let _ = wait.recv_timeout(at_most);
                    return;
                }
                Err(TrySendError::Full(back)) => message = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            std::thread::sleep(at_most / DRAIN_TRIES);
        }
    }
}

struct Writer {
    path: Option<PathBuf>,
    /// Standard error when `None`.
    file: Option<File>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    fn run(&mut self, received: &Receiver<Message>) {
        while let Ok(message) = received.recv() {
            match message {
                Message::Line(line) => {
                    let written = match &mut self.file {
                        Some(file) => file.write_all(line.as_bytes()),
                        None => io::stderr().write_all(line.as_bytes()),
                    };
                    if written.is_err() {
                        self.dropped.fetch_add(1, Relaxed);
                    }
                }
                // When the new file cannot be opened the old one stays: better there than nowhere.
                Message::Reopen => {
                    self.file =
                        self.path.as_ref().and_then(|path| open(path).ok()).or_else(|| self.file.take())
                }
                Message::Drain(done) => drop(done.send(())),
            }
        }
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Lines that may wait for the writing thread; more are dropped.
const QUEUE_LINES: usize = 512;
/// The thread formats nothing: it needs almost no stack.
const STACK_BYTES: usize = 64 * 1024;
const DRAIN_TRIES: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_queue_drops_and_counts_instead_of_waiting() {
        let (queue, received) = sync_channel(1);
        let sink = Sink { queue, dropped: Arc::default() };
        sink.send("a".into());
        sink.send("b".into());
        sink.send("c".into());
        assert_eq!(sink.dropped(), 2);
        drop(received);
        sink.drain(Duration::ZERO);
    }
}
