//! Addresses of listeners that are told: they take in others, stay while the way to bind them changes, and change hands.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::harness::{Client, PATIENCE, Proxy, TempFolder, free_port, on_each_backend, until};
use crate::xds::named;
use crate::xds_listeners::{Followed, http, http_at, refuses};

/// A listener at that port of an address, with a mark in its responses.
fn at(ip: &str, port: u16, mark: &str) -> String {
    let compat = if ip == "::" { ", ipv4_compat: true" } else { "" };
    http_at(&format!("address: {{socket_address: {{address: \"{ip}\", port_value: {port}{compat}}}}}"), mark)
}

/// Waits until new connections to the port are answered with that mark.
fn marks(port: u16, mark: &str) {
    let is_so = |mut client: Client| {
        client.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok()
            && matches!(client.any_response_to("GET"), Ok(Some(response)) if response.header("x-mark") == Some(mark))
    };
    until(mark, || Client::try_connect(port).is_ok_and(is_so));
}

/// Waits until the proxy says that a listener listens there.
fn listens(proxy: &Proxy, line: &str) {
    until(line, || proxy.admin("GET", "/listeners").text().lines().any(|one| one == line));
}

/// Nothing that was told could not be had.
fn all_were_taken(proxy: &Proxy) {
    assert_eq!(proxy.stat("listener_manager.lds.update_rejected"), 0);
    assert_eq!(proxy.stat("listener_manager.listener_create_failure"), 0);
}

/// The mark of a request on a connection of its own, which is served whatever changes meanwhile.
fn mark_at(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    let line = response.lines().find_map(|line| line.strip_prefix("x-mark: "));
    line.unwrap_or_default().to_owned()
}

on_each_backend! {
    /// The kernel has any address and one of them for the same, but to those who share it.
    fn listener_moves_between_any_address_and_one(io) {
        let (a, port) = (named("a"), free_port());
        let followed = Followed::start(io, &a, &[("one", at("0.0.0.0", port, "turn0"))], &[]);
        let mut places = vec!["127.0.0.1", "0.0.0.0"];
        if std::net::TcpListener::bind("[::]:0").is_ok() {
            places.extend(["::", "0.0.0.0", "::", "127.0.0.1"]);
        }
        for (turn, ip) in (1..).zip(places) {
            let mark = format!("turn{turn}");
            followed.put(&[("one", at(ip, port, &mark))]);
            marks(port, &mark);
            let shown = if ip == "::" { "[::]" } else { ip };
            listens(&followed.proxy, &format!("one::{shown}:{port}"));
        }
        all_were_taken(&followed.proxy);
        followed.proxy.end();
    }

    /// With a socket for all workers it is had as soon as they have closed that.
    fn one_of_any_address_changes_hands_in_one_response(io) {
        let (a, port) = (named("a"), free_port());
        for shared in ["", ", enable_reuse_port: false"] {
            let listener = |ip, mark| at(ip, port, mark) + shared;
            let followed = Followed::start(io, &a, &[("wide", listener("0.0.0.0", "wide"))], &[]);
            followed.put(&[("narrow", listener("127.0.0.1", "narrow"))]);
            marks(port, "narrow");
            followed.put(&[("wider", listener("0.0.0.0", "wider"))]);
            marks(port, "wider");
            all_were_taken(&followed.proxy);
            assert_eq!(followed.proxy.stat("listener_manager.total_listeners_active"), 1);
            followed.proxy.end();
        }
    }

    /// As in Envoy: who connects to the one address is the one's.
    fn any_address_and_one_are_there_at_once(io) {
        let (a, port) = (named("a"), free_port());
        let (wide, narrow) = (("wide", at("0.0.0.0", port, "wide")), ("narrow", at("127.0.0.1", port, "narrow")));
        let followed = Followed::start(io, &a, std::slice::from_ref(&wide), &[]);
        marks(port, "wide");
        followed.put(&[wide.clone(), narrow]);
        marks(port, "narrow");
        assert_eq!(followed.proxy.stat("listener_manager.total_listeners_active"), 2);
        followed.put(&[wide]);
        marks(port, "wide");
        all_were_taken(&followed.proxy);
        followed.proxy.end();
    }

    /// There is one socket for all workers: it stays, and no client is refused.
    fn file_of_a_listener_gets_another_mode_and_queue_and_stays(io) {
        let (a, folder) = (named("a"), TempFolder::new());
        let path = folder.path().join("front.sock");
        let listener = |mode: u32, mark: &str| {
            http_at(&format!("address: {{pipe: {{path: \"{}\", mode: {mode}}}}}", path.display()), mark)
        };
        let followed = Followed::start(io, &a, &[("one", listener(0o600, "turn0"))], &[]);
        let first = std::fs::metadata(&path).unwrap();
        assert_eq!((mark_at(&path).as_str(), first.permissions().mode() & 0o777), ("turn0", 0o600));
        for (turn, (name, mode, more)) in (1..).zip([
            ("one", 0o660, ""),
            ("one", 0o660, ", tcp_backlog_size: 9"),
            // Another one, in the response in which that goes.
            ("two", 0o640, ", tcp_backlog_size: 9"),
            // Which has its socket, and changes it on.
            ("three", 0o640, ", tcp_backlog_size: 9"),
            ("three", 0o600, ""),
        ]) {
            let mark = format!("turn{turn}");
            followed.put(&[(name, listener(mode, &mark) + more)]);
            until(&mark, || mark_at(&path) == mark);
            let now = std::fs::metadata(&path).unwrap();
            assert_eq!((now.ino(), now.permissions().mode() & 0o777), (first.ino(), mode), "{name}");
            listens(&followed.proxy, &format!("{name}::{}", path.display()));
        }
        all_were_taken(&followed.proxy);
        followed.put(&[]);
        until("nobody listens", || UnixStream::connect(&path).is_err());
        followed.proxy.end();
    }

    fn socket_that_is_not_shared_gets_another_queue_and_no_other_options(io) {
        let (a, port) = (named("a"), free_port());
        let start = ("one", http(port, "start") + ", enable_reuse_port: false");
        let followed = Followed::start(io, &a, &[start], &[]);
        let queue = ", enable_reuse_port: false, tcp_backlog_size: 77";
        followed.put(&[("one", http(port, "queue") + queue)]);
        marks(port, "queue");
        all_were_taken(&followed.proxy);
        for (refusals, (more, why)) in (1..).zip([
            (", enable_reuse_port: false, freebind: true", "the options of a socket that is not shared cannot change"),
            (", enable_reuse_port: true", "enable_reuse_port cannot change at the same address"),
        ]) {
            followed.put(&[("one", http(port, "refused") + more)]);
            followed.proxy.wait_for_stat("listener_manager.lds.update_rejected", refusals);
            followed.proxy.wait_for_log(&format!("one stays as it was: cannot listen on 127.0.0.1:{port}: {why}"));
            marks(port, "queue");
        }
        followed.put(&[("one", http(port, "again") + queue)]);
        marks(port, "again");
        followed.proxy.end();
    }

    /// What is tried first is what comes first by name, and it was refused for good.
    fn place_that_one_leaves_is_anothers_in_the_same_response(io) {
        let (a, ports) = (named("a"), [free_port(), free_port(), free_port()]);
        let followed = Followed::start(io, &a, &[("z", http(ports[0], "z")), ("m", http(ports[1], "m"))], &[]);
        marks(ports[0], "z");
        marks(ports[1], "m");
        followed.put(&[("b", http(ports[1], "b")), ("m", http(ports[0], "m2")), ("z", http(ports[2], "z2"))]);
        for (port, mark) in ports.into_iter().zip(["m2", "b", "z2"]) {
            marks(port, mark);
        }
        all_were_taken(&followed.proxy);
        // What nobody leaves is nobody else's.
        followed.put(&[("a", http(ports[2], "a")), ("b", http(ports[1], "b2")), ("z", http(ports[2], "z2"))]);
        followed.proxy.wait_for_stat("listener_manager.lds.update_rejected", 1);
        assert_eq!(followed.proxy.stat("listener_manager.listener_create_failure"), 1);
        marks(ports[2], "z2");
        marks(ports[1], "b2");
        until("m is gone", || refuses(ports[0]));
        followed.proxy.end();
    }
}
