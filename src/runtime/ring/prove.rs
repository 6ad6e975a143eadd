//! Tries what the ring needs on real sockets before the first connection relies on it.
//!
//! A kernel, or a sandbox that pretends to be one, may accept the setup and refuse an operation; then the next lower
//! level or epoll serves, and not a single connection has to fail to find out.

use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use io_uring::cqueue;

use super::Ring;
use super::op::{self, Op, RecvMode};
use crate::runtime::socket::SocketKey;

/// Visits of 10 ms until an answer is overdue.
const VISITS_MAX: usize = 100;

impl Ring {
    /// Receives into a provided buffer until the end, and accepts, all as the level does it.
    ///
    /// # Errors
    /// The kernel's refusal, or `EOPNOTSUPP` when the outcome is not what the documentation says.
    pub(in crate::runtime) fn prove(&mut self) -> io::Result<()> {
        match self.prove_recv() {
            // Not this, or not with a cap: the second try tells.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.recv_bytes_max = 0;
                self.prove_recv()?;
            }
            proven => proven?,
        }
        self.prove_accept()
    }

    fn prove_recv(&mut self) -> io::Result<()> {
        let (near, mut far) = UnixStream::pair()?;
        let key = SocketKey { slot: 0, generation: 0 };
        let pool = self.pool.clone();
        self.small.top_up(&pool, 2);
        let multishot = self.has_multishot();
        let bytes_max = if multishot { self.recv_bytes_max } else { 0 };
        let mode =
            RecvMode { op: Op::Recv, group: self.small.group(), multishot, bytes_max, poll_first: true };
        self.track(op::recv(key, near.as_raw_fd(), mode));
        self.queue.visit(Some(0), 1)?;
        far.write_all(b"!")?;
        let got = self.await_completion()?;
        let chunk = cqueue::buffer_select(got.flags()).and_then(|id| self.small.take(id));
        check(got.result() == 1 && chunk.is_some() && cqueue::more(got.flags()) == multishot)?;
        if multishot {
            drop(far);
            let end = self.await_completion()?;
            check(end.result() == 0 && !cqueue::more(end.flags()))?;
        }
        Ok(())
    }

    fn prove_accept(&mut self) -> io::Result<()> {
        // An abstract name that only this thread uses: no file, no port.
        let name = format!("ringway-probe-{}-{:?}", std::process::id(), std::thread::current().id());
        let address = SocketAddr::from_abstract_name(name)?;
        let listener = UnixListener::bind_addr(&address)?;
        let key = SocketKey { slot: 0, generation: 0 };
        self.track(op::accept(key, listener.as_raw_fd()));
        self.queue.visit(Some(0), 1)?;
        let _client = UnixStream::connect_addr(&address)?;
        let got = self.await_completion()?;
        self.discard_descriptor(&got);
        check(got.result() >= 0 && cqueue::more(got.flags()))?;
        self.queue.push(op::cancel(key, Op::Accept));
        let end = self.await_completion()?;
        check(end.result() == -libc::ECANCELED && !cqueue::more(end.flags()))
    }

    fn track(&mut self, entry: io_uring::squeue::Entry) {
        self.in_flight += 1;
        self.queue.push(entry);
    }

    fn await_completion(&mut self) -> io::Result<cqueue::Entry> {
        for _ in 0..VISITS_MAX {
            self.queue.visit(Some(10), 1)?;
            // One at a time: one that came with it, such as an accept's end for want of descriptors, is the next answer.
            let mut one = [MaybeUninit::uninit()];
            if let Some(completion) = self.queue.completions(&mut one).first() {
                self.note_end(completion);
                return match completion.result() {
                    result if result < 0 && result != -libc::ECANCELED => {
                        Err(io::Error::from_raw_os_error(-result))
                    }
                    _ => Ok(completion.clone()),
                };
            }
        }
        Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }
}

fn check(as_documented: bool) -> io::Result<()> {
    if as_documented { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)) }
}
