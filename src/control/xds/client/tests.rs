//! One test per rule of discovery that holds for endpoints, and per bug that other clients have had.
use std::sync::Arc;
use std::time::Duration;

use prost::Message;

use super::cache::{Kept, Restored};
use super::delta::Delta;
use super::judge::{Good, Judge, Outcome, Taken};
use super::sotw::Sotw;
use super::tables::KnownTables;
use super::virtual_hosts::KnownHosts;
use super::wanted::Wanted;
use super::{ENDPOINTS, Protocol, ROUTES, SharedCompiler, node};
use crate::config::bootstrap::Node;
use crate::config::listener::Listener;
use crate::control::discovery::KeptAssignment;
use crate::control::xds::convert::Runtime;
use crate::control::xds::loader::{Format, Source};
use crate::control::xds::{LoadOptions, load_bootstrap, pb};
use crate::protocol::http::forwarding::LocalInfo;
use crate::snapshot::{ListenerCompiler, ListenerResource, RouteCompiler, RouteSurroundings, own_limit};
use crate::telemetry::Registry;
use pb::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
    ResourceError, ResourceName, Status,
};

fn names(names: &[&str]) -> Wanted {
    Wanted::Names(names.iter().map(|name| (*name).into()).collect())
}

fn me() -> pb::core::Node {
    pb::core::Node { id: "me".into(), ..pb::core::Node::default() }
}

fn sotw(asked: &[&str]) -> Sotw {
    Sotw::new(Judge::Endpoints, me(), names(asked), true)
}

fn delta(asked: &[&str]) -> Delta {
    Delta::new(Judge::Endpoints, me(), names(asked), true)
}

/// Endpoints of that name: one, at that address.
fn any(name: &str, address: &str) -> pb::google::Any {
    use pb::core::{AddressAddressOneOf, SocketAddressPortSpecifierOneOf};
    use pb::endpoint::{
        ClusterLoadAssignment, Endpoint, LbEndpoint, LbEndpointHostIdentifierOneOf, LocalityLbEndpoints,
    };
    let socket = pb::core::SocketAddress {
        address: address.into(),
        port_specifier: Some(SocketAddressPortSpecifierOneOf::PortValue(80)),
        ..pb::core::SocketAddress::default()
    };
    let address = pb::core::Address { address: Some(AddressAddressOneOf::SocketAddress(socket)) };
    let endpoint = Endpoint { address: Some(address), ..Endpoint::default() };
    let endpoint = LbEndpoint {
        host_identifier: Some(LbEndpointHostIdentifierOneOf::Endpoint(endpoint)),
        ..LbEndpoint::default()
    };
    let locality = LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..LocalityLbEndpoints::default() };
    let message = ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
    };
    pb::google::Any { type_url: ENDPOINTS.into(), value: message.encode_to_vec() }
}

const GOOD: &str = "10.0.0.1";
const BAD: &str = "nowhere";

fn state(version: &str, nonce: &str, resources: Vec<pb::google::Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.into(),
        nonce: nonce.into(),
        type_url: ENDPOINTS.into(),
        resources,
        ..DiscoveryResponse::default()
    }
}

fn resource(name: &str, version: &str, body: Option<pb::google::Any>) -> Resource {
    Resource { name: name.into(), version: version.into(), resource: body, ..Resource::default() }
}

fn change(nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        nonce: nonce.into(),
        type_url: ENDPOINTS.into(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn good<R>(taken: &Taken<R>) -> Vec<&str> {
    taken.outcome.good.keys().map(String::as_str).collect()
}

fn bad<R>(taken: &Taken<R>) -> Vec<&str> {
    taken.outcome.bad.keys().map(String::as_str).collect()
}

fn versions(request: &DeltaDiscoveryRequest) -> Vec<(&str, &str)> {
    request.initial_resource_versions.iter().map(|(name, version)| (&**name, &**version)).collect()
}

fn is_ack(request: &DiscoveryRequest, version: &str, nonce: &str) -> bool {
    request.error_detail.is_none() && request.version_info == version && request.response_nonce == nonce
}

#[test]
fn s1_s2_without_names_nothing_is_asked_since_that_would_mean_everything() {
    assert!(sotw(&[]).open(true).is_none());
    assert!(delta(&[]).open(true).is_none());
}

#[test]
fn s3_state_of_the_world_requests_list_every_name_each_time() {
    let mut client = sotw(&["a", "b"]);
    assert_eq!(client.open(true).unwrap().resource_names, ["a", "b"]);
    assert_eq!(client.take(state("1", "n", vec![any("a", GOOD)])).unwrap().reply.resource_names, ["a", "b"]);
}

#[test]
fn s3_delta_names_are_asked_for_once_a_stream() {
    let mut client = delta(&["a", "b"]);
    assert_eq!(client.open(true).unwrap().resource_names_subscribe, ["a", "b"]);
    let taken = client.take(change("n", vec![resource("a", "1", Some(any("a", GOOD)))], &[])).unwrap();
    assert!(taken.reply.resource_names_subscribe.is_empty());
    assert!(taken.reply.initial_resource_versions.is_empty());
    assert_eq!(client.open(true).unwrap().resource_names_subscribe, ["a", "b"]);
}

#[test]
fn endpoints_are_kept_as_they_were_told_and_are_the_same_when_somebody_asks_later() {
    let told = any("a", GOOD);
    let taken = sotw(&["a"]).take(state("1", "n", vec![told.clone()])).unwrap();
    let Good::Endpoints(assignment) = &taken.outcome.good["a"] else { panic!("{:?}", taken.outcome.good) };
    assert_eq!(**assignment.kept(), KeptAssignment::Told(told.value.into()));
    let again = assignment.kept().assignment();
    assert_eq!(again, *assignment);
    assert_eq!((&*again.cluster_name, again.localities[0].endpoints.len()), ("a", 1));
}

#[test]
fn s4_resources_that_nobody_asked_for_are_ignored_good_or_bad() {
    let taken =
        sotw(&["a"]).take(state("1", "n", vec![any("x", GOOD), any("y", BAD), any("a", GOOD)])).unwrap();
    assert_eq!(good(&taken), ["a"]);
    assert!(is_ack(&taken.reply, "1", "n"));
    let more = vec![resource("x", "1", Some(any("x", BAD))), resource("a", "1", Some(any("a", GOOD)))];
    assert!(delta(&["a"]).take(change("n", more, &["z"])).unwrap().reply.error_detail.is_none());
}

#[test]
fn s5_resource_that_stands_twice_is_refused_and_the_others_are_used() {
    let twice = vec![any("a", GOOD), any("b", GOOD), any("a", GOOD), any("a", GOOD)];
    let taken = sotw(&["a", "b"]).take(state("1", "n", twice)).unwrap();
    assert_eq!((good(&taken), bad(&taken)), (vec!["b"], vec!["a"]));
    assert!(taken.reply.error_detail.unwrap().message.contains("a: stands more than once"));
}

#[test]
fn n1_response_of_another_type_has_no_answer() {
    let mut response = state("1", "n", Vec::new());
    response.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".into();
    assert!(sotw(&["a"]).take(response).is_none());
}

#[test]
fn n2_ack_has_the_version_and_nonce_of_its_response() {
    let mut client = sotw(&["a"]);
    for (version, nonce) in [("1", "x"), ("2", "y"), ("1", "z")] {
        let taken = client.take(state(version, nonce, vec![any("a", GOOD)])).unwrap();
        assert!(is_ack(&taken.reply, version, nonce));
    }
}

#[test]
fn n2_nack_has_the_last_good_version_the_nonce_and_names_the_resource() {
    let mut client = sotw(&["a"]);
    client.take(state("1", "x", vec![any("a", GOOD)])).unwrap();
    let reply = client.take(state("2", "y", vec![any("a", BAD)])).unwrap().reply;
    assert_eq!((&*reply.version_info, &*reply.response_nonce), ("1", "y"));
    let Status { code, message, .. } = reply.error_detail.unwrap();
    assert_eq!(code, 3);
    assert!(
        message.starts_with(
            "a: endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: malformed IP"
        ),
        "{message}"
    );
}

#[test]
fn n3_same_version_may_be_good_after_it_was_refused() {
    let mut client = sotw(&["a"]);
    assert!(client.take(state("1", "x", vec![any("a", BAD)])).unwrap().refused.is_some());
    let taken = client.take(state("1", "y", vec![any("a", GOOD)])).unwrap();
    assert!(is_ack(&taken.reply, "1", "y") && good(&taken) == ["a"]);
}

/// envoy#15767: nonces and answers of a stream that has ended were sent on the next.
#[test]
fn n4_version_outlives_a_stream_and_the_nonce_does_not() {
    let mut client = sotw(&["a"]);
    client.take(state("1", "x", vec![any("a", GOOD)])).unwrap();
    client.take(state("2", "y", vec![any("a", BAD)])).unwrap();
    let first = client.open(true).unwrap();
    assert_eq!((&*first.version_info, &*first.response_nonce), ("1", ""));
    assert!(first.error_detail.is_none());
    let mut client = delta(&["a"]);
    client.take(change("x", vec![resource("a", "1", Some(any("a", BAD)))], &[])).unwrap();
    let first = client.open(true).unwrap();
    assert!(first.response_nonce.is_empty() && first.error_detail.is_none());
}

/// envoy#20699: only the first version of a resource was noted.
#[test]
fn n6_version_of_a_resource_follows_every_update() {
    let mut client = delta(&["a"]);
    for version in ["1", "2", "3"] {
        client.take(change("n", vec![resource("a", version, Some(any("a", GOOD)))], &[])).unwrap();
        assert_eq!(versions(&client.open(true).unwrap()), [("a", version)]);
    }
}

#[test]
fn n7_name_that_a_state_of_the_world_lacks_stays_as_it_was() {
    let mut client = sotw(&["a", "b"]);
    client.take(state("1", "x", vec![any("a", GOOD), any("b", GOOD)])).unwrap();
    let taken = client.take(state("2", "y", vec![any("b", GOOD)])).unwrap();
    assert_eq!(good(&taken), ["b"]);
    assert!(taken.outcome.absent.is_empty());
    assert!(is_ack(&taken.reply, "2", "y"));
}

#[test]
fn n8_heartbeat_changes_nothing() {
    let mut client = delta(&["a"]);
    client.take(change("x", vec![resource("a", "1", Some(any("a", GOOD)))], &[])).unwrap();
    let taken = client.take(change("y", vec![resource("a", "1", None)], &[])).unwrap();
    assert!(taken.outcome.is_empty() && taken.reply.error_detail.is_none());
    let envelope = pb::google::Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".into(),
        value: resource("a", "1", None).encode_to_vec(),
    };
    assert!(is_ack(&sotw(&["a"]).take(state("1", "x", vec![envelope])).unwrap().reply, "1", "x"));
}

#[test]
fn envelope_of_a_state_of_the_world_resource_is_opened() {
    let envelope = pb::google::Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".into(),
        value: resource("a", "1", Some(any("a", GOOD))).encode_to_vec(),
    };
    assert_eq!(good(&sotw(&["a"]).take(state("1", "x", vec![envelope])).unwrap()), ["a"]);
}

#[test]
fn p1_good_resources_of_a_refused_response_are_used() {
    let mut client = sotw(&["a", "b", "c"]);
    let taken = client.take(state("1", "n", vec![any("a", GOOD), any("b", BAD), any("c", GOOD)])).unwrap();
    assert_eq!((good(&taken), bad(&taken)), (vec!["a", "c"], vec!["b"]));
    assert!(taken.reply.error_detail.is_some() && taken.reply.version_info.is_empty());
}

#[test]
fn p1_delta_refused_resource_keeps_its_version_and_the_others_take_theirs() {
    let mut client = delta(&["a", "b"]);
    let both = |version, second| {
        vec![resource("a", version, Some(any("a", GOOD))), resource("b", version, Some(any("b", second)))]
    };
    client.take(change("x", both("1", GOOD), &[])).unwrap();
    let reply = client.take(change("y", both("2", BAD), &[])).unwrap().reply;
    assert_eq!(reply.response_nonce, "y");
    assert!(reply.error_detail.unwrap().message.starts_with("b: "));
    assert_eq!(versions(&client.open(true).unwrap()), [("a", "2"), ("b", "1")]);
}

/// envoy#12592: what a refused response removes is removed.
#[test]
fn p2_removal_within_a_refused_response_holds() {
    let mut client = delta(&["a", "b"]);
    let both = ["a", "b"].map(|name| resource(name, "1", Some(any(name, GOOD))));
    client.take(change("x", both.to_vec(), &[])).unwrap();
    let taken = client.take(change("y", vec![resource("b", "2", Some(any("b", BAD)))], &["a"])).unwrap();
    assert_eq!(taken.outcome.absent.iter().collect::<Vec<_>>(), ["a"]);
    assert_eq!(versions(&client.open(true).unwrap()), [("b", "1")]);
}

#[test]
fn p3_error_of_a_resource_is_data_and_no_reason_to_refuse() {
    for (code, is_absent) in [(5, true), (7, true), (14, false), (0, false)] {
        let name = ResourceName { name: "a".into(), ..ResourceName::default() };
        let error_detail = Some(Status { code, message: "not here".into(), details: Vec::new() });
        let errors = vec![ResourceError { resource_name: Some(name), error_detail }];
        let response = DiscoveryResponse { resource_errors: errors, ..state("1", "n", Vec::new()) };
        let Taken { outcome: Outcome { absent, kept, .. }, reply, .. } = sotw(&["a"]).take(response).unwrap();
        assert_eq!((absent.contains("a"), kept.contains_key("a")), (is_absent, !is_absent), "{code}");
        assert!(is_ack(&reply, "1", "n"));
    }
}

/// envoy#16063 is about wildcards; names of other types are asked for again, with the versions that are there.
#[test]
fn r4_new_stream_asks_for_all_names_with_the_versions_that_are_there_and_the_node() {
    let mut client = delta(&["a", "b"]);
    let first = client.open(true).unwrap();
    assert!(versions(&first).is_empty());
    assert_eq!(first.node.unwrap().id, "me");
    let taken = client.take(change("n", vec![resource("a", "7", Some(any("a", GOOD)))], &[])).unwrap();
    assert!(taken.reply.node.is_none());
    let again = client.open(true).unwrap();
    assert_eq!((again.resource_names_subscribe.len(), versions(&again)), (2, vec![("a", "7")]));
    assert!(again.node.is_some());
}

/// Another version of this program has kept it, perhaps, and took what this one refuses.
#[test]
fn n4_version_of_what_was_kept_is_said_where_all_of_it_is_used() {
    let kept = |name: &str, address: &str| Kept {
        name: name.into(),
        version: String::new(),
        value: any(name, address).value,
    };
    for (address, version, used) in [(GOOD, "7", 2), (BAD, "", 1)] {
        let (mut client, wanted) = (sotw(&["a", "b"]), names(&["a", "b"]));
        let restored = Restored { version: "7".into(), resources: vec![kept("a", GOOD), kept("b", address)] };
        let outcome = client.restore(&restored, &wanted);
        assert_eq!(outcome.good.len(), used);
        client.take_restored(restored, &outcome, &wanted);
        assert_eq!(client.open(true).unwrap().version_info, version);
    }
}

/// envoy#34334: after a refusal and a new stream the type was never asked for again.
#[test]
fn r5_type_is_asked_for_again_after_a_refusal() {
    let mut client = sotw(&["a"]);
    client.open(true).unwrap();
    client.take(state("1", "n", vec![any("a", BAD)])).unwrap();
    assert_eq!(client.open(true).unwrap().resource_names, ["a"]);
}

#[test]
fn d1_refused_content_is_known_again_whatever_its_nonce() {
    let mut client = sotw(&["a"]);
    let mut refused =
        |version, nonce| client.take(state(version, nonce, vec![any("a", BAD)])).unwrap().refused;
    let first = refused("1", "x");
    assert!(first.is_some() && refused("1", "y") == first);
    assert_ne!(refused("2", "z"), first);
}

#[test]
fn node_on_every_request_unless_only_the_first_is_to_have_it() {
    let mut client = Sotw::new(Judge::Endpoints, me(), names(&["a"]), false);
    assert!(client.take(state("1", "x", Vec::new())).unwrap().reply.node.is_some());
    assert!(sotw(&["a"]).take(state("1", "x", Vec::new())).unwrap().reply.node.is_none());
}

#[test]
fn i1_node_is_passed_on_whole_and_the_command_line_has_the_last_word() {
    let configured = pb::core::Node {
        id: "file".into(),
        client_features: vec!["x".into()],
        locality: Some(pb::core::Locality { region: "r".into(), ..pb::core::Locality::default() }),
        ..pb::core::Node::default()
    };
    let mut own = Node { id: "flag".into(), cluster: "c".into(), ..Node::default() };
    own.locality.zone = "z".into();
    let told = node::node(&configured.encode_to_vec(), &own);
    assert_eq!((&*told.id, &*told.cluster, &*told.user_agent_name), ("flag", "c", "envoy"));
    assert_eq!(told.client_features, ["x"]);
    let locality = told.locality.unwrap();
    assert_eq!((&*locality.region, &*locality.zone), ("r", "z"));
}

#[test]
fn garbage_is_refused_and_harms_nothing_else() {
    let garbage = pb::google::Any { type_url: ENDPOINTS.into(), value: vec![0xff; 9] };
    let other = pb::google::Any { type_url: "type.googleapis.com/x.Y".into(), value: Vec::new() };
    let taken = sotw(&["a"]).take(state("1", "n", vec![garbage, other, any("a", GOOD)])).unwrap();
    assert_eq!(good(&taken), ["a"]);
    assert_eq!(taken.outcome.nameless.len(), 2);
    assert!(taken.reply.error_detail.is_some());
}

#[test]
fn refusal_of_many_resources_stays_short() {
    let many: Vec<String> = (0..2000).map(|index| format!("cluster-{index}")).collect();
    let asked: Vec<&str> = many.iter().map(String::as_str).collect();
    let resources = many.iter().map(|name| any(name, BAD)).collect();
    let message = sotw(&asked).take(state("1", "n", resources)).unwrap().reply.error_detail.unwrap().message;
    assert!(message.len() < 20_000 && message.ends_with(" more"), "{}", message.len());
}

/// A bootstrap whose one manager has its routes from a control plane.
pub(super) const ASKS_FOR_ROUTES: &str = r#"
node: {id: me, cluster: us}
dynamic_resources:
  ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: plane}}]}
static_resources:
  clusters:
  - name: plane
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: plane, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]}
  listeners:
  - name: web
    address: {socket_address: {address: 127.0.0.1, port_value: 1}}
    filter_chains:
    - filters:
      - name: manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          rds: {route_config_name: routes, config_source: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 2s}}
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#;

fn route_compiler() -> SharedCompiler {
    let source = Source { name: "test.yaml", text: ASKS_FOR_ROUTES, format: Format::Yaml };
    let loaded = load_bootstrap(&[source], LoadOptions::default()).unwrap();
    let (place, manager) = loaded.bootstrap.listeners[0].managers().next().unwrap();
    let rds = manager.rds.as_ref().unwrap();
    assert_eq!((place, &*rds.name, rds.initial_fetch_timeout), (0, "routes", Some(Duration::from_secs(2))));
    let compiled = compiled(&loaded.bootstrap.listeners);
    SharedCompiler::new(RouteCompiler::of(&compiled, compiling()), Runtime::default())
}

pub(super) fn compiled(listeners: &[Arc<Listener>]) -> Vec<Arc<ListenerResource>> {
    let compiler = ListenerCompiler::new(compiling());
    listeners.iter().map(|listener| compiler.compile(Arc::clone(listener)).unwrap()).collect()
}

/// What is compiled with; there is a cluster `a`.
pub(super) fn compiling() -> Arc<RouteSurroundings> {
    Arc::new(RouteSurroundings {
        registry: Arc::new(Registry::new(1)),
        cluster_exists: Box::new(|name| name == "a"),
        local_info: LocalInfo { cluster: "us".into(), node: "me".into(), address: None },
        hash_seed: 7,
        regexes: Arc::default(),
        shared_limit: Box::new(own_limit),
        open_sink: Box::new(|_| Err(std::io::Error::other("no logs here"))),
    })
}

/// A virtual host of that name and domain with one route, to that cluster, for paths that an expression matches.
pub(super) fn host(name: &str, domain: &str, regex: &str, cluster: &str) -> pb::route::VirtualHost {
    use pb::route::{
        Route, RouteActionClusterSpecifierOneOf, RouteActionOneOf, RouteMatch, RouteMatchPathSpecifierOneOf,
        VirtualHost,
    };
    let matcher = pb::types::RegexMatcher { regex: regex.into(), ..pb::types::RegexMatcher::default() };
    let action = pb::route::RouteAction {
        cluster_specifier: Some(RouteActionClusterSpecifierOneOf::Cluster(cluster.into())),
        ..pb::route::RouteAction::default()
    };
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(RouteMatchPathSpecifierOneOf::SafeRegex(matcher)),
            ..RouteMatch::default()
        }),
        action: Some(RouteActionOneOf::Route(action)),
        ..Route::default()
    };
    VirtualHost {
        name: name.into(),
        domains: vec![domain.into()],
        routes: vec![route],
        ..VirtualHost::default()
    }
}

/// A table of that name with one route, to that cluster, for paths that an expression matches.
fn table(name: &str, regex: &str, cluster: &str) -> pb::google::Any {
    let message = pb::route::RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![host("all", "*", regex, cluster).encode_to_vec()],
        ..pb::route::RouteConfiguration::default()
    };
    pb::google::Any { type_url: ROUTES.into(), value: message.encode_to_vec() }
}

fn tables(version: &str, nonce: &str, resources: Vec<pb::google::Any>) -> DiscoveryResponse {
    DiscoveryResponse { type_url: ROUTES.into(), ..state(version, nonce, resources) }
}

fn routes_client() -> Sotw {
    let (compiler, source) = (route_compiler(), crate::config::ads::ResourceSource::Ads);
    Sotw::new(
        Judge::Routes { compiler, source, known: KnownTables::default(), hosts: KnownHosts::default() },
        me(),
        names(&["routes"]),
        true,
    )
}

#[test]
fn routes_are_compiled_for_those_who_ask_before_they_are_acknowledged() {
    let mut client = routes_client();
    let first = client.open(false).unwrap();
    assert_eq!((first.type_url.as_str(), first.node.is_none()), (ROUTES, true));
    let taken = client.take(tables("1", "x", vec![table("routes", "/a", "a")])).unwrap();
    assert!(is_ack(&taken.reply, "1", "x"));
    assert!(matches!(&taken.outcome.good["routes"], Good::Routes(all, _) if all.len() == 1));
}

#[test]
fn routes_that_cannot_be_compiled_are_refused_with_the_place_in_the_table() {
    let mut client = routes_client();
    client.take(tables("1", "x", vec![table("routes", "/a", "a")])).unwrap();
    let reply = client.take(tables("2", "y", vec![table("routes", "(", "a")])).unwrap().reply;
    assert_eq!((&*reply.version_info, &*reply.response_nonce), ("1", "y"));
    let message = reply.error_detail.unwrap().message;
    assert!(message.starts_with("routes: virtual_hosts[0].routes[0].match.safe_regex"), "{message}");
}

#[test]
fn routes_that_are_in_use_are_acknowledged_and_not_compiled_again() {
    let mut client = routes_client();
    client.take(tables("1", "x", vec![table("routes", "/a", "a")])).unwrap();
    let taken = client.take(tables("2", "y", vec![table("routes", "/a", "a")])).unwrap();
    assert!(is_ack(&taken.reply, "2", "y"));
    assert!(matches!(taken.outcome.good["routes"], Good::Same));
    let taken = client.take(tables("3", "z", vec![table("routes", "/b", "a")])).unwrap();
    assert!(matches!(taken.outcome.good["routes"], Good::Routes(..)));
}

/// A listener that came after the removal, or that changed, was given nothing and answered everything with 404.
#[test]
fn routes_that_delta_removes_are_known_as_long_as_somebody_asks_for_them() {
    let (compiler, known) = (route_compiler(), KnownTables::default());
    let source = crate::config::ads::ResourceSource::Ads;
    let judge = Judge::Routes { compiler, source, known: known.clone(), hosts: KnownHosts::default() };
    let mut client = Delta::new(judge, me(), names(&["routes"]), true);
    let told = |removed: &[&str]| {
        let all = vec![resource("routes", "1", Some(table("routes", "/a", "a")))];
        let resources = if removed.is_empty() { all } else { Vec::new() };
        DeltaDiscoveryResponse { type_url: ROUTES.into(), ..change("n", resources, removed) }
    };
    client.open(true);
    client.take(told(&[])).unwrap();
    let taken = client.take(told(&["routes"])).unwrap();
    assert!(taken.outcome.absent.contains("routes") && known.get("routes").is_some());
    assert!(versions(&client.open(true).unwrap()).is_empty(), "the next stream asks for it anew");
    let taken = client.take(told(&[])).unwrap();
    assert!(matches!(taken.outcome.good["routes"], Good::Same), "it is in use");
    client.want(names(&[]), None);
    assert!(known.get("routes").is_none());
}

/// What stood twice was noted as in use by its first copy: mended, it was nothing new, and was never there.
#[test]
fn s5_routes_that_stood_twice_are_taken_once_they_stand_alone() {
    let mut client = routes_client();
    let told = || table("routes", "/a", "a");
    let taken = client.take(tables("1", "x", vec![told(), told()])).unwrap();
    assert!(taken.reply.error_detail.is_some() && taken.outcome.good.is_empty());
    let taken = client.take(tables("2", "y", vec![told()])).unwrap();
    assert!(is_ack(&taken.reply, "2", "y"));
    assert!(matches!(&taken.outcome.good["routes"], Good::Routes(all, _) if all.len() == 1));
}

#[test]
fn response_of_each_type_is_for_its_own_machine() {
    let (endpoints, routes) = (sotw(&["a"]), routes_client());
    let url = <Sotw as Protocol>::type_url;
    let told = tables("1", "x", Vec::new());
    assert!(routes.is_of(url(&told)) && !endpoints.is_of(url(&told)));
    let told = state("1", "x", Vec::new());
    assert!(endpoints.is_of(url(&told)) && !routes.is_of(url(&told)));
}
