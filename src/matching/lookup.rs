//! Where texts and addresses are looked up: whole texts, prefixes, ranges, names with wildcards.
//!
//! Where several fit, they are linked from the most specific on when they are compiled, so that going on from one that
//! leads nowhere needs no second look at the text.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::address::CidrRange;

/// Texts and what each stands for, sorted.
#[derive(Debug)]
pub(super) struct Sorted<T>(Box<[(Box<[u8]>, T)]>);

/// Texts, of which the longest that another begins with is looked up.
#[derive(Debug)]
pub(super) struct Prefixes<T> {
    texts: Sorted<T>,
    /// The longest other text that each begins with.
    shorter: Box<[Option<u32>]>,
}

/// Values in chains, from the most specific to the least; chains join. A value may be in a chain several times.
#[derive(Debug)]
struct Chains<T> {
    values: Box<[T]>,
    /// A place among the values, and the next link.
    links: Box<[(u32, Option<u32>)]>,
}

/// Ranges of addresses.
#[derive(Debug)]
pub(super) struct Ranges<T> {
    chains: Chains<T>,
    /// The link where each range's chain begins.
    first: HashMap<CidrRange, u32>,
    /// The lengths that occur, the longest first.
    lengths: Box<[u8]>,
}

/// Names of servers.
#[derive(Debug)]
pub(super) struct Names<T> {
    chains: Chains<T>,
    /// Places of the values of whole names.
    whole: Sorted<u32>,
    /// The links of what wildcards end with, behind their dot.
    wildcards: Sorted<u32>,
    /// The link of `*`.
    any: Option<u32>,
}

/// What fits a name: the whole name's value, and the link that its chain begins with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    whole: Option<u32>,
    first: Option<u32>,
}

fn place(index: usize) -> u32 {
    // Configuration is smaller (`limits::MATCHER_ENTRIES_MAX`).
    u32::try_from(index).unwrap_or(u32::MAX)
}

// === impl Sorted ===

impl<T> Sorted<T> {
    /// Each text once.
    pub(super) fn new(mut entries: Vec<(Box<[u8]>, T)>) -> Self {
        entries.sort_by(|one, other| one.0.cmp(&other.0));
        Self(entries.into())
    }

    fn place(&self, text: &[u8]) -> Option<usize> {
        self.0.binary_search_by(|entry| (*entry.0).cmp(text)).ok()
    }

    pub(super) fn get(&self, text: &[u8]) -> Option<&T> {
        self.value(self.place(text)?)
    }

    fn value(&self, place: usize) -> Option<&T> {
        self.0.get(place).map(|(_, value)| value)
    }
}

// === impl Prefixes ===

impl<T> Prefixes<T> {
    /// Each text once.
    pub(super) fn new(entries: Vec<(Box<[u8]>, T)>) -> Self {
        let texts = Sorted::new(entries);
        let mut shorter: Vec<Option<u32>> = Vec::with_capacity(texts.0.len());
        for (index, (text, _)) in texts.0.iter().enumerate() {
            // What it begins with is sorted before it, and so is all that lies between, which begins with that, too.
            let before = index.checked_sub(1).map(place);
            shorter.push(longest(before, &shorter, &texts.0, text));
        }
        Self { texts, shorter: shorter.into() }
    }

    /// The place of the longest that `text` begins with.
    pub(super) fn find(&self, text: &[u8]) -> Option<u32> {
        let after = self.texts.0.partition_point(|entry| &*entry.0 <= text);
        longest(after.checked_sub(1).map(place), &self.shorter, &self.texts.0, text)
    }

    /// The values from one place on, the longest first.
    pub(super) fn from(&self, first: Option<u32>) -> impl Iterator<Item = &T> {
        let next = |at: &u32| self.shorter.get(*at as usize).copied().flatten();
        std::iter::successors(first, next).filter_map(|at| self.texts.value(at as usize))
    }
}

/// From `at` on to what it begins with: the first that `text` begins with.
fn longest<T>(
    mut at: Option<u32>,
    shorter: &[Option<u32>],
    texts: &[(Box<[u8]>, T)],
    text: &[u8],
) -> Option<u32> {
    while let Some(index) = at {
        let (prefix, _) = texts.get(index as usize)?;
        if text.starts_with(prefix) {
            return at;
        }
        at = shorter.get(index as usize).copied().flatten();
    }
    None
}

// === impl Chains ===

impl<T> Chains<T> {
    /// The values from a link on, each once: one that led nowhere does so again.
    fn from(&self, first: Option<u32>) -> impl Iterator<Item = (u32, &T)> {
        let links = move || {
            std::iter::successors(first, |at| self.links.get(*at as usize)?.1)
                .filter_map(|at| Some((at, self.links.get(at as usize)?.0)))
        };
        links()
            .filter(move |(at, value)| {
                links().take_while(|(earlier, _)| earlier != at).all(|(_, other)| other != *value)
            })
            .filter_map(|(_, value)| Some((value, self.values.get(value as usize)?)))
    }
}

// === impl Ranges ===

impl<T> Ranges<T> {
    /// Ranges and their values, in the order of the configuration: of those that are equal the first goes first.
    pub(super) fn new(entries: Vec<(Vec<CidrRange>, T)>) -> Self {
        let mut ranges: Vec<(CidrRange, u32)> = Vec::new();
        let mut values = Vec::with_capacity(entries.len());
        for (index, (own, value)) in entries.into_iter().enumerate() {
            ranges.extend(own.into_iter().map(|range| (range, place(index))));
            values.push(value);
        }
        // The shortest first, so that what a range lies in is there before it; stable, so that equal ones stay in order.
        ranges.sort_by_key(|(range, _)| range.prefix_len());
        let mut lengths: Vec<u8> = ranges.iter().map(|(range, _)| range.prefix_len()).collect();
        lengths.dedup();
        lengths.reverse();
        let mut groups: HashMap<CidrRange, Vec<u32>> = HashMap::new();
        let mut order = Vec::new();
        for (range, value) in ranges {
            let group = groups.entry(range).or_default();
            if group.is_empty() {
                order.push(range);
            }
            group.push(value);
        }
        let (mut first, mut links) = (HashMap::new(), Vec::new());
        for range in order {
            let mut next = find(&first, &lengths, range.network(), range.prefix_len());
            for value in groups.get(&range).into_iter().flatten().rev() {
                links.push((*value, next));
                next = Some(place(links.len() - 1));
            }
            first.extend(next.map(|link| (range, link)));
        }
        let chains = Chains { values: values.into(), links: links.into() };
        Self { chains, first, lengths: lengths.into() }
    }

    /// The values of the ranges that contain an address, the smallest first.
    pub(super) fn find(&self, address: IpAddr) -> impl Iterator<Item = &T> {
        let first = find(&self.first, &self.lengths, address, u8::MAX);
        self.chains.from(first).map(|(_, value)| value)
    }
}

/// The first link of the smallest range around an address of at most this length; a range of it itself is not there yet.
fn find(first: &HashMap<CidrRange, u32>, lengths: &[u8], address: IpAddr, length_max: u8) -> Option<u32> {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let lengths = lengths.iter().filter(|length| **length <= longest.min(length_max));
    lengths
        .map(|length| CidrRange::new(address, u32::from(*length)))
        .find_map(|range| first.get(&range).copied())
}

// === impl Names ===

impl<T> Names<T> {
    /// Names, wildcards and `*`, each once.
    pub(super) fn new<'a>(entries: Vec<(impl Iterator<Item = &'a str>, T)>) -> Self {
        let (mut whole, mut wildcards, mut any) = (Vec::new(), Vec::new(), None);
        let mut values = Vec::with_capacity(entries.len());
        for (index, (names, value)) in entries.into_iter().enumerate() {
            values.push(value);
            for name in names {
                if name == "*" {
                    any = Some(place(index));
                } else if let Some(suffix) = name.strip_prefix("*.") {
                    wildcards.push((Box::from(suffix.as_bytes()), place(index)));
                } else {
                    whole.push((Box::from(name.as_bytes()), place(index)));
                }
            }
        }
        // `*` ends all chains.
        let mut links: Vec<(u32, Option<u32>)> = any.iter().map(|value| (*value, None)).collect();
        let any = (!links.is_empty()).then_some(0);
        let wildcards = Sorted::new(wildcards);
        let before = links.len();
        let link = |at: usize| place(before + at);
        links.extend(wildcards.0.iter().map(|(suffix, value)| {
            (*value, suffixes(suffix).find_map(|shorter| wildcards.place(shorter)).map(link).or(any))
        }));
        let wildcards = wildcards.0.into_iter().enumerate().map(|(at, (suffix, _))| (suffix, link(at)));
        let wildcards = Sorted(wildcards.collect());
        let chains = Chains { values: values.into(), links: links.into() };
        Self { chains, whole: Sorted::new(whole), wildcards, any }
    }

    /// What fits a name.
    pub(super) fn find(&self, name: &[u8]) -> Named {
        let wildcard = suffixes(name).find_map(|suffix| self.wildcards.get(suffix).copied());
        Named { whole: self.whole.get(name).copied(), first: wildcard.or(self.any) }
    }

    /// The values of what fits: the whole name, then wildcards, the longest first, then `*`.
    pub(super) fn from(&self, named: Named) -> impl Iterator<Item = &T> {
        let whole = named.whole.and_then(|value| self.chains.values.get(value as usize));
        let rest = self.chains.from(named.first).filter(move |(value, _)| Some(*value) != named.whole);
        whole.into_iter().chain(rest.map(|(_, value)| value))
    }
}

/// What a name ends with behind each of its dots, the longest first.
fn suffixes(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    memchr::memchr_iter(b'.', name).filter_map(|at| name.get(at + 1..))
}
