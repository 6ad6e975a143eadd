//! The hash that picks a request's endpoint. Where two hashes are compared, Envoy mixes the same: `tests/peers/hashing.py`.

use super::*;
use crate::base::xx_hash::xx_hash;

const CLIENT: &str = "10.1.2.3";

fn policy(source: config::HashSource) -> config::HashPolicy {
    config::HashPolicy { source, terminal: false }
}

fn header(name: &str) -> config::HashPolicy {
    policy(config::HashSource::Header { name: name.into(), rewrite: None })
}

fn cookie(ttl_s: Option<u64>) -> config::HashCookie {
    config::HashCookie {
        name: "c".into(),
        ttl: ttl_s.map(Duration::from_secs),
        path: "/p".into(),
        attributes: vec![("SameSite".into(), "Lax".into()), ("Secure".into(), "".into())],
    }
}

/// The hash of a request, and the cookies given.
fn hash(policies: Vec<config::HashPolicy>, path: &str, sent: &[(&str, &str)]) -> (Option<u64>, String) {
    let mut action = config::RouteAction::to(config::ClusterSpecifier::Cluster("c".into()));
    action.hash_policy = policies;
    let table = compile_routes(vec![route(prefix("/"), config::Action::Forward(Box::new(action)))]);
    let client = HashedClient {
        address: Some(CLIENT.parse().unwrap()),
        ends: [5, 80].map(|port| std::net::SocketAddr::from(([127, 0, 0, 1], port)).into()),
    };
    let (_, forward) = forward_of(&table);
    let (mut scratch, mut given) = (RouteScratch::default(), Vec::new());
    scratch.path.extend_from_slice(b"left over");
    let head = request("h", path, sent);
    let hash = forward.hash(&head, &client, &mut scratch, &mut given);
    assert_eq!(forward.hash(&head, &client, &mut scratch, &mut Vec::new()), hash);
    (hash, String::from_utf8(given).unwrap())
}

fn of(text: &str) -> Option<u64> {
    Some(xx_hash(text.as_bytes(), 0))
}

#[test]
fn each_source_is_hashed_as_sent_and_one_that_is_missing_is_not() {
    let query = || policy(config::HashSource::QueryParameter("q".into()));
    let jar = || policy(config::HashSource::Cookie(cookie(None)));
    for (policy, path, sent, expected) in [
        (header("x-a"), "/", &[("x-a", "1")][..], of("1")),
        (header("x-a"), "/", &[("x-a", "")], of("")),
        (header("x-a"), "/", &[("x-b", "1")], None),
        (header(":path"), "/a?b", &[], of("/a?b")),
        (header("host"), "/", &[], of("h")),
        (query(), "/?p=1&q=%41&q=3", &[], of("%41")),
        (query(), "/?q", &[], of("")),
        (query(), "/?", &[], None),
        (query(), "/q=1", &[], None),
        (jar(), "/", &[("cookie", "a=b; c=\"d\"")], of("d")),
        (jar(), "/", &[("cookie", "c=")], None),
        (jar(), "/", &[], None),
        (policy(config::HashSource::SourceIp), "/", &[], of(CLIENT)),
    ] {
        let debug = format!("{policy:?} {path} {sent:?}");
        assert_eq!(hash(vec![policy], path, sent), (expected, String::new()), "{debug}");
    }
    assert_eq!(hash(Vec::new(), "/", &[]).0, None);
}

#[test]
fn values_of_a_header_count_whatever_their_order_and_rewritten() {
    let both = Some(xx_hash(b"b", xx_hash(b"a", 0)));
    assert_eq!(hash(vec![header("x-a")], "/", &[("x-a", "b"), ("x-a", "a")]).0, both);
    assert_eq!(hash(vec![header("x-a")], "/", &[("x-a", "a"), ("x-a", "b")]).0, both);
    let rewrite = Some(RegexRewrite { regex: "^([a-z]+)[0-9]*".into(), substitution: r"<\1>".into() });
    let rewritten = || policy(config::HashSource::Header { name: "x-a".into(), rewrite: rewrite.clone() });
    assert_eq!(hash(vec![rewritten()], "/", &[("x-a", "ab12")]).0, of("<ab>"));
    assert_eq!(hash(vec![rewritten()], "/", &[("x-a", "12")]).0, of("12"));
    let sorted = Some(xx_hash(b"<b>", xx_hash(b"<a>", 0)));
    assert_eq!(hash(vec![rewritten()], "/", &[("x-a", "b1"), ("x-a", "a2")]).0, sorted);
}

#[test]
fn sources_are_mixed_in_order_until_a_terminal_one_has_a_hash() {
    let terminal = |name| config::HashPolicy { terminal: true, ..header(name) };
    let (a, b) = (xx_hash(b"a", 0), xx_hash(b"b", 0));
    let sent = &[("x-a", "a"), ("x-b", "b")];
    assert_eq!(hash(vec![header("x-a"), header("x-b")], "/", sent).0, Some(a.rotate_left(1) ^ b));
    assert_eq!(hash(vec![header("x-a"), header("x-a")], "/", sent).0, Some(a.rotate_left(1) ^ a));
    assert_eq!(hash(vec![terminal("x-a"), header("x-b")], "/", sent).0, Some(a));
    assert_eq!(hash(vec![terminal("x-none"), header("x-b")], "/", sent).0, Some(b));
    // As in Envoy it ends the list once there is a hash, even if that is none of its own.
    assert_eq!(hash(vec![header("x-a"), terminal("x-none"), header("x-b")], "/", sent).0, Some(a));
}

#[test]
fn client_without_the_cookie_is_given_one_that_says_its_connection() {
    let value = format!("{:016x}", xx_hash(b"127.0.0.1:5127.0.0.1:80", 0));
    for (ttl_s, age) in [(0, ""), (60, "; Max-Age=60")] {
        let given = format!("c=\"{value}\"{age}; Path=/p; SameSite=Lax; Secure; HttpOnly\n");
        let policies = || vec![policy(config::HashSource::Cookie(cookie(Some(ttl_s))))];
        assert_eq!(hash(policies(), "/", &[]), (of(&value), given.clone()));
        assert_eq!(hash(policies(), "/", &[("cookie", "c=")]), (of(&value), given));
        assert_eq!(hash(policies(), "/", &[("cookie", "c=x")]), (of("x"), String::new()));
        // What it was given leads it back.
        let sent = format!("c=\"{value}\"");
        assert_eq!(hash(policies(), "/", &[("cookie", &sent)]), (of(&value), String::new()));
    }
}

#[test]
fn policy_that_cannot_be_compiled_is_named() {
    let error = |source| {
        let mut action = config::RouteAction::to(config::ClusterSpecifier::Cluster("c".into()));
        action.hash_policy = vec![header("x"), policy(source)];
        error_of(route(prefix("/"), config::Action::Forward(Box::new(action)))).to_string()
    };
    let bad = error(config::HashSource::Header { name: "a b".into(), rewrite: None });
    assert!(bad.contains("virtual_hosts[0].routes[0].route.hash_policy[1].header.header_name"), "{bad}");
    let rewrite = Some(RegexRewrite { regex: "(".into(), substitution: "".into() });
    let bad = error(config::HashSource::Header { name: "a".into(), rewrite });
    assert!(bad.contains("hash_policy[1].header.regex_rewrite"), "{bad}");
}
