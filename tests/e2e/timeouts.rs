//! Every limit in time: who is silent for too long is told so and let go.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::harness::{
    Client, Config, Http2Client, Io, Proxy, Random, Upstream, ok, on_each_backend, set_receive_buffer, until,
};
use crate::tcp::taking_little;

const HALF_POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf";
/// More than the systems on the way and a pipe take of a response, and less than may wait for a client.
const LATE: usize = 700 * 1024;

/// An upstream that reads and says nothing.
fn silent() -> Upstream {
    Upstream::start(|peer| {
        peer.sees_end();
    })
}

/// Has asked for something that it does not take yet, on a route that gives the endpoint half a second.
fn late_client(io: Io, port: u16) -> (Proxy, Client) {
    let routes = "{match: {prefix: /}, route: {cluster: upstream, timeout: 0.5s}}";
    let config = Config { routes: Some(routes.to_owned()), ..Config::to(port) };
    let proxy = Proxy::start(io, &taking_little(config, 1 << 20));
    let mut client = proxy.connect();
    set_receive_buffer(client.stream(), 32 * 1024);
    client.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n");
    (proxy, client)
}

/// A port where handshakes do not complete: the kernel's queue of the listener is full. Both must be kept.
#[allow(unsafe_code, reason = "std has no way to set the queue's length")]
fn unanswering() -> (TcpListener, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // SAFETY: listens again on an open socket, with a queue of one.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let first = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener, first)
}

on_each_backend! {
    fn route_timeout_passes_while_the_upstream_is_being_connected_to(io) {
        let (listener, _first) = unanswering();
        let routes = "{match: {prefix: /}, route: {cluster: upstream, timeout: 0.15s}}";
        let port = listener.local_addr().unwrap().port();
        let config = Config { routes: Some(routes.to_owned()), ..Config::to(port) };
        let proxy = Proxy::start(io, &config);
        let response = proxy.connect().get("/");
        assert_eq!((response.status(), response.text().as_str()), (504, "upstream request timeout"));
        proxy.end();
    }

    /// A body that nobody reads yet has arrived all the same: its request waited as long as a connection took.
    fn route_timeout_begins_once_the_request_has_arrived_whole(io) {
        let (listener, _first) = unanswering();
        let routes = "{match: {prefix: /}, route: {cluster: upstream, timeout: 0.15s}}";
        let port = listener.local_addr().unwrap().port();
        let config = Config { routes: Some(routes.to_owned()), ..Config::to(port) };
        let proxy = Proxy::start(io, &config);
        let head = |framing: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
        for (half, rest) in [
            ("Content-Length: 10", "half", "enough"),
            ("Content-Length: 100000", "half", &"x".repeat(99_996)),
            ("Transfer-Encoding: chunked", "4\r\nhalf\r\n1", "\r\nx\r\n0\r\na: b\r\n\r\n"),
        ].map(|(framing, half, rest)| (format!("{}{half}", head(framing)), rest.to_owned())) {
            let mut client = proxy.connect();
            client.send(half);
            proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", 1);
            let complete = Instant::now();
            client.send(rest);
            let response = client.response_to("POST");
            assert_eq!((response.status(), response.text().as_str()), (504, "upstream request timeout"));
            assert!(complete.elapsed() >= Duration::from_millis(145), "{:?}", complete.elapsed());
            drop(client);
            proxy.wait_for_stat("http.test.downstream_cx_active", 0);
        }
        let client = Http2Client::connect(proxy.port);
        // In one frame and in several, and beside so many others that little may wait for the client of each.
        for (streams, bytes) in [(1, 4), (1, 10_000), (1, 60_000), (70, 1000)] {
            let post = |_| (http::Request::post("http://a/"), vec![b'x'; bytes], None);
            for answer in client.all((0..streams).map(post).collect()) {
                let text = String::from_utf8_lossy(&answer.body);
                assert_eq!((answer.status, &*text), (504, "upstream request timeout"), "{streams} x {bytes}");
            }
        }
        drop(client);
        proxy.end();
    }

    fn client_that_goes_while_the_upstream_is_being_connected_to_is_let_go(io) {
        let (listener, _first) = unanswering();
        let proxy = Proxy::start(io, &Config::to(listener.local_addr().unwrap().port()));
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", 1);
        drop(client);
        proxy.wait_for_stat("cluster.upstream.upstream_rq_pending_active", 0);
        proxy.wait_for_stat("http.test.downstream_cx_active", 0);
        proxy.end();
    }

    fn routes_own_stream_duration_ends_the_stream(io) {
        let upstream = silent();
        let routes = "{match: {prefix: /}, route: {cluster: upstream, max_stream_duration: {max_stream_duration: 0.15s}}}";
        let config = Config { routes: Some(routes.to_owned()), ..Config::to(upstream.port) };
        let proxy = Proxy::start(io, &config);
        assert_eq!(proxy.connect().get("/").text(), "downstream duration timeout");
        proxy.end();
    }

    fn clusters_stream_duration_ends_the_upstream_request(io) {
        let upstream = silent();
        let cluster = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
            {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
            common_http_protocol_options: {max_stream_duration: 0.15s}, explicit_http_config: {http_protocol_options: {}}}}";
        let proxy = Proxy::start(io, &Config::to(upstream.port).cluster(cluster));
        let response = proxy.connect().get("/");
        assert_eq!((response.status(), response.text().as_str()), (504, "upstream max stream duration reached"));
        proxy.wait_for_stat("cluster.upstream.upstream_rq_max_duration_reached", 1);
        assert!(!proxy.admin("GET", "/stats").text().contains("cluster.upstream.upstream_rq_504"));
        proxy.end();
    }

    fn upstream_slower_than_the_routes_timeout_is_answered_504(io) {
        let upstream = silent();
        let routes = "{match: {prefix: /}, route: {cluster: upstream, timeout: 0.15s}}";
        let config = Config { routes: Some(routes.to_owned()), ..Config::to(upstream.port) };
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        for _ in 0..2 {
            let begun = Instant::now();
            let response = client.get("/");
            assert_eq!((response.status(), response.text().as_str()), (504, "upstream request timeout"));
            // The proxy's clock goes by turns: to it the request may have come before.
            assert!(begun.elapsed() >= Duration::from_millis(100));
        }
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_timeout"), 2);
        proxy.end();
    }

    fn route_timeout_after_the_head_breaks_the_response_off(io) {
        let upstream = Upstream::start(|peer| {
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            peer.sees_end();
        });
        // Time enough for the head to come.
        let routes = "{match: {prefix: /}, route: {cluster: upstream, timeout: 0.5s}}";
        let config = Config { routes: Some(routes.to_owned()), ..Config::to(upstream.port) };
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        if let Ok(Some(response)) = client.any_response_to("GET") {
            assert!(!response.complete, "{response:?}");
        }
        proxy.wait_until_idle();
        proxy.end();
    }

    /// What waits for it in a pipe and with the system is taken in when its time is over, and was said in time.
    fn route_timeout_is_the_endpoints_and_not_the_clients(io) {
        let body = Arc::new(Random::new(1).bytes(LATE));
        let sent = Arc::clone(&body);
        let upstream = Upstream::answering(move |request| match request.path() {
            "/late" => ok(&sent),
            _ => ok(b"next"),
        });
        let (proxy, mut client) = late_client(io, upstream.port);
        // Before its client has read any of it.
        proxy.wait_for_stat("http.test.downstream_rq_completed", 1);
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_timeout"), 0);
        assert!(client.response().body == *body, "the response's body changed on its way");
        assert_eq!(client.get("/next").text(), "next");
        assert_eq!(upstream.connections(), 1);
        proxy.end();
    }

    fn route_timeout_passes_for_an_endpoint_that_stops_midway_however_late_its_client(io) {
        let body = Arc::new(Random::new(2).bytes(LATE));
        let sent = Arc::clone(&body);
        let upstream = Upstream::start(move |peer| {
            peer.request();
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", sent.len() + 1));
            let _ = peer.try_send(&*sent);
            peer.sees_end();
        });
        let (proxy, mut client) = late_client(io, upstream.port);
        proxy.wait_for_stat("cluster.upstream.upstream_rq_timeout", 1);
        if let Ok(Some(response)) = client.any_response_to("GET") {
            assert!(!response.complete && body.starts_with(&response.body), "{} bytes", response.body.len());
        }
        proxy.wait_until_idle();
        proxy.end();
    }

    fn time_of_the_endpoint_is_told_without_that_of_the_client(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        let begun = Instant::now();
        client.send(HALF_POST);
        upstream.wait_for_requests(1);
        until("the client has taken its time", || begun.elapsed() >= Duration::from_millis(500));
        let complete = Instant::now();
        client.send("enough");
        let response = client.response_to("POST");
        let took = complete.elapsed();
        let told = response.header("x-envoy-upstream-service-time").unwrap().parse().unwrap();
        // The proxy's clock goes by turns.
        assert!(Duration::from_millis(told) <= took + Duration::from_millis(250), "{told} ms of {took:?}");
        proxy.end();
    }

    fn silence_of_the_client_within_a_request_is_answered_408(io) {
        let upstream = silent();
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("stream_idle_timeout: 0.15s"));
        let mut client = proxy.connect();
        client.send(HALF_POST);
        assert_eq!(client.response_to("POST").status(), 408);
        client.expect_closed();
        proxy.end();
    }

    fn silence_of_the_upstream_is_answered_504_by_stream_idle_timeout(io) {
        let upstream = silent();
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("stream_idle_timeout: 0.15s"));
        let response = proxy.connect().get("/");
        assert_eq!((response.status(), response.text().as_str()), (504, "stream timeout"));
        proxy.end();
    }

    fn request_that_takes_too_long_is_answered_408(io) {
        let upstream = silent();
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("request_timeout: 0.2s"));
        let mut client = proxy.connect();
        // Never silent, yet never done.
        client.stream().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        let deadline = Instant::now() + crate::harness::PATIENCE;
        let response = loop {
            assert!(Instant::now() < deadline, "no answer");
            let _ = client.try_send("x");
            if let Ok(response) = client.any_response_to("POST") {
                break response.expect("an answer before the end");
            }
        };
        assert_eq!((response.status(), response.text().as_str()), (408, "request timeout"));
        proxy.end();
    }

    fn request_that_is_answered_already_may_take_longer(io) {
        let upstream = Upstream::start(|peer| {
            let Some(mut request) = peer.request_head() else { return };
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
            if peer.body(&mut request) {
                peer.send("lf");
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("request_timeout: 1s"));
        let mut client = proxy.connect();
        let begun = Instant::now();
        client.send(HALF_POST);
        assert_eq!(client.head().status(), 200);
        until("its time is over", || begun.elapsed() > Duration::from_millis(1300));
        client.send("enough");
        assert_eq!(client.read(4), b"half");
        drop(client);
        proxy.wait_until_idle();
        assert_eq!(proxy.stat("http.test.downstream_rq_timeout"), 0);
        // It ended in time after all.
        assert_eq!(proxy.stat("http.test.downstream_rq_response_before_rq_complete"), 1);
        proxy.end();
    }

    fn head_a_byte_at_a_time_is_answered_408_and_let_go(io) {
        let upstream = silent();
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("request_headers_timeout: 0.2s"));
        let mut client = proxy.connect();
        client.stream().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".iter().copied().chain(std::iter::repeat(b'y'));
        let begun = Instant::now();
        let response = loop {
            assert!(begun.elapsed() < crate::harness::PATIENCE, "no answer");
            let _ = client.try_send([bytes.next().unwrap()]);
            if let Ok(response) = client.any_response_to("GET") {
                break response.expect("an answer before the end");
            }
        };
        assert_eq!((response.status(), response.text().as_str()), (408, "request header timeout"));
        assert_eq!(proxy.stat("http.test.downstream_rq_header_timeout"), 1);
        drop(client);
        proxy.wait_until_idle();
        proxy.end();
    }

    fn idle_connection_is_closed_after_idle_timeout(io) {
        let upstream = Upstream::echo();
        let options = "common_http_protocol_options: {idle_timeout: 0.5s}";
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager(options));
        // Both one that never asked and one that did.
        let (mut fresh, mut used) = (proxy.connect(), proxy.connect());
        assert_eq!(used.get("/").status(), 200);
        fresh.expect_closed();
        used.expect_closed();
        assert_eq!(proxy.stat("http.test.downstream_cx_idle_timeout"), 2);
        proxy.end();
    }

    fn idle_upstream_connection_is_closed_after_idle_timeout(io) {
        let (ended, has_ended) = std::sync::mpsc::channel();
        let upstream = Upstream::start(move |peer| {
            peer.request();
            peer.send(ok(b""));
            let _ = ended.send(peer.sees_end());
        });
        let cluster = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
            {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
            common_http_protocol_options: {idle_timeout: 0.15s}, explicit_http_config: {http_protocol_options: {}}}}";
        let proxy = Proxy::start(io, &Config::to(upstream.port).cluster(cluster));
        assert_eq!(proxy.connect().get("/").status(), 200);
        assert_eq!(has_ended.recv_timeout(crate::harness::PATIENCE), Ok(true));
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_idle_timeout"), 1);
        proxy.end();
    }

    fn stream_that_lasts_too_long_is_ended(io) {
        let upstream = silent();
        let options = "common_http_protocol_options: {max_stream_duration: 0.15s}";
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager(options));
        assert_eq!(proxy.connect().get("/").status(), 504);
        assert_eq!(proxy.stat("http.test.downstream_rq_max_duration_reached"), 1);
        proxy.end();
    }
}
