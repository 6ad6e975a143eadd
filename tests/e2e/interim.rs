//! Interim responses: 100-continue answered here or by the upstream, 103 passed on.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use crate::harness::{Config, PATIENCE, Proxy, TempFolder, Upstream, ok, on_each_backend};
use crate::upstream_failures::log_to;

const EXPECTING: &str = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";

on_each_backend! {
    fn expectation_is_answered_here_and_not_passed_on(io) {
        let upstream = Upstream::answering(|request| ok(&request.body));
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        for _ in 0..3 {
            client.send(EXPECTING);
            assert_eq!(client.head().start, "HTTP/1.1 100 Continue");
            client.send("body");
            assert_eq!(client.head().status(), 200);
            assert_eq!(client.read(4), b"body");
        }
        assert!(upstream.seen().iter().all(|seen| seen.request.header("expect").is_none()));
        assert_eq!(proxy.stat("http.test.downstream_rq_1xx"), 3);
        proxy.end();
    }

    fn expectation_is_passed_on_where_the_upstream_is_to_answer(io) {
        let upstream = Upstream::start(|peer| {
            while let Some(mut request) = peer.request_head() {
                peer.send("HTTP/1.1 100 Continue\r\n\r\n");
                if !peer.body(&mut request) {
                    return;
                }
                peer.send(ok(&request.body));
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("proxy_100_continue: true"));
        let mut client = proxy.connect();
        for _ in 0..3 {
            client.send(EXPECTING);
            assert_eq!(client.head().status(), 100);
            client.send("body");
            assert_eq!(client.response_to("POST").text(), "body");
        }
        assert!(upstream.seen().iter().all(|seen| seen.request.header("expect") == Some("100-continue")));
        for stat in ["http.test.downstream_rq_1xx", "cluster.upstream.upstream_rq_100", "cluster.upstream.upstream_rq_1xx"] {
            assert_eq!(proxy.stat(stat), 3, "{stat}");
        }
        proxy.end();
    }

    fn upstream_that_refuses_an_expectation_is_heard(io) {
        let upstream = Upstream::start(|peer| {
            if peer.request_head().is_some() {
                peer.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n");
                peer.sees_end();
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager("proxy_100_continue: true"));
        let mut client = proxy.connect();
        client.send(EXPECTING);
        let response = client.head();
        assert_eq!((response.status(), response.header("connection")), (417, Some("close")));
        proxy.end();
    }

    fn response_begins_with_its_own_head_to_the_record(io) {
        let (page, awaited) = channel();
        let awaited = Mutex::new(awaited);
        let upstream = Upstream::start(move |peer| {
            if peer.request().is_some() {
                peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
                awaited.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                peer.send(ok(b"page"));
                peer.sees_end();
            }
        });
        let folder = TempFolder::new();
        let log = folder.path().join("access.log");
        let config = Config::to(upstream.port).manager(&log_to(&log, "%COMMON_DURATION(US_RX_BEG:DS_TX_BEG:ns)%"));
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.head().status(), 103);
        page.send(()).unwrap();
        assert_eq!(client.response().text(), "page");
        drop(client);
        proxy.end();
        // It would be none if the client's came before the endpoint's.
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.trim_end().parse::<u64>().is_ok(), "{log}");
    }

    fn early_hints_reach_the_client_before_the_response(io) {
        let upstream = Upstream::answering(|_| {
            let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
            [hints.as_bytes(), hints.as_bytes(), &ok(b"page")].concat()
        });
        let options = "http_protocol_options: {accept_http_10: true}";
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager(options));
        let mut client = proxy.connect();
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            for _ in 0..2 {
                let hints = client.head();
                assert_eq!((hints.status(), hints.header("link")), (103, Some("</a.css>; rel=preload")));
            }
            assert_eq!(client.head().status(), 200);
            assert_eq!(client.read(4), b"page");
        }
        // HTTP/1.0 knows no interim responses.
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
        assert_eq!(client.head().status(), 200);
        proxy.end();
    }
}
