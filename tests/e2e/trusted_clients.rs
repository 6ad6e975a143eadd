//! Clients that are trusted steer the router by headers: it does what they say, and tells nobody else.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::harness::{Config, PATIENCE, Proxy, TempFolder, Upstream, on_each_backend, until};
use crate::upstream_failures::log_to;

/// Clients of this host are internal.
const TRUST: &str = "use_remote_address: true, \
    internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}";

on_each_backend! {
    fn timeout_of_an_attempt_ends_with_the_head_of_its_response(io) {
        let (rest, awaited) = channel();
        let awaited = Mutex::new(awaited);
        let upstream = Upstream::start(move |peer| {
            while let Some(request) = peer.request() {
                if request.path() != "/begins" {
                    peer.sees_end();
                    return;
                }
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
                if awaited.lock().unwrap().recv_timeout(PATIENCE).is_ok() {
                    let _ = peer.try_send("lf");
                }
            }
        });
        let folder = TempFolder::new();
        let log = folder.path().join("access.log");
        let format = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%";
        let config = Config::to(upstream.port).manager(TRUST).manager(&log_to(&log, format));
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        let request = |path: &str, limit_ms: u32, more: &str| {
            let limit = format!("x-envoy-upstream-rq-per-try-timeout-ms: {limit_ms}");
            format!("GET {path} HTTP/1.1\r\nHost: a\r\n{limit}\r\n{more}\r\n")
        };
        let begun = Instant::now();
        let response = client.ask(&request("/", 150, ""));
        assert_eq!((response.status(), response.text().as_str()), (504, "upstream request timeout"));
        // The proxy's clock goes by turns: to it the attempt may have begun before.
        assert!(begun.elapsed() >= Duration::from_millis(100));
        let response = client.ask(&request("/", 150, "x-envoy-upstream-rq-timeout-alt-response: 1\r\n"));
        assert_eq!((response.status(), response.text().as_str()), (204, ""));
        // Time enough for the head to come.
        client.send(request("/begins", 1000, ""));
        let begun = Instant::now();
        until("its time is over", || begun.elapsed() > Duration::from_millis(1300));
        rest.send(()).unwrap();
        assert_eq!(client.response().text(), "half");
        for (stat, value) in [("upstream_rq_per_try_timeout", 2), ("upstream_rq_timeout", 0), ("upstream_rq_204", 1)] {
            assert_eq!(proxy.stat(&format!("cluster.upstream.{stat}")), value, "{stat}");
        }
        drop(client);
        proxy.end();
        let log = std::fs::read_to_string(log).unwrap();
        let lines: Vec<_> = log.lines().collect();
        assert_eq!(
            lines,
            ["504 UT upstream_per_try_timeout", "204 UT upstream_per_try_timeout", "200 - via_upstream"]
        );
    }

    fn headers_that_steer_the_router_go_no_further(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port).manager(TRUST));
        let steering = [
            "x-envoy-retry-on", "x-envoy-retry-grpc-on", "x-envoy-max-retries", "x-envoy-retriable-header-names",
            "x-envoy-retriable-status-codes", "x-envoy-hedge-on-per-try-timeout", "x-envoy-upstream-alt-stat-name",
            "x-envoy-upstream-rq-timeout-alt-response", "x-envoy-upstream-rq-timeout-ms",
            "x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-upstream-stream-duration-ms",
        ];
        let fields: String = steering.iter().map(|name| format!("{name}: 9000\r\n")).collect();
        let mut client = proxy.connect();
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nx-envoy-ip-tags: t\r\n{fields}\r\n");
        assert_eq!(client.ask(&request).status(), 200);
        let seen = upstream.seen().remove(0).request;
        for name in steering {
            assert_eq!(seen.header(name), None, "{name}");
        }
        assert_eq!((seen.header("x-envoy-internal"), seen.header("x-envoy-ip-tags")), (Some("true"), Some("t")));
        drop(client);
        proxy.end();
    }
}
