//! Endpoints that listen on sockets of the Unix domain: by a path and by an abstract name, for HTTP and for relayed bytes, and
//! such that are not there.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use crate::harness::{Client, Config, Proxy, TempFolder, on_each_backend, until};
use crate::upstream_failures::log_to;

/// Everything goes to the socket of this name.
fn to(name: &str) -> Config {
    let mut config = Config::to(1);
    config.clusters = Some(format!(
        "{{name: upstream, connect_timeout: 5s, load_assignment: {{cluster_name: upstream, endpoints: [{{lb_endpoints: \
         [{{endpoint: {{address: {{pipe: {{path: \"{name}\"}}}}}}}}]}}]}}}}"
    ));
    config
}

/// The same for whatever clients say, with more fields of the TCP proxy.
fn relaying(name: &str, fields: &str) -> Config {
    to(name).chains(&[format!(
        "{{filters: [{{name: tcp, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: relay, cluster: upstream{fields}}}}}]}}"
    )])
}

/// Answers every request without a body with its target, on one connection until it ends.
fn answer_one_connection(listener: UnixListener) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut answered = 0;
        let mut lines = BufReader::new(&stream);
        let mut target = String::new();
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap() == 0 {
                return answered;
            }
            if let Some(rest) = line.strip_prefix("GET ") {
                target = rest.split(' ').next().unwrap().to_owned();
            } else if line == "\r\n" {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{target}", target.len());
                (&stream).write_all(head.as_bytes()).unwrap();
                answered += 1;
            }
        }
    })
}

fn serves(io: crate::harness::Io, name: &str, listener: UnixListener) {
    let folder = TempFolder::new();
    let log = folder.path().join("access.log");
    let upstream = answer_one_connection(listener);
    let format = "%UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_LOCAL_ADDRESS%";
    let proxy = Proxy::start(io, &to(name).manager(&log_to(&log, format)));
    let mut client = proxy.connect();
    for target in ["/one", "/two"] {
        assert_eq!(client.get(target).text(), target);
    }
    // A request is counted once its response has gone.
    for line in [format!("upstream::{name}::cx_total::1\n"), format!("upstream::{name}::rq_success::2\n")] {
        until(&line, || proxy.admin("GET", "/clusters").text().contains(&line));
    }
    assert_eq!(proxy.stat("cluster.upstream.upstream_cx_total"), 1, "the connection is kept");
    drop(client);
    proxy.end();
    assert_eq!(upstream.join().unwrap(), 2);
    // As Envoy, which asks for no local address of such a connection.
    assert_eq!(std::fs::read_to_string(log).unwrap(), format!("{name} {name} -\n").repeat(2));
}

fn is_absent(io: crate::harness::Io, path: &Path) {
    let folder = TempFolder::new();
    let log = folder.path().join("access.log");
    let config = to(path.to_str().unwrap()).manager(&log_to(&log, "%RESPONSE_CODE% %RESPONSE_FLAGS%"));
    let proxy = Proxy::start(io, &config);
    let mut client = proxy.connect();
    assert_eq!(client.get("/").status(), 503);
    assert_eq!(proxy.stat("cluster.upstream.upstream_cx_connect_fail"), 1);
    assert_eq!(proxy.stat("cluster.upstream.upstream_cx_active"), 0);
    drop(client);
    proxy.end();
    assert_eq!(std::fs::read_to_string(log).unwrap(), "503 UF\n");
}

on_each_backend! {
    fn path_is_connected_to_and_named_in_records(io) {
        let folder = TempFolder::new();
        let path = folder.path().join("upstream.sock");
        serves(io, path.to_str().unwrap(), UnixListener::bind(&path).unwrap());
    }

    fn abstract_name_is_connected_to(io) {
        let name = format!("ringway-test-{}-{}", std::process::id(), io.name());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        serves(io, &format!("@{name}"), UnixListener::bind_addr(&address).unwrap());
    }

    fn bytes_and_both_ends_pass_to_a_unix_endpoint(io) {
        let folder = TempFolder::new();
        let path = folder.path().join("upstream.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let upstream = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received.reverse();
            stream.write_all(&received).unwrap();
            stream.shutdown(Shutdown::Both).unwrap();
        });
        let proxy = Proxy::start(io, &relaying(path.to_str().unwrap(), ""));
        let mut client: Client = proxy.connect();
        let mut bytes: Vec<u8> = (0..4_000_000_u32).map(|place| (place % 251) as u8).collect();
        client.send(&bytes);
        client.shutdown_write();
        let received = client.read_to_end();
        bytes.reverse();
        assert!(received == bytes, "{} bytes", received.len());
        upstream.join().unwrap();
        proxy.end();
    }

    fn missing_path_is_a_failed_connection(io) {
        let folder = TempFolder::new();
        is_absent(io, &folder.path().join("nobody.sock"));
    }

    /// Each attempt fails at once: others have their turn all the same, and who has gone is not tried for.
    fn attempts_that_fail_at_once_end_with_their_client_however_many_there_may_be(io) {
        let folder = TempFolder::new();
        let path = folder.path().join("nobody.sock");
        let attempts = ", max_connect_attempts: 4294967295";
        let proxy = Proxy::start(io, &relaying(path.to_str().unwrap(), attempts));
        let client = proxy.connect();
        until("many attempts", || proxy.stat("cluster.upstream.upstream_cx_connect_fail") > 100);
        client.reset_on_close();
        drop(client);
        proxy.wait_for_stat(&format!("listener.127.0.0.1_{}.downstream_cx_active", proxy.port), 0);
        proxy.end();
    }

    fn path_at_which_nobody_listens_any_more_is_a_failed_connection(io) {
        let folder = TempFolder::new();
        let path = folder.path().join("left.sock");
        drop(UnixListener::bind(&path).unwrap());
        is_absent(io, &path);
    }
}
