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
}

/// Binds one listening socket per worker, all on the same address.
///
/// # Errors
/// Address in use, no permission, no such address, an option refused.
pub fn bind(options: &ListenOptions, workers: usize) -> io::Result<Vec<OwnedFd>> {
    let mut address = options.address;
    let probe = socket(options, address, false)?;
    address = sys::local_addr(probe.as_raw_fd())?;
    if workers <= 1 {
        sys::listen(probe.as_raw_fd(), options.backlog)?;
        return Ok(vec![probe]);
    }
    drop(probe);
    // All are bound before the first listens: a connection must not meet a group that still grows.
    let sockets = (0..workers).map(|_| socket(options, address, true)).collect::<io::Result<Vec<_>>>()?;
    for socket in &sockets {
        sys::listen(socket.as_raw_fd(), options.backlog)?;
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
    for option in &options.options {
        sys::set_option_bytes(fd, option.level, option.name, &option.value)?;
    }
    sys::bind(fd, address)?;
    Ok(socket)
}
