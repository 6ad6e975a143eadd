//! Listeners at sockets of the Unix domain: by a path and by an abstract name, for HTTP, TLS and relayed bytes, what is in
//! records and headers of their clients, and what happens to the socket's file.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::harness::{Config, Io, PATIENCE, Proxy, TempFolder, Upstream, free_port, on_each_backend, until};
use crate::upstream_failures::log_to;

/// Listens at a Unix socket, too.
fn at(config: Config, pipe: &str) -> Config {
    config.listener(&format!("additional_addresses: [{{address: {{pipe: {{{pipe}}}}}}}]"))
}

fn at_path(config: Config, path: &Path) -> Config {
    at(config, &format!("path: \"{}\"", path.display()))
}

fn connect(path: &Path) -> UnixStream {
    patient(UnixStream::connect(path).unwrap())
}

fn patient(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The response to the only request of a connection.
fn ask(mut stream: UnixStream, target: &str, more: &str) -> String {
    stream
        .write_all(format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n").as_bytes())
        .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

fn is_answered(response: &str, target: &str) {
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.ends_with(&format!("GET {target}\n")), "{response}");
}

on_each_backend! {
    fn requests_at_a_path_are_served_by_all_workers_and_recorded_by_it(io) {
        let folder = TempFolder::new();
        let (path, log) = (folder.path().join("front.sock"), folder.path().join("access.log"));
        let format = "%DOWNSTREAM_REMOTE_ADDRESS%|%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%|%DOWNSTREAM_REMOTE_PORT%|\
                      %DOWNSTREAM_DIRECT_REMOTE_ADDRESS%|%DOWNSTREAM_LOCAL_ADDRESS%|%DOWNSTREAM_LOCAL_PORT%";
        let upstream = Upstream::echo();
        let config = at_path(Config::to(upstream.port), &path).manager(&log_to(&log, format)).arguments(&["--concurrency", "3"]);
        let proxy = Proxy::start(io, &config);
        // Workers that are busy leave it to the others.
        let held: Vec<_> = (0..12).map(|_| connect(&path)).collect();
        until("all are accepted", || proxy.stat("http.test.downstream_cx_active") == 12);
        for (number, stream) in held.into_iter().enumerate() {
            let target = format!("/{number}");
            is_answered(&ask(stream, &target, ""), &target);
        }
        // The listener is named by its first address.
        assert_eq!(proxy.stat(&format!("listener.127.0.0.1_{}.downstream_cx_total", proxy.port)), 12);
        is_answered(&proxy_ask(&proxy, "/tcp"), "/tcp");
        proxy.end();
        let named = path.display();
        let line = format!("{named}|{named}||{named}|{named}|\n");
        let written = std::fs::read_to_string(&log).unwrap();
        assert_eq!(written.matches(&line).count(), 12, "{written}");
        assert!(path.exists(), "as Envoy leaves it");
    }

    fn unix_client_is_no_hop_and_internal_only_where_that_is_said(io) {
        let folder = TempFolder::new();
        let path = folder.path().join("front.sock");
        let upstream = Upstream::start(|peer| {
            while let Some(request) = peer.request() {
                let told: Vec<_> = ["x-forwarded-for", "x-envoy-internal", "x-envoy-external-address", "x-forwarded-proto"]
                    .iter()
                    .map(|name| request.header(name).unwrap_or("-").to_owned())
                    .collect();
                peer.send(crate::harness::ok(told.join("|").as_bytes()));
            }
        });
        for (internal, expected) in [
            ("", "-|-|-|http"),
            ("internal_address_config: {unix_sockets: true}", "-|true|-|http"),
        ] {
            let config = at_path(Config::to(upstream.port), &path).manager("use_remote_address: true");
            let config = if internal.is_empty() { config } else { config.manager(internal) };
            let proxy = Proxy::start(io, &config);
            let response = ask(connect(&path), "/", "");
            assert!(response.ends_with(expected), "{response}");
            // What another hop has said stays, and is not added to.
            let response = ask(connect(&path), "/", "X-Forwarded-For: 192.0.2.1\r\n");
            assert!(response.ends_with("192.0.2.1|-|-|http"), "{response}");
            proxy.end();
        }
    }

    fn bytes_and_both_ends_pass_from_a_unix_client_at_an_abstract_name(io) {
        let name = format!("ringway-front-{}-{}", std::process::id(), io.name());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let upstream = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received.reverse();
            stream.write_all(&received).unwrap();
            stream.shutdown(Shutdown::Both).unwrap();
        });
        let config = at(Config::to(port), &format!("path: \"@{name}\"")).chains(&[
            "{filters: [{name: tcp, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: relay, cluster: upstream}}]}"
                .to_owned(),
        ]);
        let proxy = Proxy::start(io, &config);
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let mut client = patient(UnixStream::connect_addr(&address).unwrap());
        let mut bytes: Vec<u8> = (0..4_000_000_u32).map(|place| (place % 251) as u8).collect();
        client.write_all(&bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        bytes.reverse();
        assert!(received == bytes, "{} bytes", received.len());
        upstream.join().unwrap();
        proxy.end();
    }

    fn file_has_its_mode_and_one_left_behind_makes_way(io) {
        let folder = TempFolder::new();
        let path = folder.path().join("front.sock");
        drop(UnixListener::bind(&path).unwrap());
        let upstream = Upstream::echo();
        let config = at(Config::to(upstream.port), &format!("path: \"{}\", mode: {}", path.display(), 0o620));
        let mut killed = Proxy::start(io, &config);
        let file = std::fs::metadata(&path).unwrap();
        assert!(file.file_type().is_socket());
        assert_eq!(file.permissions().mode() & 0o777, 0o620);
        is_answered(&ask(connect(&path), "/one", ""), "/one");
        killed.signal(libc::SIGKILL);
        killed.wait();
        let proxy = Proxy::start(io, &config);
        is_answered(&ask(connect(&path), "/two", ""), "/two");
        proxy.end();
    }

    fn socket_in_use_a_file_that_is_none_and_a_missing_folder_stop_the_start(io) {
        let folder = TempFolder::new();
        let (taken, file) = (folder.path().join("taken.sock"), folder.path().join("file"));
        let listener = UnixListener::bind(&taken).unwrap();
        std::fs::write(&file, "precious").unwrap();
        for (path, why) in [
            (&taken, "Address already in use"),
            (&file, "Address already in use"),
            (&folder.path().join("none/front.sock"), "No such file or directory"),
        ] {
            let mut proxy = Proxy::launch(io, &at_path(Config::to(1), path), free_port(), free_port());
            assert_eq!(proxy.wait().code(), Some(1));
            proxy.wait_for_log(&format!("listener test: cannot listen on {}: {why}", path.display()));
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        drop(listener);
    }

    fn next_process_serves_at_the_same_socket_and_no_request_is_lost(io) {
        let folder = TempFolder::new();
        let path = folder.path().join("front.sock");
        let upstream = Upstream::echo();
        let base_id = free_port().to_string();
        let of_epoch = |epoch: &str| {
            at_path(Config::to(upstream.port), &path).arguments(&[
                "--socket-path", &format!("@ringway-unix-{}", std::process::id()), "--base-id", &base_id, "--restart-epoch", epoch,
                "--parent-shutdown-time-s", "0", "--drain-strategy", "immediate", "--concurrency", "2",
            ])
        };
        let mut first = Proxy::start(io, &of_epoch("0"));
        let before = file_number(&path);
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (path, stop, answered) = (path.clone(), Arc::clone(&stop), Arc::clone(&answered));
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        is_answered(&ask(connect(&path), "/load", ""), "/load");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let goes_on = || {
            let until_then = answered.load(Ordering::Relaxed) + 50;
            until("requests are answered", || answered.load(Ordering::Relaxed) >= until_then);
        };
        goes_on();
        let next = first.next(io, &of_epoch("1"));
        goes_on();
        assert_eq!(first.wait().code(), Some(0));
        goes_on();
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
        assert_eq!(file_number(&path), before, "it is the same socket");
        next.end();
    }
}

fn file_number(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap())
}

fn proxy_ask(proxy: &Proxy, target: &str) -> String {
    let mut client = proxy.connect();
    let message = client.get(target);
    format!("HTTP/1.1 {} OK\r\n{}", message.status(), message.text())
}

#[test]
fn unix_listener_alone_is_named_by_its_path() {
    let io = Io::Auto;
    let folder = TempFolder::new();
    let path = folder.path().join("front.sock");
    let upstream = Upstream::echo();
    let mut config = Config::to(upstream.port);
    config.address = Some(format!("{{pipe: {{path: \"{}\"}}}}", path.display()));
    let proxy = Proxy::start(io, &config);
    is_answered(&ask(connect(&path), "/", ""), "/");
    assert_eq!(proxy.stat(&format!("listener.{}.downstream_cx_total", path.display())), 1);
    let listeners = proxy.admin("GET", "/listeners").text();
    assert_eq!(listeners, format!("test::{}\n", path.display()));
}
