//! Network and listener filters of a control plane (ECDS): connections meet the last ones that were told, and stay with those
//! that they have met.

use crate::harness::{
    Config, ControlPlane, FILTERS, Proxy, Upstream, cluster_to, free_port, on_each_backend, told_answer,
    told_filter, until,
};
use crate::xds::named;

const ADS: &str = "{ads: {}, resource_api_version: V3}";
/// Nobody waits long for what comes from there.
const SOON: &str = "{ads: {}, resource_api_version: V3, initial_fetch_timeout: 0.3s}";
const ANSWER: &str = "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config";
const ECHO: &str = "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo";
const SNI: &str = "type.googleapis.com/envoy.extensions.filters.network.sni_cluster.v3.SniCluster";
const PROXY: &str = "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
const INSPECTOR: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";

/// A filter that is told from this source and may be of these types.
fn told(name: &str, source: &str, types: &[&str]) -> String {
    let types = types.join(", ");
    format!("{{name: {name}, config_discovery: {{config_source: {source}, type_urls: [{types}]}}}}")
}

/// A proxy, two of its workers, that asks this control plane.
fn config(plane: &ControlPlane, upstream: &Upstream) -> Config {
    let clusters = format!("{}, {{{}}}", plane.clusters(&[]), cluster_to("upstream", upstream.port));
    let config = Config { clusters: Some(clusters), ..Config::to(0) };
    config.arguments(&["--concurrency", "2", "--config-yaml", &plane.bootstrap()])
}

/// What a client is sent that says nothing and ends.
fn sent(proxy: &Proxy) -> Vec<u8> {
    let mut client = proxy.connect();
    client.shutdown_write();
    client.read_to_end()
}

on_each_backend! {
    fn filter_that_serves_is_told_and_connections_stay_with_theirs(io) {
        let (upstream, plane) = (named("a"), ControlPlane::start());
        let chain = format!("{{filters: [{}]}}", told("answer", ADS, &[ANSWER, ECHO, SNI]));
        let proxy = Proxy::launch(io, &config(&plane, &upstream).chains(&[chain]), free_port(), free_port());
        plane.wait_for("the filter", |asked| asked.type_url == FILTERS && asked.names == ["answer"]);
        assert_ne!(proxy.admin("GET", "/ready").status(), 200, "the start waits for it");
        plane.push(FILTERS, vec![told_filter("answer", ECHO, Vec::new())]);
        proxy.wait_for_log("serving");
        let mut echo = proxy.connect();
        echo.send("x");
        assert_eq!(echo.read(1), b"x");
        plane.push(FILTERS, vec![told_answer("answer", "one")]);
        until("the answer", || sent(&proxy) == b"one");
        echo.send("y");
        assert_eq!(echo.read(1), b"y", "it stays with its filter");
        let refused = plane.answer(&plane.push(FILTERS, vec![told_filter("answer", SNI, Vec::new())]));
        let reason = "answer: non-terminal filter \"answer\" is the last filter: that must be one that serves the connection itself";
        assert_eq!(refused.error.unwrap().message, reason);
        plane.answer(&plane.push(FILTERS, vec![told_answer("answer", "two")]));
        until("the other answer", || sent(&proxy) == b"two");
        for (stat, value) in [("config_reload", 3), ("config_fail", 1), ("update_success", 3), ("update_rejected", 1)] {
            let name = format!("extension_config_discovery.network_filter.answer.{stat}");
            assert_eq!(proxy.stat(&name), value, "{stat}");
        }
        let dump = proxy.admin("GET", "/config_dump?resource=ecds_filters").text();
        for part in ["EcdsConfigDump.EcdsFilterConfig", "\"name\": \"answer\"", "direct_response.v3.Config", "\"two\""] {
            assert!(dump.contains(part), "{part}: {dump}");
        }
        drop(echo);
        proxy.end();
    }

    fn connections_are_closed_and_counted_while_a_network_filter_is_missing(io) {
        let (upstream, plane) = (named("a"), ControlPlane::start());
        let echo = format!("{{name: echo, typed_config: {{\"@type\": {ECHO}}}}}");
        let chain = format!("{{filters: [{}, {echo}]}}", told("name", SOON, &[SNI]));
        let proxy = Proxy::launch(io, &config(&plane, &upstream).chains(&[chain]), free_port(), free_port());
        proxy.wait_for_log("serving");
        proxy.connect().expect_closed();
        proxy.wait_for_stat(&format!("listener.127.0.0.1_{}.network_extension_config_missing", proxy.port), 1);
        plane.answer(&plane.push(FILTERS, vec![told_filter("name", SNI, Vec::new())]));
        until("the filter", || {
            let mut client = proxy.connect();
            client.try_send("x").is_ok() && client.stream().peek(&mut [0]).is_ok_and(|count| count == 1)
        });
        proxy.end();
    }

    fn listener_filter_is_told_and_missed_until_then(io) {
        let (upstream, plane) = (named("a"), ControlPlane::start());
        let own = format!("listener_filters: [{}]", told("edge", SOON, &[PROXY, INSPECTOR]));
        let proxy = Proxy::launch(io, &config(&plane, &upstream).listener(&own), free_port(), free_port());
        proxy.wait_for_log("serving");
        proxy.connect().expect_closed();
        proxy.wait_for_stat(&format!("listener.127.0.0.1_{}.extension_config_missing", proxy.port), 1);
        let is_served = |request: &str| {
            let mut client = proxy.connect();
            let response = client.try_send(request).and_then(|()| client.any_response_to("GET"));
            response.is_ok_and(|response| response.is_some_and(|response| response.status() == 200))
        };
        let request = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
        plane.answer(&plane.push(FILTERS, vec![told_filter("edge", PROXY, Vec::new())]));
        let with_header = format!("PROXY TCP4 1.2.3.4 5.6.7.8 1000 2000\r\n{request}");
        until("the filter", || is_served(&with_header));
        plane.answer(&plane.push(FILTERS, vec![told_filter("edge", INSPECTOR, Vec::new())]));
        until("the other filter", || is_served(request));
        let reloads = "extension_config_discovery.tcp_listener_filter.edge.config_reload";
        assert_eq!(proxy.stat(reloads), 2);
        proxy.end();
    }
}
