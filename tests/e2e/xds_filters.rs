//! HTTP filters of a control plane or a file (ECDS): they are live on all workers with the next request, and no connection
//! notices.

use crate::harness::ToldCluster::At;
use crate::harness::{
    Client, Config, ControlPlane, FILTERS, Proxy, TempFolder, Upstream, cluster_to, free_port,
    on_each_backend, told_denial, told_filter, until,
};
use crate::upstream_failures::log_to;
use crate::xds::named;
use crate::xds_listeners::{following, put};

const ADS: &str = "{ads: {}, resource_api_version: V3}";
const TYPES: &str = "type_urls: [type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, \
    type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb]";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";

/// A filter that is told from this source, with these fields more.
fn told(name: &str, source: &str, more: &str) -> String {
    format!("{{name: {name}, config_discovery: {{config_source: {source}, {TYPES}, {more}}}}}, ")
}

/// Fields of a default that denies requests whose paths begin so.
fn default_denial(prefix: &str) -> String {
    format!(
        "default_config: {{\"@type\": {HTTP}.rbac.v3.RBAC, rules: {{action: DENY, policies: {{p: {{permissions: \
         [{{url_path: {{path: {{prefix: {prefix}}}}}}}], principals: [{{any: true}}]}}}}}}}}"
    )
}

/// Fields of a listener at that port, with these routes and fields of its manager and with these filters before the router.
fn web(port: u16, manager: &str, filters: &str) -> String {
    format!(
        "address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, filter_chains: [{{filters: [{{name: manager, \
         typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
         stat_prefix: test, {manager}, http_filters: [{filters} {{name: router, typed_config: {{\"@type\": {ROUTER}}}}}]}}}}]}}]"
    )
}

/// A bootstrap whose listeners come from a file there.
fn with_listeners(bootstrap: &str, folder: &TempFolder) -> String {
    let own = following(folder);
    let own = own.strip_prefix("{dynamic_resources: {").and_then(|rest| rest.strip_suffix("}}")).unwrap();
    bootstrap.replace("dynamic_resources: {", &format!("dynamic_resources: {{{own}, "))
}

/// A proxy, two of its workers, with these filters before the router.
fn config(plane: &ControlPlane, upstream: &Upstream, filters: &str) -> Config {
    let clusters = format!("{}, {{{}}}", plane.clusters(&[]), cluster_to("upstream", upstream.port));
    let config = Config { clusters: Some(clusters), filters: filters.to_owned(), ..Config::to(0) };
    config.arguments(&["--concurrency", "2", "--config-yaml", &plane.bootstrap()])
}

fn tell(plane: &ControlPlane, prefix: &str) -> String {
    plane.push(FILTERS, vec![told_denial("access", prefix)])
}

/// Connections of clients, so many that each worker has some.
fn clients(proxy: &Proxy) -> Vec<Client> {
    (0..16).map(|_| proxy.connect()).collect()
}

/// Waits until all of them are answered so.
fn all_get(clients: &mut [Client], path: &str, status: u16) {
    for client in clients {
        until(path, || client.get(path).status() == status);
    }
}

on_each_backend! {
    fn filters_of_a_control_plane_are_live_on_all_workers(io) {
        let (upstream, plane) = (named("a"), ControlPlane::start());
        let proxy = Proxy::launch(io, &config(&plane, &upstream, &told("access", ADS, "")), free_port(), free_port());
        let first = plane.wait_for("the filter", |asked| asked.type_url == FILTERS);
        assert_eq!((first.names, first.nonce), (vec!["access".to_owned()], String::new()));
        assert_ne!(proxy.admin("GET", "/ready").status(), 200, "the start waits for it");
        assert!(plane.answer(&tell(&plane, "/b")).error.is_none());
        proxy.wait_for_log("serving");
        let mut clients = clients(&proxy);
        all_get(&mut clients, "/b", 403);
        all_get(&mut clients, "/", 200);
        plane.answer(&tell(&plane, "/c"));
        all_get(&mut clients, "/c", 403);
        all_get(&mut clients, "/b", 200);
        // What cannot stand there is refused by name, and nothing changes; the same once more is no change.
        for (value, reason) in [
            (told_filter("access", ROUTER, Vec::new()), "access: has the type envoy.extensions.filters.http.router.v3.Router, and "),
            (told_filter("access", &format!("{HTTP}.fault.v3.HTTPFault"), Vec::new()), "access: typed_config: Envoy field"),
        ] {
            let answer = plane.answer(&plane.push(FILTERS, vec![value])).error.unwrap().message;
            assert!(answer.starts_with(reason), "{answer}");
            assert!(proxy.admin("GET", "/quarantine").text().contains("TypedExtensionConfig"));
        }
        plane.answer(&tell(&plane, "/c"));
        assert!(!proxy.admin("GET", "/quarantine").text().contains("TypedExtensionConfig"));
        all_get(&mut clients, "/c", 403);
        assert_eq!(proxy.stat("http.test.downstream_cx_total"), 16, "all connections have stayed");
        for (stat, value) in [
            ("config_reload", 2), ("config_fail", 2), ("config_conflict", 0), ("update_success", 3), ("update_rejected", 2),
            ("update_attempt", 6),
        ] {
            assert_eq!(proxy.stat(&format!("extension_config_discovery.http_filter.access.{stat}")), value, "{stat}");
        }
        let denied = proxy.stat("extension_config_discovery.http_filter.access.rbac.denied");
        assert!(denied >= 48, "counted below the filter's name: {denied}");
        let dump = proxy.admin("GET", "/config_dump?resource=ecds_filters").text();
        for part in ["EcdsConfigDump.EcdsFilterConfig", "\"version_info\": \"v", "\"name\": \"access\"", "rbac.v3.RBAC", "\"/c\""] {
            assert!(dump.contains(part), "{part}: {dump}");
        }
        drop(clients);
        proxy.end();
    }

    /// One response is one change: no request meets a part of it.
    fn filters_of_one_response_change_as_one(io) {
        let (upstream, plane) = (named("a"), ControlPlane::start());
        let filters = [told("access", ADS, ""), told("more", ADS, "")].concat();
        let tell = |first: &str, second: &str| {
            plane.push(FILTERS, vec![told_denial("more", second), told_denial("access", first)])
        };
        tell("/a", "/b");
        let proxy = Proxy::start(io, &config(&plane, &upstream, &filters));
        let mut client = proxy.connect();
        assert_eq!([client.get("/a").status(), client.get("/b").status()], [403, 403]);
        tell("/c", "/d");
        until("the first", || client.get("/c").status() == 403);
        assert_eq!(["/d", "/a", "/b"].map(|path| client.get(path).status()), [403, 200, 200]);
        let asked = plane.wait_for("both", |asked| asked.type_url == FILTERS);
        assert_eq!(asked.names, ["access", "more"]);
        proxy.end();
    }

    /// Without a filter requests are answered 500, after the filters before it have had their say; a route may turn it off.
    fn filter_that_does_not_come_is_missed_and_said_so(io) {
        let (upstream, plane, folder) = (named("a"), ControlPlane::start(), TempFolder::new());
        let path = folder.path().join("access.log");
        let soon = "{ads: {}, resource_api_version: V3, initial_fetch_timeout: 0.3s}";
        let before = told("before", soon, &default_denial("/no"));
        let mut config = config(&plane, &upstream, &[before, told("access", soon, "")].concat())
            .manager(&log_to(&path, "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%"))
            .arguments(&["--file-flush-interval-msec", "20"]);
        let off = "typed_per_filter_config: {access: {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}";
        config.routes = Some(format!(
            "{{match: {{prefix: /off}}, route: {{cluster: upstream}}, {off}}}, {{match: {{prefix: /}}, route: {{cluster: upstream}}}}"
        ));
        let proxy = Proxy::launch(io, &config, free_port(), free_port());
        proxy.wait_for_log("serving");
        let mut client = proxy.connect();
        for (path, status) in [("/", 500), ("/no", 403), ("/off", 200)] {
            assert_eq!(client.get(path).status(), status, "{path}");
        }
        for stat in ["init_fetch_timeout", "config_fail"] {
            assert_eq!(proxy.stat(&format!("extension_config_discovery.http_filter.access.{stat}")), 1, "{stat}");
        }
        plane.push(FILTERS, vec![told_denial("access", "/no")]);
        until("the filter", || client.get("/").status() == 200);
        until("the lines", || std::fs::read_to_string(&path).is_ok_and(|text| text.lines().count() >= 3));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().take(3).collect();
        assert_eq!(lines, [
            "/ 500 NFCF -",
            "/no 403 - rbac_access_denied_matched_policy[p]",
            "/off 200 - via_upstream",
        ]);
        proxy.end();
    }

    /// It is used until another is told, and where it is not waited for that is at once.
    fn default_is_used_before_a_filter_is_told(io) {
        let (upstream, plane) = (named("a"), ControlPlane::start());
        let at_once = format!("apply_default_config_without_warming: true, {}", default_denial("/b"));
        let proxy = Proxy::start(io, &config(&plane, &upstream, &told("access", ADS, &at_once)));
        let mut client = proxy.connect();
        assert_eq!([client.get("/b").status(), client.get("/").status()], [403, 200]);
        plane.wait_for("the filter", |asked| asked.type_url == FILTERS && asked.names == ["access"]);
        tell(&plane, "/c");
        until("the filter", || client.get("/c").status() == 403);
        assert_eq!(client.get("/b").status(), 200);
        proxy.end();
    }

    /// With `--xds-cache` the last one is there before any control plane answers.
    fn filters_outlive_the_control_plane(io) {
        let (upstream, mut plane, folder) = (named("a"), ControlPlane::start(), TempFolder::new());
        let cache = folder.path().join("cache");
        let config = config(&plane, &upstream, &told("access", ADS, "")).arguments(&["--xds-cache", cache.to_str().unwrap()]);
        tell(&plane, "/b");
        let first = Proxy::start(io, &config);
        assert_eq!(first.connect().get("/b").status(), 403);
        plane.kill();
        first.wait_for_stat("control_plane.connected_state", 0);
        assert_eq!(first.connect().get("/b").status(), 403);
        first.end();
        let second = Proxy::start(io, &config);
        let mut client = second.connect();
        assert_eq!([client.get("/b").status(), client.get("/").status()], [403, 200]);
        tell(&plane, "/c");
        plane.restart();
        until("the new filter", || client.get("/c").status() == 403);
        drop(client);
        second.end();
    }

    fn filters_have_a_stream_of_their_own_or_a_file(io) {
        let (upstream, plane, folder) = (named("a"), ControlPlane::start(), TempFolder::new());
        let path = folder.path().join("filters.yaml");
        let write = |prefix: &str| {
            let filter = default_denial(prefix).replace("default_config", "typed_config");
            let text = format!("resources:\n- {{\"@type\": {FILTERS}, name: access, {filter}}}\n");
            let next = path.with_extension("next.yaml");
            std::fs::write(&next, text).unwrap();
            std::fs::rename(&next, &path).unwrap();
        };
        write("/b");
        let own = "{api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: plane}}]}, \
            resource_api_version: V3}";
        let file = format!("{{path_config_source: {{path: {}}}}}", path.display());
        let filters = [told("access", &file, ""), told("more", own, "")].concat();
        plane.push(FILTERS, vec![told_denial("more", "/d")]);
        let proxy = Proxy::start(io, &config(&plane, &upstream, &filters));
        let mut client = proxy.connect();
        assert_eq!(["/b", "/d", "/c"].map(|path| client.get(path).status()), [403, 403, 200]);
        write("/c");
        until("the new file", || client.get("/c").status() == 403);
        plane.push(FILTERS, vec![told_denial("more", "/e")]);
        until("the new filter", || client.get("/e").status() == 403);
        assert_eq!(["/b", "/d"].map(|path| client.get(path).status()), [200, 200]);
        proxy.end();
    }

    /// A listener that is told waits for its filters as for its routes, and one that takes its place has what was told already.
    fn listener_of_a_control_plane_waits_for_its_filters(io) {
        let (upstream, plane, folder) = (named("a"), ControlPlane::start(), TempFolder::new());
        let port = free_port();
        let listener = |mark: &str, filters: &str| {
            let routes = format!("rds: {{route_config_name: routes, config_source: {ADS}}}");
            web(port, &format!("{routes}, server_name: {mark}"), filters)
        };
        put(&folder, &[("web", listener("one", &told("access", ADS, "")))]);
        let clusters = format!("{}, {{{}}}", plane.clusters(&[]), cluster_to("upstream", upstream.port));
        let config = Config { clusters: Some(clusters), no_listener: true, ..Config::to(0) };
        let config =
            config.arguments(&["--concurrency", "2", "--config-yaml", &with_listeners(&plane.bootstrap(), &folder)]);
        let proxy = Proxy::launch(io, &config, port, free_port());
        plane.wait_for("the filter", |asked| asked.type_url == FILTERS);
        plane.answer(&plane.tell_routes(&[("/", "upstream")]));
        assert!(Client::try_connect(port).is_err());
        let dump = proxy.admin("GET", "/config_dump?resource=dynamic_listeners").text();
        assert!(dump.contains("warming_state") && !dump.contains("active_state"), "{dump}");
        tell(&plane, "/b");
        proxy.wait_for_log("serving");
        let mut client = proxy.connect();
        assert_eq!([client.get("/b").status(), client.get("/").status()], [403, 200]);
        // Other routes are compiled with the filter that was told, and another filter with the routes.
        plane.tell_routes(&[("/x", "upstream")]);
        until("the routes", || client.get("/").status() == 404);
        assert_eq!([client.get("/b").status(), client.get("/x").status()], [403, 200]);
        tell(&plane, "/x");
        until("the filter", || client.get("/x").status() == 403);
        assert_eq!(client.get("/b").status(), 404);
        put(&folder, &[("web", listener("two", &told("access", ADS, "")))]);
        until("the new listener", || proxy.connect().get("/x").header("server") == Some("two"));
        assert_eq!(proxy.connect().get("/x").status(), 403);
        // Nobody asks for it any more.
        put(&folder, &[("web", listener("three", ""))]);
        until("a listener without it", || proxy.connect().get("/x").status() == 200);
        plane.wait_for("no filter", |asked| asked.type_url == FILTERS && asked.names.is_empty());
        assert!(!proxy.admin("GET", "/config_dump").text().contains("EcdsConfigDump"));
        drop(client);
        proxy.end();
    }

    /// The router, too, may be told; nothing else can be the last.
    fn last_filter_is_told_and_must_be_the_router(io) {
        let (upstream, plane) = (named("a"), ControlPlane::start());
        let last = format!("{{name: last, config_discovery: {{config_source: {ADS}, type_urls: [{ROUTER}, {HTTP}.rbac.v3.RBAC]}}}}");
        let mut config = config(&plane, &upstream, "");
        let chain = format!(
            "{{filters: [{{name: manager, typed_config: {{\"@type\": \
             type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: test, \
             route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, route: {{cluster: upstream}}}}]}}]}}, \
             http_filters: [{last}]}}}}]}}"
        );
        config = config.chains(&[chain]);
        let refused = plane.push(FILTERS, vec![told_denial("last", "/")]);
        let proxy = Proxy::launch(io, &config, free_port(), free_port());
        let reason = plane.answer(&refused).error.unwrap().message;
        assert_eq!(reason, "last: non-terminal filter \"last\" is the last filter: that must be the router");
        proxy.wait_for_log("serving");
        let mut client = proxy.connect();
        assert_eq!(client.get("/").status(), 500);
        plane.push(FILTERS, vec![told_filter("last", ROUTER, Vec::new())]);
        until("the router", || client.get("/").status() == 200);
        proxy.end();
    }

    /// A cluster may go under the routes that lead to it; with another filter they are not asked again whether it is there.
    fn filter_changes_although_a_cluster_of_its_routes_has_gone(io) {
        let (upstream, plane, folder) = (named("a"), ControlPlane::start(), TempFolder::new());
        let port = free_port();
        let routes = "route_config: {virtual_hosts: [{name: all, domains: [\"*\"], routes: [{match: {prefix: /}, route: {cluster: a}}]}]}";
        put(&folder, &[]);
        plane.tell_clusters(&[("a", At(&[upstream.port]))]);
        tell(&plane, "/b");
        let config = Config { clusters: Some(plane.clusters(&[])), no_listener: true, ..Config::to(0) };
        let bootstrap = with_listeners(&plane.bootstrap_with_clusters("15s"), &folder);
        let config = config.arguments(&["--concurrency", "2", "--config-yaml", &bootstrap]);
        let proxy = Proxy::launch(io, &config, port, free_port());
        proxy.wait_for_log("serving");
        put(&folder, &[("web", web(port, routes, &told("access", ADS, "")))]);
        until("the listener", || Client::try_connect(port).is_ok());
        let mut client = proxy.connect();
        assert_eq!([client.get("/").status(), client.get("/b").status()], [200, 403]);
        plane.tell_clusters(&[]);
        until("the cluster is gone", || client.get("/").status() == 503);
        tell(&plane, "/c");
        until("the filter", || client.get("/c").status() == 403);
        assert_eq!([client.get("/b").status(), client.get("/").status()], [503, 503]);
        proxy.end();
    }
}
