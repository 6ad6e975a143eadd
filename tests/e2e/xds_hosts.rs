//! Virtual hosts of a control plane, told by themselves (VHDS): they stand in their table with the next request, and no connection
//! notices.

use crate::harness::{
    Client, Config, ControlPlane, HOSTS, Http2Client, Proxy, Upstream, cluster_to, free_port, ok,
    on_each_backend, until,
};
use crate::xds::{manager, named};

/// The filter with which requests ask for virtual hosts.
const ON_DEMAND: &str = r#"{name: ask, typed_config: {
    "@type": type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand}}"#;

/// A proxy, two of its workers, whose routes come from there, to the clusters `a` and `b`.
fn config(plane: &ControlPlane, a: &Upstream, b: &Upstream) -> Config {
    with_chain(plane, a, b, manager("{ads: {}, resource_api_version: V3}"))
}

/// The same with that filter.
fn asking_config(plane: &ControlPlane, a: &Upstream, b: &Upstream) -> Config {
    let chain = manager("{ads: {}, resource_api_version: V3}");
    with_chain(plane, a, b, chain.replace("http_filters: [", &format!("http_filters: [{ON_DEMAND}, ")))
}

fn with_chain(plane: &ControlPlane, a: &Upstream, b: &Upstream, chain: String) -> Config {
    let [a, b] = [("a", a.port), ("b", b.port)].map(|(name, port)| format!("{{{}}}", cluster_to(name, port)));
    let clusters = [plane.clusters(&[]), a, b].join(", ");
    let config = Config { clusters: Some(clusters), ..Config::to(0) };
    config.chains(&[chain]).arguments(&["--concurrency", "2", "--config-yaml", &plane.bootstrap()])
}

/// How a request to that host is answered.
fn answer(client: &mut Client, host: &str) -> (u16, String) {
    let response = client.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    (response.status(), response.text())
}

/// Waits until requests to that host are answered so on all connections.
fn all_are_answered(clients: &mut [Client], host: &str, status: u16, text: &str) {
    for client in clients {
        until(host, || answer(client, host) == (status, text.to_owned()));
    }
}

on_each_backend! {
    fn virtual_hosts_of_a_control_plane_come_change_and_go_on_all_workers(io) {
        let (a, b, plane) = (named("a"), named("b"), ControlPlane::start());
        plane.tell_hosted_table();
        let proxy = Proxy::launch(io, &config(&plane, &a, &b), free_port(), free_port());
        let first = plane.wait_for("virtual hosts", |asked| asked.type_url == HOSTS);
        assert!(first.names.is_empty() && first.nonce.is_empty(), "all of them: {first:?}");
        assert_ne!(proxy.admin("GET", "/ready").status(), 200, "the start waits for them");
        let both = plane.tell_hosts(&[("routes/a", "a.test", "a"), ("routes/b", "b.test", "b")], &[]);
        assert!(plane.answer(&both).error.is_none());
        proxy.wait_for_log("serving");
        let mut clients: Vec<_> = (0..16).map(|_| proxy.connect()).collect();
        all_are_answered(&mut clients, "a.test", 200, "a");
        all_are_answered(&mut clients, "b.test", 200, "b");
        all_are_answered(&mut clients, "c.test", 404, "");
        assert!(plane.answer(&plane.tell_hosts(&[("routes/a", "a.test", "b")], &["routes/b"])).error.is_none());
        all_are_answered(&mut clients, "a.test", 200, "b");
        all_are_answered(&mut clients, "b.test", 404, "");
        // What does not go with the others is refused by name, and nothing changes.
        let reason = plane.answer(&plane.tell_hosts(&[("routes/c", "a.test", "a")], &[])).error.unwrap().message;
        assert!(reason.starts_with("routes/c: with the others of routes: "), "{reason}");
        assert!(proxy.admin("GET", "/quarantine").text().contains("route.v3.VirtualHost"));
        all_are_answered(&mut clients, "a.test", 200, "b");
        let dump = proxy.admin("GET", "/config_dump?resource=dynamic_route_configs").text();
        for part in ["\"vhds\"", "\"routes/a\"", "\"a.test\""] {
            assert!(dump.contains(part), "{part}: {dump}");
        }
        assert!(!dump.contains("routes/b") && !dump.contains("routes/c"), "{dump}");
        for (stat, value) in [("update_success", 2), ("update_rejected", 1), ("update_attempt", 4), ("config_reload", 2)] {
            assert_eq!(proxy.stat(&format!("http.test.vhds.routes.{stat}")), value, "{stat}");
        }
        assert_eq!(proxy.stat("http.test.downstream_cx_total"), 16, "all connections have stayed");
        drop(clients);
        proxy.end();
    }

    /// A request waits for the virtual host of its host, which is asked for once, however many wait for it on whatever worker.
    fn requests_ask_for_virtual_hosts_that_are_not_there(io) {
        let (a, b, plane) = (named("a"), named("b"), ControlPlane::start());
        plane.tell_hosted_table();
        plane.tell_hosts(&[("routes/b.test", "b.test", "b")], &[]);
        let proxy = Proxy::start(io, &asking_config(&plane, &a, &b));
        let mut clients: Vec<_> = (0..16).map(|_| proxy.connect()).collect();
        all_are_answered(&mut clients, "b.test", 200, "b");
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: A.test\r\n\r\n");
        }
        proxy.wait_for_stat("ringway.on_demand_vhds.held", 16);
        plane.wait_for("a.test", |asked| asked.type_url == HOSTS && asked.names == ["routes/a.test"]);
        let told = plane.tell_hosts(&[("routes/a.test", "a.test", "a")], &[]);
        assert!(plane.answer(&told).error.is_none());
        for client in &mut clients {
            let response = client.response();
            assert_eq!((response.status(), response.text()), (200, "a".to_owned()));
        }
        let all = plane.asked();
        assert_eq!(all.iter().filter(|asked| asked.names == ["routes/a.test"]).count(), 1);
        // Of this one there is none.
        let client = &mut clients[0];
        client.send("GET / HTTP/1.1\r\nHost: c.test:80\r\n\r\n");
        plane.wait_for("c.test", |asked| asked.names == ["routes/c.test:80"]);
        plane.tell_hosts(&[], &["routes/c.test:80"]);
        assert_eq!(client.response().status(), 404);
        // What is no name is not asked for.
        assert_eq!(answer(client, "a~b").0, 404);
        assert_eq!(answer(client, "a.test"), (200, "a".to_owned()));
        for (stat, value) in [("held", 17), ("refused", 1), ("timeout", 0)] {
            assert_eq!(proxy.stat(&format!("ringway.on_demand_vhds.{stat}")), value, "{stat}");
        }
        drop(clients);
        proxy.end();
    }

    /// The body of a request waits with it, over HTTP/2 it is the same, and who goes is not waited for.
    fn requests_that_wait_for_virtual_hosts_lose_nothing_and_may_go(io) {
        let (echo, b, plane) = (Upstream::answering(|request| ok(&request.body)), named("b"), ControlPlane::start());
        plane.tell_hosted_table();
        plane.tell_hosts(&[("routes/b.test", "b.test", "b")], &[]);
        let proxy = Proxy::start(io, &asking_config(&plane, &echo, &b));
        let (mut client, body) = (proxy.connect(), "x".repeat(20_000));
        client.send(format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        plane.wait_for("a.test", |asked| asked.names == ["routes/a.test"]);
        plane.tell_hosts(&[("routes/a.test", "a.test", "a")], &[]);
        let response = client.response_to("POST");
        assert_eq!((response.status(), response.text()), (200, body));
        let port = proxy.ports().0;
        let asking = std::thread::spawn(move || Http2Client::connect(port).get("/").status);
        plane.wait_for("a", |asked| asked.names == ["routes/a"]);
        plane.tell_hosts(&[("routes/a", "a", "b")], &[]);
        assert_eq!(asking.join().unwrap(), 200);
        let mut gone = proxy.connect();
        gone.send("GET / HTTP/1.1\r\nHost: gone.test\r\n\r\n");
        plane.wait_for("gone.test", |asked| asked.names == ["routes/gone.test"]);
        drop(gone);
        proxy.wait_for_stat("http.test.downstream_rq_active", 0);
        assert_eq!(proxy.stat("ringway.on_demand_vhds.timeout"), 0);
        drop(client);
        proxy.end();
    }

    /// Whatever brings routes for their hosts: a virtual host of another name, or a table that has all of its own.
    fn requests_that_wait_for_virtual_hosts_go_on_with_what_there_is(io) {
        let (a, b, plane) = (named("a"), named("b"), ControlPlane::start());
        plane.tell_hosted_table();
        plane.tell_hosts(&[("routes/b.test", "b.test", "b")], &[]);
        let proxy = Proxy::start(io, &asking_config(&plane, &a, &b));
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        plane.wait_for("a.test", |asked| asked.names == ["routes/a.test"]);
        plane.tell_hosts(&[("routes/another", "a.test", "a")], &[]);
        let response = client.response();
        assert_eq!((response.status(), response.text()), (200, "a".to_owned()));
        client.send("GET / HTTP/1.1\r\nHost: c.test\r\n\r\n");
        plane.wait_for("c.test", |asked| asked.names == ["routes/c.test"]);
        plane.tell_routes(&[("/", "b")]);
        let response = client.response();
        assert_eq!((response.status(), response.text()), (200, "b".to_owned()));
        for (stat, value) in [("held", 2), ("timeout", 0)] {
            assert_eq!(proxy.stat(&format!("ringway.on_demand_vhds.{stat}")), value, "{stat}");
        }
        drop(client);
        proxy.end();
    }

    /// They outlive their table's own changes, and the control plane.
    fn virtual_hosts_stay_when_the_table_or_the_stream_goes(io) {
        let (a, b, mut plane) = (named("a"), named("b"), ControlPlane::start());
        plane.tell_hosted_table();
        plane.tell_hosts(&[("routes/a", "a.test", "a")], &[]);
        let proxy = Proxy::start(io, &config(&plane, &a, &b));
        let mut client = proxy.connect();
        assert_eq!(answer(&mut client, "a.test"), (200, "a".to_owned()));
        plane.kill();
        proxy.wait_for_stat("control_plane.connected_state", 0);
        assert_eq!(answer(&mut client, "a.test"), (200, "a".to_owned()));
        // A table without them has its own, and with them those that are there.
        plane.restart();
        plane.tell_routes(&[("/", "b")]);
        until("the table's own", || answer(&mut client, "a.test") == (200, "b".to_owned()));
        plane.tell_hosted_table();
        until("those told", || answer(&mut client, "a.test") == (200, "a".to_owned()));
        assert_eq!(answer(&mut client, "b.test").0, 404);
        drop(client);
        proxy.end();
    }
}
