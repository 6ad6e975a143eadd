//! Rules of discovery that holds for runtime values.
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::delta::Delta;
use super::gate::Gate;
use super::judge::{Good, Judge, Kind, Taken};
use super::known_secrets::KnownSecrets;
use super::quarantine::Quarantine;
use super::sotw::Sotw;
use super::subscribers::Subscribers;
use super::wanted::Wanted;
use super::{Protocol, RUNTIME, RuntimeUpdate, Update, Updates};
use crate::config::ads::{ResourceSource, Rtds, Wildcard};
use crate::control::xds::pb;
use crate::telemetry::{Registry, ServerStat, Slot};
use pb::discovery::{
    DeltaDiscoveryResponse, DiscoveryResponse, Resource, ResourceError, ResourceName, Status,
};
use pb::google::ValueKindOneOf;

fn names(names: &[&str]) -> Wanted {
    Wanted::Names(names.iter().map(|name| (*name).into()).collect())
}

fn number(number: f64) -> pb::google::Value {
    pb::google::Value { kind: Some(ValueKindOneOf::NumberValue(number)) }
}

/// A layer with one value.
fn any(name: &str, key: &str, value: pb::google::Value) -> pb::google::Any {
    let layer = pb::google::Struct { fields: [(key.to_owned(), value)].into() };
    let message = pb::runtime::Runtime { name: name.into(), layer: Some(layer) };
    pb::google::Any { type_url: RUNTIME.into(), value: message.encode_to_vec() }
}

fn state(resources: Vec<pb::google::Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: "1".into(),
        nonce: "n".into(),
        type_url: RUNTIME.into(),
        resources,
        ..DiscoveryResponse::default()
    }
}

fn sotw(asked: &[&str]) -> Sotw {
    Sotw::new(Judge::Runtime, pb::core::Node::default(), names(asked), true)
}

fn delta(asked: &[&str]) -> Delta {
    Delta::new(Judge::Runtime, pb::core::Node::default(), names(asked), true)
}

fn values<R>(taken: &Taken<R>, name: &str) -> Vec<(String, Value)> {
    match &taken.outcome.good[name] {
        Good::Runtime(values) => {
            values.iter().map(|(key, value)| (String::from(&**key), value.clone())).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn rtds(wait: u64) -> Rtds {
    let initial_fetch_timeout = Some(Duration::from_secs(wait));
    Rtds { source: ResourceSource::Ads, name: "a".into(), initial_fetch_timeout }
}

/// Those of the aggregated stream, behind that gate; what they tell.
fn subscribers(gate: &Gate) -> (Subscribers, mpsc::Receiver<Updates>, Registry) {
    let (updates, told) = mpsc::channel(8);
    let (quarantine, secrets) = (Quarantine::default(), KnownSecrets::default());
    let registry = Registry::new(1);
    let server = registry.server(Slot::Control);
    let all = Subscribers::new(ResourceSource::Ads, updates, quarantine, secrets, gate.clone(), server);
    (all, told, registry)
}

/// How many values each update has; `None`: it is waited for no more.
fn told(receiver: &mut mpsc::Receiver<Updates>) -> Vec<Option<usize>> {
    std::iter::from_fn(|| receiver.try_recv().ok())
        .flatten()
        .map(|update| match update {
            Update::Runtime(RuntimeUpdate { source: ResourceSource::Ads, name, values }) => {
                assert_eq!(&*name, "a");
                values.map(|values| values.len())
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn s2_without_names_nothing_is_asked_since_that_would_mean_everything() {
    assert!(sotw(&[]).open(true).is_none() && delta(&[]).open(true).is_none());
    assert_eq!(sotw(&["a"]).open(true).unwrap().type_url, RUNTIME);
}

#[test]
fn s4_layers_that_nobody_asked_for_are_ignored_and_names_must_be_right() {
    let resources = vec![any("other", "k", number(1.0)), any("a", "k", number(2.0))];
    let taken = sotw(&["a"]).take(state(resources)).unwrap();
    assert!(taken.reply.error_detail.is_none());
    assert_eq!(taken.outcome.good.len(), 1);
    assert_eq!(values(&taken, "a"), [("k".to_owned(), json!(2))]);
}

#[test]
fn n2_values_that_are_none_are_refused_by_their_key() {
    let list = pb::google::ListValue { values: Vec::new() };
    for kind in [ValueKindOneOf::ListValue(list), ValueKindOneOf::NullValue(0)] {
        let taken =
            sotw(&["a"]).take(state(vec![any("a", "k", pb::google::Value { kind: Some(kind) })])).unwrap();
        let reason = taken.reply.error_detail.unwrap().message;
        assert_eq!(reason, "a: layer: invalid runtime entry value for k");
    }
}

#[tokio::test(start_paused = true)]
async fn removed_layer_has_no_values_and_one_that_is_left_out_stays() {
    let gate = Gate::new(false);
    let (all, mut receiver, registry) = subscribers(&gate);
    all.add_runtime(&rtds(9), &registry);
    let mut client = delta(&["a"]);
    client.open(true);
    let resource = Resource {
        name: "a".into(),
        version: "1".into(),
        resource: Some(any("a", "k", number(1.0))),
        ..Resource::default()
    };
    let change = |resources: Vec<Resource>, removed: &[&str]| DeltaDiscoveryResponse {
        nonce: "n".into(),
        type_url: RUNTIME.into(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    };
    for response in [change(vec![resource], &[]), change(vec![], &["a"]), change(vec![], &[])] {
        let Taken { outcome, version, reply, .. } = client.take(response).unwrap();
        assert!(reply.error_detail.is_none());
        all.apply(Kind::Runtime, outcome, &version).await;
    }
    assert_eq!(told(&mut receiver), [Some(1), Some(0)]);
    let cells = registry.server(Slot::Control);
    let counted = [ServerStat::RuntimeUpdateAttempt, ServerStat::RuntimeUpdateSuccess];
    assert_eq!(counted.map(|stat| cells.value(stat)), [3, 2]);
    let mut client = sotw(&["a"]);
    let taken = client.take(state(Vec::new())).unwrap();
    assert!(taken.reply.error_detail.is_none() && taken.outcome.is_empty());
}

/// It says why values do not come, not that the layer is gone: those that are there stay, and who waits for the first goes on.
#[tokio::test(start_paused = true)]
async fn error_of_a_layer_leaves_its_values_and_ends_the_wait_for_them() {
    let errors = || {
        let resource_name = Some(ResourceName { name: "a".into(), ..ResourceName::default() });
        let error_detail = Some(Status { code: 14, message: "not now".into(), details: Vec::new() });
        vec![ResourceError { resource_name, error_detail }]
    };
    let mut client = delta(&["a"]);
    client.open(true);
    let resource = Resource {
        name: "a".into(),
        version: "1".into(),
        resource: Some(any("a", "k", number(1.0))),
        ..Resource::default()
    };
    let change = |resources: Vec<Resource>, resource_errors| DeltaDiscoveryResponse {
        nonce: "n".into(),
        type_url: RUNTIME.into(),
        resources,
        resource_errors,
        ..DeltaDiscoveryResponse::default()
    };
    let gate = Gate::new(false);
    let (all, mut receiver, registry) = subscribers(&gate);
    all.add_runtime(&rtds(9), &registry);
    for response in [change(vec![], errors()), change(vec![resource], vec![]), change(vec![], errors())] {
        let Taken { outcome, version, .. } = client.take(response).unwrap();
        all.apply(Kind::Runtime, outcome, &version).await;
    }
    assert_eq!(told(&mut receiver), [None, Some(1)]);
    // The next stream says that they are there, as they are.
    assert_eq!(client.open(true).unwrap().initial_resource_versions["a"], "1");
    let mut client = sotw(&["a"]);
    let resources = || vec![any("a", "k", number(1.0))];
    for (resources, resource_errors) in [(resources(), vec![]), (vec![], errors())] {
        let response = DiscoveryResponse { resource_errors, ..state(resources) };
        let Taken { outcome, version, .. } = client.take(response).unwrap();
        all.apply(Kind::Runtime, outcome, &version).await;
    }
    assert_eq!(told(&mut receiver), [Some(1)]);
}

/// Nothing else is asked for before the values are there, and what waits for an answer waits from then on.
#[tokio::test(start_paused = true)]
async fn everything_else_waits_behind_runtime_values() {
    let gate = Gate::new(false);
    let (all, mut receiver, registry) = subscribers(&gate);
    all.add_runtime(&rtds(5), &registry);
    let wait = Some(Duration::from_secs(3));
    let cds = Wildcard { source: ResourceSource::Ads, initial_fetch_timeout: wait };
    all.add_clusters(&cds, &registry);
    assert_eq!(all.wanted(Kind::Runtime), names(&["a"]));
    assert!(all.wanted(Kind::Clusters).is_nothing());
    let now = || sleep(Duration::ZERO).deadline();
    let begun = now();
    assert!(timeout(Duration::from_secs(6), all.give_up_in_time()).await.is_err());
    assert_eq!(told(&mut receiver), [None], "clusters are waited for on");
    gate.open();
    all.look_again();
    assert_eq!(all.wanted(Kind::Clusters), Wanted::All);
    tokio::select! {
        () = all.give_up_in_time() => {}
        update = receiver.recv() => assert!(matches!(update.as_deref(), Some([Update::Clusters(_)]))),
    }
    assert_eq!((now() - begun).as_secs(), 6 + 3);
    let cells = registry.server(Slot::Control);
    assert_eq!(cells.value(ServerStat::RuntimeInitFetchTimeout), 1);
    let late: Arc<str> = "b".into();
    all.add_runtime(&Rtds { name: late, ..rtds(1) }, &registry);
    assert_eq!(all.wanted(Kind::Runtime), names(&["a", "b"]));
}
