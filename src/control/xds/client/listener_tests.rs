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
