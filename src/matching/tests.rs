//! Tables: each tree on its own, what goes on after what leads nowhere, what is not there.

use super::{Inputs, MatchTree, Outcome};
use crate::base::regex::RegexSlots;
use crate::config::address::CidrRange;
use crate::config::matcher::{MetadataMatcher, StringMatcher, StringPattern, ValueMatcher};
use crate::config::matching::{Domains, Input, IpRanges, Matcher, Matches, OnMatch, Predicate, Then, Tree};
use crate::protocol::connection_info::{ConnectionInfo, TransportProtocol};
use crate::protocol::dynamic_metadata::{DynamicMetadata, MetadataValue};
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::HeaderName;
use crate::protocol::http::matcher::MatchScratch;
use crate::protocol::tls::testing::{Authority, Spec};
use crate::protocol::tls::{PeerIdentity, TlsFacts};

type Config = Matcher<&'static str>;

fn action(name: &'static str) -> OnMatch<&'static str> {
    OnMatch { then: Then::Action(name), keep_matching: false }
}

fn nested(matcher: Config) -> OnMatch<&'static str> {
    OnMatch { then: Then::Matcher(Box::new(matcher)), keep_matching: false }
}

/// What leads nowhere.
fn nowhere() -> OnMatch<&'static str> {
    nested(Matcher { matches: Matches::Nothing, on_no_match: None })
}

fn tree(input: Input, tree: Tree<&'static str>) -> Config {
    Matcher { matches: Matches::Tree(input, tree), on_no_match: None }
}

fn map(entries: Vec<(&str, OnMatch<&'static str>)>) -> Vec<(Box<str>, OnMatch<&'static str>)> {
    entries.into_iter().map(|(key, on_match)| (key.into(), on_match)).collect()
}

fn range(text: &str) -> CidrRange {
    let (address, length) = text.split_once('/').unwrap();
    CidrRange::new(address.parse().unwrap(), length.parse().unwrap())
}

fn ranges(ranges: &[&str], on_match: OnMatch<&'static str>, exclusive: bool) -> IpRanges<&'static str> {
    IpRanges { ranges: ranges.iter().map(|text| range(text)).collect(), on_match, exclusive }
}

fn domains(domains: &[&str], on_match: OnMatch<&'static str>) -> Domains<&'static str> {
    Domains { domains: domains.iter().map(|name| Box::from(*name)).collect(), on_match }
}

fn single(input: Input, text: &str) -> Predicate {
    let pattern = StringPattern::Exact(text.into());
    Predicate::Single(input, StringMatcher { pattern, ignore_case: false })
}

fn list(entries: Vec<(Predicate, OnMatch<&'static str>)>) -> Config {
    Matcher { matches: Matches::List(entries), on_no_match: None }
}

fn or_else(matcher: Config, on_no_match: OnMatch<&'static str>) -> Config {
    Matcher { on_no_match: Some(on_no_match), ..matcher }
}

fn decide(config: &Config, inputs: &Inputs<'_>) -> Outcome<&'static str> {
    let compiled =
        MatchTree::compile(config, "matcher", &mut RegexSlots::default(), &mut |name| *name).unwrap();
    match compiled.decide(inputs, &mut MatchScratch::default()) {
        Outcome::Match(name) => Outcome::Match(*name),
        Outcome::NoMatch => Outcome::NoMatch,
        Outcome::Unknown => Outcome::Unknown,
    }
}

fn connection() -> ConnectionInfo {
    let mut info =
        ConnectionInfo::new("192.0.2.9:40000".parse().unwrap(), "203.0.113.5:8443".parse().unwrap());
    info.direct_remote = std::net::SocketAddr::from(([198, 51, 100, 2], 1)).into();
    info.server_name = Some("a.b.example.com".into());
    info.transport = TransportProtocol::Tls;
    info.application_protocols = vec![b"h2".as_slice().into(), b"http/1.1".as_slice().into()];
    info
}

fn on_connection(config: &Config) -> Outcome<&'static str> {
    decide(config, &Inputs::of_connection(&connection()))
}

fn met(predicate: Predicate, inputs: &Inputs<'_>) -> Outcome<&'static str> {
    decide(&list(vec![(predicate, action("met"))]), inputs)
}

#[test]
fn inputs_are_what_they_name() {
    let info = connection();
    let inputs = Inputs::of_connection(&info);
    for (input, text) in [
        (Input::DestinationIp, "203.0.113.5"),
        (Input::DestinationPort, "8443"),
        (Input::SourceIp, "192.0.2.9"),
        (Input::SourcePort, "40000"),
        (Input::DirectSourceIp, "198.51.100.2"),
        (Input::ServerName, "a.b.example.com"),
        (Input::TransportProtocol, "tls"),
        (Input::ApplicationProtocol, "'h2','http/1.1'"),
    ] {
        assert_eq!(met(single(input.clone(), text), &inputs), Outcome::Match("met"), "{input:?}");
        assert_eq!(met(single(input.clone(), ""), &inputs), Outcome::NoMatch, "{input:?}");
    }
    assert_eq!(met(single(Input::SourceType, "local"), &inputs), Outcome::NoMatch);
    let local =
        ConnectionInfo { remote: std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into(), ..connection() };
    assert_eq!(
        met(single(Input::SourceType, "local"), &Inputs::of_connection(&local)),
        Outcome::Match("met")
    );
    // What IPv6 holds of IPv4 is written as such, as inet_ntop does.
    for (address, text) in [
        ("[::1]:1", "::1"),
        ("[2001:db8::]:1", "2001:db8::"),
        ("[::1:2]:1", "::0.1.0.2"),
        ("[::1.2.3.4]:1", "::1.2.3.4"),
        ("[1::2:0:0:3]:1", "1::2:0:0:3"),
    ] {
        let inputs = Inputs { remote: Some(address.parse().unwrap()), ..inputs };
        assert_eq!(met(single(Input::SourceIp, text), &inputs), Outcome::Match("met"), "{text}");
    }
}

#[test]
fn what_is_not_there_meets_nothing_and_what_cannot_be_had_decides_nothing() {
    let plain = ConnectionInfo::new("192.0.2.9:1".parse().unwrap(), "192.0.2.8:2".parse().unwrap());
    let inputs = Inputs::of_connection(&plain);
    let not = |predicate| Predicate::Not(Box::new(predicate));
    let absent = || single(Input::ServerName, "a");
    let unknown = || single(Input::UriSan, "a");
    let there = || single(Input::SourceIp, "192.0.2.9");
    for (predicate, expected) in [
        (absent(), Outcome::NoMatch),
        (not(absent()), Outcome::Match("met")),
        (unknown(), Outcome::Unknown),
        (not(unknown()), Outcome::Unknown),
        (Predicate::AnyOf(vec![unknown(), there()]), Outcome::Match("met")),
        (Predicate::AnyOf(vec![unknown(), absent()]), Outcome::Unknown),
        (Predicate::All(vec![absent(), unknown()]), Outcome::NoMatch),
        (Predicate::All(vec![there(), unknown()]), Outcome::Unknown),
        (Predicate::All(vec![there(), there()]), Outcome::Match("met")),
        (Predicate::AnyOf(vec![absent(), absent()]), Outcome::NoMatch),
    ] {
        assert_eq!(met(predicate.clone(), &inputs), expected, "{predicate:?}");
    }
    let names = || Tree::ServerName(vec![domains(&["*"], action("any"))]);
    let absent = or_else(tree(Input::ServerName, names()), action("none"));
    assert_eq!(decide(&absent, &inputs), Outcome::Match("none"));
    let unknown = or_else(tree(Input::DnsSan, names()), action("none"));
    assert_eq!(decide(&unknown, &inputs), Outcome::Unknown);
}

#[test]
fn address_is_met_by_the_ranges_that_it_lies_in() {
    let of =
        |input, texts: &[&str]| Predicate::Address(input, texts.iter().map(|text| range(text)).collect());
    for (predicate, expected) in [
        (of(Input::SourceIp, &["192.0.2.0/24"]), Outcome::Match("met")),
        (of(Input::SourceIp, &["10.0.0.0/8", "192.0.2.9/32"]), Outcome::Match("met")),
        (of(Input::SourceIp, &["192.0.2.8/32", "::/0"]), Outcome::NoMatch),
        (of(Input::DirectSourceIp, &["198.51.100.0/24"]), Outcome::Match("met")),
        (of(Input::DestinationIp, &["0.0.0.0/0"]), Outcome::Match("met")),
        // A text that is no address, one that is not there, one that cannot be had.
        (of(Input::ServerName, &["0.0.0.0/0", "::/0"]), Outcome::NoMatch),
        (of(Input::RequestHeader("x-client".into()), &["0.0.0.0/0"]), Outcome::Unknown),
        (of(Input::DnsSan, &["0.0.0.0/0"]), Outcome::Unknown),
    ] {
        let info = connection();
        assert_eq!(met(predicate.clone(), &Inputs::of_connection(&info)), expected, "{predicate:?}");
    }
    let not = Predicate::Not(Box::new(of(Input::SourceIp, &["192.0.2.0/24"])));
    assert_eq!(met(not, &Inputs::of_connection(&connection())), Outcome::NoMatch);
    let mut head = Head::new();
    head.append(&HeaderName::parse(b"x-client").unwrap(), b"2001:db8::7");
    let from = connection();
    let request = Inputs { request: Some(&head), ..Inputs::of_connection(&from) };
    let by_header = |text| of(Input::RequestHeader("x-client".into()), &[text]);
    assert_eq!(met(by_header("2001:db8::/32"), &request), Outcome::Match("met"));
    assert_eq!(met(by_header("192.0.2.0/24"), &request), Outcome::NoMatch);
}

#[test]
fn exact_map_takes_the_whole_text() {
    let port = |key, on_match| {
        tree(Input::DestinationPort, Tree::Exact(map(vec![("1", action("no")), (key, on_match)])))
    };
    assert_eq!(on_connection(&port("8443", action("yes"))), Outcome::Match("yes"));
    assert_eq!(on_connection(&port("844", action("yes"))), Outcome::NoMatch);
    assert_eq!(on_connection(&or_else(port("8443", nowhere()), action("else"))), Outcome::Match("else"));
}

#[test]
fn prefix_map_goes_from_the_longest_to_shorter_ones() {
    const KEYS: [&str; 7] = ["", "a", "a.b", "a.b.e", "a.b.f", "a.bb", "b"];
    let with = |dead: &'static [&'static str]| {
        let entry = |key: &&'static str| (*key, if dead.contains(key) { nowhere() } else { action(key) });
        or_else(tree(Input::ServerName, Tree::Prefix(map(KEYS.iter().map(entry).collect()))), action("else"))
    };
    assert_eq!(on_connection(&with(&[])), Outcome::Match("a.b.e"));
    assert_eq!(on_connection(&with(&["a.b.e"])), Outcome::Match("a.b"));
    assert_eq!(on_connection(&with(&["a.b.e", "a.b"])), Outcome::Match("a"));
    assert_eq!(on_connection(&with(&["a.b.e", "a.b", "a"])), Outcome::Match(""));
    assert_eq!(on_connection(&with(&KEYS)), Outcome::Match("else"));
}

#[test]
fn smallest_range_goes_first_and_exclusive_ones_only_alone() {
    let of = |ranges| or_else(tree(Input::SourceIp, Tree::Ip(ranges)), action("else"));
    assert_eq!(
        on_connection(&of(vec![
            ranges(&["0.0.0.0/0", "::/0"], action("all"), false),
            ranges(&["192.0.2.0/24", "10.0.0.0/8"], action("net"), false),
            ranges(&["192.0.2.9/32"], nowhere(), false),
            ranges(&["192.0.2.8/32"], action("other"), false),
        ])),
        Outcome::Match("net")
    );
    assert_eq!(
        on_connection(&of(vec![
            ranges(&["0.0.0.0/0"], action("all"), false),
            ranges(&["192.0.2.0/24"], action("net"), true),
            ranges(&["192.0.2.9/32"], nowhere(), true),
        ])),
        Outcome::Match("all")
    );
    // Of equal ones the first that leads somewhere; one that led nowhere is not tried again.
    assert_eq!(
        on_connection(&of(vec![
            ranges(&["192.0.2.0/24", "192.0.0.0/16", "0.0.0.0/0"], nowhere(), false),
            ranges(&["192.0.2.0/24"], action("second"), false),
            ranges(&["192.0.2.0/24"], action("third"), false),
        ])),
        Outcome::Match("second")
    );
    assert_eq!(on_connection(&of(vec![ranges(&["::/0"], action("v6"), false)])), Outcome::Match("else"));
    assert_eq!(on_connection(&of(Vec::new())), Outcome::Match("else"));
    // Of a text that is no address there are no ranges.
    let name = tree(Input::ServerName, Tree::Ip(vec![ranges(&["0.0.0.0/0"], action("all"), false)]));
    assert_eq!(on_connection(&name), Outcome::NoMatch);
    let named = ConnectionInfo { server_name: Some("10.1.2.3".into()), ..connection() };
    assert_eq!(decide(&name, &Inputs::of_connection(&named)), Outcome::Match("all"));
}

#[test]
fn whole_names_go_before_wildcards_and_longer_wildcards_before_shorter() {
    let of = |name: &str, dead: &'static [&'static str]| {
        let entry = |names: &[&'static str]| {
            domains(names, if dead.contains(&names[0]) { nowhere() } else { action(names[0]) })
        };
        let names = Tree::ServerName(vec![
            entry(&["a.example.com"]),
            entry(&["*.example.com"]),
            entry(&["*.com", "*.a.example.com"]),
            entry(&["*"]),
        ]);
        let info = ConnectionInfo { server_name: Some(name.into()), ..connection() };
        decide(&or_else(tree(Input::ServerName, names), action("else")), &Inputs::of_connection(&info))
    };
    for (name, expected) in [
        ("a.example.com", "a.example.com"),
        ("b.example.com", "*.example.com"),
        (".example.com", "*.example.com"),
        ("x.a.example.com", "*.com"),
        ("example.com", "*.com"),
        ("com", "*"),
        ("a.", "*"),
        ("A.example.com", "*.example.com"),
    ] {
        assert_eq!(of(name, &[]), Outcome::Match(expected), "{name}");
    }
    assert_eq!(of("a.example.com", &["a.example.com"]), Outcome::Match("*.example.com"));
    assert_eq!(of("x.a.example.com", &["*.com"]), Outcome::Match("*.example.com"));
    assert_eq!(of("a.example.com", &["a.example.com", "*.example.com", "*.com"]), Outcome::Match("*"));
    assert_eq!(of("com", &["*"]), Outcome::Match("else"));
}

#[test]
fn list_goes_on_after_what_leads_nowhere_or_keeps_matching() {
    let yes = || single(Input::SourcePort, "40000");
    let kept = OnMatch { keep_matching: true, ..action("kept") };
    let kept_nested = OnMatch { keep_matching: true, ..nested(list(vec![(yes(), action("inner"))])) };
    let entries = vec![
        (single(Input::SourcePort, "1"), action("no")),
        (yes(), nowhere()),
        (yes(), kept.clone()),
        (yes(), kept_nested),
        (yes(), action("yes")),
    ];
    assert_eq!(on_connection(&list(entries.clone())), Outcome::Match("yes"));
    let without = or_else(list(entries[..4].to_vec()), action("else"));
    assert_eq!(on_connection(&without), Outcome::Match("else"));
    assert_eq!(on_connection(&or_else(without, kept)), Outcome::NoMatch);
    // Without anything to match `on_no_match` counts.
    let nothing = Matcher { matches: Matches::Nothing, on_no_match: Some(action("always")) };
    assert_eq!(on_connection(&nothing), Outcome::Match("always"));
}

#[test]
fn names_in_common_are_asked_once_however_deep() {
    // 24 levels of a matcher that three ranges lead to: asked for each they would be asked 3^24 times.
    let mut matcher = list(vec![(single(Input::SourcePort, "1"), action("no"))]);
    for level in 0..24 {
        let tree_of = if level % 2 == 0 {
            Tree::Ip(vec![ranges(&["192.0.2.9/32", "192.0.2.0/24", "0.0.0.0/0"], nested(matcher), false)])
        } else {
            Tree::ServerName(vec![domains(&["a.b.example.com", "*.com", "*"], nested(matcher))])
        };
        matcher = tree(if level % 2 == 0 { Input::SourceIp } else { Input::ServerName }, tree_of);
    }
    assert_eq!(on_connection(&matcher), Outcome::NoMatch);
}

#[test]
fn headers_and_certificates_are_texts() {
    let mut head = Head::new();
    head.set_method(b"GET");
    head.set_path(b"/p");
    for (name, value) in [("x-a", "1"), ("x-b", "2"), ("x-b", "3")] {
        head.append(&HeaderName::parse(name.as_bytes()).unwrap(), value.as_bytes());
    }
    let authority = Authority::new("ca");
    let named =
        authority.issue(Spec::dns("a.example").uri("spiffe://x/y").subject(&[("O", "Shop"), ("CN", "cart")]));
    let tls = TlsFacts { peer: PeerIdentity::of(&[named.der()], false).map(Box::new), ..TlsFacts::default() };
    let inputs = Inputs {
        remote: None,
        direct_remote: None,
        local: None,
        server_name: "",
        connection: None,
        tls: Some(&tls),
        request: Some(&head),
        metadata: None,
    };
    let header = |name: &str| Input::RequestHeader(name.into());
    for (input, text) in [
        (header("X-A"), "1"),
        (header("x-b"), "2,3"),
        (header(":path"), "/p"),
        (header(":method"), "GET"),
        (Input::UriSan, "spiffe://x/y"),
        (Input::Subject, "CN=cart,O=Shop"),
    ] {
        assert_eq!(met(single(input.clone(), text), &inputs), Outcome::Match("met"), "{input:?}");
    }
    for input in [header("x-c"), Input::SourceIp, Input::DestinationPort] {
        assert_eq!(met(single(input.clone(), ""), &inputs), Outcome::NoMatch, "{input:?}");
    }
    let anonymous = Inputs { tls: Some(&TlsFacts::default()), ..inputs };
    for input in [Input::UriSan, Input::DnsSan, Input::Subject] {
        assert_eq!(met(single(input.clone(), ""), &anonymous), Outcome::NoMatch, "{input:?}");
    }
    let bad = list(vec![(single(header("a b"), ""), action("x"))]);
    let refused = MatchTree::compile(&bad, "matcher", &mut RegexSlots::default(), &mut |name| *name);
    assert_eq!(
        refused.unwrap_err().path,
        "matcher.matcher_list.matchers[0].predicate.single_predicate.input.header_name"
    );
}

#[test]
fn metadata_is_asked_by_its_place_and_what_is_not_there_meets_nothing() {
    let info = connection();
    let mut noted = DynamicMetadata::default();
    noted.set("n", "text", MetadataValue::Text("a.b"));
    noted.set("n", "flag", MetadataValue::Bool(true));
    let inputs = Inputs { metadata: Some(&noted), ..Inputs::of_connection(&info) };
    let text = || {
        let pattern = StringPattern::SafeRegex("a.+".into());
        ValueMatcher::String(StringMatcher { pattern, ignore_case: false })
    };
    let condition = |filter: &str, path: &[&str], value: &ValueMatcher, invert| {
        let path = path.iter().map(|key| Box::from(*key)).collect();
        Predicate::Metadata(MetadataMatcher { filter: filter.into(), path, value: value.clone(), invert })
    };
    for (filter, path, value, expected) in [
        ("n", &["text"][..], text(), true),
        ("n", &["flag"], text(), false),
        ("n", &["flag"], ValueMatcher::Bool(true), true),
        ("n", &["flag"], ValueMatcher::Bool(false), false),
        ("n", &["flag"], ValueMatcher::AnyOf(vec![text(), ValueMatcher::Bool(true)]), true),
        ("n", &["text"], ValueMatcher::OneOf(Box::new(text())), false),
        ("n", &["text", "deeper"], text(), false),
        ("n", &["none"], ValueMatcher::Present(true), false),
        ("m", &["text"], ValueMatcher::Present(true), false),
    ] {
        for invert in [false, true] {
            let predicate = condition(filter, path, &value, invert);
            let outcome = if expected == invert { Outcome::NoMatch } else { Outcome::Match("met") };
            assert_eq!(met(predicate, &inputs), outcome, "{filter} {path:?} {value:?} {invert}");
        }
    }
    // Nobody has noted anything.
    let present = condition("n", &["text"], &ValueMatcher::Present(true), false);
    assert_eq!(met(present, &Inputs::of_connection(&info)), Outcome::NoMatch);
    let pattern = StringPattern::SafeRegex("(".into());
    let bad = ValueMatcher::String(StringMatcher { pattern, ignore_case: false });
    let bad = list(vec![(condition("n", &["text"], &bad, false), action("x"))]);
    let refused = MatchTree::compile(&bad, "matcher", &mut RegexSlots::default(), &mut |name| *name);
    let value = "matcher.matcher_list.matchers[0].predicate.single_predicate.custom_match.value";
    assert_eq!(refused.unwrap_err().path, format!("{value}.string_match.safe_regex.regex"));
}
