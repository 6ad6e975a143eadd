//! Clusters of type `ORIGINAL_DST` and listeners with `use_original_dst` over real sockets. Destinations are what the PROXY
//! protocol says.

use crate::harness::{Config, Proxy, Upstream, ok, on_each_backend};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
const CLUSTER: &str = "name: passthrough, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED";

fn network(kind: &str, message: &str, fields: &str) -> String {
    format!(
        "{{filters: [{{name: {kind}, typed_config: {{\"@type\": {FILTERS}.network.{kind}.v3.{message}, {fields}}}}}]}}"
    )
}

/// What goes to the cluster's endpoints, with more fields of it, behind a listener that knows destinations.
fn to_destinations(fields: &str) -> Config {
    let mut config = Config::to(1).listener(&format!(
        "listener_filters: [{{name: proxy, typed_config: {{\"@type\": {FILTERS}.listener.proxy_protocol.v3.ProxyProtocol, allow_requests_without_proxy_protocol: true}}}}]"
    ));
    config.clusters = Some(format!("{{{CLUSTER}{fields}}}"));
    config
}

fn relay() -> String {
    network("tcp_proxy", "TcpProxy", "stat_prefix: relay, cluster: passthrough")
}

fn header(address: &str, port: u16) -> String {
    format!("PROXY TCP4 192.0.2.1 {address} 1000 {port}\r\n")
}

on_each_backend! {
    fn relay_goes_where_its_client_meant_to_and_nowhere_without_that(io) {
        let (one, other) = (Upstream::echo_bytes(), Upstream::echo_bytes());
        let proxy = Proxy::start(io, &to_destinations(", cleanup_interval: 0.05s").chains(&[relay()]));
        for port in [one.port, other.port, one.port] {
            let mut client = proxy.connect();
            client.send(header("127.0.0.1", port));
            client.send("hello");
            assert_eq!(client.read(5), b"hello");
        }
        assert_eq!(proxy.stat("cluster.passthrough.upstream_cx_total"), 3);
        proxy.wait_for_stat("cluster.passthrough.membership_total", 0);
        assert!(proxy.stat("cluster.passthrough.membership_change") >= 3);
        let mut client = proxy.connect();
        client.send("hello, who has no header");
        client.expect_closed();
        proxy.wait_for_stat("cluster.passthrough.upstream_cx_none_healthy", 1);
        proxy.end();
    }

    fn request_goes_where_its_header_says_else_where_its_connection_meant_to(io) {
        let (one, other) = (Upstream::answering(|_| ok(b"one")), Upstream::answering(|_| ok(b"other")));
        let mut config = to_destinations(", original_dst_lb_config: {use_http_header: true}");
        config.routes = Some("{match: {prefix: /}, route: {cluster: passthrough}}".to_owned());
        let proxy = Proxy::start(io, &config);
        let mut client = proxy.connect();
        client.send(header("127.0.0.1", one.port));
        assert_eq!(client.get("/").text(), "one");
        for (value, expected) in [(format!("127.0.0.1:{}", other.port), "other"), ("nowhere:1".to_owned(), "one")] {
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nx-envoy-original-dst-host: {value}\r\n\r\n"));
            assert_eq!(client.response().text(), expected);
        }
        assert_eq!(proxy.stat("cluster.passthrough.original_dst_host_invalid"), 1);
        assert_eq!(proxy.stat("cluster.passthrough.upstream_cx_total"), 2, "connections are used again");
        let mut client = proxy.connect();
        assert_eq!(client.get("/").status(), 503);
        proxy.end();
    }

    fn connection_is_handed_to_the_listener_that_it_meant(io) {
        let upstream = Upstream::echo_bytes();
        let mut config = to_destinations("")
            .listener("use_original_dst: true")
            .listener("stat_prefix: first")
            .listener(&format!("default_filter_chain: {}", relay()));
        // The listener behind it, which has the chains: without a socket, at any address.
        config.listener.push_str("  - name: other\n    stat_prefix: other\n    bind_to_port: false\n    address: {socket_address: {address: 0.0.0.0, port_value: 7}}\n");
        let answer = network("direct_response", "Config", "response: {inline_string: other}");
        let proxy = Proxy::start(io, &config.chains(&[answer]));
        let mut client = proxy.connect();
        client.send(header("192.0.2.2", 7));
        assert_eq!(client.read_to_end(), b"other");
        let mut client = proxy.connect();
        client.send(header("127.0.0.1", upstream.port));
        client.send("hello");
        assert_eq!(client.read(5), b"hello");
        drop(client);
        for listener in ["first", "other"] {
            assert_eq!(proxy.stat(&format!("listener.{listener}.downstream_cx_total")), 1, "{listener}");
            proxy.wait_for_stat(&format!("listener.{listener}.downstream_cx_active"), 0);
            proxy.wait_for_stat(&format!("listener.{listener}.downstream_pre_cx_active"), 0);
        }
        proxy.end();
    }
}
