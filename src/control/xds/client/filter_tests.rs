//! Rules of discovery that holds for filters.
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::compiler::SharedCompiler;
use super::delta::Delta;
use super::filters::FilterJudge;
use super::gate::Gate;
use super::judge::{Good, Judge, Kind, Taken};
use super::known_secrets::KnownSecrets;
use super::quarantine::Quarantine;
use super::sotw::Sotw;
use super::subscribers::Subscribers;
use super::tests::{compiled, compiling};
use super::wanted::Wanted;
use super::{FILTERS, FiltersUpdate, Protocol, Update, Updates};
use crate::config::ads::ResourceSource;
use crate::config::listener::Listener;
use crate::config::told_filter::FilterKind;
use crate::control::xds::convert::Runtime;
use crate::control::xds::loader::{Format, Source};
use crate::control::xds::pb;
use crate::control::xds::{LoadOptions, load_bootstrap};
use crate::snapshot::{AskedFilter, FilterKey, RouteCompiler};
use crate::telemetry::{EcdsStat, Registry, Slot};
use pb::discovery::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};

const RBAC: &str = "envoy.extensions.filters.http.rbac.v3.RBAC";
const GRPC_WEB: &str = "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// A listener of these fields.
pub(super) fn with_fields(fields: &str) -> Arc<Listener> {
    let text = format!(
        r#"
node: {{id: me, cluster: us}}
dynamic_resources: {{ads_config: {{api_type: GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: plane}}}}]}}}}
static_resources:
  clusters:
  - name: plane
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment: {{cluster_name: plane, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}}}}}]}}]}}
  listeners:
  - name: web
    address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}
    {fields}
"#
    );
    let source = Source { name: "test.yaml", text: &text, format: Format::Yaml };
    let loaded = load_bootstrap(&[source], LoadOptions::default())
        .unwrap_or_else(|report| panic!("{}", report.errors));
    Arc::clone(&loaded.bootstrap.listeners[0])
}

/// Types as a filter that is told lists them.
pub(super) fn urls(types: &[&str]) -> String {
    let types: Vec<_> = types.iter().map(|name| format!("type.googleapis.com/{name}")).collect();
    format!("type_urls: [{}]", types.join(", "))
}

/// A listener with a filter `access` that is told and may be of these types, and with more words on it.
fn listener(types: &[&str], more: &str) -> Arc<Listener> {
    with_fields(&format!(
        r#"filter_chains:
    - filters:
      - name: manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          route_config: {{virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200}}}}]}}]}}
          http_filters:
          - name: access
            config_discovery:
              config_source: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 2s}}
              {}
              {more}
          - name: router
            typed_config: {{"@type": type.googleapis.com/{ROUTER}}}
"#,
        urls(types)
    ))
}

pub(super) fn compiler(listeners: &[Arc<Listener>]) -> SharedCompiler {
    SharedCompiler::new(RouteCompiler::of(&compiled(listeners), compiling()), Runtime::default())
}

fn judge(compiler: &SharedCompiler) -> Judge {
    Judge::Filters(FilterJudge::new(ResourceSource::Ads, compiler.clone()))
}

fn names(names: &[&str]) -> Wanted {
    Wanted::Names(names.iter().map(|name| (*name).into()).collect())
}

pub(super) fn sotw(compiler: &SharedCompiler, asked: &[&str]) -> Sotw {
    Sotw::new(judge(compiler), pb::core::Node::default(), names(asked), true)
}

pub(super) fn any(name: &str, type_name: &str, value: &[u8]) -> pb::google::Any {
    let typed_config =
        pb::google::Any { type_url: format!("type.googleapis.com/{type_name}"), value: value.to_vec() };
    let message = pb::core::TypedExtensionConfig { name: name.into(), typed_config: Some(typed_config) };
    pb::google::Any { type_url: FILTERS.into(), value: message.encode_to_vec() }
}

/// With rules that cannot be compiled: an expression that is none.
fn bad_rules() -> Vec<u8> {
    use pb::rbac::{Permission, PermissionRuleOneOf, Policy, Principal, PrincipalIdentifierOneOf, RBAC};
    let regex = pb::types::RegexMatcher { regex: "(".into(), ..pb::types::RegexMatcher::default() };
    let matcher = pb::types::StringMatcher {
        match_pattern: Some(pb::types::StringMatcherMatchPatternOneOf::SafeRegex(regex)),
        ..pb::types::StringMatcher::default()
    };
    let path = pb::types::PathMatcher { rule: Some(pb::types::PathMatcherRuleOneOf::Path(matcher)) };
    let policy = Policy {
        permissions: vec![Permission { rule: Some(PermissionRuleOneOf::UrlPath(path)) }],
        principals: vec![Principal { identifier: Some(PrincipalIdentifierOneOf::Any(true)) }],
        ..Policy::default()
    };
    let rules = RBAC { policies: [("p".to_owned(), policy)].into(), ..RBAC::default() };
    pb::http_rbac::RBAC { rules: Some(rules), ..pb::http_rbac::RBAC::default() }.encode_to_vec()
}

pub(super) fn state(resources: Vec<pb::google::Any>) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: "1".into(),
        nonce: "n".into(),
        type_url: FILTERS.into(),
        resources,
        ..DiscoveryResponse::default()
    }
}

fn change(resources: Vec<pb::google::Any>, removed: &[&str]) -> DeltaDiscoveryResponse {
    let resource = |any| Resource {
        name: "access".into(),
        version: "1".into(),
        resource: Some(any),
        ..Resource::default()
    };
    DeltaDiscoveryResponse {
        nonce: "n".into(),
        type_url: FILTERS.into(),
        resources: resources.into_iter().map(resource).collect(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

pub(super) fn asked(compiler: &SharedCompiler, number: usize) -> AskedFilter {
    compiler.read().asked_filters_of(number).remove(0)
}

/// Names of the filters of the manager that requests meet, as it is compiled with what was told.
fn effective(compiler: &SharedCompiler) -> String {
    let key: FilterKey = (ResourceSource::Ads, "access".into());
    let mut compiled = compiler.read().with_filters(&[key].into(), &mut |_| None);
    format!("{:?}", compiled.remove(0).unwrap().manager.filters)
}

fn texts(names: Vec<Arc<str>>) -> Vec<String> {
    names.iter().map(|name| String::from(&**name)).collect()
}

pub(super) fn subscribers() -> (Subscribers, mpsc::Receiver<Updates>, Registry) {
    let (updates, told) = mpsc::channel(8);
    let (quarantine, secrets) = (Quarantine::default(), KnownSecrets::default());
    let registry = Registry::new(1);
    let server = registry.server(Slot::Control);
    let all = Subscribers::new(ResourceSource::Ads, updates, quarantine, secrets, Gate::new(true), server);
    (all, told, registry)
}

/// Of each update the filters that are there, gone, and waited for no more.
fn told(receiver: &mut mpsc::Receiver<Updates>) -> Vec<[String; 3]> {
    let names = |update: FiltersUpdate| {
        let changed = |is_there: bool| {
            let meant = update.changed.iter().filter(|(_, wire)| wire.is_some() == is_there);
            meant.map(|(name, _)| &**name).collect::<Vec<_>>().join(" ")
        };
        let settled: Vec<_> = update.settled.iter().map(|name| &**name).collect();
        [changed(true), changed(false), settled.join(" ")]
    };
    std::iter::from_fn(|| receiver.try_recv().ok())
        .flatten()
        .map(|update| match update {
            Update::Filters(update) => names(update),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn s2_s4_only_filters_that_somebody_has_are_asked_for_and_taken() {
    let compiler = compiler(&[listener(&[RBAC], "")]);
    assert!(sotw(&compiler, &[]).open(true).is_none(), "without names everything would be meant");
    let mut client = sotw(&compiler, &["access"]);
    let first = client.open(true).unwrap();
    assert_eq!((first.type_url.as_str(), first.resource_names), (FILTERS, vec!["access".to_owned()]));
    let taken = client.take(state(vec![any("other", RBAC, &[]), any("access", RBAC, &[])])).unwrap();
    assert!(taken.reply.error_detail.is_none());
    assert_eq!(taken.outcome.good.len(), 1);
    assert!(asked(&compiler, 0).is_known);
}

#[test]
fn n2_filter_that_cannot_stand_where_it_is_asked_for_is_refused_and_the_last_one_stays() {
    let compiler = compiler(&[listener(&[RBAC, GRPC_WEB, ROUTER], "")]);
    let mut client = sotw(&compiler, &["access"]);
    let mut refused = |told| {
        let reply = client.take(state(vec![told])).unwrap().reply;
        reply.error_detail.map(|status| status.message)
    };
    assert_eq!(refused(any("access", GRPC_WEB, &[])), None);
    for (told, reason) in [
        (
            any("access", ROUTER, &[]),
            "access: terminal filter \"access\" must be the last filter of its chain",
        ),
        (
            any("access", "envoy.extensions.filters.http.grpc_http1_bridge.v3.Config", &[]),
            "access: has the type envoy.extensions.filters.http.grpc_http1_bridge.v3.Config, and envoy.extensions.filters.http.rbac.v3.RBAC, ",
        ),
        (any("access", "envoy.extensions.filters.http.fault.v3.HTTPFault", &[]), "access: typed_config: "),
        (any("access", RBAC, &bad_rules()), "access: typed_config.rules"),
        (any("access", RBAC, &[0xff]), "access: "),
    ] {
        let found = refused(told).unwrap();
        assert!(found.starts_with(reason), "{found}");
        assert!(effective(&compiler).contains("GrpcWeb"), "{reason}");
    }
    let nothing = pb::core::TypedExtensionConfig { name: "access".into(), typed_config: None };
    let nothing = pb::google::Any { type_url: FILTERS.into(), value: nothing.encode_to_vec() };
    assert!(refused(nothing).unwrap().contains("typed_config"));
    assert_eq!(refused(any("access", RBAC, &[])), None);
    assert!(effective(&compiler).contains("Rbac"));
}

#[test]
fn filter_that_is_in_use_is_acknowledged_and_not_taken_again() {
    let compiler = compiler(&[listener(&[RBAC], "")]);
    let mut client = sotw(&compiler, &["access"]);
    let mut good =
        || client.take(state(vec![any("access", RBAC, &[])])).unwrap().outcome.good.remove("access");
    assert!(matches!(good(), Some(Good::Filter(_))));
    assert!(matches!(good(), Some(Good::Same)));
}

/// A first copy was in use by the next change of any other filter, and when it was told alone nobody heard of it.
#[test]
fn s5_filter_that_stood_twice_is_taken_once_it_stands_alone() {
    let compiler = compiler(&[listener(&[RBAC, GRPC_WEB], "")]);
    let mut client = sotw(&compiler, &["access"]);
    for (of_type, runs, before) in [(RBAC, "Rbac", "Missing"), (GRPC_WEB, "GrpcWeb", "Rbac")] {
        let twice = vec![any("access", of_type, &[]), any("access", of_type, &[])];
        let taken = client.take(state(twice)).unwrap();
        assert!(taken.reply.error_detail.is_some() && taken.outcome.good.is_empty());
        assert!(effective(&compiler).contains(before), "as it was");
        let taken = client.take(state(vec![any("access", of_type, &[])])).unwrap();
        assert!(taken.reply.error_detail.is_none());
        assert!(matches!(taken.outcome.good["access"], Good::Filter(_)));
        assert!(effective(&compiler).contains(runs));
    }
}

/// What does not fit one of those who share a name is used by none of them; who comes later and does not fit goes without.
#[tokio::test(start_paused = true)]
async fn filter_fits_all_who_ask_for_it_or_none() {
    let compiler = compiler(&[listener(&[RBAC, GRPC_WEB], ""), listener(&[RBAC], "")]);
    let mut client = sotw(&compiler, &["access"]);
    let reply = client.take(state(vec![any("access", GRPC_WEB, &[])])).unwrap().reply;
    assert!(reply.error_detail.is_some());
    assert!(client.take(state(vec![any("access", RBAC, &[])])).unwrap().reply.error_detail.is_none());
    compiler.add(2, &compiled(&[listener(&[GRPC_WEB], "")])[0]);
    let [first, late] = [0, 2].map(|number| asked(&compiler, number));
    assert!(first.is_known && !first.conflicts && late.is_known && late.conflicts);
    let late_ones = compiler.read().with_filters_of(2, &mut |_| None);
    let [Ok(late_one)] = &late_ones[..] else { panic!("{late_ones:?}") };
    assert!(format!("{:?}", late_one.manager.filters).contains("Missing"));
    let (all, _receiver, registry) = subscribers();
    assert!(all.add_filters(2, &[late], &registry).is_empty(), "nothing more would come");
    let cells = registry.ecds(FilterKind::Http, "access").cells(Slot::Control);
    assert_eq!(cells.value(EcdsStat::ConfigConflict), 1);
}

#[tokio::test(start_paused = true)]
async fn removed_filter_is_gone_and_one_that_is_left_out_stays() {
    let compiler = compiler(&[listener(&[RBAC], "")]);
    let (all, mut receiver, registry) = subscribers();
    assert_eq!(texts(all.add_filters(0, &[asked(&compiler, 0)], &registry)), ["access"]);
    let mut client = Delta::new(judge(&compiler), pb::core::Node::default(), names(&["access"]), true);
    client.open(true);
    for (response, runs) in [
        (change(vec![any("access", RBAC, &[])], &[]), "Rbac"),
        (change(vec![], &[]), "Rbac"),
        (change(vec![], &["access"]), "Missing"),
        (change(vec![any("access", RBAC, &[])], &[]), "Rbac"),
    ] {
        let Taken { outcome, version, reply, .. } = client.take(response).unwrap();
        assert!(reply.error_detail.is_none());
        all.apply(Kind::Filters, outcome, &version).await;
        assert!(effective(&compiler).contains(runs));
    }
    let there = || ["access".to_owned(), String::new(), "access".to_owned()];
    let gone = [String::new(), "access".to_owned(), "access".to_owned()];
    assert_eq!(told(&mut receiver), [there(), gone, there()]);
    let cells = registry.ecds(FilterKind::Http, "access").cells(Slot::Control);
    let counted =
        [EcdsStat::UpdateAttempt, EcdsStat::UpdateSuccess, EcdsStat::ConfigReload, EcdsStat::ConfigFail];
    assert_eq!(counted.map(|stat| cells.value(stat)), [4, 3, 3, 0]);
    let taken = sotw(&compiler, &["access"]).take(state(Vec::new())).unwrap();
    assert!(taken.reply.error_detail.is_none() && taken.outcome.is_empty());
    assert_eq!(texts(all.remove_filters(0)), ["access"]);
    assert!(all.wanted(Kind::Filters).is_nothing() && all.is_empty());
}

/// What a control plane says it does not have is not waited for, and one that is used stays.
#[tokio::test(start_paused = true)]
async fn filter_that_the_control_plane_has_not_is_not_waited_for() {
    let compiler = compiler(&[listener(&[RBAC], "")]);
    let (all, mut receiver, registry) = subscribers();
    all.add_filters(0, &[asked(&compiler, 0)], &registry);
    let mut client = sotw(&compiler, &["access"]);
    let error = || pb::discovery::ResourceError {
        resource_name: Some(pb::discovery::ResourceName { name: "access".into(), ..Default::default() }),
        error_detail: None,
    };
    let lacking = || DiscoveryResponse { resource_errors: vec![error()], ..state(Vec::new()) };
    for (response, runs) in
        [(lacking(), "Missing"), (state(vec![any("access", RBAC, &[])]), "Rbac"), (lacking(), "Rbac")]
    {
        let Taken { outcome, version, .. } = client.take(response).unwrap();
        all.apply(Kind::Filters, outcome, &version).await;
        assert!(effective(&compiler).contains(runs));
    }
    let [settled, there] = &told(&mut receiver)[..] else { panic!("two updates") };
    assert_eq!((settled[2].as_str(), there[0].as_str()), ("access", "access"));
}

#[tokio::test(start_paused = true)]
async fn filter_that_does_not_come_is_waited_for_no_longer_than_asked() {
    let (waits, goes) = (listener(&[RBAC], ""), "apply_default_config_without_warming: true");
    let default = format!("default_config: {{\"@type\": type.googleapis.com/{GRPC_WEB}}}");
    let goes = listener(&[RBAC, GRPC_WEB], &format!("{default}\n              {goes}"));
    let compiler = compiler(&[waits, goes]);
    let (all, mut receiver, registry) = subscribers();
    assert!(all.add_filters(1, &[asked(&compiler, 1)], &registry).is_empty());
    assert_eq!(texts(all.add_filters(0, &[asked(&compiler, 0)], &registry)), ["access"]);
    assert!(timeout(Duration::from_secs(1), all.give_up_in_time()).await.is_err());
    assert!(told(&mut receiver).is_empty());
    assert!(timeout(Duration::from_secs(2), all.give_up_in_time()).await.is_err());
    assert_eq!(told(&mut receiver), [[String::new(), String::new(), "access".to_owned()]]);
    let cells = registry.ecds(FilterKind::Http, "access").cells(Slot::Control);
    let counted = [EcdsStat::InitFetchTimeout, EcdsStat::ConfigFail, EcdsStat::UpdateAttempt];
    assert_eq!(counted.map(|stat| cells.value(stat)), [1, 1, 2]);
    assert!(all.remove_filters(1).is_empty(), "the other still asks for it");
    assert_eq!(all.wanted(Kind::Filters), names(&["access"]));
    let shown = effective(&compiler);
    assert!(shown.contains("Missing"), "without a default: {shown}");
    let late = compiler.read().with_filters(&[(ResourceSource::Ads, "access".into())].into(), &mut |_| None);
    assert!(format!("{:?}", late[1].as_ref().unwrap().manager.filters).contains("GrpcWeb"), "the default");
}
