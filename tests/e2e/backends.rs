//! The I/O back end: every level that can be forced, and a kernel that refuses the ring.

use ringway::runtime::mailbox::mailbox;
use ringway::runtime::{IoBackend, IoChoice, RingLevel, Runtime};

use crate::harness::{Config, Confinement, Io, Proxy, Upstream, binary, free_port};

/// How kernels, sandboxes and limits refuse the ring, and the words for it.
const REFUSALS: [(libc::c_long, i32, &str); 7] = [
    // A container's seccomp profile, or kernel.io_uring_disabled.
    (libc::SYS_io_uring_setup, libc::EPERM, "ring-3: forbidden"),
    (libc::SYS_io_uring_setup, libc::EACCES, "ring-3: forbidden"),
    // A kernel without it, or a sandbox that pretends to be one.
    (libc::SYS_io_uring_setup, libc::ENOSYS, "ring-3: not in this kernel"),
    // RLIMIT_MEMLOCK.
    (libc::SYS_io_uring_setup, libc::ENOMEM, "beyond RLIMIT_MEMLOCK"),
    // An old kernel, asked level by level.
    (libc::SYS_io_uring_setup, libc::EINVAL, "ring-1: unknown to this kernel"),
    // It begins well.
    (libc::SYS_io_uring_register, libc::EPERM, "ring-3: forbidden"),
    (libc::SYS_io_uring_enter, libc::EPERM, "ring-3: forbidden"),
];

const REFUSED: &str = "io_uring does not work here";

/// A body both ways, a second request, an orderly end.
fn serves(proxy: Proxy) {
    let mut client = proxy.connect();
    let body = "0123456789abcdef".repeat(20_000);
    for path in ["/one", "/two"] {
        let length = body.len();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"));
        let response = client.response();
        assert_eq!(response.status(), 200);
        assert!(response.text() == format!("POST {path}\n{body}"), "the echo of {path} differs");
    }
    drop(client);
    proxy.end();
}

/// Runs a command that must refuse to start: exit code 1, and one line that says why.
fn refuses_to_start(mut command: std::process::Command, why: &str) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let lines: Vec<_> = said.lines().filter(|line| line.contains(REFUSED)).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains(why) && lines[0].contains("--io-backend auto"), "{said}");
    assert!(!said.contains("serving"), "{said}");
}

#[test]
fn level_that_is_forced_is_used_and_serves() {
    let upstream = Upstream::echo();
    for (flag, level) in [("1", RingLevel::One), ("2", RingLevel::Two), ("3", RingLevel::Three)] {
        let (_sender, receiver) = mailbox::<()>().unwrap();
        let choice = IoChoice { backend: IoBackend::IoUring, level: Some(level) };
        if let Err(error) = Runtime::new(choice, receiver.bell()) {
            assert!(std::env::var_os("RINGWAY_REQUIRE_IO_URING").is_none(), "{level}: {error}");
            println!("not run: {level}: {error}");
            continue;
        }
        for io in [Io::Auto, Io::IoUring] {
            let proxy = Proxy::start(io, &Config::to(upstream.port).arguments(&["--io-level", flag]));
            proxy.wait_for_log(&format!(
                "I/O: io_uring ({level}): this level was asked for, and works; 1 workers"
            ));
            serves(proxy);
        }
    }
}

#[test]
fn refused_ring_is_said_once_and_epoll_serves() {
    let upstream = Upstream::echo();
    for (call, errno, why) in REFUSALS {
        println!("call {call}, errno {errno}");
        let config = Config::to(upstream.port).arguments(&["--concurrency", "2"]);
        let config = Config { confinement: Some(Confinement::Call(call, errno)), ..config };
        let proxy = Proxy::start(Io::Auto, &config);
        proxy.wait_for_log(&format!("I/O: epoll: {REFUSED} ("));
        assert_eq!((proxy.count_in_log(REFUSED), proxy.count_in_log(why)), (1, 1));
        let info = proxy.admin("GET", "/server_info").text();
        assert!(info.contains(why), "{info}");
        serves(proxy);
    }
}

#[test]
fn refused_level_that_was_asked_for_is_named_and_epoll_serves() {
    let upstream = Upstream::echo();
    let config = Config {
        confinement: Some(Confinement::Call(libc::SYS_io_uring_setup, libc::EINVAL)),
        ..Config::to(upstream.port).arguments(&["--io-level", "2"])
    };
    let proxy = Proxy::start(Io::Auto, &config);
    proxy.wait_for_log(&format!("I/O: epoll: {REFUSED} (ring-2: unknown to this kernel"));
    assert_eq!(proxy.count_in_log("ring-"), 1, "no other level was tried");
    serves(proxy);
}

#[test]
fn refused_ring_that_is_insisted_on_is_no_start() {
    for (call, errno, why) in REFUSALS {
        println!("call {call}, errno {errno}");
        let text = Config::to(free_port()).text(free_port(), free_port());
        let mut command = binary();
        Confinement::Call(call, errno).apply(&mut command);
        command.args(["--config-yaml", &text, "--io-backend", "io_uring", "--concurrency", "3"]);
        refuses_to_start(command, why);
    }
}

#[test]
fn locked_memory_that_is_short_is_said_and_epoll_serves() {
    let upstream = Upstream::echo();
    let confinement = Confinement::LockedMemory(0);
    let proxy =
        Proxy::start(Io::Auto, &Config { confinement: Some(confinement), ..Config::to(upstream.port) });
    proxy.wait_for_log("I/O: ");
    if proxy.count_in_log("I/O: io_uring") == 1 {
        println!("not run: this kernel does not count a ring as locked memory");
        return serves(proxy);
    }
    if Io::IoUring.is_available() {
        assert_eq!(proxy.count_in_log("beyond RLIMIT_MEMLOCK"), 1);
        let text = Config::to(free_port()).text(free_port(), free_port());
        let mut command = binary();
        confinement.apply(&mut command);
        command.args(["--config-yaml", &text, "--io-backend", "io_uring"]);
        refuses_to_start(command, "beyond RLIMIT_MEMLOCK");
    }
    serves(proxy);
}
