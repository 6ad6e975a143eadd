//! Wakers for code that stores the `Waker` of a context instead of the current task's name.
//!
//! Made only where somebody asks for one: what waits for sockets and timers is woken by [`TaskId`] and never sees it. A
//! waker may be sent anywhere, as its type demands; it wakes only on the thread of its worker and while that worker
//! lives. Elsewhere a wake is no memory error and does nothing.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::rc::Weak;
use std::sync::Arc;
use std::task::{Wake, Waker};

use super::{Runtime, Shared, TaskId};
use crate::base::thread_number::ThreadNumber;

struct TaskWaker {
    task: TaskId,
    worker: ThreadNumber,
    /// Touched on the worker's thread only.
    shared: ManuallyDrop<Weak<Shared>>,
}

// SAFETY: the reference count behind `shared` is read and written on the thread `worker` alone: `wake` and `drop` compare
// the thread first, and nothing else touches it.
// JUSTIFICATION: `h2` stores wakers, whose type must be `Send`; it wakes them on the thread that polls it.
unsafe impl Send for TaskWaker {}
// SAFETY: as above.
unsafe impl Sync for TaskWaker {}

impl TaskWaker {
    fn is_at_home(&self) -> bool {
        ThreadNumber::here() == self.worker
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_at_home()
            && let Some(shared) = self.shared.upgrade()
        {
            Runtime(shared).wake(self.task);
        }
    }
}

impl Drop for TaskWaker {
    fn drop(&mut self) {
        // Elsewhere the weak count stays as it is: a few bytes are lost, nothing is freed twice.
        if self.is_at_home() {
            // SAFETY: dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.shared) };
        }
    }
}

impl Runtime {
    /// A waker of a task. Costs an allocation, unless the last one was made for the same task: both streams of a request ask
    /// for one in turn. Who needs it keeps it.
    pub fn waker(&self, task: TaskId) -> Waker {
        let mut last = self.0.last_waker.borrow_mut();
        match &*last {
            Some((made_for, waker)) if *made_for == task => waker.clone(),
            _ => {
                let shared = ManuallyDrop::new(std::rc::Rc::downgrade(&self.0));
                let waker = Waker::from(Arc::new(TaskWaker { task, worker: ThreadNumber::here(), shared }));
                *last = Some((task, waker.clone()));
                waker
            }
        }
    }

    /// Lets the current task run again in a turn to come, when the pool may have memory again.
    pub fn wait_for_memory(&self) {
        let task = self.current_task();
        self.edit(|| self.0.io.borrow_mut().starved.push(task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::mailbox::mailbox;
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::task::Poll;
    use std::thread;

    #[test]
    fn waker_wakes_its_task_on_its_thread_and_does_nothing_elsewhere_or_later() {
        let (_sender, mail) = mailbox::<()>().unwrap();
        let runtime = Runtime::epoll(mail.bell()).unwrap();
        let polls = Rc::new(Cell::new(0));
        let seen = Rc::clone(&polls);
        let task = runtime.spawn(poll_fn(move |_| {
            seen.set(seen.get() + 1);
            Poll::<()>::Pending
        }));
        runtime.turn().unwrap();
        let waker = runtime.waker(task);
        waker.wake_by_ref();
        runtime.turn().unwrap();
        assert_eq!(polls.get(), 2);
        let elsewhere = waker.clone();
        thread::spawn(move || elsewhere.wake()).join().unwrap();
        assert!(!runtime.0.tasks.has_ready());
        let last = runtime.waker(task);
        thread::spawn(move || drop(last)).join().unwrap();
        runtime.shut_down();
        drop(runtime);
        waker.wake();
        assert_eq!(polls.get(), 2);
    }
}
