//! Upstream connections: reused one request at a time, tried again only where that is safe.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use crate::harness::{Config, Proxy, TempFolder, Upstream, ok, on_each_backend, until};
use crate::upstream_failures::log_to;

/// An upstream that answers the first request of every connection and closes it when it sees the second.
fn closes_on_second() -> Upstream {
    Upstream::start(|peer| {
        if peer.request().is_some() {
            peer.send(ok(b"first"));
            // Seen, and not answered: to the proxy the connection dies while it is reused.
            peer.request();
        }
    })
}

on_each_backend! {
    fn reused_connection_that_dies_is_retried_once_for_get(io) {
        let upstream = closes_on_second();
        let folder = TempFolder::new();
        let log = folder.path().join("access.log");
        let format = "%UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_HOSTS_ATTEMPTED% %UPSTREAM_CONNECTION_IDS_ATTEMPTED% \
            %UPSTREAM_CONNECTION_ID% %ROUTE_RESOLUTION_COUNT%";
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager(&log_to(&log, format)));
        let mut client = proxy.connect();
        assert_eq!(client.get("/1").text(), "first");
        let response = client.get("/2");
        assert_eq!((response.status(), response.text().as_str()), (200, "first"));
        let seen = upstream.seen();
        let order = seen.iter().map(|seen| (seen.connection, seen.request.path())).collect::<Vec<_>>();
        assert_eq!(order, [(0, "/1"), (0, "/2"), (1, "/2")]);
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_retry_reused_connection"), 1);
        drop(client);
        proxy.end();
        // Both attempts had a connection, and the one that the first request had is the first of the second's.
        let log = std::fs::read_to_string(log).unwrap();
        let records: Vec<Vec<&str>> = log.lines().map(|line| line.split(' ').collect()).collect();
        let [first, second] = &records[..] else { panic!("{log}") };
        let host = format!("127.0.0.1:{}", upstream.port);
        assert_eq!(first[..], ["1", host.as_str(), first[3], first[3], "1"]);
        let (hosts, ids) = (format!("{host},{host}"), format!("{},{}", first[3], second[3]));
        assert_eq!(second[..], ["2", hosts.as_str(), ids.as_str(), second[3], "1"]);
        assert_ne!(first[3], second[3]);
    }

    fn endpoint_is_told_which_attempt_it_sees(io) {
        let upstream = closes_on_second();
        // The harness closes the list.
        let routes = "{match: {prefix: /}, route: {cluster: upstream}}], include_request_attempt_count: true, \
            include_attempt_count_in_response: true, request_headers_to_remove: [x-none";
        let config = Config { routes: Some(routes.to_owned()), ..Config::to(upstream.port) };
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        for (path, attempts) in [("/1", "1"), ("/2", "2")] {
            assert_eq!(client.get(path).header("x-envoy-attempt-count"), Some(attempts), "{path}");
        }
        let seen = upstream.seen();
        let told = seen.iter().map(|seen| seen.request.header("x-envoy-attempt-count").unwrap());
        assert_eq!(told.collect::<Vec<_>>(), ["1", "1", "2"]);
        proxy.end();
    }

    /// Its idle time of an hour is not waited for.
    fn idle_connection_goes_when_its_life_is_over(io) {
        let upstream = Upstream::echo();
        let config = Config::to(upstream.port)
            .cluster("common_http_protocol_options: {max_connection_duration: 0.5s}");
        let proxy = Proxy::start(io, &config);
        assert_eq!(proxy.connect().get("/").status(), 200);
        proxy.wait_for_stat("cluster.upstream.upstream_cx_max_duration_reached", 1);
        proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_idle_timeout"), 0);
        proxy.end();
    }

    fn reused_connection_that_dies_is_not_retried_for_post(io) {
        let upstream = closes_on_second();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        for body in ["", "text"] {
            let mut client = proxy.connect();
            assert_eq!(client.get("/1").text(), "first");
            let length = body.len();
            let request = format!("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
            assert_eq!(client.ask(&request).status(), 503, "{body:?}");
        }
        let posts = upstream.seen().iter().filter(|seen| seen.request.method() == "POST").count();
        assert_eq!(posts, 2, "each was sent once");
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_retry_reused_connection"), 0);
        proxy.end();
    }

    fn idempotent_request_whose_body_is_gone_is_not_retried(io) {
        let upstream = closes_on_second();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        assert_eq!(client.get("/1").text(), "first");
        assert_eq!(client.ask("PUT /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody").status(), 503);
        assert_eq!(upstream.seen().len(), 2);
        proxy.end();
    }

    fn connection_closed_while_idle_is_not_used(io) {
        let upstream = Upstream::start(|peer| {
            if peer.request().is_some() {
                peer.send(ok(b"once"));
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        for _ in 0..3 {
            assert_eq!(client.get("/").text(), "once");
            proxy.wait_for_stat("cluster.upstream.upstream_cx_active", 0);
        }
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_retry_reused_connection"), 0);
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_destroy_remote"), 3);
        proxy.end();
    }

    fn two_requests_never_share_an_upstream_connection(io) {
        let (sender, receiver): (Sender<()>, Receiver<()>) = channel();
        let release = Arc::new(Mutex::new(receiver));
        let upstream = Upstream::start(move |peer| {
            while peer.request().is_some() {
                let _ = release.lock().unwrap().recv();
                peer.send(ok(peer.connection.to_string().as_bytes()));
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut clients = (0..10).map(|_| proxy.connect()).collect::<Vec<_>>();
        for round in 1..=3 {
            for client in &mut clients {
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            }
            // All ten are on their way before the first is answered.
            upstream.wait_for_requests(10 * round);
            for _ in 0..10 {
                sender.send(()).unwrap();
            }
            let mut used = clients.iter_mut().map(|client| client.response().text()).collect::<Vec<_>>();
            used.sort_unstable();
            used.dedup();
            assert_eq!(used.len(), 10, "each on a connection of its own");
        }
        assert_eq!(upstream.connections(), 10, "and those are used again");
        proxy.end();
    }

    fn upstream_connection_serves_max_requests_and_no_more(io) {
        let upstream = Upstream::start(|peer| {
            while peer.request().is_some() {
                peer.send(ok(peer.connection.to_string().as_bytes()));
            }
        });
        let cluster = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: \
            {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, \
            common_http_protocol_options: {max_requests_per_connection: 2}, explicit_http_config: \
            {http_protocol_options: {}}}}";
        let proxy = Proxy::start(io, &Config::to(upstream.port).cluster(cluster));
        let mut client = proxy.connect();
        let used = (0..6).map(|_| client.get("/").text()).collect::<String>();
        assert_eq!(used, "001122");
        proxy.end();
    }

    fn whole_request_of_a_client_that_does_not_wait_arrives(io) {
        const BYTES: usize = 200_000;
        let (gone, is_gone) = channel::<()>();
        let (arrived, has_arrived) = channel();
        let is_gone = Mutex::new(is_gone);
        let upstream = Upstream::start(move |peer| {
            peer.keeps_little();
            let Some(mut request) = peer.request_head() else { return };
            let _ = is_gone.lock().unwrap().recv();
            let _ = arrived.send((peer.body(&mut request), peer.sees_reset()));
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        let body = "x".repeat(BYTES);
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n{body}"));
        until("all of it is with the kernel", || {
            proxy.stat("cluster.upstream.upstream_cx_tx_bytes_total") > BYTES as u64
        });
        drop(client);
        until("it is given up", || proxy.stat("cluster.upstream.upstream_rq_cancelled") == 1);
        gone.send(()).unwrap();
        assert_eq!(has_arrived.recv_timeout(crate::harness::PATIENCE), Ok((true, false)));
        proxy.end();
    }

    fn only_an_exchange_that_is_given_up_ends_with_a_reset(io) {
        let (ended, has_ended) = channel();
        let upstream = Upstream::start(move |peer| {
            if peer.request_head().is_some() {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
                let _ = ended.send(peer.sees_reset());
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let half = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf";
        for (request, is_given_up) in [("GET / HTTP/1.1\r\nHost: a\r\n\r\n", false), (half, true)] {
            assert_eq!(proxy.connect().ask(request).text(), "ok", "{request:?}");
            let ended = has_ended.recv_timeout(crate::harness::PATIENCE);
            assert_eq!(ended, Ok(is_given_up), "{request:?}");
        }
        proxy.end();
    }

    fn client_that_goes_away_cancels_its_request_upstream(io) {
        let (ended, has_ended) = channel();
        let upstream = Upstream::start(move |peer| {
            if peer.request_head().is_some() {
                let _ = ended.send(peer.sees_reset());
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        for request in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf"] {
            for is_reset in [false, true] {
                let mut client = proxy.connect();
                let requests = upstream.seen().len();
                client.send(request);
                upstream.wait_for_requests(requests + 1);
                if is_reset {
                    client.reset_on_close();
                }
                drop(client);
                let ended = has_ended.recv_timeout(crate::harness::PATIENCE);
                assert_eq!(ended, Ok(true), "{request:?}, reset {is_reset}");
            }
        }
        proxy.wait_until_idle();
        until("requests upstream are over", || proxy.stat("cluster.upstream.upstream_rq_active") == 0);
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_cancelled"), 4);
        proxy.end();
    }
}
