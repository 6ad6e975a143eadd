//! Where a table's virtual hosts come from that are told by themselves.

use std::time::Duration;

use super::super::{Runtime, convert_routes};
use super::{FRONT, errors};
use crate::config::ads::{ResourceSource, Vhds};
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
