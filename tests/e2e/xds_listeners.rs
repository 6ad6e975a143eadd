//! Listeners of a control plane: they come, change and go while traffic flows, and lose no connection that they need not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::ToldCluster::{At, Named};
use crate::harness::{
    Authority, Client, Config, ControlPlane, Io, Proxy, TempFolder, TlsClient, Upstream, downstream_tls,
    free_port, on_each_backend, until, upstream_tls,
};
use crate::tcp::filter;
use crate::xds::{HERE, answers, asking, holding, named};

/// A proxy, two of its workers, whose listeners, clusters and routes come from there.
fn config(plane: &ControlPlane, wait: &str) -> Config {
    let config = Config { clusters: Some(plane.clusters(&[])), no_listener: true, ..Config::to(0) };
    let bootstrap = plane.bootstrap_with_listeners(wait);
    config.arguments(&["--concurrency", "2", "--config-yaml", &bootstrap])
}

/// Both, with a listener at the proxy's port that leads everything to the cluster `a`.
fn started(io: Io, a: &Upstream) -> (ControlPlane, Proxy) {
    let plane = ControlPlane::start();
    let port = free_port();
    plane.tell_clusters(&[("a", At(&[a.port]))]);
    plane.tell_listeners(&[("one", port.into(), "routes")]);
    plane.tell_routes(&[("/", "a")]);
    let proxy = Proxy::launch(io, &config(&plane, "15s"), port, free_port());
    proxy.wait_for_log("serving");
    (plane, proxy)
}

/// Nobody listens at that port any more.
pub(crate) fn refuses(port: u16) -> bool {
    Client::try_connect(port).is_err()
}

/// Listeners of a file, as their fields in flow style without the name, and the proxy that follows them.
pub(crate) struct Followed {
    folder: TempFolder,
    pub(crate) proxy: Proxy,
}

impl Followed {
    pub(crate) fn start(
        io: Io,
        upstream: &Upstream,
        listeners: &[(&str, String)],
        arguments: &[&str],
    ) -> Self {
        let folder = TempFolder::new();
        put(&folder, listeners);
        let dynamic = following(&folder);
        let config = Config { no_listener: true, ..Config::to(upstream.port) };
        let config = config.arguments(&["--config-yaml", &dynamic]).arguments(arguments);
        let proxy = Proxy::launch(io, &config, free_port(), free_port());
        proxy.wait_for_log("serving");
        Self { folder, proxy }
    }

    pub(crate) fn put(&self, listeners: &[(&str, String)]) {
        put(&self.folder, listeners);
    }
}

/// Bootstrap, on the command line, of a proxy that follows the file there.
pub(crate) fn following(folder: &TempFolder) -> String {
    format!(
        "{{dynamic_resources: {{lds_config: {{path_config_source: {{path: {}}}, resource_api_version: V3}}}}}}",
        folder.path().join("listeners.yaml").display()
    )
}

/// Puts a file of these listeners, as their fields in flow style, in place of the one that was there.
pub(crate) fn put(folder: &TempFolder, listeners: &[(&str, String)]) {
    let mut text = "resources:\n".to_owned();
    for (name, fields) in listeners {
        text.push_str(&format!(
            "- {{\"@type\": type.googleapis.com/envoy.config.listener.v3.Listener, name: {name}, {fields}}}\n"
        ));
    }
    let new = folder.path().join("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, folder.path().join("listeners.yaml")).unwrap();
}

/// A listener at that port with this chain, and a mark in the header `x-mark` of every response.
pub(crate) fn http(port: u16, mark: &str) -> String {
    http_at(&address(port), mark)
}

/// The same at that address, which is a field.
pub(crate) fn http_at(address: &str, mark: &str) -> String {
    format!(
        "{address}, filter_chains: [{{filters: [{{name: manager, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
         stat_prefix: test, route_config: {{response_headers_to_add: [{{header: {{key: x-mark, value: {mark}}}}}], \
         virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, route: {{cluster: upstream}}}}]}}]}}, \
         http_filters: [{{name: router, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]"
    )
}

fn tcp(port: u16) -> String {
    format!(
        "{}, filter_chains: [{{filters: [{{name: tcp, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: upstream}}}}]}}]",
        address(port)
    )
}

fn address(port: u16) -> String {
    format!("address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}")
}

/// Waits until responses have that mark, on a connection that stays.
fn marked(client: &mut Client, mark: &str) {
    until(mark, || {
        let response = client.get("/");
        assert_eq!(response.status(), 200);
        response.header("x-mark") == Some(mark)
    });
}

on_each_backend! {
    fn nothing_is_served_before_listeners_and_their_routes_are_there(io) {
        let upstream = named("a");
        let plane = ControlPlane::start();
        plane.tell_clusters(&[("a", At(&[upstream.port]))]);
        let proxy = Proxy::launch(io, &config(&plane, "15s"), free_port(), free_port());
        let asked = plane.wait_for("listeners", |asked| asked.type_url.ends_with("listener.v3.Listener"));
        assert!(asked.names.is_empty() && asked.nonce.is_empty() && asked.error.is_none());
        let nonce = plane.tell_listeners(&[("one", proxy.port.into(), "routes")]);
        assert!(plane.answer(&nonce).error.is_none());
        plane.wait_for("routes", |asked| asked.names == ["routes"]);
        assert_ne!(proxy.admin("GET", "/ready").status(), 200);
        assert!(refuses(proxy.port));
        let dump = proxy.admin("GET", "/config_dump?resource=dynamic_listeners").text();
        assert!(dump.contains("\"name\": \"one\"") && dump.contains("warming_state"), "{dump}");
        plane.tell_routes(&[("/", "a")]);
        proxy.wait_for_log("serving");
        assert_eq!(proxy.connect().get("/").text(), "a");
        let dump = proxy.admin("GET", "/config_dump?resource=dynamic_listeners").text();
        assert!(dump.contains("active_state") && !dump.contains("warming_state"), "{dump}");
        let shown = proxy.admin("GET", "/listeners").text();
        assert_eq!(shown, format!("one::127.0.0.1:{}\n", proxy.port));
        proxy.end();
    }

    fn control_plane_without_listeners_is_not_waited_for_longer_than_asked(io) {
        let upstream = named("a");
        let plane = ControlPlane::start();
        plane.tell_clusters(&[("a", At(&[upstream.port]))]);
        let proxy = Proxy::launch(io, &config(&plane, "0.3s"), free_port(), free_port());
        proxy.wait_for_log("serving");
        assert_eq!(proxy.stat("listener_manager.lds.init_fetch_timeout"), 1);
        plane.tell_listeners(&[("one", proxy.port.into(), "routes")]);
        plane.wait_for("routes", |asked| asked.names == ["routes"]);
        plane.tell_routes(&[("/", "a")]);
        until("the listener", || !refuses(proxy.port));
        answers(&mut proxy.connect(), 200, "a");
        proxy.end();
    }

    fn listeners_come_and_go(io) {
        let a = named("a");
        let (plane, proxy) = started(io, &a);
        let (port, other) = (u32::from(proxy.port), free_port());
        let mut client = proxy.connect();
        assert_eq!(client.get("/").text(), "a");
        let nonce = plane.tell_listeners(&[("one", port, "routes"), ("two", other.into(), "routes")]);
        assert!(plane.answer(&nonce).error.is_none());
        until("the second", || !refuses(other));
        // Its table is known, and nobody tells it again.
        assert_eq!(Client::connect(other).get("/").text(), "a");
        plane.tell_listeners(&[("two", other.into(), "routes")]);
        until("the first is gone", || refuses(proxy.port));
        assert_eq!(proxy.stat("listener_manager.total_listeners_draining"), 1);
        assert_eq!(Client::connect(other).get("/").text(), "a");
        plane.tell_table("routes", &[("/", "nowhere")]);
        answers(&mut Client::connect(other), 503, "");
        for (stat, value) in [
            ("listener_manager.lds.update_success", 3),
            ("listener_manager.listener_added", 2),
            ("listener_manager.listener_removed", 1),
            ("listener_manager.total_listeners_active", 1),
            ("listener_manager.total_listeners_warming", 0),
        ] {
            assert_eq!(proxy.stat(stat), value, "{stat}");
        }
        proxy.end();
    }

    /// xds.md O5: a changed listener serves as it was until the routes of its successor are there.
    fn changed_listener_serves_as_it_was_until_it_has_its_routes(io) {
        let (a, b) = (named("a"), named("b"));
        let (plane, proxy) = started(io, &a);
        let mut client = proxy.connect();
        assert_eq!(client.get("/").text(), "a");
        plane.tell_clusters(&[("a", At(&[a.port])), ("b", At(&[b.port]))]);
        plane.tell_listeners(&[("one", proxy.port.into(), "others")]);
        plane.wait_for("the other routes", |asked| asked.names.iter().any(|name| name == "others"));
        assert_eq!(proxy.stat("listener_manager.total_listeners_warming"), 1);
        for _ in 0..20 {
            assert_eq!(client.get("/").text(), "a");
            assert_eq!(proxy.connect().get("/").text(), "a");
        }
        plane.tell_table("others", &[("/", "b")]);
        // On the connection that was there, and on new ones.
        answers(&mut client, 200, "b");
        answers(&mut proxy.connect(), 200, "b");
        plane.wait_for("the first routes no more", |asked| asked.names == ["others"]);
        assert_eq!(proxy.stat("listener_manager.listener_modified"), 1);
        proxy.end();
    }

    fn no_request_is_lost_while_listeners_change(io) {
        let a = named("a");
        let (plane, proxy) = started(io, &a);
        let done = Arc::new(AtomicBool::new(false));
        let clients = asking(&proxy, &done);
        let (port, other) = (u32::from(proxy.port), free_port());
        plane.tell_table("others", &[("/", "a")]);
        let mut last = String::new();
        for turn in 0..100 {
            let table = if turn % 2 == 0 { "others" } else { "routes" };
            let mut listeners = vec![("one", port, table)];
            if turn % 3 == 0 {
                listeners.push(("two", other.into(), "routes"));
            }
            last = plane.tell_listeners(&listeners);
            plane.tell_table(table, &[("/", "a")]);
        }
        assert!(plane.answer(&last).error.is_none());
        until("the last", || proxy.stat("listener_manager.lds.update_success") == 101);
        done.store(true, Ordering::Relaxed);
        for client in clients {
            let seen = client.join().unwrap();
            assert!(seen.chars().all(|name| name == 'a') && !seen.is_empty(), "{seen}");
        }
        proxy.end();
    }

    fn listener_that_cannot_be_used_is_refused_by_name_and_the_others_are_taken(io) {
        let a = named("a");
        let (plane, proxy) = started(io, &a);
        let other = free_port();
        let refused = plane.answer(&plane.tell_listeners(&[("one", 70_000, "routes"), ("two", other.into(), "routes")]));
        let reason = refused.error.unwrap().message;
        assert!(reason.starts_with("one: address.socket_address.port_value"), "{reason}");
        until("the other", || !refuses(other));
        assert_eq!(proxy.connect().get("/").text(), "a");
        let listed = || proxy.admin("GET", "/quarantine").text();
        until("the quarantine", || listed().contains("\"name\": \"one\""));
        assert_eq!(proxy.stat("listener_manager.lds.update_rejected"), 1);
        plane.tell_listeners(&[("one", proxy.port.into(), "routes")]);
        until("nothing refused is told", || !listed().contains("\"name\""));
        assert_eq!(proxy.connect().get("/").text(), "a");
        proxy.end();
    }

    fn without_its_control_plane_its_listeners_stay(io) {
        let a = named("a");
        let (mut plane, proxy) = started(io, &a);
        let mut client = proxy.connect();
        plane.kill();
        proxy.wait_for_stat("control_plane.connected_state", 0);
        assert_eq!(client.get("/").text(), "a");
        assert_eq!(proxy.connect().get("/").text(), "a");
        plane.restart();
        plane.wait_for("the version that is there", |asked| {
            asked.type_url.ends_with("Listener") && asked.version == "v2" && asked.nonce.is_empty()
        });
        assert_eq!(client.get("/").text(), "a");
        proxy.end();
    }

    /// Both show a certificate, and a control plane that cannot is not heard.
    fn control_plane_is_asked_under_mutual_tls(io) {
        let a = named("a");
        let authority = Authority::of(&["plane.example", "proxy.example"]);
        let common = format!("{}, {}", authority.shown("proxy.example"), authority.trusted());
        let fields = upstream_tls("sni: plane.example,", &common);
        let mut plane = ControlPlane::start_protected(authority.server("plane.example"), fields);
        let port = free_port();
        plane.tell_clusters(&[("a", At(&[a.port]))]);
        plane.tell_listeners(&[("one", port.into(), "routes")]);
        plane.tell_routes(&[("/", "a")]);
        let proxy = Proxy::launch(io, &config(&plane, "15s"), port, free_port());
        proxy.wait_for_log("serving");
        assert_eq!(proxy.connect().get("/").text(), "a");
        // The proxy trusts another now.
        authority.is_replaced();
        plane.kill();
        plane.restart();
        proxy.wait_for_log("invalid peer certificate");
        assert_eq!(proxy.stat("control_plane.connected_state"), 0);
        assert_eq!(proxy.connect().get("/").text(), "a");
        proxy.end();
    }

    /// With `--xds-cache` a process that starts serves what the one before it had, before any control plane answers.
    fn kept_resources_serve_while_no_control_plane_answers(io) {
        let (a, b) = (named("a"), named("b"));
        let (folder, port) = (TempFolder::new(), free_port());
        let mut plane = ControlPlane::start();
        plane.tell_clusters(&[("a", Named("endpoints"))]);
        plane.tell("endpoints", HERE, &[a.port]);
        plane.tell_listeners(&[("one", port.into(), "routes")]);
        plane.tell_routes(&[("/", "a")]);
        let cache = folder.path().join("cache");
        let config = config(&plane, "15s").arguments(&["--xds-cache", cache.to_str().unwrap()]);
        let start = || {
            let proxy = Proxy::launch(io, &config, port, free_port());
            proxy.wait_for_log("serving");
            proxy
        };
        let first = start();
        assert_eq!(first.connect().get("/").text(), "a");
        first.end();
        plane.kill();
        let second = start();
        second.wait_for_log("are used until the control plane answers");
        let mut client = second.connect();
        assert_eq!(client.get("/").text(), "a");
        assert_eq!(second.stat("listener_manager.lds.update_success"), 0);
        plane.restart();
        plane.wait_for("the version that was kept", |asked| {
            asked.type_url.ends_with("Listener") && asked.version == "v3" && asked.nonce.is_empty()
        });
        plane.tell("endpoints", HERE, &[b.port]);
        answers(&mut client, 200, "b");
        second.end();
        // Damaged, it is not used, and set aside.
        let file = cache.join("resources");
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let third = start();
        third.wait_for_log("nothing of it is used");
        assert_eq!(third.connect().get("/").text(), "b");
        assert_eq!(std::fs::read(cache.join("resources.damaged")).unwrap(), bytes);
        third.end();
    }

    /// The client is told to go with its last response, and what runs is answered.
    fn connections_of_a_listener_that_is_gone_end_in_order(io) {
        let (release, a) = holding();
        let (plane, proxy) = started(io, &a);
        let (mut held, mut idle) = (proxy.connect(), proxy.connect());
        assert_eq!(idle.get("/").text(), "a");
        held.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
        a.wait_for_requests(2);
        plane.tell_listeners(&[]);
        until("the listener is gone", || refuses(proxy.port));
        release.send(()).unwrap();
        assert_eq!(held.response().text(), "a");
        // The drain time of these tests is ten seconds, and idle clients go a second later.
        until("told to go", || {
            let Ok(Some(response)) = idle.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").and_then(|()| idle.any_response_to("GET")) else {
                return true;
            };
            response.header("connection") == Some("close")
        });
        proxy.end();
    }

    fn listeners_of_a_file_follow_it_on_connections_that_stay(io) {
        let a = named("a");
        let (port, other) = (free_port(), free_port());
        let followed = Followed::start(io, &a, &[("one", http(port, "first"))], &[]);
        let mut client = Client::connect(port);
        marked(&mut client, "first");
        followed.put(&[("one", http(port, "second"))]);
        marked(&mut client, "second");
        let draining = ["filter_chains", "listeners"].map(|what| format!("listener_manager.total_{what}_draining"));
        assert_eq!([1, 0], draining.each_ref().map(|name| followed.proxy.stat(name)), "but for its chain it stays");
        // Another address, which has statistics of its own: the old one is left, its client told so in time.
        followed.put(&[("one", http(other, "third"))]);
        until("the old address is left", || refuses(port));
        assert_eq!(followed.proxy.stat(&draining[1]), 1);
        marked(&mut Client::connect(other), "third");
        followed.put(&[]);
        until("none is left", || refuses(other));
        followed.proxy.end();
    }

    /// What is relayed has no request at which it could change: it stays as it was, for life.
    fn relayed_connection_outlives_its_listener(io) {
        let a = named("a");
        let port = free_port();
        let followed = Followed::start(io, &a, &[("one", tcp(port))], &[]);
        let mut client = Client::connect(port);
        assert_eq!(client.get("/").text(), "a");
        followed.put(&[("one", http(port, "http"))]);
        until("new connections are not relayed", || {
            Client::connect(port).get("/").header("x-mark") == Some("http")
        });
        assert_eq!(client.get("/").text(), "a");
        followed.put(&[]);
        until("none is left", || refuses(port));
        assert_eq!(client.get("/").text(), "a");
        drop(client);
        followed.proxy.end();
    }

    /// With `check_drain_close` it goes where its chain does, or its listener, and stays where others change.
    fn relayed_connection_that_heeds_drains_goes_with_its_chain(io) {
        let a = named("a");
        let port = free_port();
        let chain = |name: &str, source: &str, more: &str| format!(
            "{{name: {name}, filter_chain_match: {{source_prefix_ranges: [{{address_prefix: {source}, prefix_len: 32}}]}}, \
             filters: [{{name: tcp, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
             stat_prefix: tcp, cluster: upstream, check_drain_close: true{more}}}}}]}}"
        );
        let told = |own: &str, other: &str| [("one", format!("{}, filter_chains: [{other}, {own}]", address(port)))];
        let own = chain("own", "127.0.0.1", "");
        let followed = Followed::start(io, &a, &told(&own, &chain("other", "127.0.0.2", "")), &["--drain-strategy", "immediate"]);
        let is_served = |client: &mut Client| {
            client.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok() && matches!(client.any_response_to("GET"), Ok(Some(_)))
        };
        let mut client = Client::connect(port);
        assert!(is_served(&mut client));
        followed.put(&told(&own, &chain("other", "127.0.0.3", "")));
        followed.proxy.wait_for_stat("listener_manager.listener_modified", 1);
        let mut later = Client::connect(port);
        assert!((0..20).all(|_| is_served(&mut client) && is_served(&mut later)));
        followed.put(&told(&chain("own", "127.0.0.1", ", idle_timeout: 60s"), &chain("other", "127.0.0.3", "")));
        for client in [&mut client, &mut later] {
            until("its chain is another", || !is_served(client));
        }
        followed.proxy.wait_for_stat("tcp.tcp.downstream_cx_drain_close", 2);
        let mut last = Client::connect(port);
        assert!(is_served(&mut last));
        followed.put(&[]);
        // Its counters go with it.
        until("its listener is gone", || !is_served(&mut last));
        followed.proxy.end();
    }

    /// It was acknowledged, and given up after a second; the control plane never heard of it, and telling it again changed nothing.
    fn listener_whose_address_is_taken_is_refused_and_taken_when_it_is_told_again(io) {
        let a = named("a");
        let (plane, proxy) = started(io, &a);
        // None of those that outgoing connections are given: it is to be free once it is given back.
        let (in_use, free) = (free_port(), free_port());
        let taken = std::net::TcpListener::bind(("127.0.0.1", in_use)).unwrap();
        let told = [("one", in_use.into(), "routes"), ("two", free.into(), "routes"), ("three", in_use.into(), "routes")];
        for times in 1..=2 {
            let reason = plane.answer(&plane.tell_listeners(&told)).error.unwrap().message;
            for name in ["one", "three"] {
                assert!(reason.contains(&format!("{name}: cannot listen on 127.0.0.1:{in_use}: Address already in use")), "{reason}");
            }
            assert!(!reason.contains("two"), "{reason}");
            assert_eq!(proxy.stat("listener_manager.listener_create_failure"), 2 * times);
        }
        until("the good one", || !refuses(free));
        assert_eq!(proxy.connect().get("/").text(), "a");
        let listed = || proxy.admin("GET", "/quarantine").text();
        until("the quarantine", || listed().contains("\"name\": \"three\""));
        let dump = proxy.admin("GET", "/config_dump").text();
        assert!(dump.contains("error_state") && dump.contains("failed_configuration") && dump.contains("Address already in use"), "{dump}");
        drop(taken);
        let told = [("one", in_use.into(), "routes"), ("two", free.into(), "routes")];
        assert!(plane.answer(&plane.tell_listeners(&told)).error.is_none());
        assert_eq!(Client::connect(in_use).get("/").text(), "a");
        until("nothing refused is told", || !listed().contains("\"name\""));
        assert!(!proxy.admin("GET", "/config_dump").text().contains("error_state"));
        until("the place that it had", || refuses(proxy.port));
        proxy.end();
    }

    /// A listener waits for its routes; meanwhile somebody else takes its port.
    fn listener_whose_address_is_lost_while_it_waits_is_given_up_and_taken_when_it_is_told_again(io) {
        let a = named("a");
        let (plane, proxy) = started(io, &a);
        let port = free_port();
        let told = [("one", proxy.port.into(), "routes"), ("two", port.into(), "others")];
        assert!(plane.answer(&plane.tell_listeners(&told)).error.is_none());
        plane.wait_for("its routes", |asked| asked.names.iter().any(|name| name == "others"));
        let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        plane.tell_table("others", &[("/", "a")]);
        proxy.wait_for_stat("listener_manager.listener_create_failure", 1);
        assert!(proxy.admin("GET", "/quarantine").text().contains("\"name\": \"two\""));
        let dump = proxy.admin("GET", "/config_dump?resource=dynamic_listeners").text();
        assert!(dump.contains("error_state") && !dump.contains("warming_state"), "{dump}");
        drop(taken);
        assert!(plane.answer(&plane.tell_listeners(&told)).error.is_none());
        // Nobody has asked for its table any more.
        plane.tell_table("others", &[("/", "a")]);
        until("it listens", || !refuses(port));
        assert_eq!(Client::connect(port).get("/").text(), "a");
        proxy.end();
    }

    fn listener_that_waits_when_listeners_stop_is_not_opened_any_more(io) {
        let a = named("a");
        let (plane, proxy) = started(io, &a);
        let late = free_port();
        let told = [("one", proxy.port.into(), "routes"), ("two", late.into(), "late")];
        assert!(plane.answer(&plane.tell_listeners(&told)).error.is_none());
        plane.wait_for("its routes", |asked| asked.names.iter().any(|name| name == "late"));
        assert_eq!(proxy.admin("POST", "/drain_listeners").status(), 200);
        until("listeners have stopped", || refuses(proxy.port));
        plane.tell_table("late", &[("/", "a")]);
        let dump = |list: &str| proxy.admin("GET", &format!("/config_dump?resource={list}")).text();
        let is_there = || dump("dynamic_route_configs").matches("version_info").count() == 2;
        until("its routes are there", is_there);
        assert!(refuses(late) && dump("dynamic_listeners").contains("warming_state"));
        proxy.end();
    }

    /// As in Envoy, which takes those of other directions, and one that has turned from inbound into such a one.
    fn listener_that_is_told_after_inbound_ones_have_stopped_is_opened_unless_it_is_inbound(io) {
        let a = named("a");
        let [first, second, third] = [(); 3].map(|()| free_port());
        let inbound = |port, mark: &str| http(port, mark) + ", traffic_direction: INBOUND";
        let followed = Followed::start(io, &a, &[("in", inbound(first, "in"))], &[]);
        let proxy = &followed.proxy;
        marked(&mut Client::connect(first), "in");
        assert_eq!(proxy.admin("POST", "/drain_listeners?inboundonly").status(), 200);
        until("it has stopped", || refuses(first));
        let out = || ("out", http(third, "out"));
        followed.put(&[("in", inbound(first, "changed")), ("new", inbound(second, "new")), out()]);
        until("the other one", || !refuses(third));
        marked(&mut Client::connect(third), "out");
        assert!(refuses(first) && refuses(second));
        assert_eq!(proxy.stat("listener_manager.lds.update_rejected"), 0);
        followed.put(&[("in", http(first, "turned")), out()]);
        until("it accepts again", || !refuses(first));
        marked(&mut Client::connect(first), "turned");
        followed.put(&[out()]);
        until("it is gone", || refuses(first));
        followed.proxy.end();
    }

    /// What changes of how it binds did not come before: its own sockets had the address.
    fn listener_that_binds_otherwise_at_its_address_is_taken(io) {
        let a = named("a");
        let port = free_port();
        let followed = Followed::start(io, &a, &[("one", http(port, "first"))], &[]);
        followed.put(&[("one", http(port, "second") + ", tcp_backlog_size: 77")]);
        // Who waits at the old socket as it is closed is reset.
        let is_second = |mut client: Client| {
            client.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok()
                && matches!(client.any_response_to("GET"), Ok(Some(response)) if response.header("x-mark") == Some("second"))
        };
        until("the other one", || Client::try_connect(port).is_ok_and(is_second));
        assert_eq!(followed.proxy.stat("listener_manager.listener_create_failure"), 0);
        followed.proxy.end();
    }

    /// As in Envoy, where the buckets of a `share_key` are the process's.
    fn listener_that_is_told_shares_the_bucket_of_one_of_the_bootstrap(io) {
        let (a, folder, port) = (named("a"), TempFolder::new(), free_port());
        let limit = "{name: limit, typed_config: {\
            \"@type\": type.googleapis.com/envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit, \
            stat_prefix: slow, share_key: one, token_bucket: {max_tokens: 2, fill_interval: 3600s}}}";
        let answer = "{name: answer, typed_config: {\
            \"@type\": type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config, \
            response: {inline_string: hi}}}";
        let told = format!("{}, filter_chains: [{{filters: [{limit}, {answer}]}}]", address(port));
        put(&folder, &[("two", told)]);
        let config = Config::to(a.port).network_filter(limit).arguments(&["--config-yaml", &following(&folder)]);
        let proxy = Proxy::start(io, &config);
        assert_eq!(Client::connect(port).read_to_end(), b"hi");
        assert_eq!(proxy.connect().get("/").text(), "a");
        Client::connect(port).expect_closed();
        proxy.connect().expect_closed();
        assert_eq!(proxy.stat("local_rate_limit.slow.rate_limited"), 2);
        proxy.end();
    }

    /// As in Envoy, which keeps a chain that has not changed with its filters.
    fn limit_of_a_chain_goes_on_when_another_chain_changes(io) {
        let a = named("a");
        let (port, other) = (free_port(), free_port());
        let limit = filter("connection_limit", "ConnectionLimit", "stat_prefix: few, max_connections: 1");
        let echo = filter("echo", "Echo", "");
        let listener = |text: &str| {
            let answer = filter("direct_response", "Config", &format!("response: {{inline_string: {text}}}"));
            format!(
                "{}, additional_addresses: [{{{}}}], filter_chains: [{{filter_chain_match: {{destination_port: {port}}}, \
                 filters: [{limit}, {echo}]}}], default_filter_chain: {{filters: [{answer}]}}",
                address(port),
                address(other)
            )
        };
        let followed = Followed::start(io, &a, &[("one", listener("first"))], &[]);
        let mut first = Client::connect(port);
        first.send("x");
        assert_eq!(first.read(1), b"x");
        Client::connect(port).expect_closed();
        followed.put(&[("one", listener("second"))]);
        until("the other chain", || Client::connect(other).read_to_end() == b"second");
        Client::connect(port).expect_closed();
        assert_eq!(followed.proxy.stat("connection_limit.few.limited_connections"), 2);
        drop(first);
        followed.proxy.wait_for_stat("connection_limit.few.active_connections", 0);
        let mut next = Client::connect(port);
        next.send("y");
        assert_eq!(next.read(1), b"y");
        drop(next);
        followed.proxy.end();
    }

    /// As in Envoy, which keeps a chain that has not changed with its TLS context.
    fn sessions_of_a_chain_are_resumed_when_another_chain_has_changed(io) {
        let (a, authority) = (named("a"), Authority::of(&["server.example"]));
        let (port, other) = (free_port(), free_port());
        let tls = downstream_tls("", &authority.shown("server.example"));
        let begin = format!("filter_chains: [{{filter_chain_match: {{destination_port: {port}}}, {tls}, filters");
        let listener = |text: &str| {
            let chains = http(port, "kept").replace("filter_chains: [{filters", &begin);
            let answer = filter("direct_response", "Config", &format!("response: {{inline_string: {text}}}"));
            format!(
                "{chains}, additional_addresses: [{{{}}}], default_filter_chain: {{filters: [{answer}]}}",
                address(other)
            )
        };
        // One worker: it has the change once it is seen.
        let followed = Followed::start(io, &a, &[("one", listener("first"))], &["--concurrency", "1"]);
        let sessions = authority.client(&[], rustls::ALL_VERSIONS);
        let is_resumed = || {
            let mut client = TlsClient::with(port, sessions.clone(), "server.example");
            let response = client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(response.header("x-mark"), Some("kept"));
            client.is_resumed()
        };
        assert_eq!([is_resumed(), is_resumed()], [false, true]);
        for text in ["second", "third"] {
            followed.put(&[("one", listener(text))]);
            until(text, || Client::connect(other).read_to_end() == text.as_bytes());
            assert!(is_resumed(), "after the {text} change");
        }
        followed.proxy.end();
    }

    /// A listener of the bootstrap is not replaced, as in Envoy.
    fn listener_of_the_bootstrap_is_passed_over(io) {
        let a = named("a");
        let folder = TempFolder::new();
        let other = free_port();
        put(&folder, &[("test", http(other, "told")), ("two", http(other, "two"))]);
        let config = Config::to(a.port).arguments(&["--config-yaml", &following(&folder)]);
        let proxy = Proxy::start(io, &config);
        assert_eq!(proxy.connect().get("/").header("x-mark"), None);
        marked(&mut Client::connect(other), "two");
        assert_eq!(proxy.stat("listener_manager.total_listeners_active"), 2);
        proxy.end();
    }
}
