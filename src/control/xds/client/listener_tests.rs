//! Rules of discovery that holds for listeners.
use prost::Message;

use super::delta::Delta;
use super::judge::{Good, Judge, Taken};
use super::listeners::ListenerJudge;
use super::sotw::Sotw;
use super::tests::compiling;
use super::wanted::Wanted;
use super::{LISTENERS, Protocol};
use crate::control::xds::convert::Surroundings;
use crate::control::xds::pb;
use crate::snapshot::ListenerCompiler;
use pb::discovery::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};

fn judge(fixed: &[&str]) -> Judge {
    let fixed = fixed.iter().map(|name| (*name).into()).collect();
    let compiler = ListenerCompiler::new(compiling());
    Judge::Listeners(Box::new(ListenerJudge::new(Surroundings::default(), compiler, fixed)))
}

fn sotw(fixed: &[&str]) -> Sotw {
    Sotw::new(judge(fixed), pb::core::Node::default(), Wanted::All, true)
}

/// A listener that closes its connections, at that port.
fn any(name: &str, port: u32) -> pb::google::Any {
    use pb::core::{AddressAddressOneOf, SocketAddressPortSpecifierOneOf};
    let socket = pb::core::SocketAddress {
        address: "127.0.0.1".into(),
        port_specifier: Some(SocketAddressPortSpecifierOneOf::PortValue(port)),
        ..pb::core::SocketAddress::default()
    };
    let message = pb::listener::Listener {
        name: name.into(),
        address: Some(pb::core::Address { address: Some(AddressAddressOneOf::SocketAddress(socket)) }),
        filter_chains: vec![pb::listener::FilterChain::default()],
        ..pb::listener::Listener::default()
    };
    pb::google::Any { type_url: LISTENERS.into(), value: message.encode_to_vec() }
}

fn state(version: &str, resources: Vec<pb::google::Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.into(),
        nonce: version.into(),
        type_url: LISTENERS.into(),
        resources,
        ..DiscoveryResponse::default()
    }
}

/// Names of what is new or changed, and of what is gone.
fn changes<R>(taken: &Taken<R>) -> (Vec<&str>, Vec<&str>) {
    let good = taken.outcome.good.iter().filter(|(_, good)| matches!(good, Good::Listener(_)));
    (good.map(|(name, _)| name.as_str()).collect(), taken.outcome.absent.iter().map(String::as_str).collect())
}

#[test]
fn n7_listener_that_a_state_of_the_world_leaves_out_is_gone() {
    let mut client = sotw(&[]);
    let taken = client.take(state("1", vec![any("a", 1), any("b", 2)])).unwrap();
    assert_eq!(changes(&taken), (vec!["a", "b"], vec![]));
    let taken = client.take(state("2", vec![any("b", 2)])).unwrap();
    assert_eq!(changes(&taken), (vec![], vec!["a"]), "the other is as it was");
    let taken = client.take(state("3", vec![any("a", 1), any("b", 3)])).unwrap();
    assert_eq!(changes(&taken), (vec!["a", "b"], vec![]));
    assert!(taken.reply.error_detail.is_none());
}

/// envoy#12592: a listener that is removed by a response with a mistake in it is removed.
#[test]
fn p1_p2_refused_listener_stays_and_the_rest_of_the_response_is_taken() {
    let mut client = sotw(&[]);
    client.take(state("1", vec![any("a", 1), any("b", 2), any("c", 3)])).unwrap();
    let taken = client.take(state("2", vec![any("a", 70_000), any("b", 4)])).unwrap();
    assert_eq!(changes(&taken), (vec!["b"], vec!["c"]));
    let message = taken.reply.error_detail.unwrap().message;
    assert!(message.starts_with("a: address.socket_address.port_value"), "{message}");
    assert_eq!(taken.reply.version_info, "1");
}

#[test]
fn listener_of_the_bootstrap_is_passed_over() {
    let taken = sotw(&["a"]).take(state("1", vec![any("a", 1), any("b", 1)])).unwrap();
    assert_eq!(changes(&taken).0, ["b"]);
    assert!(taken.reply.error_detail.is_none());
}

#[test]
fn n6_r4_delta_keeps_the_version_of_each() {
    let mut client = Delta::new(judge(&[]), pb::core::Node::default(), Wanted::All, true);
    let resource = |name: &str, version: &str, port: u32| Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(any(name, port)),
        ..Resource::default()
    };
    let change = |resources: Vec<Resource>, removed: &[&str]| DeltaDiscoveryResponse {
        nonce: "x".into(),
        type_url: LISTENERS.into(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    };
    client.take(change(vec![resource("a", "1", 1), resource("b", "1", 2)], &[])).unwrap();
    let taken = client.take(change(vec![resource("b", "2", 3)], &["a"])).unwrap();
    assert_eq!(changes(&taken), (vec!["b"], vec!["a"]));
    let first = client.open(true).unwrap();
    assert!(first.resource_names_subscribe.is_empty());
    let versions: Vec<_> = first.initial_resource_versions.into_iter().collect();
    assert_eq!(versions, [("b".to_owned(), "2".to_owned())]);
}

/// Whether a listener can listen is known only to who takes it: one that cannot is refused after all, stays as it was, and is another
/// when it is told again.
#[test]
fn listener_that_cannot_listen_is_refused_by_name_and_tried_when_it_is_told_again() {
    let mut client = sotw(&[]);
    client.take(state("1", vec![any("a", 1), any("b", 2)])).unwrap();
    for nonce in ["2", "2"] {
        let mut considered = client.consider(state(nonce, vec![any("a", 3), any("b", 4)])).unwrap();
        considered.outcome.refuse("a".into(), "cannot listen".into());
        let taken = client.answer(considered);
        let reply = &taken.reply;
        assert_eq!(reply.error_detail.as_ref().unwrap().message, "a: cannot listen");
        assert_eq!((reply.version_info.as_str(), reply.response_nonce.as_str()), ("1", "2"));
        assert_eq!(taken.outcome.failed["a"].wire.as_deref(), Some(&*any("a", 3).value));
        assert!(taken.refused.is_some() && taken.outcome.absent.is_empty());
    }
    // As it is in use it is known, and so is the other one.
    let taken = client.take(state("3", vec![any("a", 1), any("b", 4)])).unwrap();
    assert_eq!(changes(&taken), (vec![], vec![]));
    assert_eq!((taken.reply.error_detail, taken.reply.version_info.as_str()), (None, "3"));
    let taken = client.take(state("4", vec![any("a", 3), any("b", 4)])).unwrap();
    assert_eq!(changes(&taken), (vec!["a"], vec![]));
}

#[test]
fn delta_listener_that_cannot_listen_keeps_its_version() {
    let mut client = Delta::new(judge(&[]), pb::core::Node::default(), Wanted::All, true);
    let resource = |name: &str, version: &str, port: u32| Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(any(name, port)),
        ..Resource::default()
    };
    let change = |resources: Vec<Resource>| DeltaDiscoveryResponse {
        nonce: "x".into(),
        type_url: LISTENERS.into(),
        resources,
        ..DeltaDiscoveryResponse::default()
    };
    client.take(change(vec![resource("a", "1", 1)])).unwrap();
    let mut considered = client.consider(change(vec![resource("a", "2", 3), resource("b", "2", 4)])).unwrap();
    considered.outcome.refuse("a".into(), "cannot listen".into());
    assert_eq!(client.answer(considered).reply.error_detail.unwrap().message, "a: cannot listen");
    let versions: Vec<_> = client.open(true).unwrap().initial_resource_versions.into_iter().collect();
    assert_eq!(versions, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
}
