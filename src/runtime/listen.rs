//! Listening sockets: bound once by the server, lent to workers.
//!
//! An exclusive probe bind precedes SO_REUSEPORT, so that a second process reports "address in use" instead of taking
//! half of the traffic. In the Unix domain nothing is shared that way: there is one socket, and what an earlier process left
//! of its own at the path makes way for it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::tcp::RawOption;
use super::{pacing, packet, sys};
use crate::base::socket_address::SocketAddress;

/// How a listening socket is made.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Where to listen; port 0 is resolved by the first bind.
    pub address: SocketAddress,
    /// Permissions of the file of a socket of the Unix domain, before anybody can connect; 0: what the umask leaves.
    pub mode: u32,
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
            address: address.into(),
            mode: 0,
            backlog,
            freebind: false,
            transparent: false,
            ipv4_compat: false,
            options: Vec::new(),
            bound_options: Vec::new(),
            listening_options: Vec::new(),
        }
    }

    /// Whether a socket that is open may go on as one that is wanted so: all that differs is what [`again`] sets.
    pub fn fits(&self, wanted: &Self) -> bool {
        let how = |one: &Self| (one.freebind, one.transparent, one.ipv4_compat);
        how(self) == how(wanted)
            && self.options == wanted.options
            && self.bound_options == wanted.bound_options
            && self.listening_options == wanted.listening_options
    }
}

/// Binds one listening socket per worker, all on the same address.
///
/// # Errors
/// Address in use, no permission, no such address, an option refused.
pub fn bind(options: &ListenOptions, workers: usize) -> io::Result<Vec<OwnedFd>> {
    let SocketAddress::Ip(asked) = options.address else {
        return bind_exclusive(options).map(|socket| vec![socket]);
    };
    let probe = socket(options, asked, false)?;
    if workers <= 1 {
        // The next process may have more workers, and may then [`join`].
        sys::set_option(probe.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        listen(&probe, options)?;
        return Ok(vec![probe]);
    }
    let address = sys::local_addr(probe.as_raw_fd())?;
    drop(probe);
    join(&ListenOptions { address: address.into(), ..options.clone() }, workers)
}

/// Binds the one listening socket of an address.
///
/// # Errors
/// As [`bind`].
pub fn bind_exclusive(options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = match &options.address {
        SocketAddress::Ip(address) => socket(options, *address, false)?,
        SocketAddress::Pipe(name) => unix_socket(options, name)?,
        SocketAddress::Internal(_) => return Err(io::ErrorKind::Unsupported.into()),
    };
    listen(&socket, options)?;
    Ok(socket)
}

/// Binds further listening sockets to an address that sockets of [`bind`] have already, or to a free one.
///
/// # Errors
/// As [`bind`]; the address belongs to sockets that do not share it, or to another user's; it is one of the Unix domain.
pub fn join(options: &ListenOptions, count: usize) -> io::Result<Vec<OwnedFd>> {
    let address = options.address.socket().ok_or(io::ErrorKind::Unsupported)?;
    // All are bound before the first listens: a connection must not meet a group that still grows.
    let sockets = (0..count).map(|_| socket(options, address, true)).collect::<io::Result<Vec<_>>>()?;
    for socket in &sockets {
        listen(socket, options)?;
    }
    Ok(sockets)
}

/// Another hold on a listening socket of this process, whose queue is as long and whose file has the permissions as it is wanted
/// now.
///
/// # Errors
/// There are too many files, or the socket's is not there any more.
pub fn again(options: &ListenOptions, socket: &OwnedFd) -> io::Result<OwnedFd> {
    let socket = socket.try_clone()?;
    sys::listen(socket.as_raw_fd(), options.backlog)?;
    if let SocketAddress::Pipe(name) = &options.address {
        set_mode(Path::new(&**name), options.mode)?;
    }
    Ok(socket)
}

/// Whether an address can be had: it is bound, nobody is listened for, and given up again. `beside`: by who shares it with
/// sockets of [`bind`], as [`join`] does.
///
/// # Errors
/// As [`bind`].
pub fn probe(options: &ListenOptions, beside: bool) -> io::Result<()> {
    match &options.address {
        SocketAddress::Ip(address) => socket(options, *address, beside).map(drop),
        SocketAddress::Pipe(name) => {
            drop(unix_socket(options, name)?);
            if name.starts_with('@') { Ok(()) } else { std::fs::remove_file(&**name) }
        }
        SocketAddress::Internal(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Where a bound socket is.
///
/// # Errors
/// Not a socket.
pub fn local_addr(fd: &OwnedFd) -> io::Result<SocketAddr> {
    sys::local_addr(fd.as_raw_fd())
}

/// [`local_addr`], in the Unix domain, too.
///
/// # Errors
/// Not a socket, or one without a name.
pub fn address(fd: &OwnedFd) -> io::Result<SocketAddress> {
    sys::local_address(fd.as_raw_fd())
}

/// Gives the file of a socket of the Unix domain its permissions; 0: it keeps those that it has. An abstract name has no file.
///
/// # Errors
/// It is not there, or not ours.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let is_abstract = path.as_os_str().as_bytes().starts_with(b"@");
    if mode == 0 || is_abstract {
        return Ok(());
    }
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
}

/// A bound socket of the Unix domain. Envoy takes whatever is at the path away; here only a socket that nobody listens at any
/// more, since who still listens at it would wait for ever, and what is no socket may be precious.
fn unix_socket(options: &ListenOptions, name: &str) -> io::Result<OwnedFd> {
    let raw = sys::RawAddr::unix(name)?;
    let path = (!name.starts_with('@')).then(|| Path::new(name));
    if let Some(path) = path.filter(|path| packet::is_left_behind(path)) {
        std::fs::remove_file(path)?;
    }
    let socket = sys::unix_socket()?;
    set_ip_options(&socket, options)?;
    set_all(&socket, &options.options)?;
    sys::bind_raw(socket.as_raw_fd(), &raw)?;
    if let Some(path) = path {
        set_mode(path, options.mode)?;
    }
    set_all(&socket, &options.bound_options)?;
    Ok(socket)
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
    if pacing::is_local(address) {
        pacing::take_from(fd);
    }
    set_ip_options(&socket, options)?;
    set_all(&socket, &options.options)?;
    sys::bind(fd, address)?;
    set_all(&socket, &options.bound_options)?;
    Ok(socket)
}

/// The kernel refuses them in the Unix domain, where Envoy refuses them, too.
fn set_ip_options(socket: &OwnedFd, options: &ListenOptions) -> io::Result<()> {
    if options.freebind {
        sys::set_option(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_FREEBIND, 1)?;
    }
    if options.transparent {
        sys::set_option(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1)?;
    }
    Ok(())
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
            let taken = ListenOptions { address: address(&sockets[0]).unwrap(), ..plain.clone() };
            assert_eq!(sockets.len(), workers);
            assert_eq!(bind(&taken, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            assert_eq!(bind_exclusive(&taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            assert_eq!(join(&taken, 2).unwrap().len(), 2);
        }
        let socket = bind_exclusive(&plain).unwrap();
        let taken = ListenOptions { address: address(&socket).unwrap(), ..plain };
        assert_eq!(join(&taken, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    fn at_path(path: &Path, mode: u32) -> ListenOptions {
        let address = SocketAddress::Pipe(path.to_str().unwrap().into());
        ListenOptions { address, mode, ..ListenOptions::plain(([127, 0, 0, 1], 0).into(), 8) }
    }

    #[test]
    fn unix_socket_is_one_for_all_and_has_its_mode_and_what_was_left_behind_makes_way() {
        let path = std::env::temp_dir().join(format!("ringway-listen-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let options = at_path(&path, 0o640);
        let sockets = bind(&options, 4).unwrap();
        assert_eq!((sockets.len(), address(&sockets[0]).unwrap()), (1, options.address.clone()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(bind(&options, 4).unwrap_err().kind(), io::ErrorKind::AddrInUse, "somebody listens");
        assert_eq!(join(&options, 1).unwrap_err().kind(), io::ErrorKind::Unsupported);
        drop(sockets);
        assert!(path.exists(), "as Envoy leaves it");
        drop(bind_exclusive(&options).unwrap());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn address_that_the_host_does_not_have_is_bound_with_freebind_alone() {
        // One for documentation (RFC 5737): no host has it.
        let plain = ListenOptions::plain(([192, 0, 2, 1], 0).into(), 1);
        let free = ListenOptions { freebind: true, ..plain.clone() };
        for workers in [1, 2] {
            assert_eq!(bind(&plain, workers).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
            let sockets = bind(&free, workers).unwrap();
            assert_eq!(sockets.len(), workers);
            for socket in &sockets {
                assert_eq!(address(socket).unwrap().ip(), plain.address.ip());
            }
            // Who joins them needs it as much.
            let taken = address(&sockets[0]).unwrap();
            let beside = |one: &ListenOptions| ListenOptions { address: taken.clone(), ..one.clone() };
            assert_eq!(join(&beside(&plain), 1).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
            assert_eq!(join(&beside(&free), 1).unwrap().len(), 1);
        }
        probe(&free, false).unwrap();
    }

    /// Needs CAP_NET_ADMIN, as whoever listens so does.
    #[test]
    fn transparent_socket_of_both_families_tells_where_ipv4_led_as_ipv4() {
        let options = ListenOptions {
            transparent: true,
            ipv4_compat: true,
            ..ListenOptions::plain("[::]:0".parse().unwrap(), 8)
        };
        let socket = match bind(&options, 1) {
            Ok(sockets) => sockets.into_iter().next().unwrap(),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EAFNOSUPPORT)) => {
                return println!("not run: {error}");
            }
            Err(error) => panic!("{error}"),
        };
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(false).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(sys::original_destination(accepted.as_raw_fd()).unwrap(), address);
    }

    #[test]
    fn probe_says_what_a_bind_would_say_and_leaves_nothing() {
        let plain = ListenOptions::plain(([127, 0, 0, 1], 0).into(), 1);
        let socket = bind_exclusive(&plain).unwrap();
        let taken = ListenOptions { address: address(&socket).unwrap(), ..plain };
        assert_eq!(probe(&taken, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        probe(&taken, false).unwrap();
        assert!(bind(&taken, 2).is_ok());
        let elsewhere = ListenOptions::plain(([192, 0, 2, 1], 0).into(), 1);
        assert_eq!(probe(&elsewhere, false).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        let path = std::env::temp_dir().join(format!("ringway-probe-{}", std::process::id()));
        probe(&at_path(&path, 0), false).unwrap();
        assert!(!path.exists());
        let socket = bind_exclusive(&at_path(&path, 0)).unwrap();
        assert_eq!(probe(&at_path(&path, 0), false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists(), "whose it is keeps it");
        drop(socket);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn socket_that_is_held_again_is_the_same_one_with_another_queue_and_mode() {
        let path = std::env::temp_dir().join(format!("ringway-again-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let first = bind_exclusive(&at_path(&path, 0o600)).unwrap();
        let wanted = ListenOptions { backlog: 1, ..at_path(&path, 0o660) };
        assert!(at_path(&path, 0o600).fits(&wanted));
        assert!(!at_path(&path, 0o600).fits(&ListenOptions { freebind: true, ..at_path(&path, 0o600) }));
        let second = again(&wanted, &first).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(first);
        // One more than the backlog says may wait.
        let connected: Vec<_> =
            (0..2).map(|_| std::os::unix::net::UnixStream::connect(&path).unwrap()).collect();
        let third = sys::unix_socket().unwrap();
        let name = sys::RawAddr::unix(path.to_str().unwrap()).unwrap();
        assert_eq!(sys::connect(third.as_raw_fd(), &name).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop((connected, second));
        std::fs::remove_file(&path).unwrap();
        let abstract_name =
            ListenOptions { address: SocketAddress::Pipe("@ringway-again".into()), ..at_path(&path, 0o600) };
        let first = bind_exclusive(&abstract_name).unwrap();
        assert!(again(&abstract_name, &first).is_ok(), "there is no file");
    }

    #[test]
    fn what_is_no_socket_stays_and_a_missing_folder_is_no_place() {
        let path = std::env::temp_dir().join(format!("ringway-no-socket-{}", std::process::id()));
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(bind_exclusive(&at_path(&path, 0)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        let within = at_path(&path.join("socket"), 0);
        assert_eq!(bind_exclusive(&within).unwrap_err().kind(), io::ErrorKind::NotADirectory);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(bind_exclusive(&within).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn abstract_name_has_no_file_and_options_of_ip_are_refused() {
        let name = format!("@ringway-listen-{}", std::process::id());
        let address = SocketAddress::Pipe(name.as_str().into());
        let options = ListenOptions { address, ..ListenOptions::plain(([127, 0, 0, 1], 0).into(), 8) };
        let socket = bind_exclusive(&options).unwrap();
        assert_eq!(super::address(&socket).unwrap(), options.address);
        assert_eq!(bind_exclusive(&options).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        let refused = bind_exclusive(&ListenOptions { freebind: true, ..options.clone() });
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
        assert!(bind_exclusive(&options).is_ok());
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
