//! What a socket is to the world: a descriptor, or an end of the simulated network. Dropping it closes it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

#[cfg(test)]
use super::sim::SimEnd;
use super::socket::SocketKey;
use super::sys;
use crate::base::socket_address::SocketAddress;

/// An open socket.
#[derive(Debug)]
pub enum Endpoint {
    /// The kernel's.
    Fd(OwnedFd),
    /// The simulation's.
    #[cfg(test)]
    Sim(SimEnd),
}

impl Endpoint {
    /// The descriptor; -1 in the simulation, whose back end never asks.
    pub(super) fn raw_fd(&self) -> RawFd {
        match self {
            Self::Fd(fd) => fd.as_raw_fd(),
            #[cfg(test)]
            Self::Sim(_) => -1,
        }
    }

    /// The peer's address.
    ///
    /// # Errors
    /// Not connected.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Fd(fd) => sys::peer_addr(fd.as_raw_fd()),
            #[cfg(test)]
            Self::Sim(end) => end.peer_addr(),
        }
    }

    /// Our address.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Fd(fd) => sys::local_addr(fd.as_raw_fd()),
            #[cfg(test)]
            Self::Sim(end) => end.local_addr(),
        }
    }

    /// Where it is, in the Unix domain, too.
    pub(super) fn address(&self) -> io::Result<SocketAddress> {
        match self {
            Self::Fd(fd) => sys::local_address(fd.as_raw_fd()),
            #[cfg(test)]
            Self::Sim(end) => end.local_addr().map(SocketAddress::Ip),
        }
    }

    /// Where the peer is and where this end is. As in Envoy a peer in the Unix domain, where clients have no names, is called
    /// as this end, even if it has one.
    pub(super) fn ends(&self) -> io::Result<[SocketAddress; 2]> {
        let local = self.address()?;
        let peer = match &local {
            SocketAddress::Ip(_) => self.peer_addr()?.into(),
            SocketAddress::Pipe(_) | SocketAddress::Internal(_) => local.clone(),
        };
        Ok([peer, local])
    }

    /// Where the peer meant to connect to, before a redirection.
    pub(super) fn original_destination(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Fd(fd) => sys::original_destination(fd.as_raw_fd()),
            #[cfg(test)]
            Self::Sim(_) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn bind(&self, address: SocketAddr) -> io::Result<()> {
        match self {
            Self::Fd(fd) => sys::bind(fd.as_raw_fd(), address),
            #[cfg(test)]
            Self::Sim(end) => end.bind(address),
        }
    }

    /// The simulation has no options: each is taken and changes nothing.
    pub(super) fn set_option(&self, level: i32, name: i32, value: i32) -> io::Result<()> {
        match self {
            Self::Fd(fd) => sys::set_option(fd.as_raw_fd(), level, name, value),
            #[cfg(test)]
            Self::Sim(_) => Ok(()),
        }
    }

    pub(super) fn set_option_bytes(&self, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
        match self {
            Self::Fd(fd) => sys::set_option_bytes(fd.as_raw_fd(), level, name, value),
            #[cfg(test)]
            Self::Sim(_) => Ok(()),
        }
    }

    pub(super) fn set_reset_on_close(&self) {
        match self {
            Self::Fd(fd) => sys::set_linger_zero(fd.as_raw_fd()),
            #[cfg(test)]
            Self::Sim(end) => end.set_reset_on_close(),
        }
    }

    /// Whether the peer's kernel is known to have all that was handed to ours. The simulation loses nothing that was sent.
    pub(super) fn is_acknowledged(&self) -> bool {
        match self {
            Self::Fd(fd) => sys::unacknowledged(fd.as_raw_fd()).is_ok_and(|bytes| bytes == 0),
            #[cfg(test)]
            Self::Sim(_) => true,
        }
    }

    /// Whether the kernel has bytes that nobody has received. The simulation tells of none: what it has comes with a later visit.
    pub(super) fn has_arrived(&self) -> bool {
        match self {
            Self::Fd(fd) => sys::has_arrived(fd.as_raw_fd()).unwrap_or(false),
            #[cfg(test)]
            Self::Sim(_) => false,
        }
    }

    pub(super) fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Fd(fd) => sys::shutdown_write(fd.as_raw_fd()),
            #[cfg(test)]
            Self::Sim(end) => {
                end.shutdown_write();
                Ok(())
            }
        }
    }
}

/// An accepted connection that no worker watches yet, so that it may go to another. Dropping it closes it.
#[derive(Debug)]
pub struct Accepted(pub(super) Parcel);

/// What of an endpoint crosses threads.
#[derive(Debug)]
pub(super) enum Parcel {
    /// A descriptor is one of the process.
    Fd(OwnedFd),
    /// A connection within the worker, which does not leave it: who takes it takes it on.
    Internal(SocketKey),
    /// The number of a socket in the world that all of its runtimes share.
    #[cfg(test)]
    Sim(usize),
}

impl From<Endpoint> for Accepted {
    fn from(endpoint: Endpoint) -> Self {
        Self(match endpoint {
            Endpoint::Fd(fd) => Parcel::Fd(fd),
            #[cfg(test)]
            Endpoint::Sim(end) => Parcel::Sim(end.detach()),
        })
    }
}

impl From<OwnedFd> for Endpoint {
    fn from(fd: OwnedFd) -> Self {
        Self::Fd(fd)
    }
}
