//! System calls as functions that return `io::Result`. Nothing here decides anything.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_void};

use crate::base::socket_address::SocketAddress;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_count(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// No address, as an argument of a system call.
const NOWHERE: *mut c_void = std::ptr::null_mut();

/// A socket address as the kernel wants it.
#[derive(Clone, Copy)]
pub(crate) struct RawAddr {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl std::fmt::Debug for RawAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawAddr({:?})", self.to_socket_addr())
    }
}

impl RawAddr {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        // SAFETY: all zeroes is a valid sockaddr_storage.
        let mut storage: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
        let len = match addr {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is at least as big and as aligned as any sockaddr.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self { storage, len: len as libc::socklen_t }
    }

    /// Of the Unix domain: a path, or behind a `@` a name of the abstract space.
    ///
    /// # Errors
    /// Empty, longer than the kernel takes, or with a zero within.
    pub(crate) fn unix(name: &str) -> io::Result<Self> {
        // SAFETY: all zeroes is a valid sockaddr_un.
        let mut raw: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
        raw.sun_family = libc::AF_UNIX as libc::sa_family_t;
        // A path needs its final zero; a name of the abstract space begins with one instead, and its length counts.
        let (start, text) = name.strip_prefix('@').map_or((0, name), |name| (1, name));
        if text.is_empty() || text.contains('\0') || text.len() + 1 > raw.sun_path.len() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        for (place, byte) in raw.sun_path[start..].iter_mut().zip(text.bytes()) {
            *place = byte as libc::c_char;
        }
        // SAFETY: all zeroes is a valid sockaddr_storage.
        let mut storage: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: sockaddr_storage is at least as big and as aligned as any sockaddr.
        unsafe { (&raw mut storage).cast::<libc::sockaddr_un>().write(raw) };
        let len = size_of::<libc::sa_family_t>() + text.len() + 1;
        Ok(Self { storage, len: len as libc::socklen_t })
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(crate) fn len(&self) -> libc::socklen_t {
        self.len
    }

    pub(crate) fn to_socket_addr(self) -> Option<SocketAddr> {
        match c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says what the storage holds.
                let raw = unsafe { (&raw const self.storage).cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(raw.sin_port))))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let raw = unsafe { (&raw const self.storage).cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                Some(SocketAddr::V6(SocketAddrV6::new(
                    ip,
                    u16::from_be(raw.sin6_port),
                    raw.sin6_flowinfo,
                    raw.sin6_scope_id,
                )))
            }
            _ => None,
        }
    }

    /// The same, or the name of a socket of the Unix domain; `None`: it has none.
    fn to_address(self) -> Option<SocketAddress> {
        if c_int::from(self.storage.ss_family) != libc::AF_UNIX {
            return self.to_socket_addr().map(SocketAddress::Ip);
        }
        // SAFETY: the family says what the storage holds.
        let raw = unsafe { (&raw const self.storage).cast::<libc::sockaddr_un>().read() };
        let length = (self.len as usize).saturating_sub(size_of::<libc::sa_family_t>());
        let bytes: Vec<u8> = raw.sun_path.iter().take(length).map(|byte| *byte as u8).collect();
        let name = match bytes.split_first() {
            None => return None,
            // A name of the abstract space.
            Some((0, name)) => [b"@", name].concat(),
            Some(_) => bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
        };
        Some(SocketAddress::Pipe(String::from_utf8_lossy(&name).into()))
    }
}

type NameCall = unsafe extern "C" fn(c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> c_int;

fn name(fd: RawFd, call: NameCall) -> io::Result<RawAddr> {
    // SAFETY: all zeroes is a valid sockaddr_storage.
    let storage = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut raw = RawAddr { storage, len: size_of::<libc::sockaddr_storage>() as u32 };
    // SAFETY: the pointers are to live storage of the length given.
    check(unsafe { call(fd, (&raw mut raw.storage).cast(), &raw mut raw.len) })?;
    Ok(raw)
}

fn unsupported() -> io::Error {
    io::ErrorKind::Unsupported.into()
}

pub(crate) fn peer_addr(fd: RawFd) -> io::Result<SocketAddr> {
    name(fd, libc::getpeername)?.to_socket_addr().ok_or_else(unsupported)
}

pub(crate) fn local_addr(fd: RawFd) -> io::Result<SocketAddr> {
    name(fd, libc::getsockname)?.to_socket_addr().ok_or_else(unsupported)
}

/// [`local_addr`], of the Unix domain, too.
pub(crate) fn local_address(fd: RawFd) -> io::Result<SocketAddress> {
    name(fd, libc::getsockname)?.to_address().ok_or_else(unsupported)
}

/// Where a connection led to before netfilter redirected it; of a transparent socket its own address. IPv4 on a socket of both
/// families is IPv4.
pub(crate) fn original_destination(fd: RawFd) -> io::Result<SocketAddr> {
    let local = local_addr(fd)?;
    // Connections of IPv4 on a socket of IPv6 are IPv4's to netfilter.
    let is_v4 = local.ip().to_canonical().is_ipv4();
    let level = if is_v4 { libc::SOL_IP } else { libc::SOL_IPV6 };
    let option_name = if is_v4 { libc::SO_ORIGINAL_DST } else { libc::IP6T_SO_ORIGINAL_DST };
    // SAFETY: all zeroes is a valid sockaddr_storage.
    let storage = unsafe { MaybeUninit::zeroed().assume_init() };
    // The kernel takes no more room than an address of the family.
    let room = if is_v4 { size_of::<libc::sockaddr_in>() } else { size_of::<libc::sockaddr_in6>() };
    let mut raw = RawAddr { storage, len: room as u32 };
    // SAFETY: the pointers are to live storage, larger than the length given.
    let outcome = check(unsafe {
        libc::getsockopt(fd, level, option_name, (&raw mut raw.storage).cast(), &raw mut raw.len)
    });
    if outcome.is_ok() {
        return raw.to_socket_addr().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported));
    }
    let transparent = if local.is_ipv4() {
        option(fd, libc::SOL_IP, libc::IP_TRANSPARENT)
    } else {
        option(fd, libc::SOL_IPV6, libc::IPV6_TRANSPARENT)
    };
    match transparent? {
        0 => Err(io::ErrorKind::NotFound.into()),
        _ if is_v4 => Ok(SocketAddr::new(local.ip().to_canonical(), local.port())),
        _ => Ok(local),
    }
}

/// A non-blocking, close-on-exec TCP socket of the address's family.
pub(crate) fn tcp_socket(addr: SocketAddr) -> io::Result<OwnedFd> {
    stream_socket(if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 })
}

/// A non-blocking, close-on-exec stream socket of the Unix domain.
pub(crate) fn unix_socket() -> io::Result<OwnedFd> {
    stream_socket(libc::AF_UNIX)
}

fn stream_socket(family: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = check(unsafe {
        libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: just created, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn bind(fd: RawFd, addr: SocketAddr) -> io::Result<()> {
    bind_raw(fd, &RawAddr::new(addr))
}

pub(crate) fn bind_raw(fd: RawFd, raw: &RawAddr) -> io::Result<()> {
    // SAFETY: pointer and length describe `raw`.
    check(unsafe { libc::bind(fd, raw.as_ptr(), raw.len()) }).map(drop)
}

pub(crate) fn listen(fd: RawFd, backlog: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd, backlog) }).map(drop)
}

pub(crate) fn accept(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: null addresses are allowed.
    let accepted = check(unsafe {
        libc::accept4(
            fd,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    })?;
    // SAFETY: just accepted, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(accepted) })
}

/// Starts connecting; `EINPROGRESS` means it goes on. `EAGAIN` does not: in the Unix domain the listener's queue is full.
pub(crate) fn connect(fd: RawFd, addr: &RawAddr) -> io::Result<()> {
    // SAFETY: pointer and length describe `addr`.
    check(unsafe { libc::connect(fd, addr.as_ptr(), addr.len()) }).map(drop)
}

// What each request calls goes past the library's own functions: those are places where a thread can be cancelled, and
// glibc marks entry and exit of each with a locked instruction.

pub(crate) fn recv(fd: RawFd, into: &mut [u8]) -> io::Result<usize> {
    let (start, len) = (into.as_mut_ptr(), into.len());
    // SAFETY: pointer and length describe `into`; null addresses are allowed.
    check_count(unsafe { libc::syscall(libc::SYS_recvfrom, fd, start, len, 0, NOWHERE, NOWHERE) })
}

pub(crate) fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let (start, len) = (bytes.as_ptr(), bytes.len());
    // SAFETY: pointer and length describe `bytes`; a null address is allowed.
    check_count(unsafe {
        libc::syscall(libc::SYS_sendto, fd, start, len, libc::MSG_NOSIGNAL, NOWHERE, 0usize)
    })
}

pub(crate) fn send_vectored(fd: RawFd, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
    // SAFETY: all zeroes is a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = buffers.as_ptr().cast_mut().cast();
    message.msg_iovlen = buffers.len();
    // SAFETY: `IoSlice` is guaranteed to be an iovec; the kernel only reads.
    check_count(unsafe { libc::syscall(libc::SYS_sendmsg, fd, &raw const message, libc::MSG_NOSIGNAL) })
}

/// The reading and the writing end of a pipe, neither of which blocks.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: the pointer is to room for two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) })?;
    // SAFETY: just created, owned by nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

pub(crate) fn set_pipe_bytes(fd: RawFd, bytes: usize) -> io::Result<usize> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd, libc::F_SETPIPE_SZ, bytes as c_int) }).map(|bytes| bytes as usize)
}

pub(crate) fn pipe_bytes(fd: RawFd) -> io::Result<usize> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd, libc::F_GETPIPE_SZ) }).map(|bytes| bytes as usize)
}

pub(crate) fn read(fd: RawFd, into: &mut [u8]) -> io::Result<usize> {
    let (start, len) = (into.as_mut_ptr(), into.len());
    // SAFETY: pointer and length describe `into`.
    check_count(unsafe { libc::syscall(libc::SYS_read, fd, start, len) })
}

/// Moves bytes between a pipe and a socket, as many as can be now.
pub(crate) fn splice(from: RawFd, to: RawFd, bytes: usize) -> io::Result<usize> {
    let how = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: null offsets are allowed; there are no other pointers.
    check_count(unsafe { libc::syscall(libc::SYS_splice, from, NOWHERE, to, NOWHERE, bytes, how) })
}

/// Bytes that were handed to the kernel and that the peer's has not acknowledged; in the Unix domain, that nobody has read.
pub(crate) fn unacknowledged(fd: RawFd) -> io::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: the pointer is to an int, which the kernel writes.
    check(unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Whether bytes have arrived that nobody has read.
pub(crate) fn has_arrived(fd: RawFd) -> io::Result<bool> {
    let mut bytes: c_int = 0;
    // SAFETY: as above.
    check(unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) })?;
    Ok(bytes > 0)
}

pub(crate) fn shutdown_write(fd: RawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::shutdown(fd, libc::SHUT_WR) }).map(drop)
}

pub(crate) fn set_option(fd: RawFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`.
    check(unsafe {
        libc::setsockopt(fd, level, option, (&raw const value).cast(), size_of::<c_int>() as libc::socklen_t)
    })
    .map(drop)
}

/// A close that follows resets the connection.
pub(crate) fn set_linger_zero(fd: RawFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: pointer and length describe `linger`. A refusal leaves an orderly close.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
}

/// Raw option bytes (Envoy's `SocketOption.buf_value`).
pub(crate) fn set_option_bytes(fd: RawFd, level: c_int, option: c_int, value: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `value`.
    check(unsafe {
        libc::setsockopt(fd, level, option, value.as_ptr().cast(), value.len() as libc::socklen_t)
    })
    .map(drop)
}

/// The name of a socket's congestion control.
pub(crate) fn congestion_control(fd: RawFd) -> io::Result<Vec<u8>> {
    let mut name = [0u8; 16];
    let mut len = name.len() as libc::socklen_t;
    // SAFETY: pointers are to live storage of the length given.
    check(unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, name.as_mut_ptr().cast(), &raw mut len)
    })?;
    Ok(name.into_iter().take(len as usize).take_while(|byte| *byte != 0).collect())
}

pub(crate) fn option(fd: RawFd, level: c_int, option: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: pointers are to live storage of the length given.
    check(unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

pub(crate) fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
    // SAFETY: just created, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn event_notify(fd: RawFd) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: pointer and length describe `one`. A full counter (EAGAIN) already wakes the reader.
    unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
}

pub(crate) fn event_clear(fd: RawFd) {
    let mut count = [0u8; 8];
    // SAFETY: pointer and length describe `count`.
    unsafe { libc::read(fd, count.as_mut_ptr().cast(), count.len()) };
}

pub(crate) fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    // SAFETY: just created, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn epoll_add(epoll: &OwnedFd, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: token };
    // SAFETY: `event` lives through the call.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
}

pub(crate) fn epoll_modify(epoll: &OwnedFd, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: token };
    // SAFETY: `event` lives through the call.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_MOD, fd, &raw mut event) }).map(drop)
}

pub(crate) fn epoll_remove(epoll: &OwnedFd, fd: RawFd) -> io::Result<()> {
    // SAFETY: this operation reads no event.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) })
        .map(drop)
}

/// Waits up to `timeout_ms` (-1: for ever); `EINTR` is no event.
pub(crate) fn epoll_wait(
    epoll: &OwnedFd,
    events: &mut [libc::epoll_event],
    timeout_ms: i32,
) -> io::Result<usize> {
    let (start, len) = (events.as_mut_ptr(), events.len() as c_int);
    // Not SYS_epoll_wait, which newer architectures do not have.
    // SAFETY: pointer and length describe `events`; without signals the size of their set says nothing.
    let count = unsafe {
        libc::syscall(libc::SYS_epoll_pwait, epoll.as_raw_fd(), start, len, timeout_ms, NOWHERE, 0usize)
    };
    match check_count(count) {
        Ok(count) => Ok(count),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(error) => Err(error),
    }
}

// === io_uring calls that the crate wraps only together with its own idea of the ring's descriptor ===

const REGISTER_RING_FDS: u32 = 20;
pub(crate) const UNREGISTER_RING_FDS: u32 = 21;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RingFdUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// `struct io_uring_getevents_arg` with the time it points to.
#[derive(Debug)]
pub(crate) struct EnterArgs {
    time: Option<[i64; 2]>,
}

#[repr(C)]
struct GetEvents {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_usec: u32,
    time: u64,
}

impl EnterArgs {
    /// Waits up to `timeout_ms` (`None`: for ever).
    pub(crate) fn new(timeout_ms: Option<u64>) -> Self {
        let seconds = |ms: u64| i64::try_from(ms / 1000).unwrap_or(i64::MAX);
        Self { time: timeout_ms.map(|ms| [seconds(ms), (ms % 1000) as i64 * 1_000_000]) }
    }
}

/// `io_uring_enter` with extended arguments.
pub(crate) fn ring_enter(
    fd: RawFd,
    to_submit: u32,
    want: u32,
    flags: u32,
    args: &EnterArgs,
) -> io::Result<()> {
    let time = args.time.as_ref().map_or(0, |time| time.as_ptr() as u64);
    let arg = GetEvents { sigmask: 0, sigmask_bytes: 0, min_wait_usec: 0, time };
    // SAFETY: the argument and the time live through the call; submitted entries are the caller's promise.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_enter,
            fd,
            to_submit,
            want,
            flags,
            &raw const arg,
            size_of::<GetEvents>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts a ring into the calling thread's table; returns its index there.
pub(crate) fn register_ring_fd(ring: RawFd) -> io::Result<u32> {
    let mut update = RingFdUpdate { offset: u32::MAX, reserved: 0, data: ring as u64 };
    // SAFETY: `update` lives through the call.
    let result =
        unsafe { libc::syscall(libc::SYS_io_uring_register, ring, REGISTER_RING_FDS, &raw mut update, 1u32) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(update.offset) }
}

pub(crate) fn unregister_ring_fd(ring: RawFd, index: u32) {
    let update = RingFdUpdate { offset: index, reserved: 0, data: 0 };
    // SAFETY: `update` lives through the call. A refusal leaves the ring open until the thread ends.
    unsafe { libc::syscall(libc::SYS_io_uring_register, ring, UNREGISTER_RING_FDS, &raw const update, 1u32) };
}

/// Anonymous zeroed pages that a child does not inherit.
#[derive(Debug)]
pub(crate) struct Pages {
    address: std::ptr::NonNull<u8>,
    bytes: usize,
}

impl Pages {
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        // SAFETY: an anonymous mapping at an address of the kernel's choosing; it aliases nothing.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping just made.
        unsafe { libc::madvise(address, bytes, libc::MADV_DONTFORK) };
        let address = std::ptr::NonNull::new(address.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { address, bytes })
    }

    pub(crate) fn address(&self) -> std::ptr::NonNull<u8> {
        self.address
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; whoever was given the address is done with it.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.bytes) };
    }
}

/// Clears an event descriptor; whether it was set.
#[cfg(test)]
pub(crate) fn event_take(fd: RawFd) -> bool {
    let mut count = [0u8; 8];
    // SAFETY: pointer and length describe `count`.
    unsafe { libc::read(fd, count.as_mut_ptr().cast(), count.len()) == 8 }
}

#[cfg(test)]
pub(crate) fn set_descriptor_limit_for_test(count: u64) {
    let limit = libc::rlimit { rlim_cur: count, rlim_max: libc::RLIM_INFINITY };
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to live storage.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut old) };
    let limit = libc::rlimit { rlim_max: old.rlim_max, ..limit };
    // SAFETY: as above.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
}
