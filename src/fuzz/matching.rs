//! Invariants of matchers: what is compiled says what the configuration says, tried entry by entry in the order in which
//! Envoy tries them.

use std::net::{IpAddr, SocketAddr};

use crate::base::regex::RegexSlots;
use crate::base::rng::Rng;
use crate::config::address::CidrRange;
use crate::config::matcher::{StringMatcher, StringPattern};
use crate::config::matching::{Domains, Input, IpRanges, Matcher, Matches, OnMatch, Predicate, Then, Tree};
use crate::matching::{Inputs, MatchTree, Outcome};
use crate::protocol::connection_info::ConnectionInfo;
use crate::protocol::http::matcher::MatchScratch;

/// Matchers within one another.
const DEPTH_MAX: u64 = 4;
/// Of names and of what they begin and end with.
const LABELS: [&str; 4] = ["a", "b", "ab", ""];

/// Eight bytes of seed for a matcher, two addresses of four bytes, then the server's name.
pub fn matcher(input: &[u8]) {
    let Some((seed, rest)) = input.split_first_chunk() else { return };
    let mut rng = Rng::from_seed(u64::from_le_bytes(*seed));
    let config = draw(&mut rng, DEPTH_MAX);
    let address = |rest: &[u8]| {
        // Of a small universe, so that ranges meet.
        let byte = |at: usize| rest.get(at).copied().unwrap_or_default();
        SocketAddr::from(([10, byte(0) & 3, byte(1) & 3, byte(2) & 3], 1 + u16::from(byte(3) & 3)))
    };
    let (remote, local) = (address(rest), address(rest.get(4..).unwrap_or_default()));
    let name = String::from_utf8_lossy(rest.get(8..).unwrap_or_default());
    let info = ConnectionInfo {
        server_name: (!name.is_empty()).then(|| (&*name).into()),
        ..ConnectionInfo::new(remote, local)
    };
    let mut slots = RegexSlots::default();
    // There are neither headers nor expressions.
    let Ok(tree) = MatchTree::compile(&config, "", &mut slots, &mut |action: &u64| *action) else {
        panic!("{config:?}")
    };
    let inputs = Inputs::of_connection(&info);
    let found = match tree.decide(&inputs, &mut MatchScratch::default()) {
        Outcome::Match(action) => Outcome::Match(*action),
        Outcome::NoMatch => Outcome::NoMatch,
        Outcome::Unknown => Outcome::Unknown,
    };
    assert_eq!(found, expected(&config, &info), "{config:?} {info:?}");
}

// === As Envoy tries it ===

fn expected(matcher: &Matcher<u64>, info: &ConnectionInfo) -> Outcome<u64> {
    let mut candidates: Vec<&OnMatch<u64>> = Vec::new();
    match &matcher.matches {
        Matches::Nothing => {}
        Matches::List(list) => {
            for (predicate, on_match) in list {
                let Some(is_met) = is_met(predicate, info) else { return Outcome::Unknown };
                if is_met {
                    match follow(on_match, info) {
                        Outcome::NoMatch => {}
                        decided => return decided,
                    }
                }
            }
        }
        Matches::Tree(input, tree) => {
            let text = match text(input, info) {
                Err(Unavailable) => return Outcome::Unknown,
                Ok(text) => text,
            };
            if let Some(text) = text {
                candidates = fitting(tree, &text);
            }
        }
    }
    candidates.extend(&matcher.on_no_match);
    let mut outcomes = candidates.into_iter().map(|on_match| follow(on_match, info));
    outcomes.find(|outcome| *outcome != Outcome::NoMatch).unwrap_or(Outcome::NoMatch)
}

fn follow(on_match: &OnMatch<u64>, info: &ConnectionInfo) -> Outcome<u64> {
    let found = match &on_match.then {
        Then::Matcher(matcher) => expected(matcher, info),
        Then::Action(action) => Outcome::Match(*action),
    };
    if on_match.keep_matching && matches!(found, Outcome::Match(_)) { Outcome::NoMatch } else { found }
}

fn fitting<'t>(tree: &'t Tree<u64>, text: &str) -> Vec<&'t OnMatch<u64>> {
    match tree {
        Tree::Exact(map) => {
            map.iter().filter(|(key, _)| **key == *text).map(|(_, on_match)| on_match).collect()
        }
        Tree::Prefix(map) => {
            let mut found: Vec<_> = map.iter().filter(|(key, _)| text.starts_with(&**key)).collect();
            found.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
            found.into_iter().map(|(_, on_match)| on_match).collect()
        }
        Tree::Ip(matchers) => {
            let Ok(address) = text.parse::<IpAddr>() else { return Vec::new() };
            let mut found: Vec<_> = matchers
                .iter()
                .flat_map(|matcher| matcher.ranges.iter().map(move |range| (range, matcher)))
                .filter(|(range, _)| range.contains(address))
                .collect();
            found.sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix_len()));
            let found = found.into_iter().enumerate();
            found
                .filter(|(index, (_, matcher))| *index == 0 || !matcher.exclusive)
                .map(|(_, (_, it))| &it.on_match)
                .collect()
        }
        Tree::ServerName(_) if text.is_empty() => Vec::new(),
        Tree::ServerName(matchers) => {
            let of = |name: &str| {
                let has = |matcher: &&Domains<u64>| matcher.domains.iter().any(|domain| **domain == *name);
                matchers.iter().find(has).map(|matcher| &matcher.on_match)
            };
            let dots = text.match_indices('.').filter_map(|(at, _)| of(&format!("*{}", &text[at..])));
            of(text).into_iter().chain(dots).chain(of("*")).collect()
        }
    }
}

/// An input is not to be had.
struct Unavailable;

fn text(input: &Input, info: &ConnectionInfo) -> Result<Option<String>, Unavailable> {
    Ok(match input {
        Input::SourceIp => info.remote.ip().map(|ip| ip.to_string()),
        Input::DestinationIp => info.local.ip().map(|ip| ip.to_string()),
        Input::SourcePort => info.remote.port().map(|port| port.to_string()),
        Input::DestinationPort => info.local.port().map(|port| port.to_string()),
        Input::ServerName => info.server_name.as_deref().map(str::to_owned),
        Input::UriSan => return Err(Unavailable),
        _ => None,
    })
}

fn is_met(predicate: &Predicate, info: &ConnectionInfo) -> Option<bool> {
    match predicate {
        Predicate::Single(input, matcher) => {
            let Some(text) = text(input, info).ok()? else { return Some(false) };
            Some(match &matcher.pattern {
                StringPattern::Exact(wanted) => text == **wanted,
                StringPattern::Prefix(wanted) => text.starts_with(&**wanted),
                StringPattern::Suffix(wanted) => text.ends_with(&**wanted),
                StringPattern::Contains(wanted) => text.contains(&**wanted),
                StringPattern::SafeRegex(_) => false,
            })
        }
        Predicate::Address(input, ranges) => {
            let address = text(input, info).ok()?.and_then(|text| text.parse::<IpAddr>().ok());
            Some(address.is_some_and(|address| ranges.iter().any(|range| range.contains(address))))
        }
        // Of a connection nothing is noted yet.
        Predicate::Metadata(matcher) => Some(matcher.invert),
        Predicate::AnyOf(list) => {
            let met: Vec<_> = list.iter().map(|predicate| is_met(predicate, info)).collect();
            if met.contains(&Some(true)) {
                Some(true)
            } else {
                met.into_iter().all(|it| it.is_some()).then_some(false)
            }
        }
        Predicate::All(list) => {
            let mut met = list.iter().map(|predicate| is_met(predicate, info));
            met.find(|it| *it != Some(true)).unwrap_or(Some(true))
        }
        Predicate::Not(predicate) => is_met(predicate, info).map(|met| !met),
    }
}

// === Drawn ===

fn draw(rng: &mut Rng, depth: u64) -> Matcher<u64> {
    let matches = match rng.below(8) {
        0 => Matches::Nothing,
        1..3 => Matches::List((0..rng.below(4)).map(|_| (predicate(rng, 2), on_match(rng, depth))).collect()),
        _ => {
            let input = input(rng);
            Matches::Tree(input, tree(rng, depth))
        }
    };
    let on_no_match = (rng.below(3) == 0).then(|| on_match(rng, depth));
    Matcher { matches, on_no_match }
}

fn on_match(rng: &mut Rng, depth: u64) -> OnMatch<u64> {
    let then = if depth > 0 && rng.below(2) == 0 {
        Then::Matcher(Box::new(draw(rng, depth - 1)))
    } else {
        Then::Action(rng.below(1000))
    };
    OnMatch { then, keep_matching: rng.below(6) == 0 }
}

fn input(rng: &mut Rng) -> Input {
    match rng.below(16) {
        0 => Input::UriSan,
        1 => Input::ApplicationProtocol,
        2 => Input::DestinationPort,
        3 => Input::SourcePort,
        4..7 => Input::DestinationIp,
        7..11 => Input::SourceIp,
        _ => Input::ServerName,
    }
}

fn tree(rng: &mut Rng, depth: u64) -> Tree<u64> {
    match rng.below(4) {
        kind @ 0..2 => {
            let mut keys: Vec<Box<str>> = (0..1 + rng.below(6)).map(|_| text_of(rng)).collect();
            keys.sort();
            keys.dedup();
            let map = keys.into_iter().map(|key| (key, on_match(rng, depth))).collect();
            if kind == 0 { Tree::Exact(map) } else { Tree::Prefix(map) }
        }
        2 => Tree::Ip((0..rng.below(5)).map(|_| ranges(rng, depth)).collect()),
        _ => {
            let mut names: Vec<Box<str>> = (0..1 + rng.below(8)).map(|_| domain(rng)).collect();
            names.sort();
            names.dedup();
            let groups = names
                .chunks(2)
                .map(|names| Domains { domains: names.to_vec(), on_match: on_match(rng, depth) });
            Tree::ServerName(groups.collect())
        }
    }
}

fn range(rng: &mut Rng) -> CidrRange {
    let lengths = [0, 8, 14, 15, 16, 22, 24, 30, 31, 32];
    let mut part = || (rng.below(4)) as u8;
    let address = IpAddr::from([10, part(), part(), part()]);
    CidrRange::new(address, lengths[rng.below(lengths.len() as u64) as usize])
}

fn ranges(rng: &mut Rng, depth: u64) -> IpRanges<u64> {
    let ranges = (0..4).map(|_| range(rng)).collect();
    IpRanges { ranges, on_match: on_match(rng, depth), exclusive: rng.below(3) == 0 }
}

fn text_of(rng: &mut Rng) -> Box<str> {
    match rng.below(4) {
        0 => format!("10.{}.{}.", rng.below(4), rng.below(4)).into(),
        1 => (1 + rng.below(4)).to_string().into(),
        _ => name(rng).into(),
    }
}

fn name(rng: &mut Rng) -> String {
    let labels: Vec<_> =
        (0..1 + rng.below(3)).map(|_| LABELS[rng.below(LABELS.len() as u64) as usize]).collect();
    labels.join(".")
}

fn domain(rng: &mut Rng) -> Box<str> {
    match (rng.below(6), name(rng)) {
        (0, _) => "*".into(),
        (1..4, suffix) if !suffix.is_empty() => format!("*.{suffix}").into(),
        (_, name) if !name.is_empty() => name.into(),
        _ => "a".into(),
    }
}

fn predicate(rng: &mut Rng, depth: u64) -> Predicate {
    let many = |rng: &mut Rng| (0..2).map(|_| predicate(rng, depth.saturating_sub(1))).collect();
    match rng.below(if depth == 0 { 3 } else { 6 }) {
        0 => {
            let ranges = (0..=rng.below(3)).map(|_| range(rng)).collect();
            Predicate::Address(input(rng), ranges)
        }
        3 => Predicate::AnyOf(many(rng)),
        4 => Predicate::All(many(rng)),
        5 => Predicate::Not(Box::new(predicate(rng, depth - 1))),
        _ => {
            let text = text_of(rng);
            let pattern = match rng.below(4) {
                0 => StringPattern::Exact(text),
                1 => StringPattern::Prefix(text),
                2 => StringPattern::Suffix(text),
                _ => StringPattern::Contains(text),
            };
            Predicate::Single(input(rng), StringMatcher { pattern, ignore_case: false })
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn compiled_matchers_say_what_the_configuration_says() {
        let names: [&[u8]; 6] = [b"", b"a", b"a.b", b"b.a.b", b"ab.ab.a", b".b"];
        for seed in 0..4_000u64 {
            for (at, name) in names.iter().enumerate() {
                let mut input = seed.to_le_bytes().to_vec();
                input.extend_from_slice(&(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> at).to_le_bytes());
                input.extend_from_slice(name);
                super::matcher(&input);
            }
        }
    }
}
