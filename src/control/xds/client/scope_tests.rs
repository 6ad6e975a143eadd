//! Rules of discovery that hold for scopes of routes.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::compiler::SharedCompiler;
use super::delta::Delta;
use super::filter_tests::{compiler as compiler_of, subscribers, with_fields};
use super::judge::{Good, Judge, Kind, Taken};
use super::scopes::ScopeJudge;
use super::sotw::Sotw;
use super::wanted::Wanted;
use super::{Protocol, SCOPES, Update, Updates};
use crate::config::ads::{Rds, ResourceSource};
use crate::config::route::RouteConfiguration;
use crate::control::xds::pb;
use crate::snapshot::ScopeCounts;
use crate::telemetry::{ScopedRdsStat, Slot};
use pb::discovery::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};

/// That of a listener with scoped routes `s` that are told, and whose tables are.
fn compiler() -> SharedCompiler {
    let listener = with_fields(
        r#"filter_chains:
    - filters:
      - name: manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: web
          scoped_routes:
            name: s
            scope_key_builder: {fragments: [{header_value_extractor: {name: x-scope, index: 0}}]}
            rds_config_source: {ads: {}, resource_api_version: V3}
            scoped_rds: {scoped_rds_config_source: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 2s}}
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
"#,
    );
    compiler_of(&[listener])
}

fn judge(compiler: &SharedCompiler) -> Judge {
    Judge::Scopes(ScopeJudge::new(ResourceSource::Ads, compiler.clone()))
}

fn sotw(compiler: &SharedCompiler) -> Sotw {
    Sotw::new(judge(compiler), pb::core::Node::default(), Wanted::All, true)
}

/// A scope: its name, key and table.
type Scope = (&'static str, &'static str, &'static str);

fn any((name, key, table): Scope) -> pb::google::Any {
    use pb::route::ScopedRouteConfigurationKeyFragmentTypeOneOf::StringKey;
    use pb::route::{
        ScopedRouteConfiguration, ScopedRouteConfigurationKey, ScopedRouteConfigurationKeyFragment,
    };
    let fragment = ScopedRouteConfigurationKeyFragment { r#type: Some(StringKey(key.into())) };
    let message = ScopedRouteConfiguration {
        name: name.into(),
        key: Some(ScopedRouteConfigurationKey { fragments: vec![fragment] }),
        route_configuration_name: table.into(),
        ..ScopedRouteConfiguration::default()
    };
    pb::google::Any { type_url: SCOPES.into(), value: message.encode_to_vec() }
}

fn state(scopes: &[Scope]) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: "1".into(),
        nonce: "n".into(),
        type_url: SCOPES.into(),
        resources: scopes.iter().copied().map(any).collect(),
        ..DiscoveryResponse::default()
    }
}

fn change(scopes: &[Scope], removed: &[&str]) -> DeltaDiscoveryResponse {
    let resource = |scope: &Scope| Resource {
        name: scope.0.into(),
        version: "1".into(),
        resource: Some(any(*scope)),
        ..Resource::default()
    };
    DeltaDiscoveryResponse {
        nonce: "n".into(),
        type_url: SCOPES.into(),
        resources: scopes.iter().map(resource).collect(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// The tables that are asked for.
fn tables(compiler: &SharedCompiler) -> Vec<String> {
    let asked = compiler.read().asked_of(0).into_iter();
    asked.map(|asked| String::from(asked.rds.name)).collect()
}

/// Of each update the names that are there and those that are gone.
fn told(receiver: &mut mpsc::Receiver<Updates>) -> Vec<[String; 2]> {
    let updates = std::iter::from_fn(|| receiver.try_recv().ok()).flatten();
    let names = updates.map(|update| {
        let Update::Scopes(update) = update else { panic!("{update:?}") };
        [true, false].map(|is_there| {
            let meant = update.changed.iter().filter(|(_, wire)| wire.is_some() == is_there);
            meant.map(|(name, _)| &**name).collect::<Vec<_>>().join(" ")
        })
    });
    names.collect()
}

#[test]
fn all_scopes_are_asked_for_and_the_tables_that_they_name() {
    let compiler = compiler();
    let mut client = sotw(&compiler);
    let first = client.open(true).unwrap();
    assert_eq!((first.type_url.as_str(), first.resource_names), (SCOPES, Vec::new()));
    for (scopes, good, asked) in [
        (&[("a", "1", "t"), ("b", "2", "t")][..], 2, &["t"][..]),
        (&[("a", "1", "t"), ("b", "2", "u"), ("c", "3", "v")], 2, &["t", "u", "v"]),
        (&[("c", "3", "v")], 0, &["v"]),
        (&[], 0, &[]),
    ] {
        let Taken { reply, outcome, .. } = client.take(state(scopes)).unwrap();
        assert!(reply.error_detail.is_none());
        let is_new = |good: &&Good| matches!(good, Good::Scope(_));
        assert_eq!(outcome.good.values().filter(is_new).count(), good, "the others are in use");
        assert_eq!(tables(&compiler), asked);
        for table in ["t", "u", "v"] {
            let prefixes = compiler.read().prefixes_of(&ResourceSource::Ads, table);
            assert_eq!(prefixes.contains("web"), asked.contains(&table), "{table}");
            assert_eq!(compiler.read().is_asked(&ResourceSource::Ads, table), !prefixes.is_empty());
        }
    }
}

/// What Envoy says of them, and it takes nothing of such a response.
#[test]
fn scopes_that_do_not_agree_are_refused_all_of_them_and_none_goes() {
    let compiler = compiler();
    let mut client = sotw(&compiler);
    client.take(state(&[("a", "1", "t"), ("b", "2", "u")])).unwrap();
    for (scopes, reason) in [
        (
            &[("c", "3", "v"), ("d", "3", "w")][..],
            "scope key conflict found, first scope is 'c', second scope is 'd'",
        ),
        (
            &[("a", "1", "t"), ("c", "1", "v"), ("d", "4", "v")],
            "scope key conflict found, first scope is 'a', second scope is 'c'",
        ),
        (&[("c", "3", "v"), ("c", "4", "w")], "duplicate scoped route configuration 'c' found"),
    ] {
        let Taken { reply, outcome, .. } = client.take(state(scopes)).unwrap();
        let message = reply.error_detail.unwrap().message;
        assert!(message.contains(&format!("Error adding/updating scoped route(s): {reason}")), "{message}");
        assert!(outcome.absent.is_empty());
        assert!(outcome.good.values().all(|good| matches!(good, Good::Same)), "nothing is taken");
        assert_eq!(tables(&compiler), ["t", "u"], "{reason}");
    }
    // Removals come first: a key may go to another scope, and change its owner.
    for scopes in [&[("b", "1", "t"), ("c", "2", "u")][..], &[("b", "2", "u"), ("c", "1", "t")]] {
        assert!(client.take(state(scopes)).unwrap().reply.error_detail.is_none());
        assert_eq!(compiler.read().scope_counts(&ResourceSource::Ads).all, 2);
    }
}

#[test]
fn scope_that_cannot_be_is_refused_by_itself_and_the_last_one_stays() {
    let compiler = compiler();
    let mut client = sotw(&compiler);
    client.take(state(&[("a", "1", "t")])).unwrap();
    let Taken { reply, .. } = client.take(state(&[("a", "1", ""), ("b", "2", "u")])).unwrap();
    let message = reply.error_detail.unwrap().message;
    assert!(message.starts_with("a: ") && message.contains("route_configuration_name is empty"), "{message}");
    assert_eq!(tables(&compiler), ["t", "u"]);
}

#[tokio::test(start_paused = true)]
async fn delta_removes_before_it_adds_and_says_so_once() {
    let compiler = compiler();
    let (all, mut receiver, registry) = subscribers();
    let asked = compiler.read().asked_scopes_of(0);
    assert!(all.add_scopes(0, &asked, ScopeCounts::default(), &registry), "the first answer is waited for");
    assert_eq!(all.wanted(Kind::Scopes), Wanted::All);
    let mut client = Delta::new(judge(&compiler), pb::core::Node::default(), Wanted::All, true);
    client.open(true);
    for (response, is_good) in [
        (change(&[("a", "1", "t"), ("b", "2", "u")], &[]), true),
        (change(&[("c", "1", "v")], &[]), false),
        (change(&[("c", "1", "v")], &["a"]), true),
        (change(&[], &[]), true),
    ] {
        let Taken { outcome, version, reply, .. } = client.take(response).unwrap();
        assert_eq!(reply.error_detail.is_none(), is_good);
        all.apply(Kind::Scopes, outcome, &version).await;
    }
    let nothing = || [String::new(), String::new()];
    let (first, last) = (["a b".to_owned(), String::new()], ["c".to_owned(), "a".to_owned()]);
    assert_eq!(told(&mut receiver), [first, nothing(), last, nothing()]);
    assert_eq!(tables(&compiler), ["u", "v"]);
    all.show_scopes(compiler.read().scope_counts(&ResourceSource::Ads));
    let cells = registry.scoped_rds("web", "s").cells(Slot::Control);
    for (stat, value) in [
        (ScopedRdsStat::UpdateAttempt, 5),
        (ScopedRdsStat::UpdateSuccess, 3),
        (ScopedRdsStat::UpdateRejected, 1),
        (ScopedRdsStat::UpdateEmpty, 0),
        (ScopedRdsStat::ConfigReload, 3),
        (ScopedRdsStat::AllScopes, 2),
        (ScopedRdsStat::ActiveScopes, 2),
        (ScopedRdsStat::OnDemandScopes, 0),
    ] {
        assert_eq!(cells.value(stat), value, "{stat:?}");
    }
    assert!(!all.add_scopes(1, &asked, ScopeCounts::default(), &registry), "they are there");
    assert!(all.remove_scopes(0, &registry) && !all.is_empty(), "the other has them");
    assert!(all.remove_scopes(1, &registry) && all.is_empty() && !all.remove_scopes(1, &registry));
}

#[tokio::test(start_paused = true)]
async fn scopes_that_do_not_come_are_waited_for_no_longer_than_asked() {
    let compiler = compiler();
    let (all, mut receiver, registry) = subscribers();
    let asked = compiler.read().asked_scopes_of(0);
    assert!(all.add_scopes(0, &asked, ScopeCounts::default(), &registry));
    assert!(timeout(Duration::from_secs(1), all.give_up_in_time()).await.is_err());
    assert!(told(&mut receiver).is_empty());
    assert!(timeout(Duration::from_secs(2), all.give_up_in_time()).await.is_err());
    assert_eq!(told(&mut receiver), [[String::new(), String::new()]]);
    let cells = registry.scoped_rds("web", "s").cells(Slot::Control);
    assert_eq!(cells.value(ScopedRdsStat::InitFetchTimeout), 1);
}

/// A manager is put together with the tables that are there: requests of the other scopes have no route.
#[test]
fn manager_has_the_scopes_whose_tables_are_there() {
    let compiler = compiler();
    sotw(&compiler).take(state(&[("a", "1", "here"), ("b", "2", "missing"), ("c", "3", "here")])).unwrap();
    let keys = [(ResourceSource::Ads, Arc::from("here"))].into();
    let compiler = compiler.read();
    let compiled = compiler.with_scopes(None, &keys, &mut |rds| (&*rds.name == "here").then(Arc::default));
    let [Ok(resource)] = &compiled[..] else { panic!("{compiled:?}") };
    assert_eq!(resource.manager.scopes.as_ref().unwrap().managers.len(), 2);
    let other = [(ResourceSource::Ads, Arc::from("other"))].into();
    assert!(compiler.with_scopes(None, &other, &mut |_| None).is_empty());
    assert_eq!(compiler.with_scopes(Some(&ResourceSource::Ads), &other, &mut |_| None).len(), 1);
    assert!(compiler.is_asked(&ResourceSource::Ads, "missing"));
    assert!(!compiler.is_asked(&ResourceSource::Ads, "other"));
    assert!(!compiler.has_table(0, &ResourceSource::Ads, "here"), "no table of its own");
}

/// Thousands of scopes may have one table.
#[test]
fn scopes_of_one_table_are_compiled_once() {
    let compiler = compiler();
    sotw(&compiler).take(state(&[("a", "1", "t"), ("b", "2", "u"), ("c", "3", "t")])).unwrap();
    let [t, u] = [(); 2].map(|()| Arc::<RouteConfiguration>::default());
    let mut tables = |rds: &Rds| Some(Arc::clone(if &*rds.name == "t" { &t } else { &u }));
    let compiled = compiler.read().with_scopes(Some(&ResourceSource::Ads), &BTreeSet::new(), &mut tables);
    let [Ok(resource)] = &compiled[..] else { panic!("{compiled:?}") };
    assert_eq!(resource.manager.scopes.as_ref().unwrap().managers.len(), 2);
}
