//! Tables that were accepted, and are compiled for another listener when the world is another.

use prost::Message as _;
use serde_json::json;

use super::super::{Runtime, convert_routes};
use crate::config::bootstrap::{RuntimeLayer, RuntimeLayerKind};
use crate::control::xds::loader::{self, Format, Source};
use crate::control::xds::pb::{self, Named};
use crate::control::xds::schema::Message;

fn table(text: &str) -> pb::route::RouteConfiguration {
    let schema = Message::find(pb::route::RouteConfiguration::NAME).unwrap();
    let loaded = loader::read(schema, &[Source { name: "", text, format: Format::Yaml }], false).unwrap();
    pb::route::RouteConfiguration::decode(&*loaded.bytes).unwrap()
}

#[test]
fn table_that_was_accepted_is_no_less_good_for_runtime_values_and_clusters_of_later() {
    let runtime = Runtime::of(&[RuntimeLayer { name: "admin".into(), kind: RuntimeLayerKind::Admin }]);
    let told = table(
        "{name: t, validate_clusters: true, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, \
         route: {weighted_clusters: {runtime_key_prefix: k, clusters: [{name: a, weight: 1}]}}}]}]}",
    );
    let converted = |is_accepted| convert_routes(told.clone(), &[], &runtime, is_accepted);
    let validates = |is_accepted| converted(is_accepted).unwrap().0.validate_clusters;
    assert!(validates(false));
    assert!(!validates(true), "a cluster that was there may be gone");
    for weight in [json!(0), json!(u64::from(u32::MAX) + 1)] {
        runtime.set(std::iter::once(&[("k.a".into(), weight)][..]));
        let reason = converted(false).unwrap_err().errors.to_string();
        assert!(reason.contains("sum of weights"), "{reason}");
        assert!(converted(true).is_ok());
    }
}
