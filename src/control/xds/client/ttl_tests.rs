//! Rules of discovery that holds for resources with a time to live, in both protocols.
use std::time::Duration;

use prost::Message;
use tokio::time::{Instant, advance};

use super::clusters::{ClusterJudge, ClusterNames};
use super::delta::Delta;
use super::gate::now;
use super::judge::{Good, Judge, Kind};
use super::known_secrets::KnownSecrets;
use super::secrets::SecretJudge;
use super::sotw::Sotw;
use super::status::ClientStatus;
use super::wanted::Wanted;
use super::{CLUSTERS, Protocol, RUNTIME, node, ttl};
use crate::config::ads::ResourceSource;
use crate::control::xds::convert::Surroundings;
use crate::control::xds::pb;
use pb::discovery::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use pb::google::Any;

const SECOND: Duration = Duration::from_secs(1);

fn clusters() -> Judge {
    let fixed = Default::default();
    Judge::Clusters(Box::new(ClusterJudge::new(Surroundings::default(), fixed, ClusterNames::default())))
}

fn delta() -> Delta {
    Delta::new(clusters(), pb::core::Node::default(), Wanted::All, true)
}

fn sotw() -> Sotw {
    Sotw::new(clusters(), pb::core::Node::default(), Wanted::All, true)
}

/// A layer of that name is asked for, and nothing else; empty: nothing at all.
fn layer(name: &str) -> Wanted {
    Wanted::Names((!name.is_empty()).then(|| name.into()).into_iter().collect())
}

/// A static cluster without endpoints, whose connections take so many seconds at most: 0 is refused.
fn timed(name: &str, connect_timeout_s: i64) -> Any {
    let message = pb::cluster::Cluster {
        name: name.into(),
        connect_timeout: Some(seconds(connect_timeout_s)),
        ..pb::cluster::Cluster::default()
    };
    Any { type_url: CLUSTERS.into(), value: message.encode_to_vec() }
}

fn cluster(name: &str) -> Any {
    timed(name, 1)
}

fn runtime(name: &str) -> Any {
    let layer = Some(pb::google::Struct::default());
    let message = pb::runtime::Runtime { name: name.into(), layer };
    Any { type_url: RUNTIME.into(), value: message.encode_to_vec() }
}

fn seconds(seconds: i64) -> pb::google::Duration {
    pb::google::Duration { seconds, nanos: 0 }
}

/// A resource that lives for so many seconds.
fn living(ttl_s: i64, name: &str, version: &str, body: Option<Any>) -> Resource {
    Resource { ttl: Some(seconds(ttl_s)), ..lasting(name, version, body) }
}

fn lasting(name: &str, version: &str, body: Option<Any>) -> Resource {
    Resource { name: name.into(), version: version.into(), resource: body, ..Resource::default() }
}

/// The same in a state of the world.
fn wrapped(resource: &Resource) -> Any {
    let type_url = "type.googleapis.com/envoy.service.discovery.v3.Resource".to_owned();
    Any { type_url, value: resource.encode_to_vec() }
}

fn state(version: &str, resources: Vec<Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.into(),
        nonce: "n".into(),
        type_url: CLUSTERS.into(),
        resources,
        ..DiscoveryResponse::default()
    }
}

fn change(resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        nonce: "n".into(),
        type_url: CLUSTERS.into(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

/// Names of those that are gone by then.
fn gone(client: &mut impl Protocol, by: Instant) -> Vec<String> {
    client.expire(by).map_or_else(Vec::new, |outcome| outcome.absent.into_iter().collect())
}

#[tokio::test(start_paused = true)]
async fn n9_delta_resource_goes_when_its_time_is_over_and_is_asked_for_anew() {
    let (mut client, begun) = (delta(), now());
    let told = vec![
        living(2, "a", "1", Some(cluster("a"))),
        lasting("b", "1", Some(cluster("b"))),
        living(3, "c", "1", Some(cluster("c"))),
    ];
    assert!(client.take(change(told)).unwrap().reply.error_detail.is_none());
    assert_eq!(client.ttls().due(), Some(begun + SECOND * 2));
    assert!(gone(&mut client, begun + SECOND).is_empty());
    assert_eq!(gone(&mut client, begun + SECOND * 2), ["a"]);
    let has = client.open(true).unwrap().initial_resource_versions;
    assert!(!has.contains_key("a") && has["b"] == "1" && has["c"] == "1");
    let taken = client.take(change(vec![lasting("a", "1", Some(cluster("a")))])).unwrap();
    assert!(matches!(taken.outcome.good["a"], Good::Cluster(_)), "it was gone");
    // The control plane takes one away before, and nothing goes twice.
    let removed = DeltaDiscoveryResponse { removed_resources: vec!["c".into()], ..change(vec![]) };
    assert!(client.take(removed).unwrap().outcome.absent.contains("c"));
    assert_eq!(client.ttls().due(), None);
}

#[tokio::test(start_paused = true)]
async fn n9_state_of_the_world_resource_goes_when_its_time_is_over_and_is_told_anew() {
    let (mut client, begun) = (sotw(), now());
    client.open(true);
    let told = vec![wrapped(&living(2, "a", "", Some(cluster("a")))), cluster("b")];
    assert!(client.take(state("1", told)).unwrap().reply.error_detail.is_none());
    assert!(gone(&mut client, begun + SECOND).is_empty());
    assert_eq!(gone(&mut client, begun + SECOND * 2), ["a"]);
    assert_eq!(client.open(true).unwrap().version_info, "", "whoever has this version would not be told");
    let taken = client.take(state("1", vec![cluster("a"), cluster("b")])).unwrap();
    assert!(matches!(taken.outcome.good["a"], Good::Cluster(_)), "it was gone");
    assert!(matches!(taken.outcome.good["b"], Good::Same) && taken.outcome.absent.is_empty());
    assert_eq!((client.ttls().due(), &*client.open(true).unwrap().version_info), (None, "1"));
    // What a state of the world leaves out before is gone once.
    client.take(state("2", vec![wrapped(&living(2, "a", "", Some(cluster("a"))))])).unwrap();
    assert!(client.take(state("3", vec![cluster("b")])).unwrap().outcome.absent.contains("a"));
    assert_eq!(client.ttls().due(), None);
}

#[tokio::test(start_paused = true)]
async fn n8_delta_heartbeat_is_of_the_version_that_is_there() {
    let (mut client, begun) = (delta(), now());
    client.take(change(vec![living(2, "a", "1", Some(cluster("a")))])).unwrap();
    advance(SECOND).await;
    let middle = now();
    for (beat, due) in [
        (living(9, "a", "2", None), Some(begun + SECOND * 2)),
        (living(1, "x", "1", None), Some(begun + SECOND * 2)),
        (living(1, "x", "", None), Some(begun + SECOND * 2)),
        (living(2, "a", "1", None), Some(middle + SECOND * 2)),
        (lasting("a", "1", None), None),
        (living(5, "a", "1", None), Some(middle + SECOND * 5)),
    ] {
        let taken = client.take(change(vec![beat.clone()])).unwrap();
        assert!(taken.outcome.is_empty() && taken.reply.error_detail.is_none(), "{beat:?}");
        assert_eq!(client.ttls().due(), due, "{beat:?}");
    }
    assert_eq!(gone(&mut client, middle + SECOND * 5), ["a"]);
    client.take(change(vec![living(9, "a", "1", None)])).unwrap();
    assert_eq!(client.ttls().due(), None, "it does not come back by a heartbeat");
}

#[tokio::test(start_paused = true)]
async fn n8_state_of_the_world_heartbeat_is_of_the_version_that_was_told_last() {
    let (mut client, begun) = (sotw(), now());
    let a = |ttl_s, body| wrapped(&living(ttl_s, "a", "", body));
    client.take(state("1", vec![a(2, Some(cluster("a"))), cluster("b")])).unwrap();
    advance(SECOND).await;
    // As go-control-plane's: nothing else is in it.
    let taken = client.take(state("1", vec![a(2, None)])).unwrap();
    assert!(taken.outcome.is_empty() && taken.reply.error_detail.is_none());
    let middle = now();
    assert_eq!(client.ttls().due(), Some(middle + SECOND * 2));
    assert!(gone(&mut client, begun + SECOND * 2).is_empty());
    // Of another state it says that it is there, and no more.
    let taken = client.take(state("2", vec![a(9, None)])).unwrap();
    assert_eq!(taken.outcome.absent.iter().collect::<Vec<_>>(), ["b"]);
    assert_eq!(client.ttls().due(), Some(middle + SECOND * 2));
    // Of one that was refused in part it lives, where it was not what was refused.
    let taken = client.take(state("3", vec![a(2, Some(cluster("a"))), timed("c", 0)])).unwrap();
    assert!(taken.reply.error_detail.is_some() && taken.outcome.good.contains_key("a"));
    advance(SECOND).await;
    client.take(state("3", vec![a(2, None), wrapped(&living(2, "x", "", None))])).unwrap();
    assert_eq!(client.ttls().due(), Some(now() + SECOND * 2));
    assert_eq!(gone(&mut client, now() + SECOND * 9), ["a"], "of what is not there nothing goes");
    client.take(state("3", vec![a(9, None)])).unwrap();
    assert_eq!(client.ttls().due(), None, "it does not come back by a heartbeat");
}

#[tokio::test(start_paused = true)]
async fn n8_heartbeat_of_a_name_that_was_not_told_does_nothing() {
    let mut client = Sotw::new(Judge::Runtime, pb::core::Node::default(), layer("a"), true);
    let runtime_state = |version: &str, resource: &Resource| DiscoveryResponse {
        type_url: RUNTIME.into(),
        ..state(version, vec![wrapped(resource)])
    };
    for version in ["", "1", "1"] {
        client.take(runtime_state(version, &living(2, "a", "", None))).unwrap();
        assert_eq!(client.ttls().due(), None);
    }
    client.take(runtime_state("1", &living(2, "a", "", Some(runtime("a"))))).unwrap();
    client.take(runtime_state("1", &living(5, "a", "", None))).unwrap();
    assert_eq!(client.ttls().due(), Some(now() + SECOND * 5));
}

#[tokio::test(start_paused = true)]
async fn refused_resource_lives_as_long_as_it_would_have() {
    let (begun, due) = (now(), Some(now() + SECOND * 2));
    let (mut of_delta, mut of_sotw) = (delta(), sotw());
    let told = |ttl_s, version: &str, body| living(ttl_s, "a", version, Some(body));
    of_delta.take(change(vec![told(2, "1", cluster("a"))])).unwrap();
    of_sotw.take(state("1", vec![wrapped(&told(2, "", cluster("a")))])).unwrap();
    // What it is, or how long it lives, is no good.
    for (version, ttl_s, body) in [("2", 9, timed("a", 0)), ("3", -1, timed("a", 2))] {
        let wrong = told(ttl_s, version, body);
        let [delta, sotw] = [
            of_delta.take(change(vec![wrong.clone()])).unwrap().reply.error_detail,
            of_sotw.take(state(version, vec![wrapped(&wrong)])).unwrap().reply.error_detail,
        ];
        for error in [delta, sotw] {
            let message = error.unwrap().message;
            assert!(message.starts_with("a: ") && message.contains("ttl:") == (ttl_s < 0), "{message}");
        }
        assert_eq!((of_delta.ttls().due(), of_sotw.ttls().due()), (due, due));
    }
    assert_eq!(gone(&mut of_delta, begun + SECOND * 2), ["a"]);
    assert_eq!(gone(&mut of_sotw, begun + SECOND * 2), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_any_more_does_not_go_either() {
    let told = |resource: &Resource| (change(vec![resource.clone()]), state("1", vec![wrapped(resource)]));
    let (of_delta, of_sotw) = told(&living(2, "a", "1", Some(runtime("a"))));
    let node = pb::core::Node::default;
    let mut client = Delta::new(Judge::Runtime, node(), layer("a"), true);
    client.open(true);
    client.take(DeltaDiscoveryResponse { type_url: RUNTIME.into(), ..of_delta }).unwrap();
    assert!(client.ttls().has("a") && client.want(layer(""), None).is_some());
    assert_eq!(client.ttls().due(), None);
    let mut client = Sotw::new(Judge::Runtime, node(), layer("a"), true);
    client.open(true);
    client.take(DiscoveryResponse { type_url: RUNTIME.into(), ..of_sotw }).unwrap();
    assert!(client.ttls().has("a") && client.want(layer(""), None).is_some());
    assert_eq!(client.ttls().due(), None);
}

/// As those that delta removes.
#[test]
fn n9_secret_stays_in_use_and_anything_else_is_removed() {
    let mut secrets = Judge::Secrets(SecretJudge::new(ResourceSource::Ads, KnownSecrets::default()));
    let outcome = ttl::gone(vec!["a".into()], &mut secrets).unwrap();
    assert_eq!(outcome.kept["a"].status, ClientStatus::DoesNotExist);
    assert!(outcome.absent.is_empty() && ttl::gone(Vec::new(), &mut secrets).is_none());
    for mut judge in [Judge::Runtime, Judge::Endpoints, clusters()] {
        let outcome = ttl::gone(vec!["a".into()], &mut judge).unwrap();
        assert!(outcome.absent.contains("a") && outcome.kept.is_empty(), "{}", judge.kind());
        // Endpoints stay until there are others.
        assert_eq!(outcome.gone(judge.kind()).count(), usize::from(judge.kind() != Kind::Endpoints));
    }
}

#[test]
fn i1_control_planes_hear_what_this_client_can_do_once() {
    let known = "xds.config.resource-in-sotw";
    let configured =
        pb::core::Node { client_features: vec!["x".into(), known.into()], ..pb::core::Node::default() };
    let expected = ["x", known, "xds.config.supports-resource-ttl"];
    assert_eq!(node::asking(configured).client_features, expected);
}
