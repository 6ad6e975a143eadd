//! Messages into a worker: a queue and an event descriptor that ends the worker's wait.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::{fmt, io};

use super::sys;
use crate::base::heaps;

/// The worker's end.
pub struct Mailbox<T> {
    messages: Receiver<T>,
    bell: Arc<OwnedFd>,
}

/// The other threads' end.
pub struct MailboxSender<T> {
    messages: Sender<T>,
    bell: Arc<OwnedFd>,
}

/// Makes both ends.
///
/// # Errors
/// No descriptor left for the bell.
pub fn mailbox<T>() -> io::Result<(MailboxSender<T>, Mailbox<T>)> {
    let bell = Arc::new(sys::event_fd()?);
    let (sender, receiver) = channel();
    Ok((MailboxSender { messages: sender, bell: Arc::clone(&bell) }, Mailbox { messages: receiver, bell }))
}

impl<T> Mailbox<T> {
    /// The oldest message.
    pub fn try_recv(&self) -> Option<T> {
        self.messages.try_recv().ok()
    }

    /// What the back end watches.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl<T> MailboxSender<T> {
    /// Delivers a message and wakes the worker; false when the worker is gone.
    pub fn send(&self, message: T) -> bool {
        // The channel's blocks hold messages of all kinds, and there is always one.
        let delivered = heaps::lasting(|| self.messages.send(message)).is_ok();
        sys::event_notify(self.bell.as_raw_fd());
        delivered
    }
}

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> Self {
        Self { messages: self.messages.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<T> fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox")
    }
}

impl<T> fmt::Debug for MailboxSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MailboxSender")
    }
}
