//! Listening sockets: bound once by the server, lent to workers.
//!
//! An exclusive probe bind precedes SO_REUSEPORT, so that a second process reports "address in use" instead of taking
//! half of the traffic.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::sys;
use super::tcp::RawOption;

/// How a listening socket is made.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Where to listen; port 0 is resolved by the first bind.
    pub address: SocketAddr,
    /// Pending connections the kernel keeps (it caps the number at `net.core.somaxconn`).
    pub backlog: i32,
    /// Bind an address this host does not have yet (IP_FREEBIND).
    pub freebind: bool,
    /// Accept connections for foreign addresses (IP_TRANSPARENT).
    pub transparent: bool,
    /// Also accept IPv4 on `::`.
    pub ipv4_compat: bool,
    /// Set before the bind.
    pub options: Vec<RawOption>,
    /// Set once it is bound.
    pub bound_options: Vec<RawOption>,
    /// Set once it listens.
    pub listening_options: Vec<RawOption>,
}

impl ListenOptions {
    /// A socket without special wishes.
    pub fn plain(address: SocketAddr, backlog: i32) -> Self {
        Self {
            address,
            backlog,
            freebind: false,
            transparent: false,
            ipv4_compat: false,
            options: Vec::new(),
            bound_options: Vec::new(),
            listening_options: Vec::new(),
        }
    }
}

/// Binds one listening socket per worker, all on the same address.
///
/// # Errors
/// Address in use, no permission, no such address, an option refused.
pub fn bind(options: &ListenOptions, workers: usize) -> io::Result<Vec<OwnedFd>> {
    let probe = socket(options, options.address, false)?;
    if workers <= 1 {
        // The next process may have more workers, and may then [`join`].
        sys::set_option(probe.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        listen(&probe, options)?;
        return Ok(vec![probe]);
    }
    let address = sys::local_addr(probe.as_raw_fd())?;
    drop(probe);
    join(&ListenOptions { address, ..options.clone() }, workers)
}

/// Binds the one listening socket of an address.
///
/// # Errors
/// As [`bind`].
pub fn bind_exclusive(options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = socket(options, options.address, false)?;
    listen(&socket, options)?;
    Ok(socket)
}

/// Binds further listening sockets to an address that sockets of [`bind`] have already, or to a free one.
///
/// # Errors
/// As [`bind`]; the address belongs to sockets that do not share it, or to another user's.
pub fn join(options: &ListenOptions, count: usize) -> io::Result<Vec<OwnedFd>> {
    // All are bound before the first listens: a connection must not meet a group that still grows.
    let sockets =
        (0..count).map(|_| socket(options, options.address, true)).collect::<io::Result<Vec<_>>>()?;
    for socket in &sockets {
        listen(socket, options)?;
    }
    Ok(sockets)
}

/// Where a bound socket is.
///
/// # Errors
/// Not a socket.
pub fn local_addr(fd: &OwnedFd) -> io::Result<SocketAddr> {
    sys::local_addr(fd.as_raw_fd())
}

fn socket(options: &ListenOptions, address: SocketAddr, share_port: bool) -> io::Result<OwnedFd> {
    let socket = sys::tcp_socket(address)?;
    let fd = socket.as_raw_fd();
    sys::set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if share_port {
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    if address.is_ipv6() {
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, i32::from(!options.ipv4_compat))?;
    }
    if options.freebind {
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_FREEBIND, 1)?;
    }
    if options.transparent {
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1)?;
    }
    set_all(&socket, &options.options)?;
    sys::bind(fd, address)?;
    set_all(&socket, &options.bound_options)?;
    Ok(socket)
}

fn listen(socket: &OwnedFd, options: &ListenOptions) -> io::Result<()> {
    sys::listen(socket.as_raw_fd(), options.backlog)?;
    set_all(socket, &options.listening_options)
}

fn set_all(socket: &OwnedFd, options: &[RawOption]) -> io::Result<()> {
    for option in options {
        sys::set_option_bytes(socket.as_raw_fd(), option.level, option.name, &option.value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_workers_are_joined_by_further_ones_and_by_nobody_elses_bind() {
        let plain = ListenOptions::plain(([127, 0, 0, 1], 0).into(), 1);
        for workers in [1, 2] {
            let sockets = bind(&plain, workers).unwrap();
            let taken = ListenOptions { address: local_addr(&sockets[0]).unwrap(), ..plain.clone() };
            assert_eq!(sockets.len(), workers);
            assert_eq!(bind(&taken, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            assert_eq!(bind_exclusive(&taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            assert_eq!(join(&taken, 2).unwrap().len(), 2);
        }
        let socket = bind_exclusive(&plain).unwrap();
        let taken = ListenOptions { address: local_addr(&socket).unwrap(), ..plain };
        assert_eq!(join(&taken, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn options_are_set_in_the_state_they_ask_for() {
        let plain = ListenOptions::plain(([127, 0, 0, 1], 0).into(), 1);
        let refused = || vec![RawOption { level: libc::SOL_SOCKET, name: -1, value: Box::new([0; 4]) }];
        assert!(bind(&plain, 2).is_ok());
        for options in [
            ListenOptions { options: refused(), ..plain.clone() },
            ListenOptions { bound_options: refused(), ..plain.clone() },
            ListenOptions { listening_options: refused(), ..plain },
        ] {
            for workers in [1, 2] {
                let error = bind(&options, workers).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT), "{options:?}");
            }
        }
    }
}
