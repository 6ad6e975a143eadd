//! The admin endpoint of the running program; what it says in detail is tested where it is made.

use crate::harness::{Config, Proxy, Upstream, on_each_backend};

on_each_backend! {
    fn admin_endpoints_answer(io) {
        let upstream = Upstream::echo();
        let proxy = Proxy::start(io, &Config::to(upstream.port));
        assert_eq!(proxy.connect().get("/").status(), 200);
        // A request is counted when it is over, behind its response.
        proxy.wait_for_stat("cluster.upstream.upstream_rq_200", 1);
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

    fn counters_of_hosts_clusters_and_the_process_count(io) {
        let upstream = Upstream::echo();
        let nobody = crate::harness::free_port();
        let mut config = Config::to(upstream.port);
        config.clusters = Some(format!(
            "{{{}}}, {{{}}}",
            crate::harness::cluster_to("upstream", upstream.port),
            crate::harness::cluster_to("nobody", nobody)
        ));
        config.routes = Some(
            "{match: {prefix: /nobody}, route: {cluster: nobody}}, {match: {prefix: /}, route: {cluster: upstream}}"
                .to_owned(),
        );
        let proxy = Proxy::start(io, &config);
        assert_eq!(proxy.connect().get("/").status(), 200);
        assert_eq!(proxy.connect().get("/nobody").status(), 503);
        let clusters = proxy.admin("GET", "/clusters").text();
        for (name, port, values) in [
            ("upstream", upstream.port, [("cx_total", 1), ("cx_connect_fail", 0), ("rq_total", 1), ("rq_error", 0)]),
            ("nobody", nobody, [("cx_total", 1), ("cx_connect_fail", 1), ("rq_total", 0), ("rq_error", 1)]),
        ] {
            for (counter, value) in values {
                let line = format!("{name}::127.0.0.1:{port}::{counter}::{value}\n");
                assert!(clusters.contains(&line), "{line} is not in\n{clusters}");
            }
        }
        // Envoy 1.40 says the same of the same.
        for (name, value) in [
            ("cluster.nobody.upstream_cx_total", 1),
            ("cluster.nobody.upstream_cx_destroy", 1),
            ("cluster.nobody.upstream_rq_total", 0),
            ("cluster.upstream.upstream_rq_total", 1),
            ("cluster_manager.cluster_added", 2),
            ("cluster_manager.active_clusters", 2),
            ("listener_manager.listener_added", 1),
            ("listener_manager.listener_create_success", 1),
            ("listener_manager.total_listeners_active", 1),
            ("listener_manager.workers_started", 1),
        ] {
            assert_eq!(proxy.stat(name), value, "{name}");
        }
        assert!(proxy.stat("ringway.io.enters") > 0);
        assert!(proxy.stat("ringway.io.completions") > 0);
        assert!(!proxy.admin("GET", "/stats?usedonly&filter=initialization_time").text().is_empty());
        proxy.end();
    }

    fn endpoint_logs_its_requests_sets_its_options_and_writes_its_address(io) {
        let upstream = Upstream::echo();
        let folder = crate::harness::TempFolder::new();
        let (log, address) = (folder.path().join("admin.log"), folder.path().join("address"));
        let format = "%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% %BYTES_RECEIVED% %BYTES_SENT% \
            %REQ(X-WHO)% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%";
        let mut config = Config::to(upstream.port).arguments(&["--admin-address-path", address.to_str().unwrap()]);
        // SO_KEEPALIVE once bound.
        config.admin = format!(
            "{}, socket_options: [{{level: 1, name: 9, int_value: 1, state: STATE_BOUND}}],",
            crate::upstream_failures::log_to(&log, format)
        );
        let proxy = Proxy::start(io, &config);
        assert_eq!(proxy.admin("GET", "/hot_restart_version").text(), "disabled");
        assert_eq!(proxy.admin("GET", "/nowhere?a=b").status(), 404);
        let written = std::fs::read_to_string(&address).unwrap();
        assert!(written.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_loopback()), "{written}");
        let text = || std::fs::read_to_string(&log).unwrap_or_default();
        crate::harness::until("both requests are logged", || text().contains("/nowhere"));
        let text = text();
        assert!(text.contains("GET /hot_restart_version HTTP/1.1 200 0 8 - 127.0.0.1\n"), "{text}");
        assert!(text.contains("GET /nowhere?a=b HTTP/1.1 404 0 "), "{text}");
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

    fn failed_healthcheck_leaves_connections_of_modify_only_listeners_alone(io) {
        let answers = "{name: hcm, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
             stat_prefix: other, route_config: {virtual_hosts: [{name: all, domains: [\"*\"], routes: [{match: {prefix: /}, direct_response: {status: 202}}]}]}, \
             http_filters: [{name: router, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}";
        let upstream = Upstream::echo();
        let other = crate::harness::free_port();
        // The first listener is one of these; behind it begins the one that the rest of the bootstrap is about.
        let config = Config::to(upstream.port)
            .listener("drain_type: MODIFY_ONLY")
            .listener(&format!("filter_chains: [{{filters: [{answers}]}}]"))
            .listener(&format!("\n  - name: heeds\n    address: {{socket_address: {{address: 127.0.0.1, port_value: {other}}}}}"));
        let proxy = Proxy::start(io, &config);
        let heeds = || crate::harness::Client::connect(other).get("/");
        let mut stays = proxy.connect();
        assert_eq!((stays.get("/").status(), heeds().status()), (202, 200));
        assert_eq!(proxy.admin("POST", "/healthcheck/fail").status(), 200);
        // Both are the same worker's.
        crate::harness::until("responses close", || heeds().header("connection") == Some("close"));
        assert_eq!(stays.get("/").header("connection"), None);
        proxy.end();
    }

    fn file_drain_fails_health_checks_from_the_start_until_they_are_told_to_pass(io) {
        let upstream = Upstream::echo();
        let folder = crate::harness::TempFolder::new();
        let flags = format!("{{flags_path: {}}}", folder.path().display());
        let config = Config::to(upstream.port).arguments(&["--config-yaml", &flags]);
        let proxy = Proxy::start(io, &config);
        assert_eq!(proxy.connect().get("/").header("connection"), None, "there is no such file");
        proxy.end();
        std::fs::write(folder.path().join("drain"), "").unwrap();
        let proxy = Proxy::launch(io, &config, crate::harness::free_port(), crate::harness::free_port());
        proxy.wait_for_log("serving");
        let ready = proxy.admin("GET", "/ready");
        assert_eq!((ready.status(), &*ready.text()), (503, "DRAINING\n"));
        assert_eq!(proxy.connect().get("/").header("connection"), Some("close"));
        assert_eq!(proxy.admin("POST", "/healthcheck/ok").status(), 200);
        assert_eq!(proxy.admin("GET", "/ready").status(), 200);
        crate::harness::until("responses do not close", || proxy.connect().get("/").header("connection").is_none());
        proxy.end();
    }

    fn graceful_drain_closes_by_strategy_while_listeners_accept_and_stops_them_unless_told_not_to(io) {
        let upstream = Upstream::echo();
        let config = Config::to(upstream.port);
        let immediate = ["--drain-strategy", "immediate", "--drain-time-s", "600"];
        let proxy = Proxy::start(io, &config.arguments(&immediate));
        assert_eq!(proxy.admin("POST", "/drain_listeners?graceful").status(), 200);
        crate::harness::until("responses close", || {
            proxy.connect().get("/").header("connection") == Some("close")
        });
        assert_eq!(proxy.admin("GET", "/ready").status(), 200);
        proxy.end();

        let proxy = Proxy::start(io, &Config::to(upstream.port).arguments(&["--drain-time-s", "0"]));
        assert_eq!(proxy.admin("POST", "/drain_listeners?graceful&skip_exit").status(), 200);
        crate::harness::until("responses close", || {
            proxy.connect().get("/").header("connection") == Some("close")
        });
        assert_eq!(proxy.stat("listener_manager.listener_stopped"), 0);
        proxy.end();

        let proxy = Proxy::start(io, &Config::to(upstream.port).arguments(&["--drain-time-s", "0"]));
        assert_eq!(proxy.admin("POST", "/drain_listeners?graceful").status(), 200);
        proxy.wait_for_stat("listener_manager.listener_stopped", 1);
        crate::harness::until("new connections are refused", || {
            crate::harness::Client::try_connect(proxy.port).is_err()
        });
        proxy.end();
    }

    /// As in Envoy 1.40. Connections were not told, and `skip_exit` was passed over.
    fn drain_at_once_asks_connections_to_go_and_stops_listeners_unless_told_not_to(io) {
        let upstream = Upstream::echo();
        let immediate = ["--drain-strategy", "immediate", "--drain-time-s", "600"];
        let proxy = Proxy::start(io, &Config::to(upstream.port).arguments(&immediate));
        let mut open = proxy.connect();
        assert_eq!(open.get("/").header("connection"), None);
        assert_eq!(proxy.admin("POST", "/drain_listeners?skip_exit").status(), 200);
        crate::harness::until("responses close", || {
            proxy.connect().get("/").header("connection") == Some("close")
        });
        assert_eq!(proxy.stat("listener_manager.listener_stopped"), 0);
        assert_eq!(open.get("/").header("connection"), Some("close"));
        // What drains already is stopped all the same.
        assert_eq!(proxy.admin("POST", "/drain_listeners").status(), 200);
        crate::harness::until("new connections are refused", || {
            crate::harness::Client::try_connect(proxy.port).is_err()
        });
        proxy.end();

        let proxy = Proxy::start(io, &Config::to(upstream.port).arguments(&immediate));
        let mut open = proxy.connect();
        assert_eq!(open.get("/").header("connection"), None);
        assert_eq!(proxy.admin("POST", "/drain_listeners").status(), 200);
        crate::harness::until("new connections are refused", || {
            crate::harness::Client::try_connect(proxy.port).is_err()
        });
        assert_eq!(open.get("/").header("connection"), Some("close"));
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
