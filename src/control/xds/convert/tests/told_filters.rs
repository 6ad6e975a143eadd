//! Filters that are told: where they come from, what they may be, and what stands in for them.
use std::time::Duration;

use super::*;
use crate::config::ads::ResourceSource;
use crate::config::listener_filter::ListenerFilterKind;
use crate::config::told_filter::{FilterConfig, FilterKind, ToldFilter};

/// A filter of these fields and the router.
fn told(fields: &str) -> String {
    with_filter(&format!("{{name: access, config_discovery: {{{fields}}}}}"))
}

const SOURCE: &str = "config_source: {path_config_source: {path: /dev/null}}";
const TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http";

fn types(names: &[&str]) -> String {
    let urls: Vec<_> = names.iter().map(|name| format!("{TYPE}.{name}")).collect();
    format!("type_urls: [{}]", urls.join(", "))
}

fn only(bootstrap: &Bootstrap) -> &ToldFilter {
    manager(bootstrap).told_filters().next().unwrap()
}

#[test]
fn filter_is_told_by_its_name_and_has_a_default() {
    let default = format!("default_config: {{\"@type\": {TYPE}.grpc_web.v3.GrpcWeb}}");
    let fields = format!("{SOURCE}, {}, {default}", types(&["rbac.v3.RBAC", "grpc_web.v3.GrpcWeb"]));
    let bootstrap = load(&[("FILTERS", &told(&fields))]);
    let ToldFilter { ecds, default, is_last, told: filter } = only(&bootstrap);
    assert!(matches!(&ecds.source, ResourceSource::File(file) if &*file.path == "/dev/null"));
    assert_eq!((&*ecds.name, ecds.initial_fetch_timeout), ("access", Some(Duration::from_secs(15))));
    assert_eq!(*ecds.types[0], *"envoy.extensions.filters.http.rbac.v3.RBAC");
    assert!(ecds.is_awaited && !is_last && filter.is_none());
    let default = default.as_ref().unwrap();
    assert!(matches!(default.config, FilterConfig::Http(HttpFilterConfig::GrpcWeb)));
    let fields = format!("{fields}, apply_default_config_without_warming: true");
    assert!(!only(&load(&[("FILTERS", &told(&fields))])).ecds.is_awaited);
}

/// Envoy 1.40 refuses each of them.
#[test]
fn filter_that_could_not_be_told_is_a_mistake() {
    let rbac = types(&["rbac.v3.RBAC"]);
    let last = format!(
        "[{{name: last, config_discovery: {{{SOURCE}, {}, default_config: {{\"@type\": {TYPE}.grpc_web.v3.GrpcWeb}}}}}}]",
        types(&["grpc_web.v3.GrpcWeb"])
    );
    let off = format!(
        "[{{name: last, disabled: true, config_discovery: {{{SOURCE}, {}}}}}]",
        types(&["router.v3.Router"])
    );
    for (filters, reason) in [
        (
            told(&format!("{SOURCE}, {rbac}, apply_default_config_without_warming: true")),
            "applied without warming but has no default config",
        ),
        (
            told(&format!("{SOURCE}, {rbac}, default_config: {{\"@type\": {TYPE}.grpc_web.v3.GrpcWeb}}")),
            "default_config: has the type envoy.extensions.filters.http.grpc_web.v3.GrpcWeb, and envoy.extensions.filters.http.rbac.v3.RBAC is expected",
        ),
        (
            told(&format!(
                "{SOURCE}, {}, default_config: {{\"@type\": {TYPE}.router.v3.Router}}",
                types(&["router.v3.Router"])
            )),
            "must be the last filter of its chain",
        ),
        (told(&format!("config_source: {{ads: {{}}}}, {rbac}")), "ads_config must be set"),
        (told(SOURCE), "type_urls"),
        (told(&rbac), "config_source"),
        (last, "non-terminal filter \"last\" is the last filter"),
        (off, "cannot be disabled by default"),
    ] {
        let found = errors(&[("FILTERS", &filters)]);
        assert!(found.contains(reason), "{reason}: {found}");
    }
}

/// Some of the types may be lacking: such a filter is refused when it is told.
#[test]
fn types_that_are_lacking_are_listed_and_one_must_be_there() {
    let both = told(&format!("{SOURCE}, {}", types(&["rbac.v3.RBAC", "wasm.v3.Wasm"])));
    let report = load_with(Unimplemented::Accept, &[("FILTERS", &both)]).unwrap().1;
    let found: Vec<_> = report.findings.iter().map(|found| (found.class, &*found.field)).collect();
    assert_eq!(found, [(Class::NotYet, "envoy.extensions.filters.http.wasm.v3.Wasm")]);
    let none = told(&format!("{SOURCE}, {}", types(&["wasm.v3.Wasm"])));
    assert!(load_with(Unimplemented::Accept, &[("FILTERS", &none)]).is_err());
}

#[test]
fn filters_of_upgrades_are_not_told() {
    let rbac = types(&["rbac.v3.RBAC"]);
    let upgrade = format!(
        "upgrade_configs: [{{upgrade_type: websocket, filters: {}}}]",
        told(&format!("{SOURCE}, {rbac}"))
    );
    assert!(errors(&[("MANAGER", &upgrade)]).contains("upgrades have no filters of their own"));
}

const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network";

/// Fields of a listener with a default chain of these filters.
fn chain(filters: &str) -> String {
    format!("default_filter_chain: {{filters: [{filters}]}}")
}

/// A network filter that is told and may be of these types.
fn network(name: &str, types: &[&str], more: &str) -> String {
    let urls: Vec<_> = types.iter().map(|name| format!("{NETWORK}.{name}")).collect();
    format!("{{name: {name}, config_discovery: {{{SOURCE}, type_urls: [{}], {more}}}}}", urls.join(", "))
}

/// Where they stand they keep the order, and the last one has to serve the connection.
#[test]
fn filters_of_connections_are_told_by_their_names() {
    let default = format!("default_config: {{\"@type\": {NETWORK}.echo.v3.Echo}}");
    let first = network("access", &["rbac.v3.RBAC", "sni_cluster.v3.SniCluster"], "");
    let last = network("serves", &["tcp_proxy.v3.TcpProxy", "echo.v3.Echo"], &default);
    let fields = chain(&format!("{first}, {last}"));
    let own = "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
    let own = format!("{{name: edge, config_discovery: {{{SOURCE}, type_urls: [{own}]}}}}");
    let bootstrap = load(&[("LISTENER", &format!("listener_filters: [{own}]\n    {fields}"))]);
    let listener = &bootstrap.listeners[0];
    let told: Vec<_> = listener.told_filters().collect();
    let names: Vec<_> = told.iter().map(|filter| (&*filter.ecds.name, filter.ecds.kind)).collect();
    let of_chain = |name| (name, FilterKind::Network);
    assert_eq!(names, [("edge", FilterKind::Listener), of_chain("access"), of_chain("serves")]);
    assert_eq!([told[0].is_last, told[1].is_last, told[2].is_last], [false, false, true]);
    assert!(matches!(listener.listener_filters[0].kind, ListenerFilterKind::Told(_)));
    let default = told[2].default.as_ref().unwrap();
    assert!(matches!(default.config, FilterConfig::Network(Some(NetworkFilter::Echo))));
    assert!(told[1].default.is_none() && listener.told_connection_filters().count() == 3);
}

/// A limit that is never on is a filter, although nothing is to be done.
#[test]
fn filters_of_connections_that_could_not_be_told_are_mistakes() {
    let echo = &["echo.v3.Echo"];
    let default = format!("default_config: {{\"@type\": {NETWORK}.echo.v3.Echo}}");
    let limit = format!(
        "default_config: {{\"@type\": {NETWORK}.connection_limit.v3.ConnectionLimit, stat_prefix: few, max_connections: 1, \
         runtime_enabled: {{default_value: false}}}}"
    );
    let limits = &["connection_limit.v3.ConnectionLimit"];
    let serves = network("serves", echo, "");
    load(&[("LISTENER", &chain(&format!("{}, {serves}", network("limit", limits, &limit))))]);
    for (filters, reason) in [
        (
            format!("{}, {serves}", network("first", echo, &default)),
            "\"first\" must be the last filter of its chain",
        ),
        (network("last", limits, &limit), "that must be one that serves the connection itself"),
        (network("\"\"", echo, ""), "name: must not be empty"),
        (
            network("last", &["http_connection_manager.v3.HttpConnectionManager"], ""),
            "refused when it is told",
        ),
        (network("last", echo, "apply_default_config_without_warming: true"), "has no default config"),
    ] {
        let found = errors(&[("LISTENER", &chain(&filters))]);
        assert!(found.contains(reason), "{reason}: {found}");
    }
}
