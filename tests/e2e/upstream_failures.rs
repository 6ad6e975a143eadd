//! Upstreams that are not there, break off, or talk nonsense: the client gets the right status or a response that cannot
//! pass for complete.

use crate::harness::{Config, Proxy, Upstream, free_port, ok, on_each_backend};

/// An access log of the status, the flags and the details, at this path.
pub(crate) fn log_to(path: &std::path::Path, format: &str) -> String {
    format!(
        "access_log: [{{name: file, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: \"{}\", log_format: \
         {{text_format_source: {{inline_string: \"{format}\\n\"}}}}}}}}]",
        path.display()
    )
}

on_each_backend! {
    fn refused_connection_is_answered_503_with_the_flag(io) {
        let folder = crate::harness::TempFolder::new();
        let log = folder.path().join("access.log");
        let format = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_REQUEST_ATTEMPT_COUNT% \
            %UPSTREAM_HOSTS_ATTEMPTED% %UPSTREAM_CONNECTION_IDS_ATTEMPTED%";
        let config = Config::to(free_port()).manager(&log_to(&log, format));
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        for _ in 0..2 {
            let response = client.get("/");
            assert_eq!(response.status(), 503);
            assert!(response.text().contains("remote connection failure"), "{response:?}");
        }
        assert_eq!(proxy.stat("cluster.upstream.upstream_cx_connect_fail"), 2);
        drop(client);
        proxy.end();
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.lines().all(|line| line.starts_with("503 UF upstream_reset_before_response_started")), "{log}");
        // As in Envoy a request's host that was not reached is none of those attempted.
        assert!(log.lines().all(|line| line.ends_with(" 1 - -")), "{log}");
        assert_eq!(log.lines().count(), 2);
    }

    fn bad_response_heads_are_answered_502(io) {
        let heads = [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/3.0 200 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
            "nonsense\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        ];
        let upstream = Upstream::start(move |peer| {
            let Some(request) = peer.request() else { return };
            peer.send(heads[request.path()[1..].parse::<usize>().unwrap()]);
            peer.sees_end();
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        for (index, head) in heads.iter().enumerate() {
            assert_eq!(client.get(&format!("/{index}")).status(), 502, "{head:?}");
        }
        assert_eq!(upstream.connections(), heads.len(), "none of them is used again");
        proxy.end();
    }

    fn upstream_that_closes_before_a_response_is_answered_503(io) {
        let upstream = Upstream::start(|peer| drop(peer.request()));
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        for _ in 0..3 {
            assert_eq!(client.get("/").status(), 503);
        }
        assert_eq!(upstream.seen().len(), 3, "a fresh connection that dies is no reason to ask again");
        proxy.end();
    }

    fn truncated_response_never_passes_for_complete(io) {
        let responses: [&[u8]; 4] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n\r\n",
        ];
        let upstream = Upstream::start(move |peer| {
            let Some(request) = peer.request() else { return };
            peer.send(responses[request.path()[1..].parse::<usize>().unwrap()]);
        });
        let options = "http_protocol_options: {accept_http_10: true}";
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager(options));
        for index in 0..responses.len() {
            let mut client = proxy.connect();
            client.send(format!("GET /{index} HTTP/1.1\r\nHost: a\r\n\r\n"));
            if let Ok(Some(response)) = client.any_response_to("GET") { assert!(!response.complete, "{index}: {response:?}") }
            // To an HTTP/1.0 client only a reset can say that the body is not complete.
            let mut client = proxy.connect();
            client.send(format!("GET /{index} HTTP/1.0\r\nHost: a\r\n\r\n"));
            match client.any_response_to("GET") {
                Ok(Some(response)) => assert!(!response.complete, "{index} to 1.0: {response:?}"),
                Ok(None) => panic!("{index}: neither a response nor a reset"),
                Err(_) => {}
            }
        }
        proxy.wait_until_idle();
        assert_eq!(proxy.stat("http.test.downstream_rq_tx_reset"), 2 * responses.len() as u64);
        proxy.end();
    }

    /// As in Envoy: what the client does with a response is nothing that its endpoint is counted for.
    fn response_counts_for_its_endpoint_although_the_client_goes_away(io) {
        let upstream = Upstream::start(|peer| {
            if peer.request().is_some_and(|request| request.path() == "/begins") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            }
            peer.sees_end();
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        for (count, path) in ["/silent", "/begins"].into_iter().enumerate() {
            let mut client = proxy.connect();
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            upstream.wait_for_requests(count + 1);
            if path == "/begins" {
                assert_eq!(client.head().status(), 200);
            }
            drop(client);
            proxy.wait_until_idle();
        }
        let stats = proxy.admin("GET", "/stats").text();
        assert!(stats.contains("cluster.upstream.upstream_rq_200: 1\n"), "{stats}");
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_completed"), 1);
        assert_eq!(proxy.stat("http.test.rq_reset_after_downstream_response_started"), 0);
        assert_eq!(proxy.stat("http.test.downstream_rq_tx_reset"), 0);
        let hosts = proxy.admin("GET", "/clusters").text();
        for counter in ["rq_total::2", "rq_success::1", "rq_error::0"] {
            assert!(hosts.contains(&format!("::{counter}\n")), "{counter} in {hosts}");
        }
        proxy.end();
    }

    fn head_cut_short_is_never_a_response(io) {
        let upstream = Upstream::start(|peer| {
            if peer.request().is_some() {
                peer.send("HTTP/1.1 200 OK\r\nContent-Le");
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        assert_eq!(proxy.connect().get("/").status(), 502);
        proxy.end();
    }

    fn bytes_after_a_response_are_not_the_next_response(io) {
        let upstream = Upstream::start(|peer| {
            if peer.request().is_some() {
                let poison = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned";
                peer.send([&ok(b"right")[..], poison.as_bytes()].concat());
                peer.sees_end();
            }
        });
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        let mut client = proxy.connect();
        for _ in 0..20 {
            assert_eq!(client.get("/").text(), "right");
        }
        proxy.end();
    }
}
