//! Connections that one worker accepts and another serves: the only thing that workers give each other.
//!
//! What travels is an accepted, unread socket; the worker that gets it opens, limits and counts the connection as if it had
//! accepted it. A worker that stops takes none any more (`Balance::close`), and ends only when those on their way have
//! arrived and ended, so that none is lost on the way; whatever is dropped on it is closed and counted off.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::context::WorkerContext;
use super::listener::{Listener, admit};
use crate::base::balance::Balance;
use crate::filter::network::ListenerLimit;
use crate::runtime::Accepted;

/// One worker's part in the balance of a listener.
#[derive(Debug)]
pub struct Share {
    balance: Arc<Balance>,
    /// Its number.
    worker: usize,
    courier: Courier,
    /// Connections that ended after one request and whose successors are yet to come.
    brief: Cell<u32>,
}

/// Brief connections that are remembered: as many may stay where they were accepted once clients have become lasting ones.
const BRIEF_MAX: u32 = 256;

/// Takes a connection to the worker of a number.
#[derive(Clone)]
pub struct Courier(Rc<dyn Fn(usize, Handover)>);

/// An accepted connection on its way to another worker.
#[derive(Debug)]
pub struct Handover {
    socket: Accepted,
    passage: Passage,
}

/// The way to another worker; it ends when this is dropped, and the connection with it unless it was taken.
#[derive(Debug)]
struct Passage {
    balance: Arc<Balance>,
    to: usize,
    taken: bool,
}

/// A connection's place in the balance of its listener, and among those that the listener's limit counts; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Rc<Listener>);

impl Share {
    /// The part of worker `worker`, which from now on takes connections of others; `courier` takes one to another.
    pub fn open(balance: Arc<Balance>, worker: usize, courier: Courier) -> Self {
        balance.open(worker);
        Self { balance, worker, courier, brief: Cell::new(0) }
    }

    /// A connection ended after its only request. Where that is the rule, the next one takes its place and is gone as
    /// soon: to hand it over would cost more than it evens out.
    pub(super) fn ended_after_one_request(&self) {
        self.brief.set((self.brief.get() + 1).min(BRIEF_MAX));
    }

    /// Whether the next connection takes the place of such a one.
    fn replaces_brief(&self) -> bool {
        let brief = self.brief.get();
        self.brief.set(brief.saturating_sub(1));
        brief > 0 && !self.balance.is_exact()
    }

    /// Nothing more is taken from others.
    pub(super) fn close(&self) {
        self.balance.close(self.worker);
    }

    /// Whether this worker has no connection of the listener, and none is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.balance.is_empty(self.worker)
    }
}

/// Sees to a connection that this worker has accepted: serves it, or gives it to a worker that has fewer.
pub(super) fn dispatch(context: &Rc<WorkerContext>, listener: &Rc<Listener>, socket: Accepted) {
    if let Some(share) = &listener.share {
        let Share { balance, worker, courier: Courier(give), .. } = share;
        // Where it has stopped, the others are stopping, too.
        if listener.is_stopped() || share.replaces_brief() {
            balance.keep(*worker);
        } else {
            let to = balance.place(*worker);
            if to != *worker {
                listener.count_handed_over();
                let passage = Passage { balance: Arc::clone(balance), to, taken: false };
                return give(to, Handover { socket, passage });
            }
        }
    }
    admit(context, Place::taken(listener), socket);
}

impl Handover {
    /// Whether it is a connection of this listener.
    pub fn is_of(&self, listener: &Listener) -> bool {
        listener.share.as_ref().is_some_and(|share| Arc::ptr_eq(&share.balance, &self.passage.balance))
    }

    /// Serves it on the worker it was given to.
    pub fn serve(self, context: &Rc<WorkerContext>, listener: &Rc<Listener>) {
        let Self { socket, mut passage } = self;
        passage.taken = true;
        drop(passage);
        admit(context, Place::taken(listener), socket);
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.balance.arrive(self.to);
        if !self.taken {
            self.balance.leave(self.to);
        }
    }
}

impl Place {
    /// The place of a connection that is counted in the balance already; whether the listener's limit has room for it.
    fn taken(listener: &Rc<Listener>) -> (Self, bool) {
        let fits = listener.limit.as_ref().is_none_or(ListenerLimit::enter);
        (Self(Rc::clone(listener)), fits)
    }

    /// The place of a connection that another listener of this core has accepted. It counts, but is not refused: as in Envoy.
    pub(super) fn of_another(listener: Rc<Listener>) -> Self {
        listener.share.iter().for_each(|share| share.balance.keep(share.worker));
        Self::taken(&listener).0
    }

    /// The listener whose it is.
    pub(super) fn listener(&self) -> Rc<Listener> {
        Rc::clone(&self.0)
    }
}

impl std::ops::Deref for Place {
    type Target = Listener;

    fn deref(&self) -> &Listener {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.limit.iter().for_each(ListenerLimit::leave);
        if let Some(share) = &self.0.share {
            share.balance.leave(share.worker);
        }
    }
}

impl Courier {
    /// One that does it so.
    pub fn new(give: impl Fn(usize, Handover) + 'static) -> Self {
        Self(Rc::new(give))
    }
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Courier")
    }
}
