//! Where resources come from: the control plane, and who has something from there.
use std::time::Duration;

use super::{errors, load};
use crate::base::limits::XDS_MESSAGE_BYTES_MAX;
use crate::config::ads::{ResourceSource, Variant};
use crate::config::bootstrap::Bootstrap;
use crate::config::cluster::Discovery;

/// A control plane behind cluster `web`, and a cluster with endpoints from there.
fn discovered<'a>(ads: &'a str, web: &'a str, eds: &'a str) -> [(&'static str, &'a str); 3] {
    [("TOP", ads), ("CLUSTER", web), ("MORE", eds)]
}

const ADS: &str = "dynamic_resources: {ads_config: {api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: web}}]}}";
const EDS: &str =
    "- {name: e, type: EDS, eds_cluster_config: {eds_config: {ads: {}, resource_api_version: V3}}}";
const SPEAKS_HTTP2: &str = "http2_protocol_options: {}";

#[test]
fn control_plane_and_clusters_of_it_have_their_settings() {
    let bootstrap = load(&discovered(ADS, SPEAKS_HTTP2, EDS));
    let ads = bootstrap.ads.unwrap();
    assert_eq!((ads.variant, &*ads.cluster, &*ads.authority), (Variant::Delta, "web", "web"));
    assert_eq!(ads.message_bytes_max, XDS_MESSAGE_BYTES_MAX);
    let eds = |bootstrap: &Bootstrap| match &bootstrap.clusters[1].discovery {
        Discovery::Eds(eds) => (eds.name("e").to_owned(), eds.initial_fetch_timeout),
        other => panic!("{other:?}"),
    };
    let bootstrap = load(&discovered(ADS, SPEAKS_HTTP2, EDS));
    assert_eq!(eds(&bootstrap), ("e".to_owned(), Some(Duration::from_secs(15))));
    let own = EDS.replace("eds_config: {", "service_name: s, eds_config: {initial_fetch_timeout: 0s, ");
    assert_eq!(eds(&load(&discovered(ADS, SPEAKS_HTTP2, &own))), ("s".to_owned(), None));
    let file = EDS.replace("ads: {}", "path_config_source: {path: /proc/self/status}");
    let bootstrap = load(&discovered("", "", &file));
    let Discovery::Eds(eds) = &bootstrap.clusters[1].discovery else { panic!("no EDS") };
    assert!(matches!(&eds.source, ResourceSource::File(file) if &*file.path == "/proc/self/status"));
}

#[test]
fn control_plane_that_cannot_be_asked_is_a_mistake_with_its_reason() {
    let tls = "http2_protocol_options: {}\n    transport_socket_matches: [{name: m, transport_socket: {name: t, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}}}]";
    let rest = ADS.replace("DELTA_GRPC", "REST");
    let google =
        ADS.replace("envoy_grpc: {cluster_name: web}", "google_grpc: {target_uri: x, stat_prefix: x}");
    let unknown = ADS.replace("cluster_name: web", "cluster_name: nobody");
    let itself = ADS.replace("cluster_name: web", "cluster_name: e");
    let v2 = EDS.replace("resource_api_version: V3", "resource_api_version: V2");
    let file = EDS.replace("ads: {}", "path_config_source: {path: /x}");
    let old = EDS.replace("ads: {}", "path: /x");
    let own = EDS.replace("ads: {}", "self: {}");
    let streams =
        "{api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: nobody}}]}";
    let streams = EDS.replace("ads: {}", &format!("api_config_source: {streams}"));
    let bare = "- {name: e, type: EDS}";
    let odd = "- {name: e, eds_cluster_config: {eds_config: {ads: {}, resource_api_version: V3}}}";
    for (ads, web, eds, reason) in [
        (ADS, "", EDS, "must speak HTTP/2"),
        (ADS, tls, EDS, "has transport_socket_matches"),
        ("", SPEAKS_HTTP2, EDS, "dynamic_resources.ads_config must be set"),
        (&rest, SPEAKS_HTTP2, EDS, "GRPC and DELTA_GRPC are spoken"),
        (&google, SPEAKS_HTTP2, EDS, "name a cluster in envoy_grpc"),
        (&unknown, SPEAKS_HTTP2, EDS, "unknown cluster \"nobody\""),
        (&itself, SPEAKS_HTTP2, EDS, "must be of type STATIC"),
        (ADS, SPEAKS_HTTP2, &v2, "resource_api_version: must be V3"),
        (ADS, SPEAKS_HTTP2, &file, "must refer to an existing path in the system: \"/x\" does not exist"),
        (ADS, SPEAKS_HTTP2, &old, "write path_config_source: {path: ...}"),
        (ADS, SPEAKS_HTTP2, &own, "write ads, api_config_source or path_config_source"),
        (ADS, SPEAKS_HTTP2, &streams, "unknown cluster \"nobody\""),
        (ADS, SPEAKS_HTTP2, bare, "eds_cluster_config must be set"),
        (ADS, SPEAKS_HTTP2, odd, "only a cluster of type EDS has it"),
    ] {
        let errors = errors(&discovered(ads, web, eds));
        assert!(errors.contains(reason), "{ads} {web} {eds}: {errors}");
    }
}

#[test]
fn load_reports_have_a_server_that_can_be_asked() {
    const REPORTS: &str = "cluster_manager: {load_stats_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: web}}]}}";
    let own = "- {name: e, lrs_server: {self: {}}}";
    let reports = load(&discovered(REPORTS, SPEAKS_HTTP2, own)).load_reports.unwrap();
    assert_eq!((reports.variant, &*reports.cluster), (Variant::StateOfTheWorld, "web"));
    assert!(load(&discovered("", "", own)).load_reports.is_none());
    assert!(!load(&discovered(REPORTS, SPEAKS_HTTP2, own)).asks_control_planes(), "no node is required");
    let at = "cluster_manager.load_stats_config";
    for (reports, web, reason) in [
        (REPORTS, "", "grpc_services[0].envoy_grpc.cluster_name: cluster \"web\" must speak HTTP/2"),
        (&REPORTS.replace(": web", ": nobody"), SPEAKS_HTTP2, "unknown cluster \"nobody\""),
        (
            &REPORTS.replace("api_type: GRPC", "api_type: REST"),
            SPEAKS_HTTP2,
            "GRPC and DELTA_GRPC are spoken",
        ),
    ] {
        let errors = errors(&discovered(reports, web, own));
        assert!(errors.contains(reason) && errors.contains(at), "{reports}: {errors}");
    }
}
