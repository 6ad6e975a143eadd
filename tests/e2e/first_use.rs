//! What is made with its first use: nothing of it shows but in counters.

use crate::harness::{
    Authority, Config, Http2Client, Proxy, Upstream, downstream_tls, on_each_backend, upstream_tls,
};

const WAITS: &str = "ringway.deferred.waits";

on_each_backend! {
    fn connections_that_come_first_wait_for_tls_and_later_ones_find_it(io) {
        let (upstream, authority) = (Upstream::echo(), Authority::of(&["server.example"]));
        let inner = Config::to(upstream.port).chain(&downstream_tls("", &authority.shown("server.example")));
        let inner = Proxy::start(io, &inner);
        // One for each request, so that each makes a handshake.
        let once = "max_requests_per_connection: 1";
        let config = Config::to(inner.port).cluster(&upstream_tls("sni: server.example,", &authority.trusted())).cluster(once);
        let outer = Proxy::start(io, &config);
        // Who looks at certificates has nothing made.
        let certificates = outer.admin("GET", "/certs").text();
        assert!(certificates.contains("ca_cert") && certificates.contains("\"days_until_expiration\""), "{certificates}");
        assert!(outer.stat("server.days_until_first_cert_expiring") < u64::from(u32::MAX));
        assert_eq!(outer.stat(WAITS), 0);
        let mut first: Vec<_> = (0..16).map(|_| outer.connect()).collect();
        for client in &mut first {
            client.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        for client in &mut first {
            assert_eq!(client.response_to("GET").status(), 200);
        }
        let waits = outer.stat(WAITS);
        assert!((1..=16).contains(&waits), "{waits}");
        for _ in 0..4 {
            assert_eq!(outer.connect().get("/later").status(), 200);
        }
        outer.wait_for_stat("cluster.upstream.ssl.handshake", 20);
        assert_eq!(outer.stat(WAITS), waits);
        assert_eq!(outer.stat("ringway.deferred.made_by_workers"), 0);
        drop(first);
        outer.end();
        inner.end();
    }

    fn requests_that_come_first_wait_for_regular_expressions_and_later_ones_find_them(io) {
        let upstream = Upstream::echo();
        let mut config = Config::to(upstream.port);
        let route = |regex: &str, more: &str| format!("{{match: {{safe_regex: {{regex: \"{regex}\"}}}}, {more}}}");
        config.routes = Some([
            route("/items/[0-9]+", "direct_response: {status: 201}"),
            route("/old/.*", "route: {cluster: upstream, regex_rewrite: {pattern: {regex: ^/old/(.*)$}, substitution: /new/\\1}}"),
            "{match: {prefix: /, headers: [{name: x-user, string_match: {safe_regex: {regex: \"u[0-9]+\"}}}]}, direct_response: {status: 202}}".into(),
            "{match: {prefix: /}, direct_response: {status: 203}}".into(),
        ].join(", "));
        let proxy = Proxy::start(io, &config);
        assert_eq!(proxy.stat(WAITS), 0);
        let mut client = proxy.connect();
        assert_eq!(client.get("/items/17").status(), 201);
        assert_eq!(proxy.stat(WAITS), 1, "all of a virtual host are made together");
        let rewritten = client.get("/old/a/b");
        assert!(rewritten.text().contains("/new/a/b"), "{}", rewritten.text());
        client.send("GET /items/x HTTP/1.1\r\nHost: a\r\nx-user: u1\r\n\r\n");
        assert_eq!(client.response_to("GET").status(), 202);
        let other = Http2Client::connect(proxy.port);
        assert_eq!(other.get("/items/x").status, 203);
        assert_eq!(proxy.stat(WAITS), 1);
        drop((client, other));
        proxy.end();
    }
}
