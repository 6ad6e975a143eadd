//! Endpoints and routes of a control plane: they come, change and go while traffic flows; without it everything stays as it
//! was.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::harness::{
    Client, Config, ControlPlane, Http2Client, Io, Proxy, TempFolder, Upstream, free_port, ok,
    on_each_backend, until,
};

pub(crate) const HERE: &str = "127.0.0.1";

/// A filter chain whose routes come from @source@.
const MANAGER: &str = r#"{filters: [{name: manager, typed_config: {
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
        stat_prefix: test, upgrade_configs: [{upgrade_type: websocket}],
        rds: {route_config_name: routes, config_source: @source@},
        http_filters: [{name: router, typed_config: {
            "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}"#;

/// A filter chain whose routes come from there.
pub(crate) fn manager(source: &str) -> String {
    MANAGER.replace("@source@", source)
}

/// Clients that ask until it is done, and are always answered; by whom, each says in the end.
pub(crate) fn asking(proxy: &Proxy, done: &Arc<AtomicBool>) -> Vec<JoinHandle<String>> {
    let ask = |_| {
        let (mut client, done) = (proxy.connect(), Arc::clone(done));
        // Before anything changes.
        let mut seen = client.get("/").text();
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let response = client.get("/");
                assert_eq!(response.status(), 200);
                seen.push_str(&response.text());
            }
            seen
        })
    };
    (0..3).map(ask).collect()
}

/// A proxy, two of its workers, whose one cluster has its endpoints from there.
fn config(plane: &ControlPlane) -> Config {
    let config = Config { clusters: Some(plane.clusters(&["upstream"])), ..Config::to(0) };
    config.arguments(&["--concurrency", "2", "--config-yaml", &plane.bootstrap()])
}

/// One whose routes come from there, too, to the clusters `a` and `b`.
fn config_with_routes(plane: &ControlPlane) -> Config {
    let chain = manager("{ads: {}, resource_api_version: V3}");
    let config = Config { clusters: Some(plane.clusters(&["a", "b"])), ..Config::to(0) };
    config.chains(&[chain]).arguments(&["--concurrency", "2", "--config-yaml", &plane.bootstrap()])
}

/// Both, with endpoints and a route for everything.
fn started_with_routes(io: Io, a: &Upstream, b: &Upstream) -> (ControlPlane, Proxy) {
    let plane = ControlPlane::start();
    plane.tell_routes(&[("/", "a")]);
    let proxy = Proxy::launch(io, &config_with_routes(&plane), free_port(), free_port());
    plane.wait_for("endpoints", |asked| asked.names == ["a", "b"]);
    plane.tell("a", HERE, &[a.port]);
    plane.tell("b", HERE, &[b.port]);
    proxy.wait_for_log("serving");
    (plane, proxy)
}

pub(crate) fn named(name: &'static str) -> Upstream {
    Upstream::answering(move |_| ok(name.as_bytes()))
}

/// One that says "a", to a request for `/held` only once it may.
pub(crate) fn holding() -> (Sender<()>, Upstream) {
    let (release, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::answering(move |request| {
        if request.path() == "/held" {
            wait.lock().unwrap().recv().unwrap();
        }
        ok(b"a")
    });
    (release, upstream)
}

/// Both, the endpoint told before the proxy asks.
fn started(io: Io, upstream: &Upstream) -> (ControlPlane, Proxy) {
    let plane = ControlPlane::start();
    plane.tell("upstream", HERE, &[upstream.port]);
    let proxy = Proxy::start(io, &config(&plane));
    (plane, proxy)
}

/// Waits until this answer comes on a connection.
pub(crate) fn answers(client: &mut Client, status: u16, text: &str) {
    until(&format!("{status} {text}"), || {
        let response = client.get("/");
        response.status() == status && (text.is_empty() || response.text() == text)
    });
}

on_each_backend! {
    fn nothing_is_served_before_the_endpoints_are_there(io) {
        let upstream = named("a");
        let plane = ControlPlane::start();
        let proxy = Proxy::launch(io, &config(&plane), free_port(), free_port());
        let asked = plane.wait_for("endpoints", |asked| asked.type_url.ends_with("ClusterLoadAssignment"));
        assert_eq!((asked.names, asked.nonce), (vec!["upstream".to_owned()], String::new()));
        let ready = proxy.admin("GET", "/ready");
        assert_eq!((ready.status(), &*ready.text()), (503, "PRE_INITIALIZING\n"));
        assert_eq!(proxy.stat("cluster.upstream.warming_state"), 1);
        let nonce = plane.tell("upstream", HERE, &[upstream.port]);
        proxy.wait_for_log("serving");
        assert_eq!(proxy.stat("cluster.upstream.warming_state"), 0);
        assert_eq!(proxy.connect().get("/").text(), "a");
        let answer = plane.answer(&nonce);
        assert!(answer.error.is_none() && answer.version == "v1", "{answer:?}");
        proxy.end();
    }

    fn endpoints_change_and_go_on_connections_that_stay(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started(io, &a);
        // Some on each worker.
        let mut clients: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/").text(), "a"));
        for (ports, status, text) in [
            (&[b.port][..], 200, "b"),
            (&[], 503, "no healthy upstream"),
            (&[a.port], 200, "a"),
        ] {
            let nonce = plane.tell("upstream", HERE, ports);
            clients.iter_mut().for_each(|client| answers(client, status, text));
            assert!(plane.answer(&nonce).error.is_none());
        }
        assert_eq!(proxy.stat("cluster.upstream.update_success"), 4);
        assert_eq!(proxy.stat("cluster_manager.cluster_updated"), 3, "the first are those that it begins with");
        assert_eq!(proxy.stat("cluster.upstream.membership_total"), 1);
        proxy.end();
    }

    fn no_request_is_lost_while_endpoints_change(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started(io, &a);
        let done = Arc::new(AtomicBool::new(false));
        let clients = asking(&proxy, &done);
        for turn in 0..100 {
            plane.tell("upstream", HERE, &[if turn % 2 == 0 { b.port } else { a.port }]);
        }
        assert!(plane.answer("n101").error.is_none());
        done.store(true, Ordering::Relaxed);
        for client in clients {
            let seen = client.join().unwrap();
            assert!(seen.starts_with('a') && seen.chars().all(|name| "ab".contains(name)), "{seen}");
        }
        assert_eq!(proxy.stat("cluster.upstream.update_success"), 101);
        proxy.end();
    }

    fn endpoints_that_cannot_be_used_are_refused_by_name_and_the_old_ones_stay(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started(io, &a);
        let mut client = proxy.connect();
        let refused = plane.answer(&plane.tell("upstream", "nowhere.test", &[1]));
        let reason = refused.error.unwrap().message;
        assert!(reason.starts_with("upstream: endpoints[0].lb_endpoints[0].endpoint.address"), "{reason}");
        assert_eq!(refused.version, "v1");
        assert_eq!(client.get("/").text(), "a");
        assert_eq!(proxy.stat("cluster.upstream.update_rejected"), 1);
        let nonce = plane.tell("upstream", HERE, &[b.port]);
        answers(&mut client, 200, "b");
        assert!(plane.answer(&nonce).error.is_none());
        proxy.end();
    }

    fn without_its_control_plane_it_serves_on_and_finds_it_again(io) {
        let (a, b) = (named("a"), named("b"));
        let (mut plane, proxy) = started(io, &a);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").text(), "a");
        assert_eq!(proxy.stat("control_plane.connected_state"), 1);
        plane.kill();
        proxy.wait_for_stat("control_plane.connected_state", 0);
        for _ in 0..20 {
            assert_eq!(client.get("/").text(), "a");
        }
        assert_eq!(proxy.connect().get("/").text(), "a");
        plane.restart();
        plane.wait_for("the version that is there", |asked| asked.version == "v1" && asked.nonce.is_empty());
        plane.tell("upstream", HERE, &[b.port]);
        answers(&mut client, 200, "b");
        proxy.end();
    }

    fn nothing_is_served_before_the_routes_are_there(io) {
        let upstream = named("a");
        let plane = ControlPlane::start();
        let proxy = Proxy::launch(io, &config_with_routes(&plane), free_port(), free_port());
        plane.wait_for("routes", |asked| asked.names == ["routes"]);
        for cluster in ["a", "b"] {
            assert!(plane.answer(&plane.tell(cluster, HERE, &[upstream.port])).error.is_none());
        }
        until("routes alone are waited for", || proxy.admin("GET", "/ready").text() == "INITIALIZING\n");
        assert_eq!(proxy.admin("GET", "/ready").status(), 503);
        plane.tell_routes(&[("/", "a")]);
        proxy.wait_for_log("serving");
        assert_eq!(proxy.connect().get("/").text(), "a");
        proxy.end();
    }

    fn routes_change_at_the_next_request_of_a_connection(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started_with_routes(io, &a, &b);
        let mut clients: Vec<_> = (0..4).map(|_| proxy.connect()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(client.get("/").text(), "a"));
        for (routes, status, text) in [
            (&[("/", "b")][..], 200, "b"),
            (&[("/elsewhere", "b")], 404, ""),
            (&[("/", "nowhere")], 503, ""),
            (&[("/elsewhere", "b"), ("/", "a")], 200, "a"),
        ] {
            let nonce = plane.tell_routes(routes);
            clients.iter_mut().for_each(|client| answers(client, status, text));
            assert!(plane.answer(&nonce).error.is_none());
        }
        assert_eq!(proxy.stat("http.test.rds.routes.update_success"), 5);
        let dump = proxy.admin("GET", "/config_dump?resource=dynamic_route_configs").text();
        assert!(dump.contains("\"version_info\": \"v7\"") && dump.contains("\"/elsewhere\""), "{dump}");
        proxy.end();
    }

    fn request_that_runs_keeps_its_routes_and_the_next_has_others(io) {
        let (release, a) = holding();
        let b = named("b");
        let (plane, proxy) = started_with_routes(io, &a, &b);
        let mut client = proxy.connect();
        client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
        a.wait_for_requests(1);
        plane.tell_routes(&[("/", "b")]);
        answers(&mut proxy.connect(), 200, "b");
        release.send(()).unwrap();
        assert_eq!(client.response().text(), "a");
        // It may be another worker's.
        answers(&mut client, 200, "b");
        proxy.end();
    }

    fn streams_of_one_connection_have_the_routes_of_their_beginning(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started_with_routes(io, &a, &b);
        let client = Http2Client::connect(proxy.ports().0);
        assert_eq!(client.get("/").body, b"a");
        plane.tell_routes(&[("/", "b")]);
        until("b", || client.get("/").body == b"b");
        proxy.end();
    }

    fn table_that_cannot_be_used_is_refused_and_the_old_one_stays(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started_with_routes(io, &a, &b);
        let mut client = proxy.connect();
        let refused = plane.answer(&plane.tell_routes(&[("no-slash-and-no-cluster", "")]));
        assert!(refused.error.unwrap().message.starts_with("routes: "));
        assert_eq!(client.get("/").text(), "a");
        assert!(plane.answer(&plane.tell_routes(&[("/", "b")])).error.is_none());
        answers(&mut client, 200, "b");
        proxy.end();
    }

    fn no_request_is_lost_while_routes_change(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started_with_routes(io, &a, &b);
        let done = Arc::new(AtomicBool::new(false));
        let clients = asking(&proxy, &done);
        let mut last = String::new();
        for turn in 0..100 {
            last = plane.tell_routes(&[("/elsewhere", "nowhere"), ("/", if turn % 2 == 0 { "b" } else { "a" })]);
        }
        assert!(plane.answer(&last).error.is_none());
        done.store(true, Ordering::Relaxed);
        for client in clients {
            let seen = client.join().unwrap();
            assert!(seen.starts_with('a') && seen.chars().all(|name| "ab".contains(name)), "{seen}");
        }
        proxy.end();
    }

    /// Connections without a request hold no table, whichever they were served by.
    fn tables_that_no_request_uses_are_freed(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started_with_routes(io, &a, &b);
        let mut clients: Vec<_> = (0..30).map(|_| proxy.connect()).collect();
        let table = |turn: usize| {
            let paths: Vec<_> = (0..2000).map(|route| format!("/{turn}/some/path/{route}")).collect();
            let mut routes: Vec<_> = paths.iter().map(|path| (path.as_str(), "b")).collect();
            routes.push(("/", "a"));
            plane.tell_routes(&routes)
        };
        let mut settled = 0;
        for (turn, client) in clients.iter_mut().enumerate() {
            let nonce = table(turn);
            assert!(plane.answer(&nonce).error.is_none());
            let path = format!("/{turn}/some/path/7");
            until("the new table", || client.get(&path).text() == "b");
            if turn == 5 {
                settled = proxy.resident_bytes();
            }
        }
        // A table takes about a megabyte; 24 have come since, and two may still be there.
        until("the tables are gone", || proxy.resident_bytes() < settled + 12 * 1024 * 1024);
        assert_eq!(clients[0].get("/0/some/path/7").text(), "a");
        proxy.end();
    }

    fn endpoints_and_routes_of_files_follow_them(io) {
        let (a, b) = (named("a"), named("b"));
        let folder = TempFolder::new();
        let file = |name: &str| folder.path().join(name);
        let put = |name: &str, text: &str| {
            std::fs::write(file("new"), text).unwrap();
            std::fs::rename(file("new"), file(name)).unwrap();
        };
        let endpoints = |port: u16| {
            format!(
                "version_info: x\nresources:\n- \"@type\": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  \
                 cluster_name: upstream\n  endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: \
                 {{address: {HERE}, port_value: {port}}}}}}}}}]}}]\n"
            )
        };
        let routes = |prefix: &str| {
            format!(
                "resources:\n- \"@type\": type.googleapis.com/envoy.config.route.v3.RouteConfiguration\n  name: routes\n  \
                 virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: {prefix}}}, \
                 route: {{cluster: upstream}}}}]}}]\n"
            )
        };
        put("endpoints.yaml", &endpoints(a.port));
        put("routes.yaml", &routes("/"));
        let source = |name: &str| {
            let path = file(name).display().to_string();
            format!("{{path_config_source: {{path: {path}}}, resource_api_version: V3}}")
        };
        let chain = manager(&source("routes.yaml"));
        let cluster = format!(
            "{{name: upstream, type: EDS, connect_timeout: 5s, eds_cluster_config: {{eds_config: {}}}}}",
            source("endpoints.yaml")
        );
        let config = Config { clusters: Some(cluster), ..Config::to(0) }.chains(&[chain]);
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").text(), "a");
        put("endpoints.yaml", &endpoints(b.port));
        answers(&mut client, 200, "b");
        put("routes.yaml", &routes("/elsewhere"));
        answers(&mut client, 404, "");
        // Neither what cannot be read nor what is wrong changes anything.
        put("routes.yaml", "resources: [");
        put("endpoints.yaml", &endpoints(a.port).replace(HERE, "nowhere.test"));
        proxy.wait_for_stat("http.test.rds.routes.update_rejected", 1);
        proxy.wait_for_stat("cluster.upstream.update_rejected", 1);
        assert_eq!(client.get("/elsewhere").text(), "b");
        put("routes.yaml", &routes("/"));
        answers(&mut client, 200, "b");
        proxy.end();
    }
}
