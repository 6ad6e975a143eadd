//! Load reports: what workers have counted is told to whoever asks, each request once.

use crate::harness::{
    Config, Io, LoadServer, Proxy, Report, Upstream, cluster_to, ok, on_each_backend, until,
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
}
