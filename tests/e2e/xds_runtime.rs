//! Runtime values: of control planes, files and the admin endpoint. They are live for whatever refers to them, on all workers,
//! and no connection notices.

use std::path::Path;

use crate::harness::{
    Client, Config, ControlPlane, Proxy, RUNTIME, TempFolder, Upstream, cluster_to, free_port,
    on_each_backend, told_runtime, until,
};
use crate::xds::named;
use crate::xds_listeners::{following, put as tell_listeners};

const ADS: &str = "{ads: {}, resource_api_version: V3}";

/// Everything goes to `a`, but for the share `share` of requests for `/share`, and those for `/weights` by weights.
const ROUTES: &str = "\
    {match: {prefix: /share, runtime_fraction: {default_value: {numerator: 0}, runtime_key: share}}, route: {cluster: b}}, \
    {match: {prefix: /weights}, route: {weighted_clusters: {runtime_key_prefix: weights, \
     clusters: [{name: a, weight: 1}, {name: b, weight: 0}]}}}, \
    {match: {prefix: /}, route: {cluster: a}}";

/// A proxy, two of its workers, with these runtime layers, between clients and these two.
pub(crate) fn config(
    layers: &str,
    bootstrap: &str,
    plane: Option<&ControlPlane>,
    a: &Upstream,
    b: &Upstream,
) -> Config {
    let more = plane.map(|plane| format!("{}, ", plane.clusters(&[]))).unwrap_or_default();
    let clusters = format!("{more}{{{}}}, {{{}}}", cluster_to("a", a.port), cluster_to("b", b.port));
    let config = Config { clusters: Some(clusters), routes: Some(ROUTES.to_owned()), ..Config::to(0) };
    let bootstrap = bootstrap.replacen('{', &format!("{{layered_runtime: {{layers: [{layers}]}}, "), 1);
    config.arguments(&["--concurrency", "2", "--config-yaml", &bootstrap])
}

/// With a layer `values` that is told by this source, over one of the configuration.
fn told_config(plane: &ControlPlane, source: &str, a: &Upstream, b: &Upstream) -> Config {
    let layers = format!(
        "{{name: fixed, static_layer: {{share: 0}}}}, {{name: told, rtds_layer: {{name: values, rtds_config: {source}}}}}"
    );
    config(&layers, &plane.bootstrap(), Some(plane), a, b)
}

fn tell(plane: &ControlPlane, values: &[(&str, f64)]) -> String {
    plane.push(RUNTIME, vec![told_runtime("values", values)])
}

/// Connections of clients, so many that each worker has some.
fn clients(proxy: &Proxy) -> Vec<Client> {
    (0..16).map(|_| proxy.connect()).collect()
}

/// Waits until all of them are answered so.
fn all_get(clients: &mut [Client], path: &str, wanted: &str) {
    for client in clients {
        until(wanted, || client.get(path).text() == wanted);
    }
}

on_each_backend! {
    fn values_of_a_control_plane_are_live_on_all_workers(io) {
        let (a, b, plane) = (named("a"), named("b"), ControlPlane::start());
        let proxy = Proxy::launch(io, &told_config(&plane, ADS, &a, &b), free_port(), free_port());
        plane.wait_for("values", |asked| asked.type_url == RUNTIME && asked.names == ["values"] && asked.nonce.is_empty());
        assert_ne!(proxy.admin("GET", "/ready").status(), 200, "the start waits for them");
        let nonce = tell(&plane, &[("share", 100.0)]);
        assert!(plane.answer(&nonce).error.is_none());
        proxy.wait_for_log("serving");
        let mut clients = clients(&proxy);
        all_get(&mut clients, "/share", "b");
        all_get(&mut clients, "/weights", "a");
        plane.answer(&tell(&plane, &[("share", 0.0), ("weights.a", 0.0), ("weights.b", 5.0)]));
        all_get(&mut clients, "/share", "a");
        all_get(&mut clients, "/weights", "b");
        // What is no value is refused, by its key, and nothing changes.
        let reason = plane.answer(&tell(&plane, &[("share", f64::NAN)])).error.unwrap().message;
        assert_eq!(reason, "values: layer: invalid runtime entry value for share");
        assert!(proxy.admin("GET", "/quarantine").text().contains("invalid runtime entry value"));
        all_get(&mut clients, "/weights", "b");
        plane.answer(&tell(&plane, &[]));
        all_get(&mut clients, "/weights", "a");
        assert_eq!(proxy.stat("http.test.downstream_cx_total"), 16, "all connections have stayed");
        for (stat, value) in [("update_success", 3), ("update_rejected", 1), ("load_success", 4), ("num_keys", 1), ("num_layers", 2)] {
            assert_eq!(proxy.stat(&format!("runtime.{stat}")), value, "{stat}");
        }
        proxy.end();
    }

    /// Nothing else is asked for before they are there; after initial_fetch_timeout the start goes on.
    fn values_are_asked_for_before_anything_else(io) {
        let (a, b, plane) = (named("a"), named("b"), ControlPlane::start());
        let told = told_config(&plane, "{ads: {}, resource_api_version: V3, initial_fetch_timeout: 0.3s}", &a, &b);
        let position = told.arguments.iter().position(|argument| argument.starts_with("{layered")).unwrap();
        let mut told = told;
        let cds = "dynamic_resources: {cds_config: {ads: {}, resource_api_version: V3}, ";
        told.arguments[position] = told.arguments[position].replace("dynamic_resources: {", cds);
        plane.tell_clusters(&[]);
        let proxy = Proxy::launch(io, &told, free_port(), free_port());
        proxy.wait_for_log("serving");
        let asked: Vec<_> = plane.asked().into_iter().map(|asked| asked.type_url).collect();
        assert_eq!(asked[0], RUNTIME);
        assert!(asked[1].ends_with("Cluster"), "{asked:?}");
        assert_eq!(proxy.stat("runtime.init_fetch_timeout"), 1);
        let mut clients = clients(&proxy);
        all_get(&mut clients, "/share", "a");
        tell(&plane, &[("share", 100.0)]);
        all_get(&mut clients, "/share", "b");
        proxy.end();
    }

    /// With `--xds-cache` the last values are there before any control plane answers.
    fn values_outlive_the_control_plane(io) {
        let (a, b, mut plane, folder) = (named("a"), named("b"), ControlPlane::start(), TempFolder::new());
        let cache = folder.path().join("cache");
        let config = told_config(&plane, ADS, &a, &b).arguments(&["--xds-cache", cache.to_str().unwrap()]);
        tell(&plane, &[("share", 100.0)]);
        let first = Proxy::start(io, &config);
        assert_eq!(first.connect().get("/share").text(), "b");
        plane.kill();
        first.wait_for_stat("control_plane.connected_state", 0);
        assert_eq!(first.connect().get("/share").text(), "b");
        first.end();
        let second = Proxy::start(io, &config);
        let mut client = second.connect();
        assert_eq!(client.get("/share").text(), "b");
        tell(&plane, &[("share", 0.0)]);
        plane.restart();
        until("the new value", || client.get("/share").text() == "a");
        second.end();
    }

    fn values_of_a_file_follow_it(io) {
        let (a, b, plane, folder) = (named("a"), named("b"), ControlPlane::start(), TempFolder::new());
        let path = folder.path().join("values.yaml");
        let write = |share: u32| {
            let text = format!(
                "resources:\n- \"@type\": {RUNTIME}\n  name: values\n  layer: {{share: {share}}}\n"
            );
            put(&path, &text);
        };
        write(100);
        let source = format!("{{path_config_source: {{path: {}}}}}", path.display());
        let proxy = Proxy::start(io, &told_config(&plane, &source, &a, &b));
        let mut client = proxy.connect();
        assert_eq!(client.get("/share").text(), "b");
        write(0);
        until("the new value", || client.get("/share").text() == "a");
        proxy.end();
    }

    /// A tree of files counts when the link leads to it; what the admin endpoint sets is in its place among the layers.
    fn values_of_a_tree_and_of_the_admin_endpoint(io) {
        let (a, b, folder) = (named("a"), named("b"), TempFolder::new());
        for (tree, share) in [("one", "100"), ("two", "{numerator: 0, denominator: MILLION}")] {
            std::fs::create_dir_all(folder.path().join(tree).join("edge")).unwrap();
            std::fs::write(folder.path().join(tree).join("edge/share"), share).unwrap();
        }
        let (link, next) = (folder.path().join("current"), folder.path().join("next"));
        std::os::unix::fs::symlink(folder.path().join("one"), &link).unwrap();
        let layers = format!(
            "{{name: files, disk_layer: {{symlink_root: {}, subdirectory: edge}}}}, {{name: admin, admin_layer: {{}}}}",
            link.display()
        );
        let proxy = Proxy::start(io, &config(&layers, "{}", None, &a, &b));
        let mut clients = clients(&proxy);
        all_get(&mut clients, "/share", "b");
        assert_eq!(proxy.admin("POST", "/runtime_modify?share=0&weights.a=0&weights.b=1").text(), "OK\n");
        all_get(&mut clients, "/share", "a");
        all_get(&mut clients, "/weights", "b");
        assert_eq!(proxy.stat("runtime.admin_overrides_active"), 1);
        let shown = proxy.admin("GET", "/runtime").text();
        assert!(shown.contains("\"final_value\": \"0\"") && shown.contains("\"100\""), "{shown}");
        // No cluster has a weight: the route matches nothing, and the next one does.
        proxy.admin("POST", "/runtime_modify?weights.b=0");
        all_get(&mut clients, "/weights", "a");
        proxy.admin("POST", "/runtime_modify?share=&weights.a=&weights.b=");
        all_get(&mut clients, "/share", "b");
        std::os::unix::fs::symlink(folder.path().join("two"), &next).unwrap();
        std::fs::rename(&next, &link).unwrap();
        all_get(&mut clients, "/share", "a");
        assert_eq!(proxy.stat("runtime.admin_overrides_active"), 0);
        proxy.end();
    }

    /// The link is swapped for one that leads to the same directory, and a file in place of what was written there.
    fn tree_that_comes_again_is_read_again(io) {
        let (a, b, folder) = (named("a"), named("b"), TempFolder::new());
        let (tree, link, next) = (folder.path().join("tree"), folder.path().join("current"), folder.path().join("next"));
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("share"), "100").unwrap();
        std::os::unix::fs::symlink(&tree, &link).unwrap();
        let layers = format!("{{name: files, disk_layer: {{symlink_root: {}, subdirectory: .}}}}", link.display());
        let proxy = Proxy::start(io, &config(&layers, "{}", None, &a, &b));
        let mut clients = clients(&proxy);
        all_get(&mut clients, "/share", "b");
        std::fs::write(tree.join("share"), "0").unwrap();
        std::os::unix::fs::symlink(&tree, &next).unwrap();
        std::fs::rename(&next, &link).unwrap();
        all_get(&mut clients, "/share", "a");
        proxy.end();
    }

    /// As in Envoy a table that was taken goes on in listeners that change or come, whatever runtime makes of its weights meanwhile.
    fn listener_that_changes_keeps_its_routes_while_no_cluster_has_a_weight(io) {
        let (a, folder) = (named("a"), TempFolder::new());
        let (port, other) = (free_port(), free_port());
        let routes = folder.path().join("routes.yaml");
        put(&routes, "resources:\n- {\"@type\": type.googleapis.com/envoy.config.route.v3.RouteConfiguration, name: routes, \
            validate_clusters: true, virtual_hosts: [{name: all, domains: [\"*\"], routes: [\
            {match: {prefix: /}, route: {weighted_clusters: {runtime_key_prefix: weights, clusters: [{name: upstream, weight: 1}]}}}, \
            {match: {prefix: /}, direct_response: {status: 200, body: {inline_string: none}}}]}]}\n");
        let listener = |port: u16, prefix: &str| {
            format!(
                "address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}, filter_chains: [{{filters: [{{name: manager, \
                 typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
                 stat_prefix: {prefix}, rds: {{route_config_name: routes, config_source: {{path_config_source: {{path: {}}}}}}}, \
                 http_filters: [{{name: router, typed_config: {{\"@type\": \
                 type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]",
                routes.display()
            )
        };
        tell_listeners(&folder, &[("one", listener(port, "first"))]);
        let bootstrap = following(&folder).replacen('{', "{layered_runtime: {layers: [{name: admin, admin_layer: {}}]}, ", 1);
        let config = Config { no_listener: true, ..Config::to(a.port) };
        let proxy = Proxy::launch(io, &config.arguments(&["--config-yaml", &bootstrap]), port, free_port());
        proxy.wait_for_log("serving");
        assert_eq!(proxy.connect().get("/").text(), "a");
        assert_eq!(proxy.admin("POST", "/runtime_modify?weights.upstream=0").text(), "OK\n");
        until("no weight", || proxy.connect().get("/").text() == "none");
        tell_listeners(&folder, &[("one", listener(port, "second")), ("two", listener(other, "third"))]);
        until("it listens", || Client::try_connect(other).is_ok());
        assert_eq!(Client::connect(other).get("/").text(), "none");
        let served = || proxy.stat("http.second.downstream_rq_total");
        until("the changed one", || {
            assert_eq!(proxy.connect().get("/").text(), "none");
            served() > 0
        });
        proxy.admin("POST", "/runtime_modify?weights.upstream=");
        for port in [port, other] {
            until("the weight", || Client::connect(port).get("/").text() == "a");
        }
        proxy.end();
    }

    /// A limit of connections and filters that runtime turns on and off count from the next connection on.
    fn limits_and_filters_follow_their_keys(io) {
        let (a, b) = (named("a"), named("b"));
        let filter = "{name: limit, typed_config: {\
            \"@type\": type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit, \
            stat_prefix: few, max_connections: 1, runtime_enabled: {default_value: false, runtime_key: few}}}";
        let layers = "{name: admin, admin_layer: {}}";
        let proxy = Proxy::start(io, &config(layers, "{}", None, &a, &b).network_filter(filter));
        let mut first = proxy.connect();
        assert_eq!(first.get("/").text(), "a");
        let is_served = || {
            let mut client = proxy.connect();
            client.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok()
                && matches!(client.any_response_to("GET"), Ok(Some(_)))
        };
        assert!(is_served(), "the filter is off");
        proxy.admin("POST", "/runtime_modify?few=true");
        let mut counted = proxy.connect();
        assert_eq!(counted.get("/").text(), "a");
        assert!(!is_served());
        assert_eq!(proxy.stat("connection_limit.few.limited_connections"), 1);
        proxy.admin("POST", "/runtime_modify?few=&overload.global_downstream_max_connections=2");
        assert!(!is_served(), "two are there");
        proxy.admin("POST", "/runtime_modify?overload.global_downstream_max_connections=3");
        until("there is room", is_served);
        let overflow = || proxy.stat(&format!("listener.127.0.0.1_{}.downstream_cx_overflow", proxy.port));
        assert_eq!(overflow(), 0);
        let own = "envoy.resource_limits.listener.test.connection_limit";
        proxy.admin("POST", &format!("/runtime_modify?overload.global_downstream_max_connections=&{own}=2"));
        assert!(!is_served(), "the listener has two");
        assert!(overflow() > 0);
        proxy.admin("POST", &format!("/runtime_modify?{own}=3"));
        until("the listener has room", is_served);
        assert_eq!((first.get("/").text(), counted.get("/").text()), ("a".into(), "a".into()));
        proxy.end();
    }
}

/// A file in place of the one that was there.
fn put(path: &Path, text: &str) {
    let next = path.with_extension("next.yaml");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(&next, path).unwrap();
}
