//! The I/O back end: every level that can be forced, and a kernel that refuses the ring.

use ringway::runtime::mailbox::mailbox;
use ringway::runtime::{IoBackend, IoChoice, RingLevel, Runtime};

use crate::harness::{Config, Confinement, Io, Message, Proxy, Upstream, binary, chunked, free_port, ok};

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

/// Those that this kernel comes to: one without the ring refuses the first call by itself.
fn refusals() -> impl Iterator<Item = (libc::c_long, i32, &'static str)> {
    let comes_far = Io::IoUring.is_available();
    REFUSALS.into_iter().filter(move |&(call, ..)| comes_far || call == libc::SYS_io_uring_setup)
}

const REFUSED: &str = "io_uring does not work here";

/// Answers with the request's method, path and body, framed as the request was.
fn mirror() -> Upstream {
    Upstream::answering(|request| {
        let mut body = format!("{} {}\n", request.method(), request.path()).into_bytes();
        body.extend_from_slice(&request.body);
        if request.is_chunked() {
            let (one, other) = body.split_at(body.len() / 3);
            let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            answer.extend_from_slice(&chunked(&[one, other], ""));
            return answer;
        }
        ok(&body)
    })
}

/// Requests of every framing on one connection to a proxy in front of a [`mirror`], their counters, an orderly end.
fn serves(proxy: Proxy) {
    let mut client = proxy.connect();
    let head =
        |method, path, rest: &str| format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{rest}\r\n").into_bytes();
    let body = |bytes: usize| b"0123456789abcdef".repeat(bytes / 16);
    for (path, body) in
        [("/none", Vec::new()), ("/small", body(32)), ("/large", body(320_000)), ("/mib", body(1 << 20))]
    {
        let (method, mut request) = match body.len() {
            0 => ("GET", head("GET", path, "")),
            length => ("POST", head("POST", path, &format!("Content-Length: {length}\r\n"))),
        };
        request.extend_from_slice(&body);
        client.send(request);
        answers(&client.response(), &format!("{method} {path}"), &body, false);
    }
    let (one, other) = (body(16), body(100_000));
    let mut request = head("POST", "/chunked", "Transfer-Encoding: chunked\r\n");
    request.extend_from_slice(&chunked(&[&one, &other], ""));
    client.send(request);
    answers(&client.response(), "POST /chunked", &[one, other].concat(), true);
    assert_eq!(proxy.admin("GET", "/ready").text(), "LIVE\n");
    proxy.wait_for_stat("http.test.downstream_rq_2xx", 5);
    assert_eq!(proxy.stat("http.test.downstream_cx_total"), 1, "all of it on one connection");
    drop(client);
    proxy.end();
}

fn answers(response: &Message, request: &str, body: &[u8], is_chunked: bool) {
    assert_eq!((response.status(), response.is_chunked()), (200, is_chunked), "{request}");
    let echoed = response.body.strip_prefix(format!("{request}\n").as_bytes());
    assert!(echoed == Some(body), "the echo of {request} differs");
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

/// `tests/kernels/run` reads its line, and knows what it must be.
#[test]
fn back_end_of_this_kernel_is_chosen_and_serves() {
    let upstream = mirror();
    let proxy = Proxy::start(Io::Auto, &Config::to(upstream.port).arguments(&["--concurrency", "2"]));
    let chosen = proxy.after_in_log("I/O: ").unwrap();
    println!("chosen: {chosen}");
    assert_eq!(chosen.starts_with("io_uring (ring-"), Io::IoUring.is_available(), "{chosen}");
    serves(proxy);
}

#[test]
fn level_that_is_forced_is_used_and_serves() {
    let upstream = mirror();
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
        println!("served: {level}");
    }
}

#[test]
fn refused_ring_is_said_once_and_epoll_serves() {
    let upstream = mirror();
    for (call, errno, why) in refusals() {
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
    let upstream = mirror();
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
    for (call, errno, why) in refusals() {
        println!("call {call}, errno {errno}");
        let text = Config::to(free_port()).text(free_port(), free_port());
        let mut command = binary();
        Confinement::Call(call, errno).apply(&mut command);
        command.args(["--config-yaml", &text, "--io-backend", "io_uring", "--concurrency", "3"]);
        command.arg("--disable-hot-restart");
        refuses_to_start(command, why);
    }
}

#[test]
fn locked_memory_that_is_short_is_said_and_epoll_serves() {
    let upstream = mirror();
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
        command.args(["--config-yaml", &text, "--io-backend", "io_uring", "--disable-hot-restart"]);
        refuses_to_start(command, "beyond RLIMIT_MEMLOCK");
    }
    serves(proxy);
}

/// Room for the ring of one worker of two, where rings count.
#[test]
fn locked_memory_for_one_ring_of_two_is_said_once_and_both_serve() {
    let upstream = mirror();
    let config = Config {
        confinement: Some(Confinement::LockedMemory(64 << 10)),
        ..Config::to(upstream.port).arguments(&["--concurrency", "2"])
    };
    let proxy = Proxy::start(Io::Auto, &config);
    let mixed = proxy.count_in_log("1 of 2 workers differ from the first");
    let said = proxy.count_in_log("beyond RLIMIT_MEMLOCK");
    let is_ring = proxy.count_in_log("I/O: io_uring") == 1;
    // The kernel takes its time to free a ring: with another's still there, neither worker may get one.
    assert!(if is_ring { said == mixed } else { said == 1 || !Io::IoUring.works() }, "{mixed} {said}");
    serves(proxy);
}

/// Run by `tests/kernels/run`, which may set the sysctl: on a host it is not a test's to change.
#[test]
fn ring_that_the_sysctl_switches_off_is_said_and_epoll_serves() {
    let value = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    if value.trim() == "0" || value.is_empty() || Io::IoUring.works() {
        return println!("not run: kernel.io_uring_disabled does not switch the ring off");
    }
    let upstream = mirror();
    let proxy = Proxy::start(Io::Auto, &Config::to(upstream.port));
    proxy.wait_for_log(&format!("I/O: epoll: {REFUSED} (ring-3: switched off by kernel.io_uring_disabled"));
    assert_eq!(proxy.count_in_log(REFUSED), 1);
    serves(proxy);
    println!("switched off: {}", value.trim());
}
