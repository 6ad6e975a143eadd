//! Scopes of routes of a control plane (SRDS): each with a table that is asked for as long as a scope names it; a change is live for the
//! next request of every connection.

use crate::harness::{
    Client, Config, ControlPlane, HOSTS, Proxy, SCOPES, TempFolder, Upstream, cluster_to, free_port,
    on_each_backend, told_scope, until,
};
use crate::xds::named;

const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const ADS: &str = "{ads: {}, resource_api_version: V3}";

/// A proxy whose scopes are told by this source, and go by the header `x-scope`.
fn config(plane: &ControlPlane, source: &str, upstreams: [&Upstream; 2]) -> Config {
    let [a, b] = upstreams.map(|upstream| upstream.port);
    let own = plane.clusters(&[]);
    let clusters = format!("{own}, {{{}}}, {{{}}}", cluster_to("a", a), cluster_to("b", b));
    let mut config = Config { clusters: Some(clusters), ..Config::to(0) };
    config.scoped_routes = Some(format!(
        "{{name: s, scope_key_builder: {{fragments: [{{header_value_extractor: {{name: x-scope, index: 0}}}}]}}, \
         rds_config_source: {ADS}, scoped_rds: {{scoped_rds_config_source: {source}}}}}"
    ));
    config.arguments(&["--concurrency", "2", "--config-yaml", &plane.bootstrap()])
}

/// Tells these scopes: names, keys and tables; the response's nonce.
fn tell(plane: &ControlPlane, scopes: &[(&str, &str, &str)]) -> String {
    plane.push(SCOPES, scopes.iter().map(|(name, key, table)| told_scope(name, key, table)).collect())
}

/// Waits until just these tables are asked for.
fn asks_for(plane: &ControlPlane, tables: &[&str]) {
    plane.wait_for("tables", |asked| asked.type_url == ROUTES && asked.names == tables);
}

/// Who answers a request of that scope; 404: nobody.
fn ask(client: &mut Client, scope: &str) -> String {
    let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-Scope: {scope}\r\n\r\n"));
    if answer.status() == 200 { answer.text() } else { answer.status().to_string() }
}

on_each_backend! {
    fn scopes_of_a_control_plane_are_live_with_their_tables(io) {
        let (a, b, plane) = (named("a"), named("b"), ControlPlane::start());
        let proxy = Proxy::launch(io, &config(&plane, ADS, [&a, &b]), free_port(), free_port());
        let first = plane.wait_for("scopes", |asked| asked.type_url == SCOPES);
        assert!(first.names.is_empty() && first.nonce.is_empty(), "all there are");
        assert_ne!(proxy.admin("GET", "/ready").status(), 200, "the start waits for them");
        let nonce = tell(&plane, &[("first", "one", "t"), ("second", "two", "u"), ("third", "three", "t")]);
        assert!(plane.answer(&nonce).error.is_none());
        asks_for(&plane, &["t", "u"]);
        assert_ne!(proxy.admin("GET", "/ready").status(), 200, "and for their tables");
        plane.tell_tables(&[("t", "a"), ("u", "b")]);
        proxy.wait_for_log("serving");
        let mut clients: Vec<_> = (0..16).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            for (scope, by) in [("one", "a"), ("two", "b"), ("three", "a"), ("four", "404")] {
                until(scope, || ask(client, scope) == by);
            }
        }
        // Another table of one scope, and the key of another.
        plane.tell_tables(&[("t", "b")]);
        tell(&plane, &[("first", "one", "t"), ("second", "four", "v")]);
        asks_for(&plane, &["t", "v"]);
        for client in &mut clients {
            for (scope, by) in [("one", "b"), ("two", "404"), ("three", "404"), ("four", "404")] {
                until(scope, || ask(client, scope) == by);
            }
        }
        plane.tell_tables(&[("v", "a")]);
        clients.iter_mut().for_each(|client| until("the late table", || ask(client, "four") == "a"));
        assert_eq!(proxy.stat("http.test.downstream_cx_total"), 16, "all connections have stayed");
        for (stat, value) in [
            ("config_reload", 2), ("update_success", 2), ("update_attempt", 3), ("update_rejected", 0), ("update_empty", 0),
            ("all_scopes", 2), ("active_scopes", 2), ("on_demand_scopes", 0),
        ] {
            assert_eq!(proxy.stat(&format!("http.test.scoped_rds.s.{stat}")), value, "{stat}");
        }
        drop(clients);
        proxy.end();
    }

    /// As Envoy: nobody could say which of two scopes a request is in.
    fn scopes_that_do_not_agree_are_refused_and_the_last_ones_stay(io) {
        let (a, b, plane) = (named("a"), named("b"), ControlPlane::start());
        tell(&plane, &[("first", "one", "t")]);
        plane.tell_tables(&[("t", "a")]);
        let proxy = Proxy::start(io, &config(&plane, ADS, [&a, &b]));
        let mut client = proxy.connect();
        until("the scope", || ask(&mut client, "one") == "a");
        let refused = plane.answer(&tell(&plane, &[("second", "two", "t"), ("third", "two", "t")]));
        let message = refused.error.unwrap().message;
        let reason = "Error adding/updating scoped route(s): scope key conflict found, first scope is 'second', \
                      second scope is 'third'";
        assert!(message.contains(reason), "{message}");
        assert!(proxy.admin("GET", "/quarantine").text().contains("ScopedRouteConfiguration"));
        assert_eq!([ask(&mut client, "one"), ask(&mut client, "two")], ["a", "404"], "nothing has changed");
        assert_eq!(proxy.stat("http.test.scoped_rds.s.update_rejected"), 1);
        let dump = || proxy.admin("GET", "/config_dump?resource=dynamic_scoped_route_configs").text();
        for part in ["DynamicScopedRouteConfigs", "\"name\": \"s\"", "\"first\"", "\"one\"", "NACKED", "scope key conflict"] {
            assert!(dump().contains(part), "{part}: {}", dump());
        }
        assert!(plane.answer(&tell(&plane, &[("second", "one", "t")])).error.is_none(), "removals come first");
        until("the other scope", || dump().contains("\"second\"") && !dump().contains("\"first\""));
        assert!(dump().contains("ACKED") && !dump().contains("NACKED"));
        assert_eq!(ask(&mut client, "one"), "a");
        assert!(!proxy.admin("GET", "/quarantine").text().contains("ScopedRouteConfiguration"));
        drop(client);
        proxy.end();
    }

    /// A scope's table waits for virtual hosts that are told by themselves (VHDS), and changes with them.
    fn table_of_a_scope_has_virtual_hosts_told_by_themselves(io) {
        let (a, b, plane) = (named("a"), named("b"), ControlPlane::start());
        tell(&plane, &[("first", "one", "routes")]);
        plane.tell_hosted_table();
        let proxy = Proxy::launch(io, &config(&plane, ADS, [&a, &b]), free_port(), free_port());
        plane.wait_for("virtual hosts", |asked| asked.type_url == HOSTS);
        assert_ne!(proxy.admin("GET", "/ready").status(), 200, "the start waits for them");
        plane.tell_hosts(&[("routes/a", "a", "a")], &[]);
        proxy.wait_for_log("serving");
        let mut clients: Vec<_> = (0..16).map(|_| proxy.connect()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(ask(client, "one"), "a", "they are there from the start"));
        plane.tell_hosts(&[("routes/a", "a", "b")], &[]);
        clients.iter_mut().for_each(|client| until("the change", || ask(client, "one") == "b"));
        // A scope that comes later shares the table, with what is there of it; the table stays as long as one has it.
        tell(&plane, &[("second", "two", "routes")]);
        for client in &mut clients {
            until("the other scope", || ask(client, "two") == "b");
            assert_eq!(ask(client, "one"), "404");
        }
        plane.tell_hosts(&[], &["routes/a"]);
        clients.iter_mut().for_each(|client| until("the end of it", || ask(client, "two") == "404"));
        for (stat, value) in [("config_reload", 3), ("update_success", 3), ("update_rejected", 0)] {
            assert_eq!(proxy.stat(&format!("http.test.vhds.routes.{stat}")), value, "{stat}");
        }
        assert_eq!(proxy.stat("http.test.downstream_cx_total"), 16, "all connections have stayed");
        drop(clients);
        proxy.end();
    }

    fn scopes_that_do_not_come_keep_nobody_from_the_start(io) {
        let (a, b, plane) = (named("a"), named("b"), ControlPlane::start());
        let source = "{ads: {}, resource_api_version: V3, initial_fetch_timeout: 0.3s}";
        let proxy = Proxy::launch(io, &config(&plane, source, [&a, &b]), free_port(), free_port());
        proxy.wait_for_log("serving");
        let mut client = proxy.connect();
        assert_eq!(ask(&mut client, "one"), "404");
        assert_eq!(proxy.stat("http.test.scoped_rds.s.init_fetch_timeout"), 1);
        tell(&plane, &[("first", "one", "t")]);
        plane.tell_tables(&[("t", "a")]);
        until("late scopes", || ask(&mut client, "one") == "a");
        drop(client);
        proxy.end();
    }

    /// With `--xds-cache` the last ones are there before any control plane answers.
    fn last_scopes_are_there_at_the_next_start(io) {
        let (a, b, mut plane, folder) = (named("a"), named("b"), ControlPlane::start(), TempFolder::new());
        let cache = folder.path().join("cache");
        let config = config(&plane, ADS, [&a, &b]).arguments(&["--xds-cache", cache.to_str().unwrap()]);
        tell(&plane, &[("first", "one", "t")]);
        plane.tell_tables(&[("t", "a")]);
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        until("the scope", || ask(&mut client, "one") == "a");
        drop(client);
        proxy.end();
        plane.kill();
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        until("the scope that was kept", || ask(&mut client, "one") == "a");
        drop(client);
        proxy.end();
    }
}
