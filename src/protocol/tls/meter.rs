//! What the TLS connections of one core have in common: how much memory unfinished messages may take.
//!
//! A peer may begin a message and never end it. What it has sent until then is counted here. Where all of them together come
//! to more than there may be, the one that was begun first has to go: who means it is done within a round trip, and who does
//! not keeps nobody else out. A message whose connection has no session yet lies here while it waits, so that its memory is
//! free at once: its connection hears of it later.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::task::Waker;

use crate::base::limits;
use crate::buffer::ChunkMut;

/// Counts the bytes of unfinished messages.
#[derive(Clone, Debug, Default)]
pub struct Meter(Rc<RefCell<Ledger>>);

#[derive(Debug, Default)]
struct Ledger {
    /// By number: the order in which the messages were begun.
    messages: BTreeMap<u64, Message>,
    bytes: usize,
    latest: u64,
    refused: u64,
}

#[derive(Debug)]
struct Message {
    bytes: usize,
    /// Wakes whose message it is.
    owner: Waker,
    /// The message, where it lies here.
    parked: Option<ChunkMut>,
}

/// Whose message it is: what it asks with.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) meter: &'a Meter,
    /// Bytes that need no asking.
    pub(super) free: usize,
    /// Makes what wakes it when it has to let go.
    pub(super) waker: &'a dyn Fn() -> Waker,
}

/// The right to keep a message that is not whole; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    meter: Meter,
    number: u64,
}

impl Owner<'_> {
    /// Asks for room for `bytes` in all, with what was granted so far; false: it may keep none of them. Others may lose theirs
    /// for it.
    pub(super) fn ask(&self, permit: &mut Option<Box<Permit>>, bytes: usize) -> bool {
        if bytes <= self.free {
            return permit.as_ref().is_none_or(|permit| !permit.is_withdrawn());
        }
        let permit = permit.get_or_insert_with(|| Box::new(self.meter.begin((self.waker)())));
        // What a chunk has of memory.
        permit.grow(bytes.next_multiple_of(limits::SMALL_CHUNK_BYTES));
        !permit.is_withdrawn()
    }
}

impl Meter {
    fn begin(&self, owner: Waker) -> Permit {
        let mut ledger = self.0.borrow_mut();
        ledger.latest += 1;
        let number = ledger.latest;
        ledger.messages.insert(number, Message { bytes: 0, owner, parked: None });
        Permit { meter: self.clone(), number }
    }

    /// How many messages had to be given up.
    pub fn refused(&self) -> u64 {
        self.0.borrow().refused
    }

    /// Bytes that are counted.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.0.borrow().bytes
    }

    /// Somebody within the handshake whom nothing wakes.
    #[cfg(test)]
    pub(super) fn anybody(&self) -> Owner<'_> {
        Owner { meter: self, free: 0, waker: &|| Waker::noop().clone() }
    }
}

impl Permit {
    fn grow(&self, bytes: usize) {
        let mut ledger = self.meter.0.borrow_mut();
        let Some(message) = ledger.messages.get_mut(&self.number) else { return };
        let before = std::mem::replace(&mut message.bytes, bytes);
        ledger.bytes = ledger.bytes - before + bytes;
        while ledger.bytes > limits::TLS_UNFINISHED_BYTES_MAX
            && let Some((_, first)) = ledger.messages.pop_first()
        {
            ledger.bytes -= first.bytes;
            ledger.refused += 1;
            first.owner.wake();
        }
    }

    /// Takes the message until it is asked for.
    pub(super) fn park(&self, message: ChunkMut) {
        if let Some(own) = self.meter.0.borrow_mut().messages.get_mut(&self.number) {
            own.parked = Some(message);
        }
    }

    /// Gives it back; `None`: it does not lie here, or there was no room for it any more.
    pub(super) fn unpark(&self) -> Option<ChunkMut> {
        self.meter.0.borrow_mut().messages.get_mut(&self.number)?.parked.take()
    }

    /// Whether there was no room any more for this message.
    pub(super) fn is_withdrawn(&self) -> bool {
        !self.meter.0.borrow().messages.contains_key(&self.number)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut ledger = self.meter.0.borrow_mut();
        if let Some(message) = ledger.messages.remove(&self.number) {
            ledger.bytes -= message.bytes;
        }
    }
}

impl fmt::Debug for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner").field("meter", self.meter).field("free", &self.free).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    const HALF: usize = limits::TLS_UNFINISHED_BYTES_MAX / 2;

    #[test]
    fn message_begun_first_goes_when_there_are_too_many_bytes() {
        let meter = Meter::default();
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let waker = || Waker::from(Arc::clone(&woken));
        let owner = Owner { meter: &meter, free: 100, waker: &waker };
        let [mut small, mut first, mut second, mut third] = [const { None }; 4];
        assert!(owner.ask(&mut small, 100) && small.is_none() && meter.bytes() == 0);
        assert!(owner.ask(&mut first, 101) && meter.bytes() == limits::SMALL_CHUNK_BYTES);
        assert!(owner.ask(&mut second, HALF) && owner.ask(&mut first, HALF));
        assert_eq!((meter.bytes(), meter.refused()), (2 * HALF, 0));
        assert!(owner.ask(&mut third, HALF));
        let withdrawn = |permit: &Option<Box<Permit>>| permit.as_ref().unwrap().is_withdrawn();
        assert!(withdrawn(&first) && !withdrawn(&second) && !withdrawn(&third));
        assert_eq!((meter.bytes(), meter.refused()), (2 * HALF, 1));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(!owner.ask(&mut first, HALF + 1) && meter.bytes() == 2 * HALF);
        drop((first, second));
        assert_eq!(meter.bytes(), HALF);
        // One that grows beyond everything loses its own.
        assert!(!owner.ask(&mut third, 2 * HALF + 1) && meter.bytes() == 0 && meter.refused() == 2);
    }
}
