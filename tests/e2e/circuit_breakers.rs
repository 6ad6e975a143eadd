//! Circuit breakers: who is refused, who waits for a connection, and what is counted. Beside Envoy, case by case:
//! `tests/peers/breakers.py`.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use crate::harness::ToldCluster::At;
use crate::harness::{
    Client, Config, ControlPlane, Http2Upstream, Proxy, Random, TO_HTTP2, Upstream, chunked, ok,
    on_each_backend, until,
};
use crate::xds::{answers, named};
use crate::xds_clusters;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Routes: what begins with `/high` has high priority.
const BY_PRIORITY: &str = "{match: {prefix: /high}, route: {cluster: upstream, priority: HIGH}}, \
                           {match: {prefix: /}, route: {cluster: upstream}}";

fn limits(thresholds: &str) -> String {
    format!("circuit_breakers: {{thresholds: [{{{thresholds}}}]}}")
}

/// A listener that relays, with these limits.
fn relaying(port: u16, breakers: &str, fields: &str) -> Config {
    let proxy = format!(
        "{{name: tcp, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
         stat_prefix: relay, cluster: upstream{fields}}}}}"
    );
    let log = "access_log: {name: stderr, typed_config: {\"@type\": \
               type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog, log_format: \
               {text_format_source: {inline_string: \"ended <%RESPONSE_FLAGS%>\\n\"}}}}";
    Config::to(port).cluster(breakers).listener(log).chains(&[format!("{{filters: [{proxy}]}}")])
}

/// An endpoint that answers each request when it is told to.
fn holding() -> (Upstream, Sender<()>) {
    let (sender, receiver): (Sender<()>, Receiver<()>) = channel();
    let release = Arc::new(Mutex::new(receiver));
    let upstream = Upstream::start(move |peer| {
        while peer.request().is_some() {
            if release.lock().unwrap().recv().is_err() {
                return;
            }
            peer.send(ok(peer.connection.to_string().as_bytes()));
        }
    });
    (upstream, sender)
}

fn counter(proxy: &Proxy, name: &str) -> u64 {
    proxy.stat(&format!("cluster.upstream.{name}"))
}

/// Sets the limit of requests that runtime has for a cluster; an empty one takes it away.
fn set_max_requests(proxy: &Proxy, cluster: &str, value: &str) {
    let path = format!("/runtime_modify?circuit_breakers.{cluster}.default.max_requests={value}");
    assert_eq!(proxy.admin("POST", &path).text(), "OK\n");
}

fn relayed(proxy: &Proxy) -> Client {
    let mut client = proxy.connect();
    client.send("x");
    assert_eq!(client.read(1), b"x");
    client
}

on_each_backend! {
    fn relayed_connection_beyond_the_limit_is_closed_whoever_has_the_others(io) {
        let upstream = Upstream::echo_bytes();
        let breakers = limits("max_connections: 3, track_remaining: true");
        let config = relaying(upstream.port, &breakers, "").arguments(&["--concurrency", "2"]);
        let proxy = Proxy::start(io, &config);
        proxy.wait_for_stat("cluster.upstream.circuit_breakers.default.remaining_cx", 3);
        let mut open: Vec<_> = (0..3).map(|_| relayed(&proxy)).collect();
        assert_eq!(counter(&proxy, "circuit_breakers.default.cx_open"), 1);
        assert_eq!(counter(&proxy, "circuit_breakers.default.remaining_cx"), 0);
        for beyond in 1..=3 {
            assert_eq!(proxy.connect().read_to_end(), b"");
            assert_eq!(counter(&proxy, "upstream_cx_overflow"), beyond);
        }
        proxy.wait_for_log("ended <UO>");
        assert_eq!(upstream.connections(), 3);
        open.pop();
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 2);
        assert_eq!(counter(&proxy, "circuit_breakers.default.cx_open"), 0);
        open.push(relayed(&proxy));
        drop(open);
        proxy.wait_for_stat("cluster.upstream.circuit_breakers.default.remaining_cx", 3);
        proxy.end();
    }

    fn relayed_connection_that_may_not_wait_fails_without_a_connection(io) {
        let upstream = Upstream::echo_bytes();
        let fields = ", max_connect_attempts: 2";
        let proxy = Proxy::start(io, &relaying(upstream.port, &limits("max_pending_requests: 0"), fields));
        assert_eq!(proxy.connect().read_to_end(), b"");
        assert_eq!(counter(&proxy, "upstream_rq_pending_overflow"), 2, "one for each attempt");
        assert_eq!(counter(&proxy, "upstream_cx_connect_attempts_exceeded"), 1);
        assert_eq!(counter(&proxy, "upstream_cx_total"), 0);
        proxy.wait_for_log("ended <URX>");
        proxy.end();
    }

    fn relayed_connections_of_a_host_wait_for_its_limit(io) {
        let upstream = Upstream::echo_bytes();
        let breakers = "circuit_breakers: {per_host_thresholds: [{max_connections: 1}]}";
        let config = relaying(upstream.port, breakers, "");
        let proxy = Proxy::start(io, &config);
        let first = relayed(&proxy);
        let mut second = proxy.connect();
        second.send("y");
        proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", 1);
        assert_eq!(upstream.connections(), 1);
        // Who breaks off while it waits is gone at once.
        let third = proxy.connect();
        proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", 2);
        third.reset_on_close();
        drop(third);
        proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", 1);
        drop(first);
        assert_eq!(second.read(1), b"y");
        assert_eq!(counter(&proxy, "upstream_cx_overflow"), 2);
        proxy.end();
    }

    fn requests_wait_in_turn_for_the_one_connection_there_may_be(io) {
        let (upstream, release) = holding();
        let config = Config::to(upstream.port).cluster(&limits("max_connections: 1, max_pending_requests: 2"));
        let proxy = Proxy::start(io, &config);
        let mut clients: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
        for (waiting, client) in clients.iter_mut().enumerate() {
            client.send(GET);
            upstream.wait_for_requests(1);
            proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", waiting as u64);
        }
        assert_eq!(counter(&proxy, "circuit_breakers.default.rq_pending_open"), 1);
        let refused = proxy.connect().get("/");
        assert_eq!((refused.status(), refused.header("x-envoy-overloaded")), (503, Some("true")));
        assert_eq!(
            refused.text(),
            "upstream connect error or disconnect/reset before headers. reset reason: overflow"
        );
        assert_eq!(counter(&proxy, "upstream_rq_pending_overflow"), 1);
        for client in &mut clients {
            release.send(()).unwrap();
            assert_eq!(client.response().text(), "0", "all on one connection");
        }
        // Both that came, and the last once more as the other had its turn.
        assert_eq!((upstream.connections(), counter(&proxy, "upstream_cx_overflow")), (1, 3));
        proxy.end();
    }

    /// The next in line has the connection before anything else happens: what its endpoint says beyond a response answers nobody.
    fn bytes_behind_a_large_response_are_not_for_the_next_in_line(io) {
        const BYTES: usize = 1 << 20;
        let (release, may_answer) = channel::<()>();
        let may_answer = Mutex::new(may_answer);
        let upstream = Upstream::start(move |peer| {
            if peer.request().is_none() {
                return;
            }
            if peer.connection > 0 {
                return peer.send(ok(b"its own"));
            }
            let _ = may_answer.lock().unwrap().recv();
            peer.send([ok(&Random::new(9).bytes(BYTES)), ok(b"beyond")].concat());
            peer.sees_end();
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port).cluster(&limits("max_connections: 1")));
        let mut clients = [proxy.connect(), proxy.connect()];
        for (waiting, client) in clients.iter_mut().enumerate() {
            client.send(GET);
            upstream.wait_for_requests(1);
            proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", waiting as u64);
        }
        release.send(()).unwrap();
        let [first, second] = &mut clients;
        assert_eq!(first.response().body.len(), BYTES);
        assert_eq!(second.response().text(), "its own");
        assert_eq!(counter(&proxy, "upstream_cx_protocol_error"), 1);
        proxy.end();
    }

    /// The next in line would wait for ever if nobody told it.
    fn request_given_up_while_it_waits_and_a_connection_that_ends_let_the_next_one_go_on(io) {
        let (go, may_go) = channel::<()>();
        let may_go = Mutex::new(may_go);
        let upstream = Upstream::start(move |peer| {
            if peer.request().is_some() && may_go.lock().unwrap().recv().is_ok() {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx");
            }
        });
        let config = Config::to(upstream.port).cluster(&limits("max_connections: 1"));
        let proxy = Proxy::start(io, &config);
        let mut clients: Vec<_> = (0..3).map(|_| proxy.connect()).collect();
        for (waiting, client) in clients.iter_mut().enumerate() {
            client.send(GET);
            upstream.wait_for_requests(1);
            proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", waiting as u64);
        }
        drop(clients.remove(1));
        proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", 1);
        for client in &mut clients {
            go.send(()).unwrap();
            assert_eq!(client.response().text(), "x");
        }
        assert_eq!(upstream.connections(), 2);
        proxy.end();
    }

    fn every_host_gets_a_first_connection(io) {
        let (first, release_first) = holding();
        let (second, release_second) = holding();
        let endpoints = [first.port, second.port].map(|port| {
            format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}")
        });
        let mut config = Config::to(first.port);
        config.clusters = Some(format!(
            "{{name: upstream, {}, load_assignment: {{cluster_name: upstream, \
             endpoints: [{{lb_endpoints: [{}]}}]}}}}",
            limits("max_connections: 1"),
            endpoints.join(", ")
        ));
        let proxy = Proxy::start(io, &config);
        let mut clients = [proxy.connect(), proxy.connect()];
        clients.iter_mut().for_each(|client| client.send(GET));
        first.wait_for_requests(1);
        second.wait_for_requests(1);
        assert_eq!((counter(&proxy, "upstream_cx_active"), counter(&proxy, "upstream_cx_overflow")), (2, 1));
        release_first.send(()).unwrap();
        release_second.send(()).unwrap();
        clients.iter_mut().for_each(|client| assert_eq!(client.response().status(), 200));
        proxy.end();
    }

    fn request_that_needs_a_pool_too_many_finds_no_host(io) {
        let (first, release_first) = holding();
        let (second, release_second) = holding();
        let endpoints = [first.port, second.port].map(|port| {
            format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}")
        });
        let mut config = Config::to(first.port);
        config.clusters = Some(format!(
            "{{name: upstream, {}, load_assignment: {{cluster_name: upstream, \
             endpoints: [{{lb_endpoints: [{}]}}]}}}}",
            limits("max_connection_pools: 1, track_remaining: true"),
            endpoints.join(", ")
        ));
        let proxy = Proxy::start(io, &config.arguments(&["--concurrency", "1"]));
        proxy.wait_for_stat("cluster.upstream.circuit_breakers.default.remaining_cx_pools", 1);
        let mut client = proxy.connect();
        client.send(GET);
        proxy.wait_for_stat("cluster.upstream.upstream_rq_active", 1);
        assert_eq!(counter(&proxy, "circuit_breakers.default.cx_pool_open"), 1);
        assert_eq!(counter(&proxy, "circuit_breakers.default.remaining_cx_pools"), 0);
        let refused = proxy.connect().get("/");
        assert_eq!((refused.status(), refused.text().as_str()), (503, "no healthy upstream"));
        assert_eq!(counter(&proxy, "upstream_cx_pool_overflow"), 1);
        release_first.send(()).unwrap();
        release_second.send(()).unwrap();
        assert_eq!(client.response().status(), 200);
        // The next one is the first host's again, and it has a pool.
        release_first.send(()).unwrap();
        release_second.send(()).unwrap();
        assert_eq!(client.get("/").status(), 200);
        assert_eq!((counter(&proxy, "upstream_cx_total"), counter(&proxy, "upstream_cx_pool_overflow")), (1, 1));
        proxy.end();
    }

    fn requests_beyond_their_limit_are_refused_whoever_has_the_others(io) {
        let (upstream, release) = holding();
        let config = Config::to(upstream.port).cluster(&limits("max_requests: 2")).arguments(&["--concurrency", "2"]);
        let proxy = Proxy::start(io, &config);
        let mut clients = [proxy.connect(), proxy.connect()];
        clients.iter_mut().for_each(|client| client.send(GET));
        upstream.wait_for_requests(2);
        assert_eq!(counter(&proxy, "circuit_breakers.default.rq_open"), 1);
        for refused in 1..=3 {
            assert_eq!(proxy.connect().get("/").status(), 503);
            assert_eq!(counter(&proxy, "upstream_rq_active_overflow"), refused);
        }
        assert_eq!((upstream.seen().len(), counter(&proxy, "upstream_rq_pending_overflow")), (2, 0));
        (0..2).for_each(|_| release.send(()).unwrap());
        clients.iter_mut().for_each(|client| assert_eq!(client.response().status(), 200));
        release.send(()).unwrap();
        assert_eq!(proxy.connect().get("/").status(), 200);
        proxy.end();
    }

    fn requests_of_high_priority_have_limits_and_connections_of_their_own(io) {
        let upstream = Upstream::answering(|request| ok(request.path().as_bytes()));
        let mut config = Config::to(upstream.port).cluster(&limits("priority: HIGH, max_requests: 0"));
        config.routes = Some(BY_PRIORITY.to_owned());
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        assert_eq!(client.get("/a").status(), 200);
        assert_eq!(client.get("/high").status(), 503);
        assert_eq!(client.get("/b").status(), 200);
        assert_eq!(counter(&proxy, "upstream_cx_total"), 2, "one of each priority");
        assert_eq!(upstream.seen().len(), 2);
        proxy.end();
    }

    fn stream_waits_for_the_one_connection_there_may_be(io) {
        let upstream = Http2Upstream::start(1);
        let config = Config::to(upstream.port).cluster(TO_HTTP2).cluster(&limits("max_connections: 1"));
        let proxy = Proxy::start(io, &config);
        let mut first = proxy.connect();
        first.send("POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
        until("the first request is there", || upstream.requests() == 1);
        let mut second = proxy.connect();
        second.send(GET);
        proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", 1);
        proxy.wait_for_stat("cluster.upstream.upstream_cx_overflow", 1);
        first.send("x");
        assert_eq!((first.response().text().as_str(), second.response().status()), ("x", 200));
        assert_eq!(upstream.connections(), 1);
        proxy.end();
    }

    /// Who came with the next request of the same client had the stream that became free, as it ran first.
    fn stream_that_becomes_free_is_for_who_waits_not_for_who_comes_next(io) {
        let upstream = Http2Upstream::start(1);
        let config = Config::to(upstream.port).cluster(TO_HTTP2).cluster(&limits("max_connections: 1"));
        let proxy = Proxy::start(io, &config.arguments(&["--concurrency", "1"]));
        let post = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
        let mut first = proxy.connect();
        first.send(post("/first"));
        until("the first request is there", || upstream.requests() == 1);
        let mut second = proxy.connect();
        second.send(GET);
        proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", 1);
        first.send(format!("x{}", post("/third")));
        assert_eq!(first.response().text(), "x");
        assert_eq!(second.response().status(), 200, "it has come before the third");
        until("the third request is there", || upstream.requests() == 3);
        first.send("y");
        assert_eq!(first.response().text(), "y");
        assert_eq!(upstream.connections(), 1);
        proxy.end();
    }

    /// They lie unread, and what is looked at of them is not to be lost.
    fn body_of_a_request_that_waits_is_whole(io) {
        let (release, may_answer) = channel::<()>();
        let may_answer = Mutex::new(may_answer);
        let upstream = Upstream::start(move |peer| {
            while let Some(request) = peer.request() {
                if may_answer.lock().unwrap().recv().is_err() {
                    return;
                }
                peer.send(ok(&request.body));
            }
        });
        let config = Config::to(upstream.port).cluster(&limits("max_connections: 1"));
        let proxy = Proxy::start(io, &config.arguments(&["--concurrency", "1"]));
        let large = Random::new(7).bytes(300_000);
        let head = |framing: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n").into_bytes();
        let plain = [head("Content-Length: 300000"), large.clone()].concat();
        let pieces: Vec<_> = large.chunks(9_000).collect();
        let in_chunks = [head("Transfer-Encoding: chunked"), chunked(&pieces, "")].concat();
        for request in [plain, in_chunks] {
            let mut first = proxy.connect();
            first.send(GET);
            upstream.wait_for_requests(1);
            proxy.wait_for_stat("cluster.upstream.upstream_rq_active", 1);
            let mut second = proxy.connect();
            // And one more behind it.
            second.send([&request[..], GET.as_bytes()].concat());
            proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", 1);
            (0..3).for_each(|_| release.send(()).unwrap());
            assert_eq!(first.response().status(), 200);
            assert!(second.response_to("POST").body == large, "bytes changed on their way");
            assert_eq!(second.response().status(), 200);
            proxy.wait_for_stat("cluster.upstream.upstream_rq_active", 0);
        }
        proxy.end();
    }

    /// Connections of other hosts end without a word to who waits here: who comes next has the first look again.
    fn room_that_another_host_has_left_is_found_when_somebody_comes(io) {
        let upstreams = [Http2Upstream::start(1), Http2Upstream::start(1)];
        let endpoints = [&upstreams[0], &upstreams[1]].map(|upstream| {
            let port = upstream.port;
            format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}")
        });
        let mut config = Config::to(upstreams[0].port);
        config.clusters = Some(format!(
            "{{name: upstream, {}, {}, load_assignment: {{cluster_name: upstream, endpoints: [{{lb_endpoints: [{}]}}]}}}}",
            TO_HTTP2.replace("explicit_", "common_http_protocol_options: {idle_timeout: 0.1s}, explicit_"),
            limits("max_connections: 2"),
            endpoints.join(", ")
        ));
        let proxy = Proxy::start(io, &config.arguments(&["--concurrency", "1"]));
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n";
        // Which host is the first is drawn.
        let mut first = proxy.connect();
        first.send(post);
        until("a request is there", || upstreams.iter().any(|upstream| upstream.requests() == 1));
        let (held, other) = if upstreams[0].requests() == 1 { (0, 1) } else { (1, 0) };
        let mut second = proxy.connect();
        second.send(post);
        until("the other host has one", || upstreams[other].requests() == 1);
        let mut third = proxy.connect();
        third.send(GET);
        proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", 1);
        let mut fourth = proxy.connect();
        fourth.send(GET);
        proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", 2);
        second.send("x");
        assert_eq!((second.response().status(), fourth.response().status()), (200, 200));
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 1);
        let mut fifth = proxy.connect();
        fifth.send(GET);
        assert_eq!((third.response().status(), fifth.response().status()), (200, 200));
        assert_eq!(upstreams[held].connections(), 2);
        first.send("x");
        assert_eq!(first.response().status(), 200);
        proxy.end();
    }

    fn streams_beyond_the_limit_of_requests_are_refused(io) {
        let upstream = Http2Upstream::start(100);
        let config = Config::to(upstream.port).cluster(TO_HTTP2).cluster(&limits("max_requests: 1"));
        let proxy = Proxy::start(io, &config);
        let mut first = proxy.connect();
        first.send("POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
        until("the first request is there", || upstream.requests() == 1);
        assert_eq!(proxy.connect().get("/").status(), 503);
        first.send("x");
        assert_eq!(first.response().text(), "x");
        assert_eq!(proxy.connect().get("/").status(), 200);
        assert_eq!((counter(&proxy, "upstream_rq_active_overflow"), upstream.connections()), (1, 1));
        proxy.end();
    }

    fn limit_of_a_runtime_layer_goes_before_the_configured_one(io) {
        let upstream = Upstream::answering(|request| ok(request.path().as_bytes()));
        let values = "circuit_breakers: {upstream: {default: {max_requests: 0}}, other: {high: {max_requests: 0}}}";
        let layers = format!("{{layered_runtime: {{layers: [{{name: fixed, static_layer: {{{values}}}}}]}}}}");
        let mut config = Config::to(upstream.port).cluster(&limits("max_requests: 7"));
        config.routes = Some(BY_PRIORITY.to_owned());
        let proxy = Proxy::start(io, &config.arguments(&["--config-yaml", &layers]));
        let mut client = proxy.connect();
        assert_eq!(client.get("/high").status(), 200);
        let refused = client.get("/a");
        assert_eq!((refused.status(), refused.header("x-envoy-overloaded")), (503, Some("true")));
        assert_eq!(counter(&proxy, "upstream_rq_active_overflow"), 1);
        let shown = proxy.admin("GET", "/clusters").text();
        assert!(shown.contains("upstream::default_priority::max_requests::0\n"), "{shown}");
        assert!(shown.contains("upstream::high_priority::max_requests::1024\n"), "{shown}");
        proxy.end();
    }

    fn limits_follow_runtime_while_requests_are_in_flight(io) {
        let (upstream, release) = holding();
        let layers = "{layered_runtime: {layers: [{name: admin, admin_layer: {}}]}}";
        let config = Config::to(upstream.port).cluster(&limits("max_requests: 1, track_remaining: true"));
        let proxy = Proxy::start(io, &config.arguments(&["--concurrency", "2", "--config-yaml", layers]));
        let refused = || proxy.connect().get("/").status() == 503;
        let mut clients = [proxy.connect(), proxy.connect()];
        clients[0].send(GET);
        upstream.wait_for_requests(1);
        assert!(refused());
        set_max_requests(&proxy, "upstream", "2");
        assert_eq!(counter(&proxy, "circuit_breakers.default.remaining_rq"), 1);
        clients[1].send(GET);
        upstream.wait_for_requests(2);
        assert!(refused());
        // What is in flight beyond a lower limit stays.
        set_max_requests(&proxy, "upstream", "1");
        assert!(refused());
        assert_eq!(counter(&proxy, "circuit_breakers.default.rq_open"), 1);
        assert_eq!(counter(&proxy, "circuit_breakers.default.remaining_rq"), 0);
        (0..2).for_each(|_| release.send(()).unwrap());
        clients.iter_mut().for_each(|client| assert_eq!(client.response().status(), 200));
        proxy.wait_for_stat("cluster.upstream.upstream_rq_active", 0);
        set_max_requests(&proxy, "upstream", "0");
        assert!(refused());
        set_max_requests(&proxy, "upstream", "");
        release.send(()).unwrap();
        assert_eq!(proxy.connect().get("/").status(), 200);
        assert_eq!(counter(&proxy, "upstream_rq_active_overflow"), 4);
        assert_eq!(upstream.seen().len(), 3);
        proxy.end();
    }

    fn told_cluster_has_the_limit_that_runtime_had_for_it_before(io) {
        let (a, plane) = (named("a"), ControlPlane::start());
        plane.tell_routes(&[("/", "a")]);
        plane.tell_clusters(&[("other", At(&[a.port]))]);
        let mut config = xds_clusters::config(&plane, "15s");
        let layers = "{layered_runtime: {layers: [{name: admin, admin_layer: {}}]}, ";
        config.arguments.iter_mut().for_each(|argument| *argument = argument.replacen('{', layers, 1));
        let proxy = Proxy::start(io, &config);
        set_max_requests(&proxy, "a", "0");
        let mut client = proxy.connect();
        assert_eq!(client.get("/").status(), 503, "there is no such cluster");
        plane.tell_clusters(&[("a", At(&[a.port]))]);
        answers(&mut client, 503, "upstream connect error or disconnect/reset before headers. reset reason: overflow");
        assert!(a.seen().is_empty());
        set_max_requests(&proxy, "a", "");
        answers(&mut client, 200, "a");
        proxy.end();
    }
}
