//! HTTP filters that are told: where they come from, what they may be, and what stands in for them.
use std::time::Duration;

use super::*;
use crate::config::ads::ResourceSource;
use crate::config::http_filter::ToldFilter;

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
    assert!(matches!(default, Some(HttpFilterConfig::GrpcWeb)));
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
fn upgrades_and_network_filters_are_not_told() {
    let rbac = types(&["rbac.v3.RBAC"]);
    let upgrade = format!(
        "upgrade_configs: [{{upgrade_type: websocket, filters: {}}}]",
        told(&format!("{SOURCE}, {rbac}"))
    );
    assert!(errors(&[("MANAGER", &upgrade)]).contains("upgrades have no filters of their own"));
}
