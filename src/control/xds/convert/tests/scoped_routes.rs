//! Scopes that stand in a connection manager: what a request's key is made of, and what is a mistake.
use std::time::Duration;

use super::*;
use crate::config::ads::ResourceSource;
use crate::config::scoped_routes::{Element, FragmentBuilder};
use crate::control::xds::convert::convert_scope;
use crate::control::xds::pb;

const HEADER: &str = r#"{header_value_extractor: {name: X-A, element_separator: ",", index: 2}}"#;
const TABLE: &str = "route_configuration: {name: t, virtual_hosts: [{name: all, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: web}}]}]}";

/// A bootstrap whose manager has these fragments and scopes, each in braces.
fn loaded(fragments: &str, scopes: &str) -> Result<(Bootstrap, Report), Report> {
    const MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let text = format!(
        r#"
static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 0.0.0.0, port_value: 8080}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": {MANAGER}
          stat_prefix: ingress
          http_filters: [{ROUTER}]
          scoped_routes: {{name: s, scope_key_builder: {{fragments: [{fragments}]}}, {scopes}}}
  clusters:
  - {{name: web, load_assignment: {{cluster_name: web, endpoints: [{{lb_endpoints: [{ENDPOINT}]}}]}}}}
"#
    );
    let source = Source { name: "test.yaml", text: &text, format: Format::Yaml };
    load_bootstrap(&[source], LoadOptions::default()).map(|loaded| (loaded.bootstrap, loaded.report))
}

fn list(scopes: &[String]) -> String {
    format!("scoped_route_configurations_list: {{scoped_route_configurations: [{}]}}", scopes.join(", "))
}

fn scope(name: &str, key: &str, more: &str) -> String {
    format!("{{name: {name}, key: {{fragments: [{{string_key: {key}}}]}}, {more}}}")
}

#[test]
fn fragments_and_scopes_are_taken_in_their_order() {
    let fragments =
        format!("{HEADER}, {{header_value_extractor: {{name: X-B, element: {{separator: '=', key: k}}}}}}");
    let first =
        format!("{{name: a, key: {{fragments: [{{string_key: '1'}}, {{string_key: ''}}]}}, {TABLE}}}");
    let scopes = list(&[first, scope("b", "two", &format!("on_demand: true, {TABLE}"))]);
    let (bootstrap, report) =
        loaded(&fragments, &scopes).map_err(|report| report.errors.to_string()).unwrap();
    let manager = manager(&bootstrap);
    assert!(manager.route_config.virtual_hosts.is_empty() && manager.rds.is_none());
    let scoped = manager.scoped_routes.as_ref().unwrap();
    let element = Element::Of { key: "k".into(), separator: "=".into() };
    let expected = [
        FragmentBuilder { header: "X-A".into(), element_separator: ",".into(), element: Element::At(2) },
        FragmentBuilder { header: "X-B".into(), element_separator: "".into(), element },
    ];
    assert_eq!(scoped.fragments, expected);
    let keys: Vec<Vec<&str>> =
        scoped.scopes.iter().map(|scope| scope.key.iter().map(|text| &**text).collect()).collect();
    assert_eq!(keys, [vec!["1", ""], vec!["two"]]);
    assert!(scoped.scopes.iter().all(|scope| &*scope.route_config.name == "t"));
    let found: Vec<_> = report.findings.iter().map(|finding| (finding.class, &*finding.field)).collect();
    assert_eq!(found, [(Class::NoEffect, "envoy.config.route.v3.ScopedRouteConfiguration.on_demand")]);
}

#[test]
fn scopes_that_are_told_are_asked_for_where_it_says() {
    let file = |path: &str| format!("{{path_config_source: {{path: {path}}}, initial_fetch_timeout: 2s}}");
    let (scopes, tables) = (file("/dev/null"), file("/dev/zero"));
    let told = format!("scoped_rds: {{scoped_rds_config_source: {scopes}}}, rds_config_source: {tables}");
    let (bootstrap, report) = loaded(HEADER, &told).map_err(|report| report.errors.to_string()).unwrap();
    let manager = manager(&bootstrap);
    assert!(manager.scoped_routes.as_ref().unwrap().scopes.is_empty());
    let srds = manager.srds().unwrap();
    let is_at = |source: &ResourceSource, path: &str| matches!(source, ResourceSource::File(file) if &*file.path == path);
    assert!(is_at(&srds.source, "/dev/null") && is_at(&srds.table.source, "/dev/zero"));
    let two = Some(Duration::from_secs(2));
    assert_eq!((&*srds.name, srds.initial_fetch_timeout), ("s", two));
    let table = srds.table("t");
    assert_eq!((&*table.name, table.initial_fetch_timeout), ("t", two));
    assert!(report.findings.is_empty());
}

#[test]
fn scope_that_is_told_names_its_table() {
    use pb::route::ScopedRouteConfigurationKeyFragmentTypeOneOf as Type;
    use pb::route::{
        ScopedRouteConfiguration, ScopedRouteConfigurationKey, ScopedRouteConfigurationKeyFragment,
    };

    let fragment = ScopedRouteConfigurationKeyFragment { r#type: Some(Type::StringKey("one".into())) };
    let message = |table: &str| ScopedRouteConfiguration {
        name: "a".into(),
        key: Some(ScopedRouteConfigurationKey { fragments: vec![fragment.clone()] }),
        route_configuration_name: table.into(),
        on_demand: true,
        ..ScopedRouteConfiguration::default()
    };
    let (scope, _) = convert_scope(message("t")).unwrap();
    assert_eq!((&*scope.key, &*scope.table, scope.on_demand), (&[Box::<str>::from("one")][..], "t", true));
    let report = convert_scope(message("")).unwrap_err();
    assert!(report.reasons().contains("route_configuration_name is empty"));
}

#[test]
fn scopes_that_cannot_be_are_mistakes_with_their_place() {
    const LIST: &str = "scoped_route_configurations_list.scoped_route_configurations";
    let header = |fields: &str| format!("{{header_value_extractor: {{name: x, {fields}}}}}");
    let one = |more: &str| list(&[scope("a", "one", more)]);
    let unknown = TABLE.replace("cluster: web", "cluster: nobody");
    let ads = "{ads: {}, resource_api_version: V3}";
    let srds = |fields: &str| format!("scoped_rds: {{scoped_rds_config_source: {ads}{fields}}}");
    let whole = format!("{}, rds_config_source: {ads}", srds(""));
    let locator = format!("{}, rds_config_source: {ads}", srds(", srds_resources_locator: x"));
    for (fragments, scopes, place, reason) in [
        (&*header("index: 1"), one(TABLE), "header_value_extractor.index", "must be 0 where"),
        (&header("element_separator: x"), one(TABLE), "header_value_extractor", "one of index, element"),
        (HEADER, list(&[scope("a", "one", TABLE), scope("a", "two", TABLE)]), "[1].name", "duplicate"),
        (HEADER, list(&[scope("a", "one", TABLE), scope("b", "one", TABLE)]), "[1].key", "the scope \"a\""),
        (
            HEADER,
            one(&format!("route_configuration_name: r, {TABLE}")),
            "[0].route_configuration_name",
            "is not supported with inline scoped routes",
        ),
        (HEADER, one(""), "[0]", "route_configuration must be set"),
        (HEADER, one(&unknown), "[0].route_configuration.virtual_hosts[0]", "unknown cluster \"nobody\""),
        (HEADER, srds(""), "rds_config_source", "must be set"),
        (HEADER, locator, "scoped_rds.srds_resources_locator", "names with authorities"),
        (HEADER, whole, "listeners[0]", "scopes come over the aggregated stream"),
    ] {
        let errors = loaded(fragments, &scopes).map(drop).unwrap_err().errors.to_string();
        let place = if place.starts_with('[') { format!("{LIST}{place}") } else { place.to_owned() };
        assert!(errors.contains(reason) && errors.contains(&place), "{fragments} {scopes}: {errors}");
    }
}
