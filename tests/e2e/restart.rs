//! Hot restart: processes that replace each other under load, and those that fail to.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use ringway::runtime::packet;

use crate::harness::{
    Client, Config, Io, Proxy, TempFolder, Upstream, binary, free_port, on_each_backend, until,
};
use crate::tcp::relaying;
use crate::xds_listeners::{following, http, put};

/// A chain of processes of the test's own, of which `port` is the base id.
fn of_epoch(config: &Config, port: u16, epoch: u32, more: &[&str]) -> Config {
    let (path, base_id, epoch) = (socket_path(), port.to_string(), epoch.to_string());
    let arguments = ["--socket-path", &path, "--base-id", &base_id, "--restart-epoch", &epoch];
    config.clone().arguments(&arguments).arguments(more)
}

fn socket_path() -> String {
    format!("@ringway-e2e-{}", std::process::id())
}

/// The first process of a chain.
fn first(io: Io, config: &Config, more: &[&str]) -> Proxy {
    let (port, admin) = (free_port(), free_port());
    let proxy = Proxy::launch(io, &of_epoch(config, port, 0, more), port, admin);
    proxy.wait_for_log("serving");
    proxy
}

/// The process that replaces `before`.
fn next(io: Io, config: &Config, before: &Proxy, epoch: u32, more: &[&str]) -> Proxy {
    before.next(io, &of_epoch(config, before.port, epoch, more))
}

/// Clients that ask without a pause; each answer must be right.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(port: u16) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..8).map(|number| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            std::thread::spawn(move || {
                let mut client = None;
                while !stop.load(Ordering::Relaxed) {
                    let mut connection = client.take().unwrap_or_else(|| Client::connect(port));
                    let stays = number % 2 == 0;
                    let close = if stays { "" } else { "Connection: close\r\n" };
                    let path = format!("/{number}/{}", answered.load(Ordering::Relaxed));
                    let response = connection.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{close}\r\n"));
                    assert_eq!((response.status(), response.text()), (200, format!("GET {path}\n")));
                    answered.fetch_add(1, Ordering::Relaxed);
                    if stays && response.header("connection") != Some("close") {
                        client = Some(connection);
                    }
                }
            })
        });
        let clients = clients.collect();
        Self { stop, answered, clients }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests have been answered.
    fn goes_on(&self, more: u64) {
        let before = self.answered();
        until("requests are answered", || self.answered() >= before + more);
    }

    /// All requests that were answered; none was not.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        self.answered.load(Ordering::Relaxed)
    }
}

on_each_backend! {
    /// With as many workers as before, fewer and more; the last process has counted everything.
    fn restarts_under_load_lose_no_request_and_no_count(io) {
        let upstream = Upstream::echo();
        let config = Config::to(upstream.port);
        let flags = |workers| ["--concurrency", workers, "--parent-shutdown-time-s", "0", "--drain-strategy", "immediate"];
        let mut proxy = first(io, &config, &flags("2"));
        let load = Load::start(proxy.port);
        load.goes_on(50);
        for (epoch, workers) in [(1, "2"), (2, "1"), (3, "3")] {
            let child = next(io, &config, &proxy, epoch, &flags(workers));
            load.goes_on(50);
            child.wait_for_log("the process before this one has ended");
            assert_eq!(proxy.wait().code(), Some(0));
            proxy = child;
            load.goes_on(50);
        }
        let answered = load.end();
        proxy.wait_until_idle();
        assert_eq!(proxy.stat("http.test.downstream_rq_2xx"), answered);
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_200"), answered);
        assert_eq!((proxy.stat("server.hot_restart_epoch"), proxy.stat("server.hot_restart_generation")), (3, 4));
        assert_eq!(proxy.stat("server.parent_connections"), 0);
        let info = proxy.admin("GET", "/server_info").text();
        assert!(info.contains("\"restart_epoch\": 3") && info.contains("\"hot_restart_version\": \"ringway.1\""), "{info}");
        proxy.end();
    }

    /// The next process is told the same listeners, and takes their sockets.
    fn listeners_of_a_control_plane_are_handed_over_under_load(io) {
        let upstream = Upstream::echo();
        let (folder, port) = (TempFolder::new(), free_port());
        put(&folder, &[("told", http(port, "told"))]);
        let config = Config { no_listener: true, ..Config::to(upstream.port) };
        let config = config.arguments(&["--config-yaml", &following(&folder)]);
        let flags = ["--concurrency", "2", "--parent-shutdown-time-s", "0", "--drain-strategy", "immediate"];
        let mut old = Proxy::launch(io, &of_epoch(&config, port, 0, &flags), port, free_port());
        old.wait_for_log("serving");
        let load = Load::start(port);
        load.goes_on(50);
        let new = next(io, &config, &old, 1, &flags);
        load.goes_on(50);
        new.wait_for_log("the process before this one has ended");
        assert_eq!(old.wait().code(), Some(0));
        load.goes_on(50);
        load.end();
        new.end();
    }

    /// The chain goes on before the processes before have ended: there are three at most.
    fn restarts_in_quick_succession_lose_no_request(io) {
        let upstream = Upstream::echo();
        let config = Config::to(upstream.port);
        let flags = ["--concurrency", "2", "--drain-time-s", "1"];
        let mut chain = vec![first(io, &config, &flags)];
        let load = Load::start(chain[0].port);
        for epoch in 1..=4 {
            let child = next(io, &config, &chain[chain.len() - 1], epoch, &flags);
            chain.push(child);
            load.goes_on(20);
        }
        let answered = load.end();
        let last = chain.pop().unwrap();
        for mut proxy in chain {
            assert_eq!(proxy.wait().code(), Some(0));
        }
        last.wait_for_log("the process before this one has ended");
        last.wait_for_stat("http.test.downstream_rq_2xx", answered);
        last.end();
    }

    fn connection_of_the_old_process_is_served_there_until_it_ends(io) {
        let upstream = Upstream::echo();
        let config = Config::to(upstream.port);
        let mut old = first(io, &config, &[]);
        let mut client = old.connect();
        assert_eq!(client.get("/before").status(), 200);
        let new = next(io, &config, &old, 1, &[]);
        new.wait_for_stat("server.parent_connections", 1);
        assert_eq!(new.stat("http.test.downstream_cx_active"), 1);
        assert_eq!(client.get("/after").text(), "GET /after\n");
        assert_eq!(new.connect().get("/new").status(), 200);
        // The new one ends it as soon as nobody is connected any more.
        drop(client);
        assert_eq!(old.wait().code(), Some(0));
        new.wait_for_stat("http.test.downstream_rq_2xx", 3);
        new.wait_for_stat("server.total_connections", 0);
        new.end();
    }

    /// Connections of HTTP alone were counted: the old process was told to end at once, and cut its relays after five seconds.
    fn relay_of_the_old_process_lasts_until_it_ends(io) {
        let upstream = Upstream::echo_bytes();
        let config = relaying(upstream.port, &[], "");
        let mut old = first(io, &config, &[]);
        let mut client = old.connect();
        client.send("x");
        assert_eq!(client.read(1), b"x");
        let new = next(io, &config, &old, 1, &[]);
        new.wait_for_stat("server.parent_connections", 1);
        assert_eq!(new.stat("server.total_connections"), 1);
        client.send("y");
        assert_eq!(client.read(1), b"y");
        assert_eq!(old.count_in_log("told to end"), 0);
        drop(client);
        assert_eq!(old.wait().code(), Some(0));
        new.wait_for_stat("server.total_connections", 0);
        new.end();
    }

    fn listener_that_moves_is_served_at_its_new_place_alone(io) {
        let upstream = Upstream::echo();
        let config = Config::to(upstream.port);
        let old = first(io, &config, &[]);
        let elsewhere = free_port();
        let (_, admin) = old.ports();
        let new = Proxy::launch(io, &of_epoch(&config, old.port, 1, &[]), elsewhere, admin);
        new.wait_for_log("accepts no more");
        assert_eq!(new.connect().get("/").status(), 200);
        until("nobody listens at the old place", || Client::try_connect(old.port).is_err());
        new.end();
    }

    fn process_that_dies_after_it_has_handed_over_is_missed_by_nobody(io) {
        let upstream = Upstream::echo();
        let config = Config::to(upstream.port);
        let old = first(io, &config, &["--concurrency", "2"]);
        let mut client = old.connect();
        assert_eq!(client.get("/").status(), 200);
        let new = next(io, &config, &old, 1, &["--concurrency", "2"]);
        drop(old);
        new.wait_for_log("the process before this one is gone");
        for _ in 0..8 {
            assert_eq!(new.connect().get("/").status(), 200);
        }
        assert_eq!(new.stat("server.parent_connections"), 0);
        new.wait_for_stat("http.test.downstream_rq_2xx", 9);
        drop(client);
        new.end();
    }

    /// The old process still follows the control plane, for its clusters and routes.
    fn listener_that_is_told_after_the_handover_is_the_next_process_s_alone(io) {
        let upstream = Upstream::echo();
        let (folder, port, later) = (TempFolder::new(), free_port(), free_port());
        put(&folder, &[("told", http(port, "told"))]);
        let config = Config { no_listener: true, ..Config::to(upstream.port) };
        let config = config.arguments(&["--config-yaml", &following(&folder)]);
        let old = Proxy::launch(io, &of_epoch(&config, port, 0, &[]), port, free_port());
        old.wait_for_log("serving");
        // Somebody for whom the old one stays.
        let mut client = old.connect();
        assert_eq!(client.get("/").status(), 200);
        let new = next(io, &config, &old, 1, &[]);
        put(&folder, &[("told", http(port, "told")), ("later", http(later, "later"))]);
        old.wait_for_log("those that are told now are not taken");
        until("the new one listens", || Client::try_connect(later).is_ok());
        drop(new);
        until("nobody listens there", || Client::try_connect(later).is_err());
        drop(client);
    }

    fn process_that_cannot_start_changes_nothing(io) {
        let upstream = Upstream::echo();
        let config = Config::to(upstream.port);
        let old = first(io, &config, &["--concurrency", "2"]);
        let load = Load::start(old.port);
        let broken = Config { cluster: "lb_polcy: ROUND_ROBIN, ".to_owned(), ..config.clone() };
        // One with another port that is taken, after it has been given sockets.
        let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = busy.local_addr().unwrap().port();
        let taken = config.clone().listener(&format!(
            "additional_addresses: [{{address: {{socket_address: {{address: 127.0.0.1, port_value: {address}}}}}}}]"
        ));
        for (config, why) in [(&broken, "lb_polcy"), (&taken, "in use")] {
            let mut child = Proxy::launch(io, &of_epoch(config, old.port, 1, &[]), old.port, old.ports().1);
            assert_eq!(child.wait().code(), Some(1));
            child.wait_for_log(why);
            load.goes_on(20);
            assert_eq!(old.admin("GET", "/ready").text(), "LIVE\n");
        }
        let new = next(io, &config, &old, 1, &["--concurrency", "2"]);
        load.goes_on(20);
        load.end();
        new.end();
    }

    fn one_socket_for_all_workers_is_served_and_handed_over(io) {
        let upstream = Upstream::echo();
        let config = Config::to(upstream.port).listener("enable_reuse_port: false");
        let flags = |workers| ["--concurrency", workers, "--parent-shutdown-time-s", "0"];
        let old = first(io, &config, &flags("2"));
        let load = Load::start(old.port);
        load.goes_on(20);
        let new = next(io, &config, &old, 1, &flags("3"));
        load.goes_on(20);
        new.wait_for_log("the process before this one has ended");
        let answered = load.end();
        new.wait_for_stat("http.test.downstream_rq_2xx", answered);
        new.end();
    }
}

/// A message that asks a process of that base id.
fn ask(socket: &OwnedFd, message: &[u8]) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    packet::send(socket.as_fd(), message, &[])?;
    assert!(packet::wait(socket.as_fd(), crate::harness::PATIENCE).unwrap());
    let mut bytes = vec![0; 64 * 1024];
    let (length, passed) = packet::receive(socket.as_fd(), &mut bytes)?;
    bytes.truncate(length);
    Ok((bytes, passed))
}

/// Whoever takes the sockets and then hangs, dies or talks nonsense has changed nothing.
#[test]
fn candidate_that_hangs_dies_or_talks_nonsense_changes_nothing() {
    let upstream = Upstream::echo();
    let config = Config::to(upstream.port);
    let old = first(Io::Epoll, &config, &["--concurrency", "2"]);
    let load = Load::start(old.port);
    let name = format!("{}_{}_0", socket_path(), old.port);
    let hello = [b"RW\x01".as_slice(), &1u32.to_le_bytes(), &1u32.to_le_bytes()].concat();
    let address = format!("127.0.0.1:{}", old.port);
    let sockets = [
        b"RW\x02".as_slice(),
        &(address.len() as u16).to_le_bytes(),
        address.as_bytes(),
        &4u16.to_le_bytes(),
        b"test",
        &0u32.to_le_bytes(),
    ]
    .concat();
    let candidate = || {
        let socket = packet::connect(&name).unwrap();
        assert_eq!(ask(&socket, &hello).unwrap().0[..3], *b"RW\x81");
        let (reply, passed) = ask(&socket, &sockets).unwrap();
        assert_eq!((&reply[..3], passed.len()), (b"RW\x83".as_slice(), 2));
        (socket, passed)
    };
    let (hangs, kept) = candidate();
    load.goes_on(20);
    drop(candidate());
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], b"RW\x04\x00", b"RW"] {
        let (socket, _) = candidate();
        // An answer to nonsense is the connection's end.
        assert!(ask(&socket, nonsense).is_ok_and(|(bytes, _)| bytes.is_empty()));
    }
    // Of another version, or another epoch.
    for (version, epoch, reason) in [(2u32, 1u32, 1), (1, 2, 2), (1, 0, 2)] {
        let socket = packet::connect(&name).unwrap();
        let hello = [b"RW\x01".as_slice(), &version.to_le_bytes(), &epoch.to_le_bytes()].concat();
        assert_eq!(ask(&socket, &hello).unwrap().0[..4], [b'R', b'W', 0x82, reason]);
    }
    load.goes_on(20);
    let new = next(Io::Epoll, &config, &old, 1, &["--concurrency", "2"]);
    load.goes_on(20);
    load.end();
    drop((hangs, kept));
    new.end();
}

/// What a process says that has no place.
fn refused(arguments: &[&str]) -> String {
    let text = Config::to(1).text(free_port(), free_port());
    let output = binary().args(["--config-yaml", &text]).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().filter(|line| line.contains("[error]")).count(), 1, "{said}");
    said
}

#[test]
fn place_that_is_taken_or_has_no_process_before_it_is_refused() {
    let upstream = Upstream::echo();
    let config = Config::to(upstream.port);
    let proxy = first(Io::Epoll, &config, &[]);
    let (path, base_id) = (socket_path(), proxy.port.to_string());
    let of = |epoch| ["--socket-path", &path, "--base-id", &base_id, "--restart-epoch", epoch];
    let said = refused(&of("0"));
    assert!(said.contains(&format!("in use by process {}:", proxy.id())), "{said}");
    let said = refused(&of("2"));
    assert!(said.contains("no process of base id") && said.contains("epoch 1"), "{said}");
    // It does not speak to an older one than its own.
    let port = free_port();
    let config = of_epoch(&config, port, 5, &["--skip-hot-restart-on-no-parent"]);
    let afresh = Proxy::launch(Io::Epoll, &config, port, free_port());
    afresh.wait_for_log("serving");
    assert_eq!(afresh.connect().get("/").status(), 200);
    afresh.end();
    proxy.end();
}

/// Envoy's restarter ends all its processes at once.
#[test]
fn both_processes_end_in_order_when_told_so_at_once() {
    let upstream = Upstream::echo();
    let config = Config::to(upstream.port);
    let mut old = first(Io::Epoll, &config, &[]);
    let mut new = next(Io::Epoll, &config, &old, 1, &[]);
    for proxy in [&old, &new] {
        proxy.signal(libc::SIGTERM);
    }
    assert_eq!((old.wait().code(), new.wait().code()), (Some(0), Some(0)));
}

/// Where a file is the meeting place, and the id is any that is free.
#[test]
fn base_id_that_was_chosen_is_written_and_found_again() {
    let upstream = Upstream::echo();
    let folder = TempFolder::new();
    let (path, file) = (folder.path().join("place"), folder.path().join("id"));
    let (path, file) = (path.to_str().unwrap(), file.to_str().unwrap());
    let arguments =
        ["--socket-path", path, "--use-dynamic-base-id", "--base-id", "0", "--base-id-path", file];
    let config = Config::to(upstream.port);
    let old = Proxy::start(Io::Epoll, &config.clone().arguments(&arguments));
    let base_id = std::fs::read_to_string(file).unwrap();
    assert!(std::fs::exists(format!("{path}_{base_id}_0")).unwrap());
    let arguments = ["--socket-path", path, "--base-id", &base_id, "--restart-epoch", "1"];
    let new = old.next(Io::Epoll, &config.arguments(&arguments));
    assert_eq!(new.connect().get("/").status(), 200);
    new.end();
}
