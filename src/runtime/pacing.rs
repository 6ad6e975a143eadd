//! Pacing of connections that stay on this host.
//!
//! BBR sends by the clock. Where the `fq` queueing discipline does not do that for it, and loopback has none, each connection
//! has a timer of its own (Linux, `net/ipv4/tcp_bbr.c`), which is about half of what relaying a mebibyte costs
//! (ARCHITECTURE.md, choice 4). Within a host there is no queue to be kept short. So where the host's congestion control is
//! BBR, sockets that are bound or connected to a loopback address take Reno, which every kernel has and everybody may choose.
//! A `TCP_CONGESTION` among the configured socket options is set later, and so stands.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use super::sys;

const UNPACED: &[u8] = b"reno";

/// Whether this host's connections are paced unless they ask for something else.
pub(super) fn is_default() -> bool {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    sys::tcp_socket(any).is_ok_and(|socket| is_paced(socket.as_raw_fd()))
}

/// Whether what is bound or connected to it stays on this host.
pub(super) fn is_local(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Takes pacing from a socket that has not been connected yet; its accepted connections have what a listening one has. Of
/// no consequence but for the time it takes, so a refusal is none.
pub(super) fn take_from(socket: RawFd) {
    if is_paced(socket) {
        let _ = sys::set_option_bytes(socket, libc::IPPROTO_TCP, libc::TCP_CONGESTION, UNPACED);
    }
}

fn is_paced(socket: RawFd) -> bool {
    sys::congestion_control(socket).is_ok_and(|name| paces(&name))
}

/// All versions of BBR, by whatever number, and nothing else in Linux.
fn paces(name: &[u8]) -> bool {
    name.starts_with(b"bbr")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bbr_of_every_version_paces() {
        for name in ["bbr", "bbr2", "bbr3"] {
            assert!(paces(name.as_bytes()), "{name}");
        }
        for name in ["cubic", "reno", "dctcp", "", "abbr"] {
            assert!(!paces(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn loopback_is_local_in_every_notation() {
        for address in ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(is_local(address.parse().unwrap()), "{address}");
        }
        for address in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "[fe80::1]:1", "[::ffff:10.0.0.1]:1"] {
            assert!(!is_local(address.parse().unwrap()), "{address}");
        }
    }
}
