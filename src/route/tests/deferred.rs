//! Regular expressions that are made with the first request of their virtual host.

use std::sync::Arc;

use super::*;
use crate::base::deferred::Deferred;
use crate::base::regex::KnownRegexes;

fn regex(text: &str) -> config::PathMatch {
    config::PathMatch::SafeRegex(text.into())
}

fn table(regexes: &Arc<KnownRegexes>, hosts: Vec<config::VirtualHost>) -> RouteTable {
    let config = config::RouteConfiguration { virtual_hosts: hosts, ..config::RouteConfiguration::default() };
    RouteTable::compile(&config, &CompileContext { regexes: Some(regexes), ..context() }).unwrap()
}

fn is_deferred(table: &RouteTable, host: &str) -> bool {
    table.deferred(&request(host, "/a", &[]), &mut RouteScratch::default()).is_some()
}

#[test]
fn those_of_a_virtual_host_are_made_together_and_nobody_elses() {
    let regexes = Arc::default();
    let table = table(
        &regexes,
        vec![
            host(&["plain"], vec![route(prefix("/"), to("p"))]),
            host(&["a"], vec![route(regex("/a+"), to("a")), route(regex("/b+"), to("b"))]),
            host(&["b"], vec![route(regex("/c+"), to("c"))]),
        ],
    );
    assert_eq!(
        ["plain", "a", "b", "other"].map(|host| is_deferred(&table, host)),
        [false, true, true, false]
    );
    let mut scratch = RouteScratch::default();
    let first = Arc::clone(table.deferred(&request("a", "/", &[]), &mut scratch).unwrap());
    first.make();
    assert!(!is_deferred(&table, "a") && is_deferred(&table, "b"));
    table.deferred(&request("b", "/", &[]), &mut scratch).unwrap().make();
    assert!(!is_deferred(&table, "a") && !is_deferred(&table, "b"));
}

#[test]
fn table_that_takes_the_place_of_another_keeps_what_is_made_of_both() {
    let regexes = Arc::default();
    let hosts = |more: &str| {
        vec![host(&["a"], vec![named("first", regex("/a+"), to("a")), named("second", regex(more), to("b"))])]
    };
    let before = table(&regexes, hosts("/b"));
    before.deferred(&request("a", "/", &[]), &mut RouteScratch::default()).unwrap().make();
    assert!(!is_deferred(&table(&regexes, hosts("/b")), "a"), "all are made");
    let other = table(&regexes, hosts("/c"));
    assert!(is_deferred(&other, "a"));
    drop(before);
    for (path, found) in [("/aa", "first"), ("/c", "second")] {
        assert_eq!(outcome(&other, &request("a", path, &[]), 0), format!("a/{found}"));
    }
}
