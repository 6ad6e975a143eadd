//! From start to end of the process: bad files, taken ports, no descriptors left, and the drain.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::channel;

use crate::harness::{
    Client, Config, Io, Proxy, TempFolder, Upstream, binary, free_port, ok, on_each_backend, until,
};

fn output(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

/// Whether the kernel's timer of keepalive runs on the other side of a client's connection.
fn has_keepalive(client: &Client) -> bool {
    let port = |address: std::io::Result<std::net::SocketAddr>| format!(":{:04X}", address.unwrap().port());
    let (local, remote) = (port(client.stream().peer_addr()), port(client.stream().local_addr()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let timer = table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next()?.ends_with(&local) && fields.next()?.ends_with(&remote);
        // State and queues are between.
        if is_it { fields.nth(2) } else { None }
    });
    timer.unwrap().starts_with("02:")
}

on_each_backend! {
    fn drain_finishes_what_runs_closes_what_idles_and_refuses_the_new(io) {
        let (release, released) = channel::<()>();
        let released = Mutex::new(released);
        let upstream = Upstream::start(move |peer| {
            while let Some(request) = peer.request() {
                if request.path() == "/slow" {
                    let _ = released.lock().unwrap().recv();
                }
                peer.send(ok(b"whole"));
            }
        });
        let mut proxy = Proxy::start(io, &Config::to(upstream.port));
        let (mut idle, mut busy) = (proxy.connect(), proxy.connect());
        assert_eq!(idle.get("/").header("connection"), None);
        busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        upstream.wait_for_requests(2);
        proxy.signal(libc::SIGTERM);
        proxy.wait_for_log("draining");
        until("new connections are refused", || Client::try_connect(proxy.port).is_err());
        idle.expect_closed();
        release.send(()).unwrap();
        let response = busy.response();
        assert_eq!((response.text().as_str(), response.header("connection")), ("whole", Some("close")));
        busy.expect_closed();
        drop((idle, busy));
        assert_eq!(proxy.wait().code(), Some(0));
    }

    fn drain_ends_in_any_case_when_its_time_is_up(io) {
        let upstream = Upstream::start(|peer| { peer.sees_end(); });
        let config = Config::to(upstream.port);
        let mut proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        upstream.seen();
        proxy.wait_for_stat("cluster.upstream.upstream_rq_active", 1);
        proxy.signal(libc::SIGTERM);
        proxy.wait_for_log("draining");
        // A second signal ends the wait.
        proxy.signal(libc::SIGTERM);
        assert_eq!(proxy.wait().code(), Some(0));
        client.expect_closed();
    }

    fn second_process_on_the_same_port_says_so_and_exits_1(io) {
        let upstream = Upstream::echo();
        for workers in ["1", "2"] {
            let proxy = Proxy::start(io, &Config::to(upstream.port).arguments(&["--concurrency", workers]));
            let text = Config::to(upstream.port).text(proxy.port, free_port());
            let (code, said) = output(
                binary()
                    .args(["--config-yaml", &text, "--io-backend", io.name(), "--concurrency", workers])
                    .arg("--disable-hot-restart"),
            );
            assert_eq!(code, Some(1), "{said}");
            let address = format!("127.0.0.1:{}", proxy.port);
            let errors: Vec<_> = said.lines().filter(|line| line.contains("[error]")).collect();
            assert!(
                matches!(errors[..], [one] if one.contains(&address) && one.contains("in use")),
                "one clear line: {said}"
            );
            assert_eq!(said.lines().filter(|line| line.contains("trying again")).count(), 1, "{said}");
            assert_eq!(proxy.connect().get("/").status(), 200);
            proxy.end();
        }
    }

    fn address_that_no_interface_has_is_listened_at_with_freebind_alone(io) {
        let upstream = Upstream::echo();
        // One for documentation (RFC 5737): no host has it.
        let address = format!("192.0.2.1:{}", free_port());
        let (ip, port) = address.split_once(':').unwrap();
        let config = |freebind: bool| {
            let more = format!("additional_addresses: [{{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}]");
            Config::to(upstream.port).listener(&more).listener(&format!("freebind: {freebind}"))
        };
        let proxy = Proxy::start(io, &config(true));
        let listeners = proxy.admin("GET", "/listeners").text();
        assert!(listeners.contains(&address), "{listeners}");
        assert_eq!(proxy.connect().get("/").status(), 200);
        proxy.end();

        let text = config(false).text(free_port(), free_port());
        let (code, said) = output(
            binary().args(["--config-yaml", &text, "--io-backend", io.name()]).arg("--disable-hot-restart"),
        );
        assert_eq!(code, Some(1), "{said}");
        let errors: Vec<_> = said.lines().filter(|line| line.contains("[error]")).collect();
        assert!(matches!(errors[..], [one] if one.contains(&address)), "one clear line: {said}");
    }

    fn connections_have_the_keepalive_of_their_listener_or_of_its_further_address(io) {
        let upstream = Upstream::echo();
        // Longer than the test takes.
        let own = "tcp_keepalive: {keepalive_time: 1000}";
        for (fields, inherits) in [("", true), (", tcp_keepalive: {keepalive_time: 0}", false)] {
            let port = free_port();
            let address = format!("address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}");
            let further = format!("additional_addresses: [{{{address}{fields}}}]");
            let proxy = Proxy::start(io, &Config::to(upstream.port).listener(own).listener(&further));
            let mut clients = [proxy.connect(), Client::connect(port)];
            clients.iter_mut().for_each(|client| assert_eq!(client.get("/").status(), 200));
            // Another timer may run until the answer is acknowledged.
            until("keepalive is on", || has_keepalive(&clients[0]));
            if inherits {
                until("it is on there, too", || has_keepalive(&clients[1]));
            } else {
                assert!(!has_keepalive(&clients[1]));
            }
            drop(clients);
            proxy.end();
        }
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        assert_eq!(client.get("/").status(), 200);
        assert!(!has_keepalive(&client), "none where none is asked for");
        proxy.end();
    }

    fn without_descriptors_it_keeps_serving_and_accepts_again_later(io) {
        let upstream = Upstream::echo();
        let config = Config { open_files: Some(64), ..Config::to(upstream.port) };
        let proxy = Proxy::start(io, &config);
        let mut served = proxy.connect();
        assert_eq!(served.get("/").status(), 200);
        // More than there are descriptors; the kernel queues those that are not accepted.
        let crowd = (0..80).map(|_| proxy.connect()).collect::<Vec<_>>();
        // No descriptor is left for a connection of the admin endpoint: the log and the traffic must tell.
        for _ in 0..20 {
            assert_eq!(served.get("/").status(), 200);
        }
        drop(crowd);
        until("accepts go on", || {
            let mut client = proxy.connect();
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            client.any_response_to("GET").is_ok_and(|response| response.is_some_and(|r| r.status() == 200))
        });
        assert!(proxy.stat("ringway.io.accept_emfile") > 0);
        drop(served);
        proxy.end();
    }
}

/// With eight to fifteen descriptors the start took three seconds for every level of the ring, or ended in a panic of tokio's.
#[test]
fn start_with_few_descriptors_serves_or_is_refused_for_that() {
    let mut served = 0;
    for (io, limit) in [Io::Auto, Io::Epoll].into_iter().flat_map(|io| (6..=24).map(move |limit| (io, limit)))
    {
        let text = Config::to(free_port()).text(free_port(), free_port());
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\"")]).arg(binary().get_program());
        shell.args(["--config-yaml", &text, "--concurrency", "2", "--io-backend", io.name()]);
        shell.arg("--disable-hot-restart");
        let mut child =
            shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = String::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
            log.extend([&line, "\n"]);
            if line.ends_with(": serving") {
                child.kill().unwrap();
            }
        }
        let code = child.wait().unwrap().code();
        served += usize::from(code.is_none());
        assert!(matches!(code, None | Some(1)), "{limit}: {code:?}\n{log}");
        assert_eq!(code == Some(1), log.contains("[error]"), "{limit}\n{log}");
        assert!(code.is_none() || log.contains("Too many open files"), "{limit}\n{log}");
        let is_overdue = Io::IoUring.works() && log.contains("unknown to this kernel");
        assert!(!is_overdue && !log.contains("panicked"), "{limit}\n{log}");
    }
    assert!((2..38).contains(&served), "{served} of 38 starts served");
}

#[test]
fn bad_bootstrap_is_refused_with_its_place_and_exit_code_1() {
    let folder = TempFolder::new();
    let path = folder.path().join("bad.yaml");
    let text = Config::to(1).text(free_port(), free_port()).replace("connect_timeout", "conect_timeout");
    std::fs::write(&path, &text).unwrap();
    let (code, said) = output(binary().arg("--disable-hot-restart").arg("-c").arg(&path));
    assert_eq!(code, Some(1), "{said}");
    let (line, rest) = text
        .lines()
        .enumerate()
        .find_map(|(n, line)| Some((n + 1, line.find("conect_timeout")? + 1)))
        .unwrap();
    let place = format!("bad.yaml:{line}:{rest} ");
    assert!(said.contains(&place), "no {place:?} in {said}");
    assert!(said.contains("connect_timeout"), "the right name is not suggested: {said}");

    let (code, said) = output(binary().args(["--disable-hot-restart", "-c", "/nonexistent/bootstrap.yaml"]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("/nonexistent/bootstrap.yaml"), "{said}");
}

#[test]
fn validate_mode_checks_and_does_not_listen() {
    let upstream = Upstream::echo();
    let port = free_port();
    let text = Config::to(upstream.port).text(port, free_port());
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let (code, said) = output(binary().args(["--mode", "validate", "--config-yaml", &text]));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("OK"), "{said}");
    drop(listener);
    let (code, said) = output(binary().args(["--mode", "validate", "--config-yaml", "static_resources: 7"]));
    assert_eq!(code, Some(1), "{said}");
}

/// It was a panic, whose exit code is no one's.
#[test]
fn answer_whose_reader_has_gone_is_given_all_the_same() {
    let nobody = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let text = Config::to(1).text(free_port(), free_port());
    let validate = ["--mode", "validate", "--config-yaml", text.as_str()];
    for arguments in [&["--help"][..], &["--version"][..], &validate[..]] {
        let Output { status, stderr, .. } = binary().args(arguments).stdout(nobody()).output().unwrap();
        assert_eq!(status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    }
    assert_eq!(binary().arg("--nope").stderr(nobody()).status().unwrap().code(), Some(1));
}

/// At these levels nothing was said.
#[test]
fn start_that_is_refused_says_why_whatever_is_logged() {
    for level in ["critical", "off"] {
        let yaml = "static_resources: {clusterz: []}";
        let (code, said) = output(binary().args(["--mode", "validate", "-l", level, "--config-yaml", yaml]));
        assert!(code == Some(1) && said.contains("clusterz"), "{level}: {code:?} {said}");
        let file = "/nonexistent/bootstrap.yaml";
        let (code, said) = output(binary().args(["-l", level, "--disable-hot-restart", "-c", file]));
        assert!(code == Some(1) && said.contains(file), "{level}: {code:?} {said}");
    }
}

/// As Envoy does: under systemd the soft limit is 1,024, which is for programs that use `select`.
#[test]
fn soft_limit_of_open_files_is_raised_to_the_hard_one() {
    let text = Config::to(free_port()).text(free_port(), free_port());
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -S -n 64 && exec \"$0\" \"$@\""]).arg(binary().get_program());
    shell.args(["--config-yaml", &text, "--disable-hot-restart"]);
    let mut child = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let serves = log.any(|line| line.ends_with(": serving"));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    let limits = limits.unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let values: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
    assert!(serves && values[0] == values[1] && values[0] != "64", "{line}");
}
