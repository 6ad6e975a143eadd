//! Bytes on their way to the peer of a connection: how many there are, and how many the codec may hold of them.
//!
//! The codec bounds what it holds of each stream, not of all of them: a peer that opens windows and does not read would
//! have it hold a frame for each of a thousand. Beyond [`CODEC_BYTES_MAX`] streams wait for their turn, which the
//! connection's task gives them in the order of their coming. A piece is taken off the books when its memory is let go,
//! however that comes: written, or dropped with its stream.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::rc::Rc;

use bytes::{Buf, Bytes};

use crate::runtime::{Runtime, TaskId};

/// Bytes of all streams of a connection that the codec holds for sending, beyond which streams wait. Reason: sixteen full
/// frames keep a socket busy. A peer that shrinks windows after so much was handed over has its other streams wait until
/// it opens them again.
const CODEC_BYTES_MAX: usize = 256 * 1024;
/// Streams whose turn comes at once.
const TURNS_AT_ONCE: usize = 16;

/// The books of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Outgoing(Rc<Books>);

#[derive(Debug, Default)]
struct Books {
    /// Bytes that wait in the streams.
    waiting: Cell<usize>,
    /// Bytes that the codec holds.
    in_codec: Cell<usize>,
    /// The codec had no room to write when the connection's task ran last.
    stalled: Cell<bool>,
    /// Tasks of streams that wait for the codec, by ticket.
    queue: RefCell<BTreeMap<u64, TaskId>>,
    /// Tasks of streams that wait until the codec has written all that it holds, by ticket.
    unwritten: RefCell<BTreeMap<u64, TaskId>>,
    tickets: Cell<u64>,
    /// Streams that were given up since the connection's task ran last.
    given_up: RefCell<Vec<u32>>,
}

/// Bytes with the codec.
#[derive(Debug, Default)]
pub(super) struct Piece {
    bytes: Bytes,
    /// Of which books it is taken, and how much.
    booked: Option<(Outgoing, usize)>,
}

impl Outgoing {
    /// Bytes that wait for the peer, on all streams, wherever they are.
    pub(super) fn bytes(&self) -> usize {
        self.0.waiting.get() + self.0.in_codec.get()
    }

    /// Whether the peer takes nothing for now.
    pub(super) fn is_stalled(&self) -> bool {
        self.0.stalled.get()
    }

    /// Says so. Called in the connection's task, whenever that has run.
    pub(super) fn set_stalled(&self, stalled: bool) {
        self.0.stalled.set(stalled);
    }

    /// A stream has so many more that wait.
    pub(super) fn add(&self, bytes: usize) {
        self.0.waiting.set(self.0.waiting.get() + bytes);
    }

    /// A stream has dropped so many that waited.
    pub(super) fn forget(&self, bytes: usize) {
        self.0.waiting.set(self.0.waiting.get() - bytes);
    }

    /// What goes from a stream to the codec.
    pub(super) fn piece(&self, bytes: Bytes) -> Piece {
        self.forget(bytes.len());
        self.0.in_codec.set(self.0.in_codec.get() + bytes.len());
        Piece { booked: Some((self.clone(), bytes.len())), bytes }
    }

    /// Whether the codec takes more. If not, the task is woken when it may; `ticket`: the stream's place in the queue.
    pub(super) fn has_room(&self, task: TaskId, ticket: &Cell<u64>) -> bool {
        let mut queue = self.0.queue.borrow_mut();
        if self.0.in_codec.get() < CODEC_BYTES_MAX {
            queue.remove(&ticket.get());
            return true;
        }
        self.line_up(&mut queue, task, ticket);
        false
    }

    /// Whether the codec has written all that it held, of whichever stream. If not, the task is woken when it has; `ticket`: as
    /// above.
    pub(super) fn is_written(&self, task: TaskId, ticket: &Cell<u64>) -> bool {
        let is_written = self.0.in_codec.get() == 0;
        if is_written {
            self.leave(ticket);
        } else {
            self.line_up(&mut self.0.unwritten.borrow_mut(), task, ticket);
        }
        is_written
    }

    /// Puts a task at the end of a line, or leaves it at its place.
    fn line_up(&self, line: &mut BTreeMap<u64, TaskId>, task: TaskId, ticket: &Cell<u64>) {
        if !line.contains_key(&ticket.get()) {
            let next = self.0.tickets.get() + 1;
            self.0.tickets.set(next);
            ticket.set(next);
        }
        line.insert(ticket.get(), task);
    }

    /// The stream does not wait any more.
    pub(super) fn leave(&self, ticket: &Cell<u64>) {
        self.0.queue.borrow_mut().remove(&ticket.get());
        self.0.unwritten.borrow_mut().remove(&ticket.get());
    }

    /// A stream is let go although more of it may come.
    pub(super) fn give_up(&self, stream: u32) {
        self.0.given_up.borrow_mut().push(stream);
    }

    /// The streams that were given up since the last call.
    pub(super) fn take_given_up(&self) -> Vec<u32> {
        self.0.given_up.take()
    }

    /// Wakes those whose turn has come. Called in the connection's task, whenever that has run.
    pub(super) fn give_turns(&self, runtime: &Runtime) {
        let in_codec = self.0.in_codec.get();
        if in_codec >= CODEC_BYTES_MAX / 2 {
            return;
        }
        let mut unwritten = self.0.unwritten.borrow_mut();
        while in_codec == 0
            && let Some((_, task)) = unwritten.pop_first()
        {
            runtime.wake(task);
        }
        let mut queue = self.0.queue.borrow_mut();
        for _ in 0..TURNS_AT_ONCE {
            let Some((_, task)) = queue.pop_first() else { return };
            runtime.wake(task);
        }
        // Some may have nothing to say any more: then it is the next ones' turn.
        if !queue.is_empty() {
            runtime.wake(runtime.current_task());
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some((books, bytes)) = self.booked.take() {
            books.0.in_codec.set(books.0.in_codec.get() - bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_on_the_books_until_their_memory_is_let_go() {
        let books = Outgoing::default();
        books.add(10);
        let mut piece = books.piece(Bytes::from_static(b"123456"));
        piece.advance(6);
        assert_eq!(books.bytes(), 10);
        drop(piece);
        assert_eq!(books.bytes(), 4);
        books.forget(4);
        drop(Piece::default());
        assert_eq!(books.bytes(), 0);
    }

    #[test]
    fn streams_wait_in_the_order_of_their_coming_while_the_codec_is_full() {
        let books = Outgoing::default();
        let tickets = [Cell::new(0), Cell::new(0)];
        books.add(CODEC_BYTES_MAX);
        assert!(books.has_room(TaskId::NONE, &tickets[1]));
        let full = books.piece(vec![0; CODEC_BYTES_MAX].into());
        assert!(!books.has_room(TaskId::NONE, &tickets[1]) && !books.has_room(TaskId::NONE, &tickets[0]));
        assert!(!books.has_room(TaskId::NONE, &tickets[1]), "asks again");
        assert_eq!(tickets.each_ref().map(Cell::get), [2, 1]);
        books.leave(&tickets[1]);
        drop(full);
        assert!(books.has_room(TaskId::NONE, &tickets[0]) && books.0.queue.borrow().is_empty());
    }

    #[test]
    fn all_that_the_codec_holds_is_waited_for_once() {
        let books = Outgoing::default();
        let ticket = Cell::new(0);
        assert!(books.is_written(TaskId::NONE, &ticket), "it holds nothing");
        books.add(2);
        let piece = books.piece(Bytes::from_static(b"ab"));
        assert!(!books.is_written(TaskId::NONE, &ticket) && !books.is_written(TaskId::NONE, &ticket));
        assert_eq!((ticket.get(), books.0.unwritten.borrow().len()), (1, 1), "asks again");
        drop(piece);
        assert!(books.is_written(TaskId::NONE, &ticket) && books.0.unwritten.borrow().is_empty());
    }
}
