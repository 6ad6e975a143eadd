//! One test per rule of discovery that holds where everything is asked for, and where what is asked for changes.
use std::sync::Arc;

use prost::Message;
use tokio::sync::mpsc;

use super::clusters::{ClusterJudge, ClusterNames};
use super::delta::Delta;
use super::gate::Gate;
use super::judge::{Good, Judge, Kind, Outcome, Taken};
use super::known_secrets::KnownSecrets;
use super::quarantine::Quarantine;
use super::sotw::Sotw;
use super::subscribers::Subscribers;
use super::wanted::Wanted;
use super::{CLUSTERS, ENDPOINTS, Protocol, Update, Updates};
use crate::config::ads::{Eds, ResourceSource};
use crate::config::endpoint::ClusterLoadAssignment;
use crate::control::discovery::Assignment;
use crate::control::xds::convert::Surroundings;
use crate::control::xds::pb;
use crate::telemetry::names::Stats;
use crate::telemetry::{ClusterStat, Registry, ServerStat, Slot};
use pb::discovery::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};

fn judge(fixed: &[&str]) -> Judge {
    let fixed = fixed.iter().map(|name| (*name).into()).collect();
    Judge::Clusters(Box::new(ClusterJudge::new(Surroundings::default(), fixed, ClusterNames::default())))
}

fn sotw(fixed: &[&str]) -> Sotw {
    Sotw::new(judge(fixed), pb::core::Node::default(), Wanted::All, true)
}

fn delta() -> Delta {
    Delta::new(judge(&[]), pb::core::Node::default(), Wanted::All, true)
}

fn endpoints(names: &[&str]) -> Wanted {
    Wanted::Names(names.iter().map(|name| (*name).into()).collect())
}

fn no_endpoints() -> Good {
    Good::Endpoints(Assignment::found(ClusterLoadAssignment::default()))
}

/// A static cluster without endpoints, whose connections take so many seconds at most: 0 is refused.
fn any(name: &str, connect_timeout_s: i64) -> pb::google::Any {
    let seconds = pb::google::Duration { seconds: connect_timeout_s, nanos: 0 };
    let message = pb::cluster::Cluster {
        name: name.into(),
        connect_timeout: Some(seconds),
        ..pb::cluster::Cluster::default()
    };
    pb::google::Any { type_url: CLUSTERS.into(), value: message.encode_to_vec() }
}

fn state(version: &str, nonce: &str, resources: Vec<pb::google::Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.into(),
        nonce: nonce.into(),
        type_url: CLUSTERS.into(),
        resources,
        ..DiscoveryResponse::default()
    }
}

fn change(nonce: &str, resources: &[(&str, &str, i64)], removed: &[&str]) -> DeltaDiscoveryResponse {
    let resource = |(name, version, timeout): &(&str, &str, i64)| Resource {
        name: (*name).into(),
        version: (*version).into(),
        resource: Some(any(name, *timeout)),
        ..Resource::default()
    };
    DeltaDiscoveryResponse {
        nonce: nonce.into(),
        type_url: CLUSTERS.into(),
        resources: resources.iter().map(resource).collect(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// Names of what is new or changed, and of what is gone.
fn changes<R>(taken: &Taken<R>) -> (Vec<&str>, Vec<&str>) {
    let good = taken.outcome.good.iter().filter(|(_, good)| matches!(good, Good::Cluster(_)));
    (good.map(|(name, _)| name.as_str()).collect(), taken.outcome.absent.iter().map(String::as_str).collect())
}

#[test]
fn s1_everything_is_asked_for_without_a_name() {
    let first = sotw(&[]).open(true).unwrap();
    assert_eq!((first.type_url.as_str(), first.resource_names.len()), (CLUSTERS, 0));
    let first = delta().open(true).unwrap();
    assert_eq!((first.type_url.as_str(), first.resource_names_subscribe.len()), (CLUSTERS, 0));
}

#[test]
fn n7_cluster_that_a_state_of_the_world_leaves_out_is_gone() {
    let mut client = sotw(&[]);
    let taken = client.take(state("1", "x", vec![any("a", 1), any("b", 1)])).unwrap();
    assert_eq!(changes(&taken), (vec!["a", "b"], vec![]));
    let taken = client.take(state("2", "y", vec![any("b", 1)])).unwrap();
    assert_eq!(changes(&taken), (vec![], vec!["a"]));
    let taken = client.take(state("3", "z", vec![any("a", 1), any("b", 2)])).unwrap();
    assert_eq!(changes(&taken), (vec!["a", "b"], vec![]), "one came back as it was, one has changed");
    let taken = client.take(state("4", "w", Vec::new())).unwrap();
    assert_eq!(changes(&taken), (vec![], vec!["a", "b"]), "an empty state is one without any");
    assert!(taken.reply.error_detail.is_none());
}

#[test]
fn p1_refused_cluster_is_not_gone_and_the_others_are_used() {
    let mut client = sotw(&[]);
    client.take(state("1", "x", vec![any("a", 1), any("b", 1), any("c", 1)])).unwrap();
    let taken = client.take(state("2", "y", vec![any("a", 0), any("b", 2)])).unwrap();
    assert_eq!(changes(&taken), (vec!["b"], vec!["c"]));
    assert_eq!(taken.outcome.bad.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(taken.reply.version_info, "1");
    let message = taken.reply.error_detail.unwrap().message;
    assert!(message.starts_with("a: connect_timeout"), "{message}");
    // As it was before it was refused: nothing has changed.
    assert_eq!(changes(&client.take(state("3", "z", vec![any("a", 1), any("b", 2)])).unwrap()).0, [""; 0]);
}

/// What stood twice was noted as in use by its first copy: mended, it was nothing new, and was never there.
#[test]
fn s5_cluster_that_stood_twice_is_taken_once_it_stands_alone() {
    let mut client = sotw(&[]);
    for (seconds, nonce) in [(1, "x"), (2, "y")] {
        let taken = client.take(state("1", nonce, vec![any("a", seconds), any("a", seconds)])).unwrap();
        assert_eq!(changes(&taken), (vec![], vec![]));
        assert!(taken.reply.error_detail.is_some());
        let taken = client.take(state("2", nonce, vec![any("a", seconds)])).unwrap();
        assert_eq!(changes(&taken), (vec!["a"], vec![]));
        assert!(taken.reply.error_detail.is_none());
    }
    let mut client = delta();
    let taken = client.take(change("x", &[("a", "1", 1), ("a", "2", 1)], &[])).unwrap();
    assert_eq!(changes(&taken), (vec![], vec![]));
    assert_eq!(changes(&client.take(change("y", &[("a", "1", 1)], &[])).unwrap()), (vec!["a"], vec![]));
}

#[test]
fn nameless_part_of_a_state_takes_nothing_away() {
    let mut client = sotw(&[]);
    client.take(state("1", "x", vec![any("a", 1)])).unwrap();
    let garbage = pb::google::Any { type_url: CLUSTERS.into(), value: vec![0xff; 9] };
    let taken = client.take(state("2", "y", vec![garbage])).unwrap();
    assert_eq!(changes(&taken), (vec![], vec![]));
    assert!(taken.reply.error_detail.is_some());
}

/// As Envoy: what the bootstrap has is not replaced, and that is no mistake.
#[test]
fn cluster_of_the_bootstrap_is_passed_over() {
    let taken = sotw(&["a"]).take(state("1", "x", vec![any("a", 1), any("b", 1)])).unwrap();
    assert_eq!(changes(&taken).0, ["b"]);
    assert!(taken.reply.error_detail.is_none());
}

/// envoy#12592: what a refused response removes is removed. envoy#16063: known names were asked for by name.
#[test]
fn r4_new_stream_tells_versions_and_lists_no_names() {
    let mut client = delta();
    client.take(change("x", &[("a", "1", 1), ("b", "1", 1)], &[])).unwrap();
    let taken = client.take(change("y", &[("b", "2", 0)], &["a"])).unwrap();
    assert_eq!(changes(&taken), (vec![], vec!["a"]));
    let first = client.open(true).unwrap();
    assert!(first.resource_names_subscribe.is_empty());
    let versions: Vec<_> = first.initial_resource_versions.into_iter().collect();
    assert_eq!(versions, [("b".to_owned(), "1".to_owned())]);
}

#[test]
fn s3_s6_delta_says_what_is_asked_for_beside_and_no_more() {
    let mut client = Delta::new(Judge::Endpoints, pb::core::Node::default(), endpoints(&[]), true);
    assert!(client.open(true).is_none());
    let request = client.want(endpoints(&["a", "b"]), None).unwrap();
    assert_eq!((request.type_url.as_str(), request.resource_names_subscribe.len()), (ENDPOINTS, 2));
    let request = client.want(endpoints(&["b", "c"]), None).unwrap();
    assert_eq!(request.resource_names_subscribe, ["c"]);
    assert_eq!(request.resource_names_unsubscribe, ["a"]);
    assert!(request.response_nonce.is_empty());
    assert!(client.want(endpoints(&["b", "c"]), None).is_none());
    assert_eq!(client.want(endpoints(&[]), None).unwrap().resource_names_unsubscribe, ["b", "c"]);
    assert_eq!(client.want(endpoints(&["b"]), None).unwrap().resource_names_subscribe, ["b"]);
}

#[test]
fn s3_state_of_the_world_lists_all_again_with_the_last_nonce() {
    let mut client = Sotw::new(Judge::Endpoints, pb::core::Node::default(), endpoints(&[]), true);
    assert!(client.open(true).is_none());
    let request = client.want(endpoints(&["a"]), None).unwrap();
    assert_eq!((request.resource_names.len(), request.response_nonce.as_str()), (1, ""));
    let response = DiscoveryResponse { type_url: ENDPOINTS.into(), ..state("1", "x", Vec::new()) };
    client.take(response).unwrap();
    let request = client.want(endpoints(&["a", "b"]), None).unwrap();
    assert_eq!(request.resource_names, ["a", "b"]);
    assert_eq!((&*request.version_info, &*request.response_nonce), ("1", "x"));
    // Once there were names, none means none.
    assert!(client.want(endpoints(&[]), None).unwrap().resource_names.is_empty());
    assert!(client.open(true).is_none());
}

/// A request with the nonce of a refusal that is held back would take it back.
#[test]
fn d1_names_that_change_go_out_with_the_refusal_that_is_held_back() {
    let mut client = Sotw::new(Judge::Endpoints, pb::core::Node::default(), endpoints(&["a"]), true);
    client.open(true).unwrap();
    let garbage = pb::google::Any { type_url: ENDPOINTS.into(), value: vec![0xff; 9] };
    let response = DiscoveryResponse { type_url: ENDPOINTS.into(), ..state("1", "x", vec![garbage]) };
    let mut held = client.take(response).unwrap().reply;
    assert!(client.want(endpoints(&["a", "b"]), Some(&mut held)).is_none());
    assert_eq!(held.resource_names, ["a", "b"]);
    assert!(held.error_detail.is_some() && held.response_nonce == "x");
}

/// Those of the aggregated stream. Nobody hears what they tell.
fn subscribers(registry: &Registry) -> Subscribers {
    telling(mpsc::channel(8).0, registry)
}

/// The same, heard there.
fn telling(updates: mpsc::Sender<Updates>, registry: &Registry) -> Subscribers {
    let (quarantine, secrets) = (Quarantine::default(), KnownSecrets::default());
    let server = registry.server(Slot::Control);
    Subscribers::new(ResourceSource::Ads, updates, quarantine, secrets, Gate::new(true), server)
}

/// As Envoy, which counts each once, in whichever resources it stands.
#[tokio::test(start_paused = true)]
async fn y2_field_that_the_api_does_not_have_is_passed_over_and_counted() {
    let told = |name: &str| {
        let mut any = any(name, 1);
        // Number 54321, with nothing in it.
        any.value.extend([0x8a, 0xc3, 0x1a, 0]);
        any
    };
    let registry = Registry::new(1);
    let all = subscribers(&registry);
    let mut client = sotw(&[]);
    for names in [&["a", "b"][..], &["c"]] {
        let resources = names.iter().map(|name| told(name)).collect();
        let taken = client.take(state("1", "x", resources)).unwrap();
        assert_eq!(changes(&taken).0, names);
        all.apply(Kind::Clusters, taken.outcome, "1").await;
    }
    assert_eq!(registry.server(Slot::Control).value(ServerStat::DynamicUnknownFields), 1);
}

/// A cluster that goes and comes back before the stream has looked asks for nothing new, and is not told its endpoints again.
#[tokio::test(start_paused = true)]
async fn endpoints_that_were_given_up_are_known_until_the_stream_has_said_so() {
    let registry = Registry::new(1);
    let all = subscribers(&registry);
    let eds = Eds { source: ResourceSource::Ads, service_name: None, initial_fetch_timeout: None };
    let add = |instance| all.add(&"a".into(), instance, &eds, registry.cluster("a"));
    assert!(add(1).is_none());
    all.remove("a", 1, &eds);
    // What is told meanwhile is for whoever comes.
    let good = [("a".to_owned(), no_endpoints())].into();
    all.apply(Kind::Endpoints, Outcome { good, ..Outcome::default() }, "1").await;
    assert!(add(2).is_some());
    all.remove("a", 2, &eds);
    assert!(all.is_empty() && all.wanted(Kind::Endpoints).is_nothing());
    assert!(add(3).is_some());
    assert_eq!(all.ask(Kind::Endpoints), endpoints(&["a"]));
    all.remove("a", 3, &eds);
    assert!(all.ask(Kind::Endpoints).is_nothing());
    assert!(add(4).is_none(), "it is asked for anew");
}

/// A state of the world tells the endpoints of all clusters when those of one change: the others have nothing to do with it.
#[tokio::test(start_paused = true)]
async fn endpoints_that_are_told_again_are_handed_on_to_nobody() {
    let (updates, mut told) = mpsc::channel(8);
    let registry = Registry::new(1);
    let all = telling(updates, &registry);
    let eds = Eds { source: ResourceSource::Ads, service_name: None, initial_fetch_timeout: None };
    for name in ["a", "b"] {
        all.add(&name.into(), 1, &eds, registry.cluster(name));
    }
    let endpoints = |wire: &str| Good::Endpoints(Assignment::told(Arc::default(), wire.as_bytes()));
    for (wire, heard) in [("1", 2), ("1", 0), ("2", 1), ("1", 1)] {
        let good = [("a".to_owned(), endpoints("1")), ("b".to_owned(), endpoints(wire))].into();
        all.apply(Kind::Endpoints, Outcome { good, ..Outcome::default() }, wire).await;
        assert_eq!(told.try_recv().map_or(0, |response| response.len()), heard);
    }
    let scope = registry.cluster("a");
    assert_eq!(scope.value(ClusterStat::UpdateSuccess.index()).0, 4, "it is an answer all the same");
}

/// Endpoints that are good, those of whom waits for some and is told bad ones or that there are none: whoever takes them lets
/// nobody see a part.
#[tokio::test(start_paused = true)]
async fn o6_what_one_response_changes_is_handed_on_as_one() {
    let (updates, mut told) = mpsc::channel(8);
    let registry = Registry::new(1);
    let all = telling(updates, &registry);
    let eds = Eds { source: ResourceSource::Ads, service_name: None, initial_fetch_timeout: None };
    for name in ["a", "b", "c", "d"] {
        all.add(&name.into(), 1, &eds, registry.cluster(name));
    }
    let good = ["a", "c"].map(|name| (name.to_owned(), no_endpoints())).into();
    let bad = [("b".to_owned(), "wrong".to_owned())].into();
    let outcome = Outcome { good, bad, absent: ["d".to_owned()].into(), ..Outcome::default() };
    all.apply(Kind::Endpoints, outcome, "1").await;
    let response = told.try_recv().unwrap();
    let cluster = |update: &Update| match update {
        Update::Endpoints(update) => Arc::clone(&update.cluster),
        other => panic!("{other:?}"),
    };
    let mut clusters: Vec<_> = response.iter().map(cluster).collect();
    clusters.sort_unstable();
    assert_eq!(clusters, ["a", "b", "c", "d"].map(Arc::<str>::from));
    assert!(told.try_recv().is_err(), "that was all");
    all.apply(Kind::Endpoints, Outcome::default(), "2").await;
    assert!(told.try_recv().is_err(), "nothing has changed");
}
