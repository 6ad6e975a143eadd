//! Tests of whole tables: every rule by a small configuration. Here what they share, and matching.

mod actions;
mod changes;
mod deferred;
mod hash;

use std::time::Duration;

use super::*;
use crate::base::rng::Rng;
use crate::config::error::ConfigError;
use crate::config::matcher::{
    FractionalPercent, HeaderCondition, HeaderMatcher, QueryParameterCondition, QueryParameterMatcher,
    RegexRewrite, RuntimeFraction, StringMatcher, StringPattern,
};
use crate::config::route as config;
use crate::config::runtime::{RuntimeKey, RuntimeState, RuntimeValue};
use crate::format::context::FormatContext;
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::HeaderName;
use crate::protocol::stream_info::StreamInfo;
use serde_json::json;

fn context() -> CompileContext<'static> {
    CompileContext { cluster_exists: &|name| name != "missing", hash_seed: 1, regexes: None }
}

fn to(cluster: &str) -> config::Action {
    config::Action::Forward(Box::new(config::RouteAction::to(config::ClusterSpecifier::Cluster(
        cluster.into(),
    ))))
}

fn route(path: config::PathMatch, action: config::Action) -> config::Route {
    named("", path, action)
}

fn named(name: &str, path: config::PathMatch, action: config::Action) -> config::Route {
    config::Route {
        name: name.into(),
        matcher: config::RouteMatch { path, ..config::RouteMatch::default() },
        action,
        header_mutations: config::HeaderMutations::default(),
        filters: Vec::new(),
    }
}

fn prefix(text: &str) -> config::PathMatch {
    config::PathMatch::Prefix(text.into())
}

fn host(domains: &[&str], routes: Vec<config::Route>) -> config::VirtualHost {
    config::VirtualHost {
        name: domains[0].into(),
        domains: domains.iter().map(|&domain| domain.into()).collect(),
        routes,
        ..config::VirtualHost::default()
    }
}

fn table_of(virtual_hosts: Vec<config::VirtualHost>) -> config::RouteConfiguration {
    config::RouteConfiguration { virtual_hosts, ..config::RouteConfiguration::default() }
}

fn compile(config: &config::RouteConfiguration) -> RouteTable {
    RouteTable::compile(config, &context()).unwrap()
}

fn compile_routes(routes: Vec<config::Route>) -> RouteTable {
    compile(&table_of(vec![host(&["*"], routes)]))
}

fn error_of(route: config::Route) -> ConfigError {
    RouteTable::compile(&table_of(vec![host(&["*"], vec![route])]), &context()).unwrap_err()
}

fn name(text: &str) -> HeaderName {
    HeaderName::parse(text.as_bytes()).unwrap()
}

fn request(authority: &str, path: &str, sent: &[(&str, &str)]) -> Head {
    let mut head = Head::new();
    head.set_method(if path.is_empty() { b"CONNECT" } else { b"GET" });
    head.set_authority(authority.as_bytes());
    head.set_path(path.as_bytes());
    head.set_scheme(b"http");
    for (key, value) in sent {
        head.append(&name(key), value.as_bytes());
    }
    head
}

fn text(head: &Head, key: &str) -> String {
    let values: Vec<_> =
        head.get_all(&name(key)).map(|value| String::from_utf8(value.to_vec()).unwrap()).collect();
    values.join("|")
}

/// `virtual host/route`, `-` where there is none.
fn outcome(table: &RouteTable, head: &Head, random: u64) -> String {
    match table.find_route(head, random, &mut RouteScratch::default()) {
        Outcome::NoRoute(virtual_host) => format!("{}/-", virtual_host.map_or("-", |it| &it.name)),
        Outcome::TlsRedirect(virtual_host) => format!("{}/tls", virtual_host.name),
        Outcome::Route(virtual_host, route) => format!("{}/{}", virtual_host.name, route.name),
    }
}

/// Name of the route taken by a GET of `path`.
fn taken(table: &RouteTable, path: &str, sent: &[(&str, &str)]) -> String {
    outcome(table, &request("h", path, sent), 0).split_off(2)
}

fn forward_of(table: &RouteTable) -> (&Route, &Forward) {
    let route = &table.virtual_hosts[0].routes[0];
    match &route.action {
        Action::Forward(forward) => (route, forward),
        other => panic!("{other:?}"),
    }
}

fn weighted(
    clusters: &[(&str, u32)],
    edit: impl FnOnce(&mut config::WeightedClusters),
) -> config::ClusterSpecifier {
    let cluster = |&(name, weight): &(&str, u32)| config::ClusterWeight {
        cluster: config::WeightedClusterName::Cluster(name.into()),
        weight,
        runtime_key: None,
        header_mutations: config::HeaderMutations::default(),
        filters: Vec::new(),
        host_rewrite_literal: None,
    };
    let clusters = clusters.iter().map(cluster).collect();
    let mut weighted = config::WeightedClusters { clusters, header_name: None };
    edit(&mut weighted);
    config::ClusterSpecifier::WeightedClusters(weighted)
}

// === virtual hosts ===

#[test]
fn host_is_searched_with_its_port_unless_that_is_ignored() {
    let hosts = || {
        vec![
            host(&["a"], vec![named("r", prefix("/"), to("c"))]),
            host(&["[::1]"], vec![]),
            host(&["*"], vec![]),
        ]
    };
    let exact = compile(&table_of(hosts()));
    assert_eq!(outcome(&exact, &request("A", "/", &[]), 0), "a/r");
    assert_eq!(outcome(&exact, &request("a:80", "/", &[]), 0), "*/-");
    let ignoring = config::RouteConfiguration { ignore_port_in_host_matching: true, ..table_of(hosts()) };
    let ignoring = compile(&ignoring);
    assert_eq!(outcome(&ignoring, &request("a:80", "/", &[]), 0), "a/r");
    assert_eq!(outcome(&ignoring, &request("[::1]:80", "/", &[]), 0), "[::1]/-");
    assert_eq!(outcome(&ignoring, &request("[::1]", "/", &[]), 0), "[::1]/-");
}

#[test]
fn host_without_virtual_host_has_no_route() {
    let table = compile(&table_of(vec![host(&["a"], vec![])]));
    assert_eq!(outcome(&table, &request("b", "/", &[]), 0), "-/-");
}

#[test]
fn vhost_header_replaces_the_host() {
    let mut config = table_of(vec![host(&["a"], vec![named("r", prefix("/"), to("c"))])]);
    config.vhost_header = Some("x-host".into());
    let table = compile(&config);
    assert_eq!(outcome(&table, &request("z", "/", &[("x-host", "a")]), 0), "a/r");
    assert_eq!(outcome(&table, &request("a", "/", &[]), 0), "-/-");
}

#[test]
fn required_tls_redirects_by_forwarded_proto() {
    for (require_tls, sent, expected) in [
        (config::TlsRequirement::All, &[("x-forwarded-proto", "http")][..], "*/tls"),
        (config::TlsRequirement::All, &[("x-forwarded-proto", "https")], "*/-"),
        (config::TlsRequirement::ExternalOnly, &[("x-forwarded-proto", "http")], "*/tls"),
        (config::TlsRequirement::ExternalOnly, &[("x-envoy-internal", "true")], "*/-"),
        (config::TlsRequirement::None, &[], "*/-"),
    ] {
        let table = compile(&table_of(vec![config::VirtualHost { require_tls, ..host(&["*"], vec![]) }]));
        assert_eq!(outcome(&table, &request("h", "/a?b", sent), 0), expected, "{require_tls:?}");
    }
    let mut location = Vec::new();
    RouteTable::tls_redirect(&request("h:80", "/a?b", &[]), &mut location);
    assert_eq!(location, b"https://h:80/a?b");
}

// === matching ===

#[test]
fn path_conditions_follow_envoy() {
    let cases: &[(config::PathMatch, bool, &[&str], &[&str])] = &[
        (prefix("/a"), true, &["/a", "/ab", "/a/b", "/a?q"], &["/", "/A", "/b/a"]),
        (prefix("/a"), false, &["/A", "/aB"], &["/b"]),
        (prefix("/q?x"), true, &[], &["/q?x=1", "/q"]),
        (prefix(""), true, &["/", "/x", "*"], &[""]),
        (config::PathMatch::Path("/a".into()), true, &["/a", "/a?b"], &["/a/", "/ab", "/A", "/"]),
        (config::PathMatch::Path("/a".into()), false, &["/A?x"], &["/A/"]),
        (
            config::PathMatch::PathSeparatedPrefix("/a".into()),
            true,
            &["/a", "/a/", "/a/b", "/a?b"],
            &["/ab", "/A/"],
        ),
        (config::PathMatch::PathSeparatedPrefix("/a".into()), false, &["/A/b"], &["/AB"]),
        (config::PathMatch::SafeRegex("/a[0-9]+".into()), true, &["/a1", "/a12?b"], &["/a", "/a1x", "x/a1"]),
        (config::PathMatch::Connect, true, &[""], &["/", "*"]),
    ];
    for (path, case_sensitive, yes, no) in cases {
        let mut config = named("r", path.clone(), to("c"));
        config.matcher.case_sensitive = *case_sensitive;
        let table = compile_routes(vec![config]);
        for (asked, expected) in yes.iter().map(|it| (it, "r")).chain(no.iter().map(|it| (it, "-"))) {
            assert_eq!(taken(&table, asked, &[]), expected, "{path:?} {asked}");
        }
    }
}

#[test]
fn path_parameters_are_ignored_when_configured() {
    let mut config =
        table_of(vec![host(&["*"], vec![named("r", config::PathMatch::Path("/a/b".into()), to("c"))])]);
    assert_eq!(taken(&compile(&config), "/a;x=1/b", &[]), "-");
    config.ignore_path_parameters_in_path_matching = true;
    let table = compile(&config);
    for (path, expected) in [("/a;x=1/b", "r"), ("/a/b;x?q", "r"), ("/a/b;/", "-"), ("/a/b;x/c", "-")] {
        assert_eq!(taken(&table, path, &[]), expected, "{path}");
    }
}

#[test]
fn query_parameters_match_first_value_undecoded() {
    let exact = |text: &str| {
        let pattern = StringPattern::Exact(text.into());
        QueryParameterCondition::String(StringMatcher { pattern, ignore_case: false })
    };
    for (condition, path, expected) in [
        (QueryParameterCondition::Present(true), "/?a", "r"),
        (QueryParameterCondition::Present(true), "/?b&a=", "r"),
        (QueryParameterCondition::Present(true), "/?ab=1", "-"),
        (QueryParameterCondition::Present(true), "/", "-"),
        (QueryParameterCondition::Present(false), "/", "r"),
        (QueryParameterCondition::Present(false), "/?a=1", "-"),
        (exact("1"), "/?a=1", "r"),
        (exact("1"), "/?a=2&a=1", "-"),
        (exact("1=2"), "/?a=1=2", "r"),
        (exact("x y"), "/?a=x%20y", "-"),
        (exact("x%20y"), "/?a=x%20y", "r"),
        (exact(""), "/?a", "r"),
        (exact(""), "/", "-"),
    ] {
        let mut config = named("r", prefix("/"), to("c"));
        config.matcher.query_parameters =
            vec![QueryParameterMatcher { name: "a".into(), condition: condition.clone() }];
        assert_eq!(taken(&compile_routes(vec![config]), path, &[]), expected, "{condition:?} {path}");
    }
}

#[test]
fn grpc_condition_reads_the_content_type() {
    let mut config = named("r", prefix("/"), to("c"));
    config.matcher.grpc = true;
    let table = compile_routes(vec![config]);
    for (content_type, expected) in [
        ("application/grpc", "r"),
        ("application/grpc+proto", "r"),
        ("application/grpc-web", "-"),
        ("text/plain", "-"),
    ] {
        assert_eq!(taken(&table, "/", &[("content-type", content_type)]), expected, "{content_type}");
    }
}

#[test]
fn runtime_fraction_draws_and_runtime_overrides() {
    let with = |runtime_key: Option<&RuntimeKey>, numerator| {
        let mut config = named("r", prefix("/"), to("c"));
        let default_value = FractionalPercent { numerator, denominator: 100 };
        config.matcher.runtime_fraction =
            Some(RuntimeFraction { default_value, runtime_key: runtime_key.cloned() });
        compile_routes(vec![config])
    };
    let share = |table: &RouteTable| {
        (0..1000).filter(|&random| outcome(table, &request("h", "/", &[]), random) == "*/r").count()
    };
    assert_eq!(share(&with(None, 30)), 300);
    assert_eq!(share(&with(None, 0)), 0);
    assert_eq!(share(&with(None, 100)), 1000);
    let state = RuntimeState::default();
    let half = RuntimeKey::new("half", RuntimeValue::of(&json!(50)), &state);
    let (none, all) = (with(Some(&half), 0), with(Some(&half), 100));
    assert_eq!((share(&none), share(&all)), (500, 500));
    half.prepare(RuntimeValue::of(&json!({"numerator": 1, "denominator": "TEN_THOUSAND"})));
    state.proceed();
    assert_eq!((share(&none), share(&all)), (1, 1), "the table is the same");
    half.prepare(RuntimeValue::default());
    state.proceed();
    assert_eq!((share(&none), share(&all)), (0, 1000));
}

/// Tables of random routes: what the index finds is what trying every route in order finds.
#[test]
fn index_equals_trying_in_order() {
    for seed in 0..60 {
        let mut rng = Rng::from_seed(seed);
        let routes = random_routes(&mut rng);
        let indexed = compile_routes(routes.clone());
        let naive = compile_routes(routes).without_index();
        assert!(indexed.virtual_hosts[0].index.is_some());
        let mut scratch = RouteScratch::default();
        for _ in 0..200 {
            let path = random_path(&mut rng);
            let sent: &[_] = if rng.below(3) == 0 { &[("x-a", "1")] } else { &[] };
            let (head, random) = (request("h", &path, sent), rng.next_u64());
            let route_of = |table: &RouteTable, scratch: &mut RouteScratch| match table
                .find_route(&head, random, scratch)
            {
                Outcome::Route(_, route) => Some(route.name.clone()),
                _ => None,
            };
            assert_eq!(
                route_of(&indexed, &mut scratch),
                route_of(&naive, &mut RouteScratch::default()),
                "seed {seed} {path:?}"
            );
        }
    }
}

fn random_path(rng: &mut Rng) -> String {
    if rng.below(20) == 0 {
        return String::new();
    }
    let tail: String = (0..rng.below(6)).map(|_| char::from(b"/aaAb?"[rng.below(6) as usize])).collect();
    format!("/{tail}")
}

fn random_routes(rng: &mut Rng) -> Vec<config::Route> {
    let plain = |rng: &mut Rng| random_path(rng).replace('?', "").into_boxed_str();
    (0..12 + rng.below(40))
        .map(|index| {
            let text = plain(rng);
            let path = match rng.below(12) {
                0..5 => config::PathMatch::Prefix(text),
                5..8 => config::PathMatch::Path(text),
                8..10 => config::PathMatch::PathSeparatedPrefix(text),
                10 => config::PathMatch::SafeRegex("/a*b?/?".into()),
                _ => config::PathMatch::Connect,
            };
            let mut config = named(&index.to_string(), path, to("c"));
            config.matcher.case_sensitive = rng.below(5) > 0;
            if rng.below(3) > 0 {
                let (name, condition) = ("x-a".into(), HeaderCondition::Present(true));
                let (invert_match, treat_missing_header_as_empty) = (false, false);
                config.matcher.headers =
                    vec![HeaderMatcher { name, condition, invert_match, treat_missing_header_as_empty }];
            }
            config
        })
        .collect()
}
