//! TLS towards endpoints by what a request says and an endpoint chooses: server names, names that certificates must have,
//! and the protocol above.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use crate::harness::{
    Authority, Config, Http2Client, Io, Proxy, TLS_INSPECTOR, Upstream, downstream_tls, ok, on_each_backend,
    until, upstream_tls,
};

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const HTTP1: &str = "explicit_http_config: {http_protocol_options: {}}";
const HTTP2: &str = "explicit_http_config: {http2_protocol_options: {}}";
const AUTO: &str = "auto_config: {http2_protocol_options: {max_concurrent_streams: 100}}";

/// Serves under TLS with a certificate of the first name, and tells which name was asked for.
fn inner(io: Io, upstream: &Upstream, authority: &Authority, name: &str, alpn: &str) -> Proxy {
    let common = format!("alpn_protocols: [{alpn}], {}", authority.shown(name));
    let log = "access_log: [{name: log, typed_config: {\"@type\": \
               type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog, log_format: \
               {text_format_source: {inline_string: \"%PATH% asked=<%REQUESTED_SERVER_NAME%> %PROTOCOL%\\n\"}}}}]";
    let config =
        Config::to(upstream.port).chain(&downstream_tls("", &common)).manager(log).listener(TLS_INSPECTOR);
    Proxy::start(io, &config.arguments(&["--file-flush-interval-msec", "10"]))
}

/// Forwards to it; `names`: fields of `upstream_http_protocol_options`.
fn outer(io: Io, port: u16, protocol: &str, names: &str, trusted: &str) -> Config {
    let _ = io;
    Config::to(port).cluster(&upstream_tls("sni: fallback.example,", trusted)).cluster(&format!(
        "typed_extension_protocol_options: {{{OPTIONS}: {{\"@type\": type.googleapis.com/{OPTIONS}, {protocol}, \
         upstream_http_protocol_options: {{{names}}}}}}}"
    ))
}

/// A port that leads to the first of two, and from its second connection on to the second; how many it has had.
fn first_to(first: u16, then: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, connections) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&connections);
    std::thread::spawn(move || {
        for from in listener.incoming().map_while(Result::ok) {
            let port = if count.fetch_add(1, SeqCst) == 0 { first } else { then };
            let to = TcpStream::connect(("127.0.0.1", port)).unwrap();
            for (mut from, mut to) in [(from.try_clone().unwrap(), to.try_clone().unwrap()), (to, from)] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    (port, connections)
}

fn get(path: &str, host: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")
}

on_each_backend! {
    fn server_name_is_that_of_the_request_and_connections_of_names_are_apart(io) {
        let (upstream, authority) = (Upstream::echo(), Authority::of(&["a.example"]));
        let inner = inner(io, &upstream, &authority, "a.example", "h2, http/1.1");
        for (round, protocol) in [HTTP1, HTTP2].into_iter().enumerate() {
            let config = outer(io, inner.port, protocol, "auto_sni: true, override_auto_sni_header: x-name", &authority.trusted());
            let outer = Proxy::start(io, &config);
            let mut client = outer.connect();
            for (number, (host, more, expected)) in [
                ("a.example", "", "a.example"),
                ("b.example:443", "", "b.example"),
                ("A.example", "", "a.example"),
                ("127.0.0.1", "", "fallback.example"),
                ("[::1]:8443", "", "fallback.example"),
                ("c.example", "x-name: d.example\r\n", "d.example"),
                ("a.example", "x-name:\r\n", "a.example"),
            ].into_iter().enumerate() {
                let path = format!("/{round}{number}");
                client.send(get(&path, host, more));
                assert_eq!(client.response_to("GET").status(), 200, "{host}");
                inner.wait_for_log(&format!("{path} asked=<{expected}>"));
            }
            for (host, more) in [("a.example", ""), ("b.example", ""), ("x", "x-name: d.example\r\n")] {
                client.send(get("/again", host, more));
                assert_eq!(client.response_to("GET").status(), 200);
            }
            // Of a, b, A (its own text), the two addresses, and d.
            assert_eq!(outer.stat("cluster.upstream.ssl.handshake"), 6);
            assert_eq!(outer.stat("cluster.upstream.upstream_cx_total"), 6);
            assert_eq!(outer.stat("cluster.upstream.upstream_cx_active"), 6);
            drop(client);
            outer.end();
        }
        inner.end();
    }

    fn server_name_is_that_of_the_host_that_the_route_writes(io) {
        let (upstream, authority) = (Upstream::echo(), Authority::of(&["a.example"]));
        let inner = inner(io, &upstream, &authority, "a.example", "http/1.1");
        let mut config = outer(io, inner.port, HTTP1, "auto_sni: true", &authority.trusted());
        config.routes = Some("{match: {prefix: /}, route: {cluster: upstream, host_rewrite_literal: rewritten.example}}".into());
        let outer = Proxy::start(io, &config);
        let mut client = outer.connect();
        client.send(get("/", "a.example", ""));
        assert_eq!(client.response_to("GET").status(), 200);
        inner.wait_for_log("asked=<rewritten.example>");
        drop(client);
        outer.end();
        inner.end();
    }

    fn certificate_must_have_the_name_of_each_request(io) {
        let (upstream, authority) = (Upstream::echo(), Authority::of(&["a.example"]));
        let inner = inner(io, &upstream, &authority, "a.example", "h2, http/1.1");
        for (names, protocol) in [
            ("auto_sni: true, auto_san_validation: true", HTTP1),
            ("auto_sni: true, auto_san_validation: true", AUTO),
            ("auto_san_validation: true", HTTP2),
        ] {
            let outer = Proxy::start(io, &outer(io, inner.port, protocol, names, &authority.trusted()));
            let mut client = outer.connect();
            for _ in 0..2 {
                for (host, status) in [("a.example:1", 200), ("b.example", 503), ("127.0.0.1", 503), ("a.example", 200)] {
                    client.send(get("/", host, ""));
                    assert_eq!(client.response_to("GET").status(), status, "{host}, {names}");
                }
            }
            assert_eq!(outer.stat("cluster.upstream.ssl.fail_verify_san"), 4);
            assert_eq!(outer.stat("cluster.upstream.ssl.handshake"), 1);
            drop(client);
            outer.end();
        }
        inner.end();
    }

    fn names_beyond_the_limit_push_out_the_oldest(io) {
        let (upstream, authority) = (Upstream::echo(), Authority::of(&["a.example"]));
        let inner = inner(io, &upstream, &authority, "a.example", "http/1.1");
        let config = outer(io, inner.port, HTTP1, "auto_sni: true", &authority.trusted());
        let outer = Proxy::start(io, &config.arguments(&["--concurrency", "1"]));
        let mut client = outer.connect();
        for number in 0..270 {
            client.send(get("/", &format!("{number}.example"), ""));
            assert_eq!(client.response_to("GET").status(), 200);
        }
        assert_eq!(outer.stat("cluster.upstream.upstream_cx_pool_overflow"), 14);
        assert_eq!(outer.stat("cluster.upstream.upstream_cx_active"), 256);
        drop(client);
        outer.end();
        inner.end();
    }

    fn name_that_needs_a_pool_too_many_takes_the_place_of_one_that_nobody_uses(io) {
        let (upstream, authority) = (Upstream::echo(), Authority::of(&["a.example"]));
        let inner = inner(io, &upstream, &authority, "a.example", "h2, http/1.1");
        let breakers = "circuit_breakers: {thresholds: [{max_connection_pools: 1}]}";
        for protocol in [HTTP1, HTTP2] {
            let config = outer(io, inner.port, protocol, "auto_sni: true", &authority.trusted()).cluster(breakers);
            let outer = Proxy::start(io, &config.arguments(&["--concurrency", "1"]));
            let mut client = outer.connect();
            for (made, host) in ["a.example", "b.example", "b.example", "a.example"].into_iter().enumerate() {
                client.send(get("/", host, ""));
                assert_eq!(client.response_to("GET").status(), 200, "{host}");
                assert_eq!(outer.stat("cluster.upstream.upstream_cx_total"), [1, 2, 2, 3][made]);
            }
            outer.wait_for_stat("cluster.upstream.upstream_cx_active", 1);
            assert_eq!(outer.stat("cluster.upstream.upstream_cx_pool_overflow"), 0);
            drop(client);
            outer.end();
        }
        inner.end();
    }

    fn protocol_is_the_one_that_the_endpoint_chooses(io) {
        let (upstream, authority) = (Upstream::echo(), Authority::of(&["a.example"]));
        for (alpn, protocol, http1, http2) in
            [("h2, http/1.1", "HTTP/2", 0, 1), ("http/1.1", "HTTP/1.1", 1, 0)]
        {
            let inner = inner(io, &upstream, &authority, "a.example", alpn);
            let outer = Proxy::start(io, &outer(io, inner.port, AUTO, "", &authority.trusted()));
            let mut client = outer.connect();
            for number in 0..3 {
                client.send(get(&format!("/{number}"), "a.example", ""));
                assert_eq!(client.response_to("GET").status(), 200);
                inner.wait_for_log(&format!("/{number} asked=<fallback.example> {protocol}"));
            }
            assert_eq!(outer.stat("cluster.upstream.upstream_cx_http1_total"), http1);
            assert_eq!(outer.stat("cluster.upstream.upstream_cx_http2_total"), http2);
            drop(client);
            // Many at once, before anybody knows what it is.
            let client = Http2Client::connect(outer.port);
            let requests = (0..40).map(|n| (http::Request::get(format!("http://a/{n}")), Vec::new(), None));
            assert!(client.all(requests.collect()).iter().all(|answer| answer.status == 200));
            drop(client);
            until("over", || outer.stat("cluster.upstream.upstream_rq_active") == 0);
            assert_eq!(outer.stat("cluster.upstream.upstream_cx_connect_fail"), 0);
            outer.end();
            inner.end();
        }
    }

    fn many_at_once_wait_for_what_the_endpoint_chooses(io) {
        let (upstream, authority) = (Upstream::echo(), Authority::of(&["a.example"]));
        for alpn in ["h2, http/1.1", "http/1.1"] {
            let inner = inner(io, &upstream, &authority, "a.example", alpn);
            let outer = Proxy::start(io, &outer(io, inner.port, AUTO, "auto_sni: true", &authority.trusted()));
            let client = Http2Client::connect(outer.port);
            for _ in 0..2 {
                let requests = (0..60).map(|n| (http::Request::get(format!("http://a/{n}")), Vec::new(), None));
                for (number, answer) in client.all(requests.collect()).iter().enumerate() {
                    assert_eq!((answer.status, answer.body.as_slice()), (200, format!("GET /{number}\n").as_bytes()));
                }
            }
            if alpn.starts_with("h2") {
                assert_eq!(outer.stat("cluster.upstream.upstream_cx_total"), 1, "one for all");
            }
            drop(client);
            outer.end();
            inner.end();
        }
    }

    /// A connection that was made for one of those that wait, and became everybody's, did not count for a moment, in which the next
    /// had another made; who came behind waited for ever.
    fn endpoint_that_comes_to_speak_http2_gets_no_connection_too_many(io) {
        let (release, may_answer) = channel::<()>();
        let may_answer = Mutex::new(may_answer);
        let upstream = Upstream::start(move |peer| {
            while peer.request().is_some() && may_answer.lock().unwrap().recv().is_ok() {
                peer.send(ok(b"x"));
            }
        });
        let authority = Authority::of(&["a.example"]);
        let once = "common_http_protocol_options: {max_requests_per_connection: 1}";
        let [old, new] = [("http/1.1", once), ("h2", "")].map(|(alpn, manager)| {
            let common = format!("alpn_protocols: [{alpn}], {}", authority.shown("a.example"));
            let config = Config::to(upstream.port).chain(&downstream_tls("", &common));
            Proxy::start(io, &if manager.is_empty() { config } else { config.manager(manager) })
        });
        let (port, connections) = first_to(old.port, new.port);
        let breakers = "circuit_breakers: {per_host_thresholds: [{max_connections: 1}]}";
        let config = outer(io, port, AUTO, "", &authority.trusted()).cluster(breakers);
        let outer = Proxy::start(io, &config.arguments(&["--concurrency", "1"]));
        let mut clients: Vec<_> = (0..4).map(|_| outer.connect()).collect();
        for (waiting, client) in clients.iter_mut().enumerate() {
            client.send(get("/", "a.example", ""));
            upstream.wait_for_requests(1);
            outer.wait_for_stat("cluster.upstream.upstream_rq_pending_active", waiting as u64);
        }
        clients.iter().for_each(|_| release.send(()).unwrap());
        clients.iter_mut().for_each(|client| assert_eq!(client.response().status(), 200));
        assert_eq!(connections.load(SeqCst), 2, "one of each protocol");
        assert_eq!(outer.stat("cluster.upstream.upstream_cx_http2_total"), 1);
        drop(clients);
        outer.end();
        old.end();
        new.end();
    }
}
