//! The admin endpoint of the running program; what it says in detail is tested where it is made.

use crate::harness::{Config, Proxy, Upstream, on_each_backend};

on_each_backend! {
    fn admin_endpoints_answer(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        assert_eq!(proxy.connect().get("/").status(), 200);
        for (method, path, part) in [
            ("GET", "/", "href=\"stats\""),
            ("GET", "/server_info", "\"state\""),
            ("GET", "/stats?usedonly", "cluster.upstream.upstream_rq_200: 1"),
            ("GET", "/stats?format=json&filter=upstream_rq_total", "\"cluster.upstream.upstream_rq_total\""),
            ("GET", "/stats/prometheus", "envoy_cluster_upstream_rq_total"),
            ("GET", "/clusters", "upstream::127.0.0.1:"),
            ("GET", "/listeners", "test::127.0.0.1:"),
            ("GET", "/config_dump", "configs"),
            ("POST", "/logging", ""),
        ] {
            let response = proxy.admin(method, path);
            assert_eq!(response.status(), 200, "{path}: {}", response.text());
            assert!(response.text().contains(part), "{path}: {}", response.text());
        }
        assert_eq!(proxy.admin("GET", "/nowhere").status(), 404);
        proxy.end();
    }

    fn failed_healthcheck_ends_connections_and_passing_it_undoes_that(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        assert_eq!(proxy.admin("POST", "/healthcheck/fail").status(), 200);
        crate::harness::until("it is not ready", || proxy.admin("GET", "/ready").status() == 503);
        crate::harness::until("responses close", || {
            proxy.connect().get("/").header("connection") == Some("close")
        });
        assert_eq!(proxy.admin("POST", "/healthcheck/ok").status(), 200);
        crate::harness::until("responses do not close", || proxy.connect().get("/").header("connection").is_none());
        assert_eq!(proxy.admin("GET", "/ready").status(), 200);
        proxy.end();
    }

    fn quitquitquit_drains_and_exits_0(io) {
        let upstream = Upstream::echo();
        let mut proxy = Proxy::start(io, &Config::to(upstream.port));
        assert_eq!(proxy.admin("POST", "/quitquitquit").status(), 200);
        assert_eq!(proxy.wait().code(), Some(0));
    }
}
