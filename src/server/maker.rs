//! The thread that makes what is made with its first use (`runtime::deferred`): it sleeps unless a worker waits for something.

use std::io;

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::workers::or_end_process;
use crate::base::limits::DEFERRED_QUEUED_MAX;
use crate::runtime::deferred::Job;
use crate::runtime::mailbox::MailboxSender;
use crate::worker::Command;

/// Starts it for the workers with these mailboxes; how they reach it. It ends with the last of them.
///
/// # Errors
/// No thread can be made.
pub(super) fn start(mailboxes: Vec<MailboxSender<Command>>) -> io::Result<Sender<Job>> {
    let (sender, jobs) = channel(DEFERRED_QUEUED_MAX);
    // Whoever waits would wait for ever without it.
    let work = move || or_end_process(|| make(jobs, &mailboxes));
    std::thread::Builder::new().name("first-use".to_owned()).spawn(work)?;
    Ok(sender)
}

fn make(mut jobs: Receiver<Job>, mailboxes: &[MailboxSender<Command>]) {
    while let Some(job) = jobs.blocking_recv() {
        let (worker, task) = job.run();
        if let Some(mailbox) = mailboxes.get(worker) {
            mailbox.send(Command::Made(task));
        }
    }
}
