//! Endpoints of a control plane: they come, change and go while traffic flows; without it everything stays as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{
    Client, Config, ControlPlane, Io, Proxy, Upstream, free_port, ok, on_each_backend, until,
};

const HERE: &str = "127.0.0.1";

/// A proxy, two of its workers, whose one cluster has its endpoints from there.
fn config(plane: &ControlPlane) -> Config {
    let config = Config { clusters: Some(plane.clusters(&["upstream"])), ..Config::to(0) };
    config.arguments(&["--concurrency", "2", "--config-yaml", &plane.bootstrap()])
}

fn named(name: &'static str) -> Upstream {
    Upstream::answering(move |_| ok(name.as_bytes()))
}

/// Both, the endpoint told before the proxy asks.
fn started(io: Io, upstream: &Upstream) -> (ControlPlane, Proxy) {
    let plane = ControlPlane::start();
    plane.tell("upstream", HERE, &[upstream.port]);
    let proxy = Proxy::start(io, &config(&plane));
    (plane, proxy)
}

/// Waits until this answer comes on a connection.
fn answers(client: &mut Client, status: u16, text: &str) {
    until(&format!("{status} {text}"), || {
        let response = client.get("/");
        (response.status(), &*response.text()) == (status, text)
    });
}

on_each_backend! {
    fn nothing_is_served_before_the_endpoints_are_there(io) {
        let upstream = named("a");
        let plane = ControlPlane::start();
        let proxy = Proxy::launch(io, &config(&plane), free_port(), free_port());
        let asked = plane.wait_for("endpoints", |_| true);
        assert_eq!((asked.names, asked.nonce), (vec!["upstream".to_owned()], String::new()));
        assert_ne!(proxy.admin("GET", "/ready").status(), 200);
        let nonce = plane.tell("upstream", HERE, &[upstream.port]);
        proxy.wait_for_log("serving");
        assert_eq!(proxy.connect().get("/").text(), "a");
        let answer = plane.answer(&nonce);
        assert!(answer.error.is_none() && answer.version == "v1", "{answer:?}");
        proxy.end();
    }

    fn endpoints_change_and_go_on_connections_that_stay(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started(io, &a);
        // Some on each worker.
        let mut clients: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/").text(), "a"));
        for (ports, status, text) in [
            (&[b.port][..], 200, "b"),
            (&[], 503, "no healthy upstream"),
            (&[a.port], 200, "a"),
        ] {
            let nonce = plane.tell("upstream", HERE, ports);
            clients.iter_mut().for_each(|client| answers(client, status, text));
            assert!(plane.answer(&nonce).error.is_none());
        }
        assert_eq!(proxy.stat("cluster.upstream.update_success"), 4);
        assert_eq!(proxy.stat("cluster.upstream.membership_total"), 1);
        proxy.end();
    }

    fn no_request_is_lost_while_endpoints_change(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started(io, &a);
        let done = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..3)
            .map(|_| {
                let (mut client, done) = (proxy.connect(), Arc::clone(&done));
                std::thread::spawn(move || {
                    let mut seen = String::new();
                    while !done.load(Ordering::Relaxed) {
                        let response = client.get("/");
                        assert_eq!(response.status(), 200);
                        seen.push_str(&response.text());
                    }
                    seen
                })
            })
            .collect();
        for turn in 0..100 {
            plane.tell("upstream", HERE, &[if turn % 2 == 0 { b.port } else { a.port }]);
        }
        assert!(plane.answer("n101").error.is_none());
        done.store(true, Ordering::Relaxed);
        for client in clients {
            let seen = client.join().unwrap();
            assert!(seen.starts_with('a') && seen.chars().all(|name| "ab".contains(name)), "{seen}");
        }
        assert_eq!(proxy.stat("cluster.upstream.update_success"), 101);
        proxy.end();
    }

    fn endpoints_that_cannot_be_used_are_refused_by_name_and_the_old_ones_stay(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started(io, &a);
        let mut client = proxy.connect();
        let refused = plane.answer(&plane.tell("upstream", "nowhere.test", &[1]));
        let reason = refused.error.unwrap().message;
        assert!(reason.starts_with("upstream: endpoints[0].lb_endpoints[0].endpoint.address"), "{reason}");
        assert_eq!(refused.version, "v1");
        assert_eq!(client.get("/").text(), "a");
        assert_eq!(proxy.stat("cluster.upstream.update_rejected"), 1);
        let nonce = plane.tell("upstream", HERE, &[b.port]);
        answers(&mut client, 200, "b");
        assert!(plane.answer(&nonce).error.is_none());
        proxy.end();
    }

    fn without_its_control_plane_it_serves_on_and_finds_it_again(io) {
        let (a, b) = (named("a"), named("b"));
        let (mut plane, proxy) = started(io, &a);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").text(), "a");
        assert_eq!(proxy.stat("control_plane.connected_state"), 1);
        plane.kill();
        proxy.wait_for_stat("control_plane.connected_state", 0);
        for _ in 0..20 {
            assert_eq!(client.get("/").text(), "a");
        }
        assert_eq!(proxy.connect().get("/").text(), "a");
        plane.restart();
        plane.wait_for("the version that is there", |asked| asked.version == "v1" && asked.nonce.is_empty());
        plane.tell("upstream", HERE, &[b.port]);
        answers(&mut client, 200, "b");
        proxy.end();
    }
}
