//! Where a table's virtual hosts come from that are told by themselves.

use std::time::Duration;

use super::super::{Runtime, convert_routes};
use super::{FRONT, errors, load, manager, with_filter};
use crate::config::ads::{ResourceSource, Vhds};
use crate::config::http_filter::HttpFilterConfig;
use crate::control::xds::pb;
use pb::core::{ApiConfigSource, ConfigSource, ConfigSourceConfigSourceSpecifierOneOf as Specifier};

/// What a table that is told has of this source.
fn told(source: Specifier) -> Result<Option<Vhds>, String> {
    let initial_fetch_timeout = Some(pb::google::Duration { seconds: 2, nanos: 0 });
    let config_source = ConfigSource {
        config_source_specifier: Some(source),
        initial_fetch_timeout,
        ..ConfigSource::default()
    };
    let vhds = pb::route::Vhds { config_source: Some(config_source) };
    let table = pb::route::RouteConfiguration {
        name: "t".into(),
        vhds: Some(vhds),
        ..pb::route::RouteConfiguration::default()
    };
    let converted = convert_routes(table, &[], &Runtime::default(), false);
    converted.map(|(table, _)| table.vhds).map_err(|report| report.errors.to_string())
}

/// A stream of that type to the cluster `plane`.
fn own(api_type: pb::core::ApiConfigSourceApiType) -> Specifier {
    let target = pb::core::GrpcServiceEnvoyGrpc {
        cluster_name: "plane".into(),
        ..pb::core::GrpcServiceEnvoyGrpc::default()
    };
    let service = pb::core::GrpcService {
        target_specifier: Some(pb::core::GrpcServiceTargetSpecifierOneOf::EnvoyGrpc(target)),
        ..pb::core::GrpcService::default()
    };
    Specifier::ApiConfigSource(ApiConfigSource {
        api_type: api_type.into(),
        grpc_services: vec![service],
        ..ApiConfigSource::default()
    })
}

#[test]
fn virtual_hosts_of_a_told_table_come_by_delta_alone() {
    use pb::core::ApiConfigSourceApiType::{DeltaGrpc, Grpc};
    let wait = Some(Duration::from_secs(2));
    let ads = told(Specifier::Ads(pb::core::AggregatedConfigSource {})).unwrap();
    assert_eq!(ads, Some(Vhds { source: ResourceSource::Ads, initial_fetch_timeout: wait }));
    let streams = told(own(DeltaGrpc)).unwrap().unwrap();
    assert!(matches!(&streams.source, ResourceSource::Streams(ads) if *ads.cluster == *"plane"));
    let file = pb::core::PathConfigSource { path: "/proc/self/status".into(), ..Default::default() };
    for other in [own(Grpc), Specifier::PathConfigSource(file)] {
        let reason = told(other).unwrap_err();
        assert!(reason.starts_with("vhds.config_source: must be ads, or"), "{reason}");
    }
}

#[test]
fn table_that_is_not_told_has_none() {
    let found = errors(&[("TABLE", "vhds: {config_source: {ads: {}}}")]);
    assert!(found.contains(&format!("{FRONT}.route_config.vhds: Envoy field")), "{found}");
}

const ON_DEMAND: &str = "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3";

/// A message of the filter's package, which may have a field.
fn on_demand(message: &str, field: &str) -> String {
    format!(r#"{{"@type": {ON_DEMAND}.{message}{field}}}"#)
}

#[test]
fn filter_on_demand_is_taken_and_asks_for_no_clusters() {
    let filter =
        |field| with_filter(&format!("{{name: ask, typed_config: {}}}", on_demand("OnDemand", field)));
    let says = |message, field| format!("typed_per_filter_config: {{ask: {}}}", on_demand(message, field));
    let (filters, table) = (filter(""), says("PerRouteConfig", ""));
    let bootstrap = load(&[("FILTERS", &filters), ("TABLE", &table)]);
    let manager = manager(&bootstrap);
    assert!(matches!(manager.http_filters[0].config, HttpFilterConfig::OnDemand));
    let [word] = &manager.route_config.filters[..] else { panic!("one word") };
    assert!(!word.disabled && word.options.is_none());
    let found = errors(&[("FILTERS", &filter(", odcds: {}"))]);
    assert!(found.contains("http_filters[0].typed_config.odcds: Envoy field"), "{found}");
    let found = errors(&[("FILTERS", &filters), ("TABLE", &says("PerRouteConfig", ", odcds: {}"))]);
    assert!(found.contains("typed_per_filter_config[\"ask\"].odcds: Envoy field"), "{found}");
    let found = errors(&[("FILTERS", &filters), ("TABLE", &says("OnDemand", ""))]);
    assert!(found.contains("on_demand.v3.PerRouteConfig expected"), "{found}");
}
