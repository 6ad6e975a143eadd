//! Messages between processes of one host, with descriptors beside them: SOCK_SEQPACKET sockets of the Unix domain.
//!
//! A message arrives whole or not at all, so that nobody has to frame it, and the kernel says whose the other end is. All
//! sockets are non-blocking. Used by the control thread alone; what the messages mean is `server::restart`'s.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use libc::{c_int, c_void};
use tokio::io::unix::AsyncFd;

/// Descriptors that one message may carry. Linux's own limit is 253 (SCM_MAX_FD).
pub const DESCRIPTORS_MAX: usize = 64;
/// Connections that wait to be accepted.
const BACKLOG: c_int = 8;
/// Space for [`DESCRIPTORS_MAX`] descriptors and the header before them, in words so that it is aligned for the header.
const CONTROL_WORDS: usize = 4 + DESCRIPTORS_MAX * size_of::<RawFd>() / size_of::<u64>();

/// Who is at the other end of a connection, as the kernel noted when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub user: u32,
    pub process: i32,
}

/// Listens at `name`: a path, or with `@` in front a name of the abstract namespace, which goes with the process.
///
/// # Errors
/// The name is in use, too long, or not allowed.
pub fn listen(name: &str) -> io::Result<OwnedFd> {
    let socket = socket()?;
    let (address, len) = address(name)?;
    // SAFETY: pointer and length describe `address`.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(socket)
}

/// Connects to who listens at `name`.
///
/// # Errors
/// Nobody does, or does not let this user.
pub fn connect(name: &str) -> io::Result<OwnedFd> {
    let socket = socket()?;
    let (address, len) = address(name)?;
    // SAFETY: pointer and length describe `address`.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(socket)
}

/// The next connection.
///
/// # Errors
/// `WouldBlock`: there is none.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    super::sys::accept(listener.as_raw_fd())
}

/// Who the other end is.
///
/// # Errors
/// No socket of this kind.
pub fn peer(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the pointers are to live storage of the length given.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut len,
        )
    })?;
    Ok(Peer { user: found.uid, process: found.pid })
}

/// The user this process acts as.
pub fn own_user() -> u32 {
    // SAFETY: no pointers, cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether a TCP socket listens.
pub fn is_listening(socket: BorrowedFd<'_>) -> bool {
    let fd = socket.as_raw_fd();
    super::sys::option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|listens| listens == 1)
}

/// Sends one message.
///
/// # Errors
/// `WouldBlock`: the other end does not take what it has been sent; otherwise it is gone. More than [`DESCRIPTORS_MAX`]
/// descriptors are refused.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: all zeroes is a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        let length = size_of_val(descriptors) as u32;
        debug_assert_eq!(size_of::<BorrowedFd<'_>>(), size_of::<RawFd>());
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: arithmetic only.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as usize;
        // SAFETY: the control buffer is aligned and has room for a header and `DESCRIPTORS_MAX` descriptors.
        let header = unsafe { &mut *libc::CMSG_FIRSTHDR(&raw const message) };
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = libc::SCM_RIGHTS;
        // SAFETY: arithmetic only.
        header.cmsg_len = unsafe { libc::CMSG_LEN(length) } as usize;
        // SAFETY: within the control buffer, whose room was checked above.
        let mut place = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
        for descriptor in descriptors {
            // SAFETY: as above; it may stand unaligned.
            unsafe { place.write_unaligned(descriptor.as_raw_fd()) };
            // SAFETY: at most one past the last descriptor.
            place = unsafe { place.add(1) };
        }
    }
    // SAFETY: the message's pointers are to storage that lives through the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one message into `into`; its length and its descriptors. No bytes: the other end is gone.
///
/// # Errors
/// `WouldBlock`: there is none. `InvalidData`: it is longer than `into` or carries too much; it is dropped, and what it
/// carried is closed.
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast::<c_void>(), iov_len: into.len() };
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: all zeroes is a valid msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message's pointers are to storage that lives through the call, of the lengths given.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let length = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let descriptors = descriptors_of(&message);
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((length, descriptors))
}

/// Takes what the kernel has put into the control buffer.
fn descriptors_of(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    // SAFETY: the kernel has written the buffer and set its length.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while let Some(header) = {
        // SAFETY: null, or a header within the buffer.
        unsafe { next.as_ref() }
    } {
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: arithmetic only.
            let bytes = header.cmsg_len.saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
            // SAFETY: the data of a header within the buffer.
            let first = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for index in 0..bytes / size_of::<RawFd>() {
                // SAFETY: within the data, as its length says; it may stand unaligned.
                let fd = unsafe { first.add(index).read_unaligned() };
                // SAFETY: the kernel has just made it for this process, and nobody else knows it.
                found.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: the message and one of its headers.
        next = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    found
}

/// Puts a socket into the event loop of the control thread.
///
/// # Errors
/// The loop cannot watch it.
pub fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor gives the same number as long as it lives, and lives in what it is put into.
    unsafe { AsyncFd::register(socket) }.map_err(|error| error.into_parts().1)
}

/// Waits until a message, or the other end's end, has arrived; false: not within `patience`.
///
/// # Errors
/// The kernel refuses to wait.
pub fn wait(socket: BorrowedFd<'_>, patience: Duration) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = c_int::try_from(patience.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: the pointer is to one live entry.
    match check(unsafe { libc::poll(&raw mut entry, 1, timeout) }) {
        Ok(count) => Ok(count > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

fn socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: just created, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A name as the kernel wants it.
fn address(name: &str) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: all zeroes is a valid sockaddr_un.
    let mut raw: libc::sockaddr_un = unsafe { MaybeUninit::zeroed().assume_init() };
    raw.sun_family = libc::AF_UNIX as libc::sa_family_t;
    // A path needs its final zero; a name of the abstract namespace begins with one instead, and its length counts.
    let (start, text) = name.strip_prefix('@').map_or((0, name), |name| (1, name));
    if text.is_empty() || text.contains('\0') || text.len() + 1 > raw.sun_path.len() {
        let reason = format!("{name:?} is no name for a socket: 1 to {} bytes", raw.sun_path.len() - 1);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    for (place, byte) in raw.sun_path[start..].iter_mut().zip(text.bytes()) {
        *place = byte as libc::c_char;
    }
    let length = size_of::<libc::sa_family_t>() + text.len() + 1;
    Ok((raw, length as libc::socklen_t))
}

/// Whether there is a socket, of whatever kind, at a path, and nobody listens at it any more.
pub fn is_left_behind(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    // Also what is no socket refuses a connection.
    if !std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        return false;
    }
    path.to_str().is_some_and(|name| {
        connect(name).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn name(of: &str) -> String {
        format!("@ringway-packet-{of}-{}", std::process::id())
    }

    fn pair(of: &str) -> (OwnedFd, OwnedFd) {
        let listener = listen(&name(of)).unwrap();
        let connecting = connect(&name(of)).unwrap();
        let accepted = accept(listener.as_fd()).unwrap();
        (connecting, accepted)
    }

    #[test]
    fn message_arrives_whole_with_its_descriptors() {
        let (one, other) = pair("whole");
        let files: Vec<_> = (0..DESCRIPTORS_MAX).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let descriptors: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        send(one.as_fd(), b"first", &descriptors).unwrap();
        send(one.as_fd(), b"second", &[]).unwrap();
        let mut bytes = [0; 32];
        assert!(wait(other.as_fd(), Duration::from_secs(1)).unwrap());
        let (length, passed) = receive(other.as_fd(), &mut bytes).unwrap();
        assert_eq!((&bytes[..length], passed.len()), (&b"first"[..], DESCRIPTORS_MAX));
        // They are this process's own, and others than those that were sent.
        assert!(passed.iter().all(|fd| files.iter().all(|file| file.as_raw_fd() != fd.as_raw_fd())));
        let (length, passed) = receive(other.as_fd(), &mut bytes).unwrap();
        assert_eq!((&bytes[..length], passed.len()), (&b"second"[..], 0));
        assert_eq!(receive(other.as_fd(), &mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(!wait(other.as_fd(), Duration::ZERO).unwrap());
        drop(one);
        assert_eq!(receive(other.as_fd(), &mut bytes).unwrap().0, 0);
    }

    #[test]
    fn message_that_is_too_long_is_refused_and_the_next_one_taken() {
        let (one, other) = pair("long");
        let file = std::fs::File::open("/dev/null").unwrap();
        send(one.as_fd(), &[1; 100], &[file.as_fd()]).unwrap();
        send(one.as_fd(), &[2; 10], &[]).unwrap();
        let mut bytes = [0; 32];
        assert_eq!(receive(other.as_fd(), &mut bytes).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(receive(other.as_fd(), &mut bytes).unwrap().0, 10);
        let many: Vec<_> = (0..=DESCRIPTORS_MAX).map(|_| file.as_fd()).collect();
        assert_eq!(send(one.as_fd(), b"x", &many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn other_end_is_told_by_user_and_process() {
        let (one, other) = pair("peer");
        let own = Peer { user: own_user(), process: i32::try_from(std::process::id()).unwrap() };
        assert_eq!((peer(one.as_fd()).unwrap(), peer(other.as_fd()).unwrap()), (own, own));
    }

    #[test]
    fn name_in_use_or_no_name_is_refused() {
        let _listener = listen(&name("taken")).unwrap();
        assert_eq!(listen(&name("taken")).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(connect(&name("nobody")).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        for name in ["", "@", "a\0b", &"x".repeat(108)] {
            assert_eq!(listen(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }
}
