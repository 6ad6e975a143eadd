//! Invariants of routing: the index finds what trying every route in order finds, a scope is that of the header cut by hand,
//! and nothing a request holds makes matching, sanitising, rewriting or redirecting panic.

use std::sync::Arc;

use crate::base::rng::Rng;
use crate::config::http::{PathWithEscapedSlashesAction, StripPort};
use crate::config::matcher::{HeaderCondition, HeaderMatcher, RegexRewrite, StringMatcher, StringPattern};
use crate::config::route as config;
use crate::config::scoped_routes::{Element, FragmentBuilder, Scope, ScopedRoutes};
use crate::protocol::http::head::Head;
use crate::protocol::http::headers::HeaderName;
use crate::protocol::http::host;
use crate::protocol::http::path::{PathSettings, PathVerdict, sanitize};
use crate::route::{Action, CompileContext, Outcome, RouteScratch, RouteTable, ScopeTable, TimeoutOptions};

/// Eight bytes of seed for a table, then lines: host, path, `name: value`...
pub fn route_match(input: &[u8]) {
    let Some((seed, text)) = input.split_first_chunk() else { return };
    let mut rng = Rng::from_seed(u64::from_le_bytes(*seed));
    let mut head = head_of(text);
    scoped(&head, &mut Rng::from_seed(u64::from_le_bytes(*seed)));
    let config = table(&mut rng, head.path());
    let context = CompileContext { cluster_exists: &|_| true, hash_seed: rng.next_u64(), regexes: None };
    // Expressions and formats here are fixed; only a domain drawn twice is refused.
    let (Ok(indexed), Ok(in_order)) =
        (RouteTable::compile(&config, &context), RouteTable::compile(&config, &context))
    else {
        return;
    };
    let in_order = in_order.without_index();
    let (random, mut scratch) = (rng.next_u64(), RouteScratch::default());
    let found = indexed.find_route(&head, random, &mut scratch);
    let expected = in_order.find_route(&head, random, &mut RouteScratch::default());
    assert_eq!(named(found), named(expected));

    if let Outcome::Route(_, route) = found {
        match &route.action {
            Action::Forward(forward) => {
                let _ = forward.choose_cluster(&head, random).name(&head);
                let _ = forward.timeouts(&mut head, TimeoutOptions::default());
                route.rewrite(forward, &mut head, true, &mut scratch);
            }
            Action::Redirect(redirect) => {
                let mut location = Vec::new();
                route.redirect(redirect, &mut head, true, &mut scratch, &mut location);
                assert!(location.windows(3).any(|part| part == b"://"));
            }
            Action::DirectResponse(_) | Action::NonForwarding => {}
        }
    }
    sanitized(&mut head, &mut rng);
}

fn sanitized(head: &mut Head, rng: &mut Rng) {
    let settings = PathSettings {
        escaped_slashes: PathWithEscapedSlashesAction::UnescapeAndForward,
        normalize: rng.below(2) == 0,
        merge_slashes: rng.below(2) == 0,
    };
    let (mut scratch, mut out) = (Vec::new(), Vec::new());
    if sanitize(head.path(), settings, &mut scratch, &mut out) == PathVerdict::Changed {
        assert_eq!(out.first(), Some(&b'/'));
    }
    let before = head.authority().len();
    host::strip(head, true, StripPort::Any, None, &mut scratch);
    assert!(head.authority().len() <= before);
}

/// The fragment of a key, and so the scope, is what cutting the header piece by piece comes to.
fn scoped(head: &Head, rng: &mut Rng) {
    let separator = [",", "", "::"][rng.below(3) as usize];
    let (place, is_place) = (rng.below(4) as usize, rng.below(2) == 0);
    let expected = HeaderName::parse(b"x").and_then(|name| head.get(&name)).and_then(|value| {
        let mut elements = pieces(value, separator.as_bytes()).into_iter();
        if is_place {
            return elements.nth(place);
        }
        let element = elements.find(|element| pieces(element, b"=")[0] == b"a")?;
        Some(element.get(2..).unwrap_or_default())
    });
    let key = expected.and_then(|fragment| std::str::from_utf8(fragment).ok()).unwrap_or("other");
    let element = if is_place {
        Element::At(place as u32)
    } else {
        Element::Of { key: "a".into(), separator: "=".into() }
    };
    let fragment = FragmentBuilder { header: "x".into(), element_separator: separator.into(), element };
    let scope = Scope { key: vec![key.into()], route_config: Arc::default() };
    let config = ScopedRoutes { fragments: vec![fragment], scopes: vec![scope], told: None };
    let seed = rng.next_u64();
    let Ok(table) = ScopeTable::compile(&config, &[0], seed) else { unreachable!("x is a header") };
    let is_in_it = expected == Some(key.as_bytes());
    assert_eq!(table.find(head, &mut Vec::new()), is_in_it.then_some(0));
}

/// What stands between the separators; an empty one separates nothing.
fn pieces<'v>(value: &'v [u8], separator: &[u8]) -> Vec<&'v [u8]> {
    let (mut all, mut start, mut at) = (Vec::new(), 0, 0);
    while !separator.is_empty() && at + separator.len() <= value.len() {
        if value[at..].starts_with(separator) {
            all.push(&value[start..at]);
            at += separator.len();
            start = at;
        } else {
            at += 1;
        }
    }
    all.push(&value[start..]);
    all
}

fn named<'t>(outcome: Outcome<'t>) -> (Option<&'t str>, Option<&'t str>) {
    match outcome {
        Outcome::NoRoute(virtual_host) => (virtual_host.map(|it| &*it.name), None),
        Outcome::TlsRedirect(virtual_host) => (Some(&virtual_host.name), Some("tls")),
        Outcome::Route(virtual_host, route) => (Some(&virtual_host.name), Some(&route.name)),
    }
}

fn head_of(text: &[u8]) -> Head {
    let mut lines = text.split(|&byte| byte == b'\n');
    let mut head = Head::new();
    head.set_authority(lines.next().unwrap_or_default());
    head.set_path(lines.next().unwrap_or_default());
    head.set_method(if head.path().is_empty() { b"CONNECT" } else { b"GET" });
    head.set_scheme(b"http");
    for line in lines {
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        if let Some(name) = HeaderName::parse(&line[..colon]).filter(|name| !name.is_pseudo()) {
            head.append(&name, line.get(colon + 1..).unwrap_or_default().trim_ascii());
        }
    }
    head
}

fn table(rng: &mut Rng, path: &[u8]) -> config::RouteConfiguration {
    let domains = ["*", "a.*", "*.b", "a.b", "*-x.b", "a.b.*"];
    let virtual_hosts = domains.iter().map(|&domain| config::VirtualHost {
        name: domain.into(),
        domains: vec![domain.into()],
        routes: (0..rng.below(40)).map(|index| route(rng, index, path)).collect(),
        ..config::VirtualHost::default()
    });
    config::RouteConfiguration {
        virtual_hosts: virtual_hosts.collect(),
        ignore_port_in_host_matching: rng.below(2) == 0,
        ignore_path_parameters_in_path_matching: rng.below(2) == 0,
        ..config::RouteConfiguration::default()
    }
}

fn route(rng: &mut Rng, index: u64, path: &[u8]) -> config::Route {
    // Mostly the beginning of the request's own path, so that much matches.
    let cut = rng.below(path.len() as u64 + 1) as usize;
    let mut text = String::from_utf8_lossy(&path[..cut]).into_owned();
    if rng.below(4) == 0 {
        text.push('/');
    }
    let text: Box<str> = text.into();
    let path = match rng.below(10) {
        0..4 => config::PathMatch::Prefix(text),
        4..6 => config::PathMatch::Path(text),
        6..8 => config::PathMatch::PathSeparatedPrefix(text),
        8 => config::PathMatch::SafeRegex("/[^/]*(/.*)?".into()),
        _ => config::PathMatch::Connect,
    };
    let pattern = StringPattern::Contains("a".into());
    let header = HeaderMatcher {
        name: "x".into(),
        condition: HeaderCondition::String(StringMatcher { pattern, ignore_case: rng.below(2) == 0 }),
        invert_match: rng.below(2) == 0,
        treat_missing_header_as_empty: rng.below(2) == 0,
    };
    config::Route {
        name: index.to_string().into(),
        matcher: config::RouteMatch {
            path,
            case_sensitive: rng.below(4) > 0,
            headers: if rng.below(2) == 0 { vec![header] } else { Vec::new() },
            ..config::RouteMatch::default()
        },
        action: action(rng),
        header_mutations: config::HeaderMutations::default(),
        filters: Vec::new(),
    }
}

fn action(rng: &mut Rng) -> config::Action {
    let rewrite = RegexRewrite { regex: "(.?)/".into(), substitution: r"\1\0".into() };
    if rng.below(3) == 0 {
        let path = match rng.below(3) {
            0 => config::RedirectPathRewrite::Prefix("/n".into()),
            1 => config::RedirectPathRewrite::Regex(rewrite),
            _ => config::RedirectPathRewrite::Path("n".into()),
        };
        let scheme = config::SchemeRedirect::Https;
        return config::Action::Redirect(Box::new(config::RedirectAction {
            path,
            scheme,
            ..Default::default()
        }));
    }
    let mut forward = config::RouteAction::to(config::ClusterSpecifier::Cluster("c".into()));
    forward.append_x_forwarded_host = true;
    forward.host_rewrite = match rng.below(3) {
        0 => config::HostRewrite::Header("x".into()),
        1 => config::HostRewrite::PathRegex(rewrite.clone()),
        _ => config::HostRewrite::None,
    };
    forward.path_rewrite = match rng.below(3) {
        0 => config::PathRewrite::Prefix("/n".into()),
        1 => config::PathRewrite::Regex(rewrite),
        _ => config::PathRewrite::None,
    };
    config::Action::Forward(Box::new(forward))
}
