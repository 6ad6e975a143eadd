//! Clusters of a control plane: they come, change and go while traffic flows, and lose no request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::ToldCluster::{At, Bad, Named};
use crate::harness::{
    CLUSTERS, Config, ControlPlane, Io, Proxy, TempFolder, Upstream, free_port, on_each_backend, until,
};
use crate::xds::{HERE, answers, asking, holding, manager, named};

const FROM_THERE: &str = "{ads: {}, resource_api_version: V3}";

/// A proxy, two of its workers, whose clusters and routes come from there; it waits so long for clusters.
pub(crate) fn config(plane: &ControlPlane, wait: &str) -> Config {
    let config = Config { clusters: Some(plane.clusters(&[])), ..Config::to(0) };
    let arguments = ["--concurrency", "2", "--config-yaml", &plane.bootstrap_with_clusters(wait)];
    config.chains(&[manager(FROM_THERE)]).arguments(&arguments)
}

/// Both, everything led to the cluster `a`, which is at this endpoint.
fn started(io: Io, a: &Upstream) -> (ControlPlane, Proxy) {
    let plane = ControlPlane::start();
    plane.tell_routes(&[("/", "a")]);
    plane.tell_clusters(&[("a", At(&[a.port]))]);
    let proxy = Proxy::start(io, &config(&plane, "15s"));
    (plane, proxy)
}

on_each_backend! {
    fn nothing_is_served_before_the_clusters_are_there_and_warm(io) {
        let upstream = named("a");
        let plane = ControlPlane::start();
        plane.tell_routes(&[("/", "a")]);
        let proxy = Proxy::launch(io, &config(&plane, "15s"), free_port(), free_port());
        let asked = plane.wait_for("clusters", |asked| asked.type_url.ends_with("cluster.v3.Cluster"));
        assert!(asked.names.is_empty() && asked.nonce.is_empty() && asked.error.is_none());
        let nonce = plane.tell_clusters(&[("a", Named(""))]);
        assert!(plane.answer(&nonce).error.is_none());
        plane.wait_for("endpoints", |asked| asked.names == ["a"]);
        assert_ne!(proxy.admin("GET", "/ready").status(), 200);
        let dump = proxy.admin("GET", "/config_dump?resource=dynamic_warming_clusters").text();
        assert!(dump.contains("\"name\": \"a\""), "{dump}");
        plane.tell("a", HERE, &[upstream.port]);
        proxy.wait_for_log("serving");
        assert_eq!(proxy.connect().get("/").text(), "a");
        let dump = proxy.admin("GET", "/config_dump?resource=dynamic_active_clusters").text();
        assert!(dump.contains("\"name\": \"a\"") && dump.contains("\"version_info\": \"v2\""), "{dump}");
        assert!(proxy.admin("GET", "/clusters").text().contains("a::added_via_api::true"));
        proxy.end();
    }

    fn control_plane_without_clusters_is_not_waited_for_longer_than_asked(io) {
        let plane = ControlPlane::start();
        plane.tell_routes(&[("/", "a")]);
        let proxy = Proxy::launch(io, &config(&plane, "0.3s"), free_port(), free_port());
        proxy.wait_for_log("serving");
        let mut client = proxy.connect();
        assert_eq!(client.get("/").status(), 503);
        assert_eq!(proxy.stat("cluster_manager.cds.init_fetch_timeout"), 1);
        let upstream = named("a");
        plane.tell_clusters(&[("a", At(&[upstream.port]))]);
        answers(&mut client, 200, "a");
        proxy.end();
    }

    fn clusters_come_change_and_go_on_connections_that_stay(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started(io, &a);
        // Some on each worker.
        let mut clients: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/").text(), "a"));
        for (clusters, status, text) in [
            (&[("a", At(&[b.port][..]))][..], 200, "b"),
            (&[("other", At(&[b.port][..]))], 503, ""),
            (&[("a", At(&[])), ("other", At(&[b.port]))], 503, "no healthy upstream"),
            (&[("a", At(&[a.port]))], 200, "a"),
        ] {
            let nonce = plane.tell_clusters(clusters);
            clients.iter_mut().for_each(|client| answers(client, status, text));
            assert!(plane.answer(&nonce).error.is_none());
        }
        for (stat, value) in [
            ("cluster_manager.cds.update_success", 5),
            ("cluster_manager.cluster_added", 4),
            ("cluster_manager.cluster_modified", 2),
            ("cluster_manager.cluster_removed", 2),
            ("cluster_manager.active_clusters", 2),
            ("cluster_manager.warming_clusters", 0),
        ] {
            assert_eq!(proxy.stat(stat), value, "{stat}");
        }
        proxy.end();
    }

    /// xds.md O4: a changed cluster serves as it was until its endpoints are there.
    fn changed_cluster_serves_as_it_was_until_it_is_warm(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started(io, &a);
        let mut client = proxy.connect();
        assert!(plane.answer(&plane.tell_clusters(&[("a", Named("elsewhere"))])).error.is_none());
        plane.wait_for("endpoints", |asked| asked.names == ["elsewhere"]);
        assert_eq!(proxy.stat("cluster_manager.active_clusters"), 2);
        assert_eq!(proxy.stat("cluster.a.warming_state"), 1);
        for _ in 0..20 {
            assert_eq!(client.get("/").text(), "a");
        }
        plane.tell("elsewhere", HERE, &[b.port]);
        answers(&mut client, 200, "b");
        assert_eq!(proxy.stat("cluster.a.warming_state"), 0);
        assert_eq!(proxy.stat("cluster_manager.cluster_updated"), 0);
        plane.tell("elsewhere", HERE, &[a.port]);
        answers(&mut client, 200, "a");
        assert_eq!(proxy.stat("cluster_manager.cluster_updated"), 1);
        proxy.end();
    }

    /// xds.md O4: endpoints that are known are not waited for; control planes do not tell them again.
    fn cluster_that_shares_known_endpoints_is_warm_at_once(io) {
        let a = named("a");
        let plane = ControlPlane::start();
        plane.tell_routes(&[("/", "a")]);
        plane.tell_clusters(&[("a", Named("both"))]);
        plane.tell("both", HERE, &[a.port]);
        let proxy = Proxy::start(io, &config(&plane, "15s"));
        plane.tell_clusters(&[("a", Named("both")), ("b", Named("both"))]);
        proxy.wait_for_stat("cluster_manager.active_clusters", 3);
        plane.tell_routes(&[("/", "b")]);
        let mut client = proxy.connect();
        until("b", || client.get("/").text() == "a" && proxy.stat("cluster.b.upstream_rq_total") > 0);
        proxy.end();
    }

    fn no_request_is_lost_while_clusters_change(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started(io, &a);
        let done = Arc::new(AtomicBool::new(false));
        let clients = asking(&proxy, &done);
        let mut last = String::new();
        for turn in 0..100 {
            let port = [if turn % 2 == 0 { b.port } else { a.port }];
            let extra = format!("extra-{turn}");
            last = plane.tell_clusters(&[("a", At(&port)), (&extra, At(&port))]);
        }
        assert!(plane.answer(&last).error.is_none());
        done.store(true, Ordering::Relaxed);
        for client in clients {
            let seen = client.join().unwrap();
            assert!(seen.starts_with('a') && seen.chars().all(|name| "ab".contains(name)), "{seen}");
        }
        until("the last", || proxy.stat("cluster_manager.cds.update_success") == 101);
        assert_eq!(proxy.stat("cluster_manager.active_clusters"), 3);
        proxy.end();
    }

    fn cluster_that_cannot_be_used_is_refused_by_name_and_the_others_are_taken(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started(io, &a);
        let mut client = proxy.connect();
        let refused = plane.answer(&plane.tell_clusters(&[("a", Bad), ("b", At(&[b.port]))]));
        let reason = refused.error.unwrap().message;
        assert!(reason.starts_with("a: eds_cluster_config must be set"), "{reason}");
        let listed = || proxy.admin("GET", "/quarantine").text();
        until("the quarantine", || listed().contains("\"name\": \"a\""));
        assert!(listed().contains("eds_cluster_config must be set") && !listed().contains("\"b\""), "{}", listed());
        assert_eq!(client.get("/").text(), "a");
        plane.tell_routes(&[("/", "b")]);
        answers(&mut client, 200, "b");
        assert_eq!(proxy.stat("cluster_manager.cds.update_rejected"), 1);
        plane.tell_clusters(&[("b", At(&[b.port]))]);
        until("nothing refused is told", || !listed().contains("\"name\""));
        proxy.end();
    }

    /// A connection that lasts needs no cluster that is still there.
    fn request_that_runs_ends_on_the_cluster_that_it_began_with(io) {
        let (release, a) = holding();
        let (plane, proxy) = started(io, &a);
        let mut client = proxy.connect();
        client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
        a.wait_for_requests(1);
        plane.tell_clusters(&[]);
        answers(&mut proxy.connect(), 503, "");
        release.send(()).unwrap();
        assert_eq!(client.response().text(), "a");
        // It may be another worker's.
        answers(&mut client, 503, "");
        // Nothing of it is left, nor of its counters.
        until("the cluster is gone", || !proxy.admin("GET", "/stats").text().contains("cluster.a."));
        proxy.end();
    }

    fn without_its_control_plane_its_clusters_stay(io) {
        let (a, b) = (named("a"), named("b"));
        let (mut plane, proxy) = started(io, &a);
        let mut client = proxy.connect();
        plane.kill();
        proxy.wait_for_stat("control_plane.connected_state", 0);
        assert_eq!(client.get("/").text(), "a");
        plane.restart();
        plane.wait_for("the version that is there", |asked| asked.version == "v2" && asked.nonce.is_empty());
        plane.tell_clusters(&[("a", At(&[b.port]))]);
        answers(&mut client, 200, "b");
        proxy.end();
    }

    fn cluster_whose_time_to_live_is_over_goes_without_its_control_plane_too(io) {
        let (a, b) = (named("a"), named("b"));
        let (mut plane, proxy) = started(io, &a);
        let ports = [[a.port], [b.port]];
        let both = [("a", At(&ports[0])), ("b", At(&ports[1]))];
        plane.tell_routes(&[("/b", "b"), ("/", "a")]);
        plane.tell_clusters(&both);
        let mut client = proxy.connect();
        until("b is there", || client.get("/b").text() == "b");
        // A heartbeat may say so of what was told without a time; of the other it says nothing.
        let nonce = plane.beat(CLUSTERS, &["b"], 1);
        assert!(plane.answer(&nonce).error.is_none());
        plane.kill();
        until("b is gone", || client.get("/b").status() == 503);
        assert_eq!(client.get("/").text(), "a");
        proxy.wait_for_stat("cluster_manager.cluster_removed", 1);
        plane.tell_clusters(&both);
        plane.restart();
        until("b is there again", || client.get("/b").text() == "b");
        // Who is said to have all of a version would not be told it again.
        let asked = plane.asked().into_iter().rfind(|one| one.type_url == CLUSTERS && one.nonce.is_empty());
        assert_eq!(asked.unwrap().version, "");
        proxy.end();
    }

    fn clusters_of_a_file_follow_it(io) {
        let (a, b) = (named("a"), named("b"));
        let folder = TempFolder::new();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let put = |name: &str, text: &str| {
            std::fs::write(file("new"), text).unwrap();
            std::fs::rename(file("new"), file(name)).unwrap();
        };
        let at = |port: u16| format!("[{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {HERE}, port_value: {port}}}}}}}}}]}}]");
        let clusters = |discovery: &str| {
            format!("resources:\n- {{\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: upstream, {discovery}}}\n")
        };
        let fixed = |port: u16| clusters(&format!("load_assignment: {{cluster_name: upstream, endpoints: {}}}", at(port)));
        let source = |name: &str| format!("{{path_config_source: {{path: {}}}, resource_api_version: V3}}", file(name));
        put("clusters.yaml", &fixed(a.port));
        put("endpoints.yaml", &format!(
            "resources:\n- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: upstream\n  endpoints: {}\n",
            at(b.port)
        ));
        let dynamic = format!("{{dynamic_resources: {{cds_config: {}}}}}", source("clusters.yaml"));
        put("routes.yaml", "resources:\n- {\"@type\": type.googleapis.com/envoy.config.route.v3.RouteConfiguration, name: routes, \
             virtual_hosts: [{name: all, domains: [\"*\"], routes: [{match: {prefix: /}, route: {cluster: upstream}}]}]}\n");
        let config = Config { clusters: Some(String::new()), ..Config::to(0) };
        let config = config.chains(&[manager(&source("routes.yaml"))]).arguments(&["--config-yaml", &dynamic]);
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").text(), "a");
        put("clusters.yaml", &clusters(&format!("type: EDS, eds_cluster_config: {{eds_config: {}}}", source("endpoints.yaml"))));
        answers(&mut client, 200, "b");
        put("clusters.yaml", "resources: [");
        proxy.wait_for_stat("cluster_manager.cds.update_rejected", 1);
        assert_eq!(client.get("/").text(), "b");
        put("clusters.yaml", "resources: []");
        answers(&mut client, 503, "");
        proxy.end();
    }
}
