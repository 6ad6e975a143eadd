//! Load reports: what workers have counted is told to whoever asks, each request once.

use std::collections::BTreeMap;

use http::{HeaderMap, Request};

use crate::harness::{
    Config, Http2Client, Http2Upstream, Io, LoadServer, Proxy, Report, TO_HTTP2, Upstream, chunked,
    cluster_to, ok, on_each_backend, until,
};

/// A proxy of two workers whose clusters `a` and `b` lead to these.
fn started(io: Io, server: &LoadServer, a: &Upstream, b: &Upstream) -> Proxy {
    let routes =
        "{match: {prefix: /b}, route: {cluster: b}}, {match: {prefix: /}, route: {cluster: a}}".to_owned();
    let clusters =
        [("a", a.port), ("b", b.port)].map(|(name, port)| format!("{{{}}}", cluster_to(name, port)));
    let clusters = format!("{}, {}", server.cluster(), clusters.join(", "));
    let config = Config { routes: Some(routes), clusters: Some(clusters), ..Config::to(0) };
    Proxy::start(io, &config.arguments(&["--concurrency", "2", "--config-yaml", &server.bootstrap()]))
}

const TRAILERS: &str = "http_protocol_options: {enable_trailers: true}";

/// A proxy of two workers whose cluster `a` tells of these metrics of the endpoint at that port; with trailers, and these fields more
/// of manager and cluster.
fn metered(io: Io, server: &LoadServer, port: u16, metrics: &str, [manager, cluster]: [&str; 2]) -> Proxy {
    let a = format!("{{{}, lrs_report_endpoint_metrics: [{metrics}], {cluster}}}", cluster_to("a", port));
    let routes = "{match: {prefix: /}, route: {cluster: a}}".to_owned();
    let clusters = format!("{}, {a}", server.cluster());
    let config = Config { routes: Some(routes), clusters: Some(clusters), ..Config::to(0) }.manager(TRAILERS);
    let config = if manager.is_empty() { config } else { config.filter("grpc_web", manager, "") };
    Proxy::start(io, &config.arguments(&["--concurrency", "2", "--config-yaml", &server.bootstrap()]))
}

/// What was told of the load of a cluster's endpoints, over all reports: by name in how many requests, and the sum.
fn load(told: &[Report], name: &str) -> BTreeMap<String, (u64, f64)> {
    let clusters = told.iter().flat_map(|report| &report.clusters).filter(|one| one.name == name);
    let mut load = BTreeMap::<_, (u64, f64)>::new();
    for metric in clusters.flat_map(|one| &one.localities).flat_map(|locality| &locality.metrics) {
        let sum = load.entry(metric.name.clone()).or_default();
        *sum = (sum.0 + metric.count, sum.1 + metric.total);
    }
    load
}

fn map<const N: usize>(entries: [(&str, (u64, f64)); N]) -> BTreeMap<String, (u64, f64)> {
    entries.map(|(name, sum)| (name.to_owned(), sum)).into()
}

/// Successful, failed and issued requests of a cluster, over all reports.
fn sums(told: &[Report], name: &str) -> [u64; 3] {
    let clusters = told.iter().flat_map(|report| &report.clusters).filter(|one| one.name == name);
    clusters
        .flat_map(|one| &one.localities)
        .fold([0; 3], |[good, bad, all], one| [good + one.successful, bad + one.failed, all + one.issued])
}

/// Waits for two reports more than there are: what is told twice comes with them.
fn wait_for_two_more(server: &LoadServer) {
    let begun = std::cell::Cell::new(None);
    server.wait_for("two reports more", |told| {
        let begun_at = begun.get().unwrap_or(told.len());
        begun.set(Some(begun_at));
        told.len() >= begun_at + 2
    });
}

/// How often a cluster was told of.
fn times(told: &[Report], name: &str) -> usize {
    told.iter().flat_map(|report| &report.clusters).filter(|one| one.name == name).count()
}

on_each_backend! {
    fn requests_of_all_workers_are_told_once_and_of_the_clusters_that_are_asked_for(io) {
        let server = LoadServer::asking_for(&["a", "nobody"]);
        let (a, b) = (Upstream::answering(|_| ok(b"a")), Upstream::answering(|_| ok(b"b")));
        let proxy = started(io, &server, &a, &b);
        server.wait_for("the first", |told| times(told, "a") > 0);
        for _ in 0..10 {
            // A connection each: both workers have some.
            let mut client = proxy.connect();
            for path in ["/", "/b", "/"] {
                assert_eq!(client.get(path).status(), 200);
            }
        }
        server.wait_for("all", |told| sums(told, "a")[2] >= 20);
        wait_for_two_more(&server);
        server.wait_for("each once", |told| sums(told, "a") == [20, 0, 20]);
        server.wait_for("nobody else", |told| times(told, "b") + times(told, "nobody") == 0);
        assert_eq!(proxy.stat("load_reporter.requests"), 1);
        assert!(proxy.stat("load_reporter.responses") > 3);
        assert_eq!(proxy.stat("load_reporter.errors"), 0);
        proxy.end();
    }

    fn what_comes_while_the_server_is_gone_is_told_when_it_is_back(io) {
        let mut server = LoadServer::asking_for(&["a"]);
        let (a, b) = (Upstream::answering(|_| ok(b"a")), Upstream::answering(|_| ok(b"b")));
        let proxy = started(io, &server, &a, &b);
        server.wait_for("the first", |told| times(told, "a") > 0);
        server.kill();
        // What was on its way then is lost, as in Envoy.
        until("the end of the stream is seen", || proxy.stat("load_reporter.errors") > 0);
        let mut client = proxy.connect();
        for _ in 0..7 {
            assert_eq!(client.get("/").status(), 200);
        }
        server.restart();
        server.wait_for("what has come", |told| sums(told, "a")[2] >= 7);
        wait_for_two_more(&server);
        server.wait_for("each once", |told| sums(told, "a") == [7, 0, 7]);
        assert!(proxy.stat("load_reporter.retries") > 0);
        proxy.end();
    }

    fn load_that_endpoints_report_in_headers_is_told_once_and_passes(io) {
        let server = LoadServer::asking_for(&["a"]);
        let upstream = Upstream::answering(|request| {
            let report = match request.path() {
                "/text" => "Endpoint-Load-Metrics: TEXT cpu_utilization:0.5,named_metrics.x:2,named_metrics.y:4\r\n",
                "/json" => "endpoint-load-metrics: JSON {\"cpuUtilization\": 0.25, \"utilization\": {\"u\": 8}}\r\n",
                "/bin" => "endpoint-load-metrics-bin: CQAAAAAAAPA/\r\n",
                "/bad" => "endpoint-load-metrics: TEXT cpu_utilization:1,cpu_utilization:1\r\n",
                _ => "",
            };
            format!("HTTP/1.1 200 OK\r\n{report}Content-Length: 0\r\n\r\n").into_bytes()
        });
        let metrics = "cpu_utilization, named_metrics.x, \"utilization.*\", eps, no_metric";
        let proxy = metered(io, &server, upstream.port, metrics, ["", ""]);
        server.wait_for("the first", |told| times(told, "a") > 0);
        for _ in 0..10 {
            // A connection each: both workers have some.
            let mut client = proxy.connect();
            let header = |path: &str, client: &mut crate::harness::Client| {
                client.get(path).header("endpoint-load-metrics").map(str::to_owned)
            };
            let text = header("/text", &mut client);
            assert_eq!(text.as_deref(), Some("TEXT cpu_utilization:0.5,named_metrics.x:2,named_metrics.y:4"));
            assert!(header("/json", &mut client).is_some() && header("/bad", &mut client).is_some());
            assert!(client.get("/bin").header("endpoint-load-metrics-bin").is_some());
            assert_eq!(header("/none", &mut client), None);
        }
        let expected = map([
            ("cpu_utilization", (30, 10.0 * (0.5 + 0.25 + 1.0))),
            ("eps", (30, 0.0)),
            ("named_metrics.x", (10, 20.0)),
            ("utilization.u", (10, 80.0)),
        ]);
        server.wait_for("all", |told| load(told, "a") == expected && sums(told, "a")[2] == 50);
        wait_for_two_more(&server);
        server.wait_for("each once", |told| load(told, "a") == expected);
        assert_eq!(proxy.stat("ringway.load_metrics.refused"), 0);
        proxy.end();
    }

    /// What a filter makes of trailers comes later, and those that nobody asked for are none.
    fn load_that_endpoints_report_in_trailers_is_told_unless_the_head_has_a_report(io) {
        let upstream = Upstream::answering(|request| {
            let head = if request.path() == "/both" { "endpoint-load-metrics: TEXT eps:4\r\n" } else { "" };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\n{head}Transfer-Encoding: chunked\r\n\r\n");
            let trailers = "grpc-status: 0\r\nendpoint-load-metrics: TEXT eps:1\r\n";
            [head.as_bytes(), &chunked(&[b"\0\0\0\0\x02hi"], trailers)].concat()
        });
        for (filter, kind) in [("", "grpc"), ("GrpcWeb", "grpc-web")] {
            for (options, expected) in [(TRAILERS, map([("eps", (2, 5.0))])), ("", map([("eps", (1, 4.0))]))] {
                let server = LoadServer::asking_for(&["a"]);
                let proxy = metered(io, &server, upstream.port, "eps", [filter, options]);
                server.wait_for("the first", |told| times(told, "a") > 0);
                let mut client = proxy.connect();
                for path in ["/trailers", "/both"] {
                    let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/{kind}\r\nContent-Length: 0\r\n\r\n");
                    let response = client.ask(&request);
                    assert_eq!(response.status(), 200);
                    let passed = response.trailers.iter().any(|(name, value)| {
                        name == "endpoint-load-metrics" && value == "TEXT eps:1"
                    });
                    assert_eq!(passed, filter.is_empty() && !options.is_empty(), "{kind} {options}");
                }
                server.wait_for("both", |told| sums(told, "a")[2] == 2);
                wait_for_two_more(&server);
                server.wait_for("each once", |told| load(told, "a") == expected);
                proxy.end();
            }
        }
    }

    fn load_that_endpoints_report_over_http2_is_told(io) {
        let server = LoadServer::asking_for(&["a"]);
        let upstream = Http2Upstream::start(100);
        let proxy = metered(io, &server, upstream.port, "cpu_utilization", ["", TO_HTTP2]);
        server.wait_for("the first", |told| times(told, "a") > 0);
        let client = Http2Client::connect(proxy.port);
        for _ in 0..5 {
            // It echoes trailers; without padding, as gRPC has it.
            let mut trailers = HeaderMap::new();
            trailers.insert("endpoint-load-metrics-bin", "CQAAAAAAAPA/GAc".parse().unwrap());
            let answer = client.send(Request::post("http://a/echo"), b"body", Some(trailers.clone()));
            assert_eq!((answer.status, answer.trailers), (200, Some(trailers)));
        }
        let expected = map([("cpu_utilization", (5, 5.0))]);
        server.wait_for("all", |told| load(told, "a") == expected);
        wait_for_two_more(&server);
        server.wait_for("each once", |told| load(told, "a") == expected);
        drop(client);
        proxy.end();
    }

    fn load_with_more_names_than_are_kept_is_counted_as_refused(io) {
        let server = LoadServer::asking_for(&["a"]);
        let upstream = Upstream::answering(|request| {
            let count = request.path().trim_start_matches('/').parse().unwrap();
            let names: Vec<_> = (0..count).map(|number| format!("named_metrics.n{number}:1")).collect();
            let report = format!("endpoint-load-metrics: TEXT {}", names.join(","));
            format!("HTTP/1.1 200 OK\r\n{report}\r\nContent-Length: 0\r\n\r\n").into_bytes()
        });
        let proxy = metered(io, &server, upstream.port, "\"named_metrics.*\"", ["", ""]);
        server.wait_for("the first", |told| times(told, "a") > 0);
        let mut client = proxy.connect();
        assert_eq!(client.get("/257").status(), 200);
        assert_eq!(proxy.stat("ringway.load_metrics.refused"), 1);
        assert_eq!(client.get("/256").status(), 200);
        server.wait_for("as many as are taken", |told| load(told, "a").len() == 256);
        proxy.end();
    }
}
