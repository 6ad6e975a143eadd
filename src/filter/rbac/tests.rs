//! Tables: each rule on its own, actions over policies, connections.

use std::net::SocketAddr;

use super::{Decision, Engine, Facts, NetworkRbac};
use crate::base::regex::RegexSlots;
use crate::config::address::CidrRange;
use crate::config::matcher::{
    HeaderCondition, HeaderMatcher, MetadataMatcher, StringMatcher, StringPattern, ValueMatcher,
};
use crate::config::matching::{Input, Matcher, Matches, OnMatch, Predicate, Then, Tree};
use crate::config::rbac::{
    Action, MatchedAction, NetworkRbac as NetworkConfig, Policy, Rule, RuleSet, Rules,
};
use crate::protocol::connection_info::ConnectionInfo;
use crate::protocol::dynamic_metadata::{DynamicMetadata, MetadataValue};
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::HeaderName;
use crate::protocol::http::matcher::MatchScratch;
use crate::protocol::tls::testing::{Authority, Spec};
use crate::protocol::tls::{PeerIdentity, TlsFacts};
use crate::telemetry::{Registry, Slot};

fn string(pattern: StringPattern) -> StringMatcher {
    StringMatcher { pattern, ignore_case: false }
}

fn exact(text: &str) -> StringMatcher {
    string(StringPattern::Exact(text.into()))
}

fn range(text: &str) -> CidrRange {
    let (address, length) = text.split_once('/').unwrap();
    CidrRange::new(address.parse().unwrap(), length.parse().unwrap())
}

fn header(name: &str, condition: HeaderCondition) -> Rule {
    Rule::Header(HeaderMatcher {
        name: name.into(),
        condition,
        invert_match: false,
        treat_missing_header_as_empty: false,
    })
}

fn policy(name: &str, permissions: Vec<Rule>, principals: Vec<Rule>) -> Policy {
    Policy { name: name.into(), permissions, principals }
}

fn head(path: &str) -> Head {
    let mut head = Head::new();
    head.set_method(b"GET");
    head.set_path(path.as_bytes());
    head.append(&HeaderName::parse(b"x-a").unwrap(), b"1");
    head
}

/// Somebody who asks: `192.0.2.9` for `10.0.0.1`, by a proxy of PROXY at `198.51.100.2`, of the server `a.example`.
fn facts<'a>(head: &'a Head, metadata: &'a DynamicMetadata) -> Facts<'a> {
    Facts {
        peer: Some([192, 0, 2, 9].into()),
        direct_remote: Some([198, 51, 100, 2].into()),
        remote: Some([10, 0, 0, 1].into()),
        remote_port: 40_000,
        local: Some(([203, 0, 113, 5], 8443).into()),
        server_name: "a.example",
        tls: None,
        request: Some(head),
        metadata: Some(metadata),
    }
}

fn engine(action: Action, policies: Vec<Policy>) -> Engine {
    compiled(&RuleSet::Policies(Rules { action, policies }))
}

fn compiled(rules: &RuleSet) -> Engine {
    Engine::compile(rules, "rules", &mut RegexSlots::default(), |_| None).unwrap()
}

/// Whether the rule is met, as a permission and as a principal.
fn met(rule: &Rule, facts: &Facts<'_>) -> bool {
    let [permission, principal] =
        [policy("p", vec![rule.clone()], vec![Rule::Any]), policy("p", vec![Rule::Any], vec![rule.clone()])]
            .map(|policy| {
                engine(Action::Allow, vec![policy]).decide(facts, &mut MatchScratch::default()).allowed
            });
    assert_eq!(permission, principal, "{rule:?}");
    permission
}

#[test]
fn rules_ask_what_they_name() {
    let (head, metadata) = (head("/a/b?c=/d#e"), DynamicMetadata::default());
    let facts = facts(&head, &metadata);
    let not = |rule| Rule::Not(Box::new(rule));
    for (rule, expected) in [
        (Rule::Any, true),
        (not(Rule::Any), false),
        (not(not(Rule::Any)), true),
        (Rule::All(vec![Rule::Any, Rule::Any]), true),
        (Rule::All(vec![Rule::Any, not(Rule::Any)]), false),
        (Rule::AnyOf(vec![not(Rule::Any), Rule::Any]), true),
        (Rule::AnyOf(vec![not(Rule::Any)]), false),
        (header("x-a", HeaderCondition::Present(true)), true),
        (header("X-A", HeaderCondition::String(exact("1"))), true),
        (header("x-a", HeaderCondition::Range { start: 1, end: 2 }), true),
        (header("x-b", HeaderCondition::Present(true)), false),
        (header(":method", HeaderCondition::String(exact("GET"))), true),
        (header(":path", HeaderCondition::String(exact("/a/b?c=/d#e"))), true),
        (Rule::UrlPath(exact("/a/b")), true),
        (Rule::UrlPath(exact("/a/b?c=/d")), false),
        (Rule::UrlPath(string(StringPattern::Suffix("/d".into()))), false),
        (Rule::UrlPath(string(StringPattern::SafeRegex("/[a-b]/.".into()))), true),
        (Rule::DestinationIp(range("203.0.113.0/24")), true),
        (Rule::DestinationIp(range("192.0.2.0/24")), false),
        (Rule::DestinationPort(8443), true),
        (Rule::DestinationPort(443), false),
        (Rule::DestinationPortRange { start: 8443, end: 8444 }, true),
        (Rule::DestinationPortRange { start: 0, end: 8443 }, false),
        (Rule::DestinationPortRange { start: 8444, end: 65536 }, false),
        (Rule::RequestedServerName(exact("a.example")), true),
        (Rule::RequestedServerName(exact("")), false),
        (Rule::SourceIp(range("192.0.2.9/32")), true),
        (Rule::SourceIp(range("10.0.0.0/8")), false),
        (Rule::DirectRemoteIp(range("198.51.100.0/24")), true),
        (Rule::DirectRemoteIp(range("192.0.2.9/32")), false),
        (Rule::RemoteIp(range("10.0.0.0/8")), true),
        (Rule::RemoteIp(range("0.0.0.0/0")), true),
        (Rule::RemoteIp(range("::/0")), false),
        (Rule::RemoteIp(range("192.0.2.9/32")), false),
        (Rule::Authenticated(None), false),
        (Rule::Authenticated(Some(exact(""))), false),
    ] {
        assert_eq!(met(&rule, &facts), expected, "{rule:?}");
    }
}

#[test]
fn requests_without_path_or_addresses_meet_no_condition_on_them() {
    let (mut head, metadata) = (head("/"), DynamicMetadata::default());
    head.set_path(b"");
    let everything = string(StringPattern::SafeRegex(".*".into()));
    assert!(!met(&Rule::UrlPath(everything), &facts(&head, &metadata)), "a CONNECT");
    let nowhere =
        Facts { peer: None, direct_remote: None, remote: None, local: None, ..facts(&head, &metadata) };
    let all = range("0.0.0.0/0");
    for rule in [
        Rule::SourceIp(all),
        Rule::DirectRemoteIp(all),
        Rule::RemoteIp(all),
        Rule::DestinationIp(all),
        Rule::DestinationPortRange { start: 0, end: 65_536 },
    ] {
        assert!(!met(&rule, &nowhere), "{rule:?}");
    }
}

#[test]
fn authenticated_asks_uris_then_dns_names_then_the_subject() {
    let authority = Authority::new("ca");
    let named =
        authority.issue(Spec::dns("a.example").uri("spiffe://x/y").subject(&[("O", "Shop"), ("CN", "cart")]));
    let with = |peer| TlsFacts { peer, ..TlsFacts::default() };
    let shown = with(PeerIdentity::of(&[named.der()], false).map(Box::new));
    let anonymous = with(None);
    let (head, metadata) = (head("/"), DynamicMetadata::default());
    for (tls, name, expected) in [
        (&shown, None, true),
        (&shown, Some(exact("spiffe://x/y")), true),
        (&shown, Some(exact("a.example")), true),
        (&shown, Some(exact("CN=cart,O=Shop")), true),
        (&shown, Some(exact("cart")), false),
        (&shown, Some(exact("")), false),
        (&shown, Some(string(StringPattern::Prefix("spiffe://x/".into()))), true),
        // As in Envoy: TLS is enough where no name is asked, and nobody has the empty name.
        (&anonymous, None, true),
        (&anonymous, Some(exact("")), true),
        (&anonymous, Some(exact("spiffe://x/y")), false),
    ] {
        let rule = Rule::Authenticated(name);
        let facts = Facts { tls: Some(tls), ..facts(&head, &metadata) };
        assert_eq!(met(&rule, &facts), expected, "{rule:?}");
    }
}

#[test]
fn metadata_rules_read_what_filters_have_noted() {
    let (head, mut metadata) = (head("/"), DynamicMetadata::default());
    metadata.set("n", "text", MetadataValue::Text("allowed"));
    metadata.set("n", "flag", MetadataValue::Bool(false));
    let text = || ValueMatcher::String(string(StringPattern::Prefix("all".into())));
    for (namespace, path, value, expected) in [
        ("n", &["text"][..], text(), true),
        ("n", &["flag"], text(), false),
        ("m", &["text"], text(), false),
        ("n", &["text", "deeper"], text(), false),
        ("n", &["flag"], ValueMatcher::Bool(false), true),
        ("n", &["flag"], ValueMatcher::Bool(true), false),
        ("n", &["flag"], ValueMatcher::Present(true), true),
        ("n", &["flag"], ValueMatcher::Present(false), false),
        ("n", &["none"], ValueMatcher::Present(true), false),
        ("n", &["none"], ValueMatcher::Present(false), false),
        ("n", &["none"], ValueMatcher::Null, false),
        ("n", &["text"], ValueMatcher::Number(0.0), false),
        ("n", &["text"], ValueMatcher::AnyOf(vec![ValueMatcher::Bool(true), text()]), true),
        ("n", &["text"], ValueMatcher::OneOf(Box::new(text())), false),
    ] {
        for invert in [false, true] {
            let rule = Rule::Metadata(MetadataMatcher {
                filter: namespace.into(),
                path: path.iter().map(|key| Box::from(*key)).collect(),
                value: value.clone(),
                invert,
            });
            assert_eq!(met(&rule, &facts(&head, &metadata)), expected != invert, "{rule:?}");
        }
    }
}

#[test]
fn action_says_what_a_match_means_and_the_first_policy_by_name_counts() {
    let (head, metadata) = (head("/"), DynamicMetadata::default());
    let facts = facts(&head, &metadata);
    let matches = |name| policy(name, vec![Rule::Any], vec![Rule::Any]);
    let misses = |name| policy(name, vec![Rule::Any], vec![Rule::Not(Box::new(Rule::Any))]);
    let both = || vec![misses("a"), matches("b c\td"), matches("e")];
    let b = Some("b c\td");
    for (action, policies, allowed, name, hint) in [
        (Action::Allow, Vec::new(), false, None, None),
        (Action::Allow, vec![misses("a")], false, None, None),
        (Action::Allow, both(), true, b, None),
        (Action::Deny, Vec::new(), true, None, None),
        (Action::Deny, vec![misses("a")], true, None, None),
        (Action::Deny, both(), false, b, None),
        (Action::Log, Vec::new(), true, None, Some(false)),
        (Action::Log, both(), true, b, Some(true)),
        // A policy without a name is none, as in Envoy.
        (Action::Deny, vec![matches("")], false, None, None),
    ] {
        let engine = engine(action, policies);
        let Decision { allowed: found, policy, details, log_hint, .. } =
            engine.decide(&facts, &mut MatchScratch::default());
        assert_eq!((found, policy, log_hint), (allowed, name, hint), "{action:?}");
        let told = if name.is_some() { "b_c_d" } else { "none" };
        assert_eq!(details, format!("rbac_access_denied_matched_policy[{told}]"));
    }
}

#[test]
fn matcher_says_what_its_actions_say_and_denies_the_rest() {
    let (head, metadata) = (head("/"), DynamicMetadata::default());
    let facts = facts(&head, &metadata);
    let matcher = |input, key: &str, action, logs: bool| {
        let then = |name: &str, action| OnMatch {
            then: Then::Action(MatchedAction { name: name.into(), action }),
            keep_matching: false,
        };
        let mut map = vec![(key.into(), then("b c", action))];
        if logs {
            map.push(("other".into(), then("log", Action::Log)));
        }
        RuleSet::Matcher(Matcher { matches: Matches::Tree(input, Tree::Exact(map)), on_no_match: None })
    };
    let port = || Input::SourcePort;
    for (rules, allowed, policy, hint) in [
        (matcher(port(), "40000", Action::Allow, false), true, Some("b c"), None),
        (matcher(port(), "40000", Action::Deny, false), false, Some("b c"), None),
        (matcher(port(), "40000", Action::Log, false), true, Some("b c"), Some(true)),
        (matcher(port(), "40000", Action::Deny, true), false, Some("b c"), Some(false)),
        (matcher(port(), "1", Action::Allow, true), false, None, None),
        // The client, not the peer that a header names it for.
        (matcher(Input::SourceIp, "10.0.0.1", Action::Allow, false), true, Some("b c"), None),
        (matcher(Input::DirectSourceIp, "198.51.100.2", Action::Allow, false), true, Some("b c"), None),
        (matcher(Input::RequestHeader("x-a".into()), "1", Action::Allow, false), true, Some("b c"), None),
        // Without TLS nobody knows.
        (matcher(Input::UriSan, "", Action::Allow, false), false, None, None),
    ] {
        let engine = compiled(&rules);
        let Decision { allowed: found, policy: name, details, log_hint, .. } =
            engine.decide(&facts, &mut MatchScratch::default());
        assert_eq!((found, name, log_hint), (allowed, policy, hint), "{rules:?}");
        let told = if policy.is_some() { "b_c" } else { "none" };
        assert_eq!(details, format!("rbac_access_denied_matched_policy[{told}]"));
    }
}

/// A matcher that lets pass whoever meets this condition.
fn passing(predicate: Predicate) -> RuleSet {
    let then = Then::Action(MatchedAction { name: "a".into(), action: Action::Allow });
    let matches = Matches::List(vec![(predicate, OnMatch { then, keep_matching: false })]);
    RuleSet::Matcher(Matcher { matches, on_no_match: None })
}

#[test]
fn matcher_asks_what_filters_have_noted() {
    let (head, mut metadata) = (head("/"), DynamicMetadata::default());
    metadata.set("n", "result", MetadataValue::Text("allowed"));
    for (key, invert, allowed) in
        [("result", false, true), ("result", true, false), ("none", false, false), ("none", true, true)]
    {
        let rules = passing(Predicate::Metadata(MetadataMatcher {
            filter: "n".into(),
            path: vec![key.into()],
            value: ValueMatcher::String(exact("allowed")),
            invert,
        }));
        let (engine, scratch) = (compiled(&rules), &mut MatchScratch::default());
        assert_eq!(engine.decide(&facts(&head, &metadata), scratch).allowed, allowed, "{key} {invert}");
    }
}

#[test]
fn mistake_in_a_matcher_is_told_by_the_matchers_field() {
    let bad = || Some(passing(Predicate::Single(Input::RequestHeader("a b".into()), exact("a"))));
    let header = "matcher_list.matchers[0].predicate.single_predicate.input.header_name";
    for (rules, shadow_rules, field) in [(bad(), None, "matcher"), (None, bad(), "shadow_matcher")] {
        let config = NetworkConfig {
            rules,
            shadow_rules,
            stat_prefix: "net".into(),
            shadow_rules_stat_prefix: Box::default(),
            delay_deny: None,
        };
        let refused = NetworkRbac::compile(&config, &mut RegexSlots::default()).unwrap_err();
        assert_eq!(refused.path, format!("{field}.{header}"));
    }
}

#[test]
fn ipv4_through_a_listener_of_both_families_lies_in_ranges_of_ipv4() {
    let mapped = |last: u16| SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x200 + last], 1));
    let info = ConnectionInfo::new(mapped(9), mapped(5));
    let facts = Facts::of_connection(&info, None);
    for rule in [
        Rule::SourceIp(range("192.0.2.9/32")),
        Rule::DirectRemoteIp(range("192.0.2.9/32")),
        Rule::RemoteIp(range("192.0.2.9/32")),
        Rule::DestinationIp(range("192.0.2.5/32")),
    ] {
        assert!(met(&rule, &facts), "{rule:?}");
    }
    assert!(!met(&Rule::RemoteIp(range("::/0")), &facts));
}

#[test]
fn connection_is_decided_by_its_addresses_and_counted() {
    let remote: SocketAddr = ([192, 0, 2, 9], 40_000).into();
    let mut info = ConnectionInfo::new(remote, ([203, 0, 113, 5], 8443).into());
    info.direct_remote = SocketAddr::from(([198, 51, 100, 2], 1)).into();
    let rules = |rule| {
        let policies = vec![policy("p", vec![rule], vec![Rule::Any])];
        Some(RuleSet::Policies(Rules { action: Action::Allow, policies }))
    };
    let config = NetworkConfig {
        rules: rules(Rule::DirectRemoteIp(range("198.51.100.2/32"))),
        shadow_rules: rules(Rule::UrlPath(string(StringPattern::SafeRegex(".*".into())))),
        stat_prefix: "net".into(),
        shadow_rules_stat_prefix: "try".into(),
        delay_deny: None,
    };
    let filter = NetworkRbac::compile(&config, &mut RegexSlots::default()).unwrap();
    let registry = Registry::new(1);
    let scope = filter.scope(&registry);
    let counters = scope.cells(Slot::Worker(0));
    let (scratch, metadata) = (&mut MatchScratch::default(), &mut DynamicMetadata::default());
    let decision = filter.decide(&Facts::of_connection(&info, None), metadata, scratch, &counters);
    assert_eq!((decision.allowed, decision.policy), (true, Some("p")));
    info.direct_remote = SocketAddr::from(([198, 51, 100, 3], 1)).into();
    let decision = filter.decide(&Facts::of_connection(&info, None), metadata, scratch, &counters);
    assert_eq!((decision.allowed, decision.policy), (false, None));
    let shadow = metadata.value("envoy.filters.network.rbac", "tryshadow_engine_result");
    assert_eq!(shadow, Some(MetadataValue::Text("denied")));
    let counted: Vec<_> = registry
        .views()
        .iter()
        .filter(|view| view.prefix.starts_with("net."))
        .flat_map(|view| {
            let mut lines = Vec::new();
            for family in view.kind.families(1) {
                view.points(&family, |point| {
                    lines.push(format!("{} {}", view.name(&family, None), point.value))
                });
            }
            lines
        })
        .collect();
    assert_eq!(
        counted,
        [
            "net.rbac.allowed 1",
            "net.rbac.denied 1",
            "net.rbac.try.shadow_allowed 0",
            "net.rbac.try.shadow_denied 2"
        ]
    );
    let open =
        NetworkRbac::compile(&NetworkConfig { rules: None, ..config }, &mut RegexSlots::default()).unwrap();
    assert!(open.decide(&Facts::of_connection(&info, None), metadata, scratch, &counters).allowed);
}

#[test]
fn rules_of_connections_hear_what_their_shadow_rules_say_and_note_what_is_to_be_logged() {
    const NAMESPACE: &str = "envoy.filters.network.rbac";
    let info = ConnectionInfo::new(([192, 0, 2, 9], 1).into(), ([203, 0, 113, 5], 2).into());
    let rules = |action, rule| {
        let policies = vec![policy("p", vec![rule], vec![Rule::Any])];
        Some(RuleSet::Policies(Rules { action, policies }))
    };
    let heard = Rule::Metadata(MetadataMatcher {
        filter: NAMESPACE.into(),
        path: vec!["shadow_engine_result".into()],
        value: ValueMatcher::String(exact("allowed")),
        invert: false,
    });
    for (shadow, is_logged) in [(Rule::Any, true), (Rule::Not(Box::new(Rule::Any)), false)] {
        let config = NetworkConfig {
            rules: rules(Action::Log, heard.clone()),
            shadow_rules: rules(Action::Allow, shadow),
            stat_prefix: "net".into(),
            shadow_rules_stat_prefix: Box::default(),
            delay_deny: None,
        };
        let filter = NetworkRbac::compile(&config, &mut RegexSlots::default()).unwrap();
        let counters = filter.scope(&Registry::new(1)).cells(Slot::Worker(0));
        let (mut scratch, mut metadata) = (MatchScratch::default(), DynamicMetadata::default());
        let facts = Facts::of_connection(&info, None);
        assert!(filter.decide(&facts, &mut metadata, &mut scratch, &counters).allowed, "nothing is denied");
        let hint = metadata.value("envoy.common", "access_log_hint");
        assert_eq!(hint, Some(MetadataValue::Bool(is_logged)));
        let policy = metadata.value(NAMESPACE, "shadow_effective_policy_id");
        assert_eq!(policy, is_logged.then_some(MetadataValue::Text("p")));
    }
}
