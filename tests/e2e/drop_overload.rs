//! Requests that endpoints are spared, by `drop_overloads` of whoever tells them: how they are answered, counted and reported.
//! Beside Envoy: `tests/xds/load_reports.py`.

use crate::harness::{
    Config, ControlPlane, LoadServer, Message, Proxy, TempFolder, Upstream, ok, on_each_backend,
    spared_cluster_to, until,
};
use crate::upstream_failures::log_to;
use crate::xds::HERE;

const DROP: &str = "x-envoy-drop-overload";
const UNCONDITIONAL: &str = "x-envoy-unconditional-drop-overload";
const ALL: &str = "{category: lb, drop_percentage: {numerator: 100}}";

/// The one cluster, with these `drop_overloads`.
fn config(upstream: &Upstream, drop_overloads: &str) -> Config {
    let cluster = format!("{{{}}}", spared_cluster_to("upstream", upstream.port, drop_overloads));
    Config { clusters: Some(cluster), ..Config::to(0) }
}

fn answering() -> Upstream {
    Upstream::answering(|_| ok(b"a"))
}

fn spared(proxy: &Proxy) -> u64 {
    proxy.stat("cluster.upstream.upstream_rq_drop_overload")
}

fn is_unconditional(response: &Message) -> bool {
    response.status() == 503
        && response.text() == "unconditional drop overload"
        && response.header(UNCONDITIONAL) == Some("true")
        && response.header(DROP).is_none()
}

on_each_backend! {
    fn share_of_requests_is_answered_in_place_of_the_endpoints(io) {
        let upstream = answering();
        let folder = TempFolder::new();
        let log = folder.path().join("access.log");
        let half = "{category: lb, drop_percentage: {numerator: 5000, denominator: TEN_THOUSAND}}";
        let log_format = log_to(&log, "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%");
        let proxy = Proxy::start(io, &config(&upstream, half).manager(&log_format));
        let mut client = proxy.connect();
        let mut dropped = 0;
        for _ in 0..200 {
            let response = client.get("/");
            match response.status() {
                200 => assert_eq!((response.text().as_str(), response.header(DROP)), ("a", None)),
                status => {
                    assert_eq!((status, response.text().as_str()), (503, "drop overload"));
                    assert_eq!(response.header(DROP), Some("true"));
                    assert_eq!(response.header(UNCONDITIONAL), None);
                    dropped += 1;
                }
            }
        }
        // Nine times the deviation there is.
        assert!((36..=164).contains(&dropped), "{dropped} of 200");
        assert_eq!(spared(&proxy), dropped);
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_503"), dropped);
        assert_eq!(proxy.stat("cluster.upstream.upstream_rq_total"), 200 - dropped);
        drop(client);
        proxy.end();
        let log = std::fs::read_to_string(log).unwrap();
        assert_eq!(log.lines().filter(|line| *line == "503 DO drop_overload").count() as u64, dropped);
    }

    fn all_requests_are_answered_so_until_the_control_plane_says_otherwise(io) {
        let upstream = answering();
        let plane = ControlPlane::start();
        plane.tell_spared("upstream", upstream.port, &[("lb", 100)]);
        let clusters = Some(plane.clusters(&["upstream"]));
        let config = Config { clusters, ..Config::to(0) };
        let folder = TempFolder::new();
        let log = folder.path().join("access.log");
        let config = config.manager(&log_to(&log, "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%"));
        let proxy = Proxy::start(io, &config.arguments(&["--config-yaml", &plane.bootstrap()]));
        let mut client = proxy.connect();
        assert!((0..10).all(|_| is_unconditional(&client.get("/"))));
        assert_eq!((spared(&proxy), upstream.connections()), (10, 0));
        // Of two categories none is taken.
        let refused = plane.answer(&plane.tell_spared("upstream", upstream.port, &[("a", 0), ("b", 0)]));
        let reason = refused.error.unwrap().message;
        assert!(reason.contains("has 2 categories"), "{reason}");
        assert!(is_unconditional(&client.get("/")));
        plane.tell("upstream", HERE, &[upstream.port]);
        until("endpoints get requests", || client.get("/").status() == 200);
        let before = spared(&proxy);
        assert!((0..10).all(|_| client.get("/").status() == 200));
        assert_eq!(spared(&proxy), before);
        drop(client);
        proxy.end();
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.starts_with("UDO unconditional_drop_overload\n"), "{log}");
    }

    fn runtime_limits_the_share_while_it_serves(io) {
        let upstream = answering();
        let layers = "{layered_runtime: {layers: [{name: admin, admin_layer: {}}]}}";
        let proxy = Proxy::start(io, &config(&upstream, ALL).arguments(&["--config-yaml", layers]));
        let mut client = proxy.connect();
        assert!(is_unconditional(&client.get("/")));
        let set = |value: &str| {
            let path = format!("/runtime_modify?load_balancing_policy.drop_overload_limit={value}");
            assert_eq!(proxy.admin("POST", &path).text(), "OK\n");
        };
        set("0");
        assert!((0..10).all(|_| client.get("/").status() == 200));
        // It is no longer all of them: some are drawn, none is refused unseen.
        set("99");
        let answers = (0..50).map(|_| client.get("/"));
        let dropped: Vec<_> = answers.filter(|response| response.status() == 503).collect();
        assert!(!dropped.is_empty() && dropped.iter().all(|response| response.header(DROP) == Some("true")));
        set("");
        assert!(is_unconditional(&client.get("/")));
        proxy.end();
    }

    fn header_is_left_out_where_the_router_writes_none(io) {
        let upstream = answering();
        let router = "{name: r, typed_config: {\"@type\": \
                      type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, suppress_envoy_headers: true}}";
        let chain = format!(
            "{{filters: [{{name: manager, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
             stat_prefix: test, http_filters: [{router}], route_config: {{virtual_hosts: [{{name: all, \
             domains: [\"*\"], routes: [{{match: {{prefix: /}}, route: {{cluster: upstream}}}}]}}]}}}}}}]}}"
        );
        let proxy = Proxy::start(io, &config(&upstream, ALL).chains(&[chain]));
        let response = proxy.connect().get("/");
        assert_eq!((response.status(), response.text().as_str()), (503, "unconditional drop overload"));
        assert_eq!(response.header(UNCONDITIONAL), None);
        proxy.end();
    }

    fn load_reports_have_them_by_category_and_in_all(io) {
        let (upstream, server) = (answering(), LoadServer::asking_for(&["upstream"]));
        let own = format!("{{{}}}", spared_cluster_to("upstream", upstream.port, ALL));
        let config = Config { clusters: Some(format!("{}, {own}", server.cluster())), ..Config::to(0) };
        let proxy = Proxy::start(io, &config.arguments(&["--config-yaml", &server.bootstrap()]));
        server.wait_for("the first", |told| told.iter().any(|report| !report.clusters.is_empty()));
        let mut client = proxy.connect();
        assert!((0..7).all(|_| is_unconditional(&client.get("/"))));
        server.wait_for("all", |told| {
            let clusters = || told.iter().flat_map(|report| &report.clusters);
            let of_category = clusters().flat_map(|one| &one.by_category).filter(|one| one.category == "lb");
            let all: u64 = clusters().map(|one| one.dropped).sum();
            (all, of_category.map(|one| one.count).sum::<u64>()) == (7, 7)
        });
        proxy.end();
    }
}
