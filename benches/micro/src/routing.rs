//! From a head to its route, in tables of 1 to 10,000 virtual hosts and of 1 to 10,000 routes in one of them.
//!
//! 64 requests spread over the table take turns, so that no branch predictor learns one of them by heart.

use std::hint::black_box;

use ringway::config::route::{self as config, RouteConfiguration};
use ringway::protocol::http::head::Head;
use ringway::route::{CompileContext, Outcome, RouteScratch, RouteTable};

use crate::{Case, SIZES, Step};

/// Requests that take turns.
const REQUESTS: usize = 64;

pub(crate) fn cases() -> Vec<Case> {
    let of = |kind: &'static str, make: fn(usize) -> Step| {
        SIZES.map(move |size| Case::hot(format!("{kind}/{size}"), move || make(size)))
    };
    let mut all = Vec::new();
    all.extend(of("route/virtual_hosts", virtual_hosts));
    all.extend(of("route/wildcard_hosts", wildcard_hosts));
    all.extend(of("route/prefixes", prefixes));
    all.extend(of("route/paths", paths));
    all
}

/// `host-7.example.com`, each with one route.
fn virtual_hosts(count: usize) -> Step {
    let hosts = (0..count).map(|n| virtual_host(n, &format!("host-{n}.example.com"), [prefix("/")]));
    step(hosts, count, |n| (format!("host-{n}.example.com"), "/index.html".into()))
}

/// `*.zone-7.example.com`.
fn wildcard_hosts(count: usize) -> Step {
    let hosts = (0..count).map(|n| virtual_host(n, &format!("*.zone-{n}.example.com"), [prefix("/")]));
    step(hosts, count, |n| (format!("www.zone-{n}.example.com"), "/index.html".into()))
}

/// `/service-7/` by prefix, in one virtual host.
fn prefixes(count: usize) -> Step {
    let routes = (0..count).map(|n| prefix(&format!("/service-{n}/")));
    step([virtual_host(0, "*", routes)], count, |n| {
        ("example.com".into(), format!("/service-{n}/list?page=2"))
    })
}

/// `/service/7` by the whole path, in one virtual host.
fn paths(count: usize) -> Step {
    let routes = (0..count).map(|n| route(config::PathMatch::Path(format!("/service/{n}").into())));
    step([virtual_host(0, "*", routes)], count, |n| ("example.com".into(), format!("/service/{n}?page=2")))
}

fn step(
    virtual_hosts: impl IntoIterator<Item = config::VirtualHost>,
    count: usize,
    request: impl Fn(usize) -> (String, String),
) -> Step {
    let table =
        RouteConfiguration { virtual_hosts: virtual_hosts.into_iter().collect(), ..Default::default() };
    let context = CompileContext { cluster_exists: &|_| true, hash_seed: 1, regexes: None };
    let table = RouteTable::compile(&table, &context).expect("a table");
    let head = |place: usize| {
        let (host, path) = request(place * count / REQUESTS);
        let mut head = Head::new();
        head.set_method(b"GET");
        head.set_scheme(b"http");
        head.set_authority(host.as_bytes());
        head.set_path(path.as_bytes());
        head
    };
    let heads: Vec<_> = (0..REQUESTS).map(head).collect();
    let (mut at, mut scratch) = (0, RouteScratch::default());
    Box::new(move || {
        at = (at + 1) % REQUESTS;
        let found = table.find_route(black_box(&heads[at]), 0, &mut scratch);
        assert!(matches!(found, Outcome::Route(..)));
    })
}

fn virtual_host(
    number: usize,
    domain: &str,
    routes: impl IntoIterator<Item = config::Route>,
) -> config::VirtualHost {
    config::VirtualHost {
        name: number.to_string().into(),
        domains: vec![domain.into()],
        routes: routes.into_iter().collect(),
        ..Default::default()
    }
}

fn prefix(text: &str) -> config::Route {
    route(config::PathMatch::Prefix(text.into()))
}

fn route(path: config::PathMatch) -> config::Route {
    let forward = config::RouteAction::to(config::ClusterSpecifier::Cluster("c".into()));
    config::Route {
        name: Box::default(),
        matcher: config::RouteMatch { path, ..Default::default() },
        action: config::Action::Forward(Box::new(forward)),
        header_mutations: config::HeaderMutations::default(),
        filters: Vec::new(),
    }
}
