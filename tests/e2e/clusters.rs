//! Where requests go: names that are resolved, weights, several endpoints, clusters that are not there.

use crate::harness::{Config, Proxy, Upstream, cluster_to, ok, on_each_backend};

/// An upstream that answers with its name.
fn named(name: &'static str) -> Upstream {
    Upstream::answering(move |_| ok(name.as_bytes()))
}

on_each_backend! {
    fn names_are_resolved_before_traffic_is_accepted(io) {
        let upstream = Upstream::echo();
        for kind in ["STRICT_DNS", "LOGICAL_DNS"] {
            let cluster = cluster_to("upstream", upstream.port).replace("address: 127.0.0.1", "address: localhost");
            let clusters = format!("{{type: {kind}, dns_lookup_family: V4_ONLY, {cluster}}}");
            let config = Config { clusters: Some(clusters), ..Config::to(upstream.port) };
            let proxy = Proxy::start(io, &config);
            assert_eq!(proxy.connect().get("/").status(), 200, "{kind}");
            assert_eq!(proxy.stat("cluster.upstream.membership_healthy"), 1, "{kind}");
            proxy.end();
        }
    }

    fn weighted_clusters_get_their_shares(io) {
        let (a, b) = (named("a"), named("b"));
        let routes = "{match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: a, weight: 25}, \
            {name: b, weight: 75}, {name: never, weight: 0}]}}}";
        let clusters = [("a", a.port), ("b", b.port), ("never", 1)];
        let clusters = clusters.map(|(name, port)| format!("{{{}}}", cluster_to(name, port))).join(", ");
        let config =
            Config { routes: Some(routes.to_owned()), clusters: Some(clusters), ..Config::to(0) };
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        let answers = (0..400).map(|_| client.get("/").text()).collect::<String>();
        let share_of_a = answers.matches('a').count();
        assert_eq!(answers.len(), 400);
        // 100 are expected; seven standard deviations to either side.
        assert!((40..160).contains(&share_of_a), "{share_of_a}");
        proxy.end();
    }

    fn endpoints_take_turns(io) {
        let (a, b) = (named("a"), named("b"));
        let endpoint = |port| {
            format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}")
        };
        let clusters = format!(
            "{{name: upstream, load_assignment: {{cluster_name: upstream, endpoints: [{{lb_endpoints: [{}, {}]}}]}}}}",
            endpoint(a.port),
            endpoint(b.port)
        );
        let config = Config { clusters: Some(clusters), ..Config::to(0) };
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        let answers = (0..10).map(|_| client.get("/").text()).collect::<String>();
        assert!(answers == "ab".repeat(5) || answers == "ba".repeat(5), "{answers}");
        proxy.end();
    }

    fn missing_cluster_and_empty_cluster_are_answered_503(io) {
        let routes = "{match: {prefix: /header}, route: {cluster_header: x-cluster}}, \
            {match: {prefix: /}, route: {cluster: empty}}";
        let config = Config {
            routes: Some(routes.to_owned()),
            clusters: Some("{name: empty, load_assignment: {cluster_name: empty}}".to_owned()),
            ..Config::to(0)
        };
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        let response = client.get("/");
        assert_eq!((response.status(), response.text().as_str()), (503, "no healthy upstream"));
        let response = client.ask("GET /header HTTP/1.1\r\nHost: a\r\nX-Cluster: nowhere\r\n\r\n");
        assert_eq!(response.status(), 503);
        assert_eq!(proxy.stat("http.test.no_cluster"), 1);
        proxy.end();
    }
}
