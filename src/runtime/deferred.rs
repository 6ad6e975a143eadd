//! What is made with its first use is made by a thread of its own: a task says what it waits for, and runs again once it is there.

use std::cell::OnceCell;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::mpsc::Sender;

use super::{Runtime, TaskId};
use crate::base::deferred::{Deferred, SharedDeferred};
use crate::base::heaps;

/// Something to make, and who waits for it.
pub struct Job {
    what: SharedDeferred,
    worker: usize,
    task: TaskId,
}

impl Job {
    /// Makes it; the worker that waits, and its task.
    pub fn run(self) -> (usize, TaskId) {
        self.what.make();
        (self.worker, self.task)
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("worker", &self.worker).field("task", &self.task).finish_non_exhaustive()
    }
}

/// Where a worker has things made.
#[derive(Debug, Default)]
pub(super) struct Maker(OnceCell<(Sender<Job>, usize)>);

/// Where something was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It was there.
    Before,
    /// By the other thread.
    Elsewhere,
    /// Here, since that thread has too much to do or there is none.
    Here,
}

impl Runtime {
    /// From now on what tasks wait for is made there; the worker's number goes with it. Who makes it tells the worker to wake the task.
    pub fn set_maker(&self, jobs: Sender<Job>, worker: usize) {
        // There is one, which is told once.
        let _ = self.0.maker.0.set((jobs, worker));
    }

    /// Ready once it is there.
    pub async fn made<D: Deferred + 'static>(&self, what: &Arc<D>) -> Made {
        if what.is_made() {
            return Made::Before;
        }
        let job = |worker| Job { what: Arc::clone(what) as _, worker, task: self.current_task() };
        let maker = self.0.maker.0.get();
        if maker.is_none_or(|(jobs, worker)| jobs.try_send(job(*worker)).is_err()) {
            self.0.io.borrow_mut().stats.deferred_made_here += 1;
            // It outlives the connection.
            heaps::lasting(|| what.make());
            return Made::Here;
        }
        self.0.io.borrow_mut().stats.deferred_waits += 1;
        poll_fn(|_| if what.is_made() { Poll::Ready(()) } else { Poll::Pending }).await;
        Made::Elsewhere
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::mpsc::channel;

    use super::*;
    use crate::runtime::mailbox::mailbox;

    #[derive(Default)]
    struct Counted(AtomicU32);

    impl Deferred for Counted {
        fn is_made(&self) -> bool {
            self.0.load(Ordering::Relaxed) > 0
        }

        fn make(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A task that needs it, and what it has found.
    fn needs(runtime: &Runtime, what: &Arc<Counted>) -> Rc<Cell<Option<Made>>> {
        let found = Rc::new(Cell::new(None));
        let (handle, what, told) = (runtime.clone(), Arc::clone(what), Rc::clone(&found));
        runtime.spawn(async move { told.set(Some(handle.made(&what).await)) });
        found
    }

    #[test]
    fn tasks_wait_until_another_thread_has_made_it() {
        let (_sender, mail) = mailbox::<()>().unwrap();
        let runtime = Runtime::epoll(mail.bell()).unwrap();
        let (sender, mut jobs) = channel(8);
        runtime.set_maker(sender, 3);
        let what = Arc::new(Counted::default());
        let found = needs(&runtime, &what);
        runtime.turn().unwrap();
        assert_eq!(found.get(), None);
        let job = jobs.try_recv().unwrap();
        let (worker, task) = std::thread::spawn(move || job.run()).join().unwrap();
        assert_eq!(worker, 3);
        runtime.wake(task);
        runtime.turn().unwrap();
        assert_eq!(found.get(), Some(Made::Elsewhere));
        let again = needs(&runtime, &what);
        runtime.turn().unwrap();
        assert_eq!((again.get(), what.0.load(Ordering::Relaxed)), (Some(Made::Before), 1));
    }

    #[test]
    fn it_is_made_here_where_nobody_else_can() {
        let (_sender, mail) = mailbox::<()>().unwrap();
        let runtime = Runtime::epoll(mail.bell()).unwrap();
        let found = needs(&runtime, &Arc::default());
        runtime.turn().unwrap();
        assert_eq!(found.get(), Some(Made::Here), "there is no such thread");
        let (sender, jobs) = channel(1);
        runtime.set_maker(sender, 0);
        let [waits, found] = [(); 2].map(|()| needs(&runtime, &Arc::default()));
        runtime.turn().unwrap();
        assert_eq!((waits.get(), found.get()), (None, Some(Made::Here)), "it has too much to do");
        drop(jobs);
        let found = needs(&runtime, &Arc::default());
        runtime.turn().unwrap();
        assert_eq!(found.get(), Some(Made::Here), "it is gone");
    }
}
