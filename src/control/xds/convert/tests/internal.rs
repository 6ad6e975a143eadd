//! Internal listeners and what leads to them. Which of them are mistakes was asked of Envoy 1.40 (`--mode validate`).

use super::*;
use crate::base::socket_address::InternalAddress;
use crate::config::address::{Address, EndpointAddress};
use crate::config::metadata::{MetadataKind, ORIGINAL_DST};

const EXTENSION: &str = r#"bootstrap_extensions: [{name: i, typed_config: {"@type": type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener}}]"#;
const INTERNAL: [(&str, &str); 2] = [("TOP", EXTENSION), ("ADDRESS", "null")];

fn endpoints(address: &str) -> String {
    format!("{{cluster_name: web, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {address}}}}}]}}]}}")
}

fn around(socket: &str, more: &str) -> String {
    format!(
        r#"transport_socket: {{name: i, typed_config: {{"@type": type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport, {more} {socket}}}}}"#
    )
}

const RAW: &str = r#"transport_socket: {name: r, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}"#;
const TLS: &str = r#"transport_socket: {name: t, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}"#;

#[test]
fn internal_listener_has_its_name_for_an_address_and_no_sockets() {
    let bootstrap = load(&[INTERNAL[0], INTERNAL[1], ("LISTENER", "internal_listener: {}")]);
    let listener = &bootstrap.listeners[0];
    assert_eq!(listener.internal(), Some(&InternalAddress::new("front", "")));
    assert!(!listener.bind_to_port && listener.ignore_global_conn_limit);
    assert_eq!(bootstrap.internal_buffer_bytes, Some(1 << 20));
    let small = EXTENSION.replace("InternalListener}", "InternalListener, buffer_size_kb: 3}");
    assert_eq!(load(&[("TOP", &small)]).internal_buffer_bytes, Some(3072));
    assert_eq!(load(&[]).internal_buffer_bytes, None);
}

#[test]
fn features_of_sockets_and_what_is_missing_are_mistakes() {
    for (field, of) in [
        (
            "additional_addresses: [{address: {socket_address: {address: 127.0.0.1, port_value: 1}}}]",
            "additional_addresses",
        ),
        ("enable_reuse_port: false", "enable_reuse_port"),
        ("freebind: true", "freebind"),
        ("transparent: true", "transparent"),
        ("tcp_backlog_size: 3", "tcp_backlog_size"),
        ("socket_options: [{level: 1, name: 2, int_value: 3}]", "socket_options"),
        ("connection_balance_config: {exact_balance: {}}", "connection_balance_config"),
    ] {
        let listener = format!("internal_listener: {{}}\n    {field}");
        let errors = errors(&[INTERNAL[0], INTERNAL[1], ("LISTENER", &listener)]);
        assert!(errors.contains(&format!("listeners[0].{of}")) && errors.contains("no sockets"), "{errors}");
    }
    let address = errors(&[INTERNAL[0], ("LISTENER", "internal_listener: {}")]);
    assert!(address.contains("listeners[0].address"), "{address}");
    let extension = errors(&[INTERNAL[1], ("LISTENER", "internal_listener: {}")]);
    assert!(extension.contains("bootstrap extension"), "{extension}");
    let within = errors(&[INTERNAL[0], ("ADDRESS", "{envoy_internal_address: {server_listener_name: a}}")]);
    assert!(within.contains("use the internal_listener field"), "{within}");
    let fine =
        "internal_listener: {}\n    freebind: false\n    bind_to_port: false\n    use_original_dst: true";
    load(&[INTERNAL[0], INTERNAL[1], ("LISTENER", fine)]);
}

#[test]
fn endpoint_is_an_internal_listener_in_a_cluster_that_resolves_nothing() {
    let inside = endpoints("{envoy_internal_address: {server_listener_name: a, endpoint_id: b}}");
    let bootstrap = load(&[("ENDPOINTS", &inside)]);
    let address = &bootstrap.clusters[0].load_assignment.localities[0].endpoints[0].address;
    assert_eq!(*address, EndpointAddress::Fixed(Address::Internal(InternalAddress::new("a", "b"))));
    let resolving = errors(&[("ENDPOINTS", &inside), ("CLUSTER", "type: STRICT_DNS")]);
    assert!(resolving.contains("a cluster that resolves names"), "{resolving}");
    let nameless = errors(&[("ENDPOINTS", &endpoints("{envoy_internal_address: {}}"))]);
    assert!(nameless.contains("envoy_internal_address"), "{nameless}");
}

#[test]
fn transport_socket_to_an_internal_listener_is_the_one_within() {
    let tls = |socket: &str| load(&[("CLUSTER", socket)]).clusters[0].sockets().tls.is_some();
    assert!(!tls(&around(RAW, "")) && tls(&around(TLS, "")));
}

#[test]
fn destination_is_the_only_metadata_that_is_passed_on() {
    let passing = |name: &str, kind: &str| {
        around(RAW, &format!("passthrough_metadata: [{{name: {name}, kind: {{{kind}: {{}}}}}}],"))
    };
    for (kind, expected) in [("host", MetadataKind::Host), ("cluster", MetadataKind::Cluster)] {
        assert_eq!(
            load(&[("CLUSTER", &passing(ORIGINAL_DST, kind))]).clusters[0].sockets().original_dst,
            [expected]
        );
    }
    let other = errors(&[("CLUSTER", &passing("istio", "host"))]);
    assert!(other.contains("passthrough_metadata[0].name"), "{other}");
    let request = errors(&[("CLUSTER", &passing(ORIGINAL_DST, "request"))]);
    assert!(request.contains("metadata type is not supported"), "{request}");
}
