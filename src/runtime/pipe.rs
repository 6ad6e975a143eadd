//! Pipes of the kernel, through which `splice(2)` moves bytes from socket to socket without copying them.
//!
//! Each worker has a bounded number of them. One is taken while bytes are in it and given back once it is empty; one that
//! is dropped with bytes in it is closed, so that no bytes ever reach another connection.

use std::cell::{Cell, RefCell};
#[cfg(test)]
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use super::sys;
use crate::base::heaps;
use crate::base::limits::{LARGE_CHUNK_BYTES, PIPE_BYTES, PIPES_MAX, PIPES_SPARE_MAX};

/// A worker's pipes.
#[derive(Debug)]
pub(super) struct Pipes {
    spare: RefCell<Vec<Ends>>,
    in_use: Cell<usize>,
    refused: Cell<u64>,
    /// One was needed since the last trim.
    was_used: Cell<bool>,
    #[cfg(test)]
    simulated: bool,
    #[cfg(test)]
    pub(super) refuses: Cell<bool>,
}

#[derive(Debug)]
enum Ends {
    Fd {
        read: OwnedFd,
        write: OwnedFd,
        capacity: usize,
    },
    #[cfg(test)]
    Sim(VecDeque<u8>),
}

/// A pipe and how many bytes lie in it.
#[derive(Debug)]
pub struct Pipe {
    ends: Option<Ends>,
    bytes: usize,
    pipes: Rc<Pipes>,
}

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
            spare: RefCell::new(heaps::lasting_list(PIPES_SPARE_MAX)),
            in_use: Cell::new(0),
            refused: Cell::new(0),
            was_used: Cell::new(false),
            #[cfg(test)]
            simulated,
            #[cfg(test)]
            refuses: Cell::new(false),
        })
    }

    /// An empty pipe; `None`, which is counted, when there are as many as may be or the kernel has none of use.
    pub(super) fn take(self: &Rc<Self>) -> Option<Pipe> {
        let ends = if self.in_use.get() < PIPES_MAX {
            self.was_used.set(true);
            let spare = self.spare.borrow_mut().pop();
            spare.or_else(|| self.open())
        } else {
            None
        };
        let Some(ends) = ends else {
            self.refuse();
            return None;
        };
        self.in_use.set(self.in_use.get() + 1);
        Some(Pipe { ends: Some(ends), bytes: 0, pipes: Rc::clone(self) })
    }

    #[cold]
    fn open(&self) -> Option<Ends> {
        #[cfg(test)]
        if self.refuses.get() {
            return None;
        }
        #[cfg(test)]
        if self.simulated {
            return Some(Ends::Sim(VecDeque::new()));
        }
        let (read, write) = sys::pipe().ok()?;
        // Refused beyond the user's share of pages; what the pipe has then may still do.
        let capacity = sys::set_pipe_bytes(write.as_raw_fd(), PIPE_BYTES)
            .or_else(|_| sys::pipe_bytes(write.as_raw_fd()))
            .ok()?;
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
        self.bytes
    }

    /// Moves up to `max` bytes from a socket.
    pub(super) fn fill(&mut self, from: RawFd, max: usize) -> io::Result<usize> {
        match &self.ends {
            Some(Ends::Fd { write, capacity, .. }) => {
                let count = sys::splice(from, write.as_raw_fd(), max.min(*capacity))?;
                self.bytes += count;
                Ok(count)
            }
            #[cfg(test)]
            Some(Ends::Sim(_)) => Err(io::ErrorKind::Unsupported.into()),
            None => Ok(0),
        }
    }

    /// Moves what is in it to a socket, as far as that takes it.
    pub(super) fn drain(&mut self, to: RawFd) -> io::Result<usize> {
        match &self.ends {
            Some(Ends::Fd { read, .. }) => {
                let count = sys::splice(read.as_raw_fd(), to, self.bytes)?;
                self.bytes -= count.min(self.bytes);
                Ok(count)
            }
            #[cfg(test)]
            Some(Ends::Sim(_)) => Err(io::ErrorKind::Unsupported.into()),
            None => Ok(0),
        }
    }

    /// The simulation's bytes.
    #[cfg(test)]
    pub(super) fn simulated(&mut self) -> &mut VecDeque<u8> {
        match &mut self.ends {
            Some(Ends::Sim(bytes)) => bytes,
            _ => unreachable!("a pipe of the simulation"),
        }
    }

    /// The simulation has put bytes in, or taken some out.
    #[cfg(test)]
    pub(super) fn recount(&mut self) {
        self.bytes = self.simulated().len();
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.pipes.in_use.set(self.pipes.in_use.get() - 1);
        let mut spare = self.pipes.spare.borrow_mut();
        if self.bytes == 0 && spare.len() < PIPES_SPARE_MAX {
            spare.extend(self.ends.take());
        }
    }
}
