//! Network and listener filters that are told: where they come to stand, and what stays beside them.
use std::sync::Arc;

use super::filter_tests::{any, asked, compiler, sotw, state, urls, with_fields};
use super::tests::compiled;
use super::{Protocol, SharedCompiler};
use crate::config::ads::ResourceSource;
use crate::config::listener_filter::ListenerFilterKind;
use crate::config::told_filter::FilterKind;
use crate::snapshot::{FilterResource, FiltersResource, Gate, NewFilters};

const SNI: &str = "envoy.extensions.filters.network.sni_cluster.v3.SniCluster";
const LIMIT: &str = "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit";
const ECHO: &str = "envoy.extensions.filters.network.echo.v3.Echo";
const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const PROXY_PROTOCOL: &str = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";
const INSPECTOR: &str = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";

/// A filter that is told under this name and may be of these types.
fn told(name: &str, types: &[&str], more: &str) -> String {
    let source = "config_source: {ads: {}, resource_api_version: V3}";
    format!("{{name: {name}, config_discovery: {{{source}, {}, {more}}}}}", urls(types))
}

/// Fields of a listener with a limit of one connection, these filters and one that serves.
fn chain(filters: &str) -> String {
    let limit = format!(
        "{{name: limit, typed_config: {{\"@type\": type.googleapis.com/{LIMIT}, stat_prefix: few, max_connections: 1}}}}"
    );
    let echo = format!("{{name: echo, typed_config: {{\"@type\": type.googleapis.com/{ECHO}}}}}");
    format!("filter_chains: [{{filters: [{limit}, {filters}, {echo}]}}]")
}

/// What connections meet in the only chain.
fn met(compiler: &SharedCompiler) -> Arc<[FilterResource]> {
    match compiler.read().filters_of(0..1).remove(0) {
        FiltersResource { listener: 0, filters: NewFilters::Network(0, filters) } => filters,
        other => panic!("{other:?}"),
    }
}

#[test]
fn network_filter_comes_into_its_chain_and_the_limits_beside_it_go_on() {
    let compiler = compiler(&[with_fields(&chain(&told("access", &[SNI, ECHO, LIMIT], "")))]);
    assert_eq!(asked(&compiler, 0).ecds.kind, FilterKind::Network);
    let place = || match &met(&compiler)[0] {
        FilterResource::Gate(Gate::ConnectionLimit { limit, .. }) => limit.admit(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(met(&compiler)[1..], [FilterResource::Missing, FilterResource::Echo]));
    let _only = place().unwrap();
    let mut client = sotw(&compiler, &["access"]);
    let mut refused = |told| {
        let reply = client.take(state(vec![told])).unwrap().reply;
        reply.error_detail.map(|status| status.message)
    };
    assert_eq!(refused(any("access", SNI, &[])), None);
    let reason = refused(any("access", ECHO, &[])).unwrap();
    assert_eq!(reason, "access: terminal filter \"access\" must be the last filter of its chain");
    assert!(matches!(met(&compiler)[1..], [FilterResource::SniCluster, FilterResource::Echo]));
    assert!(place().is_none(), "it is the same limit");
    compiler.set_filter(&ResourceSource::Ads, "access", None);
    assert!(matches!(met(&compiler)[1], FilterResource::Missing), "it is gone");
}

#[test]
fn connection_manager_is_not_told() {
    let compiler = compiler(&[with_fields(&chain(&told("access", &[SNI], "")))]);
    let mut client = sotw(&compiler, &["access"]);
    // `stat_prefix: x, route_config: {}`, or its schema would refuse it.
    let manager = any("access", MANAGER, &[0x12, 1, b'x', 0x22, 0]);
    let reply = client.take(state(vec![manager])).unwrap().reply;
    let reason = reply.error_detail.unwrap().message;
    assert!(reason.contains("connection managers are not told"), "{reason}");
}

#[test]
fn listener_filter_is_there_once_it_was_told_and_a_later_listener_has_it_at_once() {
    let fields = |name: &str| {
        let own = told("edge", &[PROXY_PROTOCOL, INSPECTOR], "");
        let echo = format!("{{name: echo, typed_config: {{\"@type\": type.googleapis.com/{ECHO}}}}}");
        with_fields(&format!(
            "listener_filters: [{own}]\n    filter_chains: [{{name: {name}, filters: [{echo}]}}]"
        ))
    };
    let compiler = compiler(&[fields("a")]);
    let own = |number: usize| match compiler.read().filters_of(number..number + 1).remove(0).filters {
        NewFilters::Listener(filters) => filters,
        other @ NewFilters::Network(..) => panic!("{other:?}"),
    };
    assert_eq!(asked(&compiler, 0).ecds.kind, FilterKind::Listener);
    assert!(own(0).is_none(), "connections are closed");
    let mut client = sotw(&compiler, &["edge"]);
    assert!(client.take(state(vec![any("edge", INSPECTOR, &[])])).unwrap().reply.error_detail.is_none());
    let filters = own(0).unwrap();
    assert!(matches!(filters.filters[0].kind, ListenerFilterKind::HttpInspector));
    assert!(filters.proxy_protocol.is_empty());
    assert!(client.take(state(vec![any("edge", PROXY_PROTOCOL, &[])])).unwrap().reply.error_detail.is_none());
    compiler.add(1, &compiled(&[fields("b")])[0]);
    for number in [0, 1] {
        let filters = own(number).unwrap();
        assert!(matches!(filters.filters[0].kind, ListenerFilterKind::ProxyProtocol(_)), "{number}");
        assert_eq!(filters.proxy_protocol.len(), 1);
    }
    let key = (ResourceSource::Ads, "edge".into());
    assert_eq!(compiler.read().changed_filters(&[key].into()).len(), 2);
    let key = (ResourceSource::Ads, "other".into());
    assert!(compiler.read().changed_filters(&[key].into()).is_empty());
}
