//! Pipes of the kernel, through which `splice(2)` moves bytes from socket to socket without copying them.
//!
//! Each worker has a bounded number of them. One is taken while bytes are in it and given back once it is empty; one that
//! is dropped with bytes in it is closed, so that no bytes ever reach another connection.

use std::cell::{Cell, RefCell};
#[cfg(test)]
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};

use super::sys;
use crate::base::heaps;
use crate::base::limits::{LARGE_CHUNK_BYTES, PIPE_BYTES, PIPES_MAX};
use crate::buffer::ChunkMut;

/// A worker's pipes.
#[derive(Debug)]
pub(super) struct Pipes {
    /// Empty ones, open for the next.
    spare: RefCell<Vec<Rc<Open>>>,
    in_use: Cell<usize>,
    refused: Cell<u64>,
    /// One was needed since the last trim.
    was_used: Cell<bool>,
    #[cfg(test)]
    simulated: bool,
    /// Bytes that a pipe is asked to take instead of those of the limit.
    #[cfg(test)]
    pub(super) asked: Cell<Option<usize>>,
}

/// An open pipe. It is kept when its user is done with it: taking one again allocates nothing.
#[derive(Debug)]
struct Open {
    ends: Ends,
    bytes: Cell<usize>,
    /// The kernel does not splice what is in it to where it goes.
    stuck: Cell<bool>,
    pipes: Weak<Pipes>,
}

#[derive(Debug)]
enum Ends {
    Fd {
        read: OwnedFd,
        write: OwnedFd,
        capacity: usize,
    },
    #[cfg(test)]
    Sim(RefCell<VecDeque<u8>>),
}

/// A pipe and how many bytes lie in it.
#[derive(Debug)]
pub struct Pipe(Rc<Open>);

/// What came of splicing from a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spliced {
    /// So many bytes are in the pipe.
    Bytes(usize),
    /// The peer has finished.
    End,
    /// Bytes wait in user space: they come first.
    Unread,
    /// The kernel does not splice here.
    Refused,
}

impl Pipes {
    pub(super) fn new(simulated: bool) -> Rc<Self> {
        let _ = simulated;
        Rc::new(Self {
            spare: RefCell::new(heaps::lasting_list(PIPES_MAX)),
            in_use: Cell::new(0),
            refused: Cell::new(0),
            was_used: Cell::new(false),
            #[cfg(test)]
            simulated,
            #[cfg(test)]
            asked: Cell::new(None),
        })
    }

    /// An empty pipe; `None`, which is counted, when there are as many as may be or the kernel has none of use.
    pub(super) fn take(self: &Rc<Self>) -> Option<Pipe> {
        let open = if self.in_use.get() < PIPES_MAX {
            self.was_used.set(true);
            let spare = self.spare.borrow_mut().pop();
            spare.or_else(|| self.open())
        } else {
            None
        };
        let Some(open) = open else {
            self.refuse();
            return None;
        };
        self.in_use.set(self.in_use.get() + 1);
        Some(Pipe(open))
    }

    #[cold]
    fn open(self: &Rc<Self>) -> Option<Rc<Open>> {
        let ends = self.ends()?;
        let (bytes, stuck, pipes) = (Cell::new(0), Cell::new(false), Rc::downgrade(self));
        Some(heaps::lasting(|| Rc::new(Open { ends, bytes, stuck, pipes })))
    }

    fn ends(&self) -> Option<Ends> {
        #[cfg(test)]
        if self.simulated {
            return Some(Ends::Sim(RefCell::default()));
        }
        let (read, write) = sys::pipe().ok()?;
        let (fd, wanted) = (write.as_raw_fd(), PIPE_BYTES);
        #[cfg(test)]
        let wanted = self.asked.get().unwrap_or(wanted);
        // Refused beyond the user's share of pages; what the pipe has then may still do.
        let capacity = sys::set_pipe_bytes(fd, wanted).or_else(|_| sys::pipe_bytes(fd)).ok()?;
        (capacity >= LARGE_CHUNK_BYTES).then_some(Ends::Fd { read, write, capacity })
    }

    pub(super) fn refuse(&self) {
        self.refused.set(self.refused.get() + 1);
    }

    pub(super) fn in_use(&self) -> usize {
        self.in_use.get()
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Closes what was not needed since the last call; whether there is more.
    pub(super) fn trim(&self) -> bool {
        if !self.was_used.replace(false) {
            self.spare.borrow_mut().clear();
        }
        !self.spare.borrow().is_empty()
    }
}

impl Pipe {
    /// Bytes in it.
    pub fn bytes(&self) -> usize {
        self.0.bytes.get()
    }

    /// Takes what is in it into user space, as far as the chunk has room.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read_back(&self, into: &mut ChunkMut) -> io::Result<()> {
        let count = match &self.0.ends {
            Ends::Fd { read, .. } => sys::read(read.as_raw_fd(), into.spare())?,
            #[cfg(test)]
            Ends::Sim(bytes) => {
                let mut bytes = bytes.borrow_mut();
                let count = bytes.len().min(into.room());
                for (to, byte) in into.spare().iter_mut().zip(bytes.drain(..count)) {
                    *to = byte;
                }
                count
            }
        };
        into.advance(count);
        self.0.bytes.set(self.bytes().saturating_sub(count));
        self.0.stuck.set(self.bytes() > 0);
        Ok(())
    }

    /// Moves up to `max` bytes from a socket.
    pub(super) fn fill(&self, from: RawFd, max: usize) -> io::Result<usize> {
        match &self.0.ends {
            Ends::Fd { write, capacity, .. } => {
                let count = sys::splice(from, write.as_raw_fd(), max.min(*capacity))?;
                self.0.bytes.set(self.bytes() + count);
                Ok(count)
            }
            #[cfg(test)]
            Ends::Sim(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Moves what is in it to a socket, as far as that takes it.
    pub(super) fn drain(&self, to: RawFd) -> io::Result<usize> {
        match &self.0.ends {
            Ends::Fd { read, .. } => {
                let count = sys::splice(read.as_raw_fd(), to, self.bytes())?;
                self.0.bytes.set(self.bytes().saturating_sub(count));
                Ok(count)
            }
            #[cfg(test)]
            Ends::Sim(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The kernel does not splice what is in it to where it goes: it has to be read back.
    pub(super) fn set_stuck(&self) {
        self.0.stuck.set(true);
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.0.stuck.get()
    }

    /// Does something with the simulation's bytes.
    #[cfg(test)]
    pub(super) fn simulated<T>(&self, act: impl FnOnce(&mut VecDeque<u8>) -> T) -> T {
        let Ends::Sim(bytes) = &self.0.ends else { unreachable!("a pipe of the simulation") };
        let mut bytes = bytes.borrow_mut();
        let outcome = act(&mut bytes);
        self.0.bytes.set(bytes.len());
        outcome
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let Some(pipes) = self.0.pipes.upgrade() else { return };
        pipes.in_use.set(pipes.in_use.get() - 1);
        // With bytes in it, it closes with the last reference, this one.
        if self.bytes() == 0 {
            pipes.spare.borrow_mut().push(Rc::clone(&self.0));
        }
    }
}
